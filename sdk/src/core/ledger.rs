//! The attempts that a worker holds and the results that it remembers: what makes every dispatch run at most once here,
//! however often it is delivered.
//!
//! ```text
//!  dispatch ── receive ──► Queued ── start ──► Running ── end ──► Ended ── finish ──► remembered (the last 4,096)
//!                             │                   │                 │                     │
//!                             ├──── repeated in every beat, a duplicate is dropped ───────┘ a duplicate gets its result again
//!                             └── drain ──► Ended: handed back, as is what comes while the worker drains
//! ```

use std::collections::{BTreeMap, VecDeque};

/// How many results are remembered.
pub(crate) const FINISHED_MAX: usize = 4096;
/// So many times as many are held as may run and wait: the rest have ended, and their results are on their way.
const ENDED_MAX: usize = 4;

/// One attempt of one job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttemptKey {
    pub(crate) job_id: String,
    pub(crate) attempt: u32,
}

/// How far a held attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for a slot.
    Queued,
    /// Its handler runs.
    Running,
    /// Its result is being stored and told.
    Ended,
}

#[derive(Debug)]
struct Held<H> {
    dispatch_id: String,
    stage: Stage,
    handle: H,
}

#[derive(Debug)]
struct Finished<R> {
    result: R,
    /// How often the result was asked for again.
    repeats: u32,
}

/// What becomes of a dispatch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<H, R> {
    /// It is held from now on. An earlier attempt of the job that is still here has been given up by the scheduler: its
    /// handles are returned, to be cancelled.
    Accepted {
        /// The handles of earlier attempts.
        superseded: Vec<H>,
    },
    /// It is held already.
    Duplicate,
    /// It has ended here: tell its result again, for the `repeat`-th time.
    Finished {
        /// What was told.
        result: R,
        /// Counts from 1.
        repeat: u32,
    },
    /// A later attempt of the same job has been here.
    Stale,
    /// As many attempts wait and run as may.
    Full,
    /// The worker takes nothing new: it is held only until its sender knows.
    HandBack,
}

/// The ledger. `H` is what the caller needs to reach a held attempt, `R` a result as it was told.
#[derive(Debug)]
pub(crate) struct Ledger<H, R> {
    live_max: usize,
    draining: bool,
    held: BTreeMap<AttemptKey, Held<H>>,
    /// How many of them have not ended: counted along, since every dispatch asks.
    live: usize,
    finished: BTreeMap<AttemptKey, Finished<R>>,
    finished_order: VecDeque<AttemptKey>,
}

impl<H: Clone, R: Clone> Ledger<H, R> {
    /// A ledger in which `capacity` attempts may run and `prefetch` more may wait.
    pub(crate) fn new(capacity: usize, prefetch: usize) -> Self {
        Self {
            live_max: capacity.saturating_add(prefetch),
            draining: false,
            held: BTreeMap::new(),
            live: 0,
            finished: BTreeMap::new(),
            finished_order: VecDeque::new(),
        }
    }

    /// Decides on a dispatch, and holds it if it is taken.
    pub(crate) fn receive(&mut self, key: AttemptKey, dispatch_id: &str, handle: H) -> Verdict<H, R> {
        if self.held.contains_key(&key) {
            return Verdict::Duplicate;
        }
        if let Some(finished) = self.finished.get_mut(&key) {
            finished.repeats += 1;
            return Verdict::Finished { result: finished.result.clone(), repeat: finished.repeats };
        }
        if self.highest(&key.job_id).is_some_and(|highest| key.attempt < highest) {
            return Verdict::Stale;
        }
        if self.is_full(&key.job_id) {
            return Verdict::Full;
        }
        let superseded = self.reach(&key.job_id, None);
        let stage = if self.draining { Stage::Ended } else { Stage::Queued };
        self.live += usize::from(stage != Stage::Ended);
        self.held.insert(key, Held { dispatch_id: dispatch_id.to_owned(), stage, handle });
        if self.draining { Verdict::HandBack } else { Verdict::Accepted { superseded } }
    }

    /// Whether there is no room for an attempt of a job. Earlier attempts of the same job do not take its place, since it ends
    /// them. Neither do results that are being told: the scheduler may know of them sooner than we know that it does. But they
    /// may not pile up either.
    fn is_full(&self, job_id: &str) -> bool {
        let of_job = self.of_job(job_id).filter(|(_, held)| held.stage != Stage::Ended).count();
        self.live - of_job >= self.live_max || self.held.len() >= self.live_max.saturating_mul(ENDED_MAX)
    }

    /// The handler of a held attempt is about to run; says whether it may: not if the attempt was handed back.
    pub(crate) fn start(&mut self, key: &AttemptKey) -> bool {
        let waits = self.held.get(key).is_some_and(|held| held.stage == Stage::Queued);
        if waits {
            self.set(key, Stage::Running);
        }
        waits
    }

    /// The handler has ended; from now on a cancellation comes too late.
    pub(crate) fn end(&mut self, key: &AttemptKey) {
        self.set(key, Stage::Ended);
    }

