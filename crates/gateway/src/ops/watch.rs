//! Following one job to its end, or all jobs of a tenant.
//!
//! ```text
//!  busbar.job.event ──► every follower compares with where it stands ──► next entries, or
//!                                                                        a gap ──► ev:jobs after its cursor, in pages
//! ```
//!
//! A follower keeps a cursor and at most one page. One that does not keep up reads the log at its own speed; one for which the
//! log is too short is told that changes were missed. So a slow client costs nobody else anything, and no end is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_api::{JobView, Problem};
use busbar_protocol::busbar::{JobEvent, JobEventBatch};
use busbar_protocol::cap::JobProgress;
use busbar_protocol::codes::Code;
use busbar_protocol::cursor::LogCursor;
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::prost::Message as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::jobs::{check_job_id, read_job, show};
use super::waiting::{LOOK_AGAIN, STORE_PAUSE};
use crate::app::Shared;
use crate::core::follow::{self, Filter, Step, Whom, is_end, step};
use crate::core::view;
use crate::error::{busy, of_store};

/// How many entries of the log are read at once.
const PAGE: u64 = 256;
/// How often a store that is away is asked again before the follower is told: for a minute.
const STORE_TRIES_MAX: u32 = 300;

/// What a follower is told, and where it stands then.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) cursor: LogCursor,
    pub(crate) what: What,
}

/// What a follower is told.
#[derive(Debug)]
pub(crate) enum What {
    /// The one job as it is.
    Job(Box<JobView>),
    Change(Box<JobEvent>),
    Progress(Arc<JobProgress>),
    /// From here on, all changes of the tenant are told.
    Begins {
        /// Some before were missed.
        missed: bool,
    },
}

/// A follower.
#[derive(Debug)]
pub(crate) struct Watch<B, R> {
    app: Shared<B, R>,
    filter: Filter,
    at: LogCursor,
    changes: broadcast::Receiver<Arc<JobEventBatch>>,
    /// Of the one job only.
    progress: Option<broadcast::Receiver<Arc<JobProgress>>>,
    /// There may be entries that the bus did not bring.
    behind: bool,
    /// The one job was shown as it was at this time: what was before is no news.
    shown_ms: u64,
    /// The one job has ended, which it is told as soon as everything before is.
    ended: bool,
    over: bool,
    failures: u32,
    ready: VecDeque<Told>,
    _place: OwnedSemaphorePermit,
}

impl<B: Bus, R: Records> Watch<B, R> {
    /// Begins after a cursor, or with how things are.
    pub(crate) async fn start(app: Shared<B, R>, filter: Filter, after: Option<LogCursor>) -> Result<Self, Problem> {
        if let Whom::Job(job_id) = &filter.whom {
            check_job_id(job_id)?;
        }
        let place = app.watches.clone().try_acquire_owned().map_err(|_| busy("as many calls watch jobs as may"))?;
        let (changes, progress) = (app.jobs.follow(), filter.is_of_one().then(|| app.progress.follow()));
        let mut watch = Self {
            app,
            filter,
            at: LogCursor::START,
            changes,
            progress,
            behind: false,
            shown_ms: 0,
            ended: false,
            over: false,
            failures: 0,
            ready: VecDeque::new(),
            _place: place,
        };
        match after {
            None => watch.begin(false).await?,
            Some(after) => watch.resume(after).await?,
        }
        Ok(watch)
    }

