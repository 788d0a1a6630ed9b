//! Results: where they stand, and the small ones themselves.

use busbar_api::{INLINE_RESULT_BYTES_MAX, Problem, RawValue};
use busbar_blobs::BlobError;
use busbar_protocol::busbar::JobRecord;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Records};
use bytes::Bytes;

use crate::app::App;
use crate::core::view;
use crate::error::{internal, of_store};

/// A payload that was read before it was known whether anybody needs it.
#[derive(Debug)]
pub(crate) struct Found {
    key: String,
    bytes: Bytes,
}

impl Found {
    pub(crate) fn new(key: String, bytes: Bytes) -> Self {
        Self { key, bytes }
    }
}

/// The result where it is there, small enough and JSON; it may have been found already.
pub(crate) async fn inline<B: Bus, R: Records>(
    app: &App<B, R>,
    record: &JobRecord,
    found: Option<Found>,
) -> Result<Option<Box<RawValue>>, Problem> {
    let small = view::ended(record).is_some_and(|end| end.result_bytes <= INLINE_RESULT_BYTES_MAX);
    let Some(pointer) = pointer(record).filter(|_| small) else { return Ok(None) };
    let bytes = match (pointer, found) {
        (Pointer::Redis(key), Some(found)) if found.key == key => Some(found.bytes),
        (Pointer::Redis(key), _) => payload(app, key).await?,
        (Pointer::Blob(digest), _) => match app.blobs.read(&digest, INLINE_RESULT_BYTES_MAX).await {
            Ok(bytes) => Some(bytes),
            Err(BlobError::Missing { .. } | BlobError::TooLarge { .. }) => None,
            Err(error) => return Err(internal(&error)),
        },
    };
    let fits = bytes.filter(|bytes| bytes.len() as u64 <= INLINE_RESULT_BYTES_MAX);
    Ok(fits.and_then(|bytes| String::from_utf8(bytes.into()).ok()).and_then(|text| RawValue::from_string(text).ok()))
}

/// Where the result stands; only inside the names of the job's own results.
pub(crate) fn pointer(record: &JobRecord) -> Option<Pointer> {
    let end = view::ended(record)?;
    Pointer::parse(&end.result_ptr).ok().filter(|pointer| pointer.is_result_of(&record.job_id))
}

/// A payload that stands in the store, if it is still there.
pub(crate) async fn payload<B: Bus, R: Records>(app: &App<B, R>, key: String) -> Result<Option<Bytes>, Problem> {
    let found = app.records.payloads(vec![key]).await.map_err(|error| of_store(&error))?;
    Ok(found.into_iter().next().flatten())
}
