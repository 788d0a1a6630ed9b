//! The packed form of a job: what stands in the store, and the way back.

use bytes::Bytes;

use busbar_protocol::busbar::{self, JobRecord, WorkerKind, job_record};
use busbar_protocol::cap::JobPriority;
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use super::job::{AttemptEnd, CancelWish, End, Hold, Job, Outcome, ResultPlace, Source, State};

/// The version of the packed form that this code writes.
pub const RECORD_VERSION: u32 = 1;

impl Job {
    /// The packed form.
    #[must_use]
    pub fn to_record(&self) -> JobRecord {
        JobRecord {
            version: RECORD_VERSION,
            job_id: self.id.to_string(),
            tenant_id: self.tenant_id.clone(),
            trace_id: self.trace_id.clone(),
            traceparent: self.traceparent.clone(),
            request: self.request.clone(),
            topic: self.topic.clone(),
            priority: self.priority.into(),
            created_ms: self.created.millis(),
            updated_ms: self.updated.millis(),
            attempt: self.attempt,
            unreached: self.unreached,
            crashes: self.crashes,
            parent_job_id: self.parent_job_id.clone(),
            replica: self.replica,
            verifies: self.verifies,
            votes: self.votes.clone(),
            redrive_of: self.redrive_of.clone(),
            plan: Some(self.plan.clone()),
            decision: self.decision.clone(),
            last_end: self.last_end.as_ref().map(AttemptEnd::to_record),
            cancel: self.cancel.as_ref().map(|wish| busbar::CancelWish {
                cancel_by_ms: wish.by.millis(),
                reason: wish.reason.clone(),
                requested_by: wish.requested_by.clone(),
                code: wish.code.to_string(),
            }),
            from_bus: self.from_bus,
            state: Some(self.state.to_record()),
        }
    }

    /// The packed form, encoded.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.to_record().encode_to_vec().into()
    }

    /// Reads the packed form.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record = JobRecord::decode(bytes).map_err(|error| error.to_string())?;
        if record.version == 0 || record.version > RECORD_VERSION + 1 {
            return Err(format!("version {} is not one that this release reads", record.version));
        }
        let state = record.state.ok_or("it has no state")?;
        Ok(Self {
            id: JobId::parse(record.job_id).map_err(|error| error.to_string())?,
            tenant_id: record.tenant_id,
            trace_id: record.trace_id,
            traceparent: record.traceparent,
            request: record.request,
            topic: record.topic,
            priority: JobPriority::try_from(record.priority).unwrap_or_default(),
            created: Timestamp::from_millis(record.created_ms),
            updated: Timestamp::from_millis(record.updated_ms),
            attempt: record.attempt,
            unreached: record.unreached,
            crashes: record.crashes,
            parent_job_id: record.parent_job_id,
            replica: record.replica,
            verifies: record.verifies,
            votes: record.votes,
            redrive_of: record.redrive_of,
            plan: record.plan.unwrap_or_default(),
            decision: record.decision,
            last_end: record.last_end.map(AttemptEnd::from_record),
            cancel: record.cancel.map(|wish| CancelWish {
                by: Timestamp::from_millis(wish.cancel_by_ms),
                reason: wish.reason,
                requested_by: wish.requested_by,
                code: Code::parse(&wish.code).unwrap_or(Code::Cancelled),
            }),
            from_bus: record.from_bus,
            state: State::from_record(state)?,
        })
    }
}

impl AttemptEnd {
    fn to_record(&self) -> busbar::AttemptEnd {
        busbar::AttemptEnd {
            attempt: self.attempt,
            code: self.code.clone(),
            message: self.message.clone(),
            timed_out: self.timed_out,
            worker_id: self.worker_id.clone(),
        }
    }

    fn from_record(record: busbar::AttemptEnd) -> Self {
        Self {
            attempt: record.attempt,
            code: record.code,
            message: record.message,
            timed_out: record.timed_out,
            worker_id: record.worker_id,
        }
    }
}

