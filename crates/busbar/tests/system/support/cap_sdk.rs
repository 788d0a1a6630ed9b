//! Workers, clients and listeners of the published CAP SDK for Python, as processes: `interop/sdk.py`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Dev, until};

/// A running process of the SDK. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct CapSdk {
    child: Child,
    out: PathBuf,
}

/// The pack with the topics `job.cap.*`.
pub(crate) fn cap_pack() -> PathBuf {
    folder().join("packs/cap")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/interop")
}

fn command(args: &[&str]) -> Command {
    let packages = std::env::var_os("BUSBAR_TEST_CAP_SDK")
        .expect("BUSBAR_TEST_CAP_SDK names the folder of the published SDK: run tools/test interop");
    let mut command = Command::new("python3");
    command.arg(folder().join("sdk.py")).args(args).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

impl CapSdk {
    /// Starts one; `name` is that of the file with what it says. It is there when it has said so.
    pub(crate) fn start(dev: &Dev, name: &str, args: &[&str]) -> Self {
        Self::spawn(dev, name, command(args))
    }

    fn spawn(dev: &Dev, name: &str, mut command: Command) -> Self {
        let out = dev.temp().join(format!("{name}.out"));
        let log = File::options().create(true).append(true).open(dev.temp().join("sdk.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(log).spawn().unwrap();
        let mut sdk = Self { child, out };
        until("the SDK is ready", || {
            if let Some(status) = sdk.child.try_wait().unwrap() {
                panic!("{name} ended ({status}):\n{}", fs::read_to_string(dev.temp().join("sdk.log")).unwrap_or_default());
            }
            sdk.said().contains("ready").then_some(())
        });
        sdk
    }

    /// An `Agent` that serves one topic, with the SDK's default id or one of its own.
    pub(crate) fn agent(dev: &Dev, name: &str, topic: &str, id: Option<&str>) -> Self {
        let file = executions(dev);
        let at = &dev.endpoints;
        let mut args = vec!["agent", at.nats.as_str(), at.redis.as_str(), file.to_str().unwrap(), topic];
        args.extend(id);
        Self::start(dev, name, &args)
    }

    /// An `Agent` that takes only what the scheduler signed with the key whose public half stands in this file.
    pub(crate) fn distrustful(dev: &Dev, topic: &str, id: &str, key: &Path) -> Self {
        let file = executions(dev);
        let at = &dev.endpoints;
        let mut command = command(&["agent", &at.nats, &at.redis, file.to_str().unwrap(), topic, id]);
        command.env("SCHEDULER_KEY", key);
        Self::spawn(dev, id, command)
    }

    /// An `Agent` that proves its key in the trust handshake, and trusts the scheduler alone.
    /// With `production` it speaks CAP-PRODUCTION.
    pub(crate) fn proving(dev: &Dev, id: &str, production: bool, own: &Path, scheduler: &Path) -> Self {
        let file = executions(dev);
        let at = &dev.endpoints;
        let mut command = command(&["agent", &at.nats, &at.redis, file.to_str().unwrap(), "job.cap.named", id]);
        command.env("SCHEDULER_KEY", scheduler).env("PROOF_KEY", own).envs(production.then_some(("PRODUCTION", "1")));
        Self::spawn(dev, id, command)
    }

    /// A `run_worker` with default settings.
    pub(crate) fn plain(dev: &Dev, name: &str, topic: &str) -> Self {
        let file = executions(dev);
        Self::start(dev, name, &["plain", &dev.endpoints.nats, file.to_str().unwrap(), topic])
    }

    /// Submits a job straight to the bus.
    pub(crate) fn submit(dev: &Dev, topic: &str, input: &Value, job_id: &str) {
        let at = &dev.endpoints;
        let output = command(&["submit", &at.nats, &at.redis, topic, &input.to_string(), job_id]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// How many seconds a key of Redis has to live; less than 0 where it lives for ever or is not there.
    pub(crate) fn ttl(dev: &Dev, key: &str) -> i64 {
        let output = command(&["ttl", &dev.endpoints.redis, key]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Whoever hears what is told on the bus.
    pub(crate) fn listener(dev: &Dev) -> Self {
        Self::start(dev, "listener", &["listen", &dev.endpoints.nats])
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What a listener has heard so far.
    pub(crate) fn heard(&self) -> Vec<Value> {
        let said = self.said();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Kills it and returns when it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for CapSdk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.out.with_file_name("sdk.log");
            eprintln!("{}\n{}", self.said(), fs::read_to_string(log).unwrap_or_default());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file in which the handlers of a stack write.
pub(crate) fn executions(dev: &Dev) -> PathBuf {
    let file = dev.temp().join("executions");
    File::options().create(true).append(true).open(&file).unwrap();
    file
}
