//! A client that takes nothing: it costs a place in the log, nobody waits for it, and in the end it is given up.

use busbar_gateway::GatewayConfig;
use busbar_protocol::busbar::JobEvent;
use busbar_protocol::busbar::JobState::Scheduled;
use tokio::net::TcpSocket;

use super::clients::{Events, Ledger, Socket, change, job_and_states};
use crate::support::{Fixture, until};

/// More than the ring holds, and more than all buffers of a connection.
const EVENTS: usize = 20_000;

/// Every event is as long as the longest usual one.
fn event(n: usize) -> JobEvent {
    JobEvent { error_message: "x".repeat(500), ..change(&format!("j{n}"), &[Scheduled]) }
}

async fn stalled(fixture: &Fixture) -> Socket {
    let connecting = TcpSocket::new_v4().expect("a socket");
    connecting.set_recv_buffer_size(4_096).expect("a small buffer");
    let stream = connecting.connect(fixture.address).await.expect("listening");
    let mut socket = Socket::over(stream, fixture, &[("x-api-key", &fixture.key)], "kind=job&snapshot=false").await;
    let _ = socket.frame().await;
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stalls_delays_nobody_and_misses_nothing() {
    let fixture = Fixture::start().await;
    let mut slow = stalled(&fixture).await;
    let mut quick = Socket::connect(&fixture, &fixture.key, "kind=job&snapshot=false").await;
    let _ = quick.frame().await;
    let mut events = Events::connect(&fixture, "kind=job&snapshot=false", "").await;
    let _ = events.frame().await;
    let writing = async {
        let ledger = Ledger::new(&fixture);
        for from in (0..EVENTS).step_by(500) {
            ledger.tell(&(from..from + 500).map(event).collect::<Vec<_>>()).await;
        }
    };
    let reading = async {
        for (n, frame) in quick.told(EVENTS).await.iter().enumerate() {
            assert_eq!(job_and_states(frame).0, format!("j{n}"));
        }
    };
    let reading_events = async {
        for n in 0..EVENTS {
            assert_eq!(job_and_states(&events.frame().await.expect("an event")).0, format!("j{n}"));
        }
    };
    tokio::join!(writing, reading, reading_events);
    // It wakes up, far behind the ring.
    for (n, frame) in slow.told(EVENTS).await.iter().enumerate() {
        assert_eq!(job_and_states(frame).0, format!("j{n}"));
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_for_too_long_is_given_up() {
    let fixture = Fixture::start_with(GatewayConfig { write_stall_ms: 300, ..GatewayConfig::default() }).await;
    let slow = stalled(&fixture).await;
    let ledger = Ledger::new(&fixture);
    for from in (0..EVENTS).step_by(500) {
        ledger.tell(&(from..from + 500).map(event).collect::<Vec<_>>()).await;
    }
    until("its seat is free", async || {
        let metrics = fixture.get("/metrics").await.text();
        metrics.contains("busbar_gateway_stream_clients{transport=\"websocket\"} 0").then_some(())
    })
    .await;
    drop(slow);
    fixture.end().await;
}
