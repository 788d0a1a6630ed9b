//! Performing: what the event loop sends once everything is durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use busbar_protocol::busbar::{DispatchItem, WorkerKind};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{AlertSeverity, BusPacket, DispatchIdentity, IdentityBinding, JobCancel, JobRequest, SystemAlert};
use busbar_protocol::envelope::{self, PacketError};
use busbar_protocol::ports::{Bus, BusError, Headers, INCARNATION, TRACEPARENT};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{hex, inline, subjects};

use crate::batches::{Batch, SentBatches};
use crate::core::cell::Order;
use crate::core::job::Job;
use crate::core::transition::Command;
use crate::traces::Traces;
use crate::voice::Voice;

/// Stands in reply subjects where that of a single attempt has its number.
const BATCH: &str = "batch";

/// The identity of an attempt: the same for every sending of it.
#[must_use]
pub(crate) fn dispatch_identity(job: &Job, worker_id: &str) -> DispatchIdentity {
    DispatchIdentity {
        dispatch_id: format!("{}/{}", job.id, job.attempt),
        attempt: u64::from(job.attempt),
        assigned_worker_id: worker_id.to_owned(),
    }
}

/// The packet that takes an attempt to its worker: the request as it came, with our words added.
#[must_use]
pub(crate) fn dispatch_packet(job: &Job, worker_id: &str, identity: Option<IdentityBinding>, now: Timestamp) -> Bytes {
    let mut env = BTreeMap::new();
    if !job.plan.module.is_empty() {
        env.insert("BUSBAR_MODULE".to_owned(), job.plan.module.clone());
    }
    if !job.plan.limits.is_empty() {
        env.insert("BUSBAR_LIMITS".to_owned(), job.plan.limits.clone());
    }
    let patch = JobRequest { env, dispatch: Some(dispatch_identity(job, worker_id)), identity, ..JobRequest::default() };
    let request = envelope::patch_request(&job.request, &patch);
    envelope::packet_with_request(&job.trace_id, subjects::SCHEDULER_SENDER, now, &request)
}

/// For whom a job is done, in CAP's words. What the submitter said of delegations stays.
fn identity(job: &Job) -> IdentityBinding {
    let request = JobRequest::decode(job.request.clone()).unwrap_or_default();
    let said = request.identity.unwrap_or_default();
    let or = |own: String, said: String| if own.is_empty() { said } else { own };
    IdentityBinding {
        tenant_id: job.tenant_id.clone(),
        principal_id: or(request.principal_id, said.principal_id),
        actor_id: or(request.meta.unwrap_or_default().actor_id, said.actor_id),
        delegation_id: said.delegation_id,
    }
}

/// What a native worker is told of an attempt. It does not look at signatures, and gets the most.
#[must_use]
pub(crate) fn dispatch_item(job: &Job, errand: Errand<'_>, traceparent: String, now: Timestamp) -> DispatchItem {
    // Whoever submits on the bare bus waits there for the result, and follows its pointer as soon as it comes.
    let output_bytes_max = if job.from_bus { 0 } else { u32::try_from(errand.output_bytes_max).unwrap_or(u32::MAX) };
    let packet = dispatch_packet(job, &errand.order.worker_id, None, now);
    DispatchItem { packet, traceparent, input: errand.input.unwrap_or_default(), output_bytes_max }
}

/// The same for a message of its own: the headers that go with the packet.
fn headers(item: &DispatchItem, incarnation: &str) -> Headers {
    let mut headers = traced(item.traceparent.clone());
    headers.extend((!incarnation.is_empty()).then(|| (INCARNATION.to_owned(), incarnation.to_owned())));
    let most = (item.output_bytes_max > 0).then(|| (inline::OUTPUT_BYTES_MAX.to_owned(), item.output_bytes_max.to_string()));
    headers.extend(most);
    headers.extend((!item.input.is_empty()).then(|| (inline::INPUT.to_owned(), inline::encode(&item.input))));
    headers
}

/// Sends attempts to their worker. As with [`send`], nobody handles a failure here.
pub(crate) async fn send_batches<B: Bus>(bus: &B, sent: &mut SentBatches, batches: impl IntoIterator<Item = Batch>, inbox: &str) {
    for Batch { worker_id, attempts, message } in batches {
        let (subject, count) = (subjects::worker_batches(&worker_id), attempts.len());
        let reply = format!("{inbox}.{BATCH}.{}", sent.remember(worker_id, attempts));
        if let Err(error) = bus.publish_with_reply(&subject, &reply, Headers::new(), message.encode_to_vec().into()).await {
            tracing::debug!(subject, attempts = count, %error, "attempts were not sent; they are when their worker does not show them");
        }
    }
}

