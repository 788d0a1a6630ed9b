//! Rules for `docker-compose.yml` beyond its form, which `docker-compose config` has judged.

use std::collections::BTreeSet;
use std::path::Path;

use super::images::Wanted;
use crate::compose::{Compose, Condition, MountKind, Service};
use crate::compose_local::IMAGE_PACKS;

/// What is wrong with the services.
pub(crate) fn check(compose: &Compose, images: &Wanted) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, service) in &compose.services {
        let mut told: Vec<String> = images.check(&service.image).into_iter().collect();
        told.extend(confined(service));
        told.extend(mounts(service));
        told.extend(dependencies(compose, service));
        told.extend(addresses(compose, service));
        findings.extend(told.into_iter().map(|finding| format!("docker-compose.yml: {name}: {finding}")));
    }
    findings
}

/// Nobody may do more than needed. What prepares a volume is root, without anything else.
fn confined(service: &Service) -> Vec<String> {
    let stays = !service.is_preparation() && !service.is_errand();
    let user = service.user.as_deref().unwrap_or_default();
    let rules = [
        (
            !service.is_preparation() && !user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)),
            "it runs as root, or as a user without a number",
        ),
        (!service.read_only, "its files can be written: read_only is missing"),
        (service.cap_drop != ["ALL"], "it has capabilities: cap_drop: [ALL] is missing"),
        (!service.security_opt.iter().any(|option| option.starts_with("no-new-privileges")), "no-new-privileges is missing"),
        (stays && service.restart.as_deref() != Some("unless-stopped"), "it is not started again when it dies"),
        (service.is_errand() && service.restart.as_deref() != Some("on-failure"), "it is not tried again when it fails"),
        (stays && service.healthcheck.is_none(), "it has no health check"),
    ];
    rules.into_iter().filter(|(broken, _)| *broken).map(|(_, told)| told.to_owned()).collect()
}

/// Folders of the host must be there; paths must lie in a mount or in the image.
fn mounts(service: &Service) -> Vec<String> {
    let absent = service.volumes.iter().filter(|mount| mount.kind == MountKind::Bind && !Path::new(&mount.source).exists());
    let absent = absent.map(|mount| format!("{} is not there", mount.source));
    let variables = service.variables().into_iter().filter(|_| service.is_ours());
    let stray = variables.filter_map(|(name, value)| {
        let path = value.strip_prefix("file://").unwrap_or(&value);
        let known = service.volumes.iter().any(|mount| Path::new(path).starts_with(&mount.target));
        let in_image = Path::new(path).starts_with(IMAGE_PACKS);
        (path.starts_with('/') && !known && !in_image).then(|| format!("{name}: {path} is in no mount and not in the image"))
    });
    absent.chain(stray).collect()
}

/// Waiting for health needs a health check; waiting for an end needs an end.
fn dependencies(compose: &Compose, service: &Service) -> Vec<String> {
    let told = service.depends_on.iter().filter_map(|(used, dependency)| {
        let Some(other) = compose.services.get(used) else { return Some(format!("it waits for {used}, which is no service")) };
        let possible = match dependency.condition {
            Condition::Started => true,
            Condition::Healthy => other.healthcheck.is_some(),
            Condition::Completed => other.is_preparation() || other.is_errand(),
        };
        (!possible).then(|| format!("it waits for {used} in vain"))
    });
    told.collect()
}

/// Each `service:port` that is spoken of must be one on which that service listens; so must its own health check and published ports.
fn addresses(compose: &Compose, service: &Service) -> Vec<String> {
    let own = listens(service);
    let mut findings = Vec::new();
    for (name, value) in service.variables() {
        for (host, port) in hosts_and_ports(&value) {
            if let Some(other) = compose.services.get(&host)
                && !listens(other).contains(&port)
            {
                findings.push(format!("{name}: {host} does not listen on {port}"));
            }
        }
    }
    let checked = service.healthcheck.iter().flat_map(|check| &check.test).flat_map(|word| hosts_and_ports(word));
    for port in checked.map(|(_, port)| port).chain(service.published()).filter(|port| !own.contains(port)) {
        findings.push(format!("it does not listen on {port}, which is published or asked for its health"));
    }
    findings
}

/// The ports on which a service listens: `0.0.0.0:port` in its variables, numbers behind `--port` and the like in its command.
fn listens(service: &Service) -> BTreeSet<u16> {
    let variables = service.variables();
    let addresses = variables.values().flat_map(|value| hosts_and_ports(value)).filter(|(host, _)| host == "0.0.0.0");
    let flags = service.command.windows(2).filter(|pair| pair[0].ends_with("port")).filter_map(|pair| pair[1].parse().ok());
    addresses.map(|(_, port)| port).chain(flags).collect()
}

