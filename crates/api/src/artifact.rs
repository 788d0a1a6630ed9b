//! Artifacts: files that clients upload and jobs name.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `POST /api/v1/artifacts` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactView {
    /// What jobs name in their input.
    pub artifact_id: String,
    /// The SHA-256 of the content, 64 hexadecimal digits.
    pub sha256: String,
    /// The size of the content.
    pub size_bytes: u64,
    /// What the uploader called it; may be empty.
    #[serde(default)]
    #[schema(required)]
    pub name: String,
}
