//! The relay: tells on the bus, in order and at least once, what the log holds.
//!
//! ```text
//! ev:jobs ──read after the cursor──▶ busbar.job.event   every entry, in batches
//!                                ├─▶ sys.job.result     ends that we decided ourselves
//!                                └─▶ sys.job.dlq        dead letters
//!         ◀──cursor, once the server has it all──
//! ```

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{JobEvent, JobEventBatch, JobEventEntry, JobState};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{ErrorCode, JobResult, JobStatus};
use busbar_protocol::envelope;
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Bus, BusError, Clock, CommitClass, CommitId, Guard, Headers, LogEntry, Records, StoreError, Unit, Write,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use tokio::sync::Notify;

use crate::meters::{Meters, RelayProgress};

/// The most entries of one batch.
const BATCH: u64 = 256;

/// How long the relay waits when nobody wakes it.
const IDLE: Duration = Duration::from_millis(500);

/// The cursor is saved after so many entries, or when the log is caught up.
const SAVE_EVERY: usize = 4096;

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What the relay works with.
pub(crate) struct Relay<B, R, C> {
    pub bus: B,
    pub records: R,
    pub clock: C,
    pub epoch: u64,
    pub meters: Meters,
    pub progress: Arc<RelayProgress>,
}

struct Position {
    cursor: String,
    revision: u64,
    unsaved: usize,
}

impl<B: Bus, R: Records, C: Clock> Relay<B, R, C> {
    /// Relays for ever; `wake` says that there may be something new.
    pub(crate) async fn run(self, wake: &Notify) {
        let mut position = None;
        loop {
            if let Err(error) = self.relay(&mut position).await {
                tracing::debug!(%error, "the relay pauses");
                position = None;
                self.clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
            tokio::select! {
                biased;
                () = wake.notified() => {}
                () = self.clock.sleep(IDLE) => {}
            }
        }
    }

    /// Relays until the log is caught up.
    async fn relay(&self, position: &mut Option<Position>) -> Result<(), RelayError> {
        if position.is_none() {
            *position = Some(self.load().await?);
        }
        let Some(at) = position else { return Ok(()) };
        loop {
            let (mark, now) = (self.progress.mark(), self.clock.now());
            let entries = self.records.log_after(keys::LOG_JOBS, &at.cursor, BATCH).await?;
            let Some(last) = entries.last().map(|entry| entry.cursor.clone()) else {
                self.progress.caught_up(mark, now);
                break;
            };
            self.tell(&at.cursor, &entries).await?;
            self.measure(&entries);
            at.cursor = last;
            at.unsaved += entries.len();
            if at.unsaved >= SAVE_EVERY {
                self.save(at).await?;
            }
        }
        if at.unsaved > 0 { self.save(at).await } else { Ok(()) }
    }

    fn measure(&self, entries: &[LogEntry]) {
        let now = self.clock.now();
        let times = || entries.iter().map(|entry| written(&entry.cursor));
        times().for_each(|at| self.meters.relayed(now.since(at)));
        self.progress.told(entries.len(), times().next_back().unwrap_or(now));
    }

    async fn load(&self) -> Result<Position, RelayError> {
        let stored = self.records.read(vec![keys::LOG_JOBS_RELAYED.to_owned()]).await?.pop().flatten();
        Ok(stored.map_or(Position { cursor: "0".to_owned(), revision: 0, unsaved: 0 }, |stored| Position {
            cursor: String::from_utf8_lossy(&stored.value).into_owned(),
            revision: stored.revision,
            unsaved: 0,
        }))
    }

    /// Saves the cursor, once a round trip has shown that everything before has arrived.
    async fn save(&self, at: &mut Position) -> Result<(), RelayError> {
        self.bus.round_trip().await?;
        let key = keys::LOG_JOBS_RELAYED.to_owned();
        let own = Guard::Epoch { lock: keys::LOCK_SCHEDULER.to_owned(), epoch: self.epoch };
        let present = if at.revision == 0 {
            Guard::Absent { key: key.clone() }
        } else {
            Guard::Revision { key: key.clone(), revision: at.revision }
        };
        let value = at.cursor.clone().into_bytes().into();
        let put = Write::Put { key, revision: at.revision + 1, value, expire: None };
        let unit = Unit { id: CommitId::generate(), guards: vec![own, present], writes: vec![put] };
        self.records.commit(CommitClass::Advance, vec![unit]).await?;
        at.revision += 1;
        at.unsaved = 0;
        Ok(())
    }

    async fn tell(&self, after: &str, entries: &[LogEntry]) -> Result<(), RelayError> {
        let mut batch = JobEventBatch { after: after.to_owned(), entries: Vec::with_capacity(entries.len()) };
        for entry in entries {
            let Ok(event) = JobEvent::decode(entry.value.clone()) else {
                tracing::error!(cursor = entry.cursor, "an entry of the log cannot be read and is passed over");
                continue;
            };
            self.announce(&event).await?;
            batch.entries.push(JobEventEntry { cursor: entry.cursor.clone(), event: Some(event) });
        }
        self.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.encode_to_vec().into()).await?;
        Ok(())
    }

