//! The boundaries of the house, as a check: floors, outside systems, sources and the top level.
//!
//! `docs/architecture.md` says why. Each rule is a function from what was read to a list of broken rules, and has a test
//! on something made up that breaks it: a check that cannot fail would be worth nothing.

mod floors;
mod layout;
mod manifest;
mod outside;
mod sources;

use std::path::{Path, PathBuf};

use manifest::{Manifest, read_manifests};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository")
}

fn manifests() -> Vec<Manifest> {
    let manifests = read_manifests(&root());
    assert!(manifests.len() >= 10, "the crates were not found: {}", manifests.len());
    manifests
}

#[track_caller]
fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken rules:\n  {}\n", broken.len(), broken.join("\n  "));
}

#[test]
fn crates_use_only_lower_floors() {
    assert_none(&floors::broken(&manifests()));
}

#[test]
fn one_crate_per_outside_system() {
    assert_none(&outside::broken(&manifests()));
}

#[test]
fn manifests_follow_the_workspace() {
    assert_none(&manifest::broken(&manifests()));
}

#[test]
fn sources_are_introduced_named_and_pure_where_they_must_be() {
    assert_none(&sources::broken(&root()));
}

#[test]
fn the_top_level_is_as_described() {
    assert_none(&layout::broken(&root()));
}
