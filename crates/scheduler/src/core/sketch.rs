//! A job that waits, of which no more was read than by what it waits.
//!
//! Whoever takes over a long queue reads a million records, and almost all of these jobs go to the shelf, where they are a line, a
//! seat and a time. A record has some twenty texts and lists; of a sketch only three are made, and nothing else is copied.

use busbar_protocol::busbar::{JobPlan, JobSketch, PlanSketch, Replication, job_sketch};
use busbar_protocol::cap::JobPriority;
use busbar_protocol::ids::JobId;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use bytes::Bytes;

use super::job::{Job, RECORD_VERSION, State};

/// A job with what it waits by, and nothing else in it. Thousands of them are on their way into the cell at once, so it is small.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    id: JobId,
    tenant_id: String,
    topic: String,
    priority: JobPriority,
    created: Timestamp,
    updated: Timestamp,
    schedule_to_start_ms: u64,
    deadline_at_ms: u64,
    replication: Option<Box<Replication>>,
    state: job_sketch::State,
}

impl Sketch {
    /// Reads the packed form of a job, and the CAP request in it; nothing, if that job must be read whole: somebody has it, it has
    /// ended, others hang on it, or this is not the form of a job.
    #[must_use]
    pub fn read(record: Bytes) -> Option<(Self, Bytes)> {
        let JobSketch {
            version,
            job_id,
            tenant_id,
            request,
            created_ms,
            updated_ms,
            plan,
            cancel,
            state,
            topic,
            priority,
            parent_job_id,
        } = JobSketch::decode(record).ok()?;
        let PlanSketch { schedule_to_start_ms, deadline_at_ms, concurrency_key, replication } = plan.unwrap_or_default();
        let stands_alone = cancel.is_none() && parent_job_id.is_empty() && concurrency_key.is_empty();
        if version == 0 || version > RECORD_VERSION + 1 || !stands_alone {
            return None;
        }
        let sketch = Self {
            id: JobId::parse(text(&job_id)?).ok()?,
            tenant_id: text(&tenant_id)?,
            topic: text(&topic)?,
            priority: JobPriority::try_from(priority).unwrap_or_default(),
            created: Timestamp::from_millis(created_ms),
            updated: Timestamp::from_millis(updated_ms),
            schedule_to_start_ms,
            deadline_at_ms,
            replication: replication.map(Box::new),
            state: state?,
        };
        Some((sketch, request))
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &JobId {
        &self.id
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The job: it has a name, a tenant, a topic, a priority, and the times of its states and limits. The rest is empty.
    pub(super) fn into_job(self) -> Job {
        let Self { schedule_to_start_ms, deadline_at_ms, replication, .. } = self;
        let replication = replication.map(|replication| *replication);
        Job {
            tenant_id: self.tenant_id,
            topic: self.topic,
            priority: self.priority,
            created: self.created,
            updated: self.updated,
            plan: JobPlan { schedule_to_start_ms, deadline_at_ms, replication, ..JobPlan::default() },
            ..Job::new(self.id, waiting(self.state))
        }
    }
}

/// Whether a job waits, and nobody else's fate hangs on it.
pub(super) const fn can_be_shelved(job: &Job) -> bool {
    job.waits() && job.cancel.is_none() && job.plan.concurrency_key.is_empty() && job.parent_job_id.is_empty()
}

fn waiting(state: job_sketch::State) -> State {
    use job_sketch::State as Packed;
    let at = Timestamp::from_millis;
    match state {
        Packed::Pending(p) => State::Pending { not_before: at(p.not_before_ms) },
        Packed::ApprovalRequired(p) => State::ApprovalRequired { since: at(p.since_ms) },
        Packed::Scheduled(p) => State::Scheduled { since: at(p.since_ms), not_before: at(p.not_before_ms) },
    }
}

fn text(bytes: &Bytes) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{JobDecision, WorkerKind};
    use busbar_protocol::cap::JobRequest;
    use busbar_protocol::codes::Code;

    use super::super::job::{CancelWish, Hold};
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn job(state: State) -> Job {
        let request = JobRequest { topic: "job.a".to_owned(), priority: JobPriority::Critical.into(), ..JobRequest::default() };
        Job {
            tenant_id: "acme".to_owned(),
            trace_id: "trace".to_owned(),
            request: request.encode_to_vec().into(),
            topic: "job.a".to_owned(),
            priority: JobPriority::Critical,
            created: AT,
            updated: AT.after_millis(3),
            attempt: 2,
            redrive_of: "before".to_owned(),
            plan: JobPlan {
                schedule_to_start_ms: 5_000,
                deadline_at_ms: AT.millis() + 9_000,
                max_attempts: 7,
                requires: vec!["gpu".to_owned()],
                ..JobPlan::default()
            },
            decision: Some(JobDecision { snapshot: "s".to_owned(), ..JobDecision::default() }),
            ..Job::new(JobId::parse("j").expect("a good id"), state)
        }
    }

    fn read(job: &Job) -> Option<(Sketch, Bytes)> {
        Sketch::read(job.encode())
    }

    #[test]
    fn a_sketch_waits_as_its_job_does() {
        let later = AT.after_millis(1_000);
        for state in [
            State::Pending { not_before: later },
            State::ApprovalRequired { since: AT },
            State::Scheduled { since: AT, not_before: AT },
            State::Scheduled { since: AT, not_before: later },
        ] {
            let whole = job(state);
            let (sketch, request) = read(&whole).expect("it waits");
            assert_eq!((sketch.id(), sketch.topic(), &request), (&whole.id, whole.topic.as_str(), &whole.request));
            let sketched = sketch.into_job();
            assert_eq!(
                (&sketched.id, &sketched.tenant_id, &sketched.topic, sketched.priority),
                (&whole.id, &whole.tenant_id, &whole.topic, whole.priority)
            );
            assert_eq!((&sketched.state, sketched.created, sketched.updated), (&whole.state, whole.created, whole.updated));
            for now in [AT, later.after_millis(1)] {
                assert_eq!(sketched.wakes_at(now), whole.wakes_at(now));
            }
        }
    }

    #[test]
    fn a_sketch_is_small() {
        assert!(size_of::<Sketch>() <= 160, "{}", size_of::<Sketch>());
    }

    #[test]
    fn what_cannot_be_shelved_is_read_whole() {
        let waits = State::Scheduled { since: AT, not_before: AT };
        let hold = Hold { worker_id: "w".to_owned(), kind: WorkerKind::Native, incarnation: String::new(), since: AT, heard: AT };
        let wish = CancelWish { by: AT, reason: String::new(), requested_by: String::new(), code: Code::Cancelled };
        let keyed = JobPlan { concurrency_key: "k".to_owned(), ..JobPlan::default() };
        let others = [
            job(State::Dispatched { hold }),
            Job { cancel: Some(wish), ..job(waits.clone()) },
            Job { parent_job_id: "parent".to_owned(), ..job(waits.clone()) },
            Job { plan: keyed, ..job(waits.clone()) },
        ];
        for other in others {
            assert!(!can_be_shelved(&other));
            assert_eq!(read(&other), None);
        }
        assert!(can_be_shelved(&job(waits)));
        assert_eq!(Sketch::read(Bytes::from_static(b"\xff\xff")), None);
        assert_eq!(Sketch::read(Bytes::new()), None);
    }
}
