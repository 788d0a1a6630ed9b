//! Small payloads that travel with their messages: what a worker gets and gives, and what stands in Redis.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use busbar_api::JobState;
use busbar_protocol::busbar::{AdmitItem, WorkerBeat};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobMetadata, JobRequest, JobResult, JobStatus, ResourceRef};
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{Bus as _, Headers, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, ids, inline, keys, subjects};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::support::{Dev, Truth, Wire, result_of, until};

const HAND: &str = "hand";
/// Served by nobody else.
const TOPIC: &str = "job.test.unserved";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A native worker by hand.
struct Hand<'a> {
    wire: &'a Wire,
    jobs: Subscription,
    beat: WorkerBeat,
}

impl<'a> Hand<'a> {
    fn join(dev: &Dev, wire: &'a Wire) -> Self {
        let jobs = wire.runtime.block_on(wire.bus.subscribe(&subjects::worker_jobs(HAND), None)).unwrap();
        let beat = WorkerBeat {
            worker_id: HAND.into(),
            incarnation: ids::generate(),
            pool: "nobody".into(),
            capacity: 1,
            ..WorkerBeat::default()
        };
        let mut hand = Self { wire, jobs, beat };
        until("the worker is known", || {
            hand.beat();
            dev.client().workers().items.iter().any(|worker| worker.id == HAND).then_some(())
        });
        hand
    }

    fn beat(&mut self) {
        self.beat.sequence += 1;
        let body = Bytes::from(self.beat.encode_to_vec());
        self.wire.runtime.block_on(self.wire.bus.publish(subjects::BEAT, Headers::new(), body)).unwrap();
    }

    /// The dispatch of a job.
    fn take(&mut self, job: &str) -> (JobRequest, Headers) {
        until("the job is sent", || {
            self.beat();
            let next = async { tokio::time::timeout(Duration::from_millis(200), self.jobs.next()).await };
            let message = self.wire.runtime.block_on(next).ok().flatten()?;
            let Payload::JobRequest(request) = envelope::decode(&message.payload).unwrap().payload else { panic!("{message:?}") };
            (request.job_id == job).then_some((request, message.headers))
        })
    }

    /// Tells that an attempt has succeeded: the packet speaks of one output, and another one may come with it.
    fn succeed(&self, request: &JobRequest, stated: &[u8], carried: Option<&str>) {
        let dispatch = request.dispatch.clone().expect("a named attempt");
        let pointer = Pointer::Redis(keys::attempt_result(&request.job_id, u32::try_from(dispatch.attempt).unwrap()));
        let reference =
            ResourceRef { sha256: Sha256Hex::of(stated).to_bytes(), size_bytes: stated.len() as u64, ..ResourceRef::default() };
        let result = JobResult {
            status: JobStatus::Succeeded.into(),
            result_ptr: pointer.to_string(),
            result_ref: Some(reference),
            execution_ms: 1,
            ..result_of(&request.job_id, dispatch.attempt, HAND)
        };
        let packet = envelope::packet(&ids::generate_trace(), HAND, Timestamp::wall_clock(), Payload::JobResult(result));
        let headers = carried.map(|header| (inline::OUTPUT.to_owned(), header.to_owned())).into_iter().collect();
        let id = ids::generate();
        let told = self.wire.bus.publish_durable(subjects::RESULT, &id, headers, packet);
        self.wire.runtime.block_on(told).unwrap();
    }
}

/// What Redis says to a command, by the first line of the answer.
struct Redis<'a>(&'a str);

impl Redis<'_> {
    fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.0.strip_prefix("redis://").unwrap()).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        BufReader::new(stream).lines().next().unwrap().unwrap()
    }

    /// How long a key lives, in milliseconds; -1 for ever, -2 where there is none.
    fn lives(&self, key: &str) -> i64 {
        self.say(&format!("PTTL {key}")).trim_start_matches(':').parse().unwrap()
    }

    fn holds(&self, key: &str, value: &str) {
        assert_eq!(self.say(&format!("STRLEN {key}")), format!(":{}", value.len()), "{key}");
        let mut stream = TcpStream::connect(self.0.strip_prefix("redis://").unwrap()).unwrap();
        stream.write_all(format!("GET {key}\r\n").as_bytes()).unwrap();
        assert_eq!(BufReader::new(stream).lines().nth(1).unwrap().unwrap(), value, "{key}");
    }
}

