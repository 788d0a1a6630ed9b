//! One worker as we know it, and the slots that it has given out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::busbar::{WorkerBeat, WorkerKind, WorkerView};
use busbar_protocol::ids::{JobId, SDK_DEFAULT_WORKERS};
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicPattern;

use super::super::flow::Charge;
use super::super::holds::Holds;
use super::{Patience, Silence};

/// A heartbeat that is older than a dispatch says nothing about it; they come every fourteen seconds at the latest.
const HEARTBEAT_LAG: Duration = Duration::from_secs(20);

/// How often a native worker beats that holds something, and at least one that does not, whatever it says.
const BEAT: Duration = Duration::from_secs(1);
const BEAT_MAX: Duration = Duration::from_secs(30);

/// An earlier start of a worker that is still heard after so long is alive.
const ELDER_LAG: Duration = Duration::from_secs(2);

/// The most that a worker is believed to take at once: what is more is a mistake, or worse.
pub const CAPACITY_MAX: u32 = 100_000;

/// One attempt of one job.
pub type AttemptKey = (JobId, u32);

/// A worker as we know it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Native or announced.
    pub kind: WorkerKind,
    /// Its pool, or empty.
    pub pool: String,
    /// How many attempts it takes at once.
    pub capacity: u32,
    /// How many it takes beyond that, to have them at hand.
    pub prefetch: u32,
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
    /// The start of its process.
    pub incarnation: String,
    /// The last beat's number.
    pub sequence: u64,
    /// Topics that it serves, exact or wildcard. Empty means every topic of its pool, for native workers.
    pub topics: Vec<String>,
    /// The same, ready for matching; what cannot be read as a pattern serves nothing.
    pub patterns: Vec<TopicPattern>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its capabilities.
    pub capabilities: BTreeSet<String>,
    /// Its region.
    pub region: String,
    /// What kind of machine or program it says it is.
    pub worker_type: String,
    /// Reported load, 0 to 100.
    pub cpu_load: f32,
    /// Reported load, 0 to 100.
    pub memory_load: f32,
    /// When it was last heard.
    pub seen: Timestamp,
    /// How long it may be silent, as it said itself; only one that holds nothing says more than [`BEAT`].
    rests: Duration,
    /// Since when something is out that it should show.
    pub(super) busy_since: Timestamp,
    /// It was not heard for too long.
    pub lost: bool,
    /// It gets many attempts in one message, if it listens where it says so.
    pub(super) takes_batches: bool,
    /// Nobody listened there, in this start of its process.
    pub(super) hears_no_batches: bool,
    /// Nobody listened when something was sent to it, or the bus was away, and it was not heard since.
    pub(super) absent: bool,
    /// It said good-bye then, and its last results may still be on their way.
    pub(super) left: Option<Timestamp>,
    /// Since when each heartbeat of an announced worker says that it executes nothing.
    idle_since: Option<Timestamp>,
    /// An announced worker has said once that it executes something, so that it counts.
    counts: bool,
    /// Several processes answer to its id, so that none of them can be addressed.
    pub shared: bool,
    /// When an earlier start of it was heard that should be gone, since when that goes on.
    pub(super) elder: Option<Timestamp>,
    /// Slots that are taken.
    pub out: BTreeMap<AttemptKey, Out>,
}

/// A slot that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// The start of the worker's process to which it was sent; empty where that was not known.
    pub incarnation: String,
    /// When the attempt was last sent or last shown by the worker.
    pub confirmed: Timestamp,
    /// The worker has shown it at least once.
    pub shown: bool,
    /// It is still the present attempt of its job.
    pub current: bool,
    /// How often it was sent since it was last shown.
    pub sends: u32,
    /// When the worker was last told that nobody waits for it.
    pub unwanted: Option<Timestamp>,
    /// Whoever sent it died about then, perhaps before it had left.
    pub in_doubt: bool,
    /// On whose account it is out; unknown for what an earlier scheduler sent and has ended since.
    pub charge: Option<Charge>,
}

