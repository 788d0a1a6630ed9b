//! What the relay tells of the log of jobs.
//!
//! ```text
//! ev:jobs ──relay──▶ busbar.job.event   every entry, in batches
//!                ├─▶ sys.job.result     ends that we decided ourselves
//!                └─▶ sys.job.dlq        dead letters
//! ```

use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::busbar::{JobEvent, JobEventBytes, JobEventTold, JobState, job_event_bytes};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{ErrorCode, JobResult, JobStatus};
use busbar_protocol::envelope;
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, BusError, Headers, LogEntry, RelayError, RelayedLog, Teller};
use busbar_protocol::prost::{DecodeError, Message as _};
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use crate::meters::Meters;
use crate::voice::Voice;

/// The log of jobs.
pub(crate) const JOBS: RelayedLog =
    RelayedLog { log: keys::LOG_JOBS, cursor: keys::LOG_JOBS_RELAYED, lock: keys::LOCK_SCHEDULER };

/// Tells what became of jobs.
pub(crate) struct JobTeller<B> {
    pub(crate) bus: B,
    pub(crate) meters: Meters,
    pub(crate) voice: Voice,
}

impl<B: Bus> Teller for JobTeller<B> {
    async fn tell(&self, after: &str, entries: &[LogEntry]) -> Result<(), BusError> {
        let mut batch = JobEventBytes { after: after.to_owned(), entries: Vec::with_capacity(entries.len()) };
        for LogEntry { cursor, value } in entries {
            match more_to_tell(value) {
                Ok(None) => {}
                Ok(Some(event)) => self.announce(&event).await?,
                Err(error) => {
                    tracing::error!(cursor, %error, "an entry of the log cannot be read and is passed over");
                    continue;
                }
            }
            batch.entries.push(job_event_bytes::Entry { cursor: cursor.clone(), event: value.clone() });
        }
        self.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.encode_to_vec().into()).await
    }

    fn told(&self, ages: impl Iterator<Item = Duration>) {
        ages.for_each(|age| self.meters.relayed(age));
    }

    fn paused(&self, error: &RelayError) {
        tracing::debug!(%error, "the relay pauses");
    }
}

impl<B: Bus> JobTeller<B> {
    async fn announce(&self, event: &JobEvent) -> Result<(), BusError> {
        let trace = if event.trace_id.is_empty() { &event.job_id } else { &event.trace_id };
        let result = Payload::JobResult(result_of(event));
        let packet = envelope::packet(trace, subjects::SCHEDULER_SENDER, Timestamp::from_millis(event.at_ms), result);
        let packet = self.voice.seal(packet);
        if event.decided_here {
            self.bus.publish(subjects::RESULT, Headers::new(), packet.clone()).await?;
        }
        if event.dead_letter {
            let id = format!("{}/dlq", event.job_id);
            let stored = self.bus.publish_durable(subjects::DEAD_LETTER, &id, Headers::new(), packet).await;
            if let Err(error @ BusError::NoResponders { .. }) = stored {
                // Somebody has taken the stream away. Opening it makes it anew, and the letter is told again.
                drop(self.bus.consume(subjects::Stream::DeadLetters).await?);
                return Err(error);
            }
            stored?;
        }
        Ok(())
    }
}

/// The event of an entry of which more is to be told than the entry itself. Most are passed on as they are.
fn more_to_tell(entry: &Bytes) -> Result<Option<JobEvent>, DecodeError> {
    let JobEventTold { decided_here, dead_letter } = JobEventTold::decode(entry.clone())?;
    if decided_here || dead_letter { JobEvent::decode(entry.clone()).map(Some) } else { Ok(None) }
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
        Some(
            Code::LimitTables | Code::LimitStack | Code::LimitHandles | Code::LimitRandom | Code::LimitFuel | Code::LimitCompile,
        ) => ErrorCode::JobResourceExhausted,
        _ => ErrorCode::Unspecified,
    }
}
