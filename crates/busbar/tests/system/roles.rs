//! The roles as processes of their own, as in production: two schedulers, one of which takes over when the other is killed.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;

use busbar_api::JobState;
use busbar_gateway::{NewKey, Role, install_key};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};

use crate::support::{Client, Endpoints, Executions, Sleeper, Truth, archive_of, kill9, program, until, write_test_pack};

const KEY: &str = "a key that is long enough for a test of roles";
const JOBS: usize = 400;
const SLOTS: u32 = 4;

/// A role that runs. Dropping it kills it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn start(role: &str, stack: &Stack, dir: &Path, settings: &[String]) -> Process {
    let log = File::options().create(true).append(true).open(dir.join(format!("{role}.log"))).unwrap();
    let mut command = program();
    command.arg(role).args(["--nats", &stack.nats.url(), "--redis", &stack.redis.url()]);
    command.args(["--blobs", &blobs(dir)]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
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

#[test]
fn a_standby_takes_over() {
    let stack = Stack::start_temp().unwrap();
    let dir = stack.temp_dir().unwrap().join("roles");
    write_test_pack(&dir.join("packs"));
    install_our_key(&stack.redis.url());
    let address = || format!("127.0.0.1:{}", free_port());
    let (kernel, http, grpc, health) = (address(), address(), address(), [address(), address(), address()]);
    let to_kernel = format!("safety_kernel.addr={kernel}");
    let listen = |health: &str| format!("health.listen={health}");

    let _kernel = start("safety-kernel", &stack, &dir, &[to_kernel.clone(), listen(&health[0])]);
    let schedulers = [1, 2].map(|n| start("scheduler", &stack, &dir, &[to_kernel.clone(), listen(&health[n])]));
    let _gateway = start("gateway", &stack, &dir, &[format!("http.listen={http}"), format!("grpc.listen={grpc}")]);
    health.iter().chain([&http]).for_each(|address| ready(address));

    let at = Endpoints {
        http: format!("http://{http}"),
        grpc: Some(grpc),
        nats: stack.nats.url(),
        redis: stack.redis.url(),
        blobs: blobs(&dir),
        api_key: KEY.into(),
        pid: std::process::id(),
    };
    let file = dir.join("executions");
    let _sleeper = Sleeper::start_at(&at, &dir, "sleeper-1", SLOTS, &file);
    let client = Client::new(&at.http, Some(KEY));
    assert_eq!(client.post_raw("/api/v1/packs", &archive_of(&dir.join("packs/test"))).status, 201);
    let acknowledged = client.submit_sleeps((0..JOBS as u64).map(|n| 20 + n % 30));
    until("a quarter of them is done", || (Executions::read(&file).count() as usize > JOBS / 4).then_some(()));

    let before = client.status().scheduler.expect("an active one");
    kill9(pid_of(&before.owner, &schedulers));
    for id in &acknowledged {
        assert_eq!(client.wait(id).state, JobState::Succeeded);
    }
    let after = until("the other one is active", || client.status().scheduler);
    assert!(after.epoch > before.epoch && after.owner != before.owner, "{before:?} {after:?}");
    // Only the scheduler was killed: no attempt was lost with it.
    let executions = Executions::read(&file);
    assert_eq!((executions.count() as usize, executions.open), (JOBS, 0));
    let ends = Truth::connect(&stack.redis.url()).ends().expect("the store is there");
    assert!(ends.len() == JOBS && ends.values().all(|states| states.len() == 1), "{ends:?}");
    fs::remove_dir_all(&dir).unwrap();
}

/// The owner of the lease is named `host/pid/start`.
fn pid_of(owner: &str, schedulers: &[Process]) -> u32 {
    let pid = owner.split('/').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
    assert!(schedulers.iter().any(|scheduler| scheduler.0.id() == pid), "{owner} is none of ours");
    pid
}
