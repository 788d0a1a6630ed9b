//! What a native worker does with an attempt: it works for a while, perhaps fails, lies or dies of it, and tells what came out.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{ReportItem, ReportReply, ReportRequest};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobProgress, JobRequest, JobResult, JobStatus, ResourceRef};
use busbar_protocol::envelope;
use busbar_protocol::inline;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers, NOT_STORED, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::super::{World, judge, rules, workflows};
use super::Attempt;
use crate::model_bus::ModelClient;
use crate::model_store::Content;

/// Who does not always tell the truth where results are compared.
const LIAR: &str = "native-1";
/// What an honest worker gives.
pub(crate) const DONE: &[u8] = b"\"done\"";

/// How long a worker waits for word of a report.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A result as it was told.
#[derive(Clone)]
pub(super) struct Told {
    result: JobResult,
    headers: Headers,
}

impl From<JobResult> for Told {
    fn from(result: JobResult) -> Self {
        Self { result, headers: Headers::new() }
    }
}

/// One execution of one attempt.
pub(super) struct Execution {
    pub(super) world: World,
    pub(super) bus: ModelClient,
    pub(super) worker: String,
    pub(super) poisoned: Arc<Notify>,
    pub(super) trace: String,
    /// The input, where it came along.
    pub(super) carried: Option<Bytes>,
    /// The output may go with the result.
    pub(super) may_carry: bool,
    pub(super) request: JobRequest,
    pub(super) attempt: Attempt,
}

impl Execution {
    pub(super) async fn run(self, known: Option<Told>, mut cancelled: watch::Receiver<bool>) -> (Attempt, Told) {
        let told = match known {
            Some(told) => told,
            None => self.execute(&mut cancelled).await,
        };
        self.world.ledger().reported.entry(self.attempt.clone()).or_default().insert(told.result.status());
        let id = format!("{}/{}/result", self.attempt.0, self.attempt.1);
        let payload = Payload::JobResult(told.result.clone());
        let packet = envelope::packet(&self.trace, &self.worker, self.world.clock.now(), payload);
        let reports = self.world.chaos.chance(700);
        while !(reports && self.report_end(&packet, &told).await)
            && self.bus.publish_durable(subjects::RESULT, &id, told.headers.clone(), packet.clone()).await.is_err()
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (self.attempt, told)
    }

    /// Reports a result to the scheduler, some twice in one message, and some beside what is none; says whether it has answered.
    async fn report_end(&self, packet: &Bytes, told: &Told) -> bool {
        let output = told.headers.get(inline::OUTPUT).and_then(|output| inline::decode(output).ok());
        let item = ReportItem { packet: packet.clone(), output: output.unwrap_or_default() };
        let mut items = vec![item.clone()];
        if self.world.chaos.chance(100) {
            items.push(ReportItem { packet: Bytes::from_static(b"no packet"), ..ReportItem::default() });
        }
        if self.world.chaos.chance(100) {
            items.push(item);
        }
        let body = ReportRequest { items }.encode_to_vec();
        let asked = self.bus.request(subjects::REPORT, Headers::new(), body.into(), ANSWER_WITHIN).await;
        let reply = asked.ok().and_then(|answer| ReportReply::decode(answer.payload).ok());
        let is_committed = reply.is_some_and(|reply| reply.problem.is_none() && !reply.again.contains(&0));
        if is_committed {
            let mut aside = told.headers.clone();
            aside.insert(NOT_STORED.0.to_owned(), NOT_STORED.1.to_owned());
            let _ = self.bus.publish(subjects::RESULT, aside, packet.clone()).await;
        }
        is_committed
    }

