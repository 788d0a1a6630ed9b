//! Packs as the cell keeps them: how far each is, what an installation changes, and what has to be done next.
//!
//! ```text
//!            install                     everything is in force
//!  nothing ───────────► applying ─────────────────────────────► active
//!     ▲                   │  ▲ ▲                                 │  │
//!     │   cannot be done  │  │ └────────── upgrade ──────────────┘  │ uninstall: its topics go at once
//!     └──── removing ◄────┘  └──────── removing ◄───────────────────┘
//!             │                cannot be done │
//!             └───── everything is gone ──────┴──► nothing
//! ```
//!
//! An upgrade that cannot be carried out goes back to what it was to replace. Whoever finds a pack that is not at rest goes on
//! with it from what its record says: there is no other memory.

mod change;
mod topics;

use std::collections::BTreeSet;

use busbar_protocol::busbar::{PackPart, PackPartKind, PackRecord, PackRelease, PackState};
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::prost::Message as _;
use busbar_rules::pack::Pack;

pub(crate) use change::{changes, kind};
pub(crate) use topics::{with_topics, without_topics};

/// The version of [`PackRecord`] that is written.
const RECORD_VERSION: u32 = 1;
/// How many modules of earlier releases are remembered; those beyond stay only as long as jobs name them.
const RETIRED_MAX: usize = 256;

/// A pack in the cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Installed {
    pub(crate) pack_id: String,
    /// What is installed; while applying, what is to be.
    pub(crate) release: PackRelease,
    pub(crate) phase: Phase,
    /// Modules of earlier releases, which live jobs may still name, or jobs that are being admitted right now.
    pub(crate) retired: Vec<String>,
}

/// How far a pack is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Active,
    /// It is being put in force. `undoing`: because something else could not be done.
    Applying {
        replaced: Option<PackRelease>,
        undoing: bool,
    },
    /// It is being taken away; its topics are gone already.
    Removing {
        undoing: bool,
    },
}

impl Installed {
    /// A pack that is to be put in force, over what is there.
    pub(crate) fn begin(pack_id: &str, present: Option<Self>, release: PackRelease) -> Self {
        let (replaced, retired) = present.map_or((None, Vec::new()), |present| (Some(present.release), present.retired));
        Self { pack_id: pack_id.to_owned(), release, phase: Phase::Applying { replaced, undoing: false }, retired }
    }

    /// The same, to be taken away.
    pub(crate) fn end(self) -> Self {
        Self { phase: Phase::Removing { undoing: false }, ..self }
    }

    /// Everything is in force.
    pub(crate) fn settle(mut self) -> Self {
        if let Phase::Applying { replaced: Some(replaced), .. } = &self.phase {
            let kept = modules(&self.release);
            self.retired.extend(modules(replaced).difference(&kept).cloned());
            self.retired.retain(|blob| !kept.contains(blob));
            self.retired.sort();
            self.retired.dedup();
            self.retired.truncate(RETIRED_MAX);
        }
        Self { phase: Phase::Active, ..self }
    }

    /// What to do instead, after what was begun turned out to be impossible; none where that was an undoing itself.
    pub(crate) fn undo(&self) -> Option<Self> {
        let (release, phase) = match &self.phase {
            Phase::Active | Phase::Applying { undoing: true, .. } | Phase::Removing { undoing: true } => return None,
            Phase::Applying { replaced: Some(replaced), .. } => {
                (replaced.clone(), Phase::Applying { replaced: Some(self.release.clone()), undoing: true })
            }
            Phase::Applying { replaced: None, .. } => (self.release.clone(), Phase::Removing { undoing: true }),
            Phase::Removing { undoing: false } => {
                (self.release.clone(), Phase::Applying { replaced: Some(self.release.clone()), undoing: true })
            }
        };
        Some(Self { pack_id: self.pack_id.clone(), release, phase, retired: self.retired.clone() })
    }

    /// In a word, for people.
    pub(crate) const fn state(&self) -> &'static str {
        match self.phase {
            Phase::Active => "active",
            Phase::Applying { .. } => "applying",
            Phase::Removing { .. } => "removing",
        }
    }

    pub(crate) fn to_record(&self) -> PackRecord {
        let (state, replaced, undoing) = match &self.phase {
            Phase::Active => (PackState::Active, None, false),
            Phase::Applying { replaced, undoing } => (PackState::Applying, replaced.clone(), *undoing),
            Phase::Removing { undoing } => (PackState::Removing, None, *undoing),
        };
        PackRecord {
            version: RECORD_VERSION,
            pack_id: self.pack_id.clone(),
            state: state.into(),
            release: Some(self.release.clone()),
            replaced,
            undoing,
            retired_blobs: self.retired.clone(),
        }
    }

    /// Reads a record; the text says why it cannot be one.
    pub(crate) fn from_record(record: PackRecord) -> Result<Self, &'static str> {
        let phase = match record.state() {
            PackState::Unspecified => return Err("an unknown state"),
            PackState::Active => Phase::Active,
            PackState::Applying => Phase::Applying { replaced: record.replaced, undoing: record.undoing },
            PackState::Removing => Phase::Removing { undoing: record.undoing },
        };
        let release = record.release.ok_or("no release")?;
        Ok(Self { pack_id: record.pack_id, release, phase, retired: record.retired_blobs })
    }
}

