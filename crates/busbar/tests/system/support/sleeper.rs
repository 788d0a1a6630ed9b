//! The worker that counts: the example `sleeper` of the SDK, and the file that it appends to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::{Client, Dev, Endpoints, LOOK_EVERY, built, freeze, kill9, thaw, until};

/// How often it is looked whether the results of a frozen worker have been committed.
const LOOKS: u32 = 20;

/// A running sleeper. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Sleeper {
    child: Child,
}

impl Sleeper {
    /// Starts it and waits until the scheduler knows that it is there with all its slots.
    pub(crate) fn start(dev: &Dev, id: &str, slots: u32, file: &Path) -> Self {
        Self::start_at(&dev.endpoints, dev.temp(), id, slots, file)
    }

    /// The same for a stack that is no `dev`; `logs` gets what it says.
    pub(crate) fn start_at(at: &Endpoints, logs: &Path, id: &str, slots: u32, file: &Path) -> Self {
        let sleeper = Self { child: spawn(at, logs, id, slots, file) };
        Client::new(&at.http, Some(&at.api_key)).until_online(id, slots);
        sleeper
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill9(&mut self) {
        kill9(self.pid());
        self.child.wait().unwrap();
    }

    /// Freezes it again and again until it is caught with all its slots executing, and holding nothing else: an attempt whose handler
    /// is done and whose result was not told yet would be executed again as well, if it died. It stays frozen. `ended` says how many
    /// jobs have ended as everybody else sees it, while somebody answers; it is returned.
    pub(crate) fn freeze_full(&self, slots: u32, file: &Path, ended: impl Fn() -> Option<u64>) -> u64 {
        let told = |look, done| {
            if look > 0 {
                thread::sleep(LOOK_EVERY);
            }
            ended() == Some(done)
        };
        until("all slots execute, and what is done was told", || {
            freeze(self.pid());
            let executions = Executions::read(file);
            let done = u64::from(executions.count() - executions.open);
            if executions.open == slots && (0..LOOKS).any(|look| told(look, done)) {
                return Some(done);
            }
            thaw(self.pid());
            None
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(at: &Endpoints, logs: &Path, id: &str, slots: u32, file: &Path) -> Child {
    let log = File::options().create(true).append(true).open(logs.join("sleeper.log")).unwrap();
    Command::new(sleeper_program())
        .args(["--nats", &at.nats, "--redis", &at.redis, "--id", id])
        .args(["--max-parallel", &slots.to_string(), "--file"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn sleeper_program() -> PathBuf {
    built("examples/sleeper")
}

/// What the file tells.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    /// How often each job was started.
    pub(crate) starts: BTreeMap<String, u32>,
    /// Attempts that were started and have not ended.
    pub(crate) open: u32,
}

impl Executions {
    pub(crate) fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let mut executions = Self::default();
        // A line that is just being written may be seen in part.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[..] {
                [job, _, "start"] => {
                    *executions.starts.entry(job.to_owned()).or_default() += 1;
                    executions.open += 1;
                }
                [_, _, "end"] => executions.open -= 1,
                _ => panic!("a strange line: {line:?}"),
            }
        }
        executions
    }

    pub(crate) fn count(&self) -> u32 {
        self.starts.values().sum()
    }
}