    async fn execute(&self, cancelled: &mut watch::Receiver<bool>) -> Told {
        let input = self.input();
        let slow = self.request.topic == "job.slow" && self.world.chaos.chance(500);
        let mute = self.request.topic == "job.mute";
        let length = match (slow, mute) {
            (true, _) => Duration::from_secs(5),
            (false, true) => Duration::from_secs(3),
            // Short ones are worth being fetched in advance.
            (false, false) if self.world.chaos.chance(500) => self.world.pause(Duration::from_millis(100)),
            (false, false) => self.world.pause(Duration::from_millis(800)),
        };
        if self.request.topic == "job.poison" && self.world.chaos.chance(800) {
            self.poisoned.notify_one();
            std::future::pending::<()>().await;
        }
        let reports = mute && self.world.chaos.chance(600);
        let heeds = self.world.chaos.chance(700);
        let mut status = JobStatus::Succeeded;
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled && heeds) => status = JobStatus::Cancelled,
            () = tokio::time::sleep(length) => {}
            () = self.report(reports) => {}
        }
        if status == JobStatus::Succeeded && self.request.topic == "job.native" && self.world.chaos.chance(20) {
            return self.too_fast().into();
        }
        let fails = if self.request.topic == "job.fragile" { 600 } else { 60 };
        if status == JobStatus::Succeeded && self.world.chaos.chance(fails) {
            status = if self.world.chaos.chance(700) { JobStatus::FailedRetryable } else { JobStatus::Failed };
        }
        let told = JobResult {
            job_id: self.attempt.0.clone(),
            status: status.into(),
            worker_id: self.worker.clone(),
            execution_ms: i64::try_from(length.as_millis()).unwrap_or(0),
            dispatch: self.request.dispatch.clone(),
            ..JobResult::default()
        };
        if status == JobStatus::Succeeded { self.succeed(told, self.output(input.as_deref())).await } else { told.into() }
    }

    /// Stores an output, or lets it go with the result. Some send a header with it that says something else, which must not matter.
    async fn succeed(&self, result: JobResult, output: Bytes) -> Told {
        let key = keys::attempt_result(&self.attempt.0, self.attempt.1);
        let chaos = &self.world.chaos;
        let goes_along = self.may_carry && chaos.chance(700);
        let header = if goes_along {
            Some(inline::encode(&output))
        } else {
            chaos.chance(50).then(|| inline::encode(b"\"something else\""))
        };
        self.world.ledger().outputs.entry(self.attempt.clone()).or_default().insert(output.clone());
        let reference =
            ResourceRef { sha256: Sha256Hex::of(&output).to_bytes(), size_bytes: output.len() as u64, ..ResourceRef::default() };
        while !goes_along && self.world.store.put_payload(&key, output.clone(), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let result = JobResult { result_ptr: format!("redis://{key}"), result_ref: Some(reference), ..result };
        Told { result, headers: header.map(|header| (inline::OUTPUT.to_owned(), header)).into_iter().collect() }
    }
}

