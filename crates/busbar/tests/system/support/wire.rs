//! A connection of the tests' own to the bus: what workers and strangers say, said by hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{AdmitItem, AdmitReply, AdmitRequest, Admitted, admit_answer};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{DispatchIdentity, JobRequest, JobResult, SystemAlert};
use busbar_protocol::ports::{Bus as _, Headers, Message, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, ids, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{Truth, until};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const MEANWHILE_EVERY: Duration = Duration::from_millis(200);

/// The connection, with a runtime of its own.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) bus: NatsBus,
    pub(crate) runtime: Runtime,
}

impl Wire {
    pub(crate) fn connect(nats: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bus = runtime.block_on(NatsBus::connect(BusConfig::new(nats, "test"))).unwrap();
        Self { bus, runtime }
    }

    /// Publishes a CAP packet and returns when it has arrived at the server.
    pub(crate) fn say(&self, subject: &str, sender: &str, payload: Payload) {
        let packet = envelope::packet(&ids::generate_trace(), sender, Timestamp::wall_clock(), payload);
        self.send(subject, packet);
    }

    /// Publishes any bytes and returns when they have arrived at the server.
    pub(crate) fn send(&self, subject: &str, bytes: Bytes) {
        self.runtime.block_on(async {
            self.bus.publish(subject, Headers::new(), bytes).await.unwrap();
            self.bus.round_trip().await.unwrap();
        });
    }

    /// The same, as a question whose answer nobody waits for.
    pub(crate) fn send_asking(&self, subject: &str, bytes: Bytes) {
        let reply = format!("{}.unheard", self.bus.inbox());
        self.runtime.block_on(self.bus.publish_with_reply(subject, &reply, Headers::new(), bytes)).unwrap();
    }

    /// Hears everything on a subject from now on.
    pub(crate) fn listen(&self, subject: &str) -> Heard {
        let mut messages = self.runtime.block_on(self.bus.subscribe(subject, None)).unwrap();
        let heard = Heard::default();
        let kept = Arc::clone(&heard.0);
        self.runtime.spawn(async move {
            while let Some(message) = messages.next().await {
                kept.lock().unwrap().push(message);
            }
        });
        heard
    }

    /// The next job that comes to a worker by hand; while none does, something else is done.
    pub(crate) fn next_job(&self, jobs: &mut Subscription, mut meanwhile: impl FnMut()) -> JobRequest {
        let message = until("a job is sent", || {
            meanwhile();
            let next = self.runtime.block_on(async { tokio::time::timeout(MEANWHILE_EVERY, jobs.next()).await });
            next.ok().flatten()
        });
        let Payload::JobRequest(request) = envelope::decode(&message.payload).unwrap().payload else { panic!("{message:?}") };
        request
    }

    /// What a worker says when an attempt has ended.
    pub(crate) fn tell_result(&self, result: JobResult) {
        let sender = result.worker_id.clone();
        self.say(subjects::RESULT, &sender, Payload::JobResult(result));
    }

    /// Submits jobs by hand, at most as many as a message takes; a refusal is its code.
    pub(crate) fn admit(&self, items: Vec<AdmitItem>) -> Vec<Result<Admitted, String>> {
        let count = items.len();
        let told = self.ask(subjects::ADMIT, AdmitRequest { items }.encode_to_vec().into());
        let reply = AdmitReply::decode(told.payload).unwrap();
        assert_eq!((&reply.problem, reply.answers.len()), (&None, count));
        let answers = reply.answers.into_iter().map(|answer| match answer.answer.expect("an answer") {
            admit_answer::Answer::Admitted(admitted) => Ok(admitted),
            admit_answer::Answer::Rejected(problem) => Err(problem.code),
        });
        answers.collect()
    }

    /// Asks all of it at once; the answers in the same order.
    pub(crate) fn ask_all(&self, subject: &str, bodies: &[Bytes]) -> Vec<Message> {
        let asked = bodies.iter().map(|body| self.bus.request(subject, Headers::new(), body.clone(), ANSWER_WITHIN));
        self.runtime.block_on(futures::future::join_all(asked)).into_iter().map(Result::unwrap).collect()
    }

    pub(crate) fn ask(&self, subject: &str, body: Bytes) -> Message {
        self.runtime.block_on(self.bus.request(subject, Headers::new(), body, ANSWER_WITHIN)).unwrap()
    }
}

/// What was heard on a subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Message>>>);

impl Heard {
    /// The alerts among it.
    pub(crate) fn all(&self) -> Vec<SystemAlert> {
        let packets: Vec<Bytes> = self.0.lock().unwrap().iter().map(|message| message.payload.clone()).collect();
        let alerts = packets.iter().map(|bytes| match envelope::decode(bytes).unwrap().payload {
            Payload::Alert(alert) => alert,
            other => panic!("{other:?}"),
        });
        alerts.collect()
    }

    /// The first message, if one came.
    pub(crate) fn first(&self) -> Option<Bytes> {
        self.0.lock().unwrap().first().map(|message| message.payload.clone())
    }

    /// Whether an alert with this code is among it.
    pub(crate) fn told(&self, code: &str) -> bool {
        self.all().iter().any(|alert| alert.code == code)
    }

    /// Something, once alerts about packets on all of these subjects are among it.
    pub(crate) fn told_of(&self, subjects: &[&str]) -> Option<()> {
        let alerts = self.all();
        subjects.iter().all(|subject| alerts.iter().any(|alert| alert.details["subject"] == **subject)).then_some(())
    }
}

/// A job of the default tenant to be submitted by hand, under an id of its own, on an input that is there.
pub(crate) fn item_of(truth: &Truth, topic: &str, input: &Value) -> AdmitItem {
    let job_id = ids::generate();
    let context_ptr = truth.put_input(&job_id, input);
    let request = JobRequest { job_id, topic: topic.to_owned(), context_ptr, ..JobRequest::default() };
    AdmitItem {
        request: request.encode_to_vec().into(),
        tenant_id: ids::DEFAULT_TENANT.to_owned(),
        trace_id: ids::generate_trace(),
        input_bytes: input.to_string().len() as u64,
        ..AdmitItem::default()
    }
}

/// The same with more said about it.
pub(crate) fn saying(item: AdmitItem, patch: &JobRequest) -> AdmitItem {
    AdmitItem { request: envelope::patch_request(&item.request, patch), ..item }
}

/// The result of an attempt as its worker would tell it, without a status.
pub(crate) fn result_of(job_id: &str, attempt: u64, worker_id: &str) -> JobResult {
    let dispatch =
        DispatchIdentity { dispatch_id: format!("{job_id}/{attempt}"), attempt, assigned_worker_id: worker_id.to_owned() };
    JobResult { job_id: job_id.to_owned(), worker_id: worker_id.to_owned(), dispatch: Some(dispatch), ..JobResult::default() }
}
