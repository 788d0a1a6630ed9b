//! Programs of the workspace beside the server, and processes that end with their test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use super::{Dev, kill9, signal, until};

/// A program of the same profile; `cargo` puts examples into a folder `examples`.
pub(crate) fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_busbar")).with_file_name(name);
    assert!(path.is_file(), "{} is not built: cargo build --workspace --bins --examples", path.display());
    path
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program that joins a stack; what it says goes to a file beside the stack's own.
    pub(crate) fn join(dev: &Dev, name: &str, args: &[&str]) -> Self {
        let log_name = format!("{}.log", name.replace('/', "-"));
        let log = File::options().create(true).append(true).open(dev.temp().join(log_name)).unwrap();
        let child = Command::new(built(name))
            .args(["--nats", &dev.endpoints.nats, "--redis", &dev.endpoints.redis])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }

    /// The `worker` program, as soon as the scheduler knows it.
    pub(crate) fn worker(dev: &Dev, id: &str, slots: u32) -> Self {
        let parallel = slots.to_string();
        let args = ["--blobs", &dev.endpoints.blobs, "--id", id, "--max-parallel", &parallel];
        let worker = Self::join(dev, "worker", &args);
        dev.client().until_online(id, slots);
        worker
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill9(&mut self) {
        kill9(self.child.id());
        self.child.wait().unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.child.id(), with);
        until("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
