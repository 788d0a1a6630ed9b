//! What became of the jobs of a benchmark, from what calls answered and what the stream told. Pure: times come in as arguments.
//!
//! ```text
//!  call begins ─► answered: job ids ─► the stream tells their ends ─► counts, latencies, what is still under way
//!                        └ an end may be told before the answer that names the job: it is kept until no open call can claim it
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use busbar_api::JobState;
use hdrhistogram::Histogram;

/// Latencies are kept in microseconds, to three digits, up to so many.
const LATENCY_US_MAX: u64 = 24 * 60 * 60 * 1_000_000;
const DIGITS: u8 = 3;

/// A call on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call(u64);

/// How many jobs came to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    /// Acknowledged submissions.
    pub(super) accepted: u64,
    pub(super) succeeded: u64,
    /// Ended FAILED, DENIED or TIMEOUT.
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    /// Refused for good.
    pub(super) rejected: u64,
    /// Refusals that said when to come again, and were followed.
    pub(super) told_to_wait: u64,
    /// Submissions without an answer: whether they were taken is not known.
    pub(super) unanswered: u64,
}

/// How the jobs were delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Delivery {
    /// Accepted, and now unknown to the cell.
    pub(super) lost: u64,
    /// Accepted, and not ended.
    pub(super) unfinished: u64,
    /// Ends beyond the first of a job.
    pub(super) ended_again: u64,
    /// Attempts beyond the first of a job.
    pub(super) further_attempts: u64,
    /// Every accepted job ended once, after one attempt.
    pub(super) exact: bool,
}

/// An end as the stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) state: JobState,
    pub(super) attempts: u32,
    pub(super) code: Option<String>,
    pub(super) at: Duration,
}

