//! A disk that is full: the store's own, which is a small file system in memory. It takes the rights of root; without them the
//! test says so and ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use busbar_api::SubmitReply;
use busbar_servers::{Stack, StackOptions};
use serde_json::json;

use super::{extra_executions, rest_with_success};
use crate::support::{Dev, DevOptions, SLEEP, Sleeper, Truth, until};

const DISK_BYTES: u64 = 32 << 20;
/// What is left of it for work.
const LEFT_BYTES: u64 = 300_000;
const SLOTS: u32 = 8;

#[test]
fn a_full_disk_refuses_work_and_forgets_none() {
    let temp = tempfile::tempdir().unwrap();
    let disk = match Disk::mount(temp.path().join("servers/redis")) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: a file system in memory cannot be mounted here: {why}"),
    };
    // A store that cannot write its file ends, and is started again as any supervisor does.
    let stack = Stack::start(&StackOptions { supervised: true, ..StackOptions::new(temp.path().join("servers")) }).unwrap();
    let env = [("NATS_URL", stack.nats.url()), ("REDIS_URL", stack.redis.url())];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let dev = Dev::start_with(DevOptions { env, ..DevOptions::default() });
    let client = dev.client();
    let mut acknowledged = client.submit_sleeps([5; 200]);

    let ballast = disk.fill();
    let refused = until("the disk is full", || {
        let body = json!({"topic": SLEEP, "input": {"ms": 1}, "labels": {"a": "x".repeat(1_000)}});
        let answer = client.post("/api/v1/jobs", &body);
        if answer.status != 202 {
            return Some(answer);
        }
        acknowledged.push(answer.of::<SubmitReply>(202).job_id);
        None
    });
    assert_eq!(refused.status, 503, "{refused:?}");

    fs::remove_file(ballast).unwrap();
    acknowledged.push(until("a submission is taken", || {
        let answer = client.post("/api/v1/jobs", &json!({"topic": SLEEP, "input": {"ms": 1}}));
        (answer.status == 202).then(|| answer.of::<SubmitReply>(202).job_id)
    }));
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    let truth = Truth::connect(&stack.redis.url());
    // What was refused may be there all the same: the store had it in memory when it could not write it.
    let all: Vec<String> = client.list("").into_iter().map(|job| job.id).collect();
    assert!(acknowledged.iter().all(|id| all.contains(id)), "an acknowledged job is lost");
    rest_with_success(&client, &truth, &all);
    assert_eq!(extra_executions(&file, &all), 0, "no worker was harmed");
}

/// A small file system, as long as it lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={DISK_BYTES}");
        let said = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        match said {
            Ok(said) if said.status.success() => Ok(Self(at)),
            Ok(said) => Err(String::from_utf8_lossy(&said.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes nearly all of what is free.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("ballast");
        let mut ballast = File::create(&file).unwrap();
        let free = DISK_BYTES - used(&self.0) - LEFT_BYTES;
        ballast.write_all(&vec![0; usize::try_from(free).unwrap()]).unwrap();
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the store may still be there, and ends after this.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Bytes of the files in a folder and below.
fn used(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let size = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => used(&entry.path()),
        meta => meta.len().div_ceil(4096) * 4096,
    };
    entries.map(size).sum()
}
