//! Packs: what is installed, and what an installation would change.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a pack's archive.
pub const PACK_MEDIA_TYPE: &str = "application/gzip";

/// What `GET /api/v1/packs` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackList {
    /// All packs, by id.
    pub items: Vec<PackView>,
}

/// One pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackView {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its name for people; may be empty.
    #[serde(default)]
    #[schema(required)]
    pub title: String,
    /// What it is for; may be empty.
    #[serde(default)]
    #[schema(required)]
    pub description: String,
    /// `active`; or `applying` or `removing`, where that was begun and is not yet done.
    pub state: String,
    /// The SHA-256 of names and contents of its files, 64 hexadecimal digits.
    pub digest: String,
    /// When this release was installed (RFC 3339).
    pub installed_at: String,
    /// By whom: the name of the key.
    pub installed_by: String,
    /// What it owns.
    pub owns: Vec<PackPart>,
}

/// One thing that a pack owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackPart {
    /// `module`, `topic`, `policy` or `workflow`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// What happens to a part of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackAction {
    /// It is new.
    Create,
    /// It is there with another content.
    Change,
    /// It is there already.
    Keep,
    /// It goes.
    Remove,
}

impl fmt::Display for PackAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Keep => "keep",
            Self::Remove => "remove",
        })
    }
}

/// What happens to one part of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackChange {
    /// What happens.
    pub action: PackAction,
    /// `module`, `topic`, `policy` or `workflow`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The SHA-256 that it will have; of what goes, the one that it had.
    pub sha256: String,
}

/// What became of a request to install or uninstall a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackOutcome {
    /// Nothing was changed: only the plan was asked for.
    Planned,
    /// This very content is installed already.
    Unchanged,
    /// It is installed.
    Installed,
    /// It took the place of another release.
    Upgraded,
    /// It is gone.
    Uninstalled,
}

impl fmt::Display for PackOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Planned => "planned",
            Self::Unchanged => "unchanged",
            Self::Installed => "installed",
            Self::Upgraded => "upgraded",
            Self::Uninstalled => "uninstalled",
        })
    }
}

/// What `POST /api/v1/packs` and `DELETE /api/v1/packs/{id}` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackReply {
    /// The pack.
    pub id: String,
    /// The version that was brought, or taken away.
    pub version: String,
    /// The version that was in force before, if another one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// The SHA-256 of names and contents of its files, 64 hexadecimal digits.
    pub digest: String,
    /// What became of it.
    pub outcome: PackOutcome,
    /// What it means for each part.
    pub plan: Vec<PackChange>,
}
