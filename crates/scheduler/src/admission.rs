//! The end of an admission: from what the store said about a submission to what its sender is told.

use std::time::Duration;

use busbar_protocol::busbar::{AdmitAnswer, Admitted, IdempotencyPolicy, Problem, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Answer, Settlement};

use crate::core::commit::Demand;
use crate::core::flow::Refusal;
use crate::core::job::Job;
use crate::intake::{self, Prepared};

/// What became of a submission that was in order.
pub(crate) enum Fate {
    /// It is durable.
    Admitted,
    /// A job of this name exists.
    JobExists,
    /// A job with this idempotency key exists.
    KeyUsed,
    /// Its input is not there, or not any more.
    InputGone,
    /// Whoever submitted it has taken it back.
    Revoked,
    /// The dead letter that it tries again is not as it was.
    LetterTaken,
    /// We are no longer the active scheduler.
    NotOwner,
    /// The store takes no new work.
    MemoryShort,
    /// It was not tried: something else speaks against it.
    Refused(Problem),
}

/// What an answer of the store, or its lack, means for a submission whose unit made these demands.
pub(crate) fn fate(answer: Option<&Answer>, demands: &[Demand]) -> Fate {
    match answer {
        None => Fate::MemoryShort,
        Some(Answer::Applied { .. } | Answer::Already) => Fate::Admitted,
        Some(Answer::Conflict { guard } | Answer::GuardFailed { guard }) => match demands.get(*guard) {
            Some(Demand::Owner) => Fate::NotOwner,
            Some(Demand::JobAbsent) => Fate::JobExists,
            Some(Demand::KeyFree) => Fate::KeyUsed,
            Some(Demand::LetterAsRead) => Fate::LetterTaken,
            Some(Demand::NotRevoked) => Fate::Revoked,
            Some(Demand::InputThere) | None => Fate::InputGone,
        },
    }
}

/// A refusal by bounds, in words.
pub(crate) fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::Rate { whose, after } => {
            let problem = intake::problem(Code::RateExceeded, format!("{whose} submits faster than it may"));
            let wait = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            Problem { retry_after_ms: wait.max(1), ..problem }
        }
        Refusal::Backlog { whose, most } => {
            intake::problem(Code::BacklogFull, format!("{whose} has {most} jobs waiting, as many as it may"))
        }
        Refusal::Key { most } => {
            let detail =
                format!("{most} live jobs carry the concurrency key, as many as may; the topic's strategy is to refuse more");
            intake::problem(Code::KeyBusy, detail)
        }
    }
}

/// What is to be said about a submission.
pub(crate) enum Verdict {
    /// This.
    Known(admit_answer::Answer),
    /// Something like it exists; the store must be asked what.
    Doubtful(Box<Doubt>),
}

/// A submission that may be another one's repetition.
pub(crate) struct Doubt {
    /// It.
    pub prepared: Prepared,
    /// What is to be said if it is no repetition.
    pub otherwise: Option<Problem>,
}

impl Verdict {
    /// A refusal.
    pub(crate) const fn rejected(problem: Problem) -> Self {
        Self::Known(admit_answer::Answer::Rejected(problem))
    }

    /// The answer, where nobody can be asked any more.
    pub(crate) fn certain(self) -> AdmitAnswer {
        match self {
            Self::Known(answer) => AdmitAnswer { answer: Some(answer) },
            Self::Doubtful(doubt) => AdmitAnswer { answer: Some(duplicate(&doubt.prepared.job)) },
        }
    }

    /// What is said where no repetition was found.
    pub(crate) fn refusal(self) -> admit_answer::Answer {
        match self {
            Self::Known(answer) => answer,
            Self::Doubtful(doubt) => {
                let none = || duplicate(&doubt.prepared.job);
                doubt.otherwise.clone().map_or_else(none, admit_answer::Answer::Rejected)
            }
        }
    }

    /// A submission that comes again has been dealt with; one that found no room comes back later.
    pub(crate) fn settlement(&self) -> Settlement {
        let problem = match self {
            Self::Known(admit_answer::Answer::Rejected(problem)) => Some(problem),
            Self::Doubtful(doubt) => doubt.otherwise.as_ref(),
            Self::Known(admit_answer::Answer::Admitted(_)) => None,
        };
        match problem.map(|problem| problem.retry_after_ms) {
            Some(wait) if wait > 0 => Settlement::Nak(Duration::from_millis(wait)),
            Some(_) | None => Settlement::Ack,
        }
    }
}

/// The refusal of a submission whose name is taken.
pub(crate) fn duplicate(job: &Job) -> admit_answer::Answer {
    admit_answer::Answer::Rejected(intake::problem(Code::JobDuplicate, format!("a job {} exists already", job.id)))
}

/// The refusal of a submission whose idempotency key is taken, and that asked for it.
pub(crate) fn key_used(job: &Job, by: &str) -> admit_answer::Answer {
    let key = &job.plan.idempotency_key;
    admit_answer::Answer::Rejected(intake::problem(Code::IdempotencyKeyUsed, format!("the key {key:?} stands for the job {by}")))
}

/// Whether a submission asked to be refused where its key is taken.
pub(crate) fn refuses_used_key(job: &Job) -> bool {
    job.plan.idempotency_policy() == IdempotencyPolicy::Reject
}

/// What is to be said about a submission with this fate.
pub(crate) fn verdict(prepared: &Prepared, fate: Fate) -> Verdict {
    let refuse = |code, detail: String| Verdict::rejected(intake::problem(code, detail));
    let doubt = |otherwise| Verdict::Doubtful(Box::new(Doubt { prepared: prepared.clone(), otherwise }));
    let job = &prepared.job;
    match fate {
        Fate::Admitted => Verdict::Known(admit_answer::Answer::Admitted(Admitted {
            job_id: job.id.to_string(),
            trace_id: job.trace_id.clone(),
            state: job.state.tag().into(),
            existing: false,
        })),
        Fate::JobExists | Fate::KeyUsed => doubt(None),
        // Whoever repeats a submission is given what it asked for, however full it is by now.
        Fate::Refused(problem) => doubt(Some(problem)),
        Fate::LetterTaken => refuse(
            Code::DeadLetterRedriven,
            format!("the dead letter {} was tried again, or thrown away, meanwhile", job.redrive_of),
        ),
        Fate::MemoryShort => refuse(Code::MemoryShort, "the store takes no new work".to_owned()),
        Fate::InputGone => refuse(Code::PayloadMissing, format!("there is nothing at redis://ctx:{}", job.id)),
        Fate::Revoked => refuse(Code::PayloadMissing, format!("the submission of {} was taken back", job.id)),
        Fate::NotOwner => refuse(Code::SchedulerUnavailable, "this scheduler was replaced".to_owned()),
    }
}
