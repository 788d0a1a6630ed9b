//! Core NATS on a real server: publish, subscribe, queue groups, request and reply.

use std::time::Duration;

use crate::support::{PATIENCE, Server, next, take_all};
use busbar_bus::{BusConfig, ConnectError, Login, NatsBus};
use busbar_protocol::ports::{Bus, BusError, Headers};
use bytes::Bytes;
use futures::StreamExt;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_every_subscriber_with_its_headers() {
    let server = Server::start();
    let (one, two) = (server.bus().await, server.bus().await);
    let mut first = one.subscribe("sys.heartbeat", None).await.expect("subscribes");
    let mut second = two.subscribe("sys.>", None).await.expect("subscribes");
    let headers = Headers::from([("traceparent".to_owned(), "00-1-2-01".to_owned())]);
    two.publish("sys.heartbeat", headers.clone(), text("beat")).await.expect("publishes");
    for subscription in [&mut first, &mut second] {
        let message = next(subscription).await;
        assert_eq!((message.subject.as_str(), &message.headers, &message.payload), ("sys.heartbeat", &headers, &text("beat")));
    }
}

/// `subscribe` returns when the server knows: a message that another connection publishes right afterwards arrives. A flush
/// instead of the round trip fails this within a few hundred rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribed_means_that_the_server_knows() {
    let server = Server::start();
    let (listener, speaker) = (server.bus().await, server.bus().await);
    for round in 0..500 {
        let subject = format!("round.{round}");
        let mut subscription = listener.subscribe(&subject, None).await.expect("subscribes");
        speaker.publish(&subject, Headers::new(), Bytes::new()).await.expect("publishes");
        next(&mut subscription).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_means_that_everything_sent_before_has_arrived() {
    let server = Server::start();
    let (listener, speaker) = (server.bus().await, server.bus().await);
    let mut subscription = listener.subscribe("numbers", None).await.expect("subscribes");
    for number in 0..1_000 {
        speaker.publish("numbers", Headers::new(), text(&number.to_string())).await.expect("publishes");
    }
    speaker.round_trip().await.expect("round trip");
    // The server has all of them; after its own round trip the listener has, too.
    listener.round_trip().await.expect("round trip");
    let heard: Vec<Bytes> = take_all(&mut subscription).into_iter().map(|message| message.payload).collect();
    assert_eq!(heard, (0..1_000).map(|number: i32| text(&number.to_string())).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_group_shares() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(bus.subscribe("job.echo", Some("job.echo")).await.expect("subscribes"));
    }
    for number in 0..300 {
        bus.publish("job.echo", Headers::new(), text(&number.to_string())).await.expect("publishes");
    }
    bus.round_trip().await.expect("round trip");
    let counts: Vec<usize> = members.iter_mut().map(|member| take_all(member).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 300, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_or_says_why_not() {
    let server = Server::start();
    let (bus, other) = (server.bus().await, server.bus().await);
    let mut requests = other.subscribe("busbar.scheduler.admit", Some("q")).await.expect("subscribes");
    let mut deaf = other.subscribe("busbar.scheduler.list", None).await.expect("subscribes");
    let responder = {
        let other = other.clone();
        tokio::spawn(async move {
            let request = requests.next().await.expect("a request");
            let headers = Headers::from([("a".to_owned(), "b".to_owned())]);
            other.publish(&request.reply.expect("reply"), headers, request.payload).await.expect("answers");
        })
    };
    let answer = bus.request("busbar.scheduler.admit", Headers::new(), text("x"), PATIENCE).await.expect("answer");
    assert_eq!((answer.payload, answer.headers.get("a").map(String::as_str)), (text("x"), Some("b")));
    responder.await.expect("responder");
    let nobody = bus.request("busbar.nobody", Headers::new(), Bytes::new(), PATIENCE).await;
    assert_eq!(nobody, Err(BusError::NoResponders { subject: "busbar.nobody".to_owned() }));
    let waited = Duration::from_millis(100);
    let late = bus.request("busbar.scheduler.list", Headers::new(), Bytes::new(), waited).await;
    assert_eq!(late, Err(BusError::TimedOut { subject: "busbar.scheduler.list".to_owned(), waited }));
    next(&mut deaf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn word_that_nobody_listens_comes_to_the_reply_subject() {
    let server = Server::start();
    let bus = server.bus().await;
    let inbox = bus.inbox();
    let mut answers = bus.subscribe(&inbox, None).await.expect("subscribes");
    bus.publish_with_reply("job.echo", &inbox, Headers::new(), text("x")).await.expect("publishes");
    let answer = next(&mut answers).await;
    assert_eq!(answer.headers.get("Status").map(String::as_str), Some("503"));
    assert!(answer.payload.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_would_refuse_is_refused_here() {
    let server = Server::start();
    let bus = server.bus().await;
    let max = bus.payload_bytes_max();
    let large = Bytes::from(vec![0_u8; max + 1]);
    let too_large = BusError::TooLarge { bytes: max + 1, max };
    assert_eq!(bus.publish("a", Headers::new(), large.clone()).await, Err(too_large.clone()));
    assert_eq!(bus.request("a", Headers::new(), large.clone(), PATIENCE).await, Err(too_large.clone()));
    assert_eq!(bus.publish_durable("a", "1", Headers::new(), large).await, Err(too_large));
    for subject in ["", "with space", "line\nbreak"] {
        let refused = bus.publish(subject, Headers::new(), Bytes::new()).await;
        assert!(matches!(refused, Err(BusError::Unavailable { .. })), "{subject:?}: {refused:?}");
    }
    bus.round_trip().await.expect("the connection is unharmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_sends_what_is_under_way_and_ends_the_subscriptions() {
    let server = Server::start();
    let (bus, other) = (server.bus().await, server.bus().await);
    let mut here = bus.subscribe("a", None).await.expect("subscribes");
    let mut there = other.subscribe("a", None).await.expect("subscribes");
    for _ in 0..100 {
        bus.publish("a", Headers::new(), text("x")).await.expect("publishes");
    }
    bus.close().await.expect("closes");
    for _ in 0..100 {
        next(&mut there).await;
        next(&mut here).await;
    }
    assert_eq!(here.next().await, None);
    assert!(bus.publish("a", Headers::new(), Bytes::new()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_too_slow_loses_messages_and_is_counted() {
    let server = Server::start();
    let bus = NatsBus::connect(BusConfig { subscription_capacity: 10, ..server.config() }).await.expect("connects");
    let mut slow = bus.subscribe("a", None).await.expect("subscribes");
    for _ in 0..50 {
        bus.publish("a", Headers::new(), Bytes::new()).await.expect("publishes");
    }
    bus.round_trip().await.expect("round trip");
    let counted = async {
        while bus.slow_consumer_losses() < 40 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("losses are counted");
    assert_eq!(take_all(&mut slow).len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_server_and_a_bad_address_are_told_apart() {
    let config = |url: &str| BusConfig { connect_within: Duration::from_millis(200), ..BusConfig::new(url, "test") };
    // Port 1 of the loopback address: nobody may listen there without privileges.
    let absent = NatsBus::connect(config("nats://127.0.0.1:1")).await.expect_err("absent");
    assert!(matches!(absent, ConnectError::Unreachable { .. }), "{absent}");
    for bad in ["", "nats://", "http://x:1:2"] {
        let error = NatsBus::connect(config(bad)).await.expect_err("bad address");
        assert!(matches!(error, ConnectError::Address { .. }), "{bad}: {error}");
    }
}

/// Says hello like a server of that version, without JetStream, and nothing more.
async fn impostor(version: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("nats://{}", listener.local_addr().expect("address"));
    let info = format!("INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"headers\":true,\"max_payload\":1048576}}\r\n");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(info.as_bytes()).await.expect("writes");
        let mut buffer = [0_u8; 4096];
        while let Ok(1..) = stream.read(&mut buffer).await {
            let _gone = stream.write_all(b"PONG\r\n").await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_is_refused_with_what_to_do() {
    let url = impostor("2.9.10").await;
    let error = NatsBus::connect(BusConfig::new(url, "test")).await.expect_err("too old");
    assert!(matches!(&error, ConnectError::TooOld { found, .. } if found == "2.9.10"), "{error}");
    assert!(error.to_string().contains("2.12 or newer"), "{error}");
}

/// A server with other arguments than `servers` gives. It ends with this value.
struct ByHand {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl ByHand {
    fn start(arguments: &[&str]) -> Self {
        let binary = busbar_servers::Search::from_env().find_nats().expect("nats-server").path;
        let folder = tempfile::tempdir().expect("temp folder");
        let child = std::process::Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
            .arg(folder.path())
            .arg("-sd")
            .arg(folder.path().join("js"))
            .args(arguments)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        Self { child, folder }
    }

    async fn config(&self) -> BusConfig {
        let url = tokio::time::timeout(PATIENCE, url_in(self.folder.path())).await.expect("ports file");
        BusConfig::new(url, "test")
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_streams_is_refused_with_what_to_do() {
    let server = ByHand::start(&[]);
    let error = NatsBus::connect(server.config().await).await.expect_err("no JetStream");
    assert!(matches!(error, ConnectError::NoJetStream { .. }), "{error}");
    assert!(error.to_string().contains("-js"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_login_is_let_in() {
    let server = ByHand::start(&["-js", "--user", "someone", "--pass", "secret"]);
    let config = server.config().await;
    let with = |password: &str| BusConfig {
        login: Login::Password { user: "someone".to_owned(), password: password.to_owned() },
        ..config.clone()
    };
    for refused in [config.clone(), with("wrong")] {
        let error = NatsBus::connect(refused).await.expect_err("refused");
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    }
    NatsBus::connect(with("secret")).await.expect("connects");
    let in_url = BusConfig { url: config.url.replace("nats://", "nats://someone:secret@"), ..config };
    NatsBus::connect(in_url).await.expect("a login in the URL works, too");
}

async fn url_in(folder: &std::path::Path) -> String {
    loop {
        let is_ports = |file: &std::fs::DirEntry| file.path().extension().is_some_and(|extension| extension == "ports");
        let written = std::fs::read_dir(folder).expect("folder").filter_map(Result::ok).find(is_ports);
        let text = written.and_then(|file| std::fs::read_to_string(file.path()).ok()).unwrap_or_default();
        if let Some((_, rest)) = text.split_once("\"nats://") {
            return format!("nats://{}", rest.split('"').next().expect("end of the address"));
        }
        tokio::task::yield_now().await;
    }
}
