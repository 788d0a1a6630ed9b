//! A peer's adapter: a child that is spoken to in lines of JSON. `tools/peers/README.md` tells what the lines mean.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::manifest::{Kind, Peer, Setting};
use super::tree;
use crate::Outcome;

const READY_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(180);
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// So much of a log is told when something goes wrong.
const LOG_BYTES_TOLD: usize = 2_000;

/// A running adapter with its workers. Dropping it kills them all.
pub(crate) struct Adapter {
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    /// What it says it is.
    pub(crate) says: String,
}

/// What an adapter answers: one of these members.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Answer {
    ready: Option<String>,
    submitted: Option<u64>,
    milliseconds: Option<Vec<f64>>,
}

impl Adapter {
    /// Starts it; it has its workers started when it says that it is ready.
    pub(crate) async fn start(peer: &Peer, setting: &Setting, dir: &Path, store: (&str, String)) -> Outcome<Self> {
        let log = dir.join("log");
        let mut command = command(peer)?;
        command.current_dir(&peer.folder).env("PEER_DIR", dir).env("PEER_OPTIONS", setting.options.to_string());
        command.env(store.0, store.1).envs(search_paths(peer));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", peer.manifest.command.join(" ")))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or("no stdout")?);
        let pid = child.id().ok_or("the adapter is gone")?;
        let lines = BufReader::new(stdout).lines();
        let mut adapter = Self { child, pid, stdin, lines, log, says: String::new() };
        adapter.says = adapter.answer(READY_WITHIN).await?.ready.ok_or("an adapter did not say that it is ready")?;
        Ok(adapter)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Has it submit jobs; returns when all were taken.
    pub(crate) async fn submit(&mut self, first: u64, jobs: u64) -> Outcome<()> {
        let answer = self.ask("submit", first, jobs).await?;
        if answer.submitted == Some(jobs) { Ok(()) } else { Err(format!("{jobs} jobs were submitted: {answer:?}").into()) }
    }

    /// Has it run jobs one after the other; returns the milliseconds until each result was in its hands.
    pub(crate) async fn probe(&mut self, first: u64, jobs: u64) -> Outcome<Vec<f64>> {
        let samples = self.ask("probe", first, jobs).await?.milliseconds.unwrap_or_default();
        if samples.len() as u64 == jobs { Ok(samples) } else { Err(format!("{} of {jobs} samples", samples.len()).into()) }
    }

    async fn ask(&mut self, what: &str, first: u64, jobs: u64) -> Outcome<Answer> {
        let line = ask_line(what, first, jobs);
        self.stdin.as_mut().ok_or("the adapter is being ended")?.write_all(line.as_bytes()).await?;
        self.answer(ANSWER_WITHIN).await
    }

    async fn answer(&mut self, within: Duration) -> Outcome<Answer> {
        match timeout(within, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?),
            Ok(Ok(None)) => Err(format!("the adapter has ended; it said: {}", self.last_words()).into()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(format!("no answer within {within:?}; it said: {}", self.last_words()).into()),
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_BYTES_TOLD)..]).into_owned()
    }

    /// Closes its stdin, upon which it ends its workers and itself.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        self.stdin = None;
        let ended = timeout(STOP_WITHIN, self.child.wait()).await;
        ended.map_err(|_| format!("the adapter does not end; it said: {}", self.last_words()))??;
        Ok(())
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if self.child.id().is_none() {
            return;
        }
        // Its workers, too: nobody would end them.
        for pid in tree::of(self.pid) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn ask_line(what: &str, first: u64, jobs: u64) -> String {
    json!({ "do": what, "first": first, "jobs": jobs }).to_string() + "\n"
}

/// The adapter as the manifest names it.
fn command(peer: &Peer) -> Outcome<Command> {
    let (program, args) = peer.manifest.command.split_first().ok_or("a manifest without a command")?;
    // What was built stands where it was put; all others are looked for in PATH.
    let program = if peer.manifest.kind == Kind::Rust { peer.packages.join(program) } else { program.into() };
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Where an interpreter finds the packages, and what all adapters in its language share.
fn search_paths(peer: &Peer) -> Vec<(&'static str, OsString)> {
    let shared = peer.folder.with_file_name("lib");
    let join = |paths: [&Path; 2]| std::env::join_paths(paths).unwrap_or_default();
    match peer.manifest.kind {
        // Nothing is compiled into the folder of the sources.
        Kind::Python => vec![("PYTHONPATH", join([&peer.packages, &shared])), ("PYTHONDONTWRITEBYTECODE", "1".into())],
        Kind::Node => vec![("NODE_PATH", join([&peer.packages.join("node_modules"), &shared]))],
        Kind::Rust | Kind::Debian => Vec::new(),
    }
}

/// What an adapter was told, for whoever reads the figures.
pub(crate) fn told(setting: &Setting) -> Value {
    json!({ "name": setting.name, "says": setting.says, "options": setting.options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_of_one_line() {
        assert_eq!(ask_line("submit", 3, 2), "{\"do\":\"submit\",\"first\":3,\"jobs\":2}\n");
        let answer: Answer = serde_json::from_str(r#"{"milliseconds":[1.5]}"#).expect("an answer");
        assert_eq!(answer, Answer { milliseconds: Some(vec![1.5]), ..Answer::default() });
        assert!(serde_json::from_str::<Answer>(r#"{"else":1}"#).is_err());
    }

    #[test]
    fn an_adapter_that_is_built_stands_where_it_was_put() {
        for (kind, program) in [("rust", "/built/adapter"), ("node", "adapter")] {
            let manifest =
                json!({ "name": "x", "kind": kind, "command": ["adapter"], "store": "none", "result": "none", "settings": [] });
            let manifest = serde_json::from_value(manifest).expect("a manifest");
            let peer = Peer { manifest, folder: "/peers/x".into(), packages: "/built".into() };
            assert_eq!(command(&peer).expect("a command").as_std().get_program(), program);
        }
    }
}
