//! Lists of jobs: live ones from the scheduler's memory, finished ones from the tenant's index.

use std::time::Duration;

use busbar_api::{JobList, JobState, JobView, Problem};
use busbar_protocol::busbar::{JobRecord, ListReply, ListRequest};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};

use super::scan::{self, Scan};
use crate::app::App;
use crate::core::page::{self, Part, Place};
use crate::core::view;
use crate::error::{of_store, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);
/// What is asked for.
pub(crate) struct Wanted<'a> {
    tenant_id: &'a str,
    state: Option<JobState>,
    topic: Option<&'a str>,
    limit: usize,
    after: Option<Place>,
}

impl<'a> Wanted<'a> {
    /// Checks what a client asks for. An empty topic or cursor counts as none.
    pub(crate) fn new(
        tenant_id: &'a str,
        state: Option<JobState>,
        topic: Option<&'a str>,
        limit: Option<usize>,
        cursor: Option<&str>,
    ) -> Result<Self, Problem> {
        let (limit, after) = (scan::limit(limit)?, scan::after(cursor)?);
        Ok(Self { tenant_id, state, topic: topic.filter(|topic| !topic.is_empty()), limit, after })
    }

    fn fits(&self, view: &JobView) -> bool {
        self.state.is_none_or(|state| state == view.state) && self.topic.is_none_or(|topic| topic == view.topic)
    }
}

/// One page of a tenant's jobs.
pub(crate) async fn list<B: Bus, R: Records>(app: &App<B, R>, wanted: &Wanted<'_>) -> Result<JobList, Problem> {
    // Live ones first: a job that ends in between is then seen twice, not missed.
    let live = live(app, wanted).await?;
    let finished = finished(app, wanted).await?;
    let page = page::merge(live, finished, wanted.limit);
    Ok(JobList { items: page.items, next_cursor: page.next.map(|place| place.cursor()) })
}

async fn live<B: Bus, R: Records>(app: &App<B, R>, wanted: &Wanted<'_>) -> Result<Part<JobView>, Problem> {
    if wanted.state.is_some_and(JobState::is_terminal) {
        return Ok(Part { items: Vec::new(), read_to: None });
    }
    let (before_ms, before_id) = wanted.after.clone().map_or((0, String::new()), |place| (place.created_ms, place.id));
    let question = ListRequest {
        tenant_id: wanted.tenant_id.to_owned(),
        state: wanted.state.map_or(0, |state| state.to_protocol().into()),
        topic: wanted.topic.unwrap_or_default().to_owned(),
        limit: u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX),
        before_ms,
        before_id,
        topic_patterns: Vec::new(),
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
    if wanted.state.is_some_and(|state| !state.is_terminal()) {
        return Ok(Part { items: Vec::new(), read_to: None });
    }
    let mut scan = Scan::new(keys::index_finished(wanted.tenant_id), wanted.after.as_ref());
    let mut items = Vec::new();
    while items.len() <= wanted.limit
        && let Some(places) = scan.next(&app.records).await?
    {
        items.extend(read_views(app, wanted, places).await?);
    }
    Ok(scan.part(items))
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
    let names = places.iter().map(|place| keys::job(&place.id)).collect();
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
    Place { created_ms: record.created_ms, id: record.job_id.clone() }
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
