//! A cell of processes: both servers, every role apart, two schedulers, and workers. Whatever dies is started again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_rules::pack::{archive, gather};
use busbar_servers::{Companion, CompanionOptions, Stack, StackOptions, free_port};
use tokio::time::{Instant, sleep};
use ureq::Agent;

use crate::Outcome;
use crate::cap::Kind;

const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The key of an administrator of the tenant `default`.
pub(crate) const KEY: &str = "a key that is long enough for breaking things";

/// A running cell. Dropping it kills everything.
pub(crate) struct Cell {
    processes: BTreeMap<String, Companion>,
    stack: Stack,
    pub(crate) http: String,
    /// What the workers write down.
    pub(crate) file: PathBuf,
}

impl Cell {
    /// Starts it in a folder and waits until jobs can be submitted.
    pub(crate) async fn start(dir: &Path, workers: u16, slots: u16) -> Outcome<Self> {
        let stack = Stack::start(&StackOptions { supervised: true, ..StackOptions::new(dir.join("servers")) })?;
        let file = dir.join("executions");
        fs::write(&file, "")?;
        let http = format!("127.0.0.1:{}", free_port()?);
        let mut cell = Self { processes: BTreeMap::new(), stack, http: format!("http://{http}"), file };
        let kernel = format!("safety_kernel.addr=127.0.0.1:{}", free_port()?);
        cell.role(dir, "kernel", "safety-kernel", &[kernel.clone(), health()?])?;
        for number in 1..=2 {
            cell.role(dir, &format!("scheduler-{number}"), "scheduler", &[kernel.clone(), health()?])?;
        }
        let grpc = format!("grpc.listen=127.0.0.1:{}", free_port()?);
        let key = format!("gateway.bootstrap_key={KEY}");
        cell.role(dir, "gateway", "gateway", &[format!("http.listen={http}"), grpc, key])?;
        cell.install_pack().await?;
        for number in 1..=workers {
            cell.worker(dir, number, slots)?;
        }
        for kind in [Kind::Announced, Kind::Silent] {
            cell.cap_worker(dir, kind)?;
        }
        Ok(cell)
    }

    pub(crate) fn nats(&self) -> String {
        self.stack.nats.url()
    }

    pub(crate) fn redis(&self) -> String {
        self.stack.redis.url()
    }

    /// Everything that faults may befall.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.processes.keys().cloned().chain(["nats", "redis"].map(str::to_owned)).collect()
    }

    /// The id of a process, unless it is just being started again.
    pub(crate) fn pid(&self, target: &str) -> Option<u32> {
        match target {
            "nats" => self.stack.nats.pid(),
            "redis" => self.stack.redis.pid(),
            name => self.processes.get(name)?.pid(),
        }
    }

    fn role(&mut self, dir: &Path, name: &str, role: &str, settings: &[String]) -> Outcome<()> {
        let blobs = format!("file://{}", dir.join("blobs").display());
        let mut args = vec![role.to_owned(), "--blobs".into(), blobs, "--log".into(), "info".into()];
        args.extend(["--nats".to_owned(), self.nats(), "--redis".into(), self.redis()]);
        args.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
        self.start_process(dir, name, "busbar", beside("busbar")?, args)
    }

    fn worker(&mut self, dir: &Path, number: u16, slots: u16) -> Outcome<()> {
        let name = format!("worker-{number}");
        let mut args = vec!["worker".to_owned(), "--nats".into(), self.nats(), "--redis".into(), self.redis()];
        args.extend(["--id".to_owned(), name.clone(), "--max-parallel".into(), slots.to_string()]);
        args.extend(["--file".to_owned(), self.file.display().to_string()]);
        self.start_process(dir, &name, "worker", std::env::current_exe()?, args)
    }

    fn cap_worker(&mut self, dir: &Path, kind: Kind) -> Outcome<()> {
        let mut args = vec!["cap-worker".to_owned(), "--nats".into(), self.nats(), "--redis".into(), self.redis()];
        args.extend(["--kind".to_owned(), kind.name().into(), "--file".into(), self.file.display().to_string()]);
        self.start_process(dir, kind.name(), "worker", std::env::current_exe()?, args)
    }

    fn start_process(
        &mut self,
        dir: &Path,
        name: &str,
        program: &'static str,
        binary: PathBuf,
        args: Vec<String>,
    ) -> Outcome<()> {
        let args = args.into_iter().map(OsString::from).collect();
        let options = CompanionOptions { program, binary, args, env: None, dir: dir.join(name), supervised: true };
        self.processes.insert(name.to_owned(), Companion::start(options)?);
        Ok(())
    }

    /// The topics of the pack beside this.
    async fn install_pack(&self) -> Outcome<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/packs/chaos");
        let pack = gather(|file| match fs::read(folder.join(file)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        })?;
        let body = archive(pack.files());
        let url = format!("{}/api/v1/packs", self.http);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let (url, body) = (url.clone(), body.clone());
            let sent = move || Agent::new_with_defaults().post(url).header("X-API-Key", KEY).send(&body).map(drop);
            match tokio::task::spawn_blocking(sent).await? {
                Ok(()) => return Ok(()),
                // The roles are just starting.
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

fn health() -> Outcome<String> {
    Ok(format!("health.listen=127.0.0.1:{}", free_port()?))
}

/// A program of ours: examples are built into a folder below the others.
fn beside(name: &str) -> Outcome<PathBuf> {
    let own = std::env::current_exe()?.canonicalize()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("there is no program {name} beside {}; tools/chaos builds it", own.display()).into())
}
