//! Listening to what workers say of attempts that have ended: in the stream, as everybody may, and many in one message, as native
//! workers do.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use busbar_protocol::busbar::{ReportItem, ReportReply, ReportRequest};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobResult, JobStatus, ResourceRef};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope::{self, Decoded, PacketError};
use busbar_protocol::ids::JobId;
use busbar_protocol::inline::{self, InlineError};
use busbar_protocol::keys;
use busbar_protocol::limits::REPORT_ITEMS_MAX;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, BusError, Clock, Delivery, Judge, Message, Records, Settlement};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use super::{Ears, NAK_DELAY};
use crate::core::job::{ResultPlace, Source};
use crate::core::transition::{Report, Reported as Outcome};
use crate::input::{Input, Objection, Reported};
use crate::intake;
use crate::receipts::{self, Receipt};

/// What came of an attempt, as it arrived.
struct Arrived {
    subject: &'static str,
    /// A packet with a result.
    packet: Bytes,
    /// What came with it as its output.
    output: Option<Carried>,
    receipt: Receipt,
}

/// An output on its way.
enum Carried {
    /// As the value of a header.
    Header(String),
    /// As it is.
    Bytes(Bytes),
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Ears<B, R, C, J> {
    /// Every scheduler that believes to be active hears of every report: one that is not any more does not answer.
    pub(super) async fn start_reporting(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        let mut messages = self.ports.bus.subscribe(subjects::REPORT, None).await?;
        let ears = Arc::clone(self);
        tasks.spawn(async move {
            while let Some(message) = messages.next().await {
                ears.take_reports(message).await;
            }
        });
        Ok(())
    }

    async fn take_reports(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let refuse =
            |code: Code, detail: String| ReportReply { problem: Some(intake::problem(code, detail)), ..ReportReply::default() };
        let items = match ReportRequest::decode(message.payload) {
            Ok(request) => request.items,
            Err(error) => return self.answer(&reply, &refuse(Code::PacketMalformed, error.to_string())).await,
        };
        if items.is_empty() || items.len() > REPORT_ITEMS_MAX {
            let detail = format!("{} items in one message: it takes 1 to {REPORT_ITEMS_MAX}", items.len());
            return self.answer(&reply, &refuse(Code::BatchTooLarge, detail)).await;
        }
        let slips = receipts::slips(reply, items.len());
        for (ReportItem { packet, output }, slip) in items.into_iter().zip(slips) {
            // In memory of its own: a part of the message would keep all of it.
            let output = (!output.is_empty()).then(|| Carried::Bytes(Bytes::copy_from_slice(&output)));
            self.take_result(Arrived { subject: subjects::REPORT, packet, output, receipt: Receipt::Asked(slip) }).await;
        }
    }

    pub(super) async fn take_delivered(&self, delivery: Delivery) {
        let output = delivery.message.headers.get(inline::OUTPUT).cloned().map(Carried::Header);
        let packet = delivery.message.payload.clone();
        self.take_result(Arrived { subject: subjects::RESULT, packet, output, receipt: Receipt::Stream(delivery) }).await;
    }

    async fn take_result(&self, arrived: Arrived) {
        let Arrived { subject, packet: bytes, output, receipt } = arrived;
        let decoded = match envelope::decode(&bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.complain(subject, &error, &bytes).await;
                return self.settle(receipt, Settlement::Term).await;
            }
        };
        let Decoded { packet, payload, .. } = decoded;
        let Payload::JobResult(result) = payload else {
            self.complain(subject, &PacketError::UnknownPayload, &bytes).await;
            return self.settle(receipt, Settlement::Term).await;
        };
        // Our own announcements pass through the stream that captures the subject.
        if packet.sender_id == subjects::SCHEDULER_SENDER {
            return self.settle(receipt, Settlement::Ack).await;
        }
        let Ok(doubt) = self.trust.doubt_result(&result.worker_id, &packet, &bytes).await else {
            return self.settle(receipt, Settlement::Nak(NAK_DELAY)).await;
        };
        let (carried, suspect) = match output.map(|output| vouched(output, &result)).transpose() {
            Ok(carried) => (carried, false),
            Err(error) => {
                self.complain(subject, &PacketError::Carried(error), &bytes).await;
                (None, true)
            }
        };
        let objection = doubt.map(|doubt| Objection { subject, doubt, bytes });
        match (JobId::parse(result.job_id.clone()), report(result, carried)) {
            (Ok(job), Some(report)) => {
                let received = Instant::now();
                self.send(Input::Reported(Reported { job, report, receipt, objection, checked: false, suspect, received })).await;
            }
            (_, _) => self.settle(receipt, Settlement::Term).await,
        }
    }
}

