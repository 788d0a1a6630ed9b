//! Refusals as gRPC tells them: a status, the stable code in its metadata, and the details of `google.rpc`.

use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The metadata that carries the stable code of a refusal.
pub const CODE_METADATA: &str = "busbar-code";

/// The metadata that says when asking again makes sense, in milliseconds.
pub const RETRY_METADATA: &str = "busbar-retry-after-ms";

/// Longer explanations are cut: clients take only some KiB of headers, and a byte may grow to three on its way.
const MESSAGE_BYTES_MAX: usize = 1_500;

/// A refusal with a stable code, and with word on when to ask again where that makes sense.
///
/// The details are those of the public error model: a `google.rpc.Status` with an `ErrorInfo` whose reason is the code, and
/// perhaps a `RetryInfo`.
#[must_use]
pub fn refusal(status: Code, code: &str, detail: &str, retry_after_ms: Option<u64>) -> Status {
    let message = &detail[..detail.floor_char_boundary(MESSAGE_BYTES_MAX)];
    let mut metadata = MetadataMap::new();
    if let Ok(value) = MetadataValue::try_from(code) {
        metadata.insert(CODE_METADATA, value);
    }
    if let Some(millis) = retry_after_ms {
        metadata.insert(RETRY_METADATA, MetadataValue::from(millis));
    }
    let info = ErrorInfo { reason: code.to_owned(), domain: "busbar".to_owned() };
    let retry = retry_after_ms.map(|millis| any("RetryInfo", &RetryInfo { retry_delay: Some(Span::of_millis(millis)) }));
    let details = [any("ErrorInfo", &info)].into_iter().chain(retry).collect();
    let whole = ErrorStatus { code: status as i32, message: message.to_owned(), details };
    Status::with_details_and_metadata(status, message, whole.encode_to_vec().into(), metadata)
}

fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`, without its map, which we leave empty.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Span {
    fn of_millis(millis: u64) -> Self {
        let nanos = i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
        Self { seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX), nanos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_its_code_in_both_ways() {
        let status = refusal(Code::ResourceExhausted, "backlog_full", "too many", Some(2_500));
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many"));
        let text = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!((text(CODE_METADATA).as_deref(), text(RETRY_METADATA).as_deref()), (Some("backlog_full"), Some("2500")));
        let whole = ErrorStatus::decode(status.details()).expect("our own");
        assert_eq!((whole.code, whole.details.len()), (8, 2));
        let info = ErrorInfo::decode(&whole.details[0].value[..]).expect("our own");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("backlog_full", "busbar"));
        let retry = RetryInfo::decode(&whole.details[1].value[..]).expect("our own");
        assert_eq!(retry.retry_delay, Some(Span { seconds: 2, nanos: 500_000_000 }));
    }

    #[test]
    fn a_long_explanation_is_cut_between_characters() {
        let status = refusal(Code::InvalidArgument, "field_invalid", &"ü".repeat(4_000), None);
        assert_eq!(status.message().len(), MESSAGE_BYTES_MAX);
        assert!(status.metadata().get(RETRY_METADATA).is_none());
    }
}
