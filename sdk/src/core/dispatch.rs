//! Reading dispatches: one packet on `worker.<id>.jobs`, or many in one message on `busbar.worker.jobs.<id>`.

use busbar_protocol::busbar::{DispatchBatch, DispatchItem};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope::{self, PacketError};
use busbar_protocol::inline;
use busbar_protocol::ports::{INCARNATION, Message, TRACEPARENT};
use busbar_protocol::prost::{DecodeError, Message as _};
use bytes::Bytes;

use super::ledger::AttemptKey;

/// A job that was given to this worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub(crate) key: AttemptKey,
    pub(crate) dispatch_id: String,
    pub(crate) trace_id: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) request: JobRequest,
    /// The input, where it came along.
    pub(crate) input: Option<Bytes>,
    /// Up to how many bytes the output may go back with the result; larger ones are stored.
    pub(crate) output_bytes_max: usize,
}

/// Why a message on the worker's own subject is not a dispatch to it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotADispatch {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("the packet carries no job request")]
    Kind,
    #[error("job {job_id} names no dispatch, so that its result could not say which attempt it is of")]
    Unnamed { job_id: String },
    #[error("job {job_id} is assigned to worker {worker_id}")]
    Elsewhere { job_id: String, worker_id: String },
    #[error("job {job_id} was sent to an earlier start of this worker")]
    Earlier { job_id: String },
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) worker_id: &'a str,
    /// The start of its process.
    pub(crate) incarnation: &'a str,
}

/// What comes along with a packet.
struct Along {
    traceparent: Option<String>,
    input: Option<Bytes>,
    output_bytes_max: usize,
}

/// Reads a message as a dispatch.
pub(crate) fn read(message: &Message, reader: Reader<'_>) -> Result<Dispatch, NotADispatch> {
    let along = |request: &JobRequest| Along {
        traceparent: message.headers.get(TRACEPARENT).cloned(),
        input: input(message, request),
        output_bytes_max: output_bytes_max(message),
    };
    read_packet(&message.payload, message.headers.get(INCARNATION).map(String::as_str), along, reader)
}

/// Reads a message as many dispatches, each for itself.
pub(crate) fn read_batch<'a>(
    message: &Message,
    reader: Reader<'a>,
) -> Result<impl Iterator<Item = Result<Dispatch, NotADispatch>> + use<'a>, DecodeError> {
    let DispatchBatch { incarnation, items } = DispatchBatch::decode(message.payload.clone())?;
    Ok(items.into_iter().map(move |item| {
        let DispatchItem { packet, traceparent, input, output_bytes_max } = item;
        let along = |_: &JobRequest| Along {
            traceparent: Some(traceparent).filter(|place| !place.is_empty()),
            input: Some(input).filter(|input| !input.is_empty()),
            output_bytes_max: inline::BYTES_MAX.min(usize::try_from(output_bytes_max).unwrap_or(usize::MAX)),
        };
        read_packet(&packet, Some(&incarnation), along, reader)
    }))
}

fn read_packet(
    packet: &Bytes,
    meant: Option<&str>,
    along: impl FnOnce(&JobRequest) -> Along,
    reader: Reader<'_>,
) -> Result<Dispatch, NotADispatch> {
    let decoded = envelope::decode(packet)?;
    let Payload::JobRequest(request) = decoded.payload else { return Err(NotADispatch::Kind) };
    let unnamed = || NotADispatch::Unnamed { job_id: request.job_id.clone() };
    let identity = request.dispatch.as_ref().ok_or_else(unnamed)?;
    let attempt = u32::try_from(identity.attempt).ok().filter(|attempt| *attempt > 0).ok_or_else(unnamed)?;
    if identity.assigned_worker_id != reader.worker_id {
        let worker_id = identity.assigned_worker_id.clone();
        return Err(NotADispatch::Elsewhere { job_id: request.job_id, worker_id });
    }
    if meant.is_some_and(|meant| meant != reader.incarnation) {
        return Err(NotADispatch::Earlier { job_id: request.job_id });
    }
    let Along { traceparent, input, output_bytes_max } = along(&request);
    Ok(Dispatch {
        key: AttemptKey { job_id: request.job_id.clone(), attempt },
        dispatch_id: identity.dispatch_id.clone(),
        trace_id: decoded.packet.trace_id,
        traceparent,
        input,
        output_bytes_max,
        request,
    })
}

/// The input that came along. One that cannot be read stands where the pointer says, as it does without a header.
fn input(message: &Message, request: &JobRequest) -> Option<Bytes> {
    let input = inline::decode(message.headers.get(inline::INPUT)?);
    input.inspect_err(|error| tracing::warn!(job_id = request.job_id, %error, "the header {} was ignored", inline::INPUT)).ok()
}

