//! The snapshot: what is there when a client comes.

use std::sync::Arc;
use std::time::Duration;

use busbar_api::SnapshotEnd;
use busbar_protocol::busbar::{JobRecord, ListReply, ListRequest, RunRecord, StepRecord};
use busbar_protocol::ports::{Bus, Headers, IndexRange, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};

use super::{Hub, workers};
use crate::core::stream::filter::View;
use crate::core::stream::frame::Frame;
use crate::core::stream::item::{Item, Kind};
use crate::core::stream::shown::Shown;
use crate::core::view;

/// A snapshot shows so many jobs, the newest.
const JOBS_MAX: usize = 1_000;
/// So many jobs are asked for at once.
const JOBS_PAGE: u32 = 250;
/// However little of it passes the filter, no more pages are asked for.
const JOBS_PAGES_MAX: usize = 40;
/// A snapshot looks at so many live runs, the newest.
const RUNS_MAX: usize = 200;
/// So many steps are read in all.
const STEPS_MAX: usize = 4_000;
const PATIENCE: Duration = Duration::from_secs(2);

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Present {
    pub(super) frames: Vec<Frame>,
    pub(super) end: SnapshotEnd,
    pub(super) shown: Shown,
}

/// Why a part of the snapshot is missing.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no scheduler answered")]
    Scheduler,
    #[error("there is more than a snapshot shows")]
    TooMuch,
}

/// Looks at what is there. Whatever cannot be had is left out, and the end says so.
pub(super) async fn present<B: Bus, R: Records>(hub: &Arc<Hub<B, R>>, view: &View) -> Present {
    let mut present = Present { end: SnapshotEnd { complete: true, ..SnapshotEnd::default() }, ..Present::default() };
    let (jobs, runs, workers) = tokio::join!(jobs(hub, view), runs(hub, view), present_workers(hub, view));
    for (found, counted) in [(jobs, Kind::Job), (runs, Kind::Run), (workers, Kind::Worker)] {
        present.add(view, found, counted);
    }
    match hub.ends().await {
        Ok(ends) => present.shown.settle(ends),
        Err(_) => present.shown = Shown::default(),
    }
    present
}

/// What was found, and why it is not all.
struct Part {
    items: Vec<Item>,
    missing: Option<Missing>,
}

impl Part {
    const fn all(items: Vec<Item>) -> Self {
        Self { items, missing: None }
    }
}

impl Present {
    fn add(&mut self, view: &View, part: Part, kind: Kind) {
        if let Some(missing) = part.missing {
            tracing::debug!(%missing, kind = kind.as_str(), "a snapshot is not complete");
            self.end.complete = false;
        }
        let counted = match kind {
            Kind::Run => &mut self.end.runs,
            Kind::Worker => &mut self.end.workers,
            _ => &mut self.end.jobs,
        };
        for item in part.items {
            let Some(body) = view.shows(&item) else { continue };
            *counted += 1;
            self.frames.push(Frame::present(body));
            let id = if kind == Kind::Run { item.run_id } else { item.job_id };
            if let Some(id) = id {
                self.shown.see(id, item.at_ms);
            }
        }
    }
}

async fn jobs<B: Bus, R: Records>(hub: &Hub<B, R>, view: &View) -> Part {
    if !view.wants(Kind::Job) {
        return Part::all(Vec::new());
    }
    if view.jobs.is_empty() {
        return live_jobs(hub, view).await;
    }
    // Whoever names jobs wants to know of those that have ended, too.
    let names = view.jobs.iter().map(|job_id| keys::job(job_id)).collect();
    match hub.records.read(names).await {
        Ok(stored) => {
            Part::all(stored.into_iter().flatten().filter_map(|stored| job(&JobRecord::decode(stored.value).ok()?)).collect())
        }
        Err(error) => Part { items: Vec::new(), missing: Some(error.into()) },
    }
}

fn job(record: &JobRecord) -> Option<Item> {
    Some(Item::of_job_view(view::view(record)?, record.updated_ms))
}

