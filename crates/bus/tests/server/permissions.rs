//! The permissions that ship in `deploy/nats`, on a real nats-server: what each user can say and hear, and what it cannot.

use std::path::{Path, PathBuf};

use busbar_bus::{BusConfig, Login, NatsBus};
use busbar_protocol::ports::{Bus as _, Headers, Subscription};
use busbar_protocol::subjects;
use busbar_servers::{Companion, CompanionOptions, Search, free_port};
use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{PATIENCE, next, take_all};

const USERS: [&str; 7] = ["scheduler", "gateway", "engine", "kernel", "worker-1", "client", "application"];

/// A server with the shipped permissions.
struct Guarded {
    port: u16,
    _server: Companion,
    _folder: TempDir,
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/busbar.conf")
}

fn password(user: &str) -> String {
    format!("password-of-{user}")
}

/// The variable that the file takes a user's password from.
fn variable(user: &str) -> String {
    format!("BUSBAR_NATS_{}", user.to_uppercase().replace('-', "_"))
}

impl Guarded {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("temp folder");
        let port = free_port().expect("a port");
        let words = ["--config", shipped().to_str().expect("text"), "--addr", "127.0.0.1", "--port", &port.to_string()]
            .map(Into::into)
            .into_iter()
            .chain(["--jetstream".into(), "--store_dir".into(), folder.path().join("js").into()]);
        let server = Companion::start(CompanionOptions {
            program: "nats-server",
            binary: Search::from_env().find_nats().expect("nats-server").path,
            args: words.collect(),
            env: Some(USERS.map(|user| (variable(user).into(), password(user).into())).into()),
            dir: folder.path().join("nats"),
            supervised: false,
        });
        Self { port, _server: server.expect("nats-server starts"), _folder: folder }
    }

    /// A connection of a user, by its address alone, as every program of ours is told it.
    async fn bus(&self, user: &str) -> NatsBus {
        let url = format!("nats://{user}:{}@127.0.0.1:{}", password(user), self.port);
        NatsBus::connect(BusConfig::new(url, user)).await.expect("connects")
    }
}

/// Publishes on a subject, and then where it certainly arrives: what was not heard by then never comes.
async fn say(bus: &NatsBus, subject: &str, allowed: &str) {
    bus.publish(subject, Headers::new(), Bytes::from_static(b"probe")).await.expect("sent");
    bus.publish(allowed, Headers::new(), Bytes::from_static(b"end")).await.expect("sent");
}

