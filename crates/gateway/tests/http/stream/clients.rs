//! Clients of the stream, and somebody who writes what it tells.

use busbar_protocol::busbar::{JobEvent, JobEventBatch, JobState, RunEvent};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::ports::{Answer, Bus as _, CommitClass, CommitId, Headers, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{keys, subjects};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::support::{DEADLINE, Fixture};

/// A client over a WebSocket.
pub(super) struct Socket {
    pub(super) inner: WebSocketStream<TcpStream>,
    /// The last place to resume.
    pub(super) cursor: String,
}

impl Socket {
    pub(super) async fn connect(fixture: &Fixture, key: &str, query: &str) -> Self {
        let stream = TcpStream::connect(fixture.address).await.expect("listening");
        Self::over(stream, fixture, &[("x-api-key", key)], query).await
    }

    pub(super) async fn over(stream: TcpStream, fixture: &Fixture, headers: &[(&'static str, &str)], query: &str) -> Self {
        let mut request =
            format!("ws://{}/api/v1/stream?{query}", fixture.address).into_client_request().expect("a good address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header value"));
        }
        let (inner, _) = tokio_tungstenite::client_async(request, stream).await.expect("upgraded");
        Self { inner, cursor: String::new() }
    }

    /// The next frame; `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(DEADLINE, self.inner.next()).await.expect("in time")? {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(text.as_str()).expect("JSON");
                    if let Some(cursor) = frame["cursor"].as_str() {
                        cursor.clone_into(&mut self.cursor);
                    }
                    return Some(frame);
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// The code with which the gateway closes, and what it said before.
    pub(super) async fn closed(&mut self) -> (CloseCode, Option<Value>) {
        let mut said = None;
        loop {
            match tokio::time::timeout(DEADLINE, self.inner.next()).await.expect("in time").expect("a close frame") {
                Ok(Message::Close(Some(close))) => return (close.code, said),
                Ok(Message::Text(text)) => said = Some(serde_json::from_str(text.as_str()).expect("JSON")),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of a close frame"),
            }
        }
    }

    pub(super) async fn say(&mut self, message: Message) {
        self.inner.send(message).await.expect("sent");
    }

    /// The frames up to the end of the snapshot.
    pub(super) async fn opening(&mut self) -> Vec<Value> {
        tokio::time::timeout(DEADLINE, self.read_opening()).await.expect("a snapshot in time")
    }

    async fn read_opening(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await.expect("a frame");
            let is_end = frame.get("snapshot_end").is_some();
            frames.push(frame);
            if is_end {
                return frames;
            }
        }
    }

    /// The next so many frames with an event or packet.
    pub(super) async fn told(&mut self, count: usize) -> Vec<Value> {
        tokio::time::timeout(DEADLINE, self.read_told(count)).await.expect("all of it in time")
    }

    async fn read_told(&mut self, count: usize) -> Vec<Value> {
        let mut told = Vec::new();
        while told.len() < count {
            let frame = self.frame().await.expect("a frame");
            if frame.get("event").or(frame.get("packet")).is_some() {
                told.push(frame);
            }
        }
        told
    }
}

/// A client of server-sent events.
pub(super) struct Events {
    reader: BufReader<TcpStream>,
    pub(super) status: String,
    /// The last event's id.
    pub(super) id: String,
}

impl Events {
    pub(super) async fn connect(fixture: &Fixture, query: &str, last_id: &str) -> Self {
        let mut stream = TcpStream::connect(fixture.address).await.expect("listening");
        let last = if last_id.is_empty() { String::new() } else { format!("last-event-id: {last_id}\r\n") };
        let head = format!(
            "GET /api/v1/stream?{query} HTTP/1.1\r\nhost: test\r\nx-api-key: {}\r\naccept: text/event-stream\r\n{last}\r\n",
            fixture.key
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut events = Self { reader: BufReader::new(stream), status: String::new(), id: String::new() };
        events.status = events.line().await.expect("a status");
        while !events.line().await.expect("a header").is_empty() {}
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(DEADLINE, self.reader.read_line(&mut line)).await.expect("in time").unwrap_or(0);
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event; `None` at the end. Sizes of chunks stand between the lines and look like none of ours.
    pub(super) async fn frame(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

/// Writes the logs as their owners do, and tells of it on the bus, or not.
pub(super) struct Ledger<'a> {
    fixture: &'a Fixture,
}

impl<'a> Ledger<'a> {
    pub(super) const fn new(fixture: &'a Fixture) -> Self {
        Self { fixture }
    }

    /// Appends to the log of jobs, without a word.
    pub(super) async fn append(&self, events: &[JobEvent], keep: u64) {
        for chunk in events.chunks(128) {
            self.append_all(keys::LOG_JOBS, chunk.iter().map(|event| event.encode_to_vec()), keep).await;
        }
    }

    async fn append_all(&self, log: &str, values: impl Iterator<Item = Vec<u8>>, keep: u64) {
        let units = values.map(|value| {
            let writes = vec![Write::Append { log: log.to_owned(), value: value.into(), keep }];
            Unit { id: CommitId::generate(), guards: vec![], writes }
        });
        let answers = self.fixture.store.commit(CommitClass::Advance, units.collect::<Vec<_>>()).await.expect("committed");
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Applied { .. })), "{answers:?}");
    }

    /// Appends, and tells that there is something new.
    pub(super) async fn tell(&self, events: &[JobEvent]) {
        self.append(events, 1_000_000).await;
        let batch = JobEventBatch::default().encode_to_vec();
        self.fixture.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.into()).await.expect("published");
    }

    pub(super) async fn tell_runs(&self, events: &[RunEvent]) {
        self.append_all(keys::LOG_RUNS, events.iter().map(RunEvent::encode_to_vec), 1_000_000).await;
        self.fixture.bus.publish(subjects::RUN_EVENT, Headers::new(), Vec::new().into()).await.expect("published");
    }

    pub(super) async fn packet(&self, subject: &str, sender: &str, payload: Payload) {
        let packet = envelope::packet("t", sender, Timestamp::wall_clock(), payload);
        self.fixture.bus.publish(subject, Headers::new(), packet).await.expect("published");
    }
}

/// A change of a job of `acme`.
pub(super) fn change(job_id: &str, states: &[JobState]) -> JobEvent {
    JobEvent {
        version: 1,
        job_id: job_id.into(),
        tenant_id: "acme".into(),
        topic: "job.echo".into(),
        states: states.iter().map(|state| i32::from(*state)).collect(),
        at_ms: Timestamp::wall_clock().millis(),
        attempt: 1,
        worker_id: "w1".into(),
        ..JobEvent::default()
    }
}

/// A job and its states, as frames tell them.
pub(super) fn job_and_states(frame: &Value) -> (String, Vec<String>) {
    let event = &frame["event"];
    let states = event["states"].as_array().expect("states").iter().map(|state| state.as_str().expect("a text").to_owned());
    (event["job_id"].as_str().expect("a job").to_owned(), states.collect())
}
