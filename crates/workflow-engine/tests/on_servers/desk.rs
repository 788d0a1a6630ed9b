//! As much of a scheduler as the engine meets: it admits jobs, lets them end at once or when the test says so, and cancels them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    AdmitAnswer, AdmitReply, AdmitRequest, Admitted, CancelReply, CancelRequest, Ended, JobEvent, JobEventBatch, JobEventEntry,
    JobRecord, JobState, Pending, Problem, admit_answer, job_record,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Headers, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_store::Store;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[derive(Clone)]
pub(crate) struct Desk {
    bus: NatsBus,
    store: Store,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    /// Topics whose jobs do not end by themselves.
    held_topics: BTreeSet<String>,
    /// Jobs that wait for the test, with their topics.
    held: BTreeMap<String, String>,
    /// Every job that was admitted, as often as that was asked.
    asked: Vec<JobRequest>,
    /// The last event that was told.
    last: u64,
}

impl Desk {
    /// Starts to answer.
    pub(crate) async fn open(bus: NatsBus, store: Store, tasks: &mut JoinSet<()>) -> Self {
        let desk = Self { bus, store, book: Arc::default() };
        let mut admits = desk.bus.subscribe(subjects::ADMIT, None).await.unwrap();
        let mut cancels = desk.bus.subscribe(subjects::SCHEDULER_CANCEL, None).await.unwrap();
        let admitting = desk.clone();
        tasks.spawn(async move {
            while let Some(message) = admits.next().await {
                let request = AdmitRequest::decode(message.payload).unwrap();
                let reply = admitting.admit(request).await.encode_to_vec();
                admitting.bus.publish(&message.reply.unwrap(), Headers::new(), reply.into()).await.unwrap();
            }
        });
        let cancelling = desk.clone();
        tasks.spawn(async move {
            while let Some(message) = cancels.next().await {
                for item in CancelRequest::decode(message.payload).unwrap().items {
                    let held = cancelling.book.lock().unwrap().held.remove(&item.job_id);
                    if held.is_some() {
                        cancelling.end(vec![(item.job_id, ended(JobState::Cancelled, "cancelled"))], true).await;
                    }
                }
                let reply = CancelReply::default().encode_to_vec();
                cancelling.bus.publish(&message.reply.unwrap(), Headers::new(), reply.into()).await.unwrap();
            }
        });
        desk
    }

    /// From now on jobs of this topic wait for the test.
    pub(crate) fn hold(&self, topic: &str) {
        self.book.lock().unwrap().held_topics.insert(topic.to_owned());
    }

    /// Jobs that wait for the test.
    pub(crate) fn held(&self) -> Vec<String> {
        self.book.lock().unwrap().held.keys().cloned().collect()
    }

    /// Requests for jobs so far; a job may be asked for twice.
    pub(crate) fn asked(&self) -> Vec<JobRequest> {
        self.book.lock().unwrap().asked.clone()
    }

    /// Lets all jobs that wait end as they would have; `tell` says whether anybody hears of it.
    pub(crate) async fn release(&self, tell: bool) {
        let held = {
            let mut book = self.book.lock().unwrap();
            book.held_topics.clear();
            std::mem::take(&mut book.held)
        };
        let mut over = Vec::new();
        for (job_id, topic) in held {
            let ended = self.work(&job_id, &topic).await;
            over.push((job_id, ended));
        }
        self.end(over, tell).await;
    }