    /// The result has been told and acknowledged: the attempt is not held any more, its result is remembered.
    pub(crate) fn finish(&mut self, key: AttemptKey, result: R) {
        let held = self.held.remove(&key);
        self.live -= usize::from(held.is_some_and(|held| held.stage != Stage::Ended));
        self.finished_order.push_back(key.clone());
        self.finished.insert(key, Finished { result, repeats: 0 });
        if self.finished_order.len() > FINISHED_MAX
            && let Some(oldest) = self.finished_order.pop_front()
        {
            self.finished.remove(&oldest);
        }
    }

    /// The handles of the attempts that a cancellation reaches: those of the job, or the one that it names.
    pub(crate) fn reach(&self, job_id: &str, attempt: Option<u32>) -> Vec<H> {
        let live = self.of_job(job_id).filter(|(key, held)| {
            let named = attempt.is_none_or(|wanted| wanted == key.attempt);
            named && held.stage != Stage::Ended
        });
        live.map(|(_, held)| held.handle.clone()).collect()
    }

    /// The handles of everything that has not ended.
    pub(crate) fn reach_all(&self) -> Vec<H> {
        self.held.values().filter(|held| held.stage != Stage::Ended).map(|held| held.handle.clone()).collect()
    }

    /// Takes nothing new from now on, and begins nothing: the handles of what has not begun are returned, to be handed back.
    pub(crate) fn drain(&mut self) -> Vec<H> {
        self.draining = true;
        let waiting = self.held.values_mut().filter(|held| held.stage == Stage::Queued);
        waiting
            .map(|held| {
                held.stage = Stage::Ended;
                self.live -= 1;
                held.handle.clone()
            })
            .collect()
    }

    /// Whether [`Ledger::drain`] was called.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Every held attempt with its dispatch id and whether it has ended, in the order of job and attempt.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&AttemptKey, &str, bool)> {
        self.held.iter().map(|(key, held)| (key, held.dispatch_id.as_str(), held.stage == Stage::Ended))
    }

    /// How many attempts are held.
    pub(crate) fn held_count(&self) -> usize {
        self.held.len()
    }

    /// How many handlers run.
    pub(crate) fn running_count(&self) -> usize {
        self.held.values().filter(|held| held.stage == Stage::Running).count()
    }

    fn set(&mut self, key: &AttemptKey, stage: Stage) {
        if let Some(held) = self.held.get_mut(key) {
            let before = std::mem::replace(&mut held.stage, stage);
            self.live -= usize::from(before != Stage::Ended);
            self.live += usize::from(stage != Stage::Ended);
        }
    }

    fn of_job(&self, job_id: &str) -> impl Iterator<Item = (&AttemptKey, &Held<H>)> {
        self.held.range(first(job_id)..=last(job_id))
    }

    fn highest(&self, job_id: &str) -> Option<u32> {
        let held = self.of_job(job_id).map(|(key, _)| key.attempt).last();
        let finished = self.finished.range(first(job_id)..=last(job_id)).next_back().map(|(key, _)| key.attempt);
        held.max(finished)
    }
}

fn first(job_id: &str) -> AttemptKey {
    AttemptKey { job_id: job_id.to_owned(), attempt: 0 }
}

