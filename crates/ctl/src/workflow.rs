//! `ctl workflow`: workflows.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use busbar_api::{PAGE_ITEMS_MAX, SaveReply, WORKFLOW_BYTES_MAX, WorkflowList, WorkflowView};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{Output, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowCommand {
    /// List the newest versions of all workflows.
    List,
    /// Show a workflow with its document.
    #[command(disable_version_flag = true)]
    Show(ShowArgs),
    /// Save a document as the newest version of the workflow that it names.
    Save(SaveArgs),
    /// Take a workflow away, with all its versions.
    Delete(WorkflowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkflowArgs {
    /// The workflow.
    workflow_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The workflow.
    workflow_id: String,
    /// An older version.
    #[arg(long, value_name = "N")]
    version: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The document: YAML, or JSON where the name ends in `.json`.
    file: PathBuf,
}

pub(crate) fn run(command: &WorkflowCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        WorkflowCommand::List => list(client, output),
        WorkflowCommand::Show(args) => show(args, client, output),
        WorkflowCommand::Save(args) => save(&args.file, client, output),
        WorkflowCommand::Delete(args) => {
            client.delete(&path(&args.workflow_id))?;
            output.show(&serde_json::json!({ "id": args.workflow_id }), || format!("{} is gone", args.workflow_id))
        }
    }
}

fn path(workflow_id: &str) -> String {
    format!("/api/v1/workflows/{}", encode(workflow_id))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let mut list = WorkflowList { items: Vec::new(), next_cursor: None };
    loop {
        let cursor = list.next_cursor.as_deref().map(|cursor| format!("&cursor={}", encode(cursor))).unwrap_or_default();
        let page: WorkflowList = client.get(&format!("/api/v1/workflows?limit={PAGE_ITEMS_MAX}{cursor}"))?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
        if list.next_cursor.is_none() {
            break;
        }
    }
    output.show(&list, || table(&["ID", "VERSION", "TITLE", "PACK", "SAVED"], list.items.iter().map(row)))
}

fn row(view: &WorkflowView) -> Vec<String> {
    let pack = view.pack.clone().unwrap_or_default();
    vec![view.id.clone(), view.version.to_string(), view.title.clone(), pack, view.created_at.clone()]
}

fn show(args: &ShowArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let version = args.version.map(|version| format!("?version={version}")).unwrap_or_default();
    let view: WorkflowView = client.get(&format!("{}{version}", path(&args.workflow_id)))?;
    output.show(&view, || words(&view))
}

fn words(view: &WorkflowView) -> String {
    let mut text = pairs([
        ("id", view.id.clone()),
        ("version", format!("{} of {}", view.version, view.newest)),
        ("title", view.title.clone()),
        ("description", view.description.clone()),
        ("pack", view.pack.clone().unwrap_or_default()),
        ("saved", view.created_at.clone()),
        ("by", view.created_by.clone().unwrap_or_default()),
    ]);
    let document = view.document.as_ref().and_then(|document| serde_json::from_str::<Value>(document.get()).ok());
    if let Some(document) = document {
        let _ = write!(text, "\n{document:#}");
    }
    text
}

fn save(file: &Path, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply: SaveReply = client.post("/api/v1/workflows", &document(file)?)?;
    output.show(&reply, || format!("{}  version {}", reply.id, reply.version))
}

/// Reads a document as JSON, whichever of both it is written in.
fn document(file: &Path) -> Result<Value, Failure> {
    let wrong = |what: String| Failure::Usage(format!("{}: {what}", file.display()));
    let mut text = String::new();
    // One byte more than is taken, so that what is too long is told and not cut.
    let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    opened.take(WORKFLOW_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if text.len() > WORKFLOW_BYTES_MAX {
        return Err(wrong(format!("at most {WORKFLOW_BYTES_MAX} bytes are taken")));
    }
    if file.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text).map_err(|error| wrong(format!("no JSON: {error}")));
    }
    serde_saphyr::from_str(&text).map_err(|error| wrong(format!("no YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_yaml_or_json() {
        let dir = tempfile::tempdir().expect("a folder");
        let read = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
            document(&dir.path().join(name))
        };
        let yaml =
            "id: words\nsteps:\n  map:\n    type: for_each\n    items: \"${input.files}\"\n    max_parallel: 4\n    on: true\n";
        let expected = json!({"id": "words", "steps": {"map": {"type": "for_each", "items": "${input.files}", "max_parallel": 4, "on": true}}});
        assert_eq!(read("a.yaml", yaml).expect("YAML"), expected);
        assert_eq!(read("a.json", &expected.to_string()).expect("JSON"), expected);
        for (name, text) in [("b.yaml", "a: [1"), ("b.json", "{")] {
            assert!(matches!(read(name, text), Err(Failure::Usage(_))), "{name}");
        }
        let large = format!("a: {}", "x".repeat(WORKFLOW_BYTES_MAX));
        assert!(matches!(read("c.yaml", &large), Err(Failure::Usage(_))));
        assert!(matches!(document(&dir.path().join("none")), Err(Failure::Usage(_))));
    }
}
