//! The worker of `examples/chaos`, which fails, dies or comes in great number when told, and the pack of its topics.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use super::{Endpoints, built, kill9, signal, until};

/// Sleeps, fails, fails for good or kills its worker, as its input says.
pub(crate) const WORK: &str = "job.chaos.work";

/// A pack with the topics `job.chaos.*`.
pub(crate) fn chaos_pack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/packs/chaos")
}

/// A running one. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Breaker {
    child: Child,
}

impl Breaker {
    /// Starts it; that it is there, [`super::Client::until_online`] tells.
    pub(crate) fn start(at: &Endpoints, logs: &Path, id: &str, slots: u32, file: &Path, more: &[&str]) -> Self {
        // There before it is, so that whoever waits for its first line can look.
        File::options().create(true).append(true).open(file).unwrap();
        let log = File::options().create(true).append(true).open(logs.join("breaker.log")).unwrap();
        let child = Command::new(built("examples/chaos"))
            .args(["worker", "--nats", &at.nats, "--redis", &at.redis, "--id", id])
            .args(["--max-parallel", &slots.to_string(), "--file"])
            .arg(file)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill9(&mut self) {
        kill9(self.pid());
        self.child.wait().unwrap();
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.pid(), with);
        until("the worker ends", || self.ended())
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
