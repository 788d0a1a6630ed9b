//! Errors as responses: always `application/problem+json` with a code of ours.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use busbar_api::{PROBLEM_MEDIA_TYPE, Problem};
use busbar_protocol::busbar;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{BusError, StoreError};

/// When a caller should ask again after something was away.
const AWAY_RETRY_MS: u64 = 1000;
/// When a caller should ask again after memory was short: work has to drain first.
const MEMORY_RETRY_MS: u64 = 5000;

/// How the subjects begin on which the workflow engine is asked.
const ENGINE: &str = "busbar.engine.";

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(of_store(&error))
    }
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        Self(of_bus(&error))
    }
}

/// What a client is told when the store did not do what was asked.
pub(crate) fn of_store(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable { .. } => Problem::new(Code::StoreUnavailable, error.to_string()).retry_after_ms(AWAY_RETRY_MS),
        StoreError::MemoryShort => Problem::new(Code::MemoryShort, error.to_string()).retry_after_ms(MEMORY_RETRY_MS),
        StoreError::Refused { .. } | StoreError::Corrupt { .. } => internal(error),
    }
}

/// What a client is told when another service could not be asked.
pub(crate) fn of_bus(error: &BusError) -> Problem {
    match error {
        BusError::NoResponders { subject } | BusError::TimedOut { subject, .. } if subject.starts_with(ENGINE) => no_engine(),
        BusError::NoResponders { .. } | BusError::TimedOut { .. } => no_scheduler(),
        BusError::Unavailable { .. } => Problem::new(Code::BusUnavailable, error.to_string()).retry_after_ms(AWAY_RETRY_MS),
        BusError::TooLarge { .. } => Problem::new(Code::BatchTooLarge, error.to_string()),
    }
}

/// No scheduler answered.
pub(crate) fn no_scheduler() -> Problem {
    Problem::new(Code::SchedulerUnavailable, "no scheduler answered; nothing was changed").retry_after_ms(AWAY_RETRY_MS)
}

/// No workflow engine answered.
pub(crate) fn no_engine() -> Problem {
    Problem::new(Code::EngineUnavailable, "no workflow engine answered in time; asking again is safe")
        .retry_after_ms(AWAY_RETRY_MS)
}

/// No place for a call, which may find one later or elsewhere.
pub(crate) fn busy(detail: &str) -> Problem {
    Problem::new(Code::GatewayBusy, detail).retry_after_ms(AWAY_RETRY_MS)
}

/// Something that is not the caller's fault. The cause goes to the log, not to the client.
pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%cause, "a request failed inside");
    Problem::new(Code::Internal, "something went wrong inside; the gateway's log tells what")
}

/// A refusal that came over the bus.
pub(crate) fn of_wire(problem: busbar::Problem) -> Problem {
    match Code::parse(&problem.code) {
        // What is full, or comes too fast, is always worth another try.
        Some(code) if code.http_status() == 429 && problem.retry_after_ms == 0 => {
            Problem::new(code, problem.detail).retry_after_ms(AWAY_RETRY_MS)
        }
        Some(code) => Problem::new(code, problem.detail).retry_after_ms(problem.retry_after_ms),
        // A newer scheduler may know codes that we do not.
        None => {
            Problem { code: problem.code, ..Problem::new(Code::Internal, problem.detail) }.retry_after_ms(problem.retry_after_ms)
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).expect("a problem has only texts and numbers");
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        if let Some(millis) = problem.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Metrics count refusals by code.
        response.extensions_mut().insert(RefusedWith(problem.code));
        response
    }
}

/// The code of a response that is a refusal.
#[derive(Clone, Debug)]
pub(crate) struct RefusedWith(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_its_headers() {
        let response = Refusal(no_scheduler()).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let response = Refusal(Problem::new(Code::KeyUnknown, "x")).into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn what_the_scheduler_says_is_passed_on() {
        let wire = |code: &str| busbar::Problem { code: code.into(), detail: "d".into(), retry_after_ms: 2500 };
        let problem = of_wire(wire("backlog_full"));
        assert_eq!((problem.status, problem.retry_after_ms), (429, Some(2500)));
        let problem = of_wire(wire("code_of_tomorrow"));
        assert_eq!((problem.status, problem.code.as_str()), (500, "code_of_tomorrow"));
    }
}
