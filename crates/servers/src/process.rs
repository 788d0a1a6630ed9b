//! One server process and the thread that keeps it.
//!
//! The kernel's parent-death signal fires when the *thread* that forked ends, not only the process.
//! So a keeper thread forks the server, waits for its end, reaps it, and forks the next one: it
//! lives for as long as the server is wanted.
//!
//! ```text
//!  Starting ──fork──► Running ──ends──► Dead ──wanted up (asked, or supervised after a backoff)──► Starting
//! ```

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process, set_parent_process_death_signal, waitid,
};

use crate::error::Error;
use crate::folder::Folder;

/// How long an orderly end may take before the server is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// The pause between two looks at a server that is not ready yet.
const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// The pause before a server that could not get its port is started again.
const REVIVE_PAUSE: Duration = Duration::from_millis(20);
/// The pause before a supervised server is started again: the first one, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A server that lived this long was healthy: the next pause is the first one again.
const STEADY_LIFE: Duration = Duration::from_secs(10);

/// Makes the command for the next life of the server.
pub(crate) type MakeCommand = Box<dyn Fn() -> Command + Send>;

/// A server process that can be signalled, ended and started again.
#[derive(Debug)]
pub(crate) struct Process {
    program: &'static str,
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: Folder,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    wanted: Wanted,
    supervised: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Starting,
    Running(Pid),
    Dead { status: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Up,
    Down,
    End,
}

impl Process {
    /// Starts the keeper, which forks the server at once. It is not supervised yet.
    pub(crate) fn start(program: &'static str, folder: Folder, command: MakeCommand) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            folder,
            state: Mutex::new(State { phase: Phase::Starting, wanted: Wanted::Up, supervised: false }),
            changed: Condvar::new(),
        });
        let kept = Arc::clone(&shared);
        let keeper = thread::Builder::new()
            .name(format!("keep-{program}"))
            .spawn(move || keep(program, &kept, &command))
            .map_err(|source| Error::Spawn { program, source })?;
        Ok(Self { program, shared, keeper: Some(keeper) })
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    /// From now on a death that nobody asked for is followed by a new start.
    pub(crate) fn supervise(&self) {
        self.shared.lock().supervised = true;
        self.shared.changed.notify_all();
        // It may be dead already, with a keeper that waits for somebody to ask.
        self.shared.changed.notify_all();
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match self.shared.lock().phase {
            Phase::Running(pid) => u32::try_from(pid.as_raw_nonzero().get()).ok(),
            Phase::Starting | Phase::Dead { .. } => None,
        }
    }

