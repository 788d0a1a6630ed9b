//! What the client asks of the scheduler and makes of its answers, on real servers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::rig::{PATIENCE, Rig};
use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    AdmitAnswer, AdmitItem, AdmitReply, AdmitRequest, Admitted, Ended, JobEvent, JobEventBatch, JobEventEntry, JobRecord,
    Pending, Problem, admit_answer, job_record,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{inline, keys, subjects};
use busbar_sdk::{Client, ClientError, ClientOptions, IdempotencyPolicy, JobPriority, JobState, Submission};
use busbar_store::Store;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// As much of a scheduler as a client meets: it commits, answers, and lets jobs end when the test says so.
#[derive(Clone)]
struct Scheduler {
    bus: NatsBus,
    store: Store,
    seen: Arc<Mutex<Vec<(usize, AdmitItem)>>>,
    /// It does not know that inputs may go along.
    is_old: bool,
}

impl Scheduler {
    async fn start(rig: &Rig) -> (Self, JoinHandle<()>) {
        Self::start_as(rig, false).await
    }

    async fn start_as(rig: &Rig, is_old: bool) -> (Self, JoinHandle<()>) {
        let scheduler = Self { bus: rig.bus.clone(), store: rig.store.clone(), seen: Arc::default(), is_old };
        let mut asked = rig.bus.subscribe(subjects::ADMIT, None).await.unwrap();
        let answering = scheduler.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let bytes = message.payload.len();
                let request = AdmitRequest::decode(message.payload).unwrap();
                let (mut answers, mut units, mut seen) = (Vec::new(), Vec::new(), Vec::new());
                for item in request.items {
                    let (answer, record) = admit(&item, answering.is_old);
                    units.extend(record.map(|record| {
                        let mut unit = put(&record, 1);
                        let key = keys::context(&record.job_id);
                        if !item.input.is_empty() {
                            unit.writes.push(Write::PutPayload { key, value: item.input.clone(), expire: None });
                        }
                        unit
                    }));
                    answers.push(AdmitAnswer { answer: Some(answer) });
                    seen.push((bytes, item));
                }
                answering.commit(CommitClass::Admit, units).await;
                // What is seen is committed: whoever sees a job may end it at once.
                answering.seen.lock().unwrap().extend(seen);
                let reply = AdmitReply { answers, problem: None }.encode_to_vec();
                answering.bus.publish(&message.reply.unwrap(), Default::default(), reply.into()).await.unwrap();
            }
        });
        (scheduler, task)
    }

    async fn commit(&self, class: CommitClass, units: Vec<Unit>) {
        let answers = self.store.commit(class, units).await.unwrap();
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Applied { .. })), "{answers:?}");
    }

    /// Ends a job, and says so if `tell`.
    async fn end(&self, job_id: &str, ended: Ended, tell: bool) {
        let event = JobEvent { job_id: job_id.to_owned(), states: vec![ended.state], ..JobEvent::default() };
        let state = Some(job_record::State::Ended(ended));
        let record =
            JobRecord { job_id: job_id.to_owned(), tenant_id: "default".into(), attempt: 1, state, ..JobRecord::default() };
        self.commit(CommitClass::Advance, vec![put(&record, 2)]).await;
        if tell {
            let entries = vec![JobEventEntry { event: Some(event), ..JobEventEntry::default() }];
            let batch = JobEventBatch { entries, ..JobEventBatch::default() }.encode_to_vec();
            self.bus.publish(subjects::JOB_EVENT, Default::default(), batch.into()).await.unwrap();
        }
    }

    async fn succeed(&self, job_id: &str, output: &Value, tell: bool) {
        let key = keys::attempt_result(job_id, 1);
        self.store.put_payload(&key, output.to_string().into(), None).await.unwrap();
        let ended = Ended { state: JobState::Succeeded.into(), result_ptr: format!("redis://{key}"), ..Ended::default() };
        self.end(job_id, ended, tell).await;
    }
}

