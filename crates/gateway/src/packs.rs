//! Loading packs at the start: modules into blobs, topics into the configuration, policies to the safety kernel.
//!
//! ```text
//!  <dir>/<pack>/pack.yaml ─► check ─► modules ─► blobs
//!                                 ├─► topics ──► cfg:topics (guarded) ─► busbar.config.changed
//!                                 └─► policy ──► busbar.kernel.publish, until a kernel answers
//! ```
//!
//! All packs are read and checked before anything is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_blobs::{BlobError, Blobs};
use busbar_protocol::busbar::{
    self, BundleTier, ConfigChanged, PublishBundleReply, PublishBundleRequest, TopicDocument, TopicDocuments,
};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::{Answer, Bus, BusError, CommitClass, CommitId, Guard, Headers, Records, StoreError, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_service::Shutdown;
use serde::de::DeserializeOwned;

use crate::core::pack::{self, Broken, Manifest, Parts, TopicsFile};

/// The largest document of a pack.
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;
/// The largest module of a pack.
const MODULE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const KERNEL_TRY: Duration = Duration::from_secs(2);
const KERNEL_PAUSE: Duration = Duration::from_millis(100);

/// Why packs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A pack breaks a rule. The code is `pack_invalid`.
    #[error("pack_invalid: {folder}: {broken}")]
    Invalid {
        /// The pack's folder.
        folder: String,
        /// The rule, and where it is broken.
        broken: Broken,
    },
    /// A file could not be read.
    #[error("{path}: it cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a policy. The code is usually `bundle_invalid`.
    #[error("the policy of the pack {pack_id} is refused: {code}: {detail}")]
    PolicyRefused {
        /// The pack.
        pack_id: String,
        /// The kernel's code.
        code: String,
        /// What is wrong.
        detail: String,
    },
    /// A module could not be kept.
    #[error("the module {path} cannot be kept")]
    Module {
        /// The module.
        path: PathBuf,
        /// What the blob store said.
        #[source]
        source: BlobError,
    },
    /// The store did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus did not do what was asked.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A pack as it was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    policy: String,
    topics: Vec<TopicDocument>,
}

/// Loads all packs of a folder: one folder each, in the form that `cargo xtask packs` leaves behind. What their policies say
/// counts after [`publish_policies`].
///
/// # Errors
/// [`PackError`]; nothing is changed when a pack is invalid.
pub async fn load_packs<B: Bus, R: Records>(dir: &Path, bus: &B, records: &R, blobs: &Blobs) -> Result<Vec<Pack>, PackError> {
    let mut packs = Vec::new();
    for folder in folders(dir)? {
        packs.push(read_pack(&folder, blobs).await?);
    }
    let topics = packs.iter().flat_map(|pack| pack.topics.iter().cloned()).collect();
    let changed = write_topics(records, topics).await?;
    if changed {
        let message = ConfigChanged { key: keys::TOPICS.to_owned() };
        bus.publish(subjects::CONFIG_CHANGED, Headers::new(), message.encode_to_vec().into()).await?;
    }
    let names: Vec<String> = packs.iter().map(|pack| format!("{} {}", pack.id, pack.version)).collect();
    tracing::info!(packs = ?names, changed, "packs loaded");
    Ok(packs)
}

/// Asks the safety kernel to publish what the packs allow. Asks again until a kernel answers, or the shutdown comes.
///
/// # Errors
/// [`PackError::PolicyRefused`].
pub async fn publish_policies<B: Bus>(packs: &[Pack], bus: &B, shutdown: &Shutdown) -> Result<(), PackError> {
    for pack in packs {
        let request = PublishBundleRequest {
            bundle_id: format!("pack-{}", pack.id),
            tier: BundleTier::Pack.into(),
            content: pack.policy.clone(),
            topics: pack.topics.iter().map(|document| document.topic.clone()).collect(),
        };
        tokio::select! {
            published = publish(bus, &pack.id, request.encode_to_vec()) => published?,
            () = shutdown.triggered() => return Ok(()),
        }
    }
    Ok(())
}

async fn publish<B: Bus>(bus: &B, pack_id: &str, request: Vec<u8>) -> Result<(), PackError> {
    let request = bytes::Bytes::from(request);
    loop {
        let asked = bus.request(subjects::KERNEL_PUBLISH, Headers::new(), request.clone(), KERNEL_TRY).await;
        match asked.map(|message| PublishBundleReply::decode(message.payload)) {
            Ok(Ok(PublishBundleReply { problem: None, snapshot })) => {
                tracing::info!(pack = pack_id, snapshot, "the pack's policy is published");
                return Ok(());
            }
            Ok(Ok(PublishBundleReply { problem: Some(problem), .. })) if !is_passing(&problem) => {
                return Err(PackError::PolicyRefused { pack_id: pack_id.to_owned(), code: problem.code, detail: problem.detail });
            }
            Ok(Ok(_)) | Err(_) => tokio::time::sleep(KERNEL_PAUSE).await,
            Ok(Err(error)) => {
                let detail = format!("the kernel's reply cannot be read: {error}");
                return Err(PackError::PolicyRefused { pack_id: pack_id.to_owned(), code: "internal".to_owned(), detail });
            }
        }
    }
}

