//! Packs: what a manifest may say, what an archive may hold, and what follows from both.
//!
//! ```text
//!  a folder ── gather ─┐
//!                      ├─► files ── Pack::open ─► topics, modules, policy, workflows, each checked; or the rule that is broken
//!  .tgz ───── unpack ──┘     └───── archive ────► .tgz, the same bytes for the same files
//! ```
//!
//! The gateway, `ctl` and the build of the shipped packs judge by the same code, so that what one accepts no other refuses. What
//! only the cell knows (who owns which topic, whether a policy or a workflow is good) is asked by the gateway.

mod archive;
mod manifest;
mod names;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::busbar::TopicDocument;
use busbar_protocol::ids;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::prost::Message as _;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::Schema;
pub use archive::{UPLOAD_BYTES_MAX, pack as archive, unpack};
pub use manifest::{Compatibility, MANIFEST, Manifest, Metadata, ModuleFile};
pub use names::is_pack_id;
use topics::TopicsFile;

/// The largest YAML or JSON document of a pack, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// The largest sum of a pack's topic documents with their schemas, in bytes.
const TOPICS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most topics of a pack.
const TOPICS_MAX: usize = 1000;
/// The file that a pack may have without naming it.
const README: &str = "README.md";
/// How a wasm module of the core specification, version 1, begins.
const WASM_MAGIC: &[u8] = b"\0asm\x01\0\0\0";

/// The contents of a pack's files by their names, which are paths with `/`.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A rule that a pack breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {rule}")]
pub struct Broken {
    /// The file, and the place in it.
    pub place: String,
    /// What must hold.
    pub rule: String,
}

impl Broken {
    /// A rule that is broken at a place.
    #[must_use]
    pub fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

/// A pack that holds all rules that can be judged without asking anybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its wasm modules, in the order of the manifest.
    pub modules: Vec<Module>,
    /// Its topics with everything resolved, by name.
    pub topics: Vec<TopicDocument>,
    /// Its policy bundle (YAML), if it has one.
    pub policy: Option<String>,
    /// Its workflows, by id.
    pub workflows: Vec<Workflow>,
    /// The SHA-256 of names and contents of its files: the same for the same pack, however it was packed.
    pub digest: Sha256Hex,
    files: Files,
}

/// A wasm module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// What the pack's topics call it.
    pub name: String,
    /// Its file.
    pub file: String,
    /// What the cell calls it.
    pub sha256: Sha256Hex,
}

/// A workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workflow {
    /// Its id, which begins with that of the pack.
    pub id: String,
    /// The document as JSON.
    pub document: Vec<u8>,
}

impl Pack {
    /// Reads and checks a pack.
    ///
    /// # Errors
    /// [`Broken`] names the first rule that does not hold, and where.
    pub fn open(files: Files) -> Result<Self, Broken> {
        let manifest = Manifest::parse(text(&files, MANIFEST)?)?;
        let topics_file = topics_file(&files, &manifest)?;
        refuse_strangers(&files, &named(&manifest, &topics_file))?;
        let modules = modules(&files, &manifest)?;
        topics_file.check_verifiers()?;
        let topics = topic_documents(&files, &manifest, &topics_file, &modules)?;
        for file in &manifest.schemas {
            Schema::compile(text(&files, file)?).map_err(|error| Broken::new(file, error.to_string()))?;
        }
        let policy = manifest.policy.as_deref().map(|file| text(&files, file).map(str::to_owned)).transpose()?;
        let workflows = workflows(&files, &manifest)?;
        if topics.is_empty() && workflows.is_empty() {
            return Err(Broken::new(MANIFEST, "a pack brings at least one topic or workflow"));
        }
        if policy.is_some() && topics.is_empty() {
            return Err(Broken::new("pack.yaml: policy", "a policy speaks of the pack's own topics, and there are none"));
        }
        let digest = digest(&files);
        Ok(Self { manifest, modules, topics, policy, workflows, digest, files })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.manifest.metadata.id
    }

    /// The bytes of one of its modules.
    #[must_use]
    pub fn module(&self, module: &Module) -> &[u8] {
        self.files.get(&module.file).map_or(&[], Vec::as_slice)
    }

    /// Its files.
    #[must_use]
    pub const fn files(&self) -> &Files {
        &self.files
    }
}

/// Why the files of a pack could not be gathered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatherError<E> {
    /// The pack breaks a rule.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// A file could not be read.
    #[error("{file}: it cannot be read")]
    Unreadable {
        /// Its name.
        file: String,
        /// What the reader said.
        source: E,
    },
}

/// Gathers the files that belong to a pack (the manifest names them) and checks the whole. `read` gives the content of a file, or
/// none where there is no such file.
///
/// # Errors
/// [`GatherError`].
pub fn gather<E>(mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>) -> Result<Pack, GatherError<E>> {
    let mut files = Files::new();
    let mut add = |files: &mut Files, file: &str| -> Result<(), GatherError<E>> {
        if let Some(content) = read(file).map_err(|source| GatherError::Unreadable { file: file.to_owned(), source })? {
            files.insert(file.to_owned(), content);
        }
        Ok(())
    };
    add(&mut files, MANIFEST)?;
    let manifest = Manifest::parse(text(&files, MANIFEST)?)?;
    if let Some(topics) = &manifest.topics {
        add(&mut files, topics)?;
    }
    let topics = topics_file(&files, &manifest)?;
    topics.check_paths()?;
    for file in named(&manifest, &topics) {
        if !files.contains_key(file) {
            add(&mut files, file)?;
        }
    }
    Ok(Pack::open(files)?)
}

