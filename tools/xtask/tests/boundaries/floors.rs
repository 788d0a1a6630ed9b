//! Which crate stands on which floor, and who may use whom: down only, never sideways.

use crate::manifest::Manifest;

const FLOORS: [&[&str]; 4] = [
    // Words.
    &["protocol", "api", "rules"],
    // Touches the world.
    &["bus", "store", "blobs", "rpc", "outbound", "sandbox", "service", "servers"],
    // Decides.
    &["scheduler", "safety-kernel", "workflow-engine", "context-engine", "gateway", "sdk"],
    // Drives.
    &["ctl", "busbar", "worker", "simulator", "xtask"],
];

/// The one permitted step within a floor: the words themselves stand under those that are made of them.
const WITHIN_WORDS: &[(&str, &str)] = &[("api", "protocol"), ("rules", "protocol")];

/// Crates that use less than their floor would permit, with everything of ours that they may use.
const NARROW: &[(&str, &[&str])] = &[
    // A worker that could live in another repository; log lines, metrics and traces are those of the process kit.
    ("worker", &["sdk", "sandbox", "blobs", "service"]),
    // Everything goes over HTTP: nothing is known here that others could not know. `rules`, because what `ctl pack build` accepts
    // the gateway must accept.
    ("ctl", &["api", "protocol", "rules"]),
    ("servers", &[]),
];

/// Tests may start real servers from any floor above the words.
const FOR_TESTS: &str = "servers";

/// Who starts servers beside tests: `dev`, and the tool that runs the roles apart.
const SERVERS_USERS: &[&str] = &["busbar", "xtask"];

fn floor_of(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&folder))
}

pub(crate) fn broken(manifests: &[Manifest]) -> Vec<String> {
    manifests.iter().flat_map(broken_by).collect()
}

fn broken_by(user: &Manifest) -> Vec<String> {
    let Some(floor) = floor_of(&user.folder) else {
        return vec![format!("{}: it stands on no floor; give it one in DESIGN and in this check", user.folder)];
    };
    let built_from = Manifest::ours(&user.dependencies).filter_map(|used| wrong_use(&user.folder, floor, used));
    let tested_with = Manifest::ours(&user.dev_dependencies)
        .filter(|used| !(*used == FOR_TESTS && floor >= 1))
        .filter_map(|used| wrong_step(&user.folder, floor, used));
    built_from.chain(tested_with).collect()
}

fn wrong_use(user: &str, floor: usize, used: &str) -> Option<String> {
    let narrow = NARROW.iter().find(|(folder, _)| *folder == user);
    if let Some((_, permitted)) = narrow
        && !permitted.contains(&used)
    {
        return Some(format!("{user}: it may use only {permitted:?} of ours, not {used}"));
    }
    if used == FOR_TESTS && !SERVERS_USERS.contains(&user) {
        return Some(format!("{user}: only {SERVERS_USERS:?} and tests may use {used}"));
    }
    wrong_step(user, floor, used)
}

fn wrong_step(user: &str, floor: usize, used: &str) -> Option<String> {
    let Some(below) = floor_of(used) else {
        return Some(format!("{user}: it uses {used}, which stands on no floor"));
    };
    let permitted = below < floor || WITHIN_WORDS.contains(&(user, used));
    let direction = if below == floor { "sideways" } else { "up" };
    (!permitted).then(|| format!("{user} (floor {floor}) uses {used} (floor {below}): {direction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(folder: &str, dependencies: &str) -> Vec<String> {
        broken(&[Manifest::parse(folder, dependencies)])
    }

    #[test]
    fn down_is_permitted() {
        assert!(told("scheduler", "[dependencies]\nbusbar-protocol.workspace = true\nserde = \"1\"").is_empty());
        assert!(told("rules", "[dependencies]\nbusbar-protocol.workspace = true").is_empty());
        assert!(told("bus", "[dev-dependencies]\nbusbar-servers.workspace = true").is_empty());
    }

    #[test]
    fn every_other_step_is_told() {
        let cases = [
            ("gateway", "[dependencies]\nbusbar-scheduler = {}", "sideways"),
            ("bus", "[dependencies]\nbusbar-store = {}", "sideways"),
            ("store", "[dependencies]\nbusbar-scheduler = {}", "up"),
            ("protocol", "[dependencies]\nbusbar-api = {}", "sideways"),
            ("store", "[build-dependencies]\nbusbar-sdk = {}", "up"),
            ("scheduler", "[dev-dependencies]\nbusbar-simulator = {}", "up"),
            ("ctl", "[dev-dependencies]\nbusbar = {}", "sideways"),
            ("rules", "[dev-dependencies]\nbusbar-servers = {}", "up"),
            ("scheduler", "[dependencies]\nbusbar-servers = {}", "and tests may use"),
            ("worker", "[dependencies]\nbusbar-store = {}", "may use only"),
            ("ctl", "[dependencies]\nbusbar-gateway = {}", "may use only"),
            ("attic", "", "no floor"),
            ("busbar", "[dependencies]\nbusbar-attic = {}", "no floor"),
            ("gateway", "[target.'cfg(unix)'.dependencies]\nx = { package = \"busbar-sdk\" }", "sideways"),
        ];
        for (folder, dependencies, expected) in cases {
            let told = told(folder, dependencies);
            assert!(told.len() == 1 && told[0].contains(expected), "{folder}: {told:?}");
        }
    }
}
