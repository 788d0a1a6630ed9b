//! A client of the HTTP interface that keeps statuses and bodies as they come.

use std::time::Duration;

use busbar_api::{BatchReply, JobList, JobState, JobView, StatusView, WorkerList, WorkerView};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;

use super::SLEEP;

/// Longer than any call may wait.
const TIMEOUT: Duration = Duration::from_secs(90);
const BODY_BYTES_MAX: u64 = 128 << 20;
const PAGE: usize = 200;

/// What a call answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) media_type: String,
    pub(crate) body: String,
}

impl Answer {
    /// The body, when the call succeeded.
    pub(crate) fn of<T: DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a problem with this status and code, and gives its detail.
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        let problem: Value = self.of(status);
        assert_eq!(self.media_type, "application/problem+json", "{self:?}");
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{self:?}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Client {
    pub(crate) fn new(base: &str, key: Option<&str>) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { agent: config.into(), base: base.to_owned(), key: key.map(str::to_owned) }
    }

    pub(crate) fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap()
    }

    /// While a stack restarts, nobody listens.
    pub(crate) fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        request.call().map(answer)
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        let mut request = self.agent.delete(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        request.call().map(answer).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_raw(path, body.to_string().as_bytes())
    }

    /// As [`Client::post`], with a header more.
    pub(crate) fn post_with(&self, path: &str, body: &Value, (name, value): (&str, &str)) -> Answer {
        self.send(path, body.to_string().as_bytes(), &[(name, value)]).unwrap()
    }

    /// While a gateway ends, it takes no new connections.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Result<Answer, ureq::Error> {
        self.send(path, body.to_string().as_bytes(), &[])
    }

    pub(crate) fn post_raw(&self, path: &str, body: &[u8]) -> Answer {
        self.send(path, body, &[]).unwrap()
    }

    fn send(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        request.send(body).map(answer)
    }

    /// Submits one job and returns its id.
    pub(crate) fn submit(&self, topic: &str, input: &Value) -> String {
        let reply: Value = self.post("/api/v1/jobs", &json!({"topic": topic, "input": input})).of(202);
        reply["job_id"].as_str().unwrap().to_owned()
    }

    /// Submits one sleeping job for each duration; all are accepted.
    pub(crate) fn submit_sleeps(&self, ms: impl IntoIterator<Item = u64>) -> Vec<String> {
        self.submit_all(ms.into_iter().map(|ms| (SLEEP, json!({"ms": ms}))))
    }

    /// Submits jobs, given by topic and input; all are accepted.
    pub(crate) fn submit_all<'a>(&self, jobs: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<String> {
        let jobs: Vec<Value> = jobs.into_iter().map(|(topic, input)| json!({"topic": topic, "input": input})).collect();
        let reply: BatchReply = self.post("/api/v1/jobs/batch", &json!({ "jobs": jobs })).of(202);
        assert!(reply.rejected.is_empty(), "{:?}", reply.rejected);
        reply.job_ids.into_iter().map(|id| id.expect("accepted")).collect()
    }

    /// The job as soon as it has ended.
    pub(crate) fn wait(&self, job_id: &str) -> JobView {
        super::until("the job ends", || {
            let view: JobView = self.get(&format!("/api/v1/jobs/{job_id}?wait=30s")).of(200);
            view.state.is_terminal().then_some(view)
        })
    }

    /// What a job gave that has ended with success.
    pub(crate) fn result(&self, job_id: &str) -> Value {
        let view = self.wait(job_id);
        assert_eq!(view.state, JobState::Succeeded, "{view:?}");
        self.get(&format!("/api/v1/jobs/{job_id}/result")).of(200)
    }

    /// Every job that the list shows, the newest first, through all its pages.
    pub(crate) fn list(&self, query: &str) -> Vec<JobView> {
        let mut jobs = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: JobList = self.get(&format!("/api/v1/jobs?limit={PAGE}{query}{cursor}")).of(200);
            jobs.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return jobs,
            }
        }
    }

    pub(crate) fn workers(&self) -> WorkerList {
        self.get("/api/v1/workers").of(200)
    }

    /// Waits until the scheduler knows that a worker is there with all its slots.
    pub(crate) fn until_online(&self, id: &str, slots: u32) {
        super::until("the worker is online", || {
            let workers: WorkerList = self.try_get("/api/v1/workers").ok().filter(|answer| answer.status == 200)?.of(200);
            let online = |worker: &WorkerView| worker.id == id && worker.status == "online" && worker.capacity == slots;
            workers.items.iter().any(online).then_some(())
        });
    }

    pub(crate) fn status(&self) -> StatusView {
        self.get("/api/v1/status").of(200)
    }

    /// How many jobs the scheduler holds, while there is one that answers.
    pub(crate) fn live_jobs(&self) -> Option<u64> {
        let answer = self.try_get("/api/v1/status").ok().filter(|answer| answer.status == 200)?;
        let status: StatusView = answer.of(200);
        Some(status.scheduler?.live.values().sum())
    }
}

fn answer(mut response: Response<ureq::Body>) -> Answer {
    let media_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    Answer {
        status: response.status().as_u16(),
        media_type: media_type.unwrap_or_default(),
        body: response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string().unwrap(),
    }
}
