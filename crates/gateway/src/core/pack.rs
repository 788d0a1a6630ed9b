//! Packs as they are written: closed documents, and the topic documents that follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use busbar_protocol::busbar::TopicDocument;
use busbar_rules::{Schema, TopicPattern};
use serde::{Deserialize, Serialize};

/// `pack.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// `busbar/v1`.
    #[serde(rename = "apiVersion")]
    pub(crate) api_version: String,
    /// `Pack`.
    pub(crate) kind: String,
    /// What the pack is.
    pub(crate) metadata: Metadata,
    /// The wasm modules that topics name.
    #[serde(default)]
    pub(crate) modules: Vec<ModuleFile>,
    /// The file with the topic documents.
    pub(crate) topics: PathBuf,
    /// The file with the policy rules.
    pub(crate) policy: PathBuf,
}

/// What a pack is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    /// Names the pack: lower-case letters, digits and `-`.
    pub(crate) id: String,
    /// Its version.
    pub(crate) version: String,
    /// Its name for people.
    #[serde(default)]
    pub(crate) title: String,
    /// What it is for.
    #[serde(default)]
    pub(crate) description: String,
}

/// A wasm module of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModuleFile {
    /// What topics call it.
    pub(crate) name: String,
    /// Where it stands in the pack.
    pub(crate) file: PathBuf,
}

/// `topics.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicsFile {
    /// The pack's topics.
    pub(crate) topics: Vec<TopicEntry>,
}

/// One topic of a pack. What is left out has the scheduler's default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicEntry {
    /// Exact, or with `*` for one token, or ending in `>` for the rest.
    pub(crate) topic: String,
    /// Pools that serve it.
    pub(crate) pools: Vec<String>,
    /// A module of the pack; none means a handler of the worker's own.
    pub(crate) module: Option<String>,
    /// The file with the JSON Schema of the input.
    pub(crate) input_schema: Option<PathBuf>,
    /// The file with the JSON Schema of the output.
    pub(crate) output_schema: Option<PathBuf>,
    /// How long things may take.
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// What happens when an attempt does not succeed.
    #[serde(default)]
    pub(crate) retries: Retries,
    /// What a guest may use.
    pub(crate) limits: Option<Limits>,
    /// How long results stay, in milliseconds.
    #[serde(default)]
    pub(crate) result_ttl_ms: u64,
    /// Reach workers through the topic's queue group only.
    #[serde(default)]
    pub(crate) queue_only: bool,
    /// How many attempts may be in flight through the queue group.
    #[serde(default)]
    pub(crate) queue_in_flight_max: u32,
}

/// How long things may take, in milliseconds; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// From admission to a worker.
    pub(crate) schedule_to_start_ms: u64,
    /// One attempt.
    pub(crate) start_to_close_ms: u64,
    /// From admission to the end.
    pub(crate) deadline_ms: u64,
}

/// What happens when an attempt does not succeed; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retries {
    /// Attempts in all.
    pub(crate) max_attempts: u32,
    /// The first pause, in milliseconds.
    pub(crate) backoff_initial_ms: u64,
    /// The longest pause, in milliseconds.
    pub(crate) backoff_max_ms: u64,
}

/// What a guest may use; what is left out has the sandbox's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Linear memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// Processor time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ms: Option<u64>,
    /// Time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wall_ms: Option<u64>,
    /// Output, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_bytes: Option<u64>,
    /// Room in `/tmp`, in bytes; 0 means no `/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmp_bytes: Option<u64>,
}

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
    pub(crate) fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

