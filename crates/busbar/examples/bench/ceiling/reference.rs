//! `redis-benchmark` on the same server in the same minute: what Redis itself says that it can do here.

use std::path::PathBuf;

use busbar_servers::Search;
use serde::Serialize;
use tokio::process::Command;

use crate::Outcome;

const PROGRAM: &str = "redis-benchmark";
/// How many commands it keeps on its way in a connection, and how many it sends in all.
const PIPELINES: [(u32, u32); 2] = [(1, 100_000), (16, 400_000)];
/// As large as a payload of the ceiling.
const BYTES: &str = "256";
/// As many keys as the ceiling has at most.
const KEYS: &str = "100000";

/// What one of its tests came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Reference {
    pub(crate) command: String,
    pub(crate) pipeline: u32,
    pub(crate) per_second: f64,
}

/// Runs it; nothing if it is not installed.
pub(crate) async fn measure(port: u16) -> Outcome<Vec<Reference>> {
    let Some(program) = find() else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (pipeline, requests) in PIPELINES {
        let mut command = Command::new(&program);
        command.args(["-h", "127.0.0.1", "-t", "set,get", "--csv", "-d", BYTES, "-r", KEYS]);
        command.args(["-p", &port.to_string(), "-P", &pipeline.to_string(), "-n", &requests.to_string()]);
        let output = command.kill_on_drop(true).output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let references = parse(&text, pipeline);
        if references.is_empty() {
            return Err(format!("{PROGRAM} says nothing: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        all.extend(references);
    }
    Ok(all)
}

/// Beside the redis-server that is used, or else in PATH.
fn find() -> Option<PathBuf> {
    let search = Search::from_env();
    let beside = search.find_redis().ok().map(|redis| redis.path.with_file_name(PROGRAM));
    beside.into_iter().chain(search.path.iter().map(|folder| folder.join(PROGRAM))).find(|path| path.is_file())
}

/// Its lines are `"SET","123456.78",…`; the head, if there is one, has no number.
fn parse(text: &str, pipeline: u32) -> Vec<Reference> {
    let line = |line: &str| {
        let mut cells = line.split(',').map(|cell| cell.trim_matches('"'));
        let (command, per_second) = (cells.next()?.to_owned(), cells.next()?.parse().ok()?);
        Some(Reference { command, pipeline, per_second })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_numbers_are_results() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"98135.43\",\"0.27\"\n\"GET\",\"100000.00\",\"0.26\"\n";
        let results = parse(text, 16);
        assert_eq!(results.iter().map(|result| result.command.as_str()).collect::<Vec<_>>(), ["SET", "GET"]);
        assert!((results[0].per_second - 98_135.43).abs() < 1e-6 && results[0].pipeline == 16);
    }
}
