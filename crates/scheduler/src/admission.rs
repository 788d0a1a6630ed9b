//! The end of an admission: from what the store said about a submission to what its sender is told.

use std::time::Duration;

use busbar_protocol::busbar::{AdmitAnswer, Admitted, Problem, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Answer, Settlement};

use crate::core::commit::{GUARD_JOB_ABSENT, GUARD_KEY_UNUSED};
use crate::core::job::Job;
use crate::intake::{self, Prepared};

/// What became of the unit of a submission.
pub(crate) enum Fate {
    /// It is durable.
    Admitted,
    /// A job of this name exists.
    JobExists,
    /// A job with this idempotency key exists.
    KeyUsed,
    /// Its input is not there, or not any more.
    InputGone,
    /// We are no longer the active scheduler.
    NotOwner,
    /// The store takes no new work.
    MemoryShort,
}

/// What an answer of the store, or its lack, means for a submission.
pub(crate) fn fate(answer: Option<&Answer>, job: &Job) -> Fate {
    match answer {
        None => Fate::MemoryShort,
        Some(Answer::Applied { .. } | Answer::Already) => Fate::Admitted,
        Some(Answer::Conflict { guard } | Answer::GuardFailed { guard }) => match *guard {
            GUARD_JOB_ABSENT => Fate::JobExists,
            GUARD_KEY_UNUSED if !job.plan.idempotency_key.is_empty() => Fate::KeyUsed,
            0 => Fate::NotOwner,
            _ => Fate::InputGone,
        },
    }
}

/// What is to be said about a submission.
pub(crate) enum Verdict {
    /// This.
    Known(admit_answer::Answer),
    /// Something like it exists; the store must be asked what.
    Doubtful(Box<Job>),
}

impl Verdict {
    /// The answer, where nobody can be asked any more.
    pub(crate) fn certain(self) -> AdmitAnswer {
        match self {
            Self::Known(answer) => AdmitAnswer { answer: Some(answer) },
            Self::Doubtful(job) => AdmitAnswer { answer: Some(duplicate(&job)) },
        }
    }

    /// A submission that comes again has been dealt with; one that found no room comes back later.
    pub(crate) fn settlement(&self) -> Settlement {
        match self {
            Self::Known(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms > 0 => {
                Settlement::Nak(Duration::from_millis(problem.retry_after_ms))
            }
            Self::Known(_) | Self::Doubtful(_) => Settlement::Ack,
        }
    }
}

/// The refusal of a submission whose name is taken.
pub(crate) fn duplicate(job: &Job) -> admit_answer::Answer {
    admit_answer::Answer::Rejected(intake::problem(Code::JobDuplicate, format!("a job {} exists already", job.id)))
}

/// What is to be said about a submission whose unit had this fate; without one, there was no room for it.
pub(crate) fn verdict(prepared: &Prepared, fate: Option<&Fate>) -> Verdict {
    let refuse = |problem: Problem| Verdict::Known(admit_answer::Answer::Rejected(problem));
    match fate {
        Some(Fate::Admitted) => Verdict::Known(admit_answer::Answer::Admitted(Admitted {
            job_id: prepared.job.id.to_string(),
            trace_id: prepared.job.trace_id.clone(),
            state: prepared.job.state.tag().into(),
            existing: false,
        })),
        Some(Fate::JobExists | Fate::KeyUsed) => Verdict::Doubtful(Box::new(prepared.job.clone())),
        Some(Fate::MemoryShort) => refuse(intake::problem(Code::MemoryShort, "the store takes no new work")),
        Some(Fate::InputGone) => {
            refuse(intake::problem(Code::PayloadMissing, format!("there is nothing at redis://ctx:{}", prepared.job.id)))
        }
        Some(Fate::NotOwner) => refuse(intake::problem(Code::SchedulerUnavailable, "this scheduler was replaced")),
        None => refuse(intake::problem(Code::BacklogFull, "the cell holds as many live jobs as it may")),
    }
}
