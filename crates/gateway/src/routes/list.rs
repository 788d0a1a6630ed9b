//! Lists of jobs: live ones from the scheduler's memory, finished ones from the tenant's index.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use busbar_api::{JobList, JobState, JobView, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Problem};
use busbar_protocol::busbar::{JobRecord, ListReply, ListRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, IndexEntry, IndexRange, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use serde::Deserialize;

use super::bad_query;
use crate::app::{App, Caller, Shared};
use crate::core::page::{self, Part, Place};
use crate::core::role::Need;
use crate::core::view;
use crate::error::{Refusal, of_store, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);
/// How many entries of the index are read at once.
const CHUNK: u64 = 200;
/// How many entries of the index one page passes over at most while it looks for jobs that fit.
const SCANNED_MAX: u64 = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    state: Option<String>,
    topic: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// What is asked for.
struct Wanted<'a> {
    tenant_id: &'a str,
    state: Option<JobState>,
    topic: Option<&'a str>,
    limit: usize,
    after: Option<Place>,
}

impl Wanted<'_> {
    fn fits(&self, view: &JobView) -> bool {
        self.state.is_none_or(|state| state == view.state) && self.topic.is_none_or(|topic| topic == view.topic)
    }
}

/// `GET /api/v1/jobs?state=&topic=&limit=&cursor=`
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<JobList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let wanted = wanted(caller.tenant_id(), &query)?;
    // Live ones first: a job that ends in between is then seen twice, not missed.
    let live = live(&app, &wanted).await?;
    let finished = finished(&app, &wanted).await?;
    let page = page::merge(live, finished, wanted.limit);
    Ok(Json(JobList { items: page.items, next_cursor: page.next.map(|place| place.cursor()) }))
}

fn wanted<'a>(tenant_id: &'a str, query: &'a ListQuery) -> Result<Wanted<'a>, Problem> {
    let given = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
    let invalid = |detail: String| Problem::new(Code::FieldInvalid, detail);
    let state = given(&query.state).map(str::parse).transpose().map_err(|error| invalid(format!("state: {error}")))?;
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(invalid(format!("limit: 1 to {PAGE_ITEMS_MAX}, not {limit}")));
    }
    let after = given(&query.cursor).map(Place::parse).transpose()?;
    Ok(Wanted { tenant_id, state, topic: given(&query.topic), limit, after })
}

async fn live<B: Bus, R: Records>(app: &App<B, R>, wanted: &Wanted<'_>) -> Result<Part<JobView>, Problem> {
    if wanted.state.is_some_and(JobState::is_terminal) {
        return Ok(Part { items: Vec::new(), read_to: None });
    }
    let (before_ms, before_id) = wanted.after.clone().map_or((0, String::new()), |place| (place.created_ms, place.job_id));
    let question = ListRequest {
        tenant_id: wanted.tenant_id.to_owned(),
        state: wanted.state.map_or(0, |state| state.to_protocol().into()),
        topic: wanted.topic.unwrap_or_default().to_owned(),
        limit: u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX),
        before_ms,
        before_id,
    };
    let reply: ListReply = app.ask(subjects::SCHEDULER_LIST, &question, PATIENCE).await?;
    if let Some(problem) = reply.problem {
        return Err(of_wire(problem));
    }
    Ok(part_of(&reply, wanted.limit))
}

/// What the scheduler told. It was asked for one job more than the page takes, and may have told fewer than it was asked for:
/// both mean that there are older ones.
fn part_of(reply: &ListReply, limit: usize) -> Part<JobView> {
    let may_hold_more = reply.more || reply.jobs.len() > limit;
    let read_to = reply.jobs.last().filter(|_| may_hold_more).map(place_of_record);
    Part { items: reply.jobs.iter().filter_map(placed).collect(), read_to }
}

