//! What the kernel does to the world: reads the policy file and the bundles' records, and commits new ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_protocol::busbar::{BundleAction, BundleRecord, BundleTier, Problem, PublishBundleRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Guard, IndexRange, Records, StoreError, Stored, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys};

use crate::core::bundle::{BUNDLE_BYTES_MAX, Bundle, BundleError, Source, Tier};
use crate::core::snapshot::Snapshot;

/// The most bundles that are kept.
pub const BUNDLES_MAX: usize = 1000;

/// How many records are read at once.
const READ_MAX: usize = 256;

/// How often a commit is tried, and how long it waits for a store that is away.
const COMMIT_TRIES_MAX: u32 = 5;
const COMMIT_PAUSE: Duration = Duration::from_millis(200);

/// The name of the policy file's bundle.
const FILE_BUNDLE: &str = "policy-file";

/// The version of [`BundleRecord`] that is written.
const RECORD_VERSION: u32 = 1;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The policy file cannot be read.
    #[error("the policy file {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store did not answer, or answered with something else.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bundle is refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Reads the policy file and all bundles.
///
/// # Errors
/// [`LoadError`]; whoever has an older snapshot keeps it.
pub async fn load<R: Records>(records: &R, policy_path: Option<&Path>) -> Result<Snapshot, LoadError> {
    let mut sources = Vec::new();
    if let Some(path) = policy_path {
        sources.push(read_file(path).await?);
    }
    sources.extend(read_bundles(records).await?);
    Ok(Snapshot::compile(sources)?)
}

async fn read_file(path: &Path) -> Result<Source, LoadError> {
    let failed = |source| LoadError::File { path: path.to_owned(), source };
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > BUNDLE_BYTES_MAX as u64 {
        return Err(failed(std::io::Error::other(format!("{size} bytes are more than the {BUNDLE_BYTES_MAX} that are taken"))));
    }
    let content = tokio::fs::read_to_string(path).await.map_err(failed)?;
    // An editor that truncates before it writes must not open the gates for a moment.
    if content.trim().is_empty() {
        return Err(failed(std::io::Error::other("it is empty; `rules: []` says that there are no rules")));
    }
    Ok(Source { tier: Tier::Core, id: FILE_BUNDLE.to_owned(), content, topics: Vec::new() })
}

async fn read_bundles<R: Records>(records: &R) -> Result<Vec<Source>, StoreError> {
    let keys: Vec<String> = bundle_ids(records).await?.iter().map(|id| keys::bundle(id)).collect();
    let mut sources = Vec::with_capacity(keys.len());
    for keys in keys.chunks(READ_MAX) {
        let found = records.read(keys.to_vec()).await?;
        for (key, stored) in keys.iter().zip(found) {
            // The unit that writes a record writes its index entry: one without the other is damage, and a bundle that is
            // left out could be the one that denies.
            let stored = stored.ok_or_else(|| corrupt(key, "it is in the index but not there"))?;
            sources.push(decode(key, &stored)?);
        }
    }
    Ok(sources)
}

async fn bundle_ids<R: Records>(records: &R) -> Result<Vec<String>, StoreError> {
    let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: BUNDLES_MAX as u64 + 1 };
    let entries = records.index(keys::INDEX_BUNDLES, range).await?;
    if entries.len() > BUNDLES_MAX {
        return Err(corrupt(keys::INDEX_BUNDLES, "it has more entries than are ever written"));
    }
    Ok(entries.into_iter().map(|entry| entry.member).collect())
}

fn decode(key: &str, stored: &Stored) -> Result<Source, StoreError> {
    let record = BundleRecord::decode(stored.value.clone()).map_err(|error| corrupt(key, &error.to_string()))?;
    let tier = tier(record.tier).ok_or_else(|| corrupt(key, "unknown tier"))?;
    Ok(Source { tier, id: record.bundle_id, content: record.content, topics: record.topics })
}

fn corrupt(key: &str, detail: &str) -> StoreError {
    StoreError::Corrupt { key: key.to_owned(), detail: detail.to_owned() }
}

fn tier(wire: i32) -> Option<Tier> {
    match BundleTier::try_from(wire).ok()? {
        BundleTier::Core => Some(Tier::Core),
        BundleTier::Tenant => Some(Tier::Tenant),
        BundleTier::Pack => Some(Tier::Pack),
        BundleTier::Unspecified => None,
    }
}

/// Does with a bundle what the request says: publishes it, replacing the one of the same name; only checks it; or removes it.
///
/// # Errors
/// [`Problem`] with a stable code: `bundle_invalid`, or `store_unavailable` when it should be tried again.
pub async fn publish<R: Records>(records: &R, request: PublishBundleRequest) -> Result<(), Problem> {
    let action = BundleAction::try_from(request.action).map_err(|_| invalid("an unknown action"))?;
    let tier = tier(request.tier).ok_or_else(|| invalid("the tier must be core, tenant or pack"))?;
    let source = Source { tier, id: request.bundle_id, content: request.content, topics: request.topics };
    match action {
        BundleAction::Publish | BundleAction::Check => {
            let source = Bundle::compile(source).map_err(|error| invalid(&error.to_string()))?.source;
            commit(records, &source, action).await
        }
        BundleAction::Remove => {
            ids::check(&source.id).map_err(|error| invalid(&error.to_string()))?;
            commit(records, &source, action).await
        }
    }
}