impl Manifest {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Broken`] names the first rule that does not hold.
    pub(crate) fn check(&self) -> Result<(), Broken> {
        let demand = |holds: bool, place: &str, rule: &str| {
            if holds { Ok(()) } else { Err(Broken::new(format!("pack.yaml: {place}"), rule)) }
        };
        demand(self.api_version == "busbar/v1", "apiVersion", "must be busbar/v1")?;
        demand(self.kind == "Pack", "kind", "must be Pack")?;
        demand(is_name(&self.metadata.id), "metadata.id", "must be 1 to 64 lower-case letters, digits and `-`")?;
        demand(!self.metadata.version.is_empty(), "metadata.version", "must not be empty")?;
        demand(is_inside(&self.topics), "topics", "must be a file in the pack")?;
        demand(is_inside(&self.policy), "policy", "must be a file in the pack")?;
        let mut names = BTreeSet::new();
        for module in &self.modules {
            let place = format!("modules: {}", module.name);
            demand(!module.name.is_empty() && names.insert(&module.name), &place, "must have a name of its own")?;
            demand(is_inside(&module.file), &place, "must be a file in the pack")?;
        }
        Ok(())
    }
}

/// What a topic entry refers to, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a> {
    /// `sha256:<hex>` by the module's name.
    pub(crate) modules: &'a BTreeMap<String, String>,
    /// The text of its input schema.
    pub(crate) input_schema: Option<String>,
    /// The text of its output schema.
    pub(crate) output_schema: Option<String>,
}

/// The topic document that an entry stands for.
///
/// # Errors
/// [`Broken`] names the first rule that does not hold.
pub(crate) fn topic_document(pack_id: &str, entry: &TopicEntry, parts: Parts<'_>) -> Result<TopicDocument, Broken> {
    let place = |member: &str| format!("topics.yaml: {}: {member}", entry.topic);
    TopicPattern::parse(&entry.topic).map_err(|error| Broken::new(place("topic"), error.to_string()))?;
    if entry.pools.is_empty() || entry.pools.iter().any(String::is_empty) {
        return Err(Broken::new(place("pools"), "must name at least one pool"));
    }
    let module = match &entry.module {
        None => String::new(),
        Some(name) => parts
            .modules
            .get(name)
            .cloned()
            .ok_or_else(|| Broken::new(place("module"), format!("{name:?} is not among the modules of pack.yaml")))?,
    };
    for (member, schema) in [("input_schema", &parts.input_schema), ("output_schema", &parts.output_schema)] {
        if let Some(text) = schema {
            Schema::compile(text).map_err(|error| Broken::new(place(member), error.to_string()))?;
        }
    }
    Ok(TopicDocument {
        topic: entry.topic.clone(),
        pools: entry.pools.clone(),
        module,
        input_schema: parts.input_schema.unwrap_or_default(),
        output_schema: parts.output_schema.unwrap_or_default(),
        schedule_to_start_ms: entry.timeouts.schedule_to_start_ms,
        start_to_close_ms: entry.timeouts.start_to_close_ms,
        deadline_ms: entry.timeouts.deadline_ms,
        max_attempts: entry.retries.max_attempts,
        backoff_initial_ms: entry.retries.backoff_initial_ms,
        backoff_max_ms: entry.retries.backoff_max_ms,
        limits: entry.limits.as_ref().map(limits_json).unwrap_or_default(),
        pack_id: pack_id.to_owned(),
        result_ttl_ms: entry.result_ttl_ms,
        queue_only: entry.queue_only,
        queue_in_flight_max: entry.queue_in_flight_max,
    })
}

fn limits_json(limits: &Limits) -> String {
    serde_json::to_string(limits).expect("numbers under text keys are always JSON")
}

/// The topics that stand after these packs are installed: theirs, and those that no pack brought. Sorted by name.
///
/// # Errors
/// [`Broken`] when two packs, or a pack and another source, speak of the same topic.
pub(crate) fn install(present: &[TopicDocument], packs: Vec<TopicDocument>) -> Result<Vec<TopicDocument>, Broken> {
    let mut topics: BTreeMap<String, TopicDocument> = BTreeMap::new();
    let others = present.iter().filter(|document| document.pack_id.is_empty()).cloned();
    for document in others.chain(packs) {
        if let Some(first) = topics.get(&document.topic) {
            let place = format!("pack {}: topics.yaml: {}", document.pack_id, document.topic);
            let other =
                if first.pack_id.is_empty() { "the configuration".to_owned() } else { format!("the pack {}", first.pack_id) };
            return Err(Broken::new(place, format!("the topic belongs to {other} already")));
        }
        topics.insert(document.topic.clone(), document);
    }
    Ok(topics.into_values().collect())
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether a path stays inside the folder that it is relative to.
#[must_use]
pub(crate) fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
apiVersion: busbar/v1
kind: Pack
metadata: {id: bpsw, version: 0.1.0, title: t, description: d}
modules: [{name: guest, file: guest.wasm}]
topics: topics.yaml
policy: policy.yaml
";

    fn manifest(text: &str) -> Result<Manifest, String> {
        let manifest: Manifest = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        manifest.check().map(|()| manifest).map_err(|broken| broken.to_string())
    }

    fn entry(text: &str) -> TopicEntry {
        let file: TopicsFile = serde_saphyr::from_str(&format!("topics:\n  - {text}")).expect("well formed");
        file.topics.into_iter().next().expect("one entry")
    }

    fn document(text: &str) -> Result<TopicDocument, String> {
        let modules = [("guest".to_owned(), "sha256:ab".to_owned())].into();
        let parts = Parts { modules: &modules, input_schema: None, output_schema: None };
        topic_document("bpsw", &entry(text), parts).map_err(|broken| broken.to_string())
    }

    #[test]
    fn a_manifest_is_closed_and_checked() {
        assert_eq!(manifest(MANIFEST).map(|m| m.metadata.id), Ok("bpsw".into()));
        let cases = [
            ("kind: Pack", "kind: Bag", "kind: must be Pack"),
            ("busbar/v1", "busbar/v2", "apiVersion"),
            ("id: bpsw", "id: ../x", "metadata.id"),
            ("file: guest.wasm", "file: ../guest.wasm", "modules: guest: must be a file in the pack"),
            ("topics: topics.yaml", "topics: /etc/passwd", "topics: must be a file"),
            ("policy: policy.yaml", "polity: policy.yaml", "polity"),
        ];
        for (from, to, told) in cases {
            let error = manifest(&MANIFEST.replace(from, to)).expect_err(to);
            assert!(error.contains(told), "{to}: {error}");
        }
    }

    #[test]
    fn a_topic_document_has_everything_resolved() {
        let document = document("{topic: job.a.*, pools: [p], module: guest, limits: {cpu_ms: 5}, retries: {max_attempts: 2}}")
            .expect("good");
        assert_eq!((document.module.as_str(), document.limits.as_str()), ("sha256:ab", r#"{"cpu_ms":5}"#));
        assert_eq!((document.max_attempts, document.pack_id.as_str()), (2, "bpsw"));
    }

    #[test]
    fn a_bad_topic_is_named() {
        for (text, told) in [
            ("{topic: sys.a, pools: [p]}", "topics.yaml: sys.a: topic"),
            ("{topic: job.a, pools: []}", "topics.yaml: job.a: pools"),
            ("{topic: job.a, pools: [p], module: other}", "topics.yaml: job.a: module"),
        ] {
            let error = document(text).expect_err(text);
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }

    #[test]
    fn packs_replace_their_own_topics_and_leave_the_others() {
        let of =
            |topic: &str, pack: &str| TopicDocument { topic: topic.into(), pack_id: pack.into(), ..TopicDocument::default() };
        let present = [of("job.own", ""), of("job.gone", "a"), of("job.a", "a")];
        let names = |packs: Vec<TopicDocument>| {
            install(&present, packs).map(|all| all.into_iter().map(|d| d.topic).collect::<Vec<_>>()).map_err(|broken| broken.rule)
        };
        assert_eq!(names(vec![of("job.b", "b"), of("job.a", "a")]), Ok(vec!["job.a".into(), "job.b".into(), "job.own".into()]));
        assert_eq!(names(vec![of("job.b", "a"), of("job.b", "b")]), Err("the topic belongs to the pack a already".into()));
        assert_eq!(names(vec![of("job.own", "a")]), Err("the topic belongs to the configuration already".into()));
    }
}
