//! The layer in which planted faults live: a port that does not quite do what its owner believes.

mod bus;
mod messages;
mod records;
mod units;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

use crate::plant::Plant;

pub use bus::SabotagedConsumer;

/// What the ports of one process have in common: the planted fault, if there is one, and what it has to remember. It ends with
/// the process, and with it what the fault has put off.
#[derive(Clone, Debug)]
pub struct Saboteur {
    plant: Option<Plant>,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    /// The epoch of the lease that was held last.
    held: Option<u64>,
    /// Units with other ids than their owner gave them.
    units: u64,
    /// The attempt of each job that was committed last, while somebody holds it.
    present: BTreeMap<String, u32>,
    later: JoinSet<()>,
}

impl Saboteur {
    /// The saboteur of one process; without a fault it does nothing.
    #[must_use]
    pub fn new(plant: Option<Plant>) -> Self {
        Self { plant, memory: Arc::default() }
    }

    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something later, if the process still lives then.
    fn later(&self, what: impl Future<Output = ()> + Send + 'static) {
        self.memory().later.spawn(what);
    }
}

/// A port with a saboteur in it.
#[derive(Clone, Debug)]
pub struct Sabotaged<P> {
    port: P,
    saboteur: Saboteur,
}

impl<P> Sabotaged<P> {
    /// Lets a saboteur at a port.
    pub const fn new(port: P, saboteur: Saboteur) -> Self {
        Self { port, saboteur }
    }

    fn has(&self, plant: Plant) -> bool {
        self.saboteur.has(plant)
    }
}
