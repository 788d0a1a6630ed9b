//! What stands at the top of the repository: exactly what the design names, and dotfiles.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What must be there.
const NEEDED: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "config",
    "crates",
    "docs",
    "packs",
    "proto",
    "rust-toolchain.toml",
    "sdk",
    "tools",
];

/// What may be there: it comes with the issue that fills it, or is built.
const PERMITTED: &[&str] = &["deploy", "docker-compose.yml", "target"];

pub(crate) fn broken(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).expect("the repository");
    let names: BTreeSet<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    let strange = names
        .iter()
        .filter(|name| !name.starts_with('.') && !NEEDED.contains(&name.as_str()) && !PERMITTED.contains(&name.as_str()))
        .map(|name| format!("{name}: it does not belong at the top level"));
    let absent = NEEDED.iter().filter(|name| !names.contains(**name)).map(|name| format!("{name}: it is missing"));
    strange.chain(absent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_strange_and_what_is_missing_is_told() {
        let temp = tempfile::tempdir().expect("tempdir");
        for name in NEEDED.iter().chain(&[".github", "target"]) {
            fs::create_dir(temp.path().join(name)).expect("made");
        }
        assert_eq!(broken(temp.path()), Vec::<String>::new());
        fs::create_dir(temp.path().join("scripts")).expect("made");
        fs::remove_dir(temp.path().join("sdk")).expect("removed");
        assert_eq!(broken(temp.path()), ["scripts: it does not belong at the top level", "sdk: it is missing"]);
    }
}