    async fn admit(&self, request: AdmitRequest) -> AdmitReply {
        let (mut answers, mut over) = (Vec::new(), Vec::new());
        for item in request.items {
            let request = JobRequest::decode(item.request).unwrap();
            self.book.lock().unwrap().asked.push(request.clone());
            let (job_id, topic) = (request.job_id, request.topic);
            if !item.input.is_empty() {
                self.store.put_payload(&keys::context(&job_id), item.input, None).await.unwrap();
            }
            if topic == "job.nobody" {
                let problem = Problem { code: Code::UnknownTopic.to_string(), ..Problem::default() };
                answers.push(AdmitAnswer { answer: Some(admit_answer::Answer::Rejected(problem)) });
                continue;
            }
            let existing = !self.record(&job_id, 1, job_record::State::Pending(Pending::default())).await;
            let admitted = Admitted { job_id: job_id.clone(), existing, ..Admitted::default() };
            answers.push(AdmitAnswer { answer: Some(admit_answer::Answer::Admitted(admitted)) });
            if existing {
                continue;
            }
            let waits = {
                let mut book = self.book.lock().unwrap();
                let waits = book.held_topics.contains(&topic);
                if waits {
                    book.held.insert(job_id.clone(), topic.clone());
                }
                waits
            };
            if !waits {
                let ended = self.work(&job_id, &topic).await;
                over.push((job_id, ended));
            }
        }
        self.end(over, true).await;
        AdmitReply { answers, problem: None }
    }

    /// What a worker would have done.
    async fn work(&self, job_id: &str, topic: &str) -> Ended {
        let input = self.store.payloads(vec![keys::context(job_id)]).await.unwrap().remove(0).expect("the job has its input");
        let input: Value = serde_json::from_slice(&input).unwrap();
        let numbers = |value: &Value| -> i64 { value.as_array().unwrap().iter().filter_map(Value::as_i64).sum() };
        let output = match topic {
            "job.double" => json!(input.as_i64().unwrap() * 2),
            "job.sum" => json!(numbers(&input)),
            "job.blob" => {
                let result_ptr = format!("blob:sha256:{}", "0".repeat(64));
                return Ended { result_ptr, ..ended(JobState::Succeeded, "") };
            }
            _ => return ended(JobState::Failed, "handler_failed"),
        };
        let key = keys::attempt_result(job_id, 1);
        self.store.put_payload(&key, output.to_string().into(), None).await.unwrap();
        Ended { result_ptr: format!("redis://{key}"), ..ended(JobState::Succeeded, "") }
    }

    /// Ends jobs.
    async fn end(&self, over: Vec<(String, Ended)>, tell: bool) {
        let mut entries = Vec::new();
        for (job_id, ended) in over {
            let states = vec![ended.state];
            assert!(self.record(&job_id, 2, job_record::State::Ended(ended)).await, "{job_id} ends once");
            entries.push(JobEvent { job_id, states, ..JobEvent::default() });
        }
        if entries.is_empty() || !tell {
            return;
        }
        let (after, entries) = {
            let mut book = self.book.lock().unwrap();
            let after = book.last.to_string();
            let entry = |event| {
                book.last += 1;
                JobEventEntry { cursor: book.last.to_string(), event: Some(event) }
            };
            (after, entries.into_iter().map(entry).collect())
        };
        let batch = JobEventBatch { after, entries }.encode_to_vec();
        self.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.into()).await.unwrap();
    }

    /// Writes a job's record; false when it stands at that revision already.
    async fn record(&self, job_id: &str, revision: u64, state: job_record::State) -> bool {
        let record = JobRecord { job_id: job_id.to_owned(), attempt: 1, state: Some(state), ..JobRecord::default() };
        let key = keys::job(job_id);
        let guard = match revision {
            1 => Guard::Absent { key: key.clone() },
            _ => Guard::Revision { key: key.clone(), revision: revision - 1 },
        };
        let writes = vec![
            Write::Put { key, revision, value: record.encode_to_vec().into(), expire: None },
            Write::Persist { key: keys::context(job_id) },
        ];
        let unit = Unit { id: CommitId::generate(), guards: vec![guard], writes };
        let answers = self.store.commit(CommitClass::Advance, vec![unit]).await.unwrap();
        matches!(answers.first(), Some(Answer::Applied { .. }))
    }
}

fn ended(state: JobState, code: &str) -> Ended {
    Ended { state: state.into(), error_code: code.to_owned(), ..Ended::default() }
}
