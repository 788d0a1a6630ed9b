//! Artifacts: files that clients upload and jobs name.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use busbar_api::{ArtifactView, Problem};
use busbar_blobs::{BlobError, BlobRef};
use busbar_protocol::busbar::ArtifactRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{ids, keys};
use futures::TryStreamExt as _;
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{bad_query, id_in};
use crate::app::{App, Caller, Shared};
use crate::core::role::Need;
use crate::error::{Refusal, internal, of_store};
use crate::openapi::Octets;

const NAME_CHARACTERS_MAX: usize = 255;
const OCTETS: &str = "application/octet-stream";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// What to call it: at most 255 characters, none of them a control character.
    #[serde(default)]
    #[param(max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "hello.txt")]
    name: String,
}

/// Upload an artifact.
///
/// The body is the content, streamed, at most 1 GiB unless the gateway is set up otherwise. `Content-Type` is kept. Needs the
/// role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/artifacts",
    tag = "artifacts",
    operation_id = "uploadArtifact",
    params(UploadQuery),
    request_body(content = inline(Octets), content_type = "application/octet-stream", description = "The content."),
    responses((status = 201, description = "Kept.", body = ArtifactView)),
    extensions(("x-busbar-codes" = json!(["body_invalid", "field_invalid", "payload_too_large", "memory_short"]))),
)]
pub(crate) async fn upload<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<UploadQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    check_name(&query.name)?;
    let max = app.config.artifact_bytes_max;
    let content = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let BlobRef { sha256, size_bytes } = app.blobs.put(content, max).await.map_err(|error| match error {
        BlobError::TooLarge { .. } => Problem::new(Code::PayloadTooLarge, format!("an artifact has at most {max} bytes")),
        BlobError::Source { .. } => Problem::new(Code::BodyInvalid, "the body could not be read to its end"),
        error => internal(&error),
    })?;
    let record = ArtifactRecord {
        version: 1,
        artifact_id: ids::generate(),
        tenant_id: caller.tenant_id().to_owned(),
        name: query.name,
        sha256: sha256.to_string(),
        size_bytes,
        media_type: media_type(&headers),
        created_ms: Timestamp::wall_clock().millis(),
    };
    keep(&app, &record).await?;
    let ArtifactRecord { artifact_id, name, sha256, .. } = record;
    Ok((StatusCode::CREATED, Json(ArtifactView { artifact_id, sha256, size_bytes, name })).into_response())
}

/// Download an artifact.
///
/// The content, streamed, with the media type that it was uploaded with; always as an attachment.
#[utoipa::path(
    get,
    path = "/api/v1/artifacts/{id}",
    tag = "artifacts",
    operation_id = "downloadArtifact",
    params(("id" = String, Path, description = "The artifact.")),
    responses((status = 200, description = "The content.", body = inline(Octets), content_type = "*/*")),
    extensions(("x-busbar-codes" = json!(["artifact_not_found", "not_found", "artifact_unavailable"]))),
)]
pub(crate) async fn download<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    caller.require(Need::ReadJobs)?;
    let artifact_id = id_in(id)?;
    let unknown = || Problem::new(Code::ArtifactNotFound, "no artifact with this identifier is known here");
    ids::check(&artifact_id).map_err(|_| unknown())?;
    let stored = app.records.read(vec![keys::artifact(&artifact_id)]).await?.into_iter().next().flatten();
    let record = stored.map(|stored| ArtifactRecord::decode(stored.value)).transpose().map_err(|error| internal(&error))?;
    let record = record.filter(|record| record.tenant_id == caller.tenant_id()).ok_or_else(unknown)?;
    let digest = Sha256Hex::parse(&record.sha256).map_err(|error| internal(&error))?;
    let blob = app.blobs.get(&digest).await.map_err(|error| match error {
        BlobError::Missing { .. } => Problem::new(Code::ArtifactUnavailable, "the content of this artifact is gone"),
        error => internal(&error),
    })?;
    let headers = [
        (header::CONTENT_TYPE, record.media_type),
        (header::CONTENT_LENGTH, record.size_bytes.to_string()),
        (header::ETAG, format!("\"sha256:{digest}\"")),
        // What somebody uploaded is never a page of ours.
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(blob))).into_response())
}

async fn keep<B: Bus, R: Records>(app: &App<B, R>, record: &ArtifactRecord) -> Result<(), Problem> {
    let key = keys::artifact(&record.artifact_id);
    let expire = Some(Duration::from_secs(app.config.artifact_ttl_seconds));
    let put = Write::Put { key: key.clone(), revision: 1, value: record.encode_to_vec().into(), expire };
    let unit = Unit { id: CommitId::generate(), guards: vec![Guard::Absent { key }], writes: vec![put] };
    let answers = app.records.commit(CommitClass::Admit, vec![unit]).await.map_err(|error| of_store(&error))?;
    match answers.first() {
        Some(Answer::Applied { .. } | Answer::Already) => Ok(()),
        other => Err(internal(&format!("a new artifact was answered {other:?}"))),
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    let good = name.chars().count() <= NAME_CHARACTERS_MAX && !name.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    let rule = format!("name: at most {NAME_CHARACTERS_MAX} characters, none of them a control character");
    Err(Problem::new(Code::FieldInvalid, rule))
}

fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.filter(|text| text.len() <= 255).unwrap_or(OCTETS).to_owned()
}
