//! The shell that a guide is followed in.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::blocks::{Block, missing};

/// No command takes longer; the longest is the first build of a worker.
const DEADLINE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Says that a block has ended. No guide shows it.
const MARK: &str = "--the-block-has-ended--";

/// A running shell. Dropping it ends everything that it started.
pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Everything that was shown, for a failure.
    seen: String,
    temp: TempDir,
}

impl Shell {
    /// A shell in an empty folder.
    pub(crate) fn start(repository: &Path) -> Self {
        let temp = tempfile::Builder::new().prefix("busbar-guide-").tempdir().unwrap();
        symlink(repository, temp.path().join("busbar")).unwrap();
        let mut command = Command::new("bash");
        let ours = |name: &OsString| name.to_string_lossy().starts_with("BUSBAR_") || name.to_string_lossy().ends_with("_URL");
        let kept = |name: &OsString| name == "BUSBAR_NATS_SERVER" || name == "BUSBAR_REDIS_SERVER";
        for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name) && !kept(name)) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["--noprofile", "--norc"])
            .current_dir(temp.path())
            .env("PATH", path())
            .env("XDG_STATE_HOME", temp.path().join("state"))
            // The second run of a guide builds what it changed, and nothing is fetched.
            .env("CARGO_TARGET_DIR", repository.join("target/following-guides"))
            .env("CARGO_NET_OFFLINE", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let input = child.stdin.take().unwrap();
        let mut shell = Self { child, input, lines, seen: String::new(), temp };
        shell.run("exec 2>&1\nset -euo pipefail\n");
        shell
    }

    /// Does one step.
    pub(crate) fn follow(&mut self, block: &Block) {
        match block {
            Block::File { path, text } => {
                let folder = Path::new(path).parent().map_or(".", |folder| folder.to_str().unwrap());
                self.run(&format!("mkdir -p './{folder}'\ncat > '{path}' <<'{MARK}'\n{text}{MARK}\n"));
            }
            Block::Run { script, status: 0, until: false, shows } => {
                let output = self.run(script);
                self.check(script, shows, &output);
            }
            Block::Run { script, status: 0, until: true, shows } => self.repeat(script, shows),
            Block::Run { script, status, shows, .. } => {
                let ended = format!("set +e\n(\n{script})\nended=$?\nset -e\necho \"status $ended\"\n[ $ended = {status} ]\n");
                let output = self.run(&ended);
                self.check(script, shows, &output);
            }
            Block::Background { script } => {
                let log = self.temp.path().join("background.log");
                self.run(&format!("(\n{script}) >> '{}' 2>&1 &\n", log.display()));
                if script.contains("busbar dev") {
                    let file = self.temp.path().join("state/busbar/dev/endpoints.json");
                    // Until it is ready, or has ended without.
                    self.run(&format!("until [ -e '{}' ]; do kill -0 $!; sleep 0.1; done\n", file.display()));
                }
            }
        }
    }

    /// Ends in good order what was started.
    pub(crate) fn end(mut self) {
        self.run("jobs -p | xargs -r kill\nwait || true\n");
    }

    fn repeat(&mut self, script: &str, shows: &[String]) {
        let begun = Instant::now();
        loop {
            let output = self.run(script);
            if missing(shows, &output).is_none() {
                return;
            }
            if begun.elapsed() > DEADLINE / 10 {
                return self.check(script, shows, &output);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn check(&self, script: &str, shows: &[String], output: &str) {
        if let Some(line) = missing(shows, output) {
            panic!("{script}did not show\n{line}\nbut\n{output}{}", self.told());
        }
    }

    /// Runs commands in this very shell and returns what they showed.
    fn run(&mut self, script: &str) -> String {
        // In braces, so that no command reads the rest of the script as its input.
        let whole = format!("{{\n{script}}} < /dev/null\nprintf '\\n%s\\n' '{MARK}'\n");
        self.seen.push_str(&format!("$ {script}"));
        // A shell that a command has ended reads nothing more; its last words are told below.
        let _ = self.input.write_all(whole.as_bytes());
        let begun = Instant::now();
        let mut output = String::new();
        loop {
            match self.lines.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
                Ok(line) if line == MARK => return output,
                Ok(line) => {
                    for text in [&mut output, &mut self.seen] {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
                Err(error) => panic!("a command failed or took too long ({error}):\n{}{}", self.seen, self.told()),
            }
        }
    }

    /// What the processes in the background said.
    fn told(&self) -> String {
        let log = fs::read_to_string(self.temp.path().join("background.log")).unwrap_or_default();
        format!("\nin the background:\n{log}")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Everything that the shell started is in its group, and the group is its own.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// The programs of this build before all others.
fn path() -> OsString {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_busbar")).parent().unwrap().to_owned();
    for name in ["ctl", "worker"] {
        assert!(programs.join(name).is_file(), "{name} is not built: cargo build --workspace --bins");
    }
    let before = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&before))).unwrap()
}