/// The output that came with a result. It counts where the packet names its attempt, points to where that attempt's output stands, and
/// states its digest: so whoever vouches for the packet vouches for it.
fn vouched(output: Carried, result: &JobResult) -> Result<Bytes, InlineError> {
    let attempt = result.dispatch.as_ref().and_then(|dispatch| u32::try_from(dispatch.attempt).ok()).unwrap_or(0);
    let place = Pointer::Redis(keys::attempt_result(&result.job_id, attempt)).to_string();
    let is_placed = attempt > 0 && result.result_ptr == place && result.status() == JobStatus::Succeeded;
    let reference = result.result_ref.as_ref().filter(|_| is_placed).ok_or(InlineError::Unbound)?;
    match output {
        Carried::Header(value) => inline::decode_as(&value, reference),
        Carried::Bytes(output) => inline::bound(output, reference),
    }
}

/// What a result says of its attempt, with the output that came with it; nothing, where it tells of a state that is no end.
fn report(result: JobResult, carried: Option<Bytes>) -> Option<Report> {
    let attempt = result.dispatch.as_ref().and_then(|d| u32::try_from(d.attempt).ok()).filter(|attempt| *attempt > 0);
    let status = result.status();
    let JobResult { worker_id, execution_ms, error_code, error_message, result_ptr, result_ref, .. } = result;
    let code = |fallback: Code| if error_code.is_empty() { fallback.to_string() } else { error_code.clone() };
    let outcome = match status {
        JobStatus::Succeeded => Outcome::Succeeded(place(result_ptr, result_ref, carried)),
        JobStatus::Failed | JobStatus::FailedFatal => Outcome::Failed { code: code(Code::HandlerFailed), message: error_message },
        JobStatus::Denied => Outcome::Failed { code: code(Code::SafetyDenied), message: error_message },
        JobStatus::FailedRetryable if error_code.eq_ignore_ascii_case(Code::RateLimited.as_str()) => {
            Outcome::RateLimited { message: error_message }
        }
        JobStatus::FailedRetryable => {
            Outcome::Retryable { code: code(Code::AttemptFailed), message: error_message, timed_out: false }
        }
        JobStatus::Timeout => {
            Outcome::Retryable { code: code(Code::StartToCloseTimeout), message: error_message, timed_out: true }
        }
        JobStatus::Cancelled => Outcome::Cancelled,
        JobStatus::Unspecified | JobStatus::Pending | JobStatus::Scheduled | JobStatus::Dispatched | JobStatus::Running => {
            return None;
        }
    };
    Some(Report { attempt, worker_id, outcome, execution_ms })
}

fn place(pointer: String, reference: Option<ResourceRef>, carried: Option<Bytes>) -> Option<ResultPlace> {
    let reference = reference.unwrap_or_default();
    let pointer = if pointer.is_empty() { reference.uri } else { pointer };
    (!pointer.is_empty()).then_some(ResultPlace {
        pointer,
        sha256: reference.sha256,
        size: reference.size_bytes,
        source: carried.map_or(Source::There, Source::Message),
        ..ResultPlace::default()
    })
}
