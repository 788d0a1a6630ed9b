//! `pack.yaml`: a closed document.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::names::{check_file, is_pack_id};
use super::{Broken, yaml};

/// The manifest's name.
pub const MANIFEST: &str = "pack.yaml";
const MODULES_MAX: usize = 256;
const WORKFLOWS_MAX: usize = 100;
const SCHEMAS_MAX: usize = 1000;

/// `pack.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// `busbar/v1`.
    pub api_version: String,
    /// `Pack`.
    pub kind: String,
    /// What the pack is.
    pub metadata: Metadata,
    /// What it needs.
    #[serde(default)]
    pub compatibility: Compatibility,
    /// The wasm modules that its topics name.
    #[serde(default)]
    pub modules: Vec<ModuleFile>,
    /// The file with its topics.
    pub topics: Option<String>,
    /// The file with its policy.
    pub policy: Option<String>,
    /// The files with its workflows, one in each.
    #[serde(default)]
    pub workflows: Vec<String>,
    /// Files with JSON Schemas. Those that topics name need not be listed.
    #[serde(default)]
    pub schemas: Vec<String>,
}

/// What a pack is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Names the pack: lower-case letters, digits and `-`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    #[serde(default)]
    pub title: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
}

/// What a pack needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Compatibility {
    /// The oldest Busbar that it works with, `1.2.3`.
    pub min_busbar: Option<String>,
}

/// A wasm module of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleFile {
    /// What topics call it.
    pub name: String,
    /// Where it stands in the pack.
    pub file: String,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`Broken`] names the first rule that does not hold.
    pub fn parse(text: &str) -> Result<Self, Broken> {
        let manifest: Self = yaml(MANIFEST, text)?;
        manifest.check_itself()?;
        manifest.check_files()?;
        Ok(manifest)
    }

    /// Refuses a pack that needs a newer Busbar than this one.
    ///
    /// # Errors
    /// [`Broken`] where the version of Busbar is below what the manifest demands.
    pub fn check_compatible(&self, busbar: &str) -> Result<(), Broken> {
        let Some(needed) = &self.compatibility.min_busbar else { return Ok(()) };
        if release(needed) <= release(busbar) {
            return Ok(());
        }
        let rule = format!("the pack needs Busbar {needed} or newer, and this is {busbar}");
        Err(Broken::new("pack.yaml: compatibility.minBusbar", rule))
    }

    fn check_itself(&self) -> Result<(), Broken> {
        let Metadata { id, version, title, description } = &self.metadata;
        demand(self.api_version == "busbar/v1", "apiVersion", "must be busbar/v1")?;
        demand(self.kind == "Pack", "kind", "must be Pack")?;
        demand(is_pack_id(id), "metadata.id", "must be 1 to 64 lower-case letters, digits and `-`")?;
        demand(is_version(version), "metadata.version", "must be 1 to 64 letters, digits, `.`, `-` and `+`")?;
        demand(title.len() <= 256, "metadata.title", "has at most 256 bytes")?;
        demand(description.len() <= 4096, "metadata.description", "has at most 4,096 bytes")?;
        let needed = self.compatibility.min_busbar.as_deref();
        demand(needed.is_none_or(|needed| release(needed).is_some()), "compatibility.minBusbar", "must be like 1.2.3")
    }

    fn check_files(&self) -> Result<(), Broken> {
        let place = |place: String| format!("pack.yaml: {place}");
        for (member, file) in [("topics", &self.topics), ("policy", &self.policy)] {
            file.as_deref().map_or(Ok(()), |file| in_pack(&place(member.to_owned()), file))?;
        }
        demand(self.modules.len() <= MODULES_MAX, "modules", "at most 256")?;
        demand(self.workflows.len() <= WORKFLOWS_MAX, "workflows", "at most 100")?;
        demand(self.schemas.len() <= SCHEMAS_MAX, "schemas", "at most 1,000")?;
        for (member, list) in [("workflows", &self.workflows), ("schemas", &self.schemas)] {
            list.iter().try_for_each(|file| in_pack(&place(format!("{member}: {file}")), file))?;
            let different: BTreeSet<&String> = list.iter().collect();
            demand(different.len() == list.len(), member, "each file is there once")?;
        }
        let mut names = BTreeSet::new();
        for module in &self.modules {
            let member = format!("modules: {}", module.name);
            demand(!module.name.is_empty() && names.insert(&module.name), &member, "must have a name of its own")?;
            in_pack(&place(member), &module.file)?;
        }
        Ok(())
    }
}

fn demand(holds: bool, place: &str, rule: &str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken::new(format!("pack.yaml: {place}"), rule)) }
}

pub(super) fn in_pack(place: &str, file: &str) -> Result<(), Broken> {
    check_file(file).map_err(|rule| Broken::new(place, rule))
}

fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
}

/// The three numbers of a version.
fn release(version: &str) -> Option<[u32; 3]> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    let release = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(release)
}