fn last(job_id: &str) -> AttemptKey {
    AttemptKey { job_id: job_id.to_owned(), attempt: u32::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Ledger<&'static str, &'static str>;

    fn key(job_id: &str, attempt: u32) -> AttemptKey {
        AttemptKey { job_id: job_id.to_owned(), attempt }
    }

    fn taken() -> Verdict<&'static str, &'static str> {
        Verdict::Accepted { superseded: vec![] }
    }

    fn ran(ledger: &mut Small, job_id: &str, attempt: u32) {
        assert!(matches!(ledger.receive(key(job_id, attempt), "d", "h"), Verdict::Accepted { .. }));
        assert!(ledger.start(&key(job_id, attempt)));
        ledger.end(&key(job_id, attempt));
        ledger.finish(key(job_id, attempt), "result");
    }

    #[test]
    fn a_duplicate_is_dropped_while_held_and_answered_afterwards() {
        let mut ledger = Small::new(1, 0);
        assert_eq!(ledger.receive(key("a", 1), "d1", "h"), taken());
        assert_eq!(ledger.receive(key("a", 1), "d1", "h"), Verdict::Duplicate);
        assert!(ledger.start(&key("a", 1)));
        assert_eq!((ledger.running_count(), ledger.held_count()), (1, 1));
        assert_eq!(ledger.receive(key("a", 1), "d1", "h"), Verdict::Duplicate);
        ledger.end(&key("a", 1));
        assert_eq!((ledger.running_count(), ledger.held_count()), (0, 1), "held until its result is acknowledged");
        assert_eq!(ledger.receive(key("a", 1), "d1", "h"), Verdict::Duplicate);
        ledger.finish(key("a", 1), "result");
        assert_eq!(ledger.held_count(), 0);
        for repeat in 1..=2 {
            assert_eq!(ledger.receive(key("a", 1), "d1", "h"), Verdict::Finished { result: "result", repeat });
        }
    }

    #[test]
    fn a_lower_attempt_is_stale_and_a_higher_one_supersedes() {
        let mut ledger = Small::new(1, 0);
        assert_eq!(ledger.receive(key("a", 2), "d2", "second"), taken());
        assert_eq!(ledger.receive(key("a", 1), "d1", "first"), Verdict::Stale);
        assert_eq!(ledger.receive(key("a", 3), "d3", "third"), Verdict::Accepted { superseded: vec!["second"] });
        ledger.finish(key("a", 3), "result");
        ledger.finish(key("a", 2), "result");
        assert_eq!(ledger.receive(key("a", 1), "d1", "first"), Verdict::Stale, "also after the end");
        assert_eq!(ledger.receive(key("b", 1), "d", "h"), taken(), "other jobs do not matter");
    }

    #[test]
    fn capacity_and_prefetch_are_live_and_no_more() {
        let mut ledger = Small::new(1, 1);
        assert_eq!(ledger.receive(key("a", 1), "d", "h"), taken());
        assert_eq!(ledger.receive(key("b", 1), "d", "h"), taken());
        assert_eq!(ledger.receive(key("c", 1), "d", "h"), Verdict::Full);
        assert_eq!(ledger.receive(key("b", 1), "d", "h"), Verdict::Duplicate);
        ledger.finish(key("a", 1), "result");
        assert_eq!(ledger.receive(key("c", 1), "d", "h"), taken());
    }

    #[test]
    fn results_that_are_not_acknowledged_yet_take_no_place_but_do_not_pile_up() {
        let mut ledger = Small::new(1, 0);
        for job in 0..ENDED_MAX {
            assert_eq!(ledger.receive(key(&job.to_string(), 1), "d", "h"), taken());
            ledger.end(&key(&job.to_string(), 1));
        }
        assert_eq!(ledger.receive(key("c", 1), "d", "h"), Verdict::Full);
        ledger.finish(key("0", 1), "result");
        assert_eq!(ledger.receive(key("c", 1), "d", "h"), taken());
    }

    #[test]
    fn a_cancellation_reaches_what_has_not_ended() {
        let mut ledger = Small::new(2, 0);
        ledger.receive(key("a", 1), "d", "one");
        ledger.receive(key("ab", 1), "d", "other");
        assert_eq!(ledger.reach("a", None), vec!["one"]);
        assert_eq!(ledger.reach("a", Some(1)), vec!["one"]);
        assert!(ledger.reach("a", Some(2)).is_empty());
        ledger.start(&key("a", 1));
        assert_eq!(ledger.reach("a", None), vec!["one"]);
        ledger.end(&key("a", 1));
        assert!(ledger.reach("a", None).is_empty());
        assert_eq!(ledger.reach_all(), vec!["other"]);
    }

    #[test]
    fn draining_hands_back_what_has_not_begun_and_what_comes_but_still_answers() {
        let mut ledger = Small::new(1, 2);
        ran(&mut ledger, "a", 1);
        ledger.receive(key("b", 1), "d", "begun");
        ledger.start(&key("b", 1));
        ledger.receive(key("c", 1), "d", "waits");
        assert_eq!(ledger.drain(), vec!["waits"]);
        assert!(!ledger.start(&key("c", 1)), "it is for others");
        assert!(ledger.reach("c", None).is_empty(), "too late for a cancellation");
        assert_eq!(ledger.receive(key("d", 1), "d", "h"), Verdict::HandBack);
        assert!(!ledger.start(&key("d", 1)));
        assert_eq!((ledger.running_count(), ledger.held_count()), (1, 3), "held until it is told");
        assert!(ledger.drain().is_empty(), "once");
        for job in ["b", "c", "d"] {
            assert_eq!(ledger.receive(key(job, 1), "d", "h"), Verdict::Duplicate);
        }
        assert!(matches!(ledger.receive(key("a", 1), "d", "h"), Verdict::Finished { .. }));
    }

    #[test]
    fn the_oldest_results_are_forgotten() {
        let mut ledger = Small::new(1, 0);
        for job in 0..=FINISHED_MAX {
            ran(&mut ledger, &job.to_string(), 1);
        }
        assert_eq!(ledger.receive(key("0", 1), "d", "h"), taken());
        assert!(matches!(ledger.receive(key("1", 1), "d", "h"), Verdict::Finished { .. }));
        assert_eq!((ledger.finished.len(), ledger.finished_order.len()), (FINISHED_MAX, FINISHED_MAX));
    }

    #[test]
    fn beats_list_what_is_held() {
        let mut ledger = Small::new(2, 0);
        ledger.receive(key("b", 1), "db", "h");
        ledger.receive(key("a", 7), "da", "h");
        ledger.end(&key("b", 1));
        let held: Vec<_> =
            ledger.held().map(|(key, dispatch, ended)| (key.job_id.as_str(), key.attempt, dispatch, ended)).collect();
        assert_eq!(held, vec![("a", 7, "da", false), ("b", 1, "db", true)]);
    }
}
