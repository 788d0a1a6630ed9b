//! A real nats-server with JetStream, on a port that it picks itself or on a given one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use crate::error::Error;
use crate::folder::Folder;
use crate::process::{MakeCommand, Process, fresh_dir, port_is_taken, restart};

const PROGRAM: &str = "nats-server";
/// How long one probe may take; a new one follows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to start a nats-server.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// A folder of its own: data (`js`), log, pid file.
    pub dir: PathBuf,
    /// The port, or `None` for a free one.
    pub port: Option<u16>,
    /// The program, from [`crate::Search::find_nats`].
    pub binary: PathBuf,
    /// Whether to start it again when it dies without being asked to.
    pub supervised: bool,
    /// Whether it tells what it does over HTTP, on a free port of this machine.
    pub monitored: bool,
    /// How long it may take until it answers, recovery of its streams included.
    pub ready_within: Duration,
}

impl NatsOptions {
    /// A free port, not supervised, not monitored, ready within a minute.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, binary: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            binary: binary.into(),
            supervised: false,
            monitored: false,
            ready_within: Duration::from_secs(60),
        }
    }
}

/// A running nats-server. Dropping it kills the server; [`Nats::stop`] ends it in order.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    port: u16,
    ready_within: Duration,
}

/// What nats-server writes into its ports file; the other listeners do not interest us.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

impl Nats {
    /// Starts a server and returns when a client got an answer from it.
    ///
    /// # Errors
    /// The folder is in use or unusable, the port is taken, or the server does not get ready.
    pub fn start(options: NatsOptions) -> Result<Self, Error> {
        let NatsOptions { dir, port: asked, binary, supervised, monitored, ready_within } = options;
        let folder = Folder::open(&dir, PROGRAM)?;
        if let Some(port) = asked
            && port_is_taken(port)
        {
            return Err(Error::PortInUse { program: PROGRAM, port });
        }
        let port = Arc::new(OnceLock::new());
        let make = command(binary, asked, monitored, folder.dir().to_path_buf(), Arc::clone(&port));
        fresh_dir(&ports_dir(folder.dir()))?;
        let process = Process::start(PROGRAM, folder, make)?;
        let found = until_ready(&process, ready_within)?;
        // Every later life listens where the first one did.
        let port = *port.get_or_init(|| found);
        if supervised {
            process.supervise();
        }
        Ok(Self { process, port, ready_within })
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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

    /// Where its present life tells what it does, `http://127.0.0.1:PORT`, if it is monitored and runs.
    #[must_use]
    pub fn monitoring_url(&self) -> Option<String> {
        let pid = i32::try_from(self.process.pid()?).ok()?;
        read_ports(&ports_dir(self.process.folder().dir()), pid)?.monitoring.into_iter().next()
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
        restart(&self.process, self.ready_within, until_ready)
    }

    /// Waits until a client gets an answer, for instance after a death under supervision.
    ///
    /// # Errors
    /// The server is down or does not answer in time.
    pub fn wait_ready(&self) -> Result<(), Error> {
        until_ready(&self.process, self.ready_within).map(drop)
    }

    /// Freezes it with SIGSTOP: connections stay open and nothing answers.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn pause(&self) -> Result<(), Error> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on after [`Nats::pause`].
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

/// The first life listens where it was asked to, or where the server likes; later ones where the first one did.
fn command(binary: PathBuf, asked: Option<u16>, monitored: bool, dir: PathBuf, found: Arc<OnceLock<u16>>) -> MakeCommand {
    Box::new(move || {
        let port = found.get().copied().or(asked);
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let mut command = Command::new(&binary);
        command
            .args(["-a", "127.0.0.1", "-p", &port])
            .arg("--ports_file_dir")
            .arg(ports_dir(&dir))
            .args(["-js", "-sd"])
            .arg(dir.join("js"));
        if monitored {
            command.args(["-m", "-1"]);
        }
        command
    })
}

fn ports_dir(dir: &Path) -> PathBuf {
    dir.join("ports")
}

fn until_ready(process: &Process, within: Duration) -> Result<u16, Error> {
    let ports = ports_dir(process.folder().dir());
    process.until_ready(within, |pid| {
        let port = read_port(&ports, pid)?;
        answers(port).then_some(port)
    })
}

/// The port from the file that names this very process: another server's answer cannot be taken
/// for ours.
fn read_port(ports: &Path, pid: i32) -> Option<u16> {
    read_ports(ports, pid)?.nats.first()?.rsplit(':').next()?.parse().ok()
}

fn read_ports(ports: &Path, pid: i32) -> Option<Ports> {
    let ending = format!("_{pid}.ports");
    let file =
        fs::read_dir(ports).ok()?.filter_map(Result::ok).find(|entry| entry.file_name().to_string_lossy().ends_with(&ending))?;
    serde_json::from_slice(&fs::read(file.path()).ok()?).ok()
}

/// One round trip: INFO with JetStream, then PING and PONG.
fn answers(port: u16) -> bool {
    round_trip(port).unwrap_or(false)
}

fn round_trip(port: u16) -> std::io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let info = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    if !info.starts_with("INFO ") || !info.contains("\"jetstream\":true") {
        return Ok(false);
    }
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    let answer = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    Ok(answer == "PONG")
}
