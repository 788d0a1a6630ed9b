//! A program of our own that lives and dies with the process that started it, as the workers of `dev` do.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::folder::Folder;
use crate::process::Process;

/// How to start a companion.
#[derive(Debug, Clone)]
pub struct CompanionOptions {
    /// What it is called in logs and in the names of its files.
    pub program: &'static str,
    /// The file to execute.
    pub binary: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment; none means that of this process.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// A folder of its own: its working folder, log and pid file.
    pub dir: PathBuf,
    /// Whether to start it again when it dies without being asked to.
    pub supervised: bool,
}

/// A running companion. Dropping it kills it; [`Companion::stop`] ends it in order.
#[derive(Debug)]
pub struct Companion {
    process: Process,
}

impl Companion {
    /// Starts it, after ending the one that a killed predecessor left in the folder. Whether it is
    /// ready only its own words can tell.
    ///
    /// # Errors
    /// The folder is in use or unusable, or no thread can be started.
    pub fn start(options: CompanionOptions) -> Result<Self, Error> {
        let CompanionOptions { program, binary, args, env, dir, supervised } = options;
        let folder = Folder::open(&dir, program)?;
        let make = Box::new(move || {
            let mut command = Command::new(&binary);
            command.args(&args);
            if let Some(env) = &env {
                command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
            }
            command
        });
        let process = Process::start(program, folder, make)?;
        if supervised {
            process.supervise();
        }
        Ok(Self { process })
    }

    /// Asks again and again until there is an answer.
    ///
    /// # Errors
    /// It ended and is not supervised, or there was no answer in time.
    pub fn until_ready<T>(&self, within: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T, Error> {
        self.process.until_ready(within, |_| ask())
    }

    /// From now on it is started again when it dies without being asked to.
    pub fn supervise(&self) {
        self.process.supervise();
    }

    /// The id of the running process, if there is one now.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The log of all its lives.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.process.folder().log_path()
    }

    /// Ends it in order: SIGTERM, and SIGKILL when that takes longer than ten seconds.
    pub fn stop(self) {
        self.process.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    fn sleeper(dir: &Path) -> Companion {
        let options = CompanionOptions {
            program: "sleeper",
            binary: "/bin/sleep".into(),
            args: vec!["600".into()],
            env: None,
            dir: dir.to_path_buf(),
            supervised: true,
        };
        Companion::start(options).expect("started")
    }

    /// The process id, once it is another one than `old`.
    fn pid_after(companion: &Companion, old: Option<u32>) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match companion.pid() {
                Some(pid) if Some(pid) != old => return pid,
                _ => assert!(Instant::now() < deadline, "no new life"),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_companion_that_dies_gets_a_new_life_and_ends_when_told() {
        let temp = tempfile::tempdir().expect("tempdir");
        let companion = sleeper(temp.path());
        let first = pid_after(&companion, None);
        let pid = Pid::from_raw(i32::try_from(first).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::KILL).expect("killed");
        let second = pid_after(&companion, Some(first));
        companion.stop();
        assert!(!Path::new(&format!("/proc/{second}")).exists());
    }
}
