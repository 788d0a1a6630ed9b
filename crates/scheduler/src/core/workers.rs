//! The workers that we know, and the slots that they have given out.
//!
//! A slot is taken by an attempt that was sent and is not known to be over. It is free when the worker says so, restarts or is
//! lost; not when the job ends, because a worker that was given up may still be busy with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::busbar::{WorkerBeat, WorkerKind, WorkerView};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicPattern;

use super::job::Hold;

/// A heartbeat that is older than a dispatch says nothing about it; they come every ten seconds at the latest.
const HEARTBEAT_LAG: Duration = Duration::from_secs(15);

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
    /// Reported load, 0 to 100.
    pub cpu_load: f32,
    /// Reported load, 0 to 100.
    pub memory_load: f32,
    /// When it was last heard.
    pub seen: Timestamp,
    /// It was not heard for too long.
    pub lost: bool,
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
}

/// What follows from a sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Attempts that died with an earlier start of the worker.
    pub lost: Vec<AttemptKey>,
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
    /// Attempts that must be sent again, with the worker.
    pub resend: Vec<(AttemptKey, String)>,
    /// Attempts that were sent again and again and never shown.
    pub unreachable: Vec<(AttemptKey, String)>,
}

/// All workers by id.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    by_id: BTreeMap<String, Worker>,
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

    /// Forgets all slots; whoever knows the attempts takes them again.
    pub fn clear_slots(&mut self) {
        for worker in self.by_id.values_mut() {
            worker.out.clear();
        }
    }

    /// A native worker's beat.
    pub fn beat(&mut self, beat: &WorkerBeat, now: Timestamp) -> Heard {
        let worker = self.by_id.entry(beat.worker_id.clone()).or_insert_with(|| Worker::new(WorkerKind::Native, now));
        let mut heard = Heard::default();
        let same_start = worker.incarnation == beat.incarnation;
        if same_start && beat.sequence <= worker.sequence {
            return heard;
        }
        if !same_start && worker.is_older_start(&beat.incarnation) {
            return heard;
        }
        if !same_start {
            heard.lost = worker.bury(&beat.incarnation);
        }
        worker.read_beat(beat, now);
        let shown: BTreeSet<AttemptKey> =
            beat.held.iter().filter_map(|held| JobId::parse(held.job_id.clone()).ok().map(|id| (id, held.attempt))).collect();
        for key in &shown {
            // A worker that holds what we did not send it holds an attempt of an earlier scheduler, or one that was given up.
            let out = worker.out.entry(key.clone()).or_insert_with(|| Out::new(beat.incarnation.clone(), now));
            (out.confirmed, out.shown, out.sends) = (now, true, 0);
            if out.current { heard.evidence.push(key.clone()) } else { heard.unwanted.push(key.clone()) }
        }
        // What was given up and is no longer shown has left the worker.
        worker.out.retain(|key, out| out.current || !out.shown || shown.contains(key));
        if beat.leaving {
            heard.lost.extend(worker.out.iter().filter(|(_, out)| out.current).map(|(key, _)| key.clone()));
            worker.out.clear();
            worker.lost = true;
        }
        heard
    }

    /// A CAP heartbeat.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Timestamp) {
        let worker = self.by_id.entry(beat.worker_id.clone()).or_insert_with(|| Worker::new(WorkerKind::Announced, now));
        worker.cpu_load = beat.cpu_load;
        worker.memory_load = beat.memory_load;
        if worker.kind == WorkerKind::Native {
            return;
        }
        worker.seen = now;
        worker.lost = false;
        worker.pool.clone_from(&beat.pool);
        worker.capacity = u32::try_from(beat.max_parallel_jobs).unwrap_or(0).max(1);
        worker.region.clone_from(&beat.region);
        worker.labels.clone_from(&beat.labels);
        worker.capabilities.extend(beat.capabilities.iter().map(|c| c.to_lowercase()));
        worker.settle_abandoned(u32::try_from(beat.active_jobs).unwrap_or(0), now);
    }

    /// A CAP handshake that was sent at `sent`: a new start of the worker, whose earlier attempts are gone.
    pub fn handshake(&mut self, shake: &Handshake, sent: Timestamp, now: Timestamp) -> Heard {
        let fresh = now.since(sent) < Duration::from_secs(30);
        let known = self.by_id.contains_key(&shake.component_id);
        let worker = self.by_id.entry(shake.component_id.clone()).or_insert_with(|| Worker::new(WorkerKind::Announced, sent));
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
        let (gone, kept) = std::mem::take(&mut worker.out).into_iter().partition(|(_, out)| out.confirmed < sent);
        worker.out = kept;
        let gone: BTreeMap<AttemptKey, Out> = gone;
        Heard { lost: gone.into_iter().filter(|(_, out)| out.current).map(|(key, _)| key).collect(), ..Heard::default() }
    }

    /// A slot is taken: the attempt is sent now.
    pub fn take(&mut self, hold: &Hold, key: AttemptKey, now: Timestamp) {
        let worker = self.by_id.entry(hold.worker_id.clone()).or_insert_with(|| Worker::new(hold.kind, now));
        worker.out.insert(key, Out { current: true, sends: 1, ..Out::new(hold.incarnation.clone(), now) });
    }

    /// The worker itself has said that the attempt is over.
    pub fn free(&mut self, id: &str, key: &AttemptKey) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.out.remove(key);
        }
    }

    /// The attempt is no longer the present one of its job; the slot stays taken until the worker says otherwise.
    pub fn abandon(&mut self, id: &str, key: &AttemptKey) {
        let Some(worker) = self.by_id.get_mut(id) else { return };
        if worker.lost {
            worker.out.remove(key);
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
        for (id, worker) in &mut self.by_id {
            if !worker.lost && now.since(worker.seen.max(heard_since)) > worker.patience(patience) {
                worker.lost = true;
                let out = std::mem::take(&mut worker.out);
                silence.lost.extend(out.into_iter().filter(|(_, o)| o.current).map(|(key, _)| (key, id.clone())));
            }
            if worker.kind == WorkerKind::Native && !worker.lost {
                worker.doubt(id, patience, heard_since, now, &mut silence);
            }
        }
        self.by_id.retain(|_, worker| !worker.lost || now.since(worker.seen) < patience.forget || !worker.out.is_empty());
        silence
    }

    /// The list that operators see.
    #[must_use]
    pub fn view(&self, patience: &Patience, now: Timestamp) -> Vec<WorkerView> {
        self.by_id.iter().map(|(id, worker)| worker.view(id, patience, now)).collect()
    }
}