    /// What comes next; `None` when nothing will come any more.
    pub(crate) async fn next(&mut self) -> Option<Result<Told, Problem>> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Some(Ok(told));
            }
            if self.over {
                return None;
            }
            if let Err(problem) = self.patiently().await {
                self.over = true;
                return Some(Err(problem));
            }
        }
    }

    /// Goes one step on. A store that is away comes back soon.
    async fn patiently(&mut self) -> Result<(), Problem> {
        match self.go_on().await {
            Err(problem) if problem.code == Code::StoreUnavailable.as_str() && self.failures < STORE_TRIES_MAX => {
                self.failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(STORE_PAUSE) => Ok(()),
                    () = self.app.shutdown.triggered() => Err(ending()),
                }
            }
            went => {
                self.failures = 0;
                went
            }
        }
    }

    async fn go_on(&mut self) -> Result<(), Problem> {
        if self.behind {
            return self.read_log().await;
        }
        if self.ended {
            return self.last_word().await;
        }
        let shutdown = self.app.shutdown.clone();
        tokio::select! {
            batch = self.changes.recv() => match batch {
                Ok(batch) => self.take_batch(&batch),
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Err(ending()),
            },
            Some(progress) = received(self.progress.as_mut()) => self.take_progress(progress),
            () = tokio::time::sleep(LOOK_AGAIN) => self.behind = true,
            () = shutdown.triggered() => return Err(ending()),
        }
        Ok(())
    }

    /// Tells how things are. The cursor is taken before, so that nothing falls in between.
    async fn begin(&mut self, missed: bool) -> Result<(), Problem> {
        let at = self.end().await?;
        let what = match &self.filter.whom {
            Whom::Tenant(_) => What::Begins { missed },
            Whom::Job(job_id) => {
                let record = read_job(&self.app, &self.filter.tenant_id, job_id).await?;
                let view = show(&self.app, &record, None).await?;
                self.over = view.state.is_terminal();
                self.shown_ms = record.updated_ms;
                What::Job(Box::new(view))
            }
        };
        (self.at, self.behind) = (at, false);
        self.tell(what);
        Ok(())
    }

    async fn resume(&mut self, after: LogCursor) -> Result<(), Problem> {
        if after > self.end().await? || after == LogCursor::START {
            // Not of this log, or the log began anew; and nobody can say what came after nothing.
            return self.begin(true).await;
        }
        if let Whom::Job(job_id) = &self.filter.whom {
            // Its end may be before the cursor.
            self.ended = view::ended(&read_job(&self.app, &self.filter.tenant_id, job_id).await?).is_some();
        }
        (self.at, self.behind) = (after, true);
        Ok(())
    }

    /// Where the log ends now.
    async fn end(&self) -> Result<LogCursor, Problem> {
        follow::cursor(&self.app.records.log_end(keys::LOG_JOBS).await.map_err(|error| of_store(&error))?)
    }

    /// Reads a page of what the bus did not bring.
    async fn read_log(&mut self) -> Result<(), Problem> {
        let records = &self.app.records;
        let entries = records.log_after(keys::LOG_JOBS, &self.at.to_string(), PAGE).await.map_err(|error| of_store(&error))?;
        if !entries.is_empty() {
            // Looked at afterwards: if the log still reaches back this far, it did while it was read.
            let oldest = records.log_after(keys::LOG_JOBS, "0", 1).await.map_err(|error| of_store(&error))?;
            let oldest = oldest.first().map(|entry| follow::cursor(&entry.cursor)).transpose()?;
            let began_empty = self.at == LogCursor::START;
            if !began_empty && oldest.is_none_or(|oldest| oldest > self.at) {
                return self.begin(true).await;
            }
        }
        self.behind = entries.len() as u64 == PAGE;
        for entry in entries {
            match JobEvent::decode(entry.value) {
                Ok(event) => self.take(&entry.cursor, &event),
                Err(error) => tracing::warn!(%error, cursor = entry.cursor, "an entry of the log that is no event of a job"),
            }
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &JobEventBatch) {
        match step(self.at, batch) {
            Step::Entries(entries) => {
                for entry in entries {
                    self.take(&entry.cursor, entry.event.as_ref().unwrap_or(&JobEvent::default()));
                }
            }
            Step::Gap => self.behind = true,
            Step::Nothing => {}
        }
    }

    fn take(&mut self, cursor: &str, event: &JobEvent) {
        let Some(cursor) = LogCursor::parse(cursor) else { return };
        self.at = cursor;
        if !self.filter.is_of(event) {
            return;
        }
        let ends = self.filter.is_of_one() && is_end(event);
        let is_news = event.at_ms >= self.shown_ms || ends;
        if is_news && self.filter.wants(event) {
            self.tell(What::Change(Box::new(event.clone())));
        }
        if ends {
            (self.ended, self.behind) = (true, false);
        }
    }

    fn take_progress(&mut self, progress: Arc<JobProgress>) {
        if matches!(&self.filter.whom, Whom::Job(job_id) if *job_id == progress.job_id) {
            self.tell(What::Progress(progress));
        }
    }

    /// The whole job, after its end.
    async fn last_word(&mut self) -> Result<(), Problem> {
        let Whom::Job(job_id) = &self.filter.whom else { return Ok(()) };
        match read_job(&self.app, &self.filter.tenant_id, job_id).await {
            Ok(record) => {
                let view = show(&self.app, &record, None).await?;
                self.tell(What::Job(Box::new(view)));
            }
            // It has expired: its end was told.
            Err(problem) if problem.code == Code::JobNotFound.as_str() => {}
            Err(problem) => return Err(problem),
        }
        self.over = true;
        Ok(())
    }

    fn tell(&mut self, what: What) {
        self.ready.push_back(Told { cursor: self.at, what });
    }
}

/// Progress, where it is followed. Losing some of it does no harm.
async fn received(progress: Option<&mut broadcast::Receiver<Arc<JobProgress>>>) -> Option<Arc<JobProgress>> {
    match progress {
        Some(progress) => progress.recv().await.ok(),
        None => std::future::pending().await,
    }
}

fn ending() -> Problem {
    busy("this gateway is ending; go on from the last cursor")
}
