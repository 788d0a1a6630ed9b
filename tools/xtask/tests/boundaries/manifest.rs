//! What a crate's manifest says, and the rules for its form.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// A crate by the name of its folder, with what it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The last part of its path: `scheduler` for `crates/scheduler`.
    pub(crate) folder: String,
    /// The name of its package.
    pub(crate) package: String,
    /// What it is built from, build scripts included.
    pub(crate) dependencies: BTreeSet<String>,
    /// What its tests and examples use besides.
    pub(crate) dev_dependencies: BTreeSet<String>,
    /// What breaks the rules for its form.
    misshapen: Vec<String>,
}

/// What a manifest must take from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "repository", "publish"];

impl Manifest {
    pub(crate) fn parse(folder: &str, text: &str) -> Self {
        let table: Table = text.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
        let package = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let mut dependencies = dependency_names(&table, "dependencies");
        dependencies.append(&mut dependency_names(&table, "build-dependencies"));
        Self {
            folder: folder.to_owned(),
            package: package.unwrap_or_default().to_owned(),
            dependencies,
            dev_dependencies: dependency_names(&table, "dev-dependencies"),
            misshapen: misshapen(folder, &table),
        }
    }

    /// Our crates among the names, by folder.
    pub(crate) fn ours(names: &BTreeSet<String>) -> impl Iterator<Item = &str> {
        names.iter().filter_map(|name| name.strip_prefix("busbar-").or((name == "busbar" || name == "xtask").then_some(name)))
    }
}

/// The manifests of every member of the workspace.
pub(crate) fn read_manifests(root: &Path) -> Vec<Manifest> {
    let mut folders: Vec<_> = fs::read_dir(root.join("crates"))
        .expect("crates/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    folders.extend([root.join("sdk"), root.join("tools/xtask")]);
    folders.sort();
    folders
        .iter()
        .map(|path| {
            let folder = path.file_name().expect("a name").to_string_lossy();
            let text = fs::read_to_string(path.join("Cargo.toml")).expect("a manifest");
            Manifest::parse(&folder, &text)
        })
        .collect()
}

/// The tables of this kind, those for one target only included.
fn dependency_tables<'a>(table: &'a Table, kind: &'a str) -> impl Iterator<Item = &'a Table> {
    let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let of_targets = targets.filter_map(move |target| target.get(kind)?.as_table());
    table.get(kind).and_then(Value::as_table).into_iter().chain(of_targets)
}

/// The packages of this kind; a renamed one counts under its real name.
fn dependency_names(table: &Table, kind: &str) -> BTreeSet<String> {
    let entries = dependency_tables(table, kind).flatten();
    entries.map(|(name, entry)| entry.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()).collect()
}

pub(crate) fn broken(manifests: &[Manifest]) -> Vec<String> {
    manifests.iter().flat_map(|manifest| manifest.misshapen.clone()).collect()
}

fn misshapen(folder: &str, table: &Table) -> Vec<String> {
    let mut broken = Vec::new();
    let empty = Table::new();
    let package = table.get("package").and_then(Value::as_table).unwrap_or(&empty);
    let wanted = match folder {
        "busbar" | "xtask" => folder.to_owned(),
        _ => format!("busbar-{folder}"),
    };
    if package.get("name").and_then(Value::as_str) != Some(&wanted) {
        broken.push(format!("{folder}: its package must be called {wanted}"));
    }
    if package.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
        broken.push(format!("{folder}: it has no description"));
    }
    for key in INHERITED.iter().filter(|key| !from_workspace(package.get(**key))) {
        broken.push(format!("{folder}: {key} must come from the workspace"));
    }
    if !from_workspace(table.get("lints")) {
        broken.push(format!("{folder}: its lints must come from the workspace"));
    }
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let entries = dependency_tables(table, kind).flatten();
        for (name, _) in entries.filter(|(_, entry)| !from_workspace(Some(entry))) {
            broken.push(format!("{folder}: the version of {name} must come from the workspace"));
        }
    }
    broken
}

fn from_workspace(value: Option<&Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [package]
        name = "busbar-store"
        description = "Keeps."
        version.workspace = true
        edition.workspace = true
        rust-version.workspace = true
        license.workspace = true
        repository.workspace = true
        publish.workspace = true
        [dependencies]
        fred.workspace = true
        [lints]
        workspace = true
    "#;

    #[test]
    fn a_good_manifest_breaks_nothing() {
        assert_eq!(Manifest::parse("store", GOOD).misshapen, Vec::<String>::new());
    }

    #[test]
    fn each_wrong_line_is_told() {
        let cases = [
            ("busbar-store", "store", "must be called"),
            ("\"Keeps.\"", "\"\"", "no description"),
            ("publish.workspace", "publish", "publish must come"),
            ("fred.workspace = true", "fred = \"10\"", "version of fred"),
            ("[lints]\n        workspace = true", "", "lints"),
        ];
        for (from, to, expected) in cases {
            let text = GOOD.replace(from, to).replace("publish = true", "publish = false");
            let told = Manifest::parse("store", &text).misshapen;
            assert!(told.len() == 1 && told[0].contains(expected), "{to}: {told:?}");
        }
    }

    #[test]
    fn renamed_and_target_dependencies_are_seen_under_their_own_names() {
        let text = r#"
            [dependencies]
            client = { package = "async-nats", version = "1" }
            [target.'cfg(unix)'.dependencies]
            fred = "10"
            [build-dependencies]
            prost-build = "1"
        "#;
        let names = Manifest::parse("x", text).dependencies;
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["async-nats", "fred", "prost-build"]);
    }
}