/// Tries until the store has answered.
async fn commit<R: Records>(records: &R, source: &Source, action: BundleAction) -> Result<(), Problem> {
    // One id for all tries: a unit whose answer was lost is then answered "already" instead of being applied twice.
    let commit = CommitId::generate();
    let mut last = StoreError::Unavailable { detail: "the record keeps changing".to_owned() };
    for attempt in 0..COMMIT_TRIES_MAX {
        if attempt > 0 {
            tokio::time::sleep(COMMIT_PAUSE).await;
        }
        let tried = match action {
            BundleAction::Publish => commit_bundle(records, source, commit).await,
            BundleAction::Check => may_replace(records, source).await.map(drop),
            BundleAction::Remove => remove_bundle(records, source, commit).await,
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(Refused::Other(error)) => last = error,
            Err(Refused::Problem(problem)) => return Err(problem),
            Err(Refused::Changed) => {}
        }
    }
    Err(store_problem(&last))
}

/// Why one try did not commit.
enum Refused {
    /// Somebody else wrote the record meanwhile.
    Changed,
    /// The caller's fault: no use in trying again.
    Problem(Problem),
    /// The store's.
    Other(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

/// The bundle of this name as it stands, with its revision; refused where it is of another tier.
async fn present<R: Records>(records: &R, source: &Source) -> Result<Option<(Source, u64)>, Refused> {
    let key = keys::bundle(&source.id);
    let Some(stored) = records.read(vec![key.clone()]).await?.into_iter().next().flatten() else { return Ok(None) };
    let present = decode(&key, &stored)?;
    if present.tier != source.tier {
        let problem = format!("{} is a bundle of tier {}: another tier must not touch it", source.id, present.tier.as_str());
        return Err(Refused::Problem(invalid(&problem)));
    }
    Ok(Some((present, stored.revision)))
}

/// What would be replaced, if it may be.
async fn may_replace<R: Records>(records: &R, source: &Source) -> Result<Option<(Source, u64)>, Refused> {
    let present = present(records, source).await?;
    if present.is_none() && bundle_ids(records).await?.len() >= BUNDLES_MAX {
        return Err(Refused::Problem(invalid(&format!("there are {BUNDLES_MAX} bundles already"))));
    }
    Ok(present)
}

async fn commit_bundle<R: Records>(records: &R, source: &Source, commit: CommitId) -> Result<(), Refused> {
    let present = may_replace(records, source).await?;
    if present.as_ref().is_some_and(|(present, _)| present == source) {
        return Ok(());
    }
    let published_ms = records.time().await?.millis();
    let key = keys::bundle(&source.id);
    let unit = unit(&key, present.map_or(0, |(_, revision)| revision), source, published_ms, commit);
    // Policy gets through when memory is short: it may be what stops the flood.
    applied(&key, records.commit(CommitClass::Advance, vec![unit]).await?.first())
}

/// Takes a bundle away; one that is not there is as good.
async fn remove_bundle<R: Records>(records: &R, source: &Source, commit: CommitId) -> Result<(), Refused> {
    let Some((_, revision)) = present(records, source).await? else { return Ok(()) };
    let key = keys::bundle(&source.id);
    let index = Write::IndexRemove { index: keys::INDEX_BUNDLES.to_owned(), member: source.id.clone() };
    let guards = vec![Guard::Revision { key: key.clone(), revision }];
    let unit = Unit { id: commit, guards, writes: vec![Write::Delete { key: key.clone() }, index] };
    applied(&key, records.commit(CommitClass::Advance, vec![unit]).await?.first())
}

fn applied(key: &str, answer: Option<&Answer>) -> Result<(), Refused> {
    match answer {
        Some(Answer::Applied { .. } | Answer::Already) => Ok(()),
        Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) => Err(Refused::Changed),
        None => Err(Refused::Other(corrupt(key, "no answer to a commit"))),
    }
}

fn unit(key: &str, revision: u64, source: &Source, published_ms: u64, commit: CommitId) -> Unit {
    let wire_tier = match source.tier {
        Tier::Core => BundleTier::Core,
        Tier::Tenant => BundleTier::Tenant,
        Tier::Pack => BundleTier::Pack,
    };
    let record = BundleRecord {
        version: RECORD_VERSION,
        bundle_id: source.id.clone(),
        tier: wire_tier.into(),
        content: source.content.clone(),
        topics: source.topics.clone(),
        published_ms,
    };
    let guard = match revision {
        0 => Guard::Absent { key: key.to_owned() },
        revision => Guard::Revision { key: key.to_owned(), revision },
    };
    let put = Write::Put { key: key.to_owned(), revision: revision + 1, value: record.encode_to_vec().into(), expire: None };
    let score = i64::try_from(published_ms).unwrap_or(i64::MAX);
    let index = Write::IndexAdd { index: keys::INDEX_BUNDLES.to_owned(), member: source.id.clone(), score };
    Unit { id: commit, guards: vec![guard], writes: vec![put, index] }
}

fn invalid(detail: &str) -> Problem {
    Problem { code: Code::BundleInvalid.to_string(), detail: detail.to_owned(), retry_after_ms: 0 }
}

/// What is told when the store did not do its part.
#[must_use]
pub fn store_problem(error: &StoreError) -> Problem {
    let (code, retry_after_ms) = match error {
        StoreError::Unavailable { .. } => (Code::StoreUnavailable, 1000),
        StoreError::MemoryShort => (Code::MemoryShort, 1000),
        StoreError::Refused { .. } | StoreError::Corrupt { .. } => (Code::Internal, 0),
    };
    Problem { code: code.to_string(), detail: error.to_string(), retry_after_ms }
}
