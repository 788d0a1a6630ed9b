//! The manifests in `deploy/k8s`: what they say, as far as it is looked at here.

pub(crate) mod rules;
pub(crate) mod schema;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{DeployError, read};
use crate::compose::OURS;

const KUSTOMIZATION: &str = "kustomization.yaml";
/// Not among the resources: everybody makes his own.
const SECRETS: &str = "secret.example.yaml";

/// Every object, with the file that it stands in.
pub(crate) struct Manifests {
    objects: Vec<(String, Value)>,
    kustomization: Value,
}

/// What a workload makes.
pub(crate) struct Pod<'a> {
    /// The name of the workload.
    pub(crate) name: String,
    pub(crate) labels: &'a Value,
    pub(crate) spec: &'a Value,
}

impl Manifests {
    pub(crate) fn read(folder: &Path) -> Result<Self, DeployError> {
        let mut manifests = Self { objects: Vec::new(), kustomization: Value::Null };
        let list = folder.read_dir().map_err(|source| DeployError::File { path: folder.to_owned(), source })?;
        let mut files: Vec<String> = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        files.sort();
        for name in files.into_iter().filter(|name| name.ends_with(".yaml")) {
            let path = folder.join(&name);
            let syntax = |detail: String| DeployError::Syntax { path: path.clone(), detail };
            manifests.add(&name, &read(&path)?).map_err(syntax)?;
        }
        Ok(manifests)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), String> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
        for object in objects {
            match name {
                KUSTOMIZATION => self.kustomization = object,
                _ => self.objects.push((name.to_owned(), object)),
            }
        }
        Ok(())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.objects.len()
    }

    /// The objects of a kind.
    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().map(|(_, object)| object).filter(move |object| object["kind"] == kind)
    }

    /// The object of a kind with a name.
    fn get<'a>(&'a self, kind: &'a str, name: &'a Value) -> Option<&'a Value> {
        self.of(kind).find(|object| object["metadata"]["name"] == *name)
    }

    /// What the workloads make.
    pub(crate) fn pods(&self) -> impl Iterator<Item = Pod<'_>> {
        self.of("Deployment").chain(self.of("StatefulSet")).chain(self.of("Job")).map(|workload| {
            let template = &workload["spec"]["template"];
            let name = workload["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Pod { name, labels: &template["metadata"]["labels"], spec: &template["spec"] }
        })
    }
}

impl Pod<'_> {
    /// Its container; there is one in each.
    pub(crate) fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// Program and arguments.
    pub(crate) fn command(&self) -> Vec<String> {
        let words = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let all = [words(&self.container()["command"]), words(&self.container()["args"])].concat();
        all.iter().map(|word| word.as_str().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.command().first().is_some_and(|program| OURS.contains(&program.as_str()))
    }

    /// The ports that it tells of: names and numbers.
    fn ports(&self) -> BTreeMap<String, u64> {
        let ports = self.container()["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| Some((port["name"].as_str()?.to_owned(), port["containerPort"].as_u64()?))).collect()
    }
}

/// The environment that a pod's container gets; or what it refers to and is not there.
pub(crate) fn variables(manifests: &Manifests, pod: &Pod<'_>) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut variables = BTreeMap::new();
    let mut missing = Vec::new();
    for source in pod.container()["envFrom"].as_array().into_iter().flatten() {
        for (kind, key) in [("ConfigMap", "configMapRef"), ("Secret", "secretRef")] {
            let name = &source[key]["name"];
            match data(manifests, kind, name) {
                _ if name.is_null() => {}
                Some(data) => variables.extend(data),
                None => missing.push(format!("there is no {kind} {name}")),
            }
        }
    }
    for entry in pod.container()["env"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let reference = &entry["valueFrom"]["secretKeyRef"];
        let value = match entry["value"].as_str() {
            Some(value) => Some(expanded(value, &variables)),
            None => data(manifests, "Secret", &reference["name"])
                .and_then(|data| data.get(reference["key"].as_str().unwrap_or_default()).cloned()),
        };
        match value {
            Some(value) => drop(variables.insert(name, value)),
            None => missing.push(format!("{name}: there is no {reference}")),
        }
    }
    if missing.is_empty() { Ok(variables) } else { Err(missing) }
}

fn data(manifests: &Manifests, kind: &str, name: &Value) -> Option<BTreeMap<String, String>> {
    let object = manifests.get(kind, name)?;
    let data = if kind == "Secret" { &object["stringData"] } else { &object["data"] };
    Some(data.as_object()?.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect())
}

/// Fills in each `$(NAME)` of an earlier variable.
fn expanded(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server, a role, and what belongs to them: good in every respect.
    pub(crate) const GOOD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: nats}
spec: {selector: {app: nats}, ports: [{name: nats, port: 4222, targetPort: nats}]}
---
apiVersion: v1
kind: Secret
metadata: {name: servers}
stringData: {NATS_URL: "nats://nats:4222", password: geheim}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: scheduler}
spec:
  replicas: 2
  selector: {matchLabels: {app: scheduler}}
  template:
    metadata: {labels: {app: scheduler}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: scheduler
          image: busbar:0.1.0
          command: [busbar]
          args: [scheduler]
          envFrom: [{secretRef: {name: servers}}]
          env:
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: servers, key: password}}}
            - {name: URL, value: "redis://:$(PASSWORD)@nats:4222"}
          ports: [{name: health, containerPort: 9090}]
          startupProbe: {httpGet: {path: /healthz, port: health}}
          readinessProbe: {httpGet: {path: /readyz, port: health}}
          livenessProbe: {httpGet: {path: /healthz, port: health}}
          resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: nats}
spec:
  replicas: 1
  selector: {matchLabels: {app: nats}}
  template:
    metadata: {labels: {app: nats}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: nats
          image: nats:2.15.1
          command: [nats-server]
          ports: [{name: nats, containerPort: 4222}]
          startupProbe: {tcpSocket: {port: nats}}
          readinessProbe: {tcpSocket: {port: nats}}
          livenessProbe: {tcpSocket: {port: nats}}
          resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: scheduler}
spec: {minAvailable: 1, selector: {matchLabels: {app: scheduler}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nats}
spec:
  podSelector: {matchLabels: {app: nats}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: scheduler}}}], ports: [{protocol: TCP, port: nats}]}]
"#;

    pub(crate) fn manifests(text: &str) -> Manifests {
        let mut manifests = Manifests { objects: Vec::new(), kustomization: Value::Null };
        manifests.add("all.yaml", text).expect("good");
        manifests.add(KUSTOMIZATION, "resources: [all.yaml]").expect("good");
        manifests
    }

    #[test]
    fn the_environment_is_put_together_as_kubernetes_does() {
        let good = manifests(GOOD);
        let pod = good.pods().next().expect("the scheduler");
        let variables = variables(&good, &pod).expect("all there");
        assert_eq!(
            (variables["NATS_URL"].as_str(), variables["URL"].as_str()),
            ("nats://nats:4222", "redis://:geheim@nats:4222")
        );
        assert_eq!((pod.command(), pod.is_ours()), (vec!["busbar".to_owned(), "scheduler".to_owned()], true));
    }

    #[test]
    fn what_is_referred_to_must_be_there() {
        for (from, to) in [("key: password", "key: other"), ("secretRef: {name: servers", "secretRef: {name: other")] {
            let bad = manifests(&GOOD.replace(from, to));
            let pod = bad.pods().next().expect("the scheduler");
            assert_eq!(variables(&bad, &pod).expect_err("missing").len(), 1, "{from}");
        }
    }
}
