//! What the scheduler counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{CheckBatchResponse, JobState};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Judge, JudgeError, Question, RelayProgress};
use busbar_protocol::time::Timestamp;
use busbar_service::Metrics;
use busbar_service::telemetry::{Capped, Counter, Counters, Gauge, Gauges, Histogram, OTHER, millis};

use crate::core::cell::Cell;
use crate::core::workers::Patience;

/// How many topics, and how many pools, have series of their own.
const NAMES_MAX: usize = 200;
/// How often the gauges are brought up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The states of live jobs.
const LIVE: [JobState; 5] =
    [JobState::Pending, JobState::ApprovalRequired, JobState::Scheduled, JobState::Dispatched, JobState::Running];
/// What a worker can be.
const STATUSES: [&str; 5] = ["online", "stale", "draining", "lost", "blocked"];

/// The metrics. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    active: Gauge,
    epoch: Gauge,
    terms: Counter,
    jobs: Gauges,
    waiting: Gauges,
    oldest_waiting_ms: Gauge,
    slots: Gauges,
    slots_used: Gauges,
    workers: Gauges,
    workers_lost: Counter,
    relay_lag_entries: Gauge,
    relay_lag_ms: Gauge,
    kernel_up: Gauge,
    kernel_failures: Counter,
    admissions: Counters,
    dispatches: Counters,
    ends: Counters,
    errors: Counters,
    retries: Counter,
    dead_letters: Counter,
    packets_refused: Counters,
    admit_ms: Histogram,
    decide_ms: Histogram,
    schedule_to_start_ms: Histogram,
    start_to_close_ms: Histogram,
    submit_to_end_ms: Histogram,
    commit_ms: Histogram,
    relay_ms: Histogram,
}

