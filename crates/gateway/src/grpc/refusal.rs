//! Refusals as gRPC tells them.

use axum::http::{HeaderValue, Response};
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_rpc::tonic::body::Body;
use busbar_rpc::tonic::{self, Status};
use busbar_rpc::{CODE_METADATA, refusal};

const STATUS: &str = "grpc-status";

/// A refusal of ours. The gRPC status follows from the HTTP status, so that both say the same.
pub(crate) fn status(problem: &Problem) -> Status {
    refusal(kind(problem), &problem.code, &problem.detail, problem.retry_after_ms)
}

fn kind(problem: &Problem) -> tonic::Code {
    use tonic::Code as Kind;
    match problem.status {
        401 => Kind::Unauthenticated,
        403 => Kind::PermissionDenied,
        404 | 410 => Kind::NotFound,
        405 => Kind::Unimplemented,
        409 if problem.code == Code::JobDuplicate.as_str() => Kind::AlreadyExists,
        409 | 412 => Kind::FailedPrecondition,
        429 => Kind::ResourceExhausted,
        503 => Kind::Unavailable,
        504 => Kind::DeadlineExceeded,
        // What is too large (413) stays so, however often it is repeated.
        400..500 => Kind::InvalidArgument,
        _ => Kind::Internal,
    }
}

/// The client's own deadline is over.
pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("the deadline of the call is over")
}

/// The status of an answer that is a refusal as a whole, and its code if it is one of ours.
pub(crate) fn refused_with<B>(response: &Response<B>) -> Option<(tonic::Code, Option<&str>)> {
    let status = response.headers().get(STATUS).map(HeaderValue::as_bytes).map(tonic::Code::from_bytes)?;
    let code = response.headers().get(CODE_METADATA).and_then(|value| value.to_str().ok());
    (status != tonic::Code::Ok).then_some((status, code))
}

/// Gives what the plumbing refuses by itself, before a call reaches us, the statuses and codes that belong to it.
pub(crate) fn named(response: Response<Body>) -> Response<Body> {
    let Some((kind, None)) = refused_with(&response) else { return response };
    let message = Status::from_header_map(response.headers()).map(|status| status.message().to_owned()).unwrap_or_default();
    let code = match kind {
        // A message that cannot be decoded, or none at all.
        tonic::Code::Internal => Code::BodyInvalid,
        tonic::Code::OutOfRange => Code::PayloadTooLarge,
        tonic::Code::Unimplemented if message.is_empty() => {
            return status(&Problem::new(Code::MethodNotAllowed, "there is no such call")).into_http();
        }
        _ => return response,
    };
    status(&Problem::new(code, message)).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_has_its_status() {
        let of = |code: Code| status(&Problem::new(code, "d")).code();
        for (code, kind) in [
            (Code::FieldInvalid, tonic::Code::InvalidArgument),
            (Code::PayloadTooLarge, tonic::Code::InvalidArgument),
            (Code::CursorInvalid, tonic::Code::InvalidArgument),
            (Code::Unauthenticated, tonic::Code::Unauthenticated),
            (Code::Forbidden, tonic::Code::PermissionDenied),
            (Code::JobNotFound, tonic::Code::NotFound),
            (Code::JobDuplicate, tonic::Code::AlreadyExists),
            (Code::BacklogFull, tonic::Code::ResourceExhausted),
            (Code::SchedulerUnavailable, tonic::Code::Unavailable),
            (Code::Internal, tonic::Code::Internal),
        ] {
            assert_eq!(of(code), kind, "{code}");
        }
    }

    #[test]
    fn refusals_of_the_plumbing_get_a_code() {
        let told = |status: Status| {
            let response = named(status.into_http());
            let (kind, code) = refused_with(&response).expect("a refusal");
            (kind, code.map(str::to_owned))
        };
        let invalid = tonic::Code::InvalidArgument;
        assert_eq!(told(Status::internal("failed to decode")), (invalid, Some("body_invalid".into())));
        assert_eq!(told(Status::out_of_range("too large")), (invalid, Some("payload_too_large".into())));
        assert_eq!(told(Status::unimplemented("")), (tonic::Code::Unimplemented, Some("method_not_allowed".into())));
        assert_eq!(told(too_late()), (tonic::Code::DeadlineExceeded, None));
        let ours = status(&Problem::new(Code::Internal, "inside"));
        assert_eq!(told(ours), (tonic::Code::Internal, Some("internal".into())));
    }
}
