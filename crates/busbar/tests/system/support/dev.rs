//! A real `busbar dev` in a folder of its own.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use super::{Client, built, signal, until, write_test_pack};

/// The server binary, without whatever the environment of the tests says about servers and configuration.
pub(crate) fn program() -> Command {
    program_at(Path::new(env!("CARGO_BIN_EXE_busbar")))
}

fn program_at(path: &Path) -> Command {
    let mut command = Command::new(path);
    let ours = |name: &str| name.starts_with("BUSBAR_") && !matches!(name, "BUSBAR_NATS_SERVER" | "BUSBAR_REDIS_SERVER");
    for (name, _) in std::env::vars() {
        if ours(&name) || busbar_service::config::FAMILIAR.iter().any(|(familiar, _)| *familiar == name) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The content of `endpoints.json`. Every member is there, also where it is null.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoints {
    pub(crate) http: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) grpc: Option<String>,
    pub(crate) nats: String,
    pub(crate) redis: String,
    pub(crate) blobs: String,
    pub(crate) api_key: String,
    pub(crate) pid: u32,
}

/// What may differ between stacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct DevOptions {
    /// Further arguments.
    pub(crate) args: Vec<String>,
    /// Environment variables.
    pub(crate) env: Vec<(String, String)>,
    /// How many workers `dev` starts itself.
    pub(crate) workers: u16,
    /// The server binary, where it is a copy.
    pub(crate) program: Option<PathBuf>,
    /// Folders of packs beside the one of the tests.
    pub(crate) packs: Vec<PathBuf>,
}

/// A running stack, without workers of its own unless told otherwise. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Dev {
    child: Child,
    pub(crate) endpoints: Endpoints,
    options: DevOptions,
    temp: TempDir,
}

impl Dev {
    pub(crate) fn start() -> Self {
        Self::start_with(DevOptions::default())
    }

    pub(crate) fn start_with(options: DevOptions) -> Self {
        let temp = tempfile::Builder::new().prefix("busbar-system-").tempdir().unwrap();
        let packs = temp.path().join("packs");
        write_test_pack(&packs);
        for pack in &options.packs {
            assert!(pack.join("pack.yaml").is_file(), "{} is no pack; cargo xtask packs builds those that ship", pack.display());
            symlink(pack, packs.join(pack.file_name().unwrap())).unwrap();
        }
        if options.workers > 0 && options.program.is_none() {
            // `dev` looks for it beside itself.
            built("worker");
        }
        let mut child = spawn(temp.path(), &options);
        let endpoints = when_ready(&mut child, temp.path());
        Self { child, endpoints, options, temp }
    }

    /// A folder that goes with the stack: tests may put their files there.
    pub(crate) fn temp(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        data_dir(self.temp.path())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.endpoints.http, Some(&self.endpoints.api_key))
    }

    /// A client of another tenant, with a key of its own.
    pub(crate) fn client_of(&self, tenant: &str) -> Client {
        let mut create = program();
        create.args(["key", "create", "--name", tenant, "--tenant", tenant, "--role", "operator"]);
        let made = create.env("REDIS_URL", &self.endpoints.redis).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Client::new(&self.endpoints.http, Some(String::from_utf8_lossy(&made.stdout).trim()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of one of its servers, `nats` or `redis`.
    pub(crate) fn server_pid(&self, server: &str) -> u32 {
        let file = self.data_dir().join(format!("{server}/{server}-server.pid"));
        until("a pid file", || fs::read_to_string(&file).ok()?.trim().parse().ok())
    }

    /// The process id of a worker that it started.
    pub(crate) fn worker_pid(&self, id: &str) -> u32 {
        let file = self.data_dir().join(format!("workers/{id}/worker.pid"));
        until("the worker's pid file", || fs::read_to_string(&file).ok()?.trim().parse().ok())
    }

    /// Where it keeps the blob with this digest, given in hexadecimal.
    pub(crate) fn blob(&self, sha256: &str) -> PathBuf {
        let folder = self.endpoints.blobs.strip_prefix("file://").expect("blobs in files");
        Path::new(folder).join("sha256").join(&sha256[..2]).join(&sha256[2..])
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same folder after its end.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.temp.path(), &self.options);
        self.endpoints = when_ready(&mut self.child, self.temp.path());
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.pid(), with);
        until("dev ends", || self.child.try_wait().unwrap())
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        said(self.temp.path())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already; its children die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.said().as_bytes());
        }
    }
}

fn data_dir(temp: &Path) -> PathBuf {
    temp.join("data")
}

fn said(temp: &Path) -> String {
    fs::read_to_string(temp.join("dev.log")).unwrap_or_default()
}

fn spawn(temp: &Path, options: &DevOptions) -> Child {
    let log = File::options().create(true).append(true).open(temp.join("dev.log")).unwrap();
    let mut command = options.program.as_deref().map_or_else(program, program_at);
    command
        .args(["dev", "--workers", &options.workers.to_string(), "--data-dir"])
        .arg(data_dir(temp))
        .arg("--packs")
        .arg(temp.join("packs"))
        .args(&options.args)
        .envs(options.env.iter().cloned())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The endpoints of this very process: a killed predecessor may have left its own.
fn when_ready(child: &mut Child, temp: &Path) -> Endpoints {
    let file = data_dir(temp).join("endpoints.json");
    until("endpoints.json", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("dev ended before it was ready ({status}):\n{}", said(temp));
        }
        let endpoints: Endpoints = serde_json::from_slice(&fs::read(&file).ok()?).unwrap();
        (endpoints.pid == child.id()).then_some(endpoints)
    })
}