impl State {
    fn to_record(&self) -> job_record::State {
        use job_record::State as Packed;
        match self {
            Self::Pending { not_before } => Packed::Pending(busbar::Pending { not_before_ms: not_before.millis() }),
            Self::ApprovalRequired { since } => Packed::ApprovalRequired(busbar::ApprovalRequired { since_ms: since.millis() }),
            Self::Scheduled { since, not_before } => {
                Packed::Scheduled(busbar::Scheduled { since_ms: since.millis(), not_before_ms: not_before.millis() })
            }
            Self::Dispatched { hold } => Packed::Dispatched(busbar::Dispatched {
                worker_id: hold.worker_id.clone(),
                since_ms: hold.since.millis(),
                worker_kind: hold.kind.into(),
                incarnation: hold.incarnation.clone(),
            }),
            Self::Running { hold, started, percent } => Packed::Running(busbar::Running {
                worker_id: hold.worker_id.clone(),
                since_ms: hold.since.millis(),
                worker_kind: hold.kind.into(),
                incarnation: hold.incarnation.clone(),
                started_ms: started.millis(),
                percent: *percent,
            }),
            Self::Replicated { since } => Packed::Replicated(busbar::Replicated { since_ms: since.millis() }),
            Self::Ended(end) => Packed::Ended(busbar::Ended {
                state: end.outcome.state().into(),
                at_ms: end.at.millis(),
                worker_id: end.worker_id.clone(),
                error_code: end.code.clone(),
                error_message: end.message.clone(),
                result_ptr: end.result.as_ref().map(|r| r.pointer.clone()).unwrap_or_default(),
                result_sha256: end.result.as_ref().map(|r| r.sha256.clone()).unwrap_or_default(),
                result_bytes: end.result.as_ref().map(|r| r.size).unwrap_or_default(),
                execution_ms: end.execution_ms,
                decided_here: end.decided_here,
                compared_sha256: end.result.as_ref().map(|r| r.compared.clone()).unwrap_or_default(),
                judgement: end.result.as_ref().map_or(busbar::Judgement::Unspecified, |r| r.judgement).into(),
                // The commit knows how long results are kept.
                result_until_ms: 0,
            }),
        }
    }

    fn from_record(packed: job_record::State) -> Result<Self, String> {
        use job_record::State as Packed;
        let at = Timestamp::from_millis;
        Ok(match packed {
            Packed::Pending(p) => Self::Pending { not_before: at(p.not_before_ms) },
            Packed::ApprovalRequired(p) => Self::ApprovalRequired { since: at(p.since_ms) },
            Packed::Scheduled(p) => Self::Scheduled { since: at(p.since_ms), not_before: at(p.not_before_ms) },
            Packed::Dispatched(p) => {
                let kind = p.worker_kind();
                Self::Dispatched { hold: hold(p.worker_id, kind, p.incarnation, at(p.since_ms)) }
            }
            Packed::Running(p) => {
                let kind = p.worker_kind();
                Self::Running {
                    hold: hold(p.worker_id, kind, p.incarnation, at(p.since_ms)),
                    started: at(p.started_ms),
                    percent: p.percent,
                }
            }
            Packed::Replicated(p) => Self::Replicated { since: at(p.since_ms) },
            Packed::Ended(p) => {
                let outcome = Outcome::from_state(p.state()).ok_or("it has ended in a state that is no end")?;
                let judgement = p.judgement();
                let place = ResultPlace {
                    judgement,
                    pointer: p.result_ptr,
                    sha256: p.result_sha256,
                    size: p.result_bytes,
                    compared: p.compared_sha256,
                    source: Source::There,
                };
                Self::Ended(End {
                    outcome,
                    at: at(p.at_ms),
                    worker_id: p.worker_id,
                    code: p.error_code,
                    message: p.error_message,
                    result: (!place.pointer.is_empty()).then_some(place),
                    execution_ms: p.execution_ms,
                    decided_here: p.decided_here,
                })
            }
        })
    }
}

fn hold(worker_id: String, kind: WorkerKind, incarnation: String, since: Timestamp) -> Hold {
    Hold { worker_id, kind, incarnation, since, heard: since }
}
