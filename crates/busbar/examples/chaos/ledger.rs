//! What the load was told: its own list, which the cell has to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known of a job that was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acknowledged {
    /// So many of its first attempts fail because they were told to.
    pub(crate) fails: u32,
    /// Its worker speaks CAP alone, and remembers no attempt: one that comes again is executed again.
    pub(crate) forgets: bool,
}

/// The list. Everything that submits shares it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// How many submissions were begun.
    pub(crate) submitted: u64,
    pub(crate) acknowledged: BTreeMap<String, Acknowledged>,
    /// The jobs that each idempotency key was answered with: one, or something is wrong.
    pub(crate) keys: BTreeMap<String, BTreeSet<String>>,
    /// Refusals, by code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Cancellations that were answered.
    pub(crate) cancels: u64,
}

impl Ledger {
    pub(crate) fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, submissions: usize) {
        self.lists().submitted += submissions as u64;
    }

    pub(crate) fn acknowledge(&self, job_id: &str, key: &str, job: Acknowledged) {
        let mut lists = self.lists();
        lists.acknowledged.insert(job_id.to_owned(), job);
        if !key.is_empty() {
            lists.keys.entry(key.to_owned()).or_default().insert(job_id.to_owned());
        }
    }

    pub(crate) fn refuse(&self, code: &str) {
        *self.lists().refused.entry(code.to_owned()).or_default() += 1;
    }
}
