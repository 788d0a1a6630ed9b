//! The workers that we know, and the slots that they have given out.
//!
//! A slot is taken by an attempt that was sent and is not known to be over. It is free when the worker says so, restarts or is
//! lost; not when the job ends, because a worker that was given up may still be busy with it.

mod worker;

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_protocol::busbar::{HeldAttempt, WorkerBeat, WorkerKind, WorkerView};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::flow::Charge;
use super::holds::Holds;
use super::job::Hold;

use worker::{give_up, percent, release};

pub use worker::{AttemptKey, CAPACITY_MAX, Out, Worker};

/// How often a worker is told that nobody waits for an attempt that it shows.
const UNWANTED_EVERY: Duration = Duration::from_secs(1);

/// How long the last results of a worker that has left may be on their way.
const LEFT_GRACE: Duration = Duration::from_secs(2);

/// Waiting times that decide what a silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A native worker that was not heard for so long is lost.
    pub native: Duration,
    /// An announced worker that was not heard for so long is lost, and what it has while it says for so long that it executes nothing.
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
    /// Attempts whose worker lives and has said for too long that it executes nothing, with the worker.
    pub forgotten: Vec<(AttemptKey, String)>,
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

    /// The bus was away and is there again. What is sent to an announced worker that is not back yet is lost, and nobody tells: it is
    /// given nothing before it is heard.
    pub fn bus_returned(&mut self) {
        self.by_id.values_mut().filter(|worker| worker.kind == WorkerKind::Announced).for_each(|worker| worker.absent = true);
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
        let key = |held: &HeldAttempt| JobId::parse(held.job_id.clone()).ok().map(|id| ((id, held.attempt), held.ended));
        let shown: BTreeMap<AttemptKey, bool> = beat.held.iter().filter_map(key).collect();
        for (key, ended) in &shown {
            // Its result is here already, and takes no room at the worker while it waits for our word.
            if *ended && !worker.out.contains_key(key) {
                continue;
            }
            // A worker that holds what we did not send it holds an attempt of an earlier scheduler, or one that was given up.
            let out = worker.out.entry(key.clone()).or_insert_with(|| Out::new(beat.incarnation.clone(), now));
            (out.confirmed, out.shown, out.sends) = (now, true, 0);
            let told_lately = out.unwanted.is_some_and(|at| now.since(at) < UNWANTED_EVERY);
            if out.current {
                heard.evidence.push(key.clone());
            } else if !told_lately && !ended {
                // A worker that beats because it was told something must not be told again because it beats.
                out.unwanted = Some(now);
                heard.unwanted.push(key.clone());
            }
        }
        // What was given up and is no longer shown has left the worker.
        let gone = worker.out.extract_if(.., |key, out| !out.current && out.shown && !shown.contains_key(key));
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
        let (before, was_absent) = (worker.offer(), worker.absent);
        worker.seen = now;
        (worker.lost, worker.absent) = (false, false);
        worker.pool.clone_from(&beat.pool);
        worker.capacity = u32::try_from(beat.max_parallel_jobs).unwrap_or(0).clamp(1, CAPACITY_MAX);
        worker.region.clone_from(&beat.region);
        worker.worker_type.clone_from(&beat.r#type);
        worker.labels.clone_from(&beat.labels);
        worker.capabilities.extend(beat.capabilities.iter().map(|c| c.to_lowercase()));
        let gone = worker.count(u32::try_from(beat.active_jobs).unwrap_or(0), now);
        *room_came |= release(gone, released) > 0 || was_absent || worker.offer() != before;
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
            (worker.lost, worker.absent) = (false, false);
            worker.starts_anew();
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

    /// Whoever sent an attempt died about then, perhaps before it had left.
    pub fn doubt(&mut self, id: &str, key: &AttemptKey) {
        if let Some(out) = self.by_id.get_mut(id).and_then(|worker| worker.out.get_mut(key)) {
            out.in_doubt = true;
        }
    }

    /// The worker itself has said that the attempt is over.
    pub fn free(&mut self, id: &str, key: &AttemptKey) {
        if let Some(worker) = self.by_id.get_mut(id) {
            self.room_came |= release(worker.out.remove_entry(key), &mut self.released) > 0;
        }
    }

    /// Whether what is held like this goes to its worker together with others.
    #[must_use]
    pub fn takes_batches(&self, hold: &Hold) -> bool {
        let takes = |worker: &Worker| worker.takes_batches && !worker.hears_no_batches && worker.incarnation == hold.incarnation;
        hold.kind == WorkerKind::Native && self.by_id.get(&hold.worker_id).is_some_and(takes)
    }

    /// Nobody listened where a worker said that it takes many attempts at once: it may lack the permission. It gets them one by one, until
    /// it starts anew.
    pub fn hears_no_batches(&mut self, id: &str) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.hears_no_batches = true;
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
                let gone = worker.unshown(id, patience, heard_since, now, &mut silence);
                *room_came |= release(gone, released) > 0;
            }
            if worker.kind == WorkerKind::Announced && !worker.lost {
                let forgotten = give_up(worker.forgotten(patience, heard_since), released);
                *room_came |= !forgotten.is_empty();
                silence.forgotten.extend(forgotten.into_iter().map(|key| (key, id.clone())));
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