/// What is to be sent.
pub(crate) struct Errand<'a> {
    /// The command.
    pub order: &'a Order,
    /// Whoever gets it is bound to a tenant.
    pub bound: bool,
    /// The job's input, where it need not be read.
    pub input: Option<Bytes>,
    /// Up to how many bytes an output may come back with its result.
    pub output_bytes_max: usize,
}

/// Sends what a job's change demands. Failures are not handled here: an attempt that nobody got is sent again when its worker
/// does not show it, and a stop that was lost leaves the worker to finish in vain.
pub(crate) async fn send<B: Bus>(
    (bus, voice): (&B, &Voice),
    traces: &Traces,
    errand: Errand<'_>,
    job: Option<&Job>,
    inbox: &str,
    now: Timestamp,
) {
    let order = errand.order;
    let outcome = match (&order.command, job) {
        (Command::Dispatch { .. }, Some(job)) => {
            let traceparent = traces.of_dispatch(job);
            dispatch(bus, voice, Sending { job, errand, inbox, traceparent }, now).await
        }
        (Command::Dispatch { .. }, None) => Ok(()),
        (Command::Stop { attempt, reason, requested_by }, _) => {
            let cancel = JobCancel {
                job_id: order.job.to_string(),
                reason: reason.clone(),
                requested_by: requested_by.clone(),
                dispatch: Some(DispatchIdentity {
                    dispatch_id: format!("{}/{attempt}", order.job),
                    attempt: u64::from(*attempt),
                    assigned_worker_id: order.worker_id.clone(),
                }),
                ..JobCancel::default()
            };
            let trace = job.map_or_else(|| order.job.to_string(), |job| job.trace_id.clone());
            let packet = envelope::packet(&trace, subjects::SCHEDULER_SENDER, now, Payload::JobCancel(cancel));
            let headers = job.map(|job| traced(job.traceparent.clone())).unwrap_or_default();
            bus.publish(subjects::CANCEL, headers, voice.seal(packet)).await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(job_id = %order.job, %error, "a command was not sent; it follows again from the record");
    }
}

/// An attempt on its way to whoever does it.
struct Sending<'a> {
    job: &'a Job,
    errand: Errand<'a>,
    inbox: &'a str,
    traceparent: String,
}

/// The headers that name a place in a trace, if there is one.
fn traced(traceparent: String) -> Headers {
    let named = (!traceparent.is_empty()).then(|| (TRACEPARENT.to_owned(), traceparent));
    named.into_iter().collect()
}

async fn dispatch<B: Bus>(bus: &B, voice: &Voice, sending: Sending<'_>, now: Timestamp) -> Result<(), BusError> {
    let Sending { job, errand, inbox, traceparent } = sending;
    let (worker_id, bound) = (errand.order.worker_id.as_str(), errand.bound);
    let subject = if worker_id.is_empty() { job.topic.clone() } else { subjects::worker_jobs(worker_id) };
    // Only a native worker tells its starts apart, and looks for payloads in headers.
    let native = job.hold().filter(|hold| hold.kind == WorkerKind::Native);
    let (headers, packet) = if let Some(hold) = native {
        let item = dispatch_item(job, errand, traceparent, now);
        (headers(&item, &hold.incarnation), item.packet)
    } else if bound {
        // It wants to see for whom it works.
        let identity = identity(job);
        let packet = dispatch_packet(job, worker_id, Some(identity.clone()), now);
        (traced(traceparent), voice.seal_for(&subject, &packet, identity, now))
    } else {
        (traced(traceparent), voice.seal(dispatch_packet(job, worker_id, None, now)))
    };
    // An announced worker may answer whoever wants an answer.
    if native.is_none() && !worker_id.is_empty() {
        return bus.publish(&subject, headers, packet).await;
    }
    // The reply subject names the attempt, so that word that nobody is there finds its way back.
    let reply = format!("{inbox}.{}.{}", job.attempt, hex_name(job.id.as_str()));
    bus.publish_with_reply(&subject, &reply, headers, packet).await
}

/// The attempt that a reply subject made by [`dispatch`] names.
#[must_use]
pub(crate) fn attempt_of_reply(subject: &str, inbox: &str) -> Option<(String, u32)> {
    let (attempt, name) = subject.strip_prefix(inbox)?.strip_prefix('.')?.split_once('.')?;
    Some((unhex_name(name)?, attempt.parse().ok()?))
}

/// The message of several attempts that a reply subject made by [`send_batches`] names.
#[must_use]
pub(crate) fn batch_of_reply(subject: &str, inbox: &str) -> Option<u64> {
    subject.strip_prefix(inbox)?.strip_prefix('.')?.strip_prefix(BATCH)?.strip_prefix('.')?.parse().ok()
}

