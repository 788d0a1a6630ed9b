//! Trying dead jobs again, one or many.
//!
//! The new job's name follows from the dead one's, and the scheduler tries each dead job again only once: whoever got no answer
//! asks again. With another input the new job has a name of its own each time, so that asking again never touches the input of a
//! job that is there; the input of one that was not admitted is taken away.

use std::collections::VecDeque;

use busbar_api::{
    Problem, REDRIVES_DEFAULT, REDRIVES_MAX, RawValue, RedriveManyReply, RedriveManyRequest, RedriveReply, RedriveRequest,
    Rejection, SubmitReply,
};
use busbar_protocol::busbar::{AdmitAnswer, Admitted, RedriveItem, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::limits::{ADMIT_ITEMS_MAX, INPUT_TTL};
use busbar_protocol::ports::{Answer, Bus, Clock as _, CommitClass, Records};
use busbar_protocol::time::Timestamp;
use bytes::Bytes;

use super::dead::{ask, check, item, letters, read};
use super::jobs::read_job;
use super::scan::{Scan, Span};
use super::submit::accepted;
use crate::admit::{acceptance, take_back};
use crate::app::{App, Caller};
use crate::core::dead::{Filter, Meant, Pace, RedriveCursor, next_id};
use crate::core::moment::{self, Members};
use crate::core::page::Place;
use crate::core::submission;
use crate::core::view::time;
use crate::error::{internal, of_store, of_wire};

const PER_SECOND_DEFAULT: u32 = 10;
const PER_SECOND_MAX: u32 = 10_000;

/// Tries a dead job again.
pub(crate) async fn one<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    job_id: String,
    request: RedriveRequest,
) -> Result<RedriveReply, Problem> {
    check(&job_id)?;
    let members = Members { at: "not_before", after: "delay_ms" };
    let not_before = moment::ahead(members, request.not_before.as_deref(), None, app.clock.now())?;
    let item = RedriveItem { not_before_ms: not_before.map_or(0, Timestamp::millis), ..item(caller, job_id.clone()) };
    let job = match request.input {
        None => as_it_was(app, RedriveItem { new_job_id: next_id(&job_id), ..item }).await?,
        Some(input) => edited(app, caller, item, &input).await?,
    };
    Ok(RedriveReply { redrive_of: job_id, job })
}

async fn as_it_was<B: Bus, R: Records>(app: &App<B, R>, item: RedriveItem) -> Result<SubmitReply, Problem> {
    accepted(admitted(ask(app, vec![item]).await?.pop())?)
}

async fn edited<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    item: RedriveItem,
    input: &RawValue,
) -> Result<SubmitReply, Problem> {
    submission::check_input(input.get())?;
    let letter = read(app, caller.tenant_id(), &item.job_id).await?;
    if !letter.redriven_as.is_empty() {
        let detail = format!("{} was tried again already, as {}", letter.job_id, letter.redriven_as);
        return Err(Problem::new(Code::DeadLetterRedriven, detail));
    }
    let new_job_id = JobId::generate().as_str().to_owned();
    let input = Bytes::copy_from_slice(input.get().as_bytes());
    let edited_input_bytes = input.len() as u64;
    let stored = app.records.put_payload(&keys::context(&new_job_id), input, Some(INPUT_TTL)).await;
    stored.map_err(|error| of_store(&error))?;
    let item = RedriveItem { new_job_id: new_job_id.clone(), edited_input_bytes, ..item };
    let outcome = match ask(app, vec![item]).await {
        Ok(mut answers) => admitted(answers.pop()),
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(admitted) => accepted(admitted),
        Err(problem) => settle(app, caller, &new_job_id, problem).await,
    }
}

/// Takes the input away again, unless the job is there after all: then that is the answer.
async fn settle<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    job_id: &str,
    problem: Problem,
) -> Result<SubmitReply, Problem> {
    let unit = take_back(keys::job(job_id), keys::context(job_id));
    let answers = app.records.commit(CommitClass::Advance, vec![unit]).await.map_err(|error| of_store(&error))?;
    match answers.first() {
        Some(Answer::GuardFailed { .. } | Answer::Conflict { .. }) => {
            accepted(acceptance(&read_job(app, caller.tenant_id(), job_id).await?))
        }
        Some(Answer::Applied { .. } | Answer::Already) | None => Err(problem),
    }
}

fn admitted(answer: Option<AdmitAnswer>) -> Result<Admitted, Problem> {
    match answer.and_then(|answer| answer.answer) {
        Some(admit_answer::Answer::Admitted(admitted)) => Ok(admitted),
        Some(admit_answer::Answer::Rejected(problem)) => Err(of_wire(problem)),
        None => Err(internal(&"the scheduler's reply has no answer for a redrive")),
    }
}

/// Which dead jobs are tried again, and how fast.
#[derive(Debug)]
pub(crate) struct Many {
    filter: Filter,
    per_second: u64,
    limit: usize,
    cursor: Option<RedriveCursor>,
}