/// What becomes of an item: an answer, and the record of the job that was taken.
fn admit(item: &AdmitItem, is_old: bool) -> (admit_answer::Answer, Option<JobRecord>) {
    let request = JobRequest::decode(item.request.clone()).unwrap();
    if is_old && !item.input.is_empty() {
        let problem = Problem { code: "payload_missing".into(), ..Problem::default() };
        return (admit_answer::Answer::Rejected(problem), None);
    }
    if request.topic == "job.nobody" {
        let problem = Problem { code: "unknown_topic".into(), ..Problem::default() };
        return (admit_answer::Answer::Rejected(problem), None);
    }
    let record = JobRecord {
        job_id: request.job_id.clone(),
        tenant_id: item.tenant_id.clone(),
        state: Some(job_record::State::Pending(Pending::default())),
        ..JobRecord::default()
    };
    let state = JobState::Pending.into();
    let admitted = Admitted { job_id: request.job_id, trace_id: item.trace_id.clone(), state, existing: false };
    (admit_answer::Answer::Admitted(admitted), Some(record))
}

fn put(record: &JobRecord, revision: u64) -> Unit {
    let key = keys::job(&record.job_id);
    let guard = match revision {
        1 => Guard::Absent { key: key.clone() },
        _ => Guard::Revision { key: key.clone(), revision: revision - 1 },
    };
    let put = Write::Put { key, revision, value: record.encode_to_vec().into(), expire: None };
    Unit { id: CommitId::generate(), guards: vec![guard], writes: vec![put] }
}

