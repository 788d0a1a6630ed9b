//! The plan of the faults, which the seed fixes, and carrying it out.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cell::Cell;
use crate::chance::Chance;
use crate::say;

/// How long it is quiet between two faults, in milliseconds.
const QUIET_MS: std::ops::Range<u64> = 200..2_500;
/// Short for everybody.
const NAP_MS: std::ops::Range<u64> = 100..1_500;
/// Longer than a lease, and longer than a worker may be silent.
const SLEEP_MS: std::ops::Range<u64> = 2_500..8_000;

/// What is done to a process. It comes again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Freeze(u64),
    /// SIGTERM: an end in good order.
    Restart,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Freeze(_) => "stop, continue",
            Self::Restart => "restart",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// When, in milliseconds from the start.
    pub(crate) at_ms: u64,
    pub(crate) target: String,
    pub(crate) kind: Kind,
}

/// Every fault of a run of so many seconds.
pub(crate) fn plan(seed: u64, seconds: u64, targets: &[String]) -> Vec<Fault> {
    let mut chance = Chance::new(seed, 1);
    let mut faults = Vec::new();
    let mut at_ms = chance.within(QUIET_MS);
    while at_ms < seconds * 1_000 {
        let target = chance.one(targets).clone();
        let kind = match chance.within(0..10) {
            0..5 => Kind::Kill,
            5..7 => Kind::Freeze(chance.within(NAP_MS)),
            7..8 => Kind::Freeze(chance.within(SLEEP_MS)),
            _ => Kind::Restart,
        };
        faults.push(Fault { at_ms, target, kind });
        at_ms += chance.within(QUIET_MS);
    }
    faults
}

/// How often each kind of fault befell each kind of process.
pub(crate) type Counts = BTreeMap<(&'static str, String), u64>;

/// Carries the plan out. In the end everything may go on.
pub(crate) async fn inflict(cell: &Cell, plan: &[Fault], started: Instant) -> Counts {
    let mut counts = Counts::new();
    let mut frozen: Vec<(Instant, u32)> = Vec::new();
    for fault in plan {
        thaw_until(&mut frozen, started + Duration::from_millis(fault.at_ms)).await;
        // One that is just being started again is spared.
        let Some(pid) = cell.pid(&fault.target) else { continue };
        match fault.kind {
            Kind::Kill => signal(pid, Signal::KILL),
            Kind::Restart => {
                signal(pid, Signal::TERM);
                // One that is frozen would hear of it only later.
                signal(pid, Signal::CONT);
            }
            Kind::Freeze(ms) => {
                signal(pid, Signal::STOP);
                frozen.push((Instant::now() + Duration::from_millis(ms), pid));
            }
        }
        say(&format!("{:>7.1} s  {:<14}  {}", started.elapsed().as_secs_f64(), fault.kind.name(), fault.target));
        let of = fault.target.split('-').next().unwrap_or_default().to_owned();
        *counts.entry((fault.kind.name(), of)).or_default() += 1;
    }
    while let Some(last) = frozen.iter().map(|(until, _)| *until).max() {
        thaw_until(&mut frozen, last).await;
    }
    counts
}

/// Waits, and lets those go on meanwhile whose time has come.
async fn thaw_until(frozen: &mut Vec<(Instant, u32)>, until: Instant) {
    loop {
        let now = Instant::now();
        frozen.retain(|(thaw, pid)| {
            let sleeps_on = *thaw > now;
            if !sleeps_on {
                signal(*pid, Signal::CONT);
            }
            sleeps_on
        });
        if now >= until {
            return;
        }
        let next = frozen.iter().map(|(thaw, _)| *thaw).min().map_or(until, |thaw| thaw.min(until));
        sleep_until(next).await;
        // The end of a sleep may be told a moment early.
        sleep(Duration::from_millis(1)).await;
    }
}

/// That it is gone already is as good.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