impl Out {
    fn new(incarnation: String, now: Timestamp) -> Self {
        Self { incarnation, confirmed: now, shown: false, current: false, sends: 0 }
    }
}

impl Worker {
    /// Removes what was sent to other starts of the worker than this one, and names what was present of it.
    fn bury(&mut self, incarnation: &str) -> Vec<AttemptKey> {
        let mut lost = Vec::new();
        self.out.retain(|key, out| {
            let alive = out.incarnation.is_empty() || out.incarnation == incarnation;
            if !alive && out.current {
                lost.push(key.clone());
            }
            alive
        });
        lost
    }

    fn new(kind: WorkerKind, now: Timestamp) -> Self {
        Self {
            kind,
            pool: String::new(),
            capacity: 0,
            draining: false,
            incarnation: String::new(),
            sequence: 0,
            topics: Vec::new(),
            patterns: Vec::new(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            region: String::new(),
            cpu_load: 0.0,
            memory_load: 0.0,
            seen: now,
            lost: false,
            out: BTreeMap::new(),
        }
    }

    /// Incarnations are identifiers of version 7, whose order is that of time: a late beat of an earlier start is no restart.
    fn is_older_start(&self, incarnation: &str) -> bool {
        self.kind == WorkerKind::Native && !self.incarnation.is_empty() && *incarnation < *self.incarnation
    }

    fn read_beat(&mut self, beat: &WorkerBeat, now: Timestamp) {
        self.kind = WorkerKind::Native;
        self.pool.clone_from(&beat.pool);
        self.capacity = beat.capacity;
        self.draining = beat.draining;
        self.incarnation.clone_from(&beat.incarnation);
        self.sequence = beat.sequence;
        self.serve(&beat.topics);
        self.labels.clone_from(&beat.labels);
        self.capabilities = beat.capabilities.iter().map(|c| c.to_lowercase()).collect();
        self.region.clone_from(&beat.region);
        self.cpu_load = beat.cpu_load;
        self.memory_load = beat.memory_load;
        self.seen = now;
        self.lost = false;
    }

    fn serve(&mut self, topics: &[String]) {
        if self.topics != topics {
            self.topics = topics.to_vec();
            self.patterns = topics.iter().filter_map(|text| TopicPattern::parse(text).ok()).collect();
        }
    }

    /// A worker that executes less than it could has nothing waiting inside it: what it holds is what it executes, and attempts
    /// that were given up long enough ago are among the rest.
    fn settle_abandoned(&mut self, active: u32, now: Timestamp) {
        if active >= self.capacity {
            return;
        }
        let mut over = self.out.len().saturating_sub(usize::try_from(active).unwrap_or(usize::MAX));
        self.out.retain(|_, out| {
            let gone = over > 0 && !out.current && now.since(out.confirmed) > HEARTBEAT_LAG;
            over -= usize::from(gone);
            !gone
        });
    }

    const fn patience(&self, patience: &Patience) -> Duration {
        match self.kind {
            WorkerKind::Native => patience.native,
            WorkerKind::Announced | WorkerKind::Silent | WorkerKind::Unspecified => patience.announced,
        }
    }

    /// Attempts that the worker, though alive, has not shown for too long.
    fn doubt(&mut self, id: &str, patience: &Patience, heard_since: Timestamp, now: Timestamp, silence: &mut Silence) {
        self.out.retain(|key, out| {
            if now.since(out.confirmed.max(heard_since)) <= patience.accept {
                return true;
            }
            if !out.current {
                return false;
            }
            if out.sends >= patience.sends {
                silence.unreachable.push((key.clone(), id.to_owned()));
                return false;
            }
            (out.confirmed, out.sends) = (now, out.sends + 1);
            silence.resend.push((key.clone(), id.to_owned()));
            true
        });
    }

    fn view(&self, id: &str, patience: &Patience, now: Timestamp) -> WorkerView {
        let stale = now.since(self.seen) > self.patience(patience) / 2;
        let status = match (self.lost, self.draining, stale) {
            (true, _, _) => "lost",
            (false, true, _) => "draining",
            (false, false, true) => "stale",
            (false, false, false) => "online",
        };
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
            shared: false,
            capabilities: self.capabilities.iter().cloned().collect(),
        }
    }
}