impl Execution {
    /// Tells of progress for ever, if it does at all.
    async fn report(&self, reports: bool) {
        if !reports {
            std::future::pending::<()>().await;
        }
        loop {
            let progress = JobProgress {
                job_id: self.attempt.0.clone(),
                percent: 50,
                dispatch: self.request.dispatch.clone(),
                ..JobProgress::default()
            };
            let packet = envelope::packet(&self.trace, &self.worker, self.world.clock.now(), Payload::JobProgress(progress));
            let _ = self.bus.publish(subjects::PROGRESS, Headers::new(), packet).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    /// What the job needs takes nothing more for a while.
    fn too_fast(&self) -> JobResult {
        let scope = ["topic", "key", "tenant", "worker"][usize::try_from(self.world.chaos.below(4)).unwrap_or(0)];
        JobResult {
            job_id: self.attempt.0.clone(),
            status: JobStatus::FailedRetryable.into(),
            worker_id: self.worker.clone(),
            error_code: "RATE_LIMITED".to_owned(),
            error_message: format!("[pause {scope} 300ms] patience, please"),
            dispatch: self.request.dispatch.clone(),
            ..JobResult::default()
        }
    }

    /// What the job works on. It must be what it was submitted with, wherever it is; but not where it is a secret.
    fn input(&self) -> Option<Bytes> {
        let (job, attempt) = &self.attempt;
        let key = self.request.context_ptr.strip_prefix("redis://")?.to_owned();
        let live = self.world.job(job).is_some_and(|job| job.end().is_none() && job.attempt == *attempt);
        let there = self.world.store.contents(&key).into_iter().find(|(there, _, _)| *there == key);
        let stored = match there {
            Some((_, Content::Text(input), expires_at)) => {
                if live && expires_at.is_some() {
                    self.world.breaks(format!("{job} is live, and its input will expire"));
                }
                Some(input)
            }
            _ => {
                if live {
                    self.world.breaks(format!("{job} is live and has no input"));
                }
                None
            }
        };
        // A dead letter that is tried again has the input of the dead job.
        let first = job.strip_prefix("again-a-").or(job.strip_prefix("again-b-")).unwrap_or(job);
        // A replica has that of its job, under its own name.
        let (first, is_replica) = first.rsplit_once(".r").map_or((first, false), |(job, _)| (job, true));
        let ledger = self.world.ledger();
        let is_secret = ledger.secret.contains(first);
        let expected = if is_secret { Some(Bytes::from_static(judge::REDACTED)) } else { ledger.inputs.get(first).cloned() };
        drop(ledger);
        if is_secret && self.carried.is_some() {
            self.world.breaks(format!("the input of {job}, which is a secret, went along"));
        }
        if live && is_secret && !is_replica && key != judge::redacted(job) {
            self.world.breaks(format!("{job} is a secret, and its worker is sent to {key}"));
        }
        for input in self.carried.iter().chain(stored.iter().filter(|_| live)) {
            if expected.as_ref().is_some_and(|expected| expected != input) {
                self.world.breaks(format!("{job} was submitted with {expected:?}, and its worker got {input:?}"));
            }
        }
        self.carried.clone().or(stored)
    }

    /// What a verifier says of the result that it was given: it knows a lie when it sees one.
    fn judgement(&self, input: Option<&[u8]>) -> Bytes {
        let given: Value = input.map(|input| serde_json::from_slice(input).unwrap_or_default()).unwrap_or_default();
        let replica = given["artifact"].as_str().unwrap_or_default();
        let key = self.world.job(replica).and_then(|job| Some(job.end()?.result.as_ref()?.pointer.clone())).unwrap_or_default();
        let key = key.trim_start_matches("redis://").to_owned();
        let result = match self.world.store.contents(&key).into_iter().find(|(there, _, _)| *there == key) {
            Some((_, Content::Text(result), _)) => result,
            _ => {
                self.world.breaks(format!("{} is to check {replica}, which has no result", self.attempt.0));
                Bytes::new()
            }
        };
        let proves = self.world.chaos.chance(300);
        let verdict = if result != DONE {
            "wrong"
        } else if proves {
            "proven"
        } else {
            "plausible"
        };
        json!({"verdict": verdict, "canonical": "done"}).to_string().into()
    }

    /// What a job gives: that of a run follows from its input.
    fn output(&self, input: Option<&[u8]>) -> Bytes {
        let (job, attempt) = &self.attempt;
        let lies = || self.worker == LIAR && self.world.chaos.chance(300);
        match self.request.topic.as_str() {
            // No two lies are the same: nobody agrees with a liar.
            rules::AGREED | rules::PROVED if lies() => return format!("\"{job}/{attempt} is a lie\"").into(),
            rules::AGREED | rules::PROVED => return Bytes::from_static(DONE),
            rules::CHECK => return self.judgement(input),
            _ => {}
        }
        if self.request.workflow_id.is_empty() {
            return format!("\"{job} {attempt} {}\"", self.world.chaos.below(1 << 30)).into();
        }
        input.map_or_else(
            || Bytes::from_static(b"null"),
            |input| workflows::work(&serde_json::from_slice(input).unwrap_or_default()).to_string().into(),
        )
    }
}