/// What is known so far.
#[derive(Debug)]
pub(super) struct Tally {
    counts: Counts,
    calls: u64,
    open: BTreeMap<Call, Duration>,
    /// Jobs under way, and from when their latency counts.
    live: HashMap<String, Duration>,
    ended: HashSet<String>,
    /// Ends of jobs that no answer has named yet.
    unclaimed: HashMap<String, Vec<End>>,
    latency: Histogram<u64>,
    codes: BTreeMap<String, u64>,
    lost: u64,
    ended_again: u64,
    further_attempts: u64,
    last_end: Duration,
    last_news: Duration,
    latest_send: Duration,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            counts: Counts::default(),
            calls: 0,
            open: BTreeMap::new(),
            live: HashMap::new(),
            ended: HashSet::new(),
            unclaimed: HashMap::new(),
            latency: Histogram::new_with_max(LATENCY_US_MAX, DIGITS).expect("the bounds are sound"),
            codes: BTreeMap::new(),
            lost: 0,
            ended_again: 0,
            further_attempts: 0,
            last_end: Duration::ZERO,
            last_news: Duration::ZERO,
            latest_send: Duration::ZERO,
        }
    }

    /// A call begins that should have begun at `due`.
    pub(super) fn begin(&mut self, due: Duration, now: Duration) -> Call {
        self.latest_send = self.latest_send.max(now.saturating_sub(due));
        self.calls += 1;
        let call = Call(self.calls);
        self.open.insert(call, now);
        call
    }

    /// The answer accepted these jobs, whose latency counts from `due`. Returns how many of them have ended already.
    pub(super) fn accepted(&mut self, job_ids: impl IntoIterator<Item = String>, due: Duration, now: Duration) -> usize {
        let mut over = 0;
        for job_id in job_ids {
            self.counts.accepted += 1;
            self.last_news = now;
            self.live.insert(job_id.clone(), due);
            for end in self.unclaimed.remove(&job_id).unwrap_or_default() {
                over += usize::from(self.end(&job_id, end));
            }
        }
        over
    }

    /// Submissions were refused for good.
    pub(super) fn rejected(&mut self, code: &str, count: u64) {
        self.counts.rejected += count;
        *self.codes.entry(code.to_owned()).or_default() += count;
    }

    pub(super) fn told_to_wait(&mut self, count: u64) {
        self.counts.told_to_wait += count;
    }

    pub(super) fn unanswered(&mut self, count: u64) {
        self.counts.unanswered += count;
    }

    /// The call is over. Ends that it could have claimed, and no other open call can, are those of other clients' jobs.
    pub(super) fn over(&mut self, call: Call) {
        self.open.remove(&call);
        let oldest = self.open.values().min().copied();
        self.unclaimed.retain(|_, ends| ends.iter().any(|end| oldest.is_some_and(|began| end.at >= began)));
    }

    /// A job has ended. Returns whether it was one of ours that was under way.
    pub(super) fn end(&mut self, job_id: &str, end: End) -> bool {
        if self.ended.contains(job_id) {
            self.ended_again += 1;
            return false;
        }
        let Some(due) = self.live.remove(job_id) else {
            if !self.open.is_empty() {
                self.unclaimed.entry(job_id.to_owned()).or_default().push(end);
            }
            return false;
        };
        self.ended.insert(job_id.to_owned());
        self.further_attempts += u64::from(end.attempts.saturating_sub(1));
        (self.last_end, self.last_news) = (self.last_end.max(end.at), self.last_news.max(end.at));
        match end.state {
            JobState::Succeeded => {
                self.counts.succeeded += 1;
                let micros = u64::try_from(end.at.saturating_sub(due).as_micros()).unwrap_or(u64::MAX);
                self.latency.saturating_record(micros);
            }
            JobState::Cancelled => self.counts.cancelled += 1,
            JobState::Failed
            | JobState::Denied
            | JobState::Timeout
            | JobState::Pending
            | JobState::ApprovalRequired
            | JobState::Scheduled
            | JobState::Dispatched
            | JobState::Running => {
                self.counts.failed += 1;
                let code = end.code.unwrap_or_else(|| end.state.to_string());
                *self.codes.entry(code).or_default() += 1;
            }
        }
        true
    }

    /// The cell does not know an accepted job any more.
    pub(super) fn lost(&mut self, job_id: &str) {
        if self.live.remove(job_id).is_some() {
            self.lost += 1;
        }
    }

    /// Ids of the jobs that are under way.
    pub(super) fn live(&self) -> Vec<String> {
        self.live.keys().cloned().collect()
    }

    /// Any one of them.
    pub(super) fn any_live(&self) -> Option<&str> {
        self.live.keys().next().map(String::as_str)
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.live.is_empty() && self.open.is_empty()
    }

    pub(super) fn no_call_is_open(&self) -> bool {
        self.open.is_empty()
    }

    /// How many jobs need no more waiting.
    pub(super) fn settled(&self) -> u64 {
        self.ended.len() as u64 + self.counts.rejected + self.counts.unanswered + self.lost
    }

    /// When a job was accepted or ended last.
    pub(super) const fn last_news(&self) -> Duration {
        self.last_news
    }

    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) const fn codes(&self) -> &BTreeMap<String, u64> {
        &self.codes
    }

    pub(super) const fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// When the last end was told, from the beginning.
    pub(super) const fn last_end(&self) -> Duration {
        self.last_end
    }

    /// How late the latest call was sent: more than a little means that the sender is the limit.
    pub(super) const fn latest_send(&self) -> Duration {
        self.latest_send
    }

    pub(super) fn delivery(&self) -> Delivery {
        let (lost, unfinished) = (self.lost, self.live.len() as u64);
        let (ended_again, further_attempts) = (self.ended_again, self.further_attempts);
        Delivery {
            lost,
            unfinished,
            ended_again,
            further_attempts,
            exact: lost + unfinished + ended_again + further_attempts == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn end(state: JobState, attempts: u32, at: u64) -> End {
        End { state, attempts, code: None, at: ms(at) }
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn latency_counts_from_when_a_job_should_have_been_sent() {
        let mut tally = Tally::new();
        let call = tally.begin(ms(10), ms(40));
        assert_eq!(tally.accepted(ids(&["a"]), ms(10), ms(45)), 0);
        tally.over(call);
        assert!(!tally.is_at_rest());
        assert!(tally.end("a", end(JobState::Succeeded, 1, 60)));
        assert!(tally.is_at_rest());
        assert_eq!((tally.latest_send(), tally.last_end(), tally.latency().len()), (ms(30), ms(60), 1));
        assert!((49_900..=50_100).contains(&tally.latency().max()), "{}", tally.latency().max());
        assert!(tally.delivery().exact);
    }

    #[test]
    fn an_end_may_be_told_before_the_answer() {
        let mut tally = Tally::new();
        let (first, second) = (tally.begin(ms(0), ms(0)), tally.begin(ms(5), ms(5)));
        assert!(!tally.end("foreign", end(JobState::Succeeded, 1, 3)));
        assert!(!tally.end("b", end(JobState::Succeeded, 1, 8)));
        tally.over(first);
        assert_eq!(tally.unclaimed.len(), 1, "no open call began before the end of the foreign job");
        assert_eq!(tally.accepted(ids(&["b"]), ms(5), ms(9)), 1);
        tally.over(second);
        assert!(tally.unclaimed.is_empty());
        assert!(!tally.end("foreign", end(JobState::Succeeded, 1, 10)));
        assert!(tally.unclaimed.is_empty(), "nobody can claim it");
        assert_eq!((tally.counts().accepted, tally.counts().succeeded), (1, 1));
    }

    #[test]
    fn whatever_is_not_exact_is_told() {
        let mut tally = Tally::new();
        let call = tally.begin(ms(0), ms(0));
        tally.accepted(ids(&["again", "retried", "lost", "live"]), ms(0), ms(1));
        tally.over(call);
        tally.end("again", end(JobState::Succeeded, 1, 2));
        tally.end("again", end(JobState::Succeeded, 1, 3));
        tally.end("retried", end(JobState::Failed, 3, 4));
        tally.lost("lost");
        let seen = tally.delivery();
        assert_eq!(seen, Delivery { lost: 1, unfinished: 1, ended_again: 1, further_attempts: 2, exact: false });
        assert_eq!((tally.settled(), tally.any_live()), (3, Some("live")));
        assert_eq!(tally.codes().get("FAILED"), Some(&1));
    }

    #[test]
    fn refusals_are_counted_apart() {
        let mut tally = Tally::new();
        let call = tally.begin(ms(0), ms(0));
        tally.told_to_wait(2);
        tally.rejected("safety_denied", 3);
        tally.unanswered(1);
        tally.over(call);
        let counts = tally.counts();
        assert_eq!((counts.told_to_wait, counts.rejected, counts.unanswered, counts.accepted), (2, 3, 1, 0));
        assert_eq!((tally.settled(), tally.is_at_rest()), (4, true));
    }
}
