//! Submissions over HTTP, as any client would make them.

use std::ops::Range;
use std::time::{Duration, Instant};

use busbar_api::{BatchReply, JobView};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::Agent;

use crate::Outcome;
use crate::dev::Endpoints;

const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECTIONS: usize = 64;
/// How many jobs one call submits.
const CALL: usize = 2_000;
const BODY_BYTES_MAX: u64 = 64 << 20;

/// The topic of everything that is measured.
pub(crate) const ECHO: &str = "job.echo";

/// A client that blocks. Clones share connections.
#[derive(Clone)]
pub(crate) struct Http {
    agent: Agent,
    base: String,
    key: String,
}

impl Http {
    pub(crate) fn new(endpoints: &Endpoints) -> Self {
        // With a bound for the whole call, a thread would be made for each to look the address up.
        let config = Agent::config_builder().timeout_recv_response(Some(TIMEOUT));
        // As many as are ever under way at once: what is measured is not how fast connections are made.
        let agent = config.max_idle_connections_per_host(CONNECTIONS).max_idle_connections(CONNECTIONS).build().into();
        Self { agent, base: endpoints.http.clone(), key: endpoints.api_key.clone() }
    }

    /// Submits many echo jobs in one call; all must be taken.
    pub(crate) async fn batch(&self, inputs: Vec<Value>) -> Outcome<()> {
        self.send_batch(move || body(inputs)).await
    }

    /// Submits many echo jobs in large calls, one after the other; all must be taken.
    pub(crate) async fn submit(&self, count: usize) -> Outcome<()> {
        for numbers in calls(count) {
            self.batch(numbers.map(input).collect()).await?;
        }
        Ok(())
    }

    /// Sends calls that were [made before](bodies), some of them at once; all jobs must be taken.
    pub(crate) async fn submit_made(&self, bodies: Vec<String>, calls_at_once: usize) -> Outcome<()> {
        let calls = bodies.into_iter().map(|body| self.send_batch(move || body));
        stream::iter(calls).buffer_unordered(calls_at_once).try_for_each(|()| async { Ok(()) }).await
    }

    async fn send_batch(&self, body: impl FnOnce() -> String + Send + 'static) -> Outcome<()> {
        let http = self.clone();
        tokio::task::spawn_blocking(move || {
            let reply: BatchReply = http.post_made("/api/v1/jobs/batch", body())?;
            match reply.rejected.first() {
                None => Ok(()),
                Some(first) => Err(format!("{} were rejected, the first: {}", reply.rejected.len(), first.detail).into()),
            }
        })
        .await?
    }

    /// Submits one echo job and fetches its result.
    pub(crate) async fn run(&self, input: Value) -> Outcome<()> {
        let http = self.clone();
        tokio::task::spawn_blocking(move || http.run_here(&input)).await?
    }

    /// Milliseconds of each of `count` jobs, one after the other, on one thread: a client that blocks need not change threads for each.
    pub(crate) async fn probe(&self, count: usize) -> Outcome<Vec<f64>> {
        let http = self.clone();
        let probe = move |number| {
            let started = Instant::now();
            http.run_here(&input(number))?;
            Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        tokio::task::spawn_blocking(move || (0..count).map(probe).collect()).await?
    }

    fn run_here(&self, input: &Value) -> Outcome<()> {
        let view: JobView = self.post("/api/v1/jobs?wait=30s", &json!({ "topic": ECHO, "input": input }))?;
        match view.result {
            Some(_) => Ok(()),
            None => Err(format!("job {} has no result after 30 s", view.id).into()),
        }
    }

    /// Holds echo jobs back, or lets them go on.
    pub(crate) async fn pause_echo(&self, is_paused: bool) -> Outcome<()> {
        let http = self.clone();
        tokio::task::spawn_blocking(move || {
            let url = format!("{}/api/v1/pauses/topic/{ECHO}", http.base);
            let mut answer = if is_paused {
                http.agent.put(url).header("X-API-Key", &http.key).send_empty()?
            } else {
                http.agent.delete(url).header("X-API-Key", &http.key).call()?
            };
            read::<Value>(answer.body_mut()).map(drop)
        })
        .await?
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Outcome<T> {
        self.post_made(path, body.to_string())
    }

    fn post_made<T: DeserializeOwned>(&self, path: &str, body: String) -> Outcome<T> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("X-API-Key", &self.key);
        let mut answer = request.content_type("application/json").send(body)?;
        read(answer.body_mut())
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let mut answer = self.agent.get(format!("{}{path}", self.base)).header("X-API-Key", &self.key).call()?;
        read(answer.body_mut())
    }
}

fn read<T: DeserializeOwned>(body: &mut ureq::Body) -> Outcome<T> {
    Ok(serde_json::from_str(&body.with_config().limit(BODY_BYTES_MAX).read_to_string()?)?)
}

/// The bodies of the calls that submit so many echo jobs.
pub(crate) fn bodies(count: usize) -> Vec<String> {
    calls(count).map(|numbers| body(numbers.map(input).collect())).collect()
}

/// Which jobs each call submits.
fn calls(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(CALL).map(move |first| first..count.min(first + CALL))
}

fn body(inputs: Vec<Value>) -> String {
    let jobs: Vec<Value> = inputs.into_iter().map(|input| json!({ "topic": ECHO, "input": input })).collect();
    json!({ "jobs": jobs }).to_string()
}

/// The input of the `number`-th job: small, so that the figures are those of the control plane and not of its payloads.
pub(crate) fn input(number: usize) -> Value {
    json!({ "number": number, "text": "the quick brown fox jumps over the lazy dog" })
}
