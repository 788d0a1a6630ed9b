//! Faults in what is heard and said: pure changes of messages.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{
    AdmitItem, AdmitRequest, CancelAnswer, CancelReply, CancelRequest, JobState, PauseRequest, PauseScope, WorkerBeat,
    cancel_answer,
};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{BusPacket, DispatchIdentity, JobRequest};
use busbar_protocol::inline;
use busbar_protocol::ports::{Headers, Message};
use busbar_protocol::prost::Message as _;
use bytes::Bytes;

/// A beat whose worker takes twice as much.
pub(super) fn double_capacity(message: Message) -> Message {
    change_beat(message, |beat| beat.capacity *= 2)
}

/// A beat that shows only what somebody waits for.
pub(super) fn show_present(message: Message, present: &BTreeMap<String, u32>) -> Message {
    change_beat(message, |beat| beat.held.retain(|held| present.get(&held.job_id) == Some(&held.attempt)))
}

fn change_beat(message: Message, change: impl FnOnce(&mut WorkerBeat)) -> Message {
    let Ok(mut beat) = WorkerBeat::decode(message.payload.clone()) else { return message };
    change(&mut beat);
    Message { payload: beat.encode_to_vec().into(), ..message }
}

/// A result that names the present attempt of its job, whichever it was of.
pub(super) fn relabel(message: Message, present: &BTreeMap<String, u32>) -> Message {
    let Ok(mut packet) = BusPacket::decode(message.payload.clone()) else { return message };
    let Some(Payload::JobResult(result)) = &mut packet.payload else { return message };
    let (Some(dispatch), Some(attempt)) = (&mut result.dispatch, present.get(&result.job_id)) else { return message };
    dispatch.attempt = u64::from(*attempt);
    Message { payload: packet.encode_to_vec().into(), ..message }
}

/// The same dispatch, for another worker.
pub(super) fn readdress(payload: &Bytes, worker_id: &str) -> Option<Bytes> {
    let mut packet = BusPacket::decode(payload.clone()).ok()?;
    let Some(Payload::JobRequest(request)) = &mut packet.payload else { return None };
    let dispatch = request.dispatch.take().unwrap_or_default();
    request.dispatch = Some(DispatchIdentity { assigned_worker_id: worker_id.to_owned(), ..dispatch });
    Some(packet.encode_to_vec().into())
}

/// The headers of a dispatch with another input, where they have one.
pub(super) fn mistake_input(mut headers: Headers) -> Headers {
    if let Some(input) = headers.get_mut(inline::INPUT) {
        *input = inline::encode(b"{}");
    }
    headers
}

/// The headers of a dispatch with an input, though another one was put in its place.
pub(super) fn undo_redaction(mut headers: Headers, payload: &Bytes) -> Headers {
    let packet = BusPacket::decode(payload.clone()).unwrap_or_default();
    if matches!(packet.payload, Some(Payload::JobRequest(request)) if request.context_ptr.ends_with(".redacted")) {
        headers.insert(inline::INPUT.to_owned(), inline::encode(b"{}"));
    }
    headers
}

/// What the name of something else ends with.
pub(super) const OTHER: &str = "-other";

/// A pause of something else.
pub(super) fn mistake(message: Message) -> Message {
    mistake_if(message, |_| true)
}

/// A pause of another run.
pub(super) fn mistake_run(message: Message) -> Message {
    mistake_if(message, |scope| scope == PauseScope::Run)
}

fn mistake_if(message: Message, is_meant: impl Fn(PauseScope) -> bool) -> Message {
    let Ok(mut request) = PauseRequest::decode(message.payload.clone()) else { return message };
    for what in request.set.iter_mut().filter_map(|pause| pause.what.as_mut()).filter(|what| is_meant(what.scope())) {
        what.name.push_str(OTHER);
    }
    Message { payload: request.encode_to_vec().into(), ..message }
}

/// Submissions whose jobs may be sent at once.
pub(super) fn hurry(message: Message) -> Message {
    change_items(message, |item| {
        if let Some(options) = &mut item.options {
            options.not_before_ms = 0;
        }
    })
}

/// Submissions whose jobs belong to nobody.
pub(super) fn orphan(message: Message) -> Message {
    change_items(message, |item| {
        if let Ok(request) = JobRequest::decode(item.request.clone()) {
            item.request = JobRequest { parent_job_id: String::new(), ..request }.encode_to_vec().into();
        }
    })
}

fn change_items(message: Message, change: impl Fn(&mut AdmitItem)) -> Message {
    let Ok(mut request) = AdmitRequest::decode(message.payload.clone()) else { return message };
    request.items.iter_mut().for_each(change);
    Message { payload: request.encode_to_vec().into(), ..message }
}

/// An answer to a cancellation that nobody has looked at.
pub(super) fn cancelled(question: &Bytes) -> Bytes {
    let items = CancelRequest::decode(question.clone()).map(|request| request.items.len()).unwrap_or_default();
    let answer = CancelAnswer { answer: Some(cancel_answer::Answer::State(JobState::Running.into())) };
    CancelReply { answers: vec![answer; items], problem: None }.encode_to_vec().into()
}