/// Job ids may hold dots, which divide subjects; their hexadecimal form does not.
fn hex_name(id: &str) -> String {
    hex::encode(id.as_bytes())
}

fn unhex_name(text: &str) -> Option<String> {
    let pairs = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(pairs.collect::<Option<Vec<u8>>>()?).ok()
}

/// A packet that was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused<'a> {
    /// Where it came.
    pub subject: &'a str,
    /// Why it was not taken.
    pub error: &'a PacketError,
    /// The packet.
    pub bytes: &'a Bytes,
    /// Of how many others of its kind nobody was told.
    pub kept_back: u64,
}

/// The longest text of a stranger that an alert repeats, in characters.
const TOLD_CHARS_MAX: usize = 128;

/// The packet that tells operators of one that was not taken: complete in the older form of CAP's alerts and in the newer one.
#[must_use]
pub(crate) fn alert_packet(refused: &Refused<'_>, now: Timestamp) -> Bytes {
    let Refused { subject, error, bytes, kept_back } = *refused;
    // What can be read of it may help to find the sender. Nobody has checked it.
    let read = BusPacket::decode(bytes.clone()).unwrap_or_default();
    let told = |text: &str| text.chars().take(TOLD_CHARS_MAX).collect::<String>();
    let details = [
        ("subject", subject.to_owned()),
        ("bytes", bytes.len().to_string()),
        ("kept_back", kept_back.to_string()),
        ("claimed_sender", told(&read.sender_id)),
    ];
    let alert = SystemAlert {
        severity: AlertSeverity::Warning.into(),
        error_code_enum: error.cap_code().into(),
        message: format!("a packet on {subject} was not taken: {}", told(&error.to_string())),
        source_component: subjects::SCHEDULER_SENDER.to_owned(),
        level: "WARNING".to_owned(),
        component: subjects::SCHEDULER_SENDER.to_owned(),
        code: error.code().to_string(),
        details: details
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        trace_id: told(&read.trace_id),
    };
    let trace = busbar_protocol::ids::generate_trace();
    envelope::packet(&trace, subjects::SCHEDULER_SENDER, now, Payload::Alert(alert))
}

/// Tells operators of a packet that was not taken.
pub(crate) async fn alert<B: Bus>(bus: &B, voice: &Voice, refused: &Refused<'_>, now: Timestamp) {
    if let Err(error) = bus.publish(subjects::ALERT, Headers::new(), voice.seal(alert_packet(refused, now))).await {
        tracing::debug!(%error, "an alert was not sent");
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::ErrorCode;

    use super::*;

    #[test]
    fn an_alert_repeats_little_of_what_strangers_say() {
        let strange = BusPacket { sender_id: "x".repeat(1_000), protocol_version: 2, ..BusPacket::default() };
        let error = PacketError::Malformed { detail: "y".repeat(1_000) };
        let bytes = strange.encode_to_vec().into();
        let refused = Refused { subject: subjects::RESULT, error: &error, bytes: &bytes, kept_back: 7 };
        let told = envelope::decode(&alert_packet(&refused, Timestamp::from_millis(1))).expect("a good packet");
        let Payload::Alert(alert) = told.payload else { panic!("an alert") };
        assert_eq!(alert.error_code_enum(), ErrorCode::ProtocolMalformedPacket);
        assert_eq!(alert.details["claimed_sender"], "x".repeat(TOLD_CHARS_MAX));
        assert_eq!((alert.details["kept_back"].as_str(), alert.details["subject"].as_str()), ("7", subjects::RESULT));
        assert!(alert.message.len() < 250, "{}", alert.message);
    }

    #[test]
    fn reply_subjects_name_their_attempt() {
        let reply = format!("_INBOX.x.{}.{}", 3, hex_name("run:a.b[1]@2"));
        assert_eq!(attempt_of_reply(&reply, "_INBOX.x"), Some(("run:a.b[1]@2".to_owned(), 3)));
        assert_eq!(attempt_of_reply("_INBOX.x.3.zz", "_INBOX.x"), None);
        assert_eq!(attempt_of_reply("_INBOX.y.3.61", "_INBOX.x"), None);
        let reply = format!("_INBOX.x.{BATCH}.17");
        assert_eq!((batch_of_reply(&reply, "_INBOX.x"), attempt_of_reply(&reply, "_INBOX.x")), (Some(17), None));
        assert_eq!(batch_of_reply("_INBOX.x.3.61", "_INBOX.x"), None);
    }
}
