//! `docker-compose.yml` as `docker-compose config` prints it: variables filled in, anchors merged. Only what is looked at here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// The programs of our image.
pub(crate) const OURS: &[&str] = &["busbar", "worker", "ctl"];

/// The services by name.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Compose {
    pub(crate) services: BTreeMap<String, Service>,
}

/// One service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, Value>,
    pub(crate) depends_on: BTreeMap<String, Dependency>,
    pub(crate) healthcheck: Option<HealthCheck>,
    pub(crate) volumes: Vec<Mount>,
    pub(crate) ports: Vec<Value>,
    pub(crate) user: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) security_opt: Vec<String>,
    pub(crate) restart: Option<String>,
    pub(crate) deploy: Deploy,
}

/// How many containers a service has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Deploy {
    pub(crate) replicas: u16,
}

impl Default for Deploy {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

/// What another service must be before this one starts.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Condition {
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

/// How a container is asked whether it is well.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HealthCheck {
    pub(crate) test: Vec<String>,
}

/// A volume or a folder of the host, where the container sees it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Mount {
    #[serde(rename = "type")]
    pub(crate) kind: MountKind,
    pub(crate) source: String,
    pub(crate) target: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountKind {
    Volume,
    Bind,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComposeError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {detail}", path.display())]
    Unknown { path: PathBuf, detail: String },
    #[error("{user} waits for {used}, which is no service")]
    NoDependency { user: String, used: String },
    #[error("services wait for one another: {0:?}")]
    Circle(Vec<String>),
}

impl Compose {
    /// Reads what `docker-compose config` printed.
    pub(crate) fn read(path: &Path) -> Result<Self, ComposeError> {
        let text = std::fs::read_to_string(path).map_err(|source| ComposeError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|detail| ComposeError::Unknown { path: path.to_owned(), detail })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// The services in an order in which each comes after those that it waits for.
    pub(crate) fn in_order(&self) -> Result<Vec<&str>, ComposeError> {
        let mut ordered: Vec<&str> = Vec::new();
        let mut left: BTreeSet<&str> = self.services.keys().map(String::as_str).collect();
        while !left.is_empty() {
            let mut ready = Vec::new();
            for name in &left {
                let needs = self.services[*name].depends_on.keys();
                if let Some(used) = needs.clone().find(|used| !self.services.contains_key(*used)) {
                    return Err(ComposeError::NoDependency { user: (*name).to_owned(), used: used.clone() });
                }
                if needs.clone().all(|used| ordered.contains(&used.as_str())) {
                    ready.push(*name);
                }
            }
            if ready.is_empty() {
                return Err(ComposeError::Circle(left.into_iter().map(str::to_owned).collect()));
            }
            left.retain(|name| !ready.contains(name));
            ordered.extend(ready);
        }
        Ok(ordered)
    }
}

impl Service {
    /// The program that it runs.
    pub(crate) fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Whether it runs a program of our image.
    pub(crate) fn is_ours(&self) -> bool {
        OURS.contains(&self.program())
    }

    /// Whether it prepares something for others, and ends.
    pub(crate) fn is_preparation(&self) -> bool {
        self.program() == "chown"
    }

    /// Whether it does something once everybody is there, and ends.
    pub(crate) fn is_errand(&self) -> bool {
        self.program() == "ctl"
    }

    /// The environment as the container gets it.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        self.environment.iter().filter_map(|(name, value)| Some((name.clone(), text_of(value)?))).collect()
    }

    /// The ports that are published, as the container knows them.
    pub(crate) fn published(&self) -> Vec<u16> {
        self.ports.iter().filter_map(published_port).collect()
    }
}

/// A scalar as text; nothing for what is no scalar, or null.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The container's port in `127.0.0.1:8081:8081/tcp`, or in the long form.
fn published_port(port: &Value) -> Option<u16> {
    let text = match port.get("target") {
        Some(target) => text_of(target)?,
        None => text_of(port)?,
    };
    text.split('/').next()?.rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Compose {
        Compose::parse(text).expect("good")
    }

    #[test]
    fn both_forms_of_ports_and_values_are_read() {
        let compose = parsed(
            "
services:
  a:
    image: x:1
    command: [busbar, gateway]
    environment: {A: '1', B: 2, C: true, D: null}
    ports: ['127.0.0.1:8000:8081/tcp', {target: 8080, published: '1'}]
    volumes: [{type: bind, source: /etc, target: /c, bind: {create_host_path: true}}]
    depends_on: {b: {condition: service_healthy, required: true}}
  b: {image: y:1, command: [nats-server], deploy: {replicas: 2}}
",
        );
        let a = &compose.services["a"];
        assert_eq!(
            a.variables().into_iter().collect::<Vec<_>>(),
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned()), ("C".to_owned(), "true".to_owned()),]
        );
        assert_eq!((a.published(), a.deploy.replicas, a.is_ours()), (vec![8081, 8080], 1, true));
        assert_eq!(compose.in_order().expect("no circle"), ["b", "a"]);
        assert!(!compose.services["b"].is_ours() && compose.services["b"].deploy.replicas == 2);
    }

    #[test]
    fn circles_and_strangers_are_told() {
        let needs = |a: &str, b: &str| {
            parsed(&format!(
                "services: {{a: {{depends_on: {{{a}: {{condition: service_started}}}}}}, b: {{depends_on: {{{b}: {{condition: service_healthy}}}}}}}}"
            ))
        };
        assert!(matches!(needs("b", "a").in_order(), Err(ComposeError::Circle(_))));
        assert!(matches!(needs("b", "c").in_order(), Err(ComposeError::NoDependency { .. })));
    }
}
