//! Why the process ends with an error.

use std::io;
use std::process::ExitCode;

use busbar_bus::ConnectError;
use busbar_protocol::ports::StoreError;
use busbar_service::TaskError;
use busbar_service::config::ConfigError;
use busbar_service::telemetry::TelemetryError;

use crate::config::Unfit;
use crate::conformance::ConformanceError;
use crate::dev::DevError;
use crate::keys::KeyError;
use crate::probe::ProbeError;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the configuration is not good")]
    Config(#[from] ConfigError),
    #[error("the configuration is not good")]
    Unfit(#[from] Unfit),
    #[error("logging cannot begin")]
    Telemetry(#[from] TelemetryError),
    #[error("nothing can be printed")]
    Output(#[source] io::Error),
    #[error("no runtime")]
    Runtime(#[source] io::Error),
    #[error("signals cannot be listened for")]
    Signals(#[source] io::Error),
    #[error("{what} cannot listen on {address}")]
    Listen {
        what: &'static str,
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the bus cannot be used")]
    Bus(#[from] ConnectError),
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error("{role} cannot start")]
    Start {
        role: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("a part of the service failed")]
    Task(#[from] TaskError),
    #[error(transparent)]
    Dev(#[from] DevError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the conversation with the conformance kit is broken off")]
    Conformance(#[from] ConformanceError),
    #[error("not ready")]
    Probe(#[from] ProbeError),
}

impl Failure {
    /// For `map_err`: a role that cannot start, and why.
    pub(crate) fn start<E: std::error::Error + Send + Sync + 'static>(role: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Start { role, source: Box::new(source) }
    }

    /// The failure and everything that caused it.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// 2 for what the caller got wrong on the command line or in the configuration, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Unfit(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
