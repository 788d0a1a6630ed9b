//! The HTTP client: one agent, and errors as problems.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::time::Duration;

use busbar_api::{ArtifactView, BatchReply, JobView, PACK_MEDIA_TYPE, PROBLEM_MEDIA_TYPE, PackReply, Problem, SubmitRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::http::Response;
use ureq::typestate::WithBody;
use ureq::{Agent, Body, BodyReader, RequestBuilder, SendBody};

use crate::failure::Failure;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the longest `wait` of the gateway.
const ANSWER: Duration = Duration::from_secs(90);
/// As many as threads ever ask at once: a connection is kept for the next request.
const CONNECTIONS_MAX: usize = 512;
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Jobs of one batch. The gateway takes more; smaller batches show progress earlier.
const BATCH: usize = 5_000;
/// Bytes of one batch, well below what the gateway takes.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// A client of one gateway. Threads may share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
    api_key: Option<String>,
}

/// A batch on its way out.
#[derive(Serialize)]
struct Batch<'a> {
    jobs: &'a [SubmitRequest],
}

impl Client {
    pub(crate) fn new(url: &str, api_key: Option<String>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .max_idle_connections(CONNECTIONS_MAX)
            .max_idle_connections_per_host(CONNECTIONS_MAX)
            .user_agent(concat!("busbar-ctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self { agent, base: url.trim_end_matches('/').to_owned(), api_key }
    }

    /// Where the gateway is.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// Asks for a JSON answer.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(path, &self.get_bytes(path)?)
    }

    /// Asks for the bytes of an answer.
    pub(crate) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.get(self.address(path));
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        self.answer(path, request.call())
    }

    /// The first bytes of an answer, however long it is.
    pub(crate) fn get_beginning(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut beginning = Vec::with_capacity(bytes_max);
        let unreadable = |error: io::Error| Failure::Unreadable { path: path.to_owned(), detail: error.to_string() };
        self.get_stream(path)?.take(bytes_max as u64).read_to_end(&mut beginning).map_err(unreadable)?;
        Ok(beginning)
    }