async fn live_jobs<B: Bus, R: Records>(hub: &Hub<B, R>, view: &View) -> Part {
    let mut items = Vec::new();
    let mut question = ListRequest {
        tenant_id: view.tenant_id().to_owned(),
        topic: view.only_topic().map(busbar_rules::TopicPattern::literal_prefix).unwrap_or_default().to_owned(),
        limit: JOBS_PAGE,
        ..ListRequest::default()
    };
    for _ in 0..JOBS_PAGES_MAX {
        let Some(reply) = list(&hub.bus, &question).await else {
            return Part { items, missing: Some(Missing::Scheduler) };
        };
        let more = reply.more || reply.jobs.len() >= JOBS_PAGE as usize;
        items.extend(reply.jobs.iter().filter_map(job).filter(|item| view.shows(item).is_some()));
        let Some(last) = reply.jobs.last().filter(|_| more) else { return Part::all(items) };
        if items.len() >= JOBS_MAX {
            break;
        }
        (question.before_ms, question.before_id) = (last.created_ms, last.job_id.clone());
    }
    items.truncate(JOBS_MAX);
    Part { items, missing: Some(Missing::TooMuch) }
}

async fn list<B: Bus>(bus: &B, question: &ListRequest) -> Option<ListReply> {
    let payload = question.encode_to_vec().into();
    let answer = bus.request(subjects::SCHEDULER_LIST, Headers::new(), payload, PATIENCE).await.ok()?;
    ListReply::decode(answer.payload).ok().filter(|reply| reply.problem.is_none())
}

async fn runs<B: Bus, R: Records>(hub: &Hub<B, R>, view: &View) -> Part {
    let wanted = (view.wants(Kind::Run) || view.wants(Kind::Step)) && view.jobs.is_empty();
    if !wanted {
        return Part::all(Vec::new());
    }
    match read_runs(&hub.records, view).await {
        Ok(part) => part,
        Err(error) => Part { items: Vec::new(), missing: Some(error.into()) },
    }
}

async fn read_runs<R: Records>(records: &R, view: &View) -> Result<Part, StoreError> {
    let mut run_ids: Vec<String> = view.runs.iter().cloned().collect();
    if run_ids.is_empty() {
        let newest = IndexRange { min: 0, max: i64::MAX, newest_first: true, offset: 0, limit: RUNS_MAX as u64 };
        run_ids = records.index(keys::INDEX_LIVE_RUNS, newest).await?.into_iter().map(|entry| entry.member).collect();
    }
    let mut missing = (run_ids.len() == RUNS_MAX).then_some(Missing::TooMuch);
    let stored = records.read(run_ids.iter().map(|run_id| keys::run(run_id)).collect()).await?;
    let runs = stored.into_iter().flatten().filter_map(|stored| RunRecord::decode(stored.value).ok());
    let (mut items, mut steps_left) = (Vec::new(), STEPS_MAX);
    for run in runs.filter(|run| run.tenant_id == view.tenant_id()) {
        if run.steps.len() > steps_left {
            missing = Some(Missing::TooMuch);
            break;
        }
        steps_left -= run.steps.len();
        let stored = records.read(run.steps.iter().map(|step_id| keys::step(&run.run_id, step_id)).collect()).await?;
        let steps: Vec<StepRecord> =
            stored.into_iter().flatten().filter_map(|stored| StepRecord::decode(stored.value).ok()).collect();
        items.extend(Item::of_run_record(&run, &steps));
    }
    Ok(Part { items, missing })
}

async fn present_workers<B: Bus, R: Records>(hub: &Hub<B, R>, view: &View) -> Part {
    if !view.wants(Kind::Worker) {
        return Part::all(Vec::new());
    }
    match workers::ask(&hub.bus).await {
        Some(workers) => Part::all(workers.iter().map(Item::of_worker).collect()),
        None => Part { items: Vec::new(), missing: Some(Missing::Scheduler) },
    }
}
