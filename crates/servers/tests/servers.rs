//! Both servers for real: ready, killed, started again, paused, watched, and gone with their parent.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use busbar_servers::{Error, Nats, NatsOptions, Redis, RedisOptions, Search, Stack, StackOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const GENEROUS: Duration = Duration::from_secs(60);
/// Tells the test program that it shall play the parent of `servers_die_with_their_parent`.
const PLAY_PARENT: &str = "BUSBAR_TEST_PARENT_DIR";

fn redis_options(temp: &TempDir) -> RedisOptions {
    let binary = Search::from_env().find_redis().expect("redis-server").path;
    RedisOptions::new(temp.path().join("redis"), binary)
}

fn nats_options(temp: &TempDir) -> NatsOptions {
    let binary = Search::from_env().find_nats().expect("nats-server").path;
    NatsOptions::new(temp.path().join("nats"), binary)
}

/// Sends one inline command to Redis and returns the first line of the answer.
fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(GENEROUS))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The value of a key: the second line of a bulk answer.
fn get(port: u16, key: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(format!("GET {key}\r\nQUIT\r\n").as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    text.lines().nth(1).unwrap_or_default().to_owned()
}

fn kill_from_outside(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("killed");
}

fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + GENEROUS;
    while !state() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

fn is_alive(pid: u32) -> bool {
    // A zombie, which only its parent can remove, has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_monitored_nats_server_tells_what_it_does_in_every_life() {
    let temp = tempfile::tempdir().expect("tempdir");
    let nats = Nats::start(NatsOptions { monitored: true, ..nats_options(&temp) }).expect("started");
    let first = nats.monitoring_url().expect("monitored");
    nats.restart().expect("running again");
    for url in [nats.monitoring_url().expect("monitored still"), first] {
        let address = url.strip_prefix("http://").expect("an address of HTTP");
        assert!(address.starts_with("127.0.0.1:"), "{url}");
    }
    let other = Nats::start(NatsOptions { dir: temp.path().join("other"), ..nats_options(&temp) }).expect("started");
    assert_eq!(other.monitoring_url(), None);
}

#[test]
fn redis_keeps_acknowledged_writes_and_its_port_through_kill9() {
    let temp = tempfile::tempdir().expect("tempdir");
    let redis = Redis::start(redis_options(&temp)).expect("started");
    let (port, first) = (redis.port(), redis.pid());
    assert_eq!(ask(port, "SET kept yes").expect("answer"), "+OK");
    redis.kill9();
    assert_eq!(redis.pid(), None);
    assert!(matches!(redis.pause(), Err(Error::NotRunning { .. })));
    redis.restart().expect("restarted");
    assert_eq!(redis.port(), port);
    assert_ne!(redis.pid(), first);
    assert_eq!(get(port, "kept"), "yes");
    redis.stop();
    assert!(!temp.path().join("redis/redis-server.pid").exists());
}

#[test]
fn redis_is_configured_as_promised() {
    let temp = tempfile::tempdir().expect("tempdir");
    let redis = Redis::start(redis_options(&temp)).expect("started");
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("connect");
    stream.write_all(b"CONFIG GET append*\r\nCONFIG GET maxmemory-policy\r\nCONFIG GET save\r\nQUIT\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    let words: Vec<&str> = text.lines().collect();
    for (name, value) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction"), ("save", "")] {
        let at = words.iter().position(|word| *word == name).expect("told");
        assert_eq!(words[at + 2], value, "{name}");
    }
}

#[test]
fn nats_keeps_its_port_through_kill9_and_an_orderly_restart() {
    let temp = tempfile::tempdir().expect("tempdir");
    let nats = Nats::start(nats_options(&temp)).expect("started");
    let (url, first) = (nats.url(), nats.pid());
    nats.kill9();
    nats.restart().expect("restarted");
    let second = nats.pid();
    assert_ne!(second, first);
    nats.restart().expect("restarted while running");
    assert_ne!(nats.pid(), second);
    assert_eq!(nats.url(), url);
    nats.stop();
}

#[test]
fn a_paused_server_answers_only_after_it_was_resumed() {
    let temp = tempfile::tempdir().expect("tempdir");
    let redis = Redis::start(redis_options(&temp)).expect("started");
    let port = redis.port();
    redis.pause().expect("paused");
    eventually("stopped", || state_of(redis.pid()).contains("(stopped)"));
    let asked = thread::spawn(move || ask(port, "PING"));
    redis.resume().expect("resumed");
    assert_eq!(asked.join().expect("no panic").expect("answer"), "+PONG");
    redis.pause().expect("paused");
    // An orderly end of a paused server does not hang.
    redis.stop();
}

fn state_of(pid: Option<u32>) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.expect("running"))).expect("status");
    status.lines().find(|line| line.starts_with("State:")).expect("state").to_owned()
}