    /// Asks for an answer that is read as it comes, without an end.
    pub(crate) fn get_stream(&self, path: &str) -> Result<BodyReader<'static>, Failure> {
        let mut request = self.agent.get(self.address(path)).header("accept", "text/event-stream");
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        match request.call() {
            Ok(response) if response.status().is_success() => Ok(response.into_body().into_reader()),
            refused => match self.answer(path, refused) {
                Err(failure) => Err(failure),
                Ok(_) => Err(Failure::Unreadable { path: path.to_owned(), detail: "neither a stream nor a refusal".to_owned() }),
            },
        }
    }

    /// Sends JSON and asks for a JSON answer.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.post_with(path, None, body)
    }

    /// Sends JSON, perhaps with one more header, and asks for a JSON answer.
    pub(crate) fn post_with<T: DeserializeOwned>(
        &self,
        path: &str,
        header: Option<(&str, &str)>,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.send(self.agent.post(self.address(path)), path, header, body)
    }

    fn send<T: DeserializeOwned>(
        &self,
        request: RequestBuilder<WithBody>,
        path: &str,
        header: Option<(&str, &str)>,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Usage(error.to_string()))?;
        let mut request = request.content_type("application/json");
        let key = self.api_key.as_deref().map(|key| ("x-api-key", key));
        for (name, value) in [key, header].into_iter().flatten() {
            request = request.header(name, value);
        }
        parse(path, &self.answer(path, request.send(&body[..]))?)
    }

    /// Sends JSON that is to stand at the path, and asks for a JSON answer.
    pub(crate) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.put_with(path, None, body)
    }

    /// Sends JSON that is to stand at the path, perhaps with one more header, and asks for a JSON answer.
    pub(crate) fn put_with<T: DeserializeOwned>(
        &self,
        path: &str,
        header: Option<(&str, &str)>,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.send(self.agent.put(self.address(path)), path, header, body)
    }

    /// Sends the archive of a pack.
    pub(crate) fn install_pack(&self, path: &str, archive: &[u8]) -> Result<PackReply, Failure> {
        let mut request = self.agent.post(self.address(path)).content_type(PACK_MEDIA_TYPE);
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        parse(path, &self.answer(path, request.send(archive))?)
    }

    /// Asks for something to be taken away, and what became of it.
    pub(crate) fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(path, &self.delete_bytes(path)?)
    }

    /// Takes something away.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.delete_bytes(path).map(drop)
    }

    fn delete_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.delete(self.address(path));
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        self.answer(path, request.call())
    }

    /// Uploads what a reader gives as an artifact, as it comes. The inner error is the reader's.
    pub(crate) fn upload(&self, name: &str, content: impl Read) -> Result<io::Result<ArtifactView>, Failure> {
        let path = format!("/api/v1/artifacts?name={}", encode(name));
        let mut request = self.agent.post(self.address(&path)).content_type("application/octet-stream");
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        let mut content = Remembering { reader: content, error: None };
        let answered = request.send(SendBody::from_reader(&mut content));
        match content.error {
            Some(error) => Ok(Err(error)),
            None => parse(&path, &self.answer(&path, answered)?).map(Ok),
        }
    }

    /// The job, once it has ended or `wait` is over.
    pub(crate) fn job(&self, job_id: &str, wait: Duration) -> Result<JobView, Failure> {
        self.get(&format!("/api/v1/jobs/{}?wait={}ms", encode(job_id), wait.as_millis()))
    }

    /// Submits many jobs, in as many batches as it takes. Each has its place in the answer.
    pub(crate) fn submit_all(&self, jobs: &[SubmitRequest]) -> Result<BatchReply, Failure> {
        let mut all = BatchReply::default();
        let mut rest = jobs;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch_length(rest));
            let reply: BatchReply = self.post("/api/v1/jobs/batch", &Batch { jobs: now })?;
            if reply.job_ids.len() != now.len() {
                let detail = format!("{} answers to {} jobs", reply.job_ids.len(), now.len());
                return Err(Failure::Unreadable { path: "/api/v1/jobs/batch".to_owned(), detail });
            }
            let before = all.job_ids.len();
            all.job_ids.extend(reply.job_ids);
            all.rejected.extend(reply.rejected.into_iter().map(|mut rejection| {
                rejection.index += before;
                rejection
            }));
            rest = later;
        }
        Ok(all)
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn answer(&self, path: &str, answered: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, Failure> {
        let unreachable = |error: ureq::Error| Failure::Unreachable { url: self.base.clone(), detail: error.to_string() };
        let mut response = answered.map_err(unreachable)?;
        let status = response.status();
        let is_problem = response.body().mime_type() == Some(PROBLEM_MEDIA_TYPE);
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => Err(Failure::Refused(problem)),
            _ => Err(Failure::Unreadable { path: path.to_owned(), detail: format!("status {status}, and no word on why") }),
        }
    }
}

/// A reader whose own error can be told from one of the connection.
struct Remembering<R> {
    reader: R,
    error: Option<io::Error>,
}

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }
}

/// How many of the jobs go into one batch: at least one.
fn batch_length(jobs: &[SubmitRequest]) -> usize {
    let mut bytes = 0;
    let fits = jobs.iter().take(BATCH).take_while(|job| {
        bytes += job.input.get().len() + 512;
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &str, body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Unreadable { path: path.to_owned(), detail: error.to_string() })
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_does_not_take_is_encoded() {
        assert_eq!(encode("run:step[3]@2 ü/?"), "run%3Astep%5B3%5D%402%20%C3%BC%2F%3F");
        assert_eq!(encode("0190-a_b.c~"), "0190-a_b.c~");
    }

    #[test]
    fn batches_are_bounded_by_count_and_by_bytes() {
        let small = vec![SubmitRequest::new("job.echo", &1).expect("JSON"); BATCH + 1];
        assert_eq!(batch_length(&small), BATCH);
        let large = vec![SubmitRequest::new("job.echo", &"x".repeat(BATCH_BYTES / 2 - 1000)).expect("JSON"); 3];
        assert_eq!(batch_length(&large), 2);
        let huge = vec![SubmitRequest::new("job.echo", &"x".repeat(BATCH_BYTES)).expect("JSON"); 2];
        assert_eq!(batch_length(&huge), 1);
    }
}
