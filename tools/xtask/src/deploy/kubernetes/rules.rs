//! Rules for the manifests beyond their form: nobody is root, what refers to something finds it, standbys are protected.

use serde_json::Value;

use super::super::compose::hosts_and_ports;
use super::super::images::Wanted;
use super::{KUSTOMIZATION, Manifests, Pod, SECRETS, variables};

/// What is wrong with the manifests.
pub(crate) fn check(manifests: &Manifests, images: &Wanted) -> Vec<String> {
    let mut findings = resources(manifests);
    for pod in manifests.pods() {
        let mut told: Vec<String> = pod.container()["image"].as_str().and_then(|image| images.check(image)).into_iter().collect();
        told.extend(confined(&pod));
        told.extend(probes(&pod));
        told.extend(addresses(manifests, &pod));
        findings.extend(told.into_iter().map(|finding| format!("{}: {finding}", pod.name)));
    }
    findings.extend(services(manifests));
    findings.extend(selectors(manifests));
    findings.extend(standbys(manifests));
    findings.into_iter().map(|finding| format!("deploy/k8s: {finding}")).collect()
}

/// The kustomization names every file but the example of the secrets.
fn resources(manifests: &Manifests) -> Vec<String> {
    let named: Vec<&str> =
        manifests.kustomization["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut files: Vec<&str> = manifests.objects.iter().map(|(file, _)| file.as_str()).filter(|file| *file != SECRETS).collect();
    files.dedup();
    let unnamed = files.iter().filter(|file| !named.contains(file)).map(|file| format!("{KUSTOMIZATION} does not name {file}"));
    let absent = named.iter().filter(|name| !files.contains(name)).map(|name| format!("{KUSTOMIZATION}: {name} is not there"));
    unnamed.chain(absent).collect()
}

fn confined(pod: &Pod<'_>) -> Vec<String> {
    let (outer, inner) = (&pod.spec["securityContext"], &pod.container()["securityContext"]);
    let resources = &pod.container()["resources"];
    let rules = [
        (pod.spec["containers"].as_array().is_none_or(|all| all.len() != 1), "it must have one container"),
        (outer["runAsNonRoot"] != true || outer["runAsUser"].as_u64().is_none_or(|user| user == 0), "it may run as root"),
        (outer["seccompProfile"]["type"] != "RuntimeDefault", "it has no seccomp profile"),
        (inner["allowPrivilegeEscalation"] != false, "it may gain privileges"),
        (inner["readOnlyRootFilesystem"] != true, "its files can be written"),
        (inner["capabilities"]["drop"] != serde_json::json!(["ALL"]), "it has capabilities"),
        (pod.spec["automountServiceAccountToken"] != false, "it is given a token of the cluster"),
        (pod.spec["enableServiceLinks"] != false, "it is given variables that nobody named"),
        (resources["requests"]["cpu"].is_null() || resources["requests"]["memory"].is_null(), "it does not say what it needs"),
        (resources["limits"]["memory"].is_null(), "its memory has no limit"),
    ];
    rules.into_iter().filter(|(broken, _)| *broken).map(|(_, told)| told.to_owned()).collect()
}

/// Everybody who stays is asked for its health, at a port that it tells of: `ctl` ends.
fn probes(pod: &Pod<'_>) -> Vec<String> {
    if pod.command().first().is_some_and(|program| program == "ctl") {
        return Vec::new();
    }
    let ports = pod.ports();
    let told = ["startupProbe", "readinessProbe", "livenessProbe"].into_iter().filter_map(|name| {
        let probe = &pod.container()[name];
        let port = ["httpGet", "tcpSocket"].into_iter().find_map(|way| probe[way]["port"].as_str());
        match port {
            Some(port) if ports.contains_key(port) => None,
            None if probe["exec"].is_object() => None,
            _ => Some(format!("{name} is missing, or asks at a port that is not told of")),
        }
    });
    told.collect()
}

/// Each `service:port` in a variable is a Service with this port; each `0.0.0.0:port` is told of as a container's port.
fn addresses(manifests: &Manifests, pod: &Pod<'_>) -> Vec<String> {
    // What is missing is told where the variables are checked.
    let variables = variables(manifests, pod).unwrap_or_default();
    let ports = pod.ports();
    let mut findings = Vec::new();
    for (name, value) in variables.iter().filter(|(_, value)| !value.contains('\n')) {
        for (host, port) in hosts_and_ports(value) {
            if let Some(service) = manifests.get("Service", &Value::from(host.as_str())) {
                let mut offered = service["spec"]["ports"].as_array().into_iter().flatten();
                if !offered.any(|offered| offered["port"] == port) {
                    findings.push(format!("{name}: the Service {host} has no port {port}"));
                }
            } else if host == "0.0.0.0" && !is_listened(&ports, pod, name, port) {
                findings.push(format!("{name}: the container does not tell of its port {port}"));
            }
        }
    }
    findings
}

/// The gateway answers for its health where it answers for everything else: it has no health server of its own.
fn is_listened(ports: &std::collections::BTreeMap<String, u64>, pod: &Pod<'_>, name: &str, port: u16) -> bool {
    let unused = name == "BUSBAR_HEALTH__LISTEN" && pod.command().get(1).is_some_and(|role| role == "gateway");
    unused || ports.values().any(|told| *told == u64::from(port))
}

/// A Service leads to pods that have the port.
fn services(manifests: &Manifests) -> Vec<String> {
    let mut findings = Vec::new();
    for service in manifests.of("Service") {
        let name = &service["metadata"]["name"];
        let pods: Vec<Pod<'_>> = manifests.pods().filter(|pod| matches(&service["spec"]["selector"], pod.labels)).collect();
        if pods.is_empty() {
            findings.push(format!("the Service {name} leads to no pod"));
        }
        for port in service["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["targetPort"]) {
            if pods.iter().any(|pod| port.as_str().is_none_or(|port| !pod.ports().contains_key(port))) {
                findings.push(format!("the Service {name} leads to a port {port} that its pods do not tell of"));
            }
        }
    }
    findings
}

/// Workloads, budgets and policies select pods that are there.
fn selectors(manifests: &Manifests) -> Vec<String> {
    let of_budgets = manifests.of("PodDisruptionBudget").map(|budget| (budget, &budget["spec"]["selector"]));
    let of_policies = manifests.of("NetworkPolicy").flat_map(|policy| {
        let sides = ["ingress", "egress"].into_iter().flat_map(|side| policy["spec"][side].as_array().into_iter().flatten());
        let peers = sides.flat_map(|rule| ["from", "to"].into_iter().flat_map(|way| rule[way].as_array().into_iter().flatten()));
        let selectors = peers.map(|peer| &peer["podSelector"]).chain([&policy["spec"]["podSelector"]]);
        selectors.map(move |selector| (policy, selector))
    });
    let mut findings = Vec::new();
    for (object, selector) in of_budgets.chain(of_policies) {
        let labels = &selector["matchLabels"];
        if labels.is_object() && !manifests.pods().any(|pod| matches(labels, pod.labels)) {
            findings.push(format!("{} {} selects {labels}, which no pod has", object["kind"], object["metadata"]["name"]));
        }
    }
    for workload in manifests.of("Deployment").chain(manifests.of("StatefulSet")) {
        if !matches(&workload["spec"]["selector"]["matchLabels"], &workload["spec"]["template"]["metadata"]["labels"]) {
            findings.push(format!("{} does not select its own pods", workload["metadata"]["name"]));
        }
    }
    findings
}

/// Every role has a standby, and a budget that keeps one of them there. Workers finish what they hold, and need none.
fn standbys(manifests: &Manifests) -> Vec<String> {
    let mut findings = Vec::new();
    for workload in manifests.of("Deployment") {
        let (name, labels) = (&workload["metadata"]["name"], &workload["spec"]["template"]["metadata"]["labels"]);
        if workload["spec"]["template"]["spec"]["containers"][0]["command"][0] == "worker" {
            continue;
        }
        if workload["spec"]["replicas"].as_u64().is_none_or(|replicas| replicas < 2) {
            findings.push(format!("{name} has no standby"));
        }
        if !manifests.of("PodDisruptionBudget").any(|budget| matches(&budget["spec"]["selector"]["matchLabels"], labels)) {
            findings.push(format!("{name} has no PodDisruptionBudget"));
        }
    }
    findings
}

/// Whether the labels have everything that the selector wants.
fn matches(selector: &Value, labels: &Value) -> bool {
    let Some(wanted) = selector.as_object() else { return false };
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, manifests};
    use super::*;

    fn told(from: &str, to: &str) -> Vec<String> {
        assert!(GOOD.contains(from), "{from}");
        check(&manifests(&GOOD.replacen(from, to, 1)), &Wanted { nats: "2.15.1".into(), ours: "0.1.0".into() })
    }

    #[test]
    fn good_manifests_break_nothing_and_each_wrong_line_is_told() {
        assert_eq!(told("nats", "nats"), Vec::<String>::new());
        for (from, to, expected) in [
            ("busbar:0.1.0", "busbar", "not pinned"),
            ("runAsUser: 65532", "runAsUser: 0", "root"),
            ("runAsNonRoot: true, runAsUser: 1000", "runAsUser: 1000", "root"),
            ("type: RuntimeDefault", "type: Unconfined", "seccomp"),
            ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "privileges"),
            ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "written"),
            ("{drop: [ALL]}", "{add: [ALL]}", "capabilities"),
            ("automountServiceAccountToken: false", "hostNetwork: false", "token"),
            ("enableServiceLinks: false", "hostNetwork: false", "nobody named"),
            ("requests: {cpu: 1, ", "requests: {", "what it needs"),
            ("limits: {memory", "limits: {cpu", "no limit"),
            ("startupProbe", "stopProbe", "startupProbe"),
            ("path: /readyz, port: health", "path: /readyz, port: other", "readinessProbe"),
            ("nats://nats:4222", "nats://nats:4223", "no port 4223"),
            ("targetPort: nats", "targetPort: other", "do not tell of"),
            ("selector: {app: nats}", "selector: {app: bus}", "leads to no pod"),
            ("podSelector: {matchLabels: {app: nats}}", "podSelector: {matchLabels: {app: bus}}", "no pod has"),
            ("from: [{podSelector: {matchLabels: {app: scheduler", "from: [{podSelector: {matchLabels: {app: bus", "no pod has"),
            ("replicas: 2", "replicas: 1", "no standby"),
            ("selector: {matchLabels: {app: nats}}", "selector: {matchLabels: {app: bus}}", "its own pods"),
        ] {
            let told = told(from, to);
            assert!(told.len() == 1 && told[0].contains(expected), "{from} {to}: {told:?}");
        }
    }

    #[test]
    fn files_that_are_not_named_are_told() {
        let mut manifests = manifests(GOOD);
        manifests.add("other.yaml", "kind: ConfigMap").expect("good");
        manifests.add(SECRETS, "kind: Secret").expect("good");
        let told = resources(&manifests);
        assert!(told.len() == 1 && told[0].contains("other.yaml"), "{told:?}");
    }
}
