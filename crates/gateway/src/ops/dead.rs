//! Dead letters: looking at them, and throwing one away.

use std::time::Duration;

use busbar_api::{DeadLetterDetail, DeadLetterList, INLINE_RESULT_BYTES_MAX, Problem, RawValue};
use busbar_protocol::busbar::{AdmitAnswer, DeadLetter, RedriveItem, RedriveReply, RedriveRequest, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys, subjects};

use super::results::payload;
use super::scan::{Scan, Span};
use crate::app::{App, Caller};
use crate::core::dead::{self, Filter};
use crate::core::page::{self, Part, Place};
use crate::error::{internal, of_store, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);

/// One page of a tenant's dead letters, the newest first.
pub(crate) async fn list<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    filter: &Filter,
    limit: usize,
    after: Option<&Place>,
) -> Result<DeadLetterList, Problem> {
    let span = Span { since_ms: filter.since_ms, until_ms: filter.until_ms, newest_first: true };
    let mut scan = Scan::over(keys::index_dead(tenant_id), span, after);
    let mut items = Vec::new();
    while items.len() <= limit
        && let Some(places) = scan.next(&app.records).await?
    {
        let letters = letters(app, tenant_id, filter, places).await?;
        items.extend(letters.into_iter().map(|(place, letter)| (place, dead::view(&letter))));
    }
    let page = page::merge(scan.part(items), Part { items: Vec::new(), read_to: None }, limit);
    Ok(DeadLetterList { items: page.items, next_cursor: page.next.map(|place| place.cursor()) })
}

/// Those of the letters at these places that are meant. Letters that have expired are passed over: the index forgets them a little
/// later.
pub(super) async fn letters<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    filter: &Filter,
    places: Vec<Place>,
) -> Result<Vec<(Place, DeadLetter)>, Problem> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let names = places.iter().map(|place| keys::dead_letter(&place.id)).collect();
    let stored = app.records.read(names).await.map_err(|error| of_store(&error))?;
    let letters = stored.into_iter().zip(places).filter_map(|(stored, place)| {
        let letter = DeadLetter::decode(stored?.value).ok()?;
        (letter.tenant_id == tenant_id && filter.fits(&letter)).then_some((place, letter))
    });
    Ok(letters.collect())
}

/// A dead letter whole, with its input where that is small.
pub(crate) async fn get<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<DeadLetterDetail, Problem> {
    let letter = read(app, tenant_id, job_id).await?;
    let mut detail = dead::detail(&letter);
    detail.input = input(app, &detail, job_id).await?;
    Ok(detail)
}

/// The letter of a dead job of this tenant. Others' do not exist for it.
pub(super) async fn read<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<DeadLetter, Problem> {
    check(job_id)?;
    let stored = app.records.read(vec![keys::dead_letter(job_id)]).await.map_err(|error| of_store(&error))?;
    let letter = stored.into_iter().next().flatten().map(|stored| DeadLetter::decode(stored.value));
    let letter = letter.transpose().map_err(|error| internal(&error))?;
    letter.filter(|letter| letter.tenant_id == tenant_id).ok_or_else(|| {
        let detail = format!("no dead letter of {job_id} is known: it never was, belongs to another tenant or has expired");
        Problem::new(Code::DeadLetterNotFound, detail)
    })
}

/// Refuses an identifier that no job can have.
pub(super) fn check(job_id: &str) -> Result<(), Problem> {
    ids::check(job_id).map_err(|error| Problem::new(Code::DeadLetterNotFound, error.to_string()))
}

/// The input where it stands under the job's own name, is small enough and JSON.
async fn input<B: Bus, R: Records>(
    app: &App<B, R>,
    letter: &DeadLetterDetail,
    job_id: &str,
) -> Result<Option<Box<RawValue>>, Problem> {
    let own = keys::context(job_id);
    let pointer = letter.input_ptr.as_deref().and_then(|pointer| Pointer::parse(pointer).ok());
    if pointer != Some(Pointer::Redis(own.clone())) || letter.input_bytes > INLINE_RESULT_BYTES_MAX {
        return Ok(None);
    }
    let small = payload(app, own).await?.filter(|bytes| bytes.len() as u64 <= INLINE_RESULT_BYTES_MAX);
    Ok(small.and_then(|bytes| String::from_utf8(bytes.into()).ok()).and_then(|text| RawValue::from_string(text).ok()))
}

/// Throws a dead letter away, with its input.
pub(crate) async fn discard<B: Bus, R: Records>(app: &App<B, R>, caller: &Caller, job_id: String) -> Result<(), Problem> {
    check(&job_id)?;
    let item = RedriveItem { new_job_id: String::new(), ..item(caller, job_id) };
    match ask(app, vec![item]).await?.into_iter().next().and_then(|answer| answer.answer) {
        Some(admit_answer::Answer::Rejected(problem)) => Err(of_wire(problem)),
        Some(admit_answer::Answer::Admitted(_)) | None => Ok(()),
    }
}

/// What is asked for a dead job: to throw it away, unless more is said.
pub(super) fn item(caller: &Caller, job_id: String) -> RedriveItem {
    RedriveItem {
        job_id,
        tenant_id: caller.tenant_id().to_owned(),
        requested_by: caller.name().to_owned(),
        ..RedriveItem::default()
    }
}

/// Asks the scheduler; one answer per item, in order.
pub(super) async fn ask<B: Bus, R: Records>(app: &App<B, R>, items: Vec<RedriveItem>) -> Result<Vec<AdmitAnswer>, Problem> {
    let asked = items.len();
    let reply: RedriveReply = app.ask(subjects::SCHEDULER_REDRIVE, &RedriveRequest { items }, PATIENCE).await?;
    match reply.problem {
        Some(problem) => Err(of_wire(problem)),
        None if reply.answers.len() == asked => Ok(reply.answers),
        None => Err(internal(&format!("the scheduler gave {} answers to {asked} redrives", reply.answers.len()))),
    }
}