    async fn announce(&self, event: &JobEvent) -> Result<(), RelayError> {
        if !event.decided_here && !event.dead_letter {
            return Ok(());
        }
        let trace = if event.trace_id.is_empty() { &event.job_id } else { &event.trace_id };
        let result = Payload::JobResult(result_of(event));
        let packet = envelope::packet(trace, subjects::SCHEDULER_SENDER, Timestamp::from_millis(event.at_ms), result);
        if event.decided_here {
            self.bus.publish(subjects::RESULT, Headers::new(), packet.clone()).await?;
        }
        if event.dead_letter {
            let id = format!("{}/dlq", event.job_id);
            self.bus.publish_durable(subjects::DEAD_LETTER, &id, Headers::new(), packet).await?;
        }
        Ok(())
    }
}

/// When an entry was written: its cursor begins with the milliseconds.
fn written(cursor: &str) -> Timestamp {
    let millis = cursor.split_once('-').map_or(cursor, |(millis, _)| millis);
    Timestamp::from_millis(millis.parse().unwrap_or(0))
}

/// The result that tells of an end, as CAP consumers expect it.
fn result_of(event: &JobEvent) -> JobResult {
    let state = event.states.last().and_then(|state| JobState::try_from(*state).ok()).unwrap_or_default();
    let (status, code) = match state {
        JobState::Succeeded => (JobStatus::Succeeded, ErrorCode::Unspecified),
        JobState::Cancelled => (JobStatus::Cancelled, ErrorCode::Unspecified),
        JobState::Denied => (JobStatus::Denied, ErrorCode::SafetyDenied),
        JobState::Timeout => (JobStatus::Timeout, ErrorCode::JobTimeout),
        JobState::Failed => (JobStatus::Failed, cap_code(&event.error_code)),
        JobState::Unspecified
        | JobState::Pending
        | JobState::ApprovalRequired
        | JobState::Scheduled
        | JobState::Dispatched
        | JobState::Running => (JobStatus::Failed, ErrorCode::Unspecified),
    };
    JobResult {
        job_id: event.job_id.clone(),
        status: status.into(),
        result_ptr: event.result_ptr.clone(),
        // CAP consumers take a result only from the sender that it names.
        worker_id: subjects::SCHEDULER_SENDER.to_owned(),
        error_code: event.error_code.clone(),
        error_message: event.error_message.clone(),
        error_code_enum: code.into(),
        ..JobResult::default()
    }
}

fn cap_code(code: &str) -> ErrorCode {
    use busbar_protocol::codes::Code;
    match Code::parse(code) {
        Some(Code::InputInvalid | Code::PayloadMissing | Code::PointerInvalid | Code::EnvReserved) => ErrorCode::JobInvalidInput,
        Some(Code::UnknownTopic | Code::NoPool | Code::WorkerLost | Code::WorkerUnreachable) => ErrorCode::JobWorkerUnavailable,
        Some(Code::JobDuplicate) => ErrorCode::JobDuplicate,
        Some(Code::LimitMemory | Code::LimitCpu | Code::LimitOutput) => ErrorCode::JobResourceExhausted,
        _ => ErrorCode::Unspecified,
    }
}
