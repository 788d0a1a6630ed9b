//! What can go wrong with `dev` alone.

use std::io;
use std::path::PathBuf;

use busbar_protocol::ports::StoreError;

/// What can go wrong with `dev` alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("there is no default data folder, because neither XDG_STATE_HOME nor HOME is set; give --data-dir")]
    NoHome,
    #[error("could not {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another `busbar dev`{}; end it, or give another --data-dir", dir.display(), of_process(pid.as_deref()))]
    InUse { dir: PathBuf, pid: Option<String> },
    #[error(transparent)]
    Servers(#[from] busbar_servers::Error),
    #[error("there is no folder of packs at {}", path.display())]
    NoPacks { path: PathBuf },
    #[error("the pack {name} cannot be installed: {code}: {detail}")]
    Pack { name: String, code: String, detail: String },
    #[error("there is no worker program at {}; build it (`cargo build -p busbar-worker`), or give --workers 0", path.display())]
    NoWorkerProgram { path: PathBuf },
    #[error("the workers are not there after {seconds} s: {missing}; their logs stand below {}", logs.display())]
    WorkersAway { seconds: u64, missing: String, logs: PathBuf },
    #[error("the stack is not ready after {seconds} s: {said}")]
    NotReady { seconds: u64, said: String },
    #[error("the API key could not be kept in the store")]
    Key(#[source] StoreError),
    #[error("a part of dev panicked: {detail}")]
    Panicked { detail: String },
}

impl DevError {
    /// For `map_err`: a failed file operation with its path.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { doing, path: path.into(), source }
    }
}

fn of_process(pid: Option<&str>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
