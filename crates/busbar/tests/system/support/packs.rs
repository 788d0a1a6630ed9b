//! Packs: a made-up one, topics without a module, and where those are that ship.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use busbar_rules::pack::{archive, gather};

/// Sleeps for `ms`, 0 to 10,000; the worker `sleeper` does it.
pub(crate) const SLEEP: &str = "job.test.sleep";

const PACK: &str = "\
apiVersion: busbar/v1
kind: Pack
metadata: {id: test, version: 0.1.0, title: Test, description: Topics of the system tests.}
modules: []
topics: topics.yaml
policy: policy.yaml
";

const TOPICS: &str = "\
topics:
  - topic: job.test.sleep
    pools: [default]
    input_schema: schemas/sleep.json
    retries: {max_attempts: 5, backoff_initial_ms: 50, backoff_max_ms: 500}
  - topic: job.test.unserved
    pools: [nobody]
  - topic: job.test.forbidden
    pools: [default]
";

/// `job.test.forbidden` is allowed by nothing.
const POLICY: &str = "\
version: '1'
rules:
  - {id: test-allow, match: {topics: ['job.test.sleep', 'job.test.unserved']}, decision: allow, reason: tests}
";

const SLEEP_SCHEMA: &str = r#"{
  "type": "object",
  "properties": {"ms": {"type": "integer", "minimum": 0, "maximum": 10000}},
  "required": ["ms"],
  "additionalProperties": false
}"#;

/// Writes the pack into a folder of packs.
pub(crate) fn write_test_pack(packs: &Path) {
    let dir = packs.join("test");
    fs::create_dir_all(dir.join("schemas")).unwrap();
    for (name, text) in
        [("pack.yaml", PACK), ("topics.yaml", TOPICS), ("policy.yaml", POLICY), ("schemas/sleep.json", SLEEP_SCHEMA)]
    {
        fs::write(dir.join(name), text).unwrap();
    }
}

/// A pack as it ships, with its modules.
pub(crate) fn shipped_pack(id: &str) -> PathBuf {
    // Beside the profile's folder, where `dev` looks as well.
    Path::new(env!("CARGO_BIN_EXE_busbar")).parent().unwrap().with_file_name("packs").join(id)
}

/// A pack in the source tree: one without modules can be loaded from there.
pub(crate) fn source_pack(id: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs").join(id)
}

/// The archive of a pack's folder.
pub(crate) fn archive_of(folder: &Path) -> Vec<u8> {
    let pack = gather(|file| match fs::read(folder.join(file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    });
    archive(pack.unwrap().files())
}