/// What a listener has heard until the end.
async fn heard(subscription: &mut Subscription) -> Vec<String> {
    let mut subjects = Vec::new();
    loop {
        let message = next(subscription).await;
        if message.payload == "end" {
            return subjects;
        }
        subjects.push(message.subject);
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_password() {
    let server = Guarded::start();
    let _scheduler = server.bus("scheduler").await;
    let stranger = BusConfig::new(format!("nats://127.0.0.1:{}", server.port), "stranger");
    assert!(NatsBus::connect(stranger.clone()).await.is_err());
    let login = Login::Password { user: "worker-1".to_owned(), password: "guessed".to_owned() };
    assert!(NatsBus::connect(BusConfig { login, ..stranger }).await.is_err());
}

#[tokio::test]
async fn a_worker_says_what_workers_say_and_nothing_else() {
    let server = Guarded::start();
    let (scheduler, worker) = (server.bus("scheduler").await, server.bus("worker-1").await);
    let mut asked = scheduler.subscribe("busbar.scheduler.>", None).await.expect("subscribed");
    let mut beats = scheduler.subscribe(subjects::BEAT, None).await.expect("subscribed");
    let mut cancels = scheduler.subscribe(subjects::CANCEL, None).await.expect("subscribed");
    for subject in [subjects::ADMIT, subjects::SCHEDULER_CANCEL, subjects::SCHEDULER_DRAIN, subjects::CANCEL] {
        say(&worker, subject, subjects::BEAT).await;
        assert_eq!(heard(&mut beats).await, Vec::<String>::new());
        assert!(take_all(&mut asked).is_empty() && take_all(&mut cancels).is_empty(), "a worker said {subject}");
    }
    for subject in [subjects::HEARTBEAT, subjects::REPORT] {
        let mut listener = scheduler.subscribe(subject, None).await.expect("subscribed");
        say(&worker, subject, subject).await;
        assert_eq!(heard(&mut listener).await, [subject]);
    }
}

#[tokio::test]
async fn a_worker_hears_its_own_jobs_and_nobody_elses() {
    let server = Guarded::start();
    let (scheduler, worker) = (server.bus("scheduler").await, server.bus("worker-1").await);
    let mut own = worker.subscribe(&subjects::worker_jobs("worker-1"), None).await.expect("subscribed");
    let mut batches = worker.subscribe(&subjects::worker_batches("worker-1"), None).await.expect("subscribed");
    say(&scheduler, &subjects::worker_batches("worker-1"), &subjects::worker_batches("worker-1")).await;
    assert_eq!(heard(&mut batches).await, [subjects::worker_batches("worker-1")]);
    let mut others = Vec::new();
    let (their_jobs, their_batches) = (subjects::worker_jobs("worker-2"), subjects::worker_batches("worker-2"));
    for subject in [
        &their_jobs,
        &their_batches,
        "worker.*.jobs",
        "busbar.worker.jobs.*",
        "job.>",
        "job.echo",
        subjects::RESULT,
        subjects::HEARTBEAT,
    ] {
        // Being refused is good, too.
        others.extend(worker.subscribe(subject, None).await.ok());
    }
    for subject in [&their_jobs, &their_batches, "job.echo", subjects::RESULT] {
        say(&scheduler, subject, &subjects::worker_jobs("worker-1")).await;
        assert_eq!(heard(&mut own).await, Vec::<String>::new());
    }
    for subscription in &mut others {
        assert!(take_all(subscription).is_empty());
    }
    // As one of the group of a topic it gets that topic's jobs.
    let mut group = worker.subscribe("job.echo", Some("job.echo")).await.expect("subscribed");
    say(&scheduler, "job.echo", "job.echo").await;
    assert_eq!(heard(&mut group).await, ["job.echo"]);
}

#[tokio::test]
async fn answers_are_for_who_asked() {
    let server = Guarded::start();
    let (scheduler, gateway, worker) = (server.bus("scheduler").await, server.bus("gateway").await, server.bus("worker-1").await);
    let mut spied = Vec::new();
    for subject in ["_INBOX_gateway.>", "_INBOX.>", ">"] {
        spied.extend(worker.subscribe(subject, None).await.ok());
    }
    let mut questions = scheduler.subscribe(subjects::SCHEDULER_LIST, None).await.expect("subscribed");
    let answering = async {
        let question = next(&mut questions).await;
        let reply = question.reply.expect("a question");
        assert!(reply.starts_with("_INBOX_gateway."), "{reply}");
        scheduler.publish(&reply, Headers::new(), Bytes::from_static(b"answer")).await.expect("sent");
    };
    let asking = gateway.request(subjects::SCHEDULER_LIST, Headers::new(), Bytes::new(), PATIENCE);
    let ((), answer) = tokio::join!(answering, asking);
    assert_eq!(answer.expect("an answer").payload, "answer");
    worker.round_trip().await.expect("still there");
    for subscription in &mut spied {
        assert!(take_all(subscription).is_empty());
    }
    // Nor can a worker answer in the scheduler's place: it does not hear the question, and may not write into the gateway's inbox.
    let inbox = gateway.inbox();
    let mut answers = gateway.subscribe(&inbox, None).await.expect("subscribed");
    let mut beats = scheduler.subscribe(subjects::BEAT, None).await.expect("subscribed");
    say(&worker, &inbox, subjects::BEAT).await;
    assert_eq!(heard(&mut beats).await, Vec::<String>::new());
    assert!(take_all(&mut answers).is_empty());
}

#[tokio::test]
async fn clients_submit_and_do_not_pass_for_services() {
    let server = Guarded::start();
    let (scheduler, client, application) =
        (server.bus("scheduler").await, server.bus("client").await, server.bus("application").await);
    scheduler.ensure_streams().await.expect("streams");
    let mut asked = scheduler.subscribe("busbar.scheduler.>", None).await.expect("subscribed");
    for subject in [subjects::ADMIT, subjects::SCHEDULER_CANCEL, subjects::SCHEDULER_PAUSE, subjects::RESULT, subjects::REPORT] {
        client.publish(subject, Headers::new(), Bytes::from_static(b"probe")).await.expect("sent");
    }
    // What the stream has acknowledged has arrived, and so would have what was sent before.
    client.publish_durable(subjects::SUBMIT, "one", Headers::new(), Bytes::from_static(b"job")).await.expect("stored");
    scheduler.round_trip().await.expect("still there");
    assert!(take_all(&mut asked).is_empty());
    say(&application, subjects::SCHEDULER_PAUSE, subjects::ADMIT).await;
    assert_eq!(heard(&mut asked).await, Vec::<String>::new());
}

#[tokio::test]
async fn each_service_gets_what_it_subscribes_to() {
    let server = Guarded::start();
    let scheduler = server.bus("scheduler").await;
    let events = [
        ("gateway", subjects::JOB_EVENT),
        ("engine", subjects::JOB_EVENT),
        ("application", subjects::JOB_EVENT),
        ("worker-1", subjects::CALL),
        ("worker-1", subjects::CANCEL),
        ("gateway", subjects::ALERT),
        ("client", subjects::RESULT),
    ];
    for (user, subject) in events {
        let bus = server.bus(user).await;
        bus.round_trip().await.expect("its own inbox");
        let mut subscription = bus.subscribe(subject, None).await.expect("subscribed");
        say(&scheduler, subject, subject).await;
        assert_eq!(heard(&mut subscription).await, [subject], "{user}");
    }
    for user in ["gateway", "engine", "kernel", "scheduler"] {
        server.bus(user).await.ensure_streams().await.unwrap_or_else(|error| panic!("{user}: {error}"));
    }
}
