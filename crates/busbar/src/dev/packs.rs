//! Which packs `dev` installs, and how: over HTTP with its own key, as anybody would.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use busbar_api::{PackReply, Problem};
use busbar_protocol::codes::Code;
use busbar_rules::pack::{GatherError, Pack, archive, gather, unpack};
use tokio::time::{Instant, sleep};

use super::error::DevError;
use super::http::{self, Request};
use super::program_dir;

/// How long everybody who is needed may take to be there.
const WITHIN: Duration = Duration::from_secs(60);
const ONE_ANSWER: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
const ENDING: &str = "tgz";

/// A pack that is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    name: String,
    archive: Vec<u8>,
    /// The pools of its topics that have a module: those that `worker` can serve. Not of topics with replication, which are done by workers of several owners,
    /// and one of ours is none of them.
    pools: BTreeSet<String>,
}

/// The pools of topics with a module.
pub(crate) fn pools(packs: &[Packed]) -> BTreeSet<String> {
    packs.iter().flat_map(|pack| pack.pools.iter().cloned()).collect()
}

/// The packs of the folder that was named, else of the one that stands beside the folder of this program: in a source tree
/// `target/packs`, in an installation `packs`.
pub(crate) fn find(named: Option<&Path>) -> Result<Vec<Packed>, DevError> {
    if let Some(path) = named {
        return if path.is_dir() { read(path) } else { Err(DevError::NoPacks { path: path.to_owned() }) };
    }
    match program_dir()?.parent().map(|parent| parent.join("packs")).filter(|packs| packs.is_dir()) {
        Some(beside) => read(&beside),
        None => {
            tracing::warn!("no packs are installed; `cargo xtask packs` builds those that ship");
            Ok(Vec::new())
        }
    }
}

/// Folders with a `pack.yaml`, and archives that have no such folder beside them. By name.
fn read(dir: &Path) -> Result<Vec<Packed>, DevError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(DevError::file("list", dir))? {
        paths.push(entry.map_err(DevError::file("list", dir))?.path());
    }
    let is_folder = |path: &Path| path.join("pack.yaml").is_file();
    let is_archive =
        |path: &Path| path.extension().is_some_and(|ending| ending == ENDING) && !is_folder(&path.with_extension(""));
    paths.retain(|path| is_folder(path) || is_archive(path));
    paths.sort();
    paths.iter().map(|path| packed(path)).collect()
}

fn packed(path: &Path) -> Result<Packed, DevError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if path.is_dir() {
        let pack = of_folder(path, &name)?;
        return Ok(Packed { name, archive: archive(pack.files()), pools: pools_of(&pack) });
    }
    let archive = fs::read(path).map_err(DevError::file("read", path))?;
    // What is wrong with it, the gateway will tell.
    let pools = unpack(&archive).and_then(Pack::open).map(|pack| pools_of(&pack)).unwrap_or_default();
    Ok(Packed { name, archive, pools })
}

fn pools_of(pack: &Pack) -> BTreeSet<String> {
    let ours = pack.topics.iter().filter(|topic| !topic.module.is_empty() && topic.replication.is_none());
    ours.flat_map(|topic| topic.pools.iter().cloned()).collect()
}

