//! Watching: whoever judges a simulation sees what the models do at the instant at which they do it, past every fault.

use std::fmt;
use std::sync::{Arc, OnceLock};

use busbar_protocol::ports::{Delivery, Message, Settlement, Unit};
use busbar_protocol::time::Timestamp;

/// Somebody who watches. It is called in the middle of things, and must not call the models back.
pub trait Watch: fmt::Debug + Send + Sync {
    /// A unit was applied.
    fn applied(&self, at: Timestamp, unit: &Unit);
    /// All units of a call were dealt with.
    fn flushed(&self);
    /// A call with these units did not arrive. Its caller asks again, if it lives; meanwhile a later one may have arrived.
    fn lost(&self, units: &[Unit]);
    /// A lease was given, under this epoch.
    fn leased(&self, lock: &str, epoch: u64);
    /// A message has reached the server of the bus.
    fn published(&self, message: &Message);
    /// The reader of a stream has settled a delivery.
    fn settled(&self, delivery: &Delivery, settlement: Settlement);
}

/// The place for one watcher in a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    watcher: Arc<OnceLock<Arc<dyn Watch>>>,
}

impl Watched {
    /// From now on, this one watches; the first one stays.
    pub(crate) fn set(&self, watcher: Arc<dyn Watch>) {
        let _ = self.watcher.set(watcher);
    }

    /// Tells the watcher, if there is one.
    pub(crate) fn tell(&self, what: impl FnOnce(&dyn Watch)) {
        if let Some(watcher) = self.watcher.get() {
            what(watcher.as_ref());
        }
    }
}
