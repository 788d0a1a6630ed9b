//! Submissions that were refused for good a moment ago: one that is delivered twice gets one answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busbar_protocol::busbar::Problem;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

/// How long after the first delivery the second one may come. Whoever sends again later does not wait for the first answer any more.
const REMEMBERED: Duration = Duration::from_secs(2);
/// The most refusals that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    problems: BTreeMap<JobId, Problem>,
    /// The oldest first.
    order: VecDeque<(Timestamp, JobId)>,
}

impl Refusals {
    /// A submission is refused. If it is to be sent again later, it is judged anew then.
    pub(super) fn remember(&mut self, id: &JobId, problem: &Problem, now: Timestamp) {
        if problem.retry_after_ms == 0 && self.problems.insert(id.clone(), problem.clone()).is_none() {
            self.order.push_back((now, id.clone()));
        }
    }

    /// Why a submission was refused that comes again.
    pub(super) fn of(&mut self, id: &JobId, now: Timestamp) -> Option<Problem> {
        let is_over = |(at, _): &mut (Timestamp, JobId)| now.since(*at) > REMEMBERED;
        while self.order.len() > REMEMBERED_MAX || self.order.front_mut().is_some_and(is_over) {
            if let Some((_, old)) = self.order.pop_front() {
                self.problems.remove(&old);
            }
        }
        self.problems.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str, retry_after_ms: u64) -> Problem {
        Problem { code: code.to_owned(), retry_after_ms, ..Problem::default() }
    }

    #[test]
    fn a_refusal_is_remembered_for_a_moment() {
        let (id, at) = (|name: &str| JobId::parse(name).expect("a good id"), Timestamp::from_millis);
        let mut refusals = Refusals::default();
        refusals.remember(&id("a"), &problem("key_busy", 0), at(1_000));
        refusals.remember(&id("b"), &problem("rate_exceeded", 5), at(1_000));
        assert_eq!(refusals.of(&id("a"), at(2_000)).map(|problem| problem.code), Some("key_busy".to_owned()));
        assert_eq!(refusals.of(&id("b"), at(2_000)), None, "it was to come again");
        // What is refused again because it was refused does not stay longer.
        refusals.remember(&id("a"), &problem("key_busy", 0), at(2_900));
        assert_eq!(refusals.of(&id("a"), at(3_001)), None);
    }
}