impl Out {
    pub(super) fn new(incarnation: String, now: Timestamp) -> Self {
        Self {
            incarnation,
            confirmed: now,
            shown: false,
            current: false,
            sends: 0,
            unwanted: None,
            in_doubt: false,
            charge: None,
        }
    }
}

impl Worker {
    /// Removes what was sent to other starts of the worker than this one, and names what was present of it.
    pub(super) fn bury(&mut self, incarnation: &str, released: &mut Vec<Charge>) -> Vec<AttemptKey> {
        let is_dead = |out: &Out| !out.incarnation.is_empty() && out.incarnation != incarnation;
        give_up(self.out.extract_if(.., |_, out| is_dead(out)), released)
    }

    /// A start that should be gone is still heard. Once can be a late message; if it goes on, two processes share the id.
    pub(super) fn hear_elder(&mut self, now: Timestamp) {
        self.shared |= self.elder.is_some_and(|last| now.since(last) > ELDER_LAG);
        if self.elder.is_none() || self.shared {
            self.elder = Some(now);
        }
    }

    /// What it offers: when that changes, there may be room.
    pub(super) fn offer(&self) -> (u32, u32, bool, bool) {
        (self.capacity, self.prefetch, self.draining, self.lost)
    }

    pub(super) fn new(kind: WorkerKind, now: Timestamp) -> Self {
        Self {
            kind,
            pool: String::new(),
            capacity: 0,
            prefetch: 0,
            draining: false,
            incarnation: String::new(),
            sequence: 0,
            topics: Vec::new(),
            patterns: Vec::new(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            region: String::new(),
            worker_type: String::new(),
            cpu_load: 0.0,
            memory_load: 0.0,
            seen: now,
            rests: BEAT,
            busy_since: now,
            lost: false,
            takes_batches: false,
            hears_no_batches: false,
            absent: false,
            left: None,
            idle_since: None,
            counts: false,
            shared: false,
            elder: None,
            out: BTreeMap::new(),
        }
    }

    /// One that announces itself. An SDK's default name belongs to nobody: each process that has it would get what is sent to it, so
    /// they are reached through the queue groups of their topics.
    pub(super) fn announced(id: &str, now: Timestamp) -> Self {
        Self { shared: SDK_DEFAULT_WORKERS.contains(&id), ..Self::new(WorkerKind::Announced, now) }
    }

    /// Incarnations are identifiers of version 7, whose order is that of time: a late beat of an earlier start is no restart.
    pub(super) fn is_older_start(&self, incarnation: &str) -> bool {
        self.kind == WorkerKind::Native && !self.incarnation.is_empty() && *incarnation < *self.incarnation
    }

    /// Takes what a beat says; whether there may be room now that was not there before.
    pub(super) fn read_beat(&mut self, beat: &WorkerBeat, now: Timestamp) -> bool {
        let before = self.offer();
        let was_silent = !self.is_fresh(now);
        let is_new = self.incarnation != beat.incarnation;
        self.rests = Duration::from_millis(beat.next_ms.into()).clamp(BEAT, BEAT_MAX);
        self.kind = WorkerKind::Native;
        self.pool.clone_from(&beat.pool);
        self.capacity = beat.capacity.min(CAPACITY_MAX);
        self.prefetch = beat.prefetch.min(CAPACITY_MAX);
        self.draining = beat.draining;
        self.takes_batches = beat.takes_batches;
        self.hears_no_batches &= !is_new;
        self.incarnation.clone_from(&beat.incarnation);
        self.sequence = beat.sequence;
        let serves_others = self.serve(&beat.topics);
        self.labels.clone_from(&beat.labels);
        self.capabilities = beat.capabilities.iter().map(|c| c.to_lowercase()).collect();
        self.region.clone_from(&beat.region);
        self.worker_type.clone_from(&beat.worker_type);
        (self.cpu_load, self.memory_load) = (percent(beat.cpu_load), percent(beat.memory_load));
        self.seen = now;
        (self.lost, self.absent) = (false, false);
        is_new || serves_others || was_silent || self.offer() != before
    }

    /// Takes the topics that it serves; whether they are others than before.
    pub(super) fn serve(&mut self, topics: &[String]) -> bool {
        if self.topics == topics {
            return false;
        }
        self.topics = topics.to_vec();
        self.patterns = topics.iter().filter_map(|text| TopicPattern::parse(text).ok()).collect();
        true
    }

    /// Takes what a heartbeat says of how much is executed. A worker that executes less than it could has nothing waiting inside it: what
    /// it holds is what it executes, and attempts that were given up long enough ago are among the rest, which are returned.
    pub(super) fn count(&mut self, active: u32, now: Timestamp) -> Vec<(AttemptKey, Out)> {
        self.counts |= active > 0;
        self.idle_since = if active == 0 { self.idle_since.or(Some(now)) } else { None };
        if active >= self.capacity {
            return Vec::new();
        }
        let mut over = self.out.len().saturating_sub(usize::try_from(active).unwrap_or(usize::MAX));
        let is_gone = |_: &AttemptKey, out: &mut Out| {
            let gone = over > 0 && !out.current && now.since(out.confirmed) > HEARTBEAT_LAG;
            over -= usize::from(gone);
            gone
        };
        self.out.extract_if(.., is_gone).collect()
    }

    /// It has started anew, perhaps as another program: what it said of how much it executes is of the past.
    pub(super) fn starts_anew(&mut self) {
        (self.idle_since, self.counts) = (None, false);
    }

    /// Attempts that an announced worker was given and does not have: for so long it has said that it executes nothing. One that always
    /// said so may not count at all; of what it was given only that is lost which may never have been sent.
    pub(super) fn forgotten(&mut self, patience: &Patience, heard_since: Timestamp) -> Vec<(AttemptKey, Out)> {
        let Some(idle_since) = self.idle_since.filter(|_| !self.shared) else { return Vec::new() };
        let (seen, counts) = (self.seen, self.counts);
        let is_gone = |_: &AttemptKey, out: &mut Out| {
            let since = out.confirmed.max(idle_since).max(heard_since);
            out.current && (counts || out.in_doubt) && seen.since(since) > patience.announced
        };
        self.out.extract_if(.., is_gone).collect()
    }

    /// Whether it has something that it should show in its beats.
    pub(super) fn is_busy(&self) -> bool {
        self.out.values().any(|out| out.current || out.shown)
    }

    /// Since when nothing was heard that should have been. One that rests has until its next beat, unless it was given something.
    pub(super) fn silent_since(&self) -> Timestamp {
        if self.rests > BEAT && self.is_busy() { self.seen.max(self.busy_since) } else { self.seen }
    }

    /// Whether it has been silent for no longer than it said. Who has not may be gone, and is given nothing more before it is heard.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        !self.absent && (self.kind != WorkerKind::Native || now.since(self.seen) <= self.rests * 3 / 2 + BEAT)
    }

