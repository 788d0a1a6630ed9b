//! The workers that we know, and the slots that they have given out.
//!
//! A slot is taken by an attempt that was sent and is not known to be over. It is free when the worker says so, restarts or is
//! lost; not when the job ends, because a worker that was given up may still be busy with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::busbar::{WorkerBeat, WorkerKind, WorkerView};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::{JobId, SDK_DEFAULT_WORKERS};
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicPattern;

use super::flow::Charge;
use super::holds::Holds;
use super::job::Hold;

/// A heartbeat that is older than a dispatch says nothing about it; they come every fourteen seconds at the latest.
const HEARTBEAT_LAG: Duration = Duration::from_secs(20);

/// How often a native worker beats that holds something, and at least one that does not, whatever it says.
const BEAT: Duration = Duration::from_secs(1);
const BEAT_MAX: Duration = Duration::from_secs(30);

/// An earlier start of a worker that is still heard after so long is alive.
const ELDER_LAG: Duration = Duration::from_secs(2);

/// How often a worker is told that nobody waits for an attempt that it shows.
const UNWANTED_EVERY: Duration = Duration::from_secs(1);

/// How long the last results of a worker that has left may be on their way.
const LEFT_GRACE: Duration = Duration::from_secs(2);

/// The most that a worker is believed to take at once: what is more is a mistake, or worse.
pub const CAPACITY_MAX: u32 = 100_000;

/// One attempt of one job.
pub type AttemptKey = (JobId, u32);

/// Waiting times that decide what a silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A native worker that was not heard for so long is lost.
    pub native: Duration,
    /// An announced worker that was not heard for so long is lost.
    pub announced: Duration,
    /// A native worker shows an attempt in a beat within this time, or it is sent again.
    pub accept: Duration,
    /// How often it is sent before it counts as unreachable.
    pub sends: u32,
    /// How long a lost worker stays on the list.
    pub forget: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            native: Duration::from_secs(5),
            announced: Duration::from_secs(30),
            accept: Duration::from_secs(2),
            sends: 5,
            forget: Duration::from_secs(600),
        }
    }
}

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
    busy_since: Timestamp,
    /// It was not heard for too long.
    pub lost: bool,
    /// Nobody listened when something was sent to it, and it was not heard since.
    absent: bool,
    /// It said good-bye then, and its last results may still be on their way.
    left: Option<Timestamp>,
    /// Several processes answer to its id, so that none of them can be addressed.
    pub shared: bool,
    /// When an earlier start of it was heard that should be gone, since when that goes on.
    elder: Option<Timestamp>,
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
    /// On whose account it is out; unknown for what an earlier scheduler sent and has ended since.
    pub charge: Option<Charge>,
}

/// What follows from a sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Attempts that died with an earlier start of the worker.
    pub lost: Vec<AttemptKey>,
    /// Attempts of an earlier start of the worker that had left in good order.
    pub left: Vec<AttemptKey>,
    /// Attempts that the worker shows and that are present.
    pub evidence: Vec<AttemptKey>,
    /// Attempts that the worker shows and that nobody waits for.
    pub unwanted: Vec<AttemptKey>,
}

/// What follows from time passing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// Attempts whose worker was lost, with the worker.
    pub lost: Vec<(AttemptKey, String)>,
    /// Attempts whose worker has left in good order without finishing them, with the worker.
    pub left: Vec<(AttemptKey, String)>,
    /// Attempts that must be sent again, with the worker.
    pub resend: Vec<(AttemptKey, String)>,
    /// Attempts that were sent again and again and never shown.
    pub unreachable: Vec<(AttemptKey, String)>,
}

/// All workers by id.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    by_id: BTreeMap<String, Worker>,
    /// Charges of attempts that workers have let go of, until somebody takes them.
    released: Vec<Charge>,
    /// There may be room that was not there before.
    room_came: bool,
}

