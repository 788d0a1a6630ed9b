//! What can go wrong with a server, with enough context to act on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::search::Version;

/// One place that was looked at, and why it did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The file or folder that was looked at.
    pub place: PathBuf,
    /// Why it was not taken, as the end of a sentence.
    pub why: String,
}

/// Why a server could not be found, started or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server that is new enough was found.
    #[error(
        "no {program} {minimum} or newer was found ({}); run `tools/setup`, or install one and set {variable} to its path",
        list(tried)
    )]
    Missing {
        /// Which program.
        program: &'static str,
        /// The oldest version that does.
        minimum: Version,
        /// The environment variable that names one directly.
        variable: &'static str,
        /// Where it was looked for.
        tried: Vec<Tried>,
    },
    /// A file or folder could not be used.
    #[error("could not {doing} {}", path.display())]
    File {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another living process keeps a server in this folder.
    #[error("{} is in use by another running process", dir.display())]
    FolderInUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A server that was left in the folder did not end although it was killed.
    #[error("process {pid}, left in {} by an earlier start, did not end", dir.display())]
    Leftover {
        /// Its process id.
        pid: i32,
        /// The folder it holds.
        dir: PathBuf,
    },
    /// The program could not be executed, or its thread could not be started.
    #[error("could not start {program}")]
    Spawn {
        /// Which program.
        program: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The port that was asked for is taken.
    #[error("{program} cannot listen on port {port}: it is in use")]
    PortInUse {
        /// Which program.
        program: &'static str,
        /// The port.
        port: u16,
    },
    /// The server ended before it was ready.
    #[error("{program} ended before it was ready ({status}); the end of its log:\n{log_tail}")]
    Exited {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// The server runs, but did not answer in time.
    #[error("{program} did not answer within {waited:?}; the end of its log:\n{log_tail}")]
    NotReady {
        /// Which program.
        program: &'static str,
        /// How long was waited.
        waited: Duration,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A signal was meant for a server that does not run.
    #[error("{program} is not running")]
    NotRunning {
        /// Which program.
        program: &'static str,
    },
}

impl Error {
    /// For `map_err`: a failed file operation with its path.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_path_buf(), source }
    }
}

fn list(tried: &[Tried]) -> String {
    if tried.is_empty() {
        return "nowhere to look".to_owned();
    }
    let places: Vec<String> = tried.iter().map(|tried| format!("{}: {}", tried.place.display(), tried.why)).collect();
    places.join("; ")
}
