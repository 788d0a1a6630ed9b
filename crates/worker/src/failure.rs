//! Why the process ends with an error.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use busbar_blobs::BlobError;
use busbar_sandbox::SandboxError;
use busbar_sdk::WorkerError;
use busbar_service::telemetry::TelemetryError;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("the health server cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no runtime")]
    Runtime(#[source] io::Error),
    #[error("signals cannot be listened for")]
    Signals(#[source] io::Error),
    #[error("the blob store cannot be opened")]
    Blobs(#[source] BlobError),
    #[error("the scratch folder {} cannot be used", path.display())]
    Scratch {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another worker uses the scratch folder {}: give each worker an --id of its own", path.display())]
    InUse { path: PathBuf },
    #[error("the sandbox cannot be set up")]
    Sandbox(#[from] SandboxError),
    #[error("what this process gives up cannot be given up")]
    Wall(#[source] Box<dyn Error + Send + Sync>),
    #[error("--wall require: this system lacks a part of the second wall (there is: {found}); see docs/operations.md")]
    WallMissing { found: &'static str },
    #[error("no threads for the guests")]
    Threads(#[source] io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("a second signal cut the drain short: what was held is given up")]
    CutShort,
}

impl Fatal {
    /// The failure and everything that caused it.
    pub(crate) fn in_full(&self) -> String {
        in_full(self)
    }

    /// 2 for what the caller got wrong on the command line, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Telemetry(TelemetryError::Filter { .. } | TelemetryError::Traces { .. })
            | Self::Blobs(BlobError::UrlInvalid { .. } | BlobError::SchemeUnsupported { .. })
            | Self::Worker(WorkerError::Id { .. }) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// An error and everything that caused it.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