impl Workers {
    /// All workers.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Worker)> {
        self.by_id.iter()
    }

    /// One worker.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Worker> {
        self.by_id.get(id)
    }

    /// Forgets all slots; whoever knows the attempts takes them again. A native worker may hold attempts of jobs that have ended,
    /// which only its next beat tells, within a second: until then nobody knows what room it has.
    pub fn clear_slots(&mut self) {
        for worker in self.by_id.values_mut() {
            worker.out.clear();
            if worker.kind == WorkerKind::Native {
                (worker.capacity, worker.prefetch) = (0, 0);
            }
        }
        self.released.clear();
        self.room_came = true;
    }

    /// Charges of attempts that workers have let go of since the last call.
    pub fn take_released(&mut self) -> Vec<Charge> {
        std::mem::take(&mut self.released)
    }

    /// Whether there may be room now that was not there at the last call.
    pub fn take_room_came(&mut self) -> bool {
        std::mem::take(&mut self.room_came)
    }

    /// A native worker's beat.
    pub fn beat(&mut self, beat: &WorkerBeat, now: Timestamp) -> Heard {
        let Self { by_id, released, room_came } = self;
        let worker = by_id.entry(beat.worker_id.clone()).or_insert_with(|| Worker::new(WorkerKind::Native, now));
        let mut heard = Heard::default();
        let same_start = worker.incarnation == beat.incarnation;
        if same_start && beat.sequence <= worker.sequence {
            return heard;
        }
        if !same_start && worker.is_older_start(&beat.incarnation) {
            worker.hear_elder(now);
            return heard;
        }
        if !same_start {
            let gone = worker.bury(&beat.incarnation, released);
            let died = worker.left.is_none();
            *(if died { &mut heard.lost } else { &mut heard.left }) = gone;
            (worker.shared, worker.elder, worker.left) = (false, None, None);
        }
        *room_came |= worker.read_beat(beat, now);
        let shown: BTreeSet<AttemptKey> =
            beat.held.iter().filter_map(|held| JobId::parse(held.job_id.clone()).ok().map(|id| (id, held.attempt))).collect();
        for key in &shown {
            // A worker that holds what we did not send it holds an attempt of an earlier scheduler, or one that was given up.
            let out = worker.out.entry(key.clone()).or_insert_with(|| Out::new(beat.incarnation.clone(), now));
            (out.confirmed, out.shown, out.sends) = (now, true, 0);
            let told_lately = out.unwanted.is_some_and(|at| now.since(at) < UNWANTED_EVERY);
            if out.current {
                heard.evidence.push(key.clone());
            } else if !told_lately {
                // A worker that beats because it was told something must not be told again because it beats.
                out.unwanted = Some(now);
                heard.unwanted.push(key.clone());
            }
        }
        // What was given up and is no longer shown has left the worker.
        let gone = worker.out.extract_if(.., |key, out| !out.current && out.shown && !shown.contains(key));
        *room_came |= release(gone, released) > 0;
        if beat.leaving {
            // What it published last is still on its way through the stream: its attempts are given up a little later.
            (worker.lost, worker.left) = (true, Some(now));
        }
        heard
    }

    /// A CAP heartbeat.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Timestamp) {
        let Self { by_id, released, room_came } = self;
        let worker = by_id.entry(beat.worker_id.clone()).or_insert_with(|| Worker::announced(&beat.worker_id, now));
        (worker.cpu_load, worker.memory_load) = (percent(beat.cpu_load), percent(beat.memory_load));
        if worker.kind == WorkerKind::Native {
            return;
        }
        let before = worker.offer();
        worker.seen = now;
        worker.lost = false;
        worker.pool.clone_from(&beat.pool);
        worker.capacity = u32::try_from(beat.max_parallel_jobs).unwrap_or(0).clamp(1, CAPACITY_MAX);
        worker.region.clone_from(&beat.region);
        worker.worker_type.clone_from(&beat.r#type);
        worker.labels.clone_from(&beat.labels);
        worker.capabilities.extend(beat.capabilities.iter().map(|c| c.to_lowercase()));
        let gone = worker.settle_abandoned(u32::try_from(beat.active_jobs).unwrap_or(0), now);
        *room_came |= release(gone, released) > 0 || worker.offer() != before;
    }

    /// A CAP handshake that was sent at `sent`: a new start of the worker, whose earlier attempts are gone.
    pub fn handshake(&mut self, shake: &Handshake, sent: Timestamp, now: Timestamp) -> Heard {
        let Self { by_id, released, room_came } = self;
        let fresh = now.since(sent) < Duration::from_secs(30);
        let known = by_id.contains_key(&shake.component_id);
        let worker = by_id.entry(shake.component_id.clone()).or_insert_with(|| Worker::announced(&shake.component_id, sent));
        if worker.kind == WorkerKind::Native {
            return Heard::default();
        }
        worker.serve(&shake.ready_topics);
        worker.capabilities.extend(shake.capabilities.iter().filter(|(_, yes)| **yes).map(|(name, _)| name.to_lowercase()));
        if fresh {
            worker.seen = worker.seen.max(sent);
            worker.lost = false;
        } else if !known {
            // A handshake that was kept since an earlier time says what the worker serves, not that it lives.
            worker.lost = true;
        }
        let lost = give_up(worker.out.extract_if(.., |_, out| out.confirmed < sent), released);
        *room_came = true;
        Heard { lost, ..Heard::default() }
    }

    /// A slot is taken: the attempt is sent now.
    pub fn take(&mut self, hold: &Hold, key: AttemptKey, charge: Charge, now: Timestamp) {
        let worker = self.by_id.entry(hold.worker_id.clone()).or_insert_with(|| Worker::new(hold.kind, now));
        if !worker.is_busy() {
            worker.busy_since = now;
        }
        let out = Out { current: true, sends: 1, charge: Some(charge), ..Out::new(hold.incarnation.clone(), now) };
        self.released.extend(worker.out.insert(key, out).and_then(|before| before.charge));
    }

    /// The worker itself has said that the attempt is over.
    pub fn free(&mut self, id: &str, key: &AttemptKey) {
        if let Some(worker) = self.by_id.get_mut(id) {
            self.room_came |= release(worker.out.remove_entry(key), &mut self.released) > 0;
        }
    }

    /// Nobody listened where a worker should, when an attempt was sent to it: whether that was the only sending, so that the attempt
    /// cannot have come. It is free of it then, and nothing more is sent there before it is heard.
    pub fn never_came(&mut self, id: &str, key: &AttemptKey) -> bool {
        let Some(worker) = self.by_id.get_mut(id) else { return false };
        worker.absent = true;
        let sent_once = worker.out.get(key).is_some_and(|out| out.sends == 1 && !out.shown);
        if sent_once {
            release(worker.out.remove_entry(key), &mut self.released);
        }
        sent_once
    }

    /// An announced worker counts as lost from now on, until it is heard again; what it had.
    pub fn lose(&mut self, id: &str) -> Vec<AttemptKey> {
        let announced = self.by_id.get_mut(id).filter(|worker| worker.kind == WorkerKind::Announced);
        let Some(worker) = announced else { return Vec::new() };
        worker.lost = true;
        self.room_came = true;
        give_up(std::mem::take(&mut worker.out), &mut self.released)
    }

    /// The attempt is no longer the present one of its job; the slot stays taken until the worker says otherwise.
    pub fn abandon(&mut self, id: &str, key: &AttemptKey) {
        let Some(worker) = self.by_id.get_mut(id) else { return };
        if worker.lost && worker.left.is_none() {
            release(worker.out.remove_entry(key), &mut self.released);
        } else if let Some(out) = worker.out.get_mut(key) {
            out.current = false;
        }
    }

    /// Which attempt of a job this worker has, for results that name none.
    #[must_use]
    pub fn attempt_of(&self, id: &str, job: &JobId) -> Option<u32> {
        let worker = self.by_id.get(id)?;
        worker.out.range((job.clone(), 0)..=(job.clone(), u32::MAX)).next_back().map(|((_, attempt), _)| *attempt)
    }

    /// What the passing of time means. `heard_since` is when we could last hear at all: silence before it proves nothing.
    pub fn silence(&mut self, patience: &Patience, heard_since: Timestamp, now: Timestamp) -> Silence {
        let mut silence = Silence::default();
        let Self { by_id, released, room_came } = self;
        for (id, worker) in by_id.iter_mut() {
            if !worker.lost && now.since(worker.silent_since().max(heard_since)) > worker.patience(patience) {
                worker.lost = true;
                // Whoever avoided others for its sake may go to them now.
                *room_came = true;
                let lost = give_up(std::mem::take(&mut worker.out), released);
                silence.lost.extend(lost.into_iter().map(|key| (key, id.clone())));
            }
            if worker.left.is_some_and(|at| now.since(at.max(heard_since)) > LEFT_GRACE) {
                *room_came |= !worker.out.is_empty();
                let left = give_up(std::mem::take(&mut worker.out), released);
                silence.left.extend(left.into_iter().map(|key| (key, id.clone())));
                worker.left = None;
            }
            if worker.kind == WorkerKind::Native && !worker.lost {
                let gone = worker.doubt(id, patience, heard_since, now, &mut silence);
                *room_came |= release(gone, released) > 0;
            }
            if worker.elder.is_some_and(|last| now.since(last) > worker.rest_patience(patience)) {
                (worker.shared, worker.elder) = (false, None);
                *room_came = true;
            }
        }
        by_id.retain(|_, worker| !worker.lost || now.since(worker.seen) < patience.forget || !worker.out.is_empty());
        silence
    }

    /// The list that operators see.
    #[must_use]
    pub fn view(&self, patience: &Patience, holds: &Holds, now: Timestamp) -> Vec<WorkerView> {
        self.by_id.iter().map(|(id, worker)| worker.view(id, patience, holds, now)).collect()
    }
}

