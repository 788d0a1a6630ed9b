//! What has happened to jobs, for those who measure and tell: nothing is decided by it.

use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::job::{Job, State};

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An attempt was sent to a worker.
    Dispatched {
        /// The job.
        job: JobId,
        /// Since when it waited for a worker.
        since: Timestamp,
    },
    /// An attempt that had reached a worker is over.
    AttemptOver {
        /// The job.
        job: JobId,
        /// Since when a worker had it.
        since: Timestamp,
        /// Another one follows.
        again: bool,
    },
    /// It is over.
    Ended {
        /// The job.
        job: JobId,
    },
}

/// What the step from one state of a job to its next means.
pub(super) fn of_step(before: &Job, after: &Job) -> impl Iterator<Item = Fact> {
    let id = || after.id.clone();
    let dispatched = match (&before.state, after.hold()) {
        (State::Scheduled { since, .. }, Some(_)) => Some(Fact::Dispatched { job: id(), since: *since }),
        _ => None,
    };
    let over = match (before.hold(), after.hold()) {
        (Some(hold), None) if before.unreached == after.unreached => {
            Some(Fact::AttemptOver { job: id(), since: hold.since, again: after.end().is_none() })
        }
        _ => None,
    };
    let ended = after.end().map(|_| Fact::Ended { job: id() });
    [dispatched, over, ended].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::WorkerKind;
    use busbar_protocol::cap::JobPriority;

    use super::super::job::{End, Hold, Outcome};
    use super::*;

    const SINCE: Timestamp = Timestamp::from_millis(500);

    fn job(state: State) -> Job {
        Job {
            tenant_id: "default".to_owned(),
            topic: "job.echo".to_owned(),
            priority: JobPriority::Batch,
            created: SINCE,
            updated: SINCE,
            attempt: 1,
            ..Job::new(JobId::parse("j").expect("a good id"), state)
        }
    }

    #[test]
    fn each_step_says_what_it_means() {
        let id = || JobId::parse("j").expect("a good id");
        let hold =
            Hold { worker_id: "w".into(), kind: WorkerKind::Native, incarnation: String::new(), since: SINCE, heard: SINCE };
        let waiting = job(State::Scheduled { since: SINCE, not_before: SINCE });
        let sent = job(State::Dispatched { hold: hold.clone() });
        let running = job(State::Running { hold, started: SINCE, percent: 0 });
        let end = End {
            outcome: Outcome::Succeeded,
            at: SINCE,
            worker_id: "w".into(),
            code: String::new(),
            message: String::new(),
            result: None,
            execution_ms: 1,
            decided_here: false,
        };
        let ended = job(State::Ended(end));
        let of = |before: &Job, after: &Job| of_step(before, after).collect::<Vec<_>>();
        let over = |again| Fact::AttemptOver { job: id(), since: SINCE, again };
        assert_eq!(of(&waiting, &sent), [Fact::Dispatched { job: id(), since: SINCE }]);
        assert_eq!(of(&sent, &running), []);
        assert_eq!(of(&running, &waiting), [over(true)]);
        assert_eq!(of(&running, &ended), [over(false), Fact::Ended { job: id() }]);
        assert_eq!(of(&waiting, &ended), [Fact::Ended { job: id() }]);
        let nobody_there = Job { unreached: 1, ..waiting };
        assert_eq!(of(&sent, &nobody_there), []);
    }
}
