//! What the tests share: stacks that really run, a client, a worker that counts, and waiting for states.

mod breaker;
mod cap_sdk;
mod client;
mod collector;
mod dev;
mod forgetful;
mod guarded;
mod guests;
mod noise;
mod packs;
mod programs;
mod prover;
mod roles;
mod signals;
mod sleeper;
mod truth;
mod wire;

use std::thread;
use std::time::{Duration, Instant};

pub(crate) use breaker::{Breaker, WORK, chaos_pack};
pub(crate) use cap_sdk::{CapSdk, cap_pack, executions};
pub(crate) use client::Client;
pub(crate) use collector::{Collector, Span, tree};
pub(crate) use dev::{Dev, DevOptions, Endpoints, program};
pub(crate) use forgetful::Forgetful;
pub(crate) use guarded::Guarded;
pub(crate) use guests::{empty, guest, guest_pack, looping, sleeping};
pub(crate) use noise::Noise;
pub(crate) use packs::{SLEEP, archive_of, shipped_pack, source_pack, write_test_pack};
pub(crate) use programs::{Process, built};
pub(crate) use prover::{Prover, ctl, scheduler_key, scheduler_public_key, trusting, verdict};
pub(crate) use roles::Roles;
pub(crate) use signals::{freeze, is_alive, kill9, signal, thaw};
pub(crate) use sleeper::{Executions, Sleeper, sleeper_program};
pub(crate) use truth::{Ends, Truth};
pub(crate) use wire::{Wire, item_of, result_of, saying};

/// How long anything may take, at the small size and at the full one.
const DEADLINE: Duration = Duration::from_secs(120);
const DEADLINE_FULL: Duration = Duration::from_secs(3 * 3_600);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How much a test does: `small` among all the others, `full` where `tools/chaos NAME` runs it alone.
pub(crate) fn size(small: usize, full: usize) -> usize {
    if is_full() { full } else { small }
}

fn is_full() -> bool {
    std::env::var_os("BUSBAR_TEST_SIZE").is_some_and(|size| size == "full")
}

/// Waits until `look` sees something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let within = if is_full() { DEADLINE_FULL } else { DEADLINE };
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not seen within {within:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
