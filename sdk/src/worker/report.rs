//! Passes on what a handler reports: progress at most five times a second, log lines in pieces.

use std::time::Duration;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobProgress, JobStatus};
use busbar_protocol::ports::{Bus, Clock, Records};
use busbar_protocol::{envelope, subjects};
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::attempt::headers;
use super::run::Shared;
use crate::backoff::Backoff;
use crate::context::{Progress, Report};
use crate::core::dispatch::Dispatch;

const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_millis(500);
/// This much log is passed on at once.
const LOG_PIECE_BYTES: usize = 64 << 10;
/// How often the rest of a log is offered to a store that does not take it, before the result goes without.
const FINISH_TRIES: u32 = 3;

/// What is to be passed on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Progress,
    Log,
}

/// Passes on the reports of one attempt.
pub(super) struct Reporter<'a, B, R> {
    shared: &'a Shared<B, R>,
    dispatch: &'a Dispatch,
    report: &'a Report,
    progress_at: Instant,
    log_at: Instant,
}

impl<'a, B: Bus, R: Records> Reporter<'a, B, R> {
    pub(super) fn new(shared: &'a Shared<B, R>, dispatch: &'a Dispatch, report: &'a Report) -> Self {
        let now = Instant::now();
        Self { shared, dispatch, report, progress_at: now, log_at: now + LOG_EVERY }
    }

    /// Waits until something is to be passed on.
    pub(super) async fn due(&self) -> Due {
        loop {
            let Some((at, due)) = self.next() else {
                self.report.changed().await;
                continue;
            };
            if at <= Instant::now() {
                return due;
            }
            tokio::select! {
                () = sleep_until(at) => return due,
                () = self.report.changed() => {}
            }
        }
    }

    fn next(&self) -> Option<(Instant, Due)> {
        let (progress, log_bytes) = self.report.waiting();
        let progress = progress.then_some((self.progress_at, Due::Progress));
        let log = match log_bytes {
            0 => None,
            LOG_PIECE_BYTES.. => Some((self.log_at - LOG_EVERY, Due::Log)),
            _ => Some((self.log_at, Due::Log)),
        };
        progress.into_iter().chain(log).min_by_key(|(at, _)| *at)
    }

    /// Passes it on.
    pub(super) async fn pass_on(&mut self, due: Due) {
        match due {
            Due::Progress => {
                self.progress_at = Instant::now() + PROGRESS_EVERY;
                if let Some(progress) = self.report.take_progress() {
                    Box::pin(self.progress(progress)).await;
                }
            }
            Due::Log => {
                self.log().await;
                self.log_at = Instant::now() + LOG_EVERY;
            }
        }
    }

    /// Passes on the rest of the log, so that it is complete before the result is told.
    pub(super) async fn finish(&self) {
        let mut backoff = Backoff::new();
        for _ in 0..FINISH_TRIES {
            if self.log().await {
                return;
            }
            backoff.pause().await;
        }
        let lost_bytes = self.report.take_log().len();
        tracing::warn!(job_id = self.dispatch.key.job_id, lost_bytes, "the end of a log could not be stored");
    }

    /// Appends what there is to the log; says whether nothing is left.
    async fn log(&self) -> bool {
        let piece = self.report.take_log();
        if piece.is_empty() {
            return true;
        }
        let stored = Box::pin(self.shared.payloads.append_log(&self.dispatch.key, Bytes::copy_from_slice(&piece))).await;
        if let Err(error) = &stored {
            tracing::debug!(job_id = self.dispatch.key.job_id, %error, "a piece of log has to wait");
            self.report.return_log(piece);
        }
        stored.is_ok()
    }

    async fn progress(&self, progress: Progress) {
        let message = JobProgress {
            job_id: self.dispatch.key.job_id.clone(),
            percent: i32::from(progress.percent),
            message: progress.message,
            status: JobStatus::Running.into(),
            dispatch: self.dispatch.request.dispatch.clone(),
            identity: self.dispatch.request.identity.clone(),
            ..JobProgress::default()
        };
        let now = self.shared.clock.now();
        let packet = envelope::packet(&self.dispatch.trace_id, &self.shared.worker_id, now, Payload::JobProgress(message));
        // The next report, or the result, says more: a lost one is not repeated.
        if let Err(error) = self.shared.bus.publish(subjects::PROGRESS, headers(self.dispatch), packet).await {
            tracing::debug!(job_id = self.dispatch.key.job_id, %error, "a progress report was lost");
        }
    }
}
