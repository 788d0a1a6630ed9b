//! The word that it is time to end: first *gracefully* (take nothing new, finish what is there), then *immediately*.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A handle to give to whoever must know of the end, or may cause it. All clones speak of the same end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    graceful: CancellationToken,
    immediate: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] causes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that Ctrl-C and SIGTERM cause as well: the first signal is graceful, the second one immediate. Must be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::info!(signal = name, "ending; a second signal ends at once");
            told.trigger();
            let name = next(&mut interrupt, &mut terminate).await;
            tracing::warn!(signal = name, "ending at once");
            told.trigger_now();
        });
        Ok(shutdown)
    }

    /// A shutdown that comes with this one, or earlier on its own: for a part that can end while the rest goes on.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { graceful: self.graceful.child_token(), immediate: self.immediate.child_token() }
    }

    /// Asks for a graceful end.
    pub fn trigger(&self) {
        self.graceful.cancel();
    }

    /// Asks for an immediate end.
    pub fn trigger_now(&self) {
        self.graceful.cancel();
        self.immediate.cancel();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.graceful.is_cancelled()
    }

    /// Whether the immediate end was asked for.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.immediate.is_cancelled()
    }

    /// Waits until the end is asked for.
    pub async fn triggered(&self) {
        self.graceful.cancelled().await;
    }

    /// Waits until the immediate end is asked for.
    pub async fn immediate(&self) {
        self.immediate.cancelled().await;
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clones_and_children_hear_of_it() {
        let shutdown = Shutdown::new();
        let (clone, child) = (shutdown.clone(), shutdown.child());
        child.trigger();
        assert!(!shutdown.is_triggered(), "a child ends alone");
        let second = shutdown.child();
        shutdown.trigger();
        clone.triggered().await;
        second.triggered().await;
        assert!(!clone.is_immediate());
        clone.trigger_now();
        second.immediate().await;
    }
}
