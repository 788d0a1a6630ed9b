//! What the tests share: stacks that really run, a client, a worker that counts, and waiting for states.

mod client;
mod collector;
mod dev;
mod guests;
mod packs;
mod programs;
mod signals;
mod sleeper;
mod truth;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use collector::{Collector, Span, tree};
pub(crate) use dev::{Dev, DevOptions, Endpoints, program};
pub(crate) use guests::{empty, guest, guest_pack, looping, sleeping};
pub(crate) use packs::{SLEEP, archive_of, shipped_pack, source_pack, write_test_pack};
pub(crate) use programs::{Process, built};
pub(crate) use signals::{freeze, is_alive, kill9, signal, thaw};
pub(crate) use sleeper::{Executions, Sleeper, sleeper_program};
pub(crate) use truth::Truth;

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `look` sees something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not seen within {DEADLINE:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