fn of_folder(folder: &Path, name: &str) -> Result<Pack, DevError> {
    let read = |file: &str| match fs::read(folder.join(file)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    gather(read).map_err(|error| match error {
        GatherError::Broken(broken) => {
            DevError::Pack { name: name.to_owned(), code: Code::PackInvalid.to_string(), detail: broken.to_string() }
        }
        GatherError::Unreadable { file, source } => DevError::File { doing: "read", path: folder.join(file), source },
    })
}

/// Installs the packs one after another, replacing other releases of them, and tells what became of each.
pub(crate) async fn install(gateway: SocketAddr, key: &str, packs: &[Packed]) -> Result<Vec<String>, DevError> {
    let mut told = Vec::with_capacity(packs.len());
    for pack in packs {
        told.push(install_one(gateway, key, pack).await?);
    }
    Ok(told)
}

async fn install_one(gateway: SocketAddr, key: &str, pack: &Packed) -> Result<String, DevError> {
    let request = Request { method: "POST", path: "/api/v1/packs?upgrade=true", key, body: &pack.archive };
    let failed = |code: &str, detail: String| DevError::Pack { name: pack.name.clone(), code: code.to_owned(), detail };
    let deadline = Instant::now() + WITHIN;
    loop {
        let (code, detail) = match http::ask(gateway, request, ONE_ANSWER).await {
            Ok(answer) if answer.status < 300 => {
                let reply: PackReply =
                    serde_json::from_slice(&answer.body).map_err(|error| failed("internal", error.to_string()))?;
                tracing::info!(pack = reply.id, version = reply.version, outcome = %reply.outcome, "a pack");
                return Ok(format!("{} {}", reply.id, reply.version));
            }
            Ok(answer) => {
                let problem: Problem =
                    serde_json::from_slice(&answer.body).map_err(|error| failed("internal", error.to_string()))?;
                let is_used = [Code::PackInUse, Code::WorkflowInUse].iter().any(|code| problem.code == code.as_str());
                if is_used {
                    tracing::warn!(pack = pack.name, %problem, "the pack stays as it was installed before");
                    return Ok(format!("{} (as it was)", pack.name));
                }
                if answer.status < 500 {
                    return Err(failed(&problem.code, problem.detail));
                }
                (problem.code, problem.detail)
            }
            Err(error) => ("unreachable".to_owned(), error.to_string()),
        };
        // Whoever is needed is still on its way.
        if Instant::now() > deadline {
            return Err(failed(&code, detail));
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, file: &str, text: &str) {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn folders_and_lone_archives_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let manifest = "apiVersion: busbar/v1\nkind: Pack\nmetadata: {id: a, version: '1'}\ntopics: t.yaml\n";
        write(dir.path(), "a/pack.yaml", manifest);
        write(dir.path(), "a/t.yaml", "topics: [{topic: job.a.x, pools: [p]}]");
        write(dir.path(), "a.tgz", "built from the folder");
        write(dir.path(), "b.tgz", "alone");
        write(dir.path(), "c/notes.txt", "no pack");
        let packs = find(Some(dir.path())).expect("good");
        assert_eq!(packs.iter().map(|pack| pack.name.as_str()).collect::<Vec<_>>(), ["a", "b.tgz"]);
        assert_eq!(packs[1].archive, b"alone");
        assert_eq!(pools(&packs), BTreeSet::new(), "no worker of ours can serve what has no module");
        write(dir.path(), "a/pack.yaml", &format!("{manifest}modules: [{{name: m, file: m.wasm}}]\n"));
        write(dir.path(), "a/m.wasm", "\0asm\u{1}\0\0\0");
        write(dir.path(), "a/t.yaml", "topics: [{topic: job.a.x, pools: [p, q], module: m}]");
        assert_eq!(pools(&find(Some(dir.path())).expect("good")), ["p", "q"].map(str::to_owned).into());
        let others = "{topic: job.a.y, pools: [r], module: m, replication: {quorum: 2}}";
        write(dir.path(), "a/t.yaml", &format!("topics: [{{topic: job.a.x, pools: [p], module: m}}, {others}]"));
        assert_eq!(pools(&find(Some(dir.path())).expect("good")), ["p".to_owned()].into(), "what several owners do is not ours");
        write(dir.path(), "a/t.yaml", "topics: [{topic: job.b.x, pools: [p]}]");
        let error = find(Some(dir.path())).expect_err("a foreign topic").to_string();
        assert!(error.contains("pack_invalid") && error.contains("job.b.x"), "{error}");
        assert!(matches!(find(Some(&dir.path().join("none"))), Err(DevError::NoPacks { .. })));
    }
}