    /// How long a native worker that holds nothing may be silent.
    pub(super) fn rest_patience(&self, patience: &Patience) -> Duration {
        patience.native / 2 + self.rests * 5 / 2
    }

    pub(super) fn patience(&self, patience: &Patience) -> Duration {
        match self.kind {
            WorkerKind::Native if self.is_busy() => patience.native,
            WorkerKind::Native => self.rest_patience(patience),
            WorkerKind::Announced | WorkerKind::Silent | WorkerKind::Unspecified => patience.announced,
        }
    }

    /// Attempts that the worker, though alive, has not shown for too long: those that it is no longer counted for are returned.
    pub(super) fn unshown(
        &mut self,
        id: &str,
        patience: &Patience,
        heard_since: Timestamp,
        now: Timestamp,
        silence: &mut Silence,
    ) -> Vec<(AttemptKey, Out)> {
        let (seen, rests) = (self.seen, self.rests > BEAT);
        let is_gone = |key: &AttemptKey, out: &mut Out| {
            let silent = seen <= out.confirmed;
            // A worker that has said nothing since has had nothing to show it in; perhaps it restarts just now. One that rests would
            // have said something if it had come.
            let patience_is_over = match (silent, rests) {
                (false, _) => now.since(out.confirmed.max(heard_since)) > patience.accept,
                (true, true) => now.since(out.confirmed.max(heard_since)) > patience.accept / 2,
                (true, false) => false,
            };
            if !patience_is_over {
                return false;
            }
            if !out.current {
                return !silent;
            }
            if out.sends >= patience.sends {
                silence.unreachable.push((key.clone(), id.to_owned()));
                return true;
            }
            (out.confirmed, out.sends) = (now, out.sends + 1);
            silence.resend.push((key.clone(), id.to_owned()));
            false
        };
        self.out.extract_if(.., is_gone).collect()
    }

