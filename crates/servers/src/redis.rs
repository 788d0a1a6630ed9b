//! A real redis-server with an append-only file, on a free port that is found by trying.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::error::Error;
use crate::folder::Folder;
use crate::process::{MakeCommand, Process, port_is_taken, restart};

const PROGRAM: &str = "redis-server";
/// How long one probe may take; a new one follows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Free ports are looked for here, below the range that the kernel gives to outgoing connections:
/// otherwise a client that reconnects to a dead server may be given the server's own port.
const PORT_FIRST: u16 = 17_000;
const PORT_COUNT: u16 = 15_000;
/// How many ports may turn out to be taken before that is an error.
const PORTS_TRIED_MAX: u32 = 200;
/// An upper bound for the answer to `INFO server`.
const INFO_BYTES_MAX: u64 = 64 << 10;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Written to disk each second (`appendfsync everysec`): fastest, but not only a power loss
    /// can lose up to 2 s. Redis holds writes back while such a write to disk is going on, so
    /// a killed server can lose acknowledged writes too.
    Fast,
    /// On disk before the reply (`appendfsync always`): nothing is lost.
    #[default]
    Safe,
}

impl Durability {
    fn appendfsync(self) -> &'static str {
        match self {
            Self::Fast => "everysec",
            Self::Safe => "always",
        }
    }
}

/// How to start a redis-server.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// A folder of its own: append-only file, log, pid file.
    pub dir: PathBuf,
    /// The port, or `None` for a free one.
    pub port: Option<u16>,
    /// The program, from [`crate::Search::find_redis`].
    pub binary: PathBuf,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Whether to start it again when it dies without being asked to.
    pub supervised: bool,
    /// How long it may take until it answers, loading of its data included.
    pub ready_within: Duration,
}

impl RedisOptions {
    /// A free port, safe, not supervised, ready within two minutes.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, binary: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            binary: binary.into(),
            durability: Durability::default(),
            supervised: false,
            ready_within: Duration::from_secs(120),
        }
    }
}

/// A running redis-server. Dropping it kills the server; [`Redis::stop`] ends it in order.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    ready_within: Duration,
}

impl Redis {
    /// Starts a server and returns when it has loaded its data and a client got an answer.
    ///
    /// # Errors
    /// The folder is in use or unusable, the port is taken, or the server does not get ready.
    pub fn start(options: RedisOptions) -> Result<Self, Error> {
        let RedisOptions { dir, port: asked, binary, durability, supervised, ready_within } = options;
        let start = |port| start_on(port, Folder::open(&dir, PROGRAM)?, command(binary.clone(), durability, port), ready_within);
        let redis = match asked {
            Some(port) => start(port)?,
            None => first_free(start)?,
        };
        if supervised {
            redis.process.supervise();
        }
        Ok(redis)
    }

    /// Where clients connect: `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port, the same through every restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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

    /// Kills it with SIGKILL and returns when it is gone; it stays down, also when supervised.
    pub fn kill9(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port and folder, after an orderly end if it still runs.
    ///
    /// # Errors
    /// The server does not get ready.
    pub fn restart(&self) -> Result<(), Error> {
        self.process.lay_down();
        let port = self.port;
        restart(&self.process, self.ready_within, |process, within| until_ready(process, port, within))
    }

    /// Waits until a client gets an answer, for instance after a death under supervision.
    ///
    /// # Errors
    /// The server is down or does not answer in time.
    pub fn wait_ready(&self) -> Result<(), Error> {
        until_ready(&self.process, self.port, self.ready_within)
    }

    /// Freezes it with SIGSTOP: connections stay open and nothing answers.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn pause(&self) -> Result<(), Error> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on after [`Redis::pause`].
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn resume(&self) -> Result<(), Error> {
        self.process.signal(Signal::CONT)
    }

    /// Ends it in order: SIGTERM, and SIGKILL when that takes too long.
    pub fn stop(self) {
        self.process.stop();
    }
}

/// What Redis logs when it cannot have its port.
const IN_USE: &str = "Address already in use";

/// Starts on one free port after the other, for as long as somebody else is quicker.
fn first_free(start: impl Fn(u16) -> Result<Redis, Error>) -> Result<Redis, Error> {
    let mut tries_left = PORTS_TRIED_MAX;
    loop {
        match start(free_port()?) {
            Err(Error::PortInUse { .. }) if tries_left > 0 => tries_left -= 1,
            other => return other,
        }
    }
}

fn start_on(port: u16, folder: Folder, make: MakeCommand, ready_within: Duration) -> Result<Redis, Error> {
    let taken = Error::PortInUse { program: PROGRAM, port };
    if port_is_taken(port) {
        return Err(taken);
    }
    let process = Process::start(PROGRAM, folder, make)?;
    match until_ready(&process, port, ready_within) {
        Ok(()) => Ok(Redis { process, port, ready_within }),
        // It ended because of the port, though that may be free again: whoever only tried it had it for a moment.
        Err(Error::Exited { log_tail, .. }) if log_tail.contains(IN_USE) => Err(taken),
        Err(error) => Err(error),
    }
}

/// A port that nobody listens on now, below the range that the kernel gives to outgoing connections: another one with each call.
///
/// The first one differs between processes, so that test programs that start together seldom meet; from there a process walks
/// on, so that it is given no port twice before it has been round all of them.
///
/// # Errors
/// [`Error::PortInUse`] when many in a row are taken.
pub fn free_port() -> Result<u16, Error> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static FIRST: LazyLock<u32> = LazyLock::new(scatter);
    for _ in 0..PORTS_TRIED_MAX {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = (*FIRST + step) % u32::from(PORT_COUNT);
        let port = PORT_FIRST + u16::try_from(offset).unwrap_or_default();
        if !port_is_taken(port) {
            return Ok(port);
        }
    }
    Err(Error::PortInUse { program: PROGRAM, port: PORT_FIRST })
}

fn scatter() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map(|now| now.subsec_nanos()).unwrap_or_default();
    (std::process::id().wrapping_mul(2_654_435_761) ^ (nanos >> 10)) >> 8
}

/// It works in its folder (see `process`), so `--dir` can stay away and an odd path needs no quoting.
fn command(binary: PathBuf, durability: Durability, port: u16) -> MakeCommand {
    Box::new(move || {
        let mut command = Command::new(&binary);
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir", "./"])
            .args(["--appendonly", "yes", "--appendfsync", durability.appendfsync()])
            .args(["--maxmemory-policy", "noeviction", "--save", ""])
            // Small and quickly growing, it would be written anew every few seconds under load; compressing it costs more than the disk.
            .args(["--auto-aof-rewrite-min-size", "256mb", "--rdbcompression", "no"])
            .args(["--daemonize", "no"]);
        command
    })
}

fn until_ready(process: &Process, port: u16, within: Duration) -> Result<(), Error> {
    process.until_ready(within, |pid| answers(port, pid).then_some(()))
}

/// One round trip with this very process: `-LOADING` is not ready, and another server's answer
/// on a port that ours could not get is not taken for ours.
fn answers(port: u16, pid: i32) -> bool {
    round_trip(port, pid).unwrap_or(false)
}

fn round_trip(port: u16, pid: i32) -> std::io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(INFO_BYTES_MAX)).lines();
    stream.write_all(b"PING\r\n")?;
    let pong = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    if pong != "+PONG" {
        return Ok(false);
    }
    stream.write_all(b"INFO server\r\nQUIT\r\n")?;
    let ours = format!("process_id:{pid}");
    for line in lines {
        if line? == ours {
            return Ok(true);
        }
    }
    Ok(false)
}