/// Gives back the charges of attempts that a worker has let go of; how many attempts they were.
fn release(gone: impl IntoIterator<Item = (AttemptKey, Out)>, released: &mut Vec<Charge>) -> usize {
    let mut count = 0;
    for (_, out) in gone {
        released.extend(out.charge);
        count += 1;
    }
    count
}

/// The same; which of the attempts were the present ones of their jobs.
fn give_up(gone: impl IntoIterator<Item = (AttemptKey, Out)>, released: &mut Vec<Charge>) -> Vec<AttemptKey> {
    let gone: Vec<_> = gone.into_iter().collect();
    let current = gone.iter().filter(|(_, out)| out.current).map(|(key, _)| key.clone()).collect();
    release(gone, released);
    current
}

/// A load that a worker tells: what is no percentage says nothing.
fn percent(load: f32) -> f32 {
    if load.is_finite() { load.clamp(0.0, 100.0) } else { 0.0 }
}

impl Out {
    fn new(incarnation: String, now: Timestamp) -> Self {
        Self { incarnation, confirmed: now, shown: false, current: false, sends: 0, unwanted: None, charge: None }
    }
}

impl Worker {
    /// Removes what was sent to other starts of the worker than this one, and names what was present of it.
    fn bury(&mut self, incarnation: &str, released: &mut Vec<Charge>) -> Vec<AttemptKey> {
        let is_dead = |out: &Out| !out.incarnation.is_empty() && out.incarnation != incarnation;
        give_up(self.out.extract_if(.., |_, out| is_dead(out)), released)
    }

