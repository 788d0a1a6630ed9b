//! The guides in `docs/guides`, done as they say: every file is written, every command is run, what it shows is compared.
//!
//! `blocks.rs` says how the blocks of a guide are marked. A guide runs in one shell in an empty folder, beside a link `busbar`
//! to this repository, with the built programs on its path and a state folder of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

mod blocks;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};

use blocks::{Block, blocks};
use shell::Shell;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Does what a guide says.
fn follow(guide: &str) {
    let repository = repository();
    let text = fs::read_to_string(repository.join("docs/guides").join(guide)).unwrap();
    let blocks = blocks(&text);
    assert!(blocks.iter().any(|block| matches!(block, Block::Run { .. })), "{guide} runs nothing");
    let mut shell = Shell::start(&repository);
    for block in blocks {
        shell.follow(&block);
    }
    shell.end();
}

#[test]
fn write_a_worker() {
    follow("write-a-worker.md");
}

#[test]
fn write_a_guest() {
    follow("write-a-guest.md");
}

#[test]
fn write_a_policy() {
    follow("write-a-policy.md");
}

#[test]
fn write_a_workflow() {
    follow("write-a-workflow.md");
}

/// A guide that nobody follows would soon be wrong.
#[test]
fn every_guide_is_followed() {
    let this = include_str!("main.rs");
    for entry in fs::read_dir(repository().join("docs/guides")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let runs = name.starts_with("write-a-");
        assert_eq!(this.contains(&format!("follow(\"{name}\")")), runs, "{name}");
    }
}