impl Meters {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let meters = Self {
            active: metrics.gauge("scheduler_active", "Whether this replica is the active one of its cell: 1 or 0"),
            epoch: metrics.gauge("scheduler_epoch", "The epoch under which this replica is or was last active"),
            terms: metrics.counter("scheduler_terms", "How often this replica became active or read its memory again"),
            jobs: metrics.gauges("scheduler_jobs", "Live jobs by state"),
            waiting: metrics.gauges("scheduler_waiting", "Jobs that could run and wait for a worker, by topic and pool"),
            oldest_waiting_ms: metrics.gauge("scheduler_oldest_waiting_ms", "Age of the oldest job that waits for a worker"),
            slots: metrics.gauges("scheduler_slots", "Slots of the workers that are there, by pool"),
            slots_used: metrics.gauges("scheduler_slots_used", "Slots that are taken, by pool"),
            workers: metrics.gauges("scheduler_workers", "Workers by status"),
            workers_lost: metrics.counter("scheduler_attempts_lost", "Attempts whose worker was lost, restarted or left"),
            relay_lag_entries: metrics.gauge("scheduler_relay_lag_entries", "Entries of the log that were not told yet"),
            relay_lag_ms: metrics.gauge("scheduler_relay_lag_ms", "How far the relay is behind the log"),
            kernel_up: metrics.gauge("scheduler_kernel_up", "Whether the safety kernel answered the last question: 1 or 0"),
            kernel_failures: metrics.counter("scheduler_kernel_failures", "Questions that the safety kernel did not answer"),
            admissions: metrics.counters("scheduler_admissions", "Submissions: admitted, repeated, or the code of the refusal"),
            dispatches: metrics.counters("scheduler_dispatches", "Attempts sent, by topic"),
            ends: metrics.counters("scheduler_jobs_ended", "Jobs that ended, by topic and state"),
            errors: metrics.counters("scheduler_job_errors", "Jobs that ended without success, by code"),
            retries: metrics.counter("scheduler_retries", "Attempts after which another one follows"),
            dead_letters: metrics.counter("scheduler_dead_letters", "Dead letters written"),
            packets_refused: metrics.counters("scheduler_packets_refused", "Messages that could not be taken, by code"),
            admit_ms: metrics.histogram_ms("scheduler_admit_ms", "From the arrival of a submission to its answer"),
            decide_ms: metrics.histogram_ms("scheduler_decide_ms", "Time that the safety kernel took to answer"),
            schedule_to_start_ms: metrics.histogram_ms("scheduler_schedule_to_start_ms", "From ready to sent to a worker"),
            start_to_close_ms: metrics.histogram_ms("scheduler_start_to_close_ms", "From sent to the end of the attempt"),
            submit_to_end_ms: metrics.histogram_ms("scheduler_submit_to_end_ms", "From the admission of a job to its end"),
            commit_ms: metrics.histogram_ms("scheduler_commit_ms", "Time of one turn's commit"),
            relay_ms: metrics.histogram_ms("scheduler_relay_ms", "From the writing of a log entry to its telling"),
        };
        // A series that begins with its first event hides that event from rates.
        let labelled = |counters: &Counters, label: &'static str, value: &str| {
            let _ = counters.get_or_create(&vec![(label, value.to_owned())]);
        };
        labelled(&meters.admissions, "outcome", "admitted");
        labelled(&meters.errors, "code", Code::WorkerLost.as_str());
        labelled(&meters.packets_refused, "code", Code::PacketMalformed.as_str());
        labelled(&meters.dispatches, "topic", OTHER);
        for state in [JobState::Succeeded, JobState::Failed, JobState::Timeout, JobState::Denied, JobState::Cancelled] {
            let _ = meters.ends.get_or_create(&vec![("topic", OTHER.to_owned()), ("state", state.short_name().to_owned())]);
        }
        for state in LIVE {
            meters.set(&meters.jobs, "state", state.short_name(), 0);
        }
        STATUSES.iter().for_each(|status| meters.set(&meters.workers, "status", status, 0));
        meters
    }

    /// A term begins.
    pub(crate) fn begin(&self, epoch: u64) {
        self.active.set(1);
        self.epoch.set(number(epoch));
        self.terms.inc();
    }

    /// A term has ended: what only the active replica knows is known no more.
    pub(crate) fn end(&self) {
        self.active.set(0);
        for gauge in [&self.oldest_waiting_ms, &self.relay_lag_entries, &self.relay_lag_ms] {
            gauge.set(0);
        }
        for gauges in [&self.waiting, &self.slots, &self.slots_used] {
            gauges.clear();
        }
        LIVE.iter().for_each(|state| self.set(&self.jobs, "state", state.short_name(), 0));
        STATUSES.iter().for_each(|status| self.set(&self.workers, "status", status, 0));
    }

    /// A message of submissions was answered.
    pub(crate) fn answered(&self, took: Duration) {
        self.admit_ms.observe(millis(took));
    }

    /// What became of a submission: `admitted`, `repeated`, or a code.
    pub(crate) fn admission(&self, outcome: &str) {
        self.admissions.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    /// A message could not be taken.
    pub(crate) fn packet_refused(&self, code: Code) {
        self.packets_refused.get_or_create(&vec![("code", code.as_str().to_owned())]).inc();
    }

    /// A turn was committed.
    pub(crate) fn committed(&self, took: Duration) {
        self.commit_ms.observe(millis(took));
    }

    pub(crate) fn dispatched(&self, topic: &str, waited: Duration) {
        self.dispatches.get_or_create(&vec![("topic", topic.to_owned())]).inc();
        self.schedule_to_start_ms.observe(millis(waited));
    }

    pub(crate) fn attempt_over(&self, took: Duration, again: bool, lost: bool) {
        self.start_to_close_ms.observe(millis(took));
        self.retries.inc_by(u64::from(again));
        self.workers_lost.inc_by(u64::from(lost));
    }

    pub(crate) fn ended(&self, topic: &str, state: JobState, code: &str, took: Duration) {
        self.ends.get_or_create(&vec![("topic", topic.to_owned()), ("state", state.short_name().to_owned())]).inc();
        self.submit_to_end_ms.observe(millis(took));
        if state != JobState::Succeeded {
            // Workers give codes of their own, without a bound.
            let code = Code::parse(code).map_or(OTHER, Code::as_str);
            self.errors.get_or_create(&vec![("code", code.to_owned())]).inc();
        }
        self.dead_letters.inc_by(u64::from(matches!(state, JobState::Failed | JobState::Timeout)));
    }

    fn set(&self, gauges: &Gauges, label: &'static str, value: &str, count: i64) {
        gauges.get_or_create(&vec![(label, value.to_owned())]).set(count);
    }
}

fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// What one term keeps to bring the gauges up to date.
pub(crate) struct Board {
    meters: Meters,
    relay: Arc<RelayProgress>,
    topics: Capped,
    pools: Capped,
    waiting: BTreeMap<(String, String), i64>,
    /// Topics whose jobs were seen to go, so that their gauge is there even if none of them had to wait.
    gone: BTreeSet<String>,
    slots: BTreeMap<String, (i64, i64)>,
    looked: Option<Instant>,
}

impl Board {
    pub(crate) fn new(meters: Meters, relay: Arc<RelayProgress>) -> Self {
        Self {
            meters,
            relay,
            topics: Capped::new(NAMES_MAX),
            pools: Capped::new(NAMES_MAX),
            waiting: BTreeMap::new(),
            gone: BTreeSet::new(),
            slots: BTreeMap::new(),
            looked: None,
        }
    }