    /// Asks `probe`, given the process id, again and again until it has an answer.
    pub(crate) fn until_ready<T>(&self, within: Duration, mut probe: impl FnMut(i32) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(pid) = self.running_or_dead()?
                && let Some(answer) = probe(pid)
            {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(Error::NotReady { program: self.program, waited: within, log_tail: self.folder().log_tail() });
            }
            let state = self.shared.lock();
            drop(self.shared.wait(state, PROBE_PAUSE));
        }
    }

    fn running_or_dead(&self) -> Result<Option<i32>, Error> {
        let state = self.shared.lock();
        match &state.phase {
            Phase::Running(pid) => Ok(Some(pid.as_raw_nonzero().get())),
            Phase::Starting => Ok(None),
            Phase::Dead { .. } if state.supervised && state.wanted == Wanted::Up => Ok(None),
            Phase::Dead { status } => {
                Err(Error::Exited { program: self.program, status: status.clone(), log_tail: self.folder().log_tail() })
            }
        }
    }

    /// Sends a signal to the running server.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let state = self.shared.lock();
        let Phase::Running(pid) = state.phase else {
            return Err(Error::NotRunning { program: self.program });
        };
        // The keeper reaps under this lock, so the id still means our child.
        kill_process(pid, signal).map_err(|_| Error::NotRunning { program: self.program })
    }

    /// Kills the server and returns when it is gone. It stays down until [`Process::revive`].
    pub(crate) fn kill(&self) {
        self.bring_down(Wanted::Down, &[Signal::KILL], None);
    }

    /// Ends the server in an orderly way, or kills it when that takes too long. It stays down
    /// until [`Process::revive`].
    pub(crate) fn lay_down(&self) {
        // A server that is paused sees the request only once it may go on.
        let politely = [Signal::TERM, Signal::CONT];
        if !self.bring_down(Wanted::Down, &politely, Some(STOP_WAIT)) {
            self.kill();
        }
    }

    /// Starts the server again after [`Process::kill`], [`Process::lay_down`] or its own death.
    pub(crate) fn revive(&self) {
        let mut state = self.shared.lock();
        state.wanted = Wanted::Up;
        if matches!(state.phase, Phase::Dead { .. }) {
            state.phase = Phase::Starting;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Ends the server in an orderly way, for good.
    pub(crate) fn stop(mut self) {
        self.lay_down();
        self.end();
    }

    fn end(&mut self) {
        self.bring_down(Wanted::End, &[Signal::KILL], None);
        if let Some(keeper) = self.keeper.take() {
            // The keeper does not panic; if it did, the kernel has ended the server.
            let _ = keeper.join();
        }
    }

    /// Sends the signals to each server that shows up until there is none; false when time is over.
    fn bring_down(&self, wanted: Wanted, signals: &[Signal], within: Option<Duration>) -> bool {
        let deadline = within.map(|within| Instant::now() + within);
        let mut state = self.shared.lock();
        state.wanted = wanted;
        self.shared.changed.notify_all();
        let mut told = None;
        while !matches!(state.phase, Phase::Dead { .. }) {
            if let Phase::Running(pid) = state.phase
                && told != Some(pid)
            {
                told = Some(pid);
                for signal in signals {
                    // It can only fail for a process that has ended; the keeper will say so.
                    let _ = kill_process(pid, *signal);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return false;
            }
            state = self.shared.wait(state, Duration::from_secs(1));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.end();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, at_most);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_all();
    }

    /// Blocks until the server shall live again; false when it shall end for good.
    fn next_life(&self, backoff: Duration) -> bool {
        let deadline = Instant::now() + backoff;
        let mut state = self.lock();
        loop {
            let revived = state.phase == Phase::Starting;
            let rested = Instant::now() >= deadline;
            match state.wanted {
                Wanted::End => {
                    if revived {
                        // Somebody waits for an end that has already happened.
                        state.phase = Phase::Dead { status: "ended before it was started again".to_owned() };
                        self.changed.notify_all();
                    }
                    return false;
                }
                Wanted::Up if revived => return true,
                Wanted::Up if state.supervised && rested => {
                    state.phase = Phase::Starting;
                    return true;
                }
                Wanted::Down if revived => {
                    state.phase = Phase::Dead { status: "brought down before it was started again".to_owned() };
                    self.changed.notify_all();
                }
                Wanted::Up | Wanted::Down => {}
            }
            let pause = deadline.saturating_duration_since(Instant::now());
            let pause = if state.supervised && !pause.is_zero() { pause } else { BACKOFF_MAX };
            state = self.wait(state, pause);
        }
    }
}

/// The keeper thread: one turn per life of the server.
fn keep(program: &'static str, shared: &Shared, command: &MakeCommand) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let born = Instant::now();
        let status = match spawn(command(), &shared.folder) {
            Ok(child) => live(shared, child),
            Err(error) => format!("could not be executed: {error}"),
        };
        backoff = if born.elapsed() > STEADY_LIFE { BACKOFF_MIN } else { backoff };
        tell_death(program, shared, &status, backoff);
        shared.enter(Phase::Dead { status });
        if !shared.next_life(backoff) {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Publishes the process, waits for its end and reaps it; returns how it ended.
fn live(shared: &Shared, mut child: Child) -> String {
    let pid = Pid::from_child(&child);
    if let Err(error) = shared.folder.write_pid(pid) {
        tracing::warn!(%error, "no pid file: a server left by a crash would not be found");
    }
    shared.enter(Phase::Running(pid));
    wait_without_reaping(pid);
    // While the lock is held nobody signals the id, which reaping makes free for reuse.
    let state = shared.lock();
    let status = child.wait();
    shared.folder.remove_pid();
    drop(state);
    status.map_or_else(|error| format!("its end is unknown: {error}"), |status| status.to_string())
}

fn wait_without_reaping(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
}

fn tell_death(program: &str, shared: &Shared, status: &str, backoff: Duration) {
    let state = shared.lock();
    if state.wanted == Wanted::Up && state.supervised {
        tracing::warn!(program, status, ?backoff, "server ended; starting it again");
    }
}

/// Forks the server into a process group of its own: Ctrl-C in a terminal reaches our process
/// only, which then ends its servers in the right order.
fn spawn(mut command: Command, folder: &Folder) -> io::Result<Child> {
    let log = folder.open_log()?;
    command.current_dir(folder.dir()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    die_with_this_thread(&mut command);
    command.spawn()
}

fn die_with_this_thread(command: &mut Command) {
    let parent = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the request was made.
        if getppid() != Some(parent) {
            return Err(io::Error::from(Errno::SRCH));
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "runs between fork and exec; it makes two system calls and neither allocates nor locks")]
    // SAFETY: the closure only makes async-signal-safe system calls.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Revives a server that is down. Its port may be taken for a moment, by a client that happens to
/// connect from it, so an early end is tried again while there is time.
pub(crate) fn restart<T>(
    process: &Process,
    within: Duration,
    until_ready: impl Fn(&Process, Duration) -> Result<T, Error>,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    loop {
        process.revive();
        match until_ready(process, deadline.saturating_duration_since(Instant::now())) {
            Err(Error::Exited { .. }) if Instant::now() < deadline => {
                thread::sleep(REVIVE_PAUSE);
            }
            other => return other.map(drop),
        }
    }
}

/// Whether something accepts connections on the port, on this machine's own address.
pub(crate) fn port_is_taken(port: u16) -> bool {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_err()
}

/// Empties a folder of what an earlier life left there, or creates it.
pub(crate) fn fresh_dir(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file("empty", dir)(error));
        }
        _ => {}
    }
    std::fs::create_dir_all(dir).map_err(Error::file("create", dir))
}
