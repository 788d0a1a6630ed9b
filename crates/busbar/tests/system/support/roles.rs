//! The roles as processes of their own, as in production.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use busbar_gateway::{NewKey, Role, install_key};
use busbar_servers::{Stack, free_port};
use busbar_store::{Store, StoreConfig};
use rustix::process::Signal;

use super::{Client, Endpoints, Truth, archive_of, program, signal, until, write_test_pack};

const KEY: &str = "a key that is long enough for a test of roles";

/// A role that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct RoleProcess(Child);

impl RoleProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.pid(), with);
        until("the role ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A kernel, schedulers and gateways on servers of their own. Dropping it kills everything.
#[derive(Debug)]
pub(crate) struct Roles {
    pub(crate) kernel: RoleProcess,
    pub(crate) schedulers: Vec<RoleProcess>,
    pub(crate) gateways: Vec<RoleProcess>,
    /// Where each gateway is.
    pub(crate) at: Vec<Endpoints>,
    pub(crate) stack: Stack,
    dir: PathBuf,
}

impl Roles {
    /// Starts so many of each, waits until they are ready, and installs the pack of the tests and further ones.
    pub(crate) fn start(schedulers: usize, gateways: usize, packs: &[PathBuf]) -> Self {
        let stack = Stack::start_temp().unwrap();
        let nats = stack.nats.url();
        Self::start_on(stack, &|_| nats.clone(), schedulers, gateways, packs)
    }

    /// The same, with the address of NATS that each role is told.
    pub(crate) fn start_on(
        stack: Stack,
        nats: &dyn Fn(&str) -> String,
        schedulers: usize,
        gateways: usize,
        packs: &[PathBuf],
    ) -> Self {
        let dir = stack.temp_dir().unwrap().join("roles");
        write_test_pack(&dir.join("packs"));
        install_our_key(&stack.redis.url());
        let address = || format!("127.0.0.1:{}", free_port().unwrap());
        let (kernel_at, mut health) = (address(), vec![address()]);
        let to_kernel = format!("safety_kernel.addr={kernel_at}");
        let start = |role: &str, settings: &[String]| start_role(role, &nats(role), &stack, &dir, settings);
        let kernel = start("safety-kernel", &[to_kernel.clone(), format!("health.listen={}", health[0])]);
        let mut running = Vec::new();
        for _ in 0..schedulers {
            health.push(address());
            let listen = format!("health.listen={}", health[health.len() - 1]);
            running.push(start("scheduler", &[to_kernel.clone(), listen]));
        }
        let (mut at, mut doors) = (Vec::new(), Vec::new());
        for _ in 0..gateways {
            let (http, grpc) = (address(), address());
            doors.push(start("gateway", &[format!("http.listen={http}"), format!("grpc.listen={grpc}")]));
            at.push(endpoints(nats("application"), &stack, &dir, &http, grpc));
            health.push(http);
        }
        health.iter().for_each(|address| ready(address));
        let roles = Self { kernel, schedulers: running, gateways: doors, at, stack, dir };
        for pack in packs.iter().cloned().chain([roles.dir.join("packs/test")]) {
            assert_eq!(roles.client().post_raw("/api/v1/packs", &archive_of(&pack)).status, 201);
        }
        roles
    }

    /// A folder that goes with them: tests may put their files there.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client of the first gateway.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.at[0].http, Some(KEY))
    }

    pub(crate) fn truth(&self) -> Truth {
        Truth::connect(&self.stack.redis.url())
    }

    /// The place of the active scheduler among ours; its name is `host/pid/start`.
    pub(crate) fn place_of(&self, owner: &str) -> usize {
        let pid: u32 = owner.split('/').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
        let place = self.schedulers.iter().position(|scheduler| scheduler.pid() == pid);
        place.unwrap_or_else(|| panic!("{owner} is none of ours"))
    }
}

fn endpoints(nats: String, stack: &Stack, dir: &Path, http: &str, grpc: String) -> Endpoints {
    Endpoints {
        http: format!("http://{http}"),
        grpc: Some(grpc),
        nats,
        redis: stack.redis.url(),
        blobs: blobs(dir),
        api_key: KEY.into(),
        pid: std::process::id(),
    }
}

fn start_role(role: &str, nats: &str, stack: &Stack, dir: &Path, settings: &[String]) -> RoleProcess {
    let log = File::options().create(true).append(true).open(dir.join(format!("{role}.log"))).unwrap();
    let mut command = program();
    command.arg(role).args(["--nats", nats, "--redis", &stack.redis.url()]);
    command.args(["--blobs", &blobs(dir)]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    RoleProcess(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

fn blobs(dir: &Path) -> String {
    format!("file://{}", dir.join("blobs").display())
}

fn ready(address: &str) {
    let client = Client::new(&format!("http://{address}"), None);
    until("the role is ready", || client.try_get("/readyz").ok().filter(|answer| answer.status == 200));
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.get("/metrics").status, 200);
}

fn install_our_key(redis: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::connect(StoreConfig::new(redis)).await.unwrap();
        let new = NewKey { name: "test".into(), tenant_id: "default".into(), roles: vec![Role::Operator] };
        install_key(&store, KEY, &new).await.unwrap();
    });
}
