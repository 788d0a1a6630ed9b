//! A server's own folder: its lock, its log, its pid file, and what a killed predecessor left there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;

/// A log that is longer than this is set aside at the next start; one older log is kept.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// How much of the log an error quotes.
const TAIL_BYTES: u64 = 2048;
/// How long a killed leftover may take to disappear.
const LEFTOVER_WAIT: Duration = Duration::from_secs(10);
/// How often a leftover is looked at meanwhile.
const LEFTOVER_POLL: Duration = Duration::from_millis(5);

/// A folder that is locked for one server for as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    program: &'static str,
    /// Held, not used: the kernel releases the lock with the last handle. Children do not inherit it.
    _lock: File,
}

impl Folder {
    /// Creates and locks the folder, and ends the server that an earlier start left in it.
    pub(crate) fn open(dir: &Path, program: &'static str) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let dir = fs::canonicalize(dir).map_err(Error::file("resolve", dir))?;
        let lock = lock(&dir, program)?;
        let folder = Self { dir, program, _lock: lock };
        folder.end_leftover()?;
        Ok(folder)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.program))
    }

    fn pid_path(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.program))
    }

    /// Opens the log for appending, and sets a long one aside first.
    pub(crate) fn open_log(&self) -> io::Result<File> {
        let path = self.log_path();
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
        OpenOptions::new().create(true).append(true).open(path)
    }

    /// The last lines of the log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        read_tail(&self.log_path()).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Writes the pid file by rename, so that a reader never sees half of it.
    pub(crate) fn write_pid(&self, pid: Pid) -> io::Result<()> {
        let path = self.pid_path();
        let draft = path.with_extension("pid.new");
        fs::write(&draft, format!("{}\n", pid.as_raw_nonzero()))?;
        fs::rename(draft, path)
    }

    pub(crate) fn remove_pid(&self) {
        // A pid file that stays is checked against the process before anything is done with it.
        let _ = fs::remove_file(self.pid_path());
    }

    /// Kills the process that the pid file names, if it still is a server of this folder.
    fn end_leftover(&self) -> Result<(), Error> {
        let Some(pid) = self.recorded_pid() else {
            return Ok(());
        };
        let deadline = Instant::now() + LEFTOVER_WAIT;
        while self.holds(pid) {
            if Instant::now() > deadline {
                return Err(Error::Leftover { pid: pid.as_raw_nonzero().get(), dir: self.dir.clone() });
            }
            // It may end by itself in this moment: a failure shows in the next look.
            let _ = kill_process(pid, Signal::KILL);
            thread::sleep(LEFTOVER_POLL);
        }
        self.remove_pid();
        Ok(())
    }

    fn recorded_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_path()).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Whether the process works in this folder. Its command line would not tell: Redis rewrites
    /// it. A zombie has no folder any more.
    fn holds(&self, pid: Pid) -> bool {
        let link = format!("/proc/{}/cwd", pid.as_raw_nonzero());
        fs::read_link(link).is_ok_and(|cwd| cwd == self.dir)
    }
}

fn lock(dir: &Path, program: &str) -> Result<File, Error> {
    let path = dir.join(format!("{program}.lock"));
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::FolderInUse { dir: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(Error::File { doing: "lock", path, source }),
    }
}

fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper(dir: &Path) -> Child {
        Command::new("sleep").arg("600").current_dir(dir).stdin(Stdio::null()).spawn().expect("sleep")
    }

    #[test]
    fn a_folder_in_use_is_refused_until_it_is_free() {
        let temp = tempfile::tempdir().expect("tempdir");
        let first = Folder::open(temp.path(), "redis-server").expect("first");
        let refused = Folder::open(temp.path(), "redis-server");
        assert!(matches!(refused, Err(Error::FolderInUse { .. })));
        drop(first);
        Folder::open(temp.path(), "redis-server").expect("free again");
    }

    #[test]
    fn a_leftover_in_the_folder_is_killed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut left = sleeper(temp.path());
        fs::write(temp.path().join("x.pid"), format!("{}\n", left.id())).expect("pid file");
        Folder::open(temp.path(), "x").expect("open");
        assert!(!left.wait().expect("reaped").success());
        assert!(!temp.path().join("x.pid").exists());
    }

    #[test]
    fn a_strange_process_with_the_recorded_id_is_left_alone() {
        let temp = tempfile::tempdir().expect("tempdir");
        let elsewhere = tempfile::tempdir().expect("tempdir");
        let mut stranger = sleeper(elsewhere.path());
        fs::write(temp.path().join("x.pid"), format!("{}\n", stranger.id())).expect("pid file");
        Folder::open(temp.path(), "x").expect("open");
        assert!(stranger.try_wait().expect("asked").is_none());
        stranger.kill().expect("kill");
        stranger.wait().expect("reaped");
    }

    #[test]
    fn a_long_log_is_set_aside_and_its_tail_is_short() {
        let temp = tempfile::tempdir().expect("tempdir");
        let folder = Folder::open(temp.path(), "x").expect("open");
        let long = usize::try_from(LOG_BYTES_MAX + 1).expect("fits");
        fs::write(folder.log_path(), "y".repeat(long)).expect("log");
        assert_eq!(folder.log_tail().len(), 2048);
        folder.open_log().expect("log");
        assert_eq!(folder.log_tail(), "");
        assert!(temp.path().join("x.log.old").exists());
    }
}
