//! A message with several attempts for one worker, taken apart and put together: each as the message that it would be alone.

use busbar_protocol::busbar::{DispatchBatch, DispatchItem};
use busbar_protocol::inline;
use busbar_protocol::ports::{Headers, INCARNATION, Message, TRACEPARENT};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;

/// Whose batches travel there.
pub(crate) fn worker_of(subject: &str) -> Option<&str> {
    subject.strip_prefix(subjects::worker_batches("").as_str())
}

/// The messages that a batch stands for.
pub(crate) fn apart(message: &Message) -> Option<Vec<Message>> {
    let subject = subjects::worker_jobs(worker_of(&message.subject)?);
    let DispatchBatch { incarnation, items } = DispatchBatch::decode(message.payload.clone()).ok()?;
    let alone = |item: DispatchItem| {
        let mut headers = Headers::from([(INCARNATION.to_owned(), incarnation.clone())]);
        headers.extend((!item.traceparent.is_empty()).then(|| (TRACEPARENT.to_owned(), item.traceparent.clone())));
        headers.extend((!item.input.is_empty()).then(|| (inline::INPUT.to_owned(), inline::encode(&item.input))));
        let most = (item.output_bytes_max > 0).then(|| (inline::OUTPUT_BYTES_MAX.to_owned(), item.output_bytes_max.to_string()));
        headers.extend(most);
        Message { subject: subject.clone(), headers, payload: item.packet, ..Message::default() }
    };
    Some(items.into_iter().map(alone).collect())
}

/// The batch with other inputs: what stands in the headers of each of its messages after a change.
pub(crate) fn with_inputs(batch: &Bytes, change: impl Fn(Headers, &Bytes) -> Headers) -> Bytes {
    let Ok(mut batch) = DispatchBatch::decode(batch.clone()) else { return batch.clone() };
    for item in &mut batch.items {
        let there = (!item.input.is_empty()).then(|| (inline::INPUT.to_owned(), inline::encode(&item.input)));
        let changed = change(there.into_iter().collect(), &item.packet);
        item.input = changed.get(inline::INPUT).and_then(|input| inline::decode(input).ok()).unwrap_or_default();
    }
    batch.encode_to_vec().into()
}