/// What the scheduler takes with a result, as far as this version sends it.
fn output_bytes_max(message: &Message) -> usize {
    let stated = message.headers.get(inline::OUTPUT_BYTES_MAX).and_then(|most| most.parse().ok());
    stated.unwrap_or(0).min(inline::BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::cap::{DispatchIdentity, JobCancel};
    use busbar_protocol::time::Timestamp;

    const W: Reader<'_> = Reader { worker_id: "w", incarnation: "i" };

    fn message(payload: Payload) -> Message {
        let packet = envelope::packet("trace", "scheduler", Timestamp::from_millis(1), payload);
        let headers = [(TRACEPARENT.to_owned(), "00-a-b-01".to_owned())].into();
        Message { payload: packet, headers, ..Message::default() }
    }

    fn request(attempt: u64, worker_id: &str) -> JobRequest {
        let dispatch = DispatchIdentity { dispatch_id: "d".into(), attempt, assigned_worker_id: worker_id.into() };
        JobRequest { job_id: "j".into(), topic: "job.a".into(), dispatch: Some(dispatch), ..JobRequest::default() }
    }

    #[test]
    fn a_dispatch_names_attempt_worker_and_trace() {
        let read = read(&message(Payload::JobRequest(request(3, "w"))), W).expect("a dispatch");
        assert_eq!(read.key, AttemptKey { job_id: "j".into(), attempt: 3 });
        assert_eq!((read.dispatch_id.as_str(), read.trace_id.as_str()), ("d", "trace"));
        assert_eq!(read.traceparent.as_deref(), Some("00-a-b-01"));
    }

    #[test]
    fn payloads_come_and_go_in_headers_that_are_understood() {
        let with = |headers: &[(&str, &str)]| {
            let mut message = message(Payload::JobRequest(request(1, "w")));
            message.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let read = read(&message, W).expect("a dispatch");
            (read.input, read.output_bytes_max)
        };
        let input = inline::encode(b"[1]");
        assert_eq!(with(&[(inline::INPUT, &input), (inline::OUTPUT_BYTES_MAX, "100")]), (Some("[1]".into()), 100));
        assert_eq!(with(&[]), (None, 0));
        assert_eq!(with(&[(inline::INPUT, "[1]"), (inline::OUTPUT_BYTES_MAX, "-1")]), (None, 0));
        assert_eq!(with(&[(inline::OUTPUT_BYTES_MAX, "1000000")]), (None, inline::BYTES_MAX));
    }

    #[test]
    fn many_come_in_one_message_each_for_itself() {
        let item = |request, traceparent: &str, input: &'static str, output_bytes_max| DispatchItem {
            packet: message(Payload::JobRequest(request)).payload,
            traceparent: traceparent.to_owned(),
            input: input.into(),
            output_bytes_max,
        };
        let items = vec![
            item(request(3, "w"), "00-a-b-01", "[1]", 100),
            item(request(1, "x"), "", "", 0),
            item(request(1, "w"), "", "", u32::MAX),
        ];
        let of = |incarnation: &str, items| {
            let batch = DispatchBatch { incarnation: incarnation.to_owned(), items };
            let message = Message { payload: batch.encode_to_vec().into(), ..Message::default() };
            read_batch(&message, W).expect("a batch").collect::<Vec<_>>()
        };
        let read = of("i", items.clone());
        let first = read[0].as_ref().expect("a dispatch");
        assert_eq!((first.key.attempt, first.traceparent.as_deref()), (3, Some("00-a-b-01")));
        assert_eq!((first.input.clone(), first.output_bytes_max), (Some("[1]".into()), 100));
        assert!(matches!(read[1], Err(NotADispatch::Elsewhere { .. })));
        let last = read[2].as_ref().expect("a dispatch");
        assert_eq!((&last.traceparent, &last.input, last.output_bytes_max), (&None, &None, inline::BYTES_MAX));
        assert!(matches!(of("an earlier one", items)[0], Err(NotADispatch::Earlier { .. })));
        assert!(read_batch(&Message { payload: "no protobuf".into(), ..Message::default() }, W).is_err());
    }

    #[test]
    fn anything_else_is_told_apart() {
        let of = |payload| read(&message(payload), W).expect_err("not a dispatch");
        let cancel = JobCancel { job_id: "j".into(), requested_by: "me".into(), ..JobCancel::default() };
        assert_eq!(of(Payload::JobCancel(cancel)), NotADispatch::Kind);
        let bare = JobRequest { dispatch: None, ..request(1, "w") };
        assert!(matches!(of(Payload::JobRequest(bare)), NotADispatch::Unnamed { .. }));
        assert!(matches!(of(Payload::JobRequest(request(0, "w"))), NotADispatch::Unnamed { .. }));
        assert!(matches!(of(Payload::JobRequest(request(1, "x"))), NotADispatch::Elsewhere { .. }));
        let mut late = message(Payload::JobRequest(request(1, "w")));
        late.headers.insert(INCARNATION.to_owned(), "an earlier one".to_owned());
        assert!(matches!(read(&late, W), Err(NotADispatch::Earlier { .. })));
        assert!(read(&late, Reader { incarnation: "an earlier one", ..W }).is_ok());
        let garbage = Message { payload: "no protobuf".into(), ..Message::default() };
        assert!(matches!(read(&garbage, W), Err(NotADispatch::Packet(_))));
    }
}
