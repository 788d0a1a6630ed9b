//! A job that waits, of which no more was read than by what it waits.
//!
//! Whoever takes over a long queue reads a million records, and almost all of these jobs go to the shelf, where they are a line, a
//! seat and a time. A record has some twenty texts and lists; of a sketch only three are made, and nothing else is copied.

use std::sync::Arc;

use busbar_protocol::busbar::{JobPlan, JobSketch, PlanSketch, Replication, job_sketch};
use busbar_protocol::cap::JobPriority;
use busbar_protocol::ids::{JobId, PackedJobId};
use busbar_protocol::ports::Stored;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use bytes::Bytes;

use super::job::{Job, RECORD_VERSION, State};
use super::line::Class;

/// What jobs have in common that wait in the same line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Whose they are.
    pub tenant_id: String,
    /// Their class, their topic in it.
    pub class: Arc<Class>,
    /// Their priority.
    pub priority: JobPriority,
    /// Whether several workers must come to their results.
    pub replicated: bool,
}

impl Kind {
    /// A job of the kind, with nothing of its own.
    pub(super) fn into_job(self) -> Job {
        let replication = self.replicated.then(Replication::default);
        let nobody = JobId::parse("nobody").expect("a word is a name");
        Job {
            tenant_id: self.tenant_id,
            topic: self.class.topic.clone(),
            priority: self.priority,
            plan: JobPlan { replication, ..JobPlan::default() },
            ..Job::new(nobody, State::Pending { not_before: Timestamp::default() })
        }
    }
}

/// A job with what it waits by beside its kind, and nothing else in it. Thousands of them are on their way into the cell at once, so
/// it is small.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    name: PackedJobId,
    revision: u64,
    kind: u32,
    created: Timestamp,
    updated: Timestamp,
    schedule_to_start_ms: u64,
    deadline_at_ms: u64,
    state: job_sketch::State,
}

/// A sketch, and what says of which kind it is: parts of the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    sketch: Sketch,
    tenant_id: Bytes,
    topic: Bytes,
    /// Its priority.
    pub priority: JobPriority,
    /// Whether several workers must come to its result.
    pub replicated: bool,
    /// The CAP request.
    pub request: Bytes,
}

impl Found {
    /// Reads the packed form of a job; nothing, if that job must be read whole: somebody has it, it has ended, others hang on it, or
    /// this is not the form of a job.
    #[must_use]
    pub fn read(stored: &Stored) -> Option<Self> {
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
        } = JobSketch::decode(stored.value.clone()).ok()?;
        let PlanSketch { schedule_to_start_ms, deadline_at_ms, concurrency_key, replication } = plan.unwrap_or_default();
        let stands_alone = cancel.is_none() && parent_job_id.is_empty() && concurrency_key.is_empty();
        if version == 0 || version > RECORD_VERSION + 1 || !stands_alone {
            return None;
        }
        std::str::from_utf8(&tenant_id).ok()?;
        std::str::from_utf8(&topic).ok()?;
        let sketch = Sketch {
            name: PackedJobId::parse(std::str::from_utf8(&job_id).ok()?).ok()?,
            revision: stored.revision,
            kind: 0,
            created: Timestamp::from_millis(created_ms),
            updated: Timestamp::from_millis(updated_ms),
            schedule_to_start_ms,
            deadline_at_ms,
            state: state?,
        };
        let priority = JobPriority::try_from(priority).unwrap_or_default();
        Some(Self { sketch, tenant_id, topic, priority, replicated: replication.is_some(), request })
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        std::str::from_utf8(&self.tenant_id).unwrap_or_default()
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }

    /// Whether its record says the same of its kind as another's, apart from the request.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.tenant_id, &self.topic, self.priority, self.replicated)
            == (&other.tenant_id, &other.topic, other.priority, other.replicated)
    }

    /// The sketch, of the kind with this number in its page.
    #[must_use]
    pub fn into_sketch(self, kind: u32) -> Sketch {
        Sketch { kind, ..self.sketch }
    }
}

impl Sketch {
    /// Its name.
    pub(super) const fn name(&self) -> &PackedJobId {
        &self.name
    }

    /// The revision that was read.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The number of its kind in its page.
    pub(super) const fn kind(&self) -> usize {
        self.kind as usize
    }

    /// Makes of a job of its kind the one that it shows, but for the name.
    pub(super) fn draw(self, job: &mut Job) -> PackedJobId {
        job.created = self.created;
        job.updated = self.updated;
        job.plan.schedule_to_start_ms = self.schedule_to_start_ms;
        job.plan.deadline_at_ms = self.deadline_at_ms;
        job.state = waiting(self.state);
        self.name
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

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{JobDecision, WorkerKind};
    use busbar_protocol::cap::JobRequest;
    use busbar_protocol::codes::Code;
    use busbar_protocol::ports::CommitId;

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

    fn stored(value: Bytes) -> Stored {
        Stored { revision: 5, commit: CommitId([0; 16]), value }
    }

    fn read(job: &Job) -> Option<Found> {
        Found::read(&stored(job.encode()))
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
            let found = read(&whole).expect("it waits");
            assert_eq!((found.tenant_id(), found.topic(), &found.request), ("acme", "job.a", &whole.request));
            let class = Arc::new(Class { topic: found.topic().to_owned(), ..Class::default() });
            let kind =
                Kind { tenant_id: found.tenant_id().to_owned(), class, priority: found.priority, replicated: found.replicated };
            let (mut sketched, sketch) = (kind.into_job(), found.into_sketch(3));
            assert_eq!((sketch.kind(), sketch.revision()), (3, 5));
            assert_eq!(JobId::from(&sketch.draw(&mut sketched)), whole.id);
            assert_eq!(
                (&sketched.tenant_id, &sketched.topic, sketched.priority, sketched.is_replicated()),
                (&whole.tenant_id, &whole.topic, whole.priority, whole.is_replicated())
            );
            assert_eq!((&sketched.state, sketched.created, sketched.updated), (&whole.state, whole.created, whole.updated));
            for now in [AT, later.after_millis(1)] {
                assert_eq!(sketched.wakes_at(now), whole.wakes_at(now));
            }
        }
    }

    #[test]
    fn a_sketch_is_small() {
        assert!(size_of::<Sketch>() <= 104, "{}", size_of::<Sketch>());
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
        assert_eq!(Found::read(&stored(Bytes::from_static(b"\xff\xff"))), None);
        assert_eq!(Found::read(&stored(Bytes::new())), None);
    }
}