#[test]
fn supervised_servers_come_back_where_they_were() {
    let temp = tempfile::tempdir().expect("tempdir");
    let options = StackOptions { supervised: true, ..StackOptions::new(temp.path()) };
    let stack = Stack::start(&options).expect("started");
    let (nats, redis) = (stack.nats.pid(), stack.redis.pid());
    kill_from_outside(nats.expect("running"));
    kill_from_outside(redis.expect("running"));
    eventually("a new nats-server", || stack.nats.pid().is_some_and(|pid| Some(pid) != nats));
    eventually("a new redis-server", || stack.redis.pid().is_some_and(|pid| Some(pid) != redis));
    stack.nats.wait_ready().expect("nats-server is back");
    stack.redis.wait_ready().expect("redis-server is back");
    // A death that was asked for is left alone.
    stack.redis.kill9();
    assert!(stack.redis.wait_ready().is_err() && stack.redis.pid().is_none());
    stack.stop();
}

#[test]
fn a_server_outlives_the_thread_that_asked_for_it() {
    let stack = thread::spawn(Stack::start_temp).join().expect("no panic").expect("started");
    assert_eq!(ask(stack.redis.port(), "PING").expect("answer"), "+PONG");
    stack.nats.wait_ready().expect("still there");
    let dir = stack.temp_dir().expect("temporary").to_path_buf();
    stack.stop();
    assert!(!dir.exists());
}

#[test]
fn a_taken_port_and_a_folder_in_use_are_told() {
    let temp = tempfile::tempdir().expect("tempdir");
    let other = tempfile::tempdir().expect("tempdir");
    let redis = Redis::start(redis_options(&temp)).expect("started");
    let port = redis.port();
    let same_folder = Redis::start(redis_options(&temp));
    assert!(matches!(same_folder, Err(Error::FolderInUse { .. })));
    let same_port = Redis::start(RedisOptions { port: Some(port), ..redis_options(&other) });
    assert!(matches!(same_port, Err(Error::PortInUse { port: told, .. }) if told == port));
    let same_port = Nats::start(NatsOptions { port: Some(port), ..nats_options(&other) });
    assert!(matches!(same_port, Err(Error::PortInUse { port: told, .. }) if told == port));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let temp = tempfile::tempdir().expect("tempdir");
    let options = NatsOptions { binary: "/bin/false".into(), ..nats_options(&temp) };
    assert!(matches!(Nats::start(options), Err(Error::Exited { .. })));
    let options = RedisOptions { binary: "/nonexistent".into(), ..redis_options(&temp) };
    let Err(Error::Exited { status, .. }) = Redis::start(options) else {
        panic!("it started");
    };
    assert!(status.contains("could not be executed"), "{status}");
}

#[test]
fn servers_die_with_their_parent() {
    let temp = tempfile::tempdir().expect("tempdir");
    let mut parent = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "play_the_parent", "--ignored", "--nocapture"])
        .env(PLAY_PARENT, temp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("parent");
    let pids = temp.path().join("pids");
    eventually("both servers", || pids.exists());
    let pids: Vec<u32> = fs::read_to_string(pids).expect("pids").lines().map(|pid| pid.parse().expect("a pid")).collect();
    assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 2);
    parent.kill().expect("killed");
    parent.wait().expect("reaped");
    eventually("both servers gone", || !pids.iter().any(|pid| is_alive(*pid)));
}

/// Not a test: what `servers_die_with_their_parent` runs as another process, and kills.
#[test]
#[ignore = "run by servers_die_with_their_parent in a process of its own"]
fn play_the_parent() {
    let Some(dir) = env::var_os(PLAY_PARENT) else {
        return;
    };
    let dir = Path::new(&dir);
    let stack = Stack::start(&StackOptions::new(dir)).expect("started");
    let pids = [stack.nats.pid(), stack.redis.pid()].map(|pid| pid.expect("running").to_string());
    fs::write(dir.join("pids.new"), pids.join("\n")).expect("written");
    fs::rename(dir.join("pids.new"), dir.join("pids")).expect("told");
    thread::park_timeout(GENEROUS * 10);
}