    /// How it stands, in one word, and why, where somebody or something keeps it from taking work.
    #[must_use]
    pub fn standing(&self, id: &str, patience: &Patience, holds: &Holds, now: Timestamp) -> (&'static str, Option<String>) {
        let stale = now.since(self.seen) > self.patience(patience) / 2;
        let blocked = holds.worker(id, now).map(|pause| pause.reason.clone());
        // Processes that share a default name are reached all the same, as a group.
        let stuck = self.shared && self.kind == WorkerKind::Native;
        let blocked = blocked.or_else(|| stuck.then(|| "two processes share this id".to_owned()));
        let drains = holds.drain_of(id).map(|drain| drain.reason.clone());
        let status = match (self.lost, &blocked, self.draining || drains.is_some(), stale) {
            (true, _, _, _) => "lost",
            (false, Some(_), _, _) => "blocked",
            (false, None, true, _) => "draining",
            (false, None, false, true) => "stale",
            (false, None, false, false) => "online",
        };
        (status, blocked.or(drains))
    }

    pub(super) fn view(&self, id: &str, patience: &Patience, holds: &Holds, now: Timestamp) -> WorkerView {
        let (status, reason) = self.standing(id, patience, holds, now);
        WorkerView {
            worker_id: id.to_owned(),
            kind: self.kind.into(),
            pool: self.pool.clone(),
            status: status.to_owned(),
            capacity: self.capacity,
            in_flight: u32::try_from(self.out.len()).unwrap_or(u32::MAX),
            last_seen_ms: self.seen.millis(),
            incarnation: self.incarnation.clone(),
            topics: self.topics.clone(),
            region: self.region.clone(),
            cpu_load: self.cpu_load,
            memory_load: self.memory_load,
            labels: self.labels.clone(),
            shared: self.shared,
            capabilities: self.capabilities.iter().cloned().collect(),
            reason: reason.unwrap_or_default(),
            prefetch: self.prefetch,
            worker_type: self.worker_type.clone(),
        }
    }
}

/// Gives back the charges of attempts that a worker has let go of; how many attempts they were.
pub(super) fn release(gone: impl IntoIterator<Item = (AttemptKey, Out)>, released: &mut Vec<Charge>) -> usize {
    let mut count = 0;
    for (_, out) in gone {
        released.extend(out.charge);
        count += 1;
    }
    count
}

/// The same; which of the attempts were the present ones of their jobs.
pub(super) fn give_up(gone: impl IntoIterator<Item = (AttemptKey, Out)>, released: &mut Vec<Charge>) -> Vec<AttemptKey> {
    let gone: Vec<_> = gone.into_iter().collect();
    let current = gone.iter().filter(|(_, out)| out.current).map(|(key, _)| key.clone()).collect();
    release(gone, released);
    current
}

/// A load that a worker tells: what is no percentage says nothing.
pub(super) fn percent(load: f32) -> f32 {
    if load.is_finite() { load.clamp(0.0, 100.0) } else { 0.0 }
}