    /// A start that should be gone is still heard. Once can be a late message; if it goes on, two processes share the id.
    fn hear_elder(&mut self, now: Timestamp) {
        self.shared |= self.elder.is_some_and(|last| now.since(last) > ELDER_LAG);
        if self.elder.is_none() || self.shared {
            self.elder = Some(now);
        }
    }

    /// What it offers: when that changes, there may be room.
    fn offer(&self) -> (u32, u32, bool, bool) {
        (self.capacity, self.prefetch, self.draining, self.lost)
    }

    fn new(kind: WorkerKind, now: Timestamp) -> Self {
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
            absent: false,
            left: None,
            shared: false,
            elder: None,
            out: BTreeMap::new(),
        }
    }

    /// One that announces itself. An SDK's default name belongs to nobody: each process that has it would get what is sent to it, so
    /// they are reached through the queue groups of their topics.
    fn announced(id: &str, now: Timestamp) -> Self {
        Self { shared: SDK_DEFAULT_WORKERS.contains(&id), ..Self::new(WorkerKind::Announced, now) }
    }

    /// Incarnations are identifiers of version 7, whose order is that of time: a late beat of an earlier start is no restart.
    fn is_older_start(&self, incarnation: &str) -> bool {
        self.kind == WorkerKind::Native && !self.incarnation.is_empty() && *incarnation < *self.incarnation
    }

    /// Takes what a beat says; whether there may be room now that was not there before.
    fn read_beat(&mut self, beat: &WorkerBeat, now: Timestamp) -> bool {
        let before = self.offer();
        let was_silent = !self.is_fresh(now);
        let is_new = self.incarnation != beat.incarnation;
        self.rests = Duration::from_millis(beat.next_ms.into()).clamp(BEAT, BEAT_MAX);
        self.kind = WorkerKind::Native;
        self.pool.clone_from(&beat.pool);
        self.capacity = beat.capacity.min(CAPACITY_MAX);
        self.prefetch = beat.prefetch.min(CAPACITY_MAX);
        self.draining = beat.draining;
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
    fn serve(&mut self, topics: &[String]) -> bool {
        if self.topics == topics {
            return false;
        }
        self.topics = topics.to_vec();
        self.patterns = topics.iter().filter_map(|text| TopicPattern::parse(text).ok()).collect();
        true
    }

    /// A worker that executes less than it could has nothing waiting inside it: what it holds is what it executes, and attempts
    /// that were given up long enough ago are among the rest.
    fn settle_abandoned(&mut self, active: u32, now: Timestamp) -> Vec<(AttemptKey, Out)> {
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

    /// Whether it has something that it should show in its beats.
    fn is_busy(&self) -> bool {
        self.out.values().any(|out| out.current || out.shown)
    }

    /// Since when nothing was heard that should have been. One that rests has until its next beat, unless it was given something.
    fn silent_since(&self) -> Timestamp {
        if self.rests > BEAT && self.is_busy() { self.seen.max(self.busy_since) } else { self.seen }
    }

    /// Whether it has been silent for no longer than it said. Who has not may be gone, and is given nothing more before it is heard.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.kind != WorkerKind::Native || (!self.absent && now.since(self.seen) <= self.rests * 3 / 2 + BEAT)
    }

    /// How long a native worker that holds nothing may be silent.
    fn rest_patience(&self, patience: &Patience) -> Duration {
        patience.native / 2 + self.rests * 5 / 2
    }

    fn patience(&self, patience: &Patience) -> Duration {
        match self.kind {
            WorkerKind::Native if self.is_busy() => patience.native,
            WorkerKind::Native => self.rest_patience(patience),
            WorkerKind::Announced | WorkerKind::Silent | WorkerKind::Unspecified => patience.announced,
        }
    }

    /// Attempts that the worker, though alive, has not shown for too long: those that it is no longer counted for are returned.
    fn doubt(
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

    fn view(&self, id: &str, patience: &Patience, holds: &Holds, now: Timestamp) -> WorkerView {
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