/// The bundle that holds a pack's policy.
pub(crate) fn bundle_id(pack_id: &str) -> String {
    format!("pack-{pack_id}")
}

/// What a pack brings, as its record keeps it.
pub(crate) fn release(pack: &Pack, archive: &Sha256Hex, installed_ms: u64, installed_by: &str) -> PackRelease {
    let part = |kind: PackPartKind, name: &str, sha256: String| PackPart { kind: kind.into(), name: name.to_owned(), sha256 };
    let digest = |bytes: &[u8]| Sha256Hex::of(bytes).to_string();
    let modules = pack.modules.iter().map(|module| part(PackPartKind::Module, &module.name, module.sha256.to_string()));
    let topics = pack.topics.iter().map(|topic| part(PackPartKind::Topic, &topic.topic, digest(&topic.encode_to_vec())));
    let policy = pack.policy.iter().map(|text| part(PackPartKind::Policy, &bundle_id(pack.id()), digest(text.as_bytes())));
    let workflows = pack.workflows.iter().map(|workflow| part(PackPartKind::Workflow, &workflow.id, digest(&workflow.document)));
    let metadata = &pack.manifest.metadata;
    PackRelease {
        pack_version: metadata.version.clone(),
        title: metadata.title.clone(),
        description: metadata.description.clone(),
        digest: pack.digest.to_string(),
        archive: archive.to_string(),
        parts: modules.chain(topics).chain(policy).chain(workflows).collect(),
        installed_ms,
        installed_by: installed_by.to_owned(),
    }
}

/// The names of a release's parts of one kind.
pub(crate) fn names(release: &PackRelease, kind: PackPartKind) -> BTreeSet<&str> {
    release.parts.iter().filter(|part| part.kind() == kind).map(|part| part.name.as_str()).collect()
}

fn modules(release: &PackRelease) -> BTreeSet<String> {
    release.parts.iter().filter(|part| part.kind() == PackPartKind::Module).map(|part| part.sha256.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, modules: &[&str]) -> PackRelease {
        let part = |sha256: &&str| PackPart {
            kind: PackPartKind::Module.into(),
            name: format!("m-{sha256}"),
            sha256: (*sha256).to_owned(),
        };
        let (pack_version, archive) = (version.to_owned(), format!("archive-{version}"));
        PackRelease { pack_version, archive, parts: modules.iter().map(part).collect(), ..PackRelease::default() }
    }

    fn phases() -> Vec<Installed> {
        let first = Installed::begin("a", None, release("1", &["x", "y"]));
        let active = first.clone().settle();
        let upgrade = Installed::begin("a", Some(active.clone()), release("2", &["y", "z"]));
        vec![first, active.clone(), upgrade, active.end()]
    }

    #[test]
    fn a_record_reads_back() {
        let undone = phases().into_iter().filter_map(|pack| pack.undo());
        for pack in phases().into_iter().chain(undone) {
            assert_eq!(Installed::from_record(pack.to_record()), Ok(pack));
        }
        assert!(Installed::from_record(PackRecord::default()).is_err());
    }

    #[test]
    fn what_cannot_be_done_is_taken_back_once() {
        let [first, active, upgrade, removal] = <[Installed; 4]>::try_from(phases()).expect("four");
        let undone = first.undo().expect("an undoing");
        assert_eq!(undone.phase, Phase::Removing { undoing: true });
        assert_eq!(undone.undo(), None);
        assert_eq!(active.undo(), None);
        let undone = upgrade.undo().expect("an undoing");
        assert_eq!(undone.undo(), None);
        assert_eq!(undone.settle().release, active.release);
        let undone = removal.undo().expect("an undoing");
        assert_eq!(undone.settle(), active);
    }

    #[test]
    fn modules_of_earlier_releases_are_remembered_until_they_are_used_again() {
        let upgraded = phases().remove(2).settle();
        assert_eq!(upgraded.retired, ["x"]);
        let back = Installed::begin("a", Some(upgraded), release("1", &["x", "y"])).settle();
        assert_eq!(back.retired, ["z"]);
    }
}
