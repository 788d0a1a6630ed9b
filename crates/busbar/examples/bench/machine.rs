//! What the figures were taken on: without it they mean nothing.

use std::fs;
use std::thread;

use busbar_servers::Search;
use serde_json::{Value, json};

use crate::Outcome;
use crate::document::Durable;

/// Processors, memory, servers, and how this program was built.
pub(crate) fn describe() -> Outcome<Value> {
    let search = Search::from_env();
    let (nats, redis) = (search.find_nats()?, search.find_redis()?);
    Ok(json!({
        "processors": thread::available_parallelism().map_or(1, usize::from),
        "processor": field("/proc/cpuinfo", "model name"),
        "memory": field("/proc/meminfo", "MemTotal"),
        // Others at work on the same machine slow everything down, and not everything alike.
        "load_at_start": fs::read_to_string("/proc/loadavg").ok().and_then(|text| Some(text.split(' ').next()?.to_owned())),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).ok(),
        "nats_server": nats.version.to_string(),
        "redis_server": redis.version.to_string(),
        "redis_durability": "appendfsync always",
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    }))
}

/// The same with servers that are as durable as a run wants them.
pub(crate) fn with_durability(mut machine: Value, durable: Durable) -> Value {
    machine["redis_durability"] = json!(match durable {
        Durable::Fast => "appendfsync everysec",
        Durable::Safe => "appendfsync always",
    });
    machine
}

/// The same in one line. What was measured without servers does not name any.
pub(crate) fn line(machine: &Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("?").to_owned();
    let mut parts = vec![format!("{} × {}", machine["processors"], text("processor"))];
    if machine["load_at_start"].is_string() {
        parts.push(format!("load {} at the start", text("load_at_start")));
    }
    parts.push(format!("{} build", text("build")));
    if machine["nats_server"].is_string() {
        parts.push(format!("nats-server {}", text("nats_server")));
        parts.push(format!("redis-server {} ({})", text("redis_server"), text("redis_durability")));
    }
    parts.join(", ")
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        let mut machine = json!({ "processors": 2, "processor": "X", "build": "release" });
        assert_eq!(line(&machine), "2 × X, release build");
        machine["nats_server"] = json!("2.12");
        machine["redis_server"] = json!("7.0");
        let line = line(&with_durability(machine, Durable::Fast));
        assert_eq!(line, "2 × X, release build, nats-server 2.12, redis-server 7.0 (appendfsync everysec)");
    }
}
