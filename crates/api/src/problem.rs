//! Errors as RFC 9457 tells them.

use std::fmt;

use busbar_protocol::codes::Code;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The media type of every error's body.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was refused, or did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong in this case.
    pub detail: String,
    /// The stable code: `ctl explain CODE` tells more.
    #[schema(value_type = ErrorCode)]
    pub code: String,
    /// When asking again makes sense, in milliseconds; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// How the OpenAPI document names the codes: those of today, and whatever a later version adds.
pub(crate) struct ErrorCode;

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let known = text().enum_values(Some(Code::ALL.iter().map(|code| code.as_str())));
        let open = AnyOfBuilder::new().item(known).item(text());
        open.description(Some("A stable code. `docs/errors` has a page about each; later versions may add some.")).into()
    }
}

impl ToSchema for ErrorCode {}

impl Problem {
    /// A problem with the status that belongs to its code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:busbar:error:{code}"),
            title: code.as_str().replace('_', " "),
            status: code.http_status(),
            detail: detail.into(),
            code: code.as_str().to_owned(),
            retry_after_ms: None,
        }
    }

    /// The same, with word on when to ask again.
    #[must_use]
    pub fn retry_after_ms(mut self, millis: u64) -> Self {
        self.retry_after_ms = (millis > 0).then_some(millis);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_rfc_9457() {
        let problem = Problem::new(Code::BacklogFull, "wait").retry_after_ms(1500);
        let json = serde_json::to_value(&problem).expect("plain members");
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:busbar:error:backlog_full", "title": "backlog full", "status": 429,
                "detail": "wait", "code": "backlog_full", "retry_after_ms": 1500
            })
        );
        assert_eq!(serde_json::from_value::<Problem>(json).ok(), Some(problem));
    }

    #[test]
    fn no_word_on_retrying_where_it_makes_no_sense() {
        let json = serde_json::to_string(&Problem::new(Code::NotFound, "x").retry_after_ms(0)).expect("plain members");
        assert!(!json.contains("retry_after_ms"), "{json}");
    }
}
