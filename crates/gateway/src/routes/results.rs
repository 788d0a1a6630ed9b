//! Results: within the view where they are small, or whole.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_api::{INLINE_RESULT_BYTES_MAX, Problem, RawValue};
use busbar_blobs::BlobError;
use busbar_protocol::busbar::JobRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Records};
use bytes::Bytes;
use tokio_util::io::ReaderStream;

use crate::app::App;
use crate::core::view;
use crate::error::{internal, of_store};

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// The result where it is there, small enough and JSON.
pub(super) async fn inline<B: Bus, R: Records>(app: &App<B, R>, record: &JobRecord) -> Result<Option<Box<RawValue>>, Problem> {
    let small = view::ended(record).is_some_and(|end| end.result_bytes <= INLINE_RESULT_BYTES_MAX);
    let Some(pointer) = pointer(record).filter(|_| small) else { return Ok(None) };
    let bytes = match pointer {
        Pointer::Redis(key) => payload(app, key).await?,
        Pointer::Blob(digest) => match app.blobs.read(&digest, INLINE_RESULT_BYTES_MAX).await {
            Ok(bytes) => Some(bytes),
            Err(BlobError::Missing { .. } | BlobError::TooLarge { .. }) => None,
            Err(error) => return Err(internal(&error)),
        },
    };
    let fits = bytes.filter(|bytes| bytes.len() as u64 <= INLINE_RESULT_BYTES_MAX);
    Ok(fits.and_then(|bytes| String::from_utf8(bytes.into()).ok()).and_then(|text| RawValue::from_string(text).ok()))
}

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

/// Where the result stands; only inside the names of the job's own results.
fn pointer(record: &JobRecord) -> Option<Pointer> {
    let end = view::ended(record)?;
    Pointer::parse(&end.result_ptr).ok().filter(|pointer| pointer.is_result_of(&record.job_id))
}

fn none(record: &JobRecord) -> Problem {
    let state = view::state(record).map_or("UNKNOWN", busbar_api::JobState::as_str);
    let detail = match view::ended(record) {
        Some(_) => format!("the job ended as {state} without a result"),
        None => format!("the job is {state}: it has no result yet"),
    };
    Problem::new(Code::NotFound, detail)
}

async fn payload<B: Bus, R: Records>(app: &App<B, R>, key: String) -> Result<Option<Bytes>, Problem> {
    let found = app.records.payloads(vec![key]).await.map_err(|error| of_store(&error))?;
    Ok(found.into_iter().next().flatten())
}