impl Many {
    /// Checks what a client asks for.
    pub(crate) fn new(request: &RedriveManyRequest) -> Result<Self, Problem> {
        let invalid = |detail: String| Err(Problem::new(Code::FieldInvalid, detail));
        let per_second = request.per_second.unwrap_or(PER_SECOND_DEFAULT);
        if !(1..=PER_SECOND_MAX).contains(&per_second) {
            return invalid(format!("per_second: 1 to {PER_SECOND_MAX}, not {per_second}"));
        }
        let limit = request.limit.unwrap_or(REDRIVES_DEFAULT);
        if !(1..=REDRIVES_MAX).contains(&limit) {
            return invalid(format!("limit: 1 to {REDRIVES_MAX}, not {limit}"));
        }
        let filter = Filter::new(Meant {
            topic: request.topic.as_deref(),
            reason_code: request.reason_code.as_deref(),
            since: request.since.as_deref(),
            until: request.until.as_deref(),
            redriven: Some(false),
        })?;
        let cursor = request.cursor.as_deref().filter(|cursor| !cursor.is_empty()).map(RedriveCursor::parse).transpose()?;
        Ok(Self { filter, per_second: per_second.into(), limit, cursor })
    }
}

/// Tries many dead jobs again, the oldest first. Their starts are spaced by the times before which they may not start, so that the
/// rate is kept whatever becomes of this process.
pub(crate) async fn many<B: Bus, R: Records>(app: &App<B, R>, caller: &Caller, many: Many) -> Result<RedriveManyReply, Problem> {
    let now = app.clock.now().millis();
    let start_ms = many.cursor.as_ref().map_or(now, |cursor| cursor.start_ms.max(now));
    let pace = Pace { start_ms, per_second: many.per_second };
    let after = many.cursor.as_ref().map(|cursor| &cursor.place);
    let mut source = Source::new(caller.tenant_id(), &many.filter, after);
    let (mut reply, mut asked, mut reached) = (RedriveManyReply::default(), 0_u64, after.cloned());
    while reply.job_ids.len() < many.limit {
        let batch = source.take(app, (many.limit - reply.job_ids.len()).min(ADMIT_ITEMS_MAX)).await?;
        let Some(last) = batch.last().cloned() else { break };
        let items = batch.iter().zip(asked..).map(|(place, number)| RedriveItem {
            new_job_id: next_id(&place.id),
            not_before_ms: pace.start_of(number),
            ..item(caller, place.id.clone())
        });
        let items: Vec<RedriveItem> = items.collect();
        let starts: Vec<u64> = items.iter().map(|item| item.not_before_ms).collect();
        asked += items.len() as u64;
        match ask(app, items).await {
            Ok(answers) => reply_with(&mut reply, batch, answers, &starts),
            Err(problem) if reply.job_ids.is_empty() => return Err(problem),
            // What was done is told; the cursor stands before what is in doubt, and asking again is safe.
            Err(problem) => {
                tracing::warn!(%problem, redriven = reply.redriven, "trying dead jobs again ends early");
                reply.next_cursor = reached.map(|place| RedriveCursor { start_ms: pace.start_of(asked), place }.text());
                return Ok(reply);
            }
        }
        reached = Some(last);
    }
    let rest = source.rest(reached);
    reply.next_cursor = rest.map(|place| RedriveCursor { start_ms: pace.start_of(asked), place }.text());
    Ok(reply)
}

fn reply_with(reply: &mut RedriveManyReply, batch: Vec<Place>, answers: Vec<AdmitAnswer>, starts: &[u64]) {
    for ((place, answer), start) in batch.into_iter().zip(answers).zip(starts) {
        let index = reply.job_ids.len();
        reply.job_ids.push(place.id);
        match admitted(Some(answer)) {
            Ok(admitted) => {
                reply.redriven += 1;
                reply.redriven_as.push(Some(admitted.job_id));
                reply.last_start = Some(time(*start));
            }
            Err(problem) => {
                let Problem { code, detail, retry_after_ms, .. } = problem;
                reply.redriven_as.push(None);
                reply.rejected.push(Rejection { index, code, detail, retry_after_ms });
            }
        }
    }
}

/// The dead jobs that are meant, the oldest first.
struct Source<'a> {
    tenant_id: &'a str,
    filter: &'a Filter,
    scan: Scan<'a>,
    waiting: VecDeque<Place>,
}

impl<'a> Source<'a> {
    fn new(tenant_id: &'a str, filter: &'a Filter, after: Option<&'a Place>) -> Self {
        let span = Span { since_ms: filter.since_ms, until_ms: filter.until_ms, newest_first: false };
        let scan = Scan::over(keys::index_dead(tenant_id), span, after);
        Self { tenant_id, filter, scan, waiting: VecDeque::new() }
    }

    /// Up to so many; fewer only at the end, or where enough were passed over.
    async fn take<B: Bus, R: Records>(&mut self, app: &App<B, R>, count: usize) -> Result<Vec<Place>, Problem> {
        while self.waiting.len() < count
            && let Some(places) = self.scan.next(&app.records).await?
        {
            let letters = letters(app, self.tenant_id, self.filter, places).await?;
            self.waiting.extend(letters.into_iter().map(|(place, _)| place));
        }
        let count = count.min(self.waiting.len());
        Ok(self.waiting.drain(..count).collect())
    }

    /// Behind which place there may be more, after what was reached.
    fn rest(&self, reached: Option<Place>) -> Option<Place> {
        if self.waiting.is_empty() { self.scan.read_to() } else { reached }
    }
}