async fn client(rig: &Rig, admit_within: Duration) -> Client {
    let options = ClientOptions {
        nats_url: rig.stack.nats.url(),
        redis_url: rig.stack.redis.url(),
        admit_within,
        ..ClientOptions::default()
    };
    Client::connect(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_knows_nothing_of_inputs_that_go_along_finds_them_stored() {
    let rig = Rig::start().await;
    let (scheduler, _task) = Scheduler::start_as(&rig, true).await;
    let client = client(&rig, PATIENCE).await;
    let submissions = (0..3).map(|n| Submission::new("job.echo", &n).unwrap()).collect();
    for (n, answer) in client.submit_many(submissions).await.into_iter().enumerate() {
        let input = rig.payload(&keys::context(&answer.unwrap().job_id)).await.unwrap();
        assert_eq!(input, n.to_string());
    }
    assert_eq!(scheduler.seen.lock().unwrap().len(), 6, "each was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_submitted_with_its_input_and_waited_for() {
    let rig = Rig::start().await;
    let (scheduler, _task) = Scheduler::start(&rig).await;
    let client = client(&rig, PATIENCE).await;
    let submitted = client.submit("job.echo", &json!({ "x": 1 })).await.unwrap();
    assert_eq!((submitted.state, submitted.existing), (JobState::Pending, false));
    let (_, item) = scheduler.seen.lock().unwrap()[0].clone();
    let request = JobRequest::decode(item.request).unwrap();
    assert_eq!((request.job_id.as_str(), request.tenant_id.as_str()), (submitted.job_id.as_str(), "default"));
    assert_eq!((item.input_bytes, item.trace_id.as_str()), (7, submitted.trace_id.as_str()));
    assert_eq!(item.input, "{\"x\":1}");
    let large = client.submit("job.echo", &"x".repeat(inline::BYTES_MAX)).await.unwrap();
    assert_eq!(scheduler.seen.lock().unwrap()[1].1.input, "", "it was stored");
    assert_eq!(rig.payload(&keys::context(&large.job_id)).await.unwrap().len(), inline::BYTES_MAX + 2);
    assert_eq!(rig.payload(request.context_ptr.strip_prefix("redis://").unwrap()).await.unwrap(), "{\"x\":1}");

    let early = client.wait(&submitted.job_id, Duration::ZERO).await;
    assert!(matches!(early, Err(ClientError::StillLive { state: JobState::Pending, .. })), "{early:?}");
    for tell in [true, false] {
        let job_id = client.submit("job.echo", &json!(2)).await.unwrap().job_id;
        let waiting = tokio::spawn({
            let (client, job_id) = (client.clone(), job_id.clone());
            async move { client.wait(&job_id, PATIENCE).await }
        });
        scheduler.succeed(&job_id, &json!([1, 2]), tell).await;
        let finished = waiting.await.unwrap().unwrap();
        assert_eq!((finished.state, finished.attempts), (JobState::Succeeded, 1));
        assert_eq!(finished.output::<Vec<u8>>().unwrap(), [1, 2], "with and without an event");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_submission_asks_for_reaches_the_scheduler() {
    let rig = Rig::start().await;
    let (scheduler, _task) = Scheduler::start(&rig).await;
    let client = client(&rig, PATIENCE).await;
    let not_before = SystemTime::now() + Duration::from_secs(3600);
    let submission = Submission {
        priority: JobPriority::Critical,
        not_before: Some(not_before),
        concurrency_key: "repository 7".to_owned(),
        heartbeat_timeout: Some(Duration::from_secs(5)),
        idempotency_key: "k".to_owned(),
        idempotency_policy: IdempotencyPolicy::AllowAfterFailure,
        parent: "above".to_owned(),
        ..Submission::new("job.echo", &1).unwrap()
    };
    let strange = Submission { parent: "no id".to_owned(), ..submission.clone() };
    let answers = client.submit_many(vec![strange, submission]).await;
    assert_eq!(answers[0].as_ref().map_err(|refusal| refusal.code.as_str()), Err("job_id_invalid"));
    assert!(answers[1].is_ok(), "{answers:?}");
    let seen = scheduler.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    let request = JobRequest::decode(seen[0].1.request.clone()).unwrap();
    let options = seen[0].1.options.clone().unwrap();
    assert_eq!((request.parent_job_id.as_str(), request.priority()), ("above", JobPriority::Critical));
    assert_eq!((options.concurrency_key.as_str(), options.heartbeat_timeout_ms), ("repository 7", 5000));
    let millis = not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(u128::from(options.not_before_ms), millis);
    assert_eq!(options.idempotency_policy(), IdempotencyPolicy::AllowAfterFailure);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_did_not_succeed_is_an_error_of_run() {
    let rig = Rig::start().await;
    let (scheduler, _task) = Scheduler::start(&rig).await;
    let client = client(&rig, PATIENCE).await;
    let running = tokio::spawn(async move { client.run::<_, Value>("job.echo", &1, PATIENCE).await });
    let job_id = loop {
        let seen = scheduler.seen.lock().unwrap().first().cloned();
        match seen {
            Some((_, item)) => break JobRequest::decode(item.request).unwrap().job_id,
            None => tokio::task::yield_now().await,
        }
    };
    let ended = Ended { state: JobState::Failed.into(), error_code: "guest_trap".into(), ..Ended::default() };
    scheduler.end(&job_id, ended, true).await;
    let Err(ClientError::Ended(finished)) = running.await.unwrap() else { panic!("a bad end") };
    assert_eq!((finished.state, finished.error_code.as_str(), finished.result), (JobState::Failed, "guest_trap", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_go_in_messages_that_the_scheduler_takes() {
    let rig = Rig::start().await;
    let (scheduler, _task) = Scheduler::start(&rig).await;
    let client = client(&rig, PATIENCE).await;
    let mut submissions: Vec<Submission> = (0..600).map(|n| Submission::new("job.echo", &n).unwrap()).collect();
    submissions[300].topic = "job.nobody".to_owned();
    submissions[1].labels = (0..200).map(|n| (n.to_string(), "x".repeat(1500))).collect::<BTreeMap<_, _>>();
    submissions[2].labels = submissions[1].labels.clone();
    let answers = client.submit_many(submissions).await;
    assert_eq!(answers.len(), 600);
    for (place, answer) in answers.iter().enumerate() {
        match answer {
            Ok(submitted) => {
                let input = rig.payload(&keys::context(&submitted.job_id)).await.unwrap();
                assert_eq!(input, place.to_string(), "in order");
            }
            Err(refusal) => assert_eq!((place, refusal.code.as_str()), (300, "unknown_topic")),
        }
    }
    let seen = scheduler.seen.lock().unwrap();
    assert_eq!(seen.len(), 600);
    assert!(seen.iter().all(|(bytes, _)| *bytes <= 512 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scheduler_a_submission_is_refused_in_time() {
    let rig = Rig::start().await;
    let client = client(&rig, Duration::from_millis(300)).await;
    let Err(ClientError::Refused(refusal)) = client.submit("job.echo", &1).await else { panic!("a refusal") };
    assert_eq!(refusal.code, "scheduler_unavailable");
    assert!(refusal.retry_after.is_some());
    let large = client.submit("job.echo", &"x".repeat(1 << 20)).await;
    assert!(matches!(large, Err(ClientError::Refused(refusal)) if refusal.code == "payload_too_large"));
    assert!(matches!(client.wait("nobody", PATIENCE).await, Err(ClientError::NotFound { .. })));
}