/// Every file that may be in the pack.
fn named<'a>(manifest: &'a Manifest, topics: &'a TopicsFile) -> BTreeSet<&'a str> {
    let modules = manifest.modules.iter().map(|module| &module.file);
    let documents = [&manifest.topics, &manifest.policy].into_iter().flatten();
    let lists = manifest.workflows.iter().chain(&manifest.schemas);
    modules.chain(documents).chain(lists).map(String::as_str).chain([MANIFEST, README]).chain(topics.schemas()).collect()
}

fn refuse_strangers(files: &Files, named: &BTreeSet<&str>) -> Result<(), Broken> {
    match files.keys().find(|file| !named.contains(file.as_str())) {
        Some(stranger) => Err(Broken::new(stranger, "neither pack.yaml nor a topic names this file")),
        None => Ok(()),
    }
}

fn content<'a>(files: &'a Files, file: &str) -> Result<&'a [u8], Broken> {
    files.get(file).map(Vec::as_slice).ok_or_else(|| Broken::new(file, "the file is missing"))
}

fn text<'a>(files: &'a Files, file: &str) -> Result<&'a str, Broken> {
    let content = content(files, file)?;
    if content.len() > DOCUMENT_BYTES_MAX {
        return Err(Broken::new(file, format!("a document has at most {DOCUMENT_BYTES_MAX} bytes")));
    }
    std::str::from_utf8(content).map_err(|_| Broken::new(file, "a document is UTF-8"))
}

fn yaml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Broken> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| Broken::new(file, error.to_string()))
}

fn topics_file(files: &Files, manifest: &Manifest) -> Result<TopicsFile, Broken> {
    match &manifest.topics {
        Some(file) => yaml(file, text(files, file)?),
        None => Ok(TopicsFile::default()),
    }
}

fn modules(files: &Files, manifest: &Manifest) -> Result<Vec<Module>, Broken> {
    let module = |entry: &ModuleFile| {
        let content = content(files, &entry.file)?;
        if !content.starts_with(WASM_MAGIC) {
            return Err(Broken::new(&entry.file, "it does not begin like a wasm module of version 1"));
        }
        Ok(Module { name: entry.name.clone(), file: entry.file.clone(), sha256: Sha256Hex::of(content) })
    };
    manifest.modules.iter().map(module).collect()
}

fn topic_documents(
    files: &Files,
    manifest: &Manifest,
    topics: &TopicsFile,
    modules: &[Module],
) -> Result<Vec<TopicDocument>, Broken> {
    if topics.topics.len() > TOPICS_MAX {
        return Err(Broken::new("topics.yaml", format!("a pack has at most {TOPICS_MAX} topics")));
    }
    let mut documents: BTreeMap<String, TopicDocument> = BTreeMap::new();
    let mut bytes = 0;
    for entry in &topics.topics {
        let schema = |file: &Option<String>| file.as_deref().map(|file| text(files, file)).transpose();
        let schemas = [schema(&entry.input_schema)?, schema(&entry.output_schema)?];
        let document = entry.document(&manifest.metadata.id, modules, schemas)?;
        bytes += document.encoded_len();
        if bytes > TOPICS_BYTES_MAX {
            return Err(Broken::new("topics.yaml", format!("topics and their schemas have at most {TOPICS_BYTES_MAX} bytes")));
        }
        if documents.insert(entry.topic.clone(), document).is_some() {
            return Err(Broken::new(format!("topics.yaml: {}", entry.topic), "the topic is there twice"));
        }
    }
    Ok(documents.into_values().collect())
}

fn workflows(files: &Files, manifest: &Manifest) -> Result<Vec<Workflow>, Broken> {
    let mut workflows = BTreeMap::new();
    for file in &manifest.workflows {
        let document: serde_json::Value = yaml(file, text(files, file)?)?;
        let id = document.get("id").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let own = format!("{}.", manifest.metadata.id);
        if id.strip_prefix(&own).is_none_or(str::is_empty) || ids::check(&id).is_err() {
            return Err(Broken::new(format!("{file}: id"), format!("the id of a pack's workflow begins with {own:?}")));
        }
        let document = serde_json::to_vec(&document).map_err(|error| Broken::new(file, error.to_string()))?;
        if workflows.insert(id.clone(), document).is_some() {
            return Err(Broken::new(format!("{file}: id"), format!("the workflow {id} is there twice")));
        }
    }
    Ok(workflows.into_iter().map(|(id, document)| Workflow { id, document }).collect())
}

/// Lengths keep neighbours apart.
fn digest(files: &Files) -> Sha256Hex {
    let mut hash = Sha256::new();
    for (file, content) in files {
        for part in [file.as_bytes(), content] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    Sha256Hex::from_bytes(&hash.finalize())
}

#[cfg(test)]
mod tests;
