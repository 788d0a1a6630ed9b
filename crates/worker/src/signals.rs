//! SIGTERM and Ctrl-C: the first asks for a drain, the second for the end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What was asked for so far. Clones hear of the same signals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    first: CancellationToken,
    second: CancellationToken,
}

impl Signals {
    /// Begins to listen. Must be called inside a tokio runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let signals = Self::default();
        let told = signals.clone();
        tokio::spawn(async move {
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::info!(signal = name, "finishing what is held; a second signal ends at once");
            told.first.cancel();
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::warn!(signal = name, "ending at once");
            told.second.cancel();
        });
        Ok(signals)
    }

    /// Waits for the first signal.
    pub(crate) async fn first(&self) {
        self.first.cancelled().await;
    }

    /// Waits for the second signal.
    pub(crate) async fn second(&self) {
        self.second.cancelled().await;
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
