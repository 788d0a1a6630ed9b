//! Results, whole.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_api::{Problem, RawValue};
use busbar_blobs::BlobError;
use busbar_protocol::busbar::JobRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Records};
use tokio_util::io::ReaderStream;

use crate::app::App;
use crate::core::view;
use crate::error::internal;
use crate::ops::results::{payload, pointer};

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// The bytes of the result.
pub(super) async fn whole<B: Bus, R: Records>(app: &App<B, R>, record: &JobRecord) -> Result<Response, Problem> {
    let gone = || Problem::new(Code::PayloadMissing, "the result has expired");
    let Some(pointer) = pointer(record) else { return Err(none(record)) };
    match pointer {
        Pointer::Redis(key) => {
            let bytes = payload(app, key).await?.ok_or_else(gone)?;
            let kind = if serde_json::from_slice::<&RawValue>(&bytes).is_ok() { JSON } else { OCTETS };
            Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
        }
        Pointer::Blob(digest) => {
            let blob = app.blobs.get(&digest).await.map_err(|error| match error {
                BlobError::Missing { .. } => gone(),
                error => internal(&error),
            })?;
            let headers = [(header::CONTENT_TYPE, OCTETS.to_owned()), (header::CONTENT_LENGTH, blob.size_bytes().to_string())];
            Ok((headers, Body::from_stream(ReaderStream::new(blob))).into_response())
        }
    }
}

fn none(record: &JobRecord) -> Problem {
    let state = view::state(record).map_or("UNKNOWN", busbar_api::JobState::as_str);
    let detail = match view::ended(record) {
        Some(_) => format!("the job ended as {state} without a result"),
        None => format!("the job is {state}: it has no result yet"),
    };
    Problem::new(Code::NotFound, detail)
}
