//! From where containers see things to where they are on this machine: addresses of services, ports, folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One container of a service; the first is 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) service: String,
    pub(crate) number: u16,
}

impl Instance {
    /// `scheduler-2`, as compose calls it.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.service, self.number)
    }
}

/// Which port of this machine stands for which port of a container.
#[derive(Debug)]
pub(crate) struct Ports<F> {
    given: BTreeMap<(Instance, u16), u16>,
    free: F,
}

impl<F: FnMut() -> u16> Ports<F> {
    /// `free` gives a port that nobody uses.
    pub(crate) const fn new(free: F) -> Self {
        Self { given: BTreeMap::new(), free }
    }

    pub(crate) fn of(&mut self, instance: &Instance, port: u16) -> u16 {
        *self.given.entry((instance.clone(), port)).or_insert_with(&mut self.free)
    }
}

/// What an instance sees, and where that is here.
pub(crate) struct Mapping<'a, F> {
    pub(crate) instance: &'a Instance,
    pub(crate) services: &'a [String],
    pub(crate) ports: &'a mut Ports<F>,
    /// Folders of the container, and of this machine.
    pub(crate) folders: Vec<(PathBuf, PathBuf)>,
}

/// Arguments that are followed by the number of a port.
const PORT_FLAGS: &[&str] = &["--port", "-p", "--http_port", "-m"];
/// Every address of a container.
const ANYWHERE: &str = "0.0.0.0";
const HERE: &str = "127.0.0.1";

impl<F: FnMut() -> u16> Mapping<'_, F> {
    /// A command line.
    pub(crate) fn arguments(&mut self, arguments: &[String]) -> Vec<String> {
        let mut mapped: Vec<String> = Vec::new();
        for (place, argument) in arguments.iter().enumerate() {
            let is_port = place > 0 && PORT_FLAGS.contains(&arguments[place - 1].as_str());
            let port = argument.parse().ok().filter(|_| is_port);
            mapped.push(match port {
                Some(port) => self.ports.of(self.instance, port).to_string(),
                None => self.text(argument),
            });
        }
        mapped
    }

    /// A value of the environment, an address, a URL, a path.
    pub(crate) fn text(&mut self, text: &str) -> String {
        if text == ANYWHERE {
            return HERE.to_owned();
        }
        let mut text = self.addresses(text);
        for (there, here) in &self.folders {
            text = with_folder(&text, there, here);
        }
        text
    }

    /// Replaces each `host:port` whose host is the container itself or a service.
    fn addresses(&mut self, text: &str) -> String {
        let mut mapped = String::new();
        let mut rest = text;
        while let Some(colon) = rest.find(':') {
            let (before, after) = (&rest[..colon], &rest[colon + 1..]);
            let host = &before[before.rfind(|c: char| !is_of_host(c)).map_or(0, |end| end + 1)..];
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let target = after[..digits].parse().ok().and_then(|port| Some((self.container(host)?, port)));
            match target {
                Some((instance, port)) => {
                    mapped += &before[..before.len() - host.len()];
                    mapped += &format!("{HERE}:{}", self.ports.of(&instance, port));
                    rest = &after[digits..];
                }
                None => {
                    mapped += &rest[..=colon];
                    rest = after;
                }
            }
        }
        mapped + rest
    }

    /// The container behind a host's name, the first of a service.
    fn container(&self, host: &str) -> Option<Instance> {
        if matches!(host, ANYWHERE | HERE | "localhost") {
            return Some(self.instance.clone());
        }
        let service = self.services.iter().find(|service| *service == host)?;
        Some(Instance { service: service.clone(), number: 1 })
    }
}

const fn is_of_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// Replaces a folder at the beginning of the text, or of the path of a `file://` URL.
fn with_folder(text: &str, there: &Path, here: &Path) -> String {
    let (scheme, path) = match text.strip_prefix("file://") {
        Some(path) => ("file://", path),
        None => ("", text),
    };
    let Ok(below) = Path::new(path).strip_prefix(there) else { return text.to_owned() };
    let here = if below.as_os_str().is_empty() { here.to_owned() } else { here.join(below) };
    format!("{scheme}{}", here.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(check: impl FnOnce(&mut Mapping<'_, &mut dyn FnMut() -> u16>)) {
        let mut next = 20_000;
        let free: &mut dyn FnMut() -> u16 = &mut || {
            next += 1;
            next
        };
        let mut ports = Ports::new(free);
        let services = ["nats", "safety-kernel"].map(str::to_owned);
        let instance = Instance { service: "safety-kernel".into(), number: 2 };
        let folders = vec![("/data".into(), "/tmp/x/data".into()), ("/etc/busbar".into(), "/repo/config".into())];
        check(&mut Mapping { instance: &instance, services: &services, ports: &mut ports, folders });
    }

    #[test]
    fn addresses_of_services_and_of_oneself_differ() {
        mapped(|mapping| {
            assert_eq!(mapping.text("nats://nats:4222"), "nats://127.0.0.1:20001");
            assert_eq!(mapping.text("nats://u:p@nats:4222,nats://other:4222"), "nats://u:p@127.0.0.1:20001,nats://other:4222");
            assert_eq!(mapping.text("0.0.0.0:9090"), "127.0.0.1:20002");
            assert_eq!(mapping.text("http://127.0.0.1:9090/readyz?a=b:1"), "http://127.0.0.1:20002/readyz?a=b:1");
            // Another container of the same service is not this one.
            assert_eq!(mapping.text("safety-kernel:9090"), "127.0.0.1:20003");
            assert_eq!(mapping.text("not-nats:4222"), "not-nats:4222");
            assert_eq!(mapping.text("info,busbar_scheduler=debug"), "info,busbar_scheduler=debug");
        });
    }

    #[test]
    fn folders_are_replaced_whole() {
        mapped(|mapping| {
            assert_eq!(mapping.text("file:///data"), "file:///tmp/x/data");
            assert_eq!(mapping.text("/etc/busbar/safety-policy.yaml"), "/repo/config/safety-policy.yaml");
            assert_eq!(mapping.text("/database"), "/database");
        });
    }

    #[test]
    fn ports_stand_behind_their_flags() {
        mapped(|mapping| {
            let arguments = ["--port", "4222", "--slots", "4222", "--bind", "0.0.0.0", "--dir", "/data"].map(str::to_owned);
            let expected = ["--port", "20001", "--slots", "4222", "--bind", "127.0.0.1", "--dir", "/tmp/x/data"];
            assert_eq!(mapping.arguments(&arguments), expected);
        });
    }
}