async fn finished<B: Bus, R: Records>(app: &App<B, R>, wanted: &Wanted<'_>) -> Result<Part<JobView>, Problem> {
    let mut part = Part { items: Vec::new(), read_to: None };
    if wanted.state.is_some_and(|state| !state.is_terminal()) {
        return Ok(part);
    }
    let index = keys::index_finished(wanted.tenant_id);
    let max = wanted.after.as_ref().map_or(i64::MAX, |place| i64::try_from(place.created_ms).unwrap_or(i64::MAX));
    let mut offset = 0;
    loop {
        let range = IndexRange { min: 0, max, newest_first: true, offset, limit: CHUNK };
        let entries = app.records.index(&index, range).await.map_err(|error| of_store(&error))?;
        let last_chunk = (entries.len() as u64) < CHUNK;
        let places: Vec<Place> =
            entries.iter().map(place_of).filter(|place| wanted.after.as_ref().is_none_or(|after| place < after)).collect();
        let read_to = places.last().cloned();
        part.items.extend(read_views(app, wanted, places).await?);
        offset += CHUNK;
        if last_chunk {
            part.read_to = None;
            return Ok(part);
        }
        part.read_to = read_to.or(part.read_to);
        if part.items.len() > wanted.limit || offset >= SCANNED_MAX {
            return Ok(part);
        }
    }
}

/// Jobs whose records have expired are passed over: the index forgets them a little later.
async fn read_views<B: Bus, R: Records>(
    app: &App<B, R>,
    wanted: &Wanted<'_>,
    places: Vec<Place>,
) -> Result<Vec<(Place, JobView)>, Problem> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let names = places.iter().map(|place| keys::job(&place.job_id)).collect();
    let stored = app.records.read(names).await.map_err(|error| of_store(&error))?;
    let views = stored.into_iter().zip(places).filter_map(|(stored, place)| {
        let record = JobRecord::decode(stored?.value).ok()?;
        let (_, view) = placed(&record).filter(|(_, view)| view.tenant_id == wanted.tenant_id && wanted.fits(view))?;
        // A finished job's place is that of its index entry, so that it agrees with the order of the index.
        Some((place, view))
    });
    Ok(views.collect())
}

fn placed(record: &JobRecord) -> Option<(Place, JobView)> {
    Some((place_of_record(record), view::view(record)?))
}

fn place_of_record(record: &JobRecord) -> Place {
    Place { created_ms: record.created_ms, job_id: record.job_id.clone() }
}

fn place_of(entry: &IndexEntry) -> Place {
    Place { created_ms: u64::try_from(entry.score).unwrap_or(0), job_id: entry.member.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A live job of this moment. Which state it is in is of no interest here.
    fn record(created_ms: u64) -> JobRecord {
        JobRecord {
            created_ms,
            job_id: format!("j{created_ms}"),
            topic: "job.echo".into(),
            state: Some(busbar_protocol::busbar::job_record::State::Scheduled(Default::default())),
            ..JobRecord::default()
        }
    }

    fn reply(jobs: &[u64], more: bool) -> ListReply {
        ListReply { jobs: jobs.iter().copied().map(record).collect(), problem: None, more }
    }

    fn read_to(part: &Part<JobView>) -> Option<u64> {
        part.read_to.as_ref().map(|place| place.created_ms)
    }

    #[test]
    fn a_reply_that_was_cut_is_read_on_from_its_last_job() {
        let full = part_of(&reply(&[9, 8, 7], false), 2);
        assert_eq!((full.items.len(), read_to(&full)), (3, Some(7)));
        let cut = part_of(&reply(&[9, 8], true), 50);
        assert_eq!((cut.items.len(), read_to(&cut)), (2, Some(8)));
        let all = part_of(&reply(&[9, 8], false), 2);
        assert_eq!((all.items.len(), read_to(&all)), (2, None));
        assert_eq!(read_to(&part_of(&reply(&[], false), 2)), None);
    }

    #[test]
    fn a_page_of_a_cut_reply_goes_on_where_it_was_cut() {
        // The scheduler cut after 8; the index was read to its end, and what it holds below 8 waits for the next page.
        let finished = Part { items: [7, 10].map(|ms| placed(&record(ms)).expect("a state")).into(), read_to: None };
        let page = page::merge(part_of(&reply(&[9, 8], true), 50), finished, 50);
        let ids: Vec<&str> = page.items.iter().map(|view| view.id.as_str()).collect();
        assert_eq!((ids, page.next), (vec!["j10", "j9", "j8"], Some(place_of_record(&record(8)))));
    }
}
