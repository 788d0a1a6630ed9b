//! Between async-nats' messages and errors and those of the port.

use std::time::Duration;

use async_nats::client::{PublishErrorKind, RequestErrorKind};
use async_nats::jetstream::context::PublishErrorKind as DurableErrorKind;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use busbar_protocol::ports::{BusError, Headers, Message};

/// The header under which a reader finds the status of a message that the server itself made, 503 for "nobody listens".
const STATUS: &str = "Status";
const DESCRIPTION: &str = "Description";

pub(crate) fn unavailable(detail: impl Into<String>) -> BusError {
    BusError::Unavailable { detail: detail.into() }
}

/// An error with its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

pub(crate) fn header_map(headers: &Headers) -> Result<HeaderMap, BusError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = |what: &str| unavailable(format!("header {name:?} {what}"));
        let key: HeaderName = name.parse().map_err(|_| bad("has a name that NATS does not take"))?;
        let value: HeaderValue = value.parse().map_err(|_| bad("has a value that NATS does not take"))?;
        map.insert(key, value);
    }
    Ok(map)
}

pub(crate) fn message(message: async_nats::Message) -> Message {
    let mut headers: Headers = message
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned())))
        .collect();
    if let Some(status) = message.status {
        headers.insert(STATUS.to_owned(), status.as_u16().to_string());
    }
    if let Some(description) = message.description.filter(|text| !text.is_empty()) {
        headers.insert(DESCRIPTION.to_owned(), description);
    }
    Message {
        subject: message.subject.into_string(),
        reply: message.reply.map(async_nats::Subject::into_string),
        headers,
        payload: message.payload,
    }
}

/// What was asked when an error came, for the error's own fields.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) subject: &'a str,
    pub(crate) bytes: usize,
    pub(crate) bytes_max: usize,
    pub(crate) waited: Duration,
}

impl Asked<'_> {
    pub(crate) fn timed_out(self) -> BusError {
        BusError::TimedOut { subject: self.subject.to_owned(), waited: self.waited }
    }

    fn too_large(self) -> BusError {
        BusError::TooLarge { bytes: self.bytes, max: self.bytes_max }
    }

    fn no_responders(self) -> BusError {
        BusError::NoResponders { subject: self.subject.to_owned() }
    }

    pub(crate) fn publish_error(self, error: &async_nats::PublishError) -> BusError {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => self.too_large(),
            PublishErrorKind::InvalidSubject => unavailable(format!("{:?} is no subject to publish on", self.subject)),
            PublishErrorKind::Send => unavailable("the bus was closed"),
        }
    }

    pub(crate) fn request_error(self, error: &async_nats::RequestError) -> BusError {
        match error.kind() {
            RequestErrorKind::TimedOut => self.timed_out(),
            RequestErrorKind::NoResponders => self.no_responders(),
            RequestErrorKind::MaxPayloadExceeded => self.too_large(),
            RequestErrorKind::InvalidSubject => unavailable(format!("{:?} is no subject to ask on", self.subject)),
            RequestErrorKind::Other => unavailable(with_causes(error)),
        }
    }

    pub(crate) fn durable_error(self, error: &async_nats::jetstream::context::PublishError) -> BusError {
        match error.kind() {
            DurableErrorKind::TimedOut => self.timed_out(),
            DurableErrorKind::StreamNotFound => self.no_responders(),
            DurableErrorKind::MaxPayloadExceeded => self.too_large(),
            DurableErrorKind::WrongLastMessageId
            | DurableErrorKind::WrongLastSequence
            | DurableErrorKind::BrokenPipe
            | DurableErrorKind::MaxAckPending
            | DurableErrorKind::Other => unavailable(with_causes(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_there_and_back() {
        let headers = Headers::from([("traceparent".to_owned(), "00-ab-cd-01".to_owned()), ("X-Über".into(), "1".into())]);
        let refused = header_map(&headers).expect_err("not ASCII");
        assert!(refused.to_string().contains("name"), "{refused}");
        let headers = Headers::from([("traceparent".to_owned(), "00-ab-cd-01".to_owned())]);
        let map = header_map(&headers).expect("headers");
        let back = message(async_nats::Message {
            subject: "a.b".into(),
            reply: None,
            payload: "x".into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        });
        assert_eq!(back.headers, headers);
    }

    #[test]
    fn a_line_break_in_a_header_is_refused() {
        let headers = Headers::from([("a".to_owned(), "b\r\nc: d".to_owned())]);
        assert!(header_map(&headers).expect_err("line break").to_string().contains("value"));
    }
}
