//! `pack.yaml` and what it refers to, checked before anything is built.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The manifest's name in a pack's folder.
pub(crate) const FILE: &str = "pack.yaml";

/// The parts of `pack.yaml`; unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    metadata: Metadata,
    /// The wasm modules.
    pub(crate) modules: Vec<Module>,
    /// The file with the topic documents.
    pub(crate) topics: PathBuf,
    /// The file with the policy rules.
    pub(crate) policy: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    id: String,
    #[serde(rename = "version")]
    _version: String,
    #[serde(rename = "title")]
    _title: String,
    #[serde(rename = "description")]
    _description: String,
}

/// One wasm module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Module {
    /// What topic documents call it.
    name: String,
    /// Its file in the built pack, `<binary>.wasm`.
    pub(crate) file: String,
}

#[derive(Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

/// What is looked at in a topic document here; the gateway checks the rest.
#[derive(Deserialize)]
struct Topic {
    topic: String,
    module: Option<String>,
    input_schema: Option<PathBuf>,
    output_schema: Option<PathBuf>,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// A file that it needs cannot be read.
    #[error("{file}: {source}", file = .file.display())]
    Unreadable {
        /// The file, relative to the pack.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not the YAML that was expected.
    #[error("{file}: {text}", file = .file.display())]
    Malformed {
        /// The file, relative to the pack.
        file: PathBuf,
        /// What the parser said.
        text: String,
    },
    /// `apiVersion` or `kind` is of something else.
    #[error("{FILE}: this is a {kind} of {api_version}, not a Pack of busbar/v1")]
    OtherKind {
        /// The kind found.
        kind: String,
        /// The version found.
        api_version: String,
    },
    /// The id must be the folder's name.
    #[error("{FILE}: metadata.id is {0}, which is not the folder's name")]
    OtherId(String),
    /// A module that is not `<name>.wasm`.
    #[error("{FILE}: module file {0} is not a plain name that ends in .wasm")]
    ModuleFile(String),
    /// A topic names a module that the manifest does not have.
    #[error("topic {topic}: there is no module {module}")]
    NoModule {
        /// The topic.
        topic: String,
        /// What it names.
        module: String,
    },
}

impl Manifest {
    /// Reads and checks the manifest of the pack in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, ManifestError> {
        let manifest: Self = read_yaml(folder, Path::new(FILE))?;
        manifest.check_itself(folder)?;
        let topics: Topics = read_yaml(folder, &manifest.topics)?;
        topics.topics.iter().try_for_each(|topic| manifest.check_topic(folder, topic))?;
        read_text(folder, &manifest.policy)?;
        Ok(manifest)
    }

    fn check_itself(&self, folder: &Path) -> Result<(), ManifestError> {
        if self.api_version != "busbar/v1" || self.kind != "Pack" {
            return Err(ManifestError::OtherKind { kind: self.kind.clone(), api_version: self.api_version.clone() });
        }
        if folder.file_name().is_none_or(|name| name != self.metadata.id.as_str()) {
            return Err(ManifestError::OtherId(self.metadata.id.clone()));
        }
        let is_plain = |file: &str| file.ends_with(".wasm") && !file.contains(['/', '\\']);
        match self.modules.iter().find(|module| !is_plain(&module.file)) {
            Some(module) => Err(ManifestError::ModuleFile(module.file.clone())),
            None => Ok(()),
        }
    }

    fn check_topic(&self, folder: &Path, topic: &Topic) -> Result<(), ManifestError> {
        if let Some(module) = &topic.module
            && !self.modules.iter().any(|known| known.name == *module)
        {
            return Err(ManifestError::NoModule { topic: topic.topic.clone(), module: module.clone() });
        }
        let mut schemas = [&topic.input_schema, &topic.output_schema].into_iter().flatten();
        schemas.try_for_each(|schema| read_text(folder, schema).map(drop))
    }
}

fn read_yaml<T: for<'de> Deserialize<'de>>(folder: &Path, file: &Path) -> Result<T, ManifestError> {
    let text = read_text(folder, file)?;
    serde_saphyr::from_str(&text).map_err(|error| ManifestError::Malformed { file: file.to_owned(), text: error.to_string() })
}

fn read_text(folder: &Path, file: &Path) -> Result<String, ManifestError> {
    std::fs::read_to_string(folder.join(file)).map_err(|source| ManifestError::Unreadable { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: &str = "apiVersion: busbar/v1\nkind: Pack\nmetadata: {id: p, version: 1.0.0, title: t, description: d}\n\
        modules: [{name: m, file: m.wasm}]\ntopics: topics.yaml\npolicy: policy.yaml\n";

    fn read(pack: &str, topics: &str) -> Result<Manifest, ManifestError> {
        let parent = tempfile::tempdir().expect("temporary folder");
        let folder = parent.path().join("p");
        std::fs::create_dir(&folder).expect("temporary folder");
        for (file, text) in [(FILE, pack), ("topics.yaml", topics), ("policy.yaml", "rules: []"), ("s.json", "{}")] {
            std::fs::write(folder.join(file), text).expect("temporary folder");
        }
        Manifest::read(&folder)
    }

    #[test]
    fn a_right_one_is_read() {
        let manifest = read(PACK, "topics: [{topic: job.p.a, module: m, input_schema: s.json, pools: [x]}]").expect("right");
        assert_eq!(manifest.modules[0].file, "m.wasm");
    }

    #[test]
    fn wrong_ones_are_told_apart() {
        let fails = |pack: &str, topics| read(pack, topics).expect_err("wrong");
        let none = "topics: []";
        assert!(matches!(fails(&PACK.replace("id: p", "id: q"), none), ManifestError::OtherId(id) if id == "q"));
        assert!(matches!(fails(&PACK.replace("busbar/v1", "v2"), none), ManifestError::OtherKind { .. }));
        assert!(matches!(fails(&PACK.replace("m.wasm", "../m.wasm"), none), ManifestError::ModuleFile(_)));
        assert!(matches!(fails(&format!("{PACK}extra: 1\n"), none), ManifestError::Malformed { .. }));
        assert!(matches!(fails(&PACK.replace("topics.yaml", "t.yaml"), none), ManifestError::Unreadable { .. }));
        assert!(matches!(fails(PACK, "topics: [{topic: a, module: x}]"), ManifestError::NoModule { .. }));
        assert!(matches!(fails(PACK, "topics: [{topic: a, input_schema: x.json}]"), ManifestError::Unreadable { .. }));
    }
}