/// Whether asking again later makes sense: something was away, not wrong.
fn is_passing(problem: &busbar::Problem) -> bool {
    problem.retry_after_ms > 0 || Code::parse(&problem.code).is_some_and(|code| code.http_status() == 503)
}

/// The folders with a `pack.yaml`, by name, so that the order is always the same.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, PackError> {
    let unreadable = |source| PackError::Unreadable { path: dir.to_owned(), source };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join("pack.yaml").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

async fn read_pack(folder: &Path, blobs: &Blobs) -> Result<Pack, PackError> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let invalid = |broken| PackError::Invalid { folder: name.clone(), broken };
    let manifest: Manifest = parse(folder, Path::new("pack.yaml"), &name)?;
    manifest.check().map_err(invalid)?;
    if manifest.metadata.id != name {
        return Err(invalid(Broken::new("pack.yaml: metadata.id", format!("must be the name of its folder, {name:?}"))));
    }
    let topics: TopicsFile = parse(folder, &manifest.topics, &name)?;
    let policy = read_text(folder, &manifest.policy)?;
    let mut modules = BTreeMap::new();
    for module in &manifest.modules {
        modules.insert(module.name.clone(), keep_module(&folder.join(&module.file), blobs).await?);
    }
    let documents = topics.topics.iter().map(|entry| {
        let schema =
            |path: &Option<PathBuf>| path.as_ref().map(|path| read_schema(folder, path, &name, &entry.topic)).transpose();
        let parts =
            Parts { modules: &modules, input_schema: schema(&entry.input_schema)?, output_schema: schema(&entry.output_schema)? };
        pack::topic_document(&manifest.metadata.id, entry, parts).map_err(invalid)
    });
    let topics = documents.collect::<Result<_, _>>()?;
    Ok(Pack { id: manifest.metadata.id, version: manifest.metadata.version, policy, topics })
}

fn read_schema(folder: &Path, path: &Path, pack: &str, topic: &str) -> Result<String, PackError> {
    if !pack::is_inside(path) {
        let broken = Broken::new(format!("topics.yaml: {topic}: {}", path.display()), "must be a file in the pack");
        return Err(PackError::Invalid { folder: pack.to_owned(), broken });
    }
    read_text(folder, path)
}

fn parse<T: DeserializeOwned>(folder: &Path, path: &Path, pack: &str) -> Result<T, PackError> {
    let text = read_text(folder, path)?;
    serde_saphyr::from_str(&text).map_err(|error| PackError::Invalid {
        folder: pack.to_owned(),
        broken: Broken::new(path.display().to_string(), error.to_string()),
    })
}

fn read_text(folder: &Path, path: &Path) -> Result<String, PackError> {
    let path = folder.join(path);
    let unreadable = |source| PackError::Unreadable { path: path.clone(), source };
    if std::fs::metadata(&path).map_err(unreadable)?.len() > DOCUMENT_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!("it has more than {DOCUMENT_BYTES_MAX} bytes"))));
    }
    std::fs::read_to_string(&path).map_err(unreadable)
}

async fn keep_module(path: &Path, blobs: &Blobs) -> Result<String, PackError> {
    let file = tokio::fs::File::open(path).await.map_err(|source| PackError::Unreadable { path: path.to_owned(), source })?;
    let kept = blobs.put(file, MODULE_BYTES_MAX).await;
    let kept = kept.map_err(|source| PackError::Module { path: path.to_owned(), source })?;
    Ok(format!("sha256:{}", kept.sha256))
}

/// Writes the packs' topics beside those of other sources. Returns whether anything changed.
async fn write_topics<R: Records>(records: &R, packs: Vec<TopicDocument>) -> Result<bool, PackError> {
    let key = keys::TOPICS.to_owned();
    for _ in 0..10 {
        let stored = records.read(vec![key.clone()]).await?.into_iter().next().flatten();
        let corrupt =
            |error: busbar_protocol::prost::DecodeError| StoreError::Corrupt { key: key.clone(), detail: error.to_string() };
        let present = match &stored {
            Some(stored) => TopicDocuments::decode(stored.value.clone()).map_err(corrupt)?,
            None => TopicDocuments::default(),
        };
        let topics = pack::install(&present.topics, packs.clone())
            .map_err(|broken| PackError::Invalid { folder: "all packs".to_owned(), broken })?;
        if topics == present.topics && stored.is_some() {
            return Ok(false);
        }
        let (guard, revision) = match &stored {
            Some(stored) => (Guard::Revision { key: key.clone(), revision: stored.revision }, stored.revision + 1),
            None => (Guard::Absent { key: key.clone() }, 1),
        };
        let value = TopicDocuments { version: 1, topics }.encode_to_vec().into();
        let put = Write::Put { key: key.clone(), revision, value, expire: None };
        let unit = Unit { id: CommitId::generate(), guards: vec![guard], writes: vec![put] };
        if let Some(Answer::Applied { .. } | Answer::Already) = records.commit(CommitClass::Admit, vec![unit]).await?.first() {
            return Ok(true);
        }
    }
    Err(StoreError::Unavailable { detail: format!("others keep writing {key}") }.into())
}
