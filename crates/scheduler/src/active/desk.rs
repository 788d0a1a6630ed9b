//! The desk: what the active scheduler answers to those who ask and order. It answers from memory; what it changes is told after
//! the commit of the turn.

use busbar_protocol::busbar::{
    CancelAnswer, CancelItem, CancelReply, DrainReply, DrainRequest, ExplainReply, ExplainRequest, JobRecord, JobState,
    ListReply, ListRequest, PauseReply, PauseRequest, Problem, SchedulerStatus, WorkersReply, cancel_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Bus, Clock, Judge, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_rules::TopicPattern;

use super::Term;
use crate::core::cell::Known;
use crate::core::holds::HoldError;
use crate::core::job::Job;
use crate::core::transition::{Event, Rejected};
use crate::input::Shown;
use crate::{intake, tasks};

/// The most bytes of jobs in one reply to `list`: a message holds 1 MiB.
const LIST_BYTES_MAX: usize = 700 << 10;
/// What a job in a list takes beside its record: tag and length.
const LISTED_BYTES: usize = 6;

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    pub(super) fn cancel(&mut self, items: &[CancelItem], reply: Option<String>, now: Timestamp) {
        let answers = items.iter().map(|item| CancelAnswer { answer: Some(self.cancel_one(item, now)) }).collect();
        if let Some(reply) = reply {
            self.effects.replies.push((reply, CancelReply { answers, problem: None }.encode_to_vec()));
        }
    }

    fn cancel_one(&mut self, item: &CancelItem, now: Timestamp) -> cancel_answer::Answer {
        let missing =
            || cancel_answer::Answer::Rejected(intake::problem(Code::JobNotFound, format!("no live job {}", item.job_id)));
        let Ok(id) = JobId::parse(item.job_id.clone()) else { return missing() };
        let Some(job) = self.cell.job(&id).filter(|job| item.tenant_id.is_empty() || item.tenant_id == job.tenant_id) else {
            return missing();
        };
        let before = job.state.tag();
        let event = Event::CancelAsked {
            attempt: item.attempt,
            reason: item.reason.clone(),
            requested_by: item.requested_by.clone(),
            code: Code::Cancelled,
        };
        match self.cell.apply(&id, &event, now) {
            Ok(()) | Err(Rejected::Unchanged) => {}
            Err(Rejected::Terminal | Rejected::StaleAttempt | Rejected::WrongState) => {
                return cancel_answer::Answer::State(before.into());
            }
        }
        cancel_answer::Answer::State(self.cell.job(&id).map_or(before, |job| job.state.tag()).into())
    }

    /// Answers with a page of live jobs, once those of them are read that are not in memory.
    pub(super) fn list(&mut self, request: &ListRequest, reply: String) {
        let page = self.page(request);
        if page.iter().any(|shown| matches!(shown, Shown::Shelved(_))) {
            self.tasks.spawn(tasks::complete(self.ports.clone(), page, request.state(), reply, self.inputs.clone()));
            return;
        }
        let whole = page.into_iter().filter_map(|shown| if let Shown::Whole(record) = shown { Some(*record) } else { None });
        self.listed(whole.collect(), reply);
    }

    /// Answers with a page of live jobs, as far as it fits into a message.
    pub(super) fn listed(&mut self, jobs: Vec<JobRecord>, reply: String) {
        let mut page = ListReply::default();
        let mut bytes = 0;
        for record in jobs {
            bytes += record.encoded_len() + LISTED_BYTES;
            // One is told whatever its size, so that whoever asks gets ahead.
            if bytes > LIST_BYTES_MAX && !page.jobs.is_empty() {
                page.more = true;
                break;
            }
            page.jobs.push(record);
        }
        self.effects.replies.push((reply, page.encode_to_vec()));
    }

    fn page(&self, request: &ListRequest) -> Vec<Shown> {
        let before = (request.before_ms > 0)
            .then(|| JobId::parse(request.before_id.clone()).ok().map(|id| (Timestamp::from_millis(request.before_ms), id)))
            .flatten();
        let wanted = request.state();
        let patterns: Vec<TopicPattern> =
            request.topic_patterns.iter().filter_map(|pattern| TopicPattern::parse(pattern).ok()).collect();
        let fitting = self
            .cell
            .newest_before(before.as_ref())
            .filter(|job| request.tenant_id.is_empty() || job.tenant_id() == request.tenant_id)
            .filter(|job| wanted == JobState::Unspecified || job.state() == wanted)
            .filter(|job| request.topic.is_empty() || job.topic() == request.topic)
            .filter(|job| request.topic_patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(job.topic())))
            .take(usize::try_from(request.limit.min(1000)).unwrap_or(1000));
        let shown = fitting.map(|job| match job {
            Known::Whole(job) => Shown::Whole(Box::new(job.to_record())),
            Known::Shelved { id, .. } => Shown::Shelved(id),
        });
        shown.collect()
    }

    pub(super) fn view_workers(&self, now: Timestamp) -> WorkersReply {
        WorkersReply {
            workers: self.cell.workers().view(&self.config.settings.patience, self.cell.holds(), now),
            scheduler: Some(SchedulerStatus {
                owner: self.config.owner.clone(),
                epoch: self.cell.epoch(),
                live: self.cell.live().iter().map(|(state, count)| (state.short_name().to_owned(), *count)).collect(),
                snapshot: self.cell.snapshot().to_owned(),
                started_ms: self.started.millis(),
                loading: self.cell.is_loading(),
                topics_commit: self.library.commit(),
            }),
            problem: None,
        }
    }

    pub(super) fn pause(&mut self, request: PauseRequest, now: Timestamp) -> PauseReply {
        let refused = self.cell.pause(request.set, now).err().map(|error| refused(&error));
        if refused.is_none() {
            self.cell.lift(&request.lift, now);
        }
        PauseReply { pauses: self.cell.holds().pauses(), problem: refused }
    }

    pub(super) fn drain(&mut self, request: DrainRequest, now: Timestamp) -> DrainReply {
        let refused = self.cell.drain(request.set, now).err().map(|error| refused(&error));
        if refused.is_none() {
            self.cell.undrain(&request.lift, now);
        }
        DrainReply { drains: self.cell.holds().drains(), problem: refused }
    }

    pub(super) fn explain(&self, request: &ExplainRequest, now: Timestamp) -> ExplainReply {
        let theirs = |job: &Job| request.tenant_id.is_empty() || request.tenant_id == job.tenant_id;
        let id = JobId::parse(request.job_id.clone()).ok().filter(|id| self.cell.job(id).is_some_and(theirs));
        id.and_then(|id| self.cell.explain(&id, now)).unwrap_or_else(|| {
            let problem = intake::problem(Code::JobNotFound, format!("no live job {}", request.job_id));
            ExplainReply { problem: Some(problem), ..ExplainReply::default() }
        })
    }
}

fn refused(error: &HoldError) -> Problem {
    intake::problem(Code::FieldInvalid, error.to_string())
}