#[test]
fn small_payloads_travel_and_stand_in_redis() {
    let dev = Dev::start();
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let redis = Redis(&dev.endpoints.redis);
    let mut hand = Hand::join(&dev, &wire);

    let job = client.submit(TOPIC, &json!({"n": 1}));
    let (request, headers) = hand.take(&job);
    let (ctx, res) = (keys::context(&job), keys::attempt_result(&job, 1));
    assert_eq!(request.context_ptr, format!("redis://{ctx}"));
    assert_eq!(inline::decode(&headers[inline::INPUT]), Ok(r#"{"n":1}"#.into()));
    assert_eq!(headers[inline::OUTPUT_BYTES_MAX], inline::BYTES_MAX.to_string());
    redis.holds(&ctx, r#"{"n":1}"#);
    assert_eq!(redis.lives(&ctx), -1);
    let output = r#"{"answer":42}"#;
    hand.succeed(&request, output.as_bytes(), Some(&inline::encode(output.as_bytes())));
    let done = client.wait(&job);
    assert_eq!((done.state, done.result.map(|result| result.get().to_owned())), (JobState::Succeeded, Some(output.to_owned())));
    redis.holds(&res, output);
    for key in [&ctx, &res] {
        let lives = redis.lives(key);
        assert!(lives > 0 && lives <= DAY_MS, "{key}: {lives}");
    }

    // A result that comes again, or late, changes nothing, whatever comes with it.
    hand.succeed(&request, b"0", Some(&inline::encode(b"0")));
    // A larger input goes the old way; so does a larger output.
    let large = "x".repeat(inline::BYTES_MAX);
    let job = client.submit(TOPIC, &json!(large));
    let (request, headers) = hand.take(&job);
    assert_eq!(headers.get(inline::INPUT), None);
    assert_eq!(redis.say(&format!("STRLEN ctx:{job}")), format!(":{}", large.len() + 2));
    redis.say(&format!("SET res:{job}:1 7"));
    hand.succeed(&request, b"7", None);
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    redis.holds(&format!("res:{job}:1"), "7");
    assert!(redis.lives(&format!("res:{job}:1")) > 0);
    redis.holds(&res, output);

    // Whoever submits on the bare bus waits there, and reads what a result points to as soon as it comes.
    let bare = JobRequest { job_id: ids::generate(), topic: TOPIC.to_owned(), ..JobRequest::default() };
    wire.say(subjects::SUBMIT, "test", Payload::JobRequest(bare.clone()));
    let (_, headers) = hand.take(&bare.job_id);
    assert_eq!(headers.get(inline::OUTPUT_BYTES_MAX), None);
}

/// What comes with a result counts only if it is what the packet speaks of.
#[test]
fn an_output_that_its_packet_does_not_state_is_none() {
    let dev = Dev::start();
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let redis = Redis(&dev.endpoints.redis);
    let alerts = wire.listen(subjects::ALERT);
    let mut hand = Hand::join(&dev, &wire);
    let too_large = inline::encode(&vec![b'7'; inline::BYTES_MAX + 1]);
    let cases = [(inline::encode(b"8"), "packet states"), ("no base64!".to_owned(), "base64"), (too_large, "more than")];
    for (header, _) in &cases {
        let job = client.submit(TOPIC, &json!(1));
        let (request, _) = hand.take(&job);
        hand.succeed(&request, b"7", Some(header));
        let done = client.wait(&job);
        assert_eq!((done.state, done.error_code.as_deref()), (JobState::Failed, Some("payload_missing")));
        assert_eq!(redis.lives(&keys::attempt_result(&job, 1)), -2, "nothing was written");
    }
    until("operators are told", || alerts.told("packet_malformed").then_some(()));

    // Where the worker has written its output itself, a header that says something else does no harm.
    let job = client.submit(TOPIC, &json!(1));
    let (request, _) = hand.take(&job);
    redis.say(&format!("SET res:{job}:1 7"));
    hand.succeed(&request, b"7", Some(&cases[0].0));
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    redis.holds(&format!("res:{job}:1"), "7");
}

/// What does not become a job leaves no input behind.
#[test]
fn a_submission_that_is_not_taken_leaves_nothing() {
    let dev = Dev::start();
    let wire = Wire::connect(&dev.endpoints.nats);
    let truth = Truth::connect(&dev.endpoints.redis);
    let redis = Redis(&dev.endpoints.redis);
    let next = Cell::new(0);
    let item = |topic: &str, key: &str, input: &Value| {
        next.set(next.get() + 1);
        let job_id = format!("by-hand-{}", next.get());
        let meta = JobMetadata { idempotency_key: key.to_owned(), ..JobMetadata::default() };
        let context_ptr = Pointer::Redis(keys::context(&job_id)).to_string();
        let request = JobRequest {
            job_id: job_id.clone(),
            topic: topic.to_owned(),
            context_ptr,
            meta: Some(meta),
            ..JobRequest::default()
        };
        let item = AdmitItem {
            request: request.encode_to_vec().into(),
            tenant_id: ids::DEFAULT_TENANT.to_owned(),
            input: input.to_string().into(),
            revocable: true,
            ..AdmitItem::default()
        };
        (job_id, item)
    };
    let admit = |item: &AdmitItem| wire.admit(vec![item.clone()]).remove(0);

    let (first, taken) = item(TOPIC, "key", &json!(1));
    for existing in [false, true] {
        let admitted = admit(&taken).expect("taken, and recognised when it comes again");
        assert_eq!((admitted.job_id.as_str(), admitted.existing), (first.as_str(), existing));
    }
    redis.holds(&keys::context(&first), "1");
    let (again, repeated) = item(TOPIC, "key", &json!(2));
    assert_eq!(admit(&repeated).map(|admitted| (admitted.job_id, admitted.existing)), Ok((first.clone(), true)));

    let (unknown, lost) = item("job.nowhere", "", &json!(3));
    assert_eq!(admit(&lost).err().as_deref(), Some("unknown_topic"));
    let (large, too_large) = item(TOPIC, "", &json!("x".repeat(inline::BYTES_MAX)));
    assert_eq!(admit(&too_large).err().as_deref(), Some("payload_too_large"));
    let (elsewhere, misplaced) = item(TOPIC, "", &json!(4));
    let misplaced = AdmitItem {
        request: envelope::patch_request(
            &misplaced.request,
            &JobRequest {
                context_ref: Some(ResourceRef { uri: "x".to_owned(), ..ResourceRef::default() }),
                ..JobRequest::default()
            },
        ),
        ..misplaced
    };
    assert_eq!(admit(&misplaced).err().as_deref(), Some("pointer_invalid"));
    let (gone, revoked) = item(TOPIC, "", &json!(5));
    redis.say(&format!("SET {} x", keys::revoked(&gone)));
    assert_eq!(admit(&revoked).err().as_deref(), Some("payload_missing"));

    for job in [again, unknown, large, elsewhere, gone] {
        assert_eq!(redis.lives(&keys::context(&job)), -2, "{job}");
        assert_eq!(truth.record(&keys::job(&job)), None, "{job}");
    }
    redis.holds(&keys::context(&first), "1");
}
