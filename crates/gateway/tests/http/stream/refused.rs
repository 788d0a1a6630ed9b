//! What is refused, and how.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_gateway::{GatewayConfig, Role};
use busbar_protocol::busbar::JobState::Scheduled;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::clients::{Events, Ledger, Socket, change, job_and_states};
use crate::support::{Fixture, key, request, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anything_is_upgraded() {
    let fixture = Fixture::start().await;
    let submitter = key(&fixture.store, "acme", Role::Submitter).await;
    let upgrade = [
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "MTIzNDU2Nzg5MDEyMzQ1Ng=="),
    ];
    let ask = async |query: &str, key: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> =
            headers.iter().copied().chain([("x-api-key", key)]).filter(|(_, value)| !value.is_empty()).collect();
        request(fixture.address, "GET", &format!("/api/v1/stream?{query}"), &headers, b"").await
    };
    for headers in [&upgrade[..], &[]] {
        ask("", "", headers).await.refused(401, "unauthenticated");
        ask("", "bb_wrong", headers).await.refused(401, "key_unknown");
        ask("cursor=garbage", &fixture.key, headers).await.refused(400, "cursor_invalid");
        ask("tenant=other", &fixture.key, headers).await.refused(422, "field_invalid");
        ask("kind=jobs", &fixture.key, headers).await.refused(422, "field_invalid");
        ask("topic=sys.%3E", &fixture.key, headers).await.refused(422, "field_invalid");
        ask("kind=worker", &submitter, headers).await.refused(403, "forbidden");
    }
    ask("", &fixture.key, &[("upgrade", "websocket")]).await.refused(422, "field_invalid");
    ask("", &fixture.key, &[("last-event-id", "garbage")]).await.refused(400, "cursor_invalid");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_own_connection_only() {
    let fixture = Fixture::start().await;
    let mut other = Socket::connect(&fixture, &fixture.key, "kind=job&snapshot=false").await;
    let _ = other.frame().await;
    let garbage = [
        (Message::text("{"), CloseCode::Policy),
        (Message::text(r#"{"filters":{}}"#), CloseCode::Policy),
        (Message::text(r#"{"filter":{"kind":["all"]}}"#), CloseCode::Policy),
        (Message::binary(vec![0, 159, 146]), CloseCode::Unsupported),
    ];
    for (message, expected) in garbage {
        let mut socket = Socket::connect(&fixture, &fixture.key, "snapshot=false").await;
        let _ = socket.frame().await;
        let shown = format!("{message:?}");
        socket.say(message).await;
        let (code, said) = socket.closed().await;
        assert_eq!(code, expected, "{shown}");
        let code = &said.expect("an error frame")["error"]["code"];
        assert!([json!("frame_invalid"), json!("field_invalid")].contains(code), "{shown}: {code}");
    }
    let mut socket = Socket::connect(&fixture, &fixture.key, "snapshot=false").await;
    socket.say(Message::text("x".repeat(100_000))).await;
    while socket.frame().await.is_some() {}
    Ledger::new(&fixture).tell(&[change("a", &[Scheduled])]).await;
    assert_eq!(job_and_states(&other.told(1).await[0]).0, "a");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_counted_and_given_back() {
    let fixture = Fixture::start_with(GatewayConfig { stream_clients_max: 2, ..GatewayConfig::default() }).await;
    let first = Socket::connect(&fixture, &fixture.key, "").await;
    let second = Events::connect(&fixture, "", "").await;
    let reply = fixture.get("/api/v1/stream/sse").await;
    reply.refused(503, "stream_full");
    assert_eq!(reply.headers["retry-after"], "5");
    drop((first, second));
    let gone = |metrics: &str| {
        ["websocket", "sse"]
            .iter()
            .all(|way| metrics.contains(&format!("busbar_gateway_stream_clients{{transport=\"{way}\"}} 0")))
    };
    // One that nobody reads is noticed when something is written to it.
    until("both seats are free", async || {
        Ledger::new(&fixture).tell(&[change("a", &[Scheduled])]).await;
        gone(&fixture.get("/metrics").await.text()).then_some(())
    })
    .await;
    let _third = Socket::connect(&fixture, &fixture.key, "").await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_brings_its_key_as_a_subprotocol() {
    let fixture = Fixture::start().await;
    let encoded = URL_SAFE_NO_PAD.encode(&fixture.key);
    for offer in [format!("busbar-api-key, {encoded}"), format!("cordum-api-key, {encoded}"), format!("cordum-api-key.{encoded}")]
    {
        let stream = TcpStream::connect(fixture.address).await.expect("listening");
        // The client itself refuses an answer that chooses none of its offers, as browsers do.
        let mut socket = Socket::over(stream, &fixture, &[("sec-websocket-protocol", &offer)], "snapshot=false").await;
        assert!(socket.frame().await.expect("a frame")["cursor"].is_string(), "{offer}");
    }
    fixture.end().await;
}
