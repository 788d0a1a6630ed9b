//! What stands about a peer in `tools/peers/<peer>/peer.json`, and where its packages were put.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Outcome;

/// A peer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Packages of Debian, for a peer that lives there.
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    /// The adapter, started in the peer's folder; one that is built is named by its program.
    pub(crate) command: Vec<String>,
    pub(crate) store: StoreKind,
    /// How a client gets a result.
    pub(crate) result: String,
    pub(crate) settings: Vec<Setting>,
}

/// How its packages are installed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Python,
    Node,
    Rust,
    Debian,
}

/// Where it keeps its jobs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    Redis,
    Postgres,
    /// Nowhere but in memory.
    None,
}

/// One way to run it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// The setting in words, as it is printed.
    pub(crate) says: String,
    /// What the adapter is told.
    pub(crate) options: Value,
}

/// A peer that is there.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) manifest: Manifest,
    /// The folder of its manifest and its adapter.
    pub(crate) folder: PathBuf,
    /// Where its packages are, or its adapter if that is built; empty if the system has them.
    pub(crate) packages: PathBuf,
}

/// The peers that are there, and why others are not.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) there: Vec<Peer>,
    pub(crate) skipped: BTreeMap<String, String>,
}

impl Peers {
    /// Reads the list that `tools/bench` wrote: a line for each peer, `folder`, `packages` and `why it is skipped` between tabs.
    pub(crate) fn read(folder: &Path, list: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(list).map_err(|error| format!("{}: {error}", list.display()))?;
        let mut peers = Self::default();
        for line in text.lines() {
            let mut cells = line.split('\t');
            let (Some(name), Some(packages), Some(skipped)) = (cells.next(), cells.next(), cells.next()) else {
                return Err(format!("{}: an odd line: {line}", list.display()).into());
            };
            let folder = folder.join(name);
            let manifest = manifest(&folder)?;
            if skipped.is_empty() {
                peers.there.push(Peer { manifest, folder, packages: packages.into() });
            } else {
                peers.skipped.insert(manifest.name, skipped.to_owned());
            }
        }
        Ok(peers)
    }
}

fn manifest(folder: &Path) -> Outcome<Manifest> {
    let file = folder.join("peer.json");
    let text = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder of all manifests.
    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/peers")
    }

    #[test]
    fn every_manifest_is_well_formed_and_has_three_settings() {
        let folders = fs::read_dir(folder()).expect("tools/peers").map(|entry| entry.expect("an entry").path());
        let manifests: Vec<Manifest> =
            folders.filter(|path| path.join("peer.json").exists()).map(|path| manifest(&path).expect("well formed")).collect();
        assert!(manifests.len() >= 6, "{manifests:?}");
        for manifest in manifests {
            assert_eq!(manifest.settings.len(), 3, "{}", manifest.name);
            assert_eq!(manifest.packages.is_empty(), manifest.kind != Kind::Debian, "{}", manifest.name);
        }
    }

    #[test]
    fn the_list_tells_what_is_there_and_what_is_not() {
        let temp = tempfile::tempdir().expect("tempdir");
        let list = temp.path().join("list");
        fs::write(&list, "celery\t/somewhere\t\nrq\t\tPyPI does not answer\n").expect("written");
        let peers = Peers::read(&folder(), &list).expect("read");
        assert_eq!(peers.there.iter().map(|peer| peer.packages.as_path()).collect::<Vec<_>>(), [Path::new("/somewhere")]);
        assert_eq!(peers.skipped, BTreeMap::from([("RQ".to_owned(), "PyPI does not answer".to_owned())]));
    }
}