/// Every `host:port` in a text.
pub(crate) fn hosts_and_ports(text: &str) -> Vec<(String, u16)> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':')));
    words
        .filter_map(|word| word.rsplit_once(':'))
        .filter_map(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .collect()
}

/// The variables of the compose file and those that `.env.example` explains must be the same, and with the same defaults.
pub(crate) fn check_variables(compose: &str, example: &str) -> Vec<String> {
    let used = used_variables(compose);
    let explained = explained_variables(example);
    let missing = used.difference(&explained).map(|(name, default)| format!(".env.example does not explain {name}={default}"));
    let superfluous =
        explained.difference(&used).map(|(name, default)| format!(".env.example explains {name}={default}, which is not used"));
    missing.chain(superfluous).collect()
}

/// The names and defaults in `${NAME:-default}` and `${NAME:?why}`.
fn used_variables(text: &str) -> BTreeSet<(String, String)> {
    let inner = text.split("${").skip(1).filter_map(|rest| rest.split('}').next());
    inner
        .map(|inner| match inner.split_once(":-") {
            Some((name, default)) => (name.to_owned(), default.to_owned()),
            None => (inner.split(':').next().unwrap_or(inner).to_owned(), String::new()),
        })
        .collect()
}

/// The names and values in `NAME=value` and `#NAME=value`.
fn explained_variables(text: &str) -> BTreeSet<(String, String)> {
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).filter_map(|line| line.split_once('='));
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit());
    lines.filter(|(name, _)| is_name(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
services:
  nats:
    image: nats:2.15.1
    user: '1000:1000'
    command: [nats-server, --port, '4222']
    read_only: true
    cap_drop: [ALL]
    security_opt: ['no-new-privileges:true']
    restart: unless-stopped
    healthcheck: {test: [CMD, wget, 'http://127.0.0.1:4222/']}
  gateway:
    image: busbar:0.1.0
    user: '65532:65532'
    command: [busbar, gateway]
    environment: {NATS_URL: 'nats://nats:4222', LISTEN: '0.0.0.0:8081', BLOBS_URL: 'file:///blobs'}
    depends_on: {nats: {condition: service_healthy}}
    read_only: true
    cap_drop: [ALL]
    security_opt: ['no-new-privileges:true']
    restart: unless-stopped
    ports: ['8081:8081']
    volumes: [{type: volume, source: blobs, target: /blobs}]
    healthcheck: {test: [CMD, busbar, probe, 'http://127.0.0.1:8081/readyz']}
";

    fn told(from: &str, to: &str) -> Vec<String> {
        assert!(GOOD.contains(from), "{from}");
        let images = Wanted { nats: "2.15.1".into(), ours: "0.1.0".into() };
        check(&Compose::parse(&GOOD.replacen(from, to, 1)).expect("good"), &images)
    }

    #[test]
    fn a_good_file_breaks_nothing_and_each_wrong_line_is_told() {
        assert_eq!(told("nats", "nats"), Vec::<String>::new());
        for (from, to, expected) in [
            ("nats:2.15.1", "nats:2.15", "not pinned"),
            ("'65532:65532'", "'0:0'", "root"),
            ("'65532:65532'", "nobody", "root"),
            ("    read_only: true\n", "", "read_only"),
            ("[ALL]", "[CHOWN]", "capabilities"),
            ("no-new-privileges:true", "apparmor:x", "no-new-privileges"),
            ("unless-stopped", "'no'", "not started again"),
            ("nats://nats:4222", "nats://nats:4223", "nats does not listen on 4223"),
            ("'8081:8081'", "'8081:8080'", "does not listen on 8080"),
            ("127.0.0.1:8081", "127.0.0.1:9090", "does not listen on 9090"),
            ("target: /blobs", "target: /other", "/blobs is in no mount"),
            ("{type: volume, source: blobs", "{type: bind, source: /no/such/folder", "is not there"),
            ("{nats: {cond", "{redis: {cond", "no service"),
            ("service_healthy", "service_completed_successfully", "in vain"),
        ] {
            let told = told(from, to);
            assert!(told.len() == 1 && told[0].contains(expected), "{from} {to}: {told:?}");
        }
    }

    #[test]
    fn variables_and_their_explanations_must_agree() {
        let compose = "a: ${A:-1} ${B:?why}";
        assert_eq!(check_variables(compose, "# Words, a=b.\nB=\n#A=1\n"), Vec::<String>::new());
        assert_eq!(check_variables(compose, "B=\n#A=2\n").len(), 2);
        assert_eq!(check_variables(compose, "B=\n"), [".env.example does not explain A=1"]);
    }
}