    /// What stands in labels for a topic.
    pub(crate) fn topic<'a>(&mut self, topic: &'a str) -> &'a str {
        self.topics.name(topic)
    }

    /// A job of this topic went to a worker.
    pub(crate) fn went(&mut self, topic: &str, cell: &Cell) {
        if self.gone.contains(topic) || self.gone.len() >= NAMES_MAX {
            return;
        }
        self.gone.insert(topic.to_owned());
        let pools = cell.topics().resolve(topic).map(|document| document.pools.join(",")).unwrap_or_default();
        let place = (self.topics.name(topic).to_owned(), self.pools.name(&pools).to_owned());
        self.waiting.entry(place).or_default();
    }

    /// Brings the gauges up to date, if it is time.
    pub(crate) fn look(&mut self, cell: &Cell, patience: &Patience, now: Timestamp) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        for state in LIVE {
            let count = cell.live().get(&state).copied().unwrap_or(0);
            self.meters.set(&self.meters.jobs, "state", state.short_name(), number(count));
        }
        self.look_at_queue(cell, now);
        self.look_at_workers(cell, patience, now);
        let (entries, behind) = self.relay.lag(now);
        self.meters.relay_lag_entries.set(number(entries));
        self.meters.relay_lag_ms.set(number(behind.as_millis()));
    }

    fn look_at_queue(&mut self, cell: &Cell, now: Timestamp) {
        let mut oldest = None;
        self.waiting.values_mut().for_each(|count| *count = 0);
        for (class, first, count) in cell.waiting() {
            oldest = oldest.into_iter().chain([first]).min();
            let pools = cell.topics().resolve(&class.topic).map(|document| document.pools.join(",")).unwrap_or_default();
            let pool = class.pool.as_deref().unwrap_or(&pools);
            let place = (self.topics.name(&class.topic).to_owned(), self.pools.name(pool).to_owned());
            *self.waiting.entry(place).or_default() += number(count);
        }
        for ((topic, pool), count) in &self.waiting {
            self.meters.waiting.get_or_create(&vec![("topic", topic.clone()), ("pool", pool.clone())]).set(*count);
        }
        self.meters.oldest_waiting_ms.set(oldest.map_or(0, |since| number(now.since(since).as_millis())));
    }

    fn look_at_workers(&mut self, cell: &Cell, patience: &Patience, now: Timestamp) {
        self.slots.values_mut().for_each(|count| *count = (0, 0));
        let mut by_status = STATUSES.map(|status| (status, 0));
        for (id, worker) in cell.workers().iter() {
            let (standing, _) = worker.standing(id, patience, cell.holds(), now);
            if let Some((_, count)) = by_status.iter_mut().find(|(status, _)| *status == standing) {
                *count += 1;
            }
            if !worker.lost {
                let (slots, used) = self.slots.entry(self.pools.name(&worker.pool).to_owned()).or_default();
                *slots += i64::from(worker.capacity);
                *used += i64::try_from(worker.out.len()).unwrap_or(i64::MAX);
            }
        }
        by_status.iter().for_each(|(status, count)| self.meters.set(&self.meters.workers, "status", status, *count));
        for (pool, (slots, used)) in &self.slots {
            self.meters.set(&self.meters.slots, "pool", pool, *slots);
            self.meters.set(&self.meters.slots_used, "pool", pool, *used);
        }
    }
}

/// The safety kernel, with its answers measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured<J> {
    pub(crate) judge: J,
    pub(crate) meters: Meters,
}

impl<J: Judge> Judge for Measured<J> {
    async fn check(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        let begun = Instant::now();
        let answer = self.judge.check(questions).await;
        self.meters.kernel_up.set(i64::from(answer.is_ok()));
        match &answer {
            Ok(_) => self.meters.decide_ms.observe(millis(begun.elapsed())),
            Err(_) => {
                self.meters.kernel_failures.inc();
            }
        }
        answer
    }
}

impl Meters {
    /// The relay has told an entry that was written so long ago.
    pub(crate) fn relayed(&self, after: Duration) {
        self.relay_ms.observe(millis(after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_workers_share_one_series() {
        let metrics = Metrics::new();
        let meters = Meters::register(&metrics);
        meters.ended("job.a", JobState::Failed, "my_own_code_7", Duration::from_millis(3));
        meters.ended("job.a", JobState::Succeeded, "", Duration::from_millis(3));
        let text = metrics.render();
        for line in [
            "busbar_scheduler_job_errors_total{code=\"other\"} 1\n",
            "busbar_scheduler_jobs_ended_total{topic=\"job.a\",state=\"SUCCEEDED\"} 1\n",
            "busbar_scheduler_dead_letters_total 1\n",
            "busbar_scheduler_submit_to_end_ms_count 2\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("my_own_code"), "{text}");
    }
}
