//! What a native worker promises the scheduler, on real servers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use crate::rig::{PATIENCE, Rig, TRACEPARENT, WORKER, identity, request};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobRequest, JobStatus, ResourceRef};
use busbar_protocol::envelope;
use busbar_protocol::inline;
use busbar_protocol::ports::{Bus, PullConsumer, Records};
use busbar_protocol::subjects::{self, Stream};
use busbar_sdk::{Context, Failure, PauseScope, Request, Worker, WorkerError, WorkerOptions};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

fn echo(worker: &mut Worker) {
    worker.handle("job.echo", |_, input: Value| async move { Ok(input) });
}

/// A handler that runs until it is let go, and counts its runs.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    runs: Arc<watch::Sender<u32>>,
}

impl Gate {
    fn new() -> Self {
        Self { open: Arc::new(Semaphore::new(0)), runs: Arc::default() }
    }

    fn register(&self, worker: &mut Worker) {
        let gate = self.clone();
        worker.handle("job.gate", move |context: Context, (): ()| {
            let gate = gate.clone();
            async move {
                gate.runs.send_modify(|runs| *runs += 1);
                tokio::select! {
                    permit = gate.open.acquire() => permit?.forget(),
                    () = context.cancelled() => return Err(Failure::cancelled()),
                }
                Ok("passed")
            }
        });
    }

    fn let_one_go(&self) {
        self.open.add_permits(1);
    }

    fn runs(&self) -> u32 {
        *self.runs.borrow()
    }

    /// Waits until the handler has been called so often.
    async fn ran(&self, times: u32) {
        timeout(PATIENCE, self.runs.subscribe().wait_for(|runs| *runs >= times)).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_becomes_a_result_and_is_held_until_then() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let running = rig.work(rig.options(), |worker| gate.register(worker)).await;
    rig.input("a", &Value::Null).await;
    rig.dispatch("a", 1, "job.gate").await;
    let beat = rig.holds(&[("a", 1)]).await;
    assert_eq!((beat.worker_id.as_str(), beat.capacity, beat.held[0].dispatch_id.as_str()), (WORKER, 2, "d1"));
    gate.let_one_go();
    let (result, delivery) = rig.delivery().await;
    assert_eq!((result.status(), result.worker_id.as_str()), (JobStatus::Succeeded, WORKER));
    assert_eq!((result.result_ptr.as_str(), result.dispatch), ("redis://res:a:1", Some(identity(1))));
    assert_eq!(delivery.message.headers.get("traceparent").map(String::as_str), Some(TRACEPARENT));
    assert_eq!(rig.payload("res:a:1").await.unwrap(), "\"passed\"");
    let later = rig.holds(&[]).await;
    assert!(later.sequence > beat.sequence && later.incarnation == beat.incarnation);
    timeout(PATIENCE, running.stop()).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_runs_once_and_a_finished_attempt_is_answered_again() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let _running = rig.work(rig.options(), |worker| gate.register(worker)).await;
    rig.input("a", &Value::Null).await;
    for _ in 0..3 {
        rig.dispatch("a", 1, "job.gate").await;
    }
    rig.holds(&[("a", 1)]).await;
    gate.let_one_go();
    let first = rig.result().await;
    rig.holds(&[]).await;
    for _ in 0..2 {
        rig.dispatch("a", 1, "job.gate").await;
        assert_eq!(rig.result().await, first, "also within the stream's memory of message ids");
    }
    assert_eq!(gate.runs(), 1);
    // An attempt before the one that was here is over; one after it is new.
    rig.dispatch("a", 3, "job.gate").await;
    rig.holds(&[("a", 3)]).await;
    rig.dispatch("a", 2, "job.gate").await;
    gate.let_one_go();
    assert_eq!(rig.result().await.dispatch, Some(identity(3)));
    assert_eq!(gate.runs(), 2);
}

/// Nothing stands in Redis before the attempt, nor after it.
#[tokio::test(flavor = "multi_thread")]
async fn small_payloads_come_and_go_with_their_messages() {
    let mut rig = Rig::start().await;
    let _running = rig.work(rig.options(), echo).await;
    let header = inline::encode(b"[1]");
    let offered = [(inline::INPUT, header.as_str()), (inline::OUTPUT_BYTES_MAX, "3")];
    rig.dispatch_with(request("a", 1, "job.echo"), &offered).await;
    let (result, delivery) = rig.delivery().await;
    assert_eq!((result.status(), result.result_ptr.as_str()), (JobStatus::Succeeded, "redis://res:a:1"));
    let output = inline::decode_as(&delivery.message.headers[inline::OUTPUT], &result.result_ref.clone().unwrap());
    assert_eq!(output, Ok("[1]".into()));
    assert_eq!(rig.payload("res:a:1").await, None);
    // A repeated dispatch gets the same again, output included.
    rig.holds(&[]).await;
    rig.dispatch_with(request("a", 1, "job.echo"), &offered).await;
    let (again, repeated) = rig.delivery().await;
    assert_eq!((again, &repeated.message.headers[inline::OUTPUT]), (result, &delivery.message.headers[inline::OUTPUT]));

    // What is larger than the scheduler takes is stored, and so is everything where it takes nothing.
    let larger = inline::encode(b"[12]");
    for (job, headers) in
        [("b", vec![(inline::INPUT, &*larger), (inline::OUTPUT_BYTES_MAX, "3")]), ("c", vec![(inline::INPUT, &*header)])]
    {
        rig.dispatch_with(request(job, 1, "job.echo"), &headers).await;
        let (result, delivery) = rig.delivery().await;
        assert_eq!((result.status(), delivery.message.headers.get(inline::OUTPUT)), (JobStatus::Succeeded, None), "{job}");
        assert!(rig.payload(&format!("res:{job}:1")).await.is_some(), "{job}");
    }

    // A header that cannot be read, and one beside a pointer to something else, are as good as none.
    rig.input("d", &json!("stored")).await;
    rig.dispatch_with(request("d", 1, "job.echo"), &[(inline::INPUT, "[1]")]).await;
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    assert_eq!(rig.payload("res:d:1").await.unwrap(), "\"stored\"");
    rig.store.put_payload("ctx:e.redacted", "\"redacted\"".into(), None).await.unwrap();
    let redacted = JobRequest { context_ptr: "redis://ctx:e.redacted".into(), ..request("e", 1, "job.echo") };
    rig.dispatch_with(redacted, &[(inline::INPUT, &*header)]).await;
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    assert_eq!(rig.payload("res:e:1").await.unwrap(), "\"redacted\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_attempts_come_in_one_message_each_for_itself() {
    let mut rig = Rig::start().await;
    let options = WorkerOptions { max_parallel: 1, prefetch: Some(5), ..rig.options() };
    let _running = rig.work(options, echo).await;
    let start = rig.beat(|beat| beat.takes_batches).await.incarnation;
    let one = json!({ "x": 1 });
    rig.dispatch_together("an earlier one", &[("lost", "job.echo", &one)]).await;
    rig.dispatch_together(&start, &[("a", "job.echo", &one), ("b", "job.nobody", &one), ("c", "job.echo", &one)]).await;
    // Nobody answers reports here, and the stream keeps results in the order in which they come.
    let mut ends = Vec::new();
    for _ in 0..3 {
        let result = rig.result().await;
        ends.push((result.job_id.clone(), result.status()));
    }
    ends.sort();
    let named = [("a", JobStatus::Succeeded), ("b", JobStatus::FailedRetryable), ("c", JobStatus::Succeeded)];
    assert_eq!(ends, named.map(|(job_id, status)| (job_id.to_owned(), status)));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellation_reaches_running_and_queued_attempts() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let options = WorkerOptions { max_parallel: 1, ..rig.options() };
    let _running = rig.work(options, |worker| gate.register(worker)).await;
    for job in ["a", "b", "c"] {
        rig.input(job, &Value::Null).await;
    }
    rig.dispatch("a", 1, "job.gate").await;
    rig.dispatch("b", 1, "job.gate").await;
    rig.dispatch("c", 1, "job.gate").await; // Beyond what it takes: ignored.
    let beat = rig.holds(&[("a", 1), ("b", 1)]).await;
    assert_eq!((beat.capacity, beat.prefetch), (1, 1), "as many in advance as at once, if nothing else is said");
    gate.ran(1).await;
    rig.cancel("b", None).await;
    let queued = rig.result().await;
    assert_eq!((queued.job_id.as_str(), queued.status(), queued.execution_ms), ("b", JobStatus::Cancelled, 0));
    rig.cancel("a", Some(2)).await; // Another attempt: not this one.
    rig.cancel("a", Some(1)).await;
    let run = rig.result().await;
    assert_eq!((run.job_id.as_str(), run.status()), ("a", JobStatus::Cancelled));
    assert_eq!((run.error_code.as_str(), run.error_message.as_str()), ("cancelled", "not needed"));
    assert_eq!(gate.runs(), 1);
    rig.holds(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_in_advance_waits_in_order_and_without_it_nothing_does() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let options = WorkerOptions {
        max_parallel: 1,
        prefetch: Some(3),
        worker_type: "spot".to_owned(),
        region: "north".to_owned(),
        ..rig.options()
    };
    let running = rig.work(options, |worker| gate.register(worker)).await;
    let jobs = ["d", "b", "c", "a"];
    for job in jobs {
        rig.input(job, &Value::Null).await;
        rig.dispatch(job, 1, "job.gate").await;
    }
    let beat = rig.beat(|beat| beat.held.len() == 4).await;
    assert_eq!((beat.capacity, beat.prefetch), (1, 3));
    assert_eq!((beat.worker_type.as_str(), beat.region.as_str()), ("spot", "north"));
    for job in jobs {
        gate.let_one_go();
        assert_eq!(rig.result().await.job_id, job);
    }
    timeout(PATIENCE, running.stop()).await.unwrap().unwrap().unwrap();

    let gate = Gate::new();
    let options = WorkerOptions { max_parallel: 1, prefetch: Some(0), ..rig.options() };
    let _running = rig.work(options, |worker| gate.register(worker)).await;
    rig.input("e", &Value::Null).await;
    rig.dispatch("e", 1, "job.gate").await;
    rig.dispatch("b", 2, "job.gate").await;
    gate.let_one_go();
    assert_eq!(rig.result().await.job_id, "e");
    rig.beat(|beat| beat.prefetch == 0 && beat.held.is_empty()).await;
    // The other one was not taken: now it is, and nothing else has run.
    rig.dispatch("b", 2, "job.gate").await;
    gate.let_one_go();
    assert_eq!(rig.result().await.job_id, "b");
    assert_eq!(gate.runs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_hands_back_the_rest() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let options = WorkerOptions { max_parallel: 1, prefetch: Some(2), ..rig.options() };
    let running = rig.work(options, |worker| gate.register(worker)).await;
    for job in ["a", "b", "c"] {
        rig.input(job, &Value::Null).await;
    }
    rig.dispatch("a", 1, "job.gate").await;
    rig.dispatch("b", 1, "job.gate").await;
    rig.holds(&[("a", 1), ("b", 1)]).await;
    gate.ran(1).await;
    let ended = running.stop();
    let waited = rig.result().await;
    assert_eq!((waited.job_id.as_str(), waited.status(), waited.execution_ms), ("b", JobStatus::FailedRetryable, 0));
    assert_eq!((waited.error_code.as_str(), waited.dispatch), ("worker_left", Some(identity(1))));
    rig.beat(|beat| beat.draining && beat.held.len() == 1).await;
    // What was on its way when the drain began comes back, too, and as often as it is asked about.
    for _ in 0..2 {
        rig.dispatch("c", 1, "job.gate").await;
        let late = rig.result().await;
        assert_eq!((late.job_id.as_str(), late.error_code.as_str(), late.execution_ms), ("c", "worker_left", 0));
        rig.holds(&[("a", 1)]).await;
    }
    gate.let_one_go();
    let finished = rig.result().await;
    assert_eq!((finished.job_id.as_str(), finished.status()), ("a", JobStatus::Succeeded));
    let last = rig.beat(|beat| beat.leaving).await;
    assert!(last.held.is_empty() && last.draining);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert_eq!(gate.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_held_and_takes_nothing_new() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let running = rig.work(rig.options(), |worker| gate.register(worker)).await;
    for job in ["a", "b"] {
        rig.input(job, &Value::Null).await;
    }
    rig.dispatch("a", 1, "job.gate").await;
    rig.holds(&[("a", 1)]).await;
    let ended = running.stop();
    rig.beat(|beat| beat.draining && beat.held.len() == 1).await;
    gate.let_one_go();
    assert_eq!(rig.result().await.job_id, "a");
    let last = rig.beat(|beat| beat.leaving).await;
    assert!(last.held.is_empty() && last.draining);
    timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
    assert_eq!(gate.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_gives_back_what_runs_and_says_so() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let options = WorkerOptions { drain_within: Duration::from_millis(10), ..rig.options() };
    let running = rig.work(options, |worker| {
        gate.register(worker);
        worker.handle("job.deaf", |_, (): ()| std::future::pending::<Result<(), Failure>>());
    });
    let running = running.await;
    rig.input("a", &Value::Null).await;
    rig.input("b", &Value::Null).await;
    rig.dispatch("a", 1, "job.deaf").await;
    rig.holds(&[("a", 1)]).await;
    rig.dispatch("b", 1, "job.gate").await;
    gate.ran(1).await;
    let ended = running.stop();
    let heeds = rig.result().await;
    assert_eq!((heeds.job_id.as_str(), heeds.status()), ("b", JobStatus::FailedRetryable), "not cancelled: nobody wanted that");
    assert_eq!(heeds.error_code, "worker_left");
    assert!(heeds.execution_ms > 0, "it had begun");
    let last = rig.beat(|beat| beat.leaving).await;
    assert_eq!((last.held.len(), last.held[0].job_id.as_str()), (1, "a"), "the rest is lost, but not by a crash");
    let ended = timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(matches!(ended, Err(WorkerError::DrainTimedOut { held: 1, .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_end_has_its_code() {
    let mut rig = Rig::start().await;
    let _running = rig.work(rig.options(), |worker| {
        worker.handle("job.panics", |_, (): ()| async { if true { panic!("on purpose") } else { Ok(()) } });
        worker.handle_blocking("job.blocks", |_, (): ()| if true { panic!("on a thread") } else { Ok(()) });
        worker.handle("job.retry", |_, (): ()| async { Err::<(), _>(Failure::retry("later")) });
        worker.handle("job.limited", |_, (): ()| async {
            Err::<(), _>(Failure::rate_limited(PauseScope::Tenant, Duration::from_secs(30)))
        });
        worker.handle("job.own", |_, (): ()| async { Err::<(), _>(Failure::new("out_of_tea", "x".repeat(5000))) });
        worker.handle("job.large", |_, (): ()| async { Ok("x".repeat(1 << 20)) });
        worker.handle("job.typed", |_, _: u8| async { Ok(()) });
    });
    let _running = _running.await;
    let cases = [
        ("job.panics", JobStatus::Failed, "handler_failed", "the handler panicked: on purpose"),
        ("job.blocks", JobStatus::Failed, "handler_failed", "the handler panicked: on a thread"),
        ("job.retry", JobStatus::FailedRetryable, "attempt_failed", "later"),
        ("job.limited", JobStatus::FailedRetryable, "rate_limited", "[pause tenant 30s] what"),
        ("job.own", JobStatus::Failed, "out_of_tea", "xxx"),
        ("job.large", JobStatus::Failed, "result_too_large", ""),
        ("job.typed", JobStatus::Failed, "input_invalid", "the input is not what the handler takes"),
        ("job.nobody", JobStatus::FailedRetryable, "unknown_topic", "this worker has no handler for job.nobody"),
    ];
    for (topic, status, code, message) in cases {
        rig.input(topic, &Value::Null).await;
        rig.dispatch(topic, 1, topic).await;
        let result = rig.result().await;
        assert_eq!((result.job_id.as_str(), result.status(), result.error_code.as_str()), (topic, status, code));
        assert!(result.error_message.starts_with(message) && result.error_message.len() <= 4096, "{}", result.error_message);
    }
    rig.dispatch("no-input", 1, "job.typed").await;
    assert_eq!(rig.result().await.error_code, "payload_missing");
    rig.dispatch_as(JobRequest { context_ptr: "file:///etc/passwd".to_owned(), ..request("bad-pointer", 1, "job.typed") }).await;
    assert_eq!(rig.result().await.error_code, "pointer_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_logs_leave_the_worker() {
    let mut rig = Rig::start().await;
    let mut progress = rig.bus.subscribe(subjects::PROGRESS, None).await.unwrap();
    let _running = rig
        .work(rig.options(), |worker| {
            worker.handle("job.talks", |context: Context, (): ()| async move {
                context.log("one");
                for percent in 0..100 {
                    context.progress(percent, "on the way");
                }
                context.log("two");
                Ok(())
            });
        })
        .await;
    rig.input("a", &Value::Null).await;
    rig.dispatch("a", 1, "job.talks").await;
    let heard = timeout(PATIENCE, progress.next()).await.unwrap().unwrap();
    let Payload::JobProgress(report) = envelope::decode(&heard.payload).unwrap().payload else { panic!("progress") };
    assert_eq!((report.job_id.as_str(), report.status(), report.dispatch), ("a", JobStatus::Running, Some(identity(1))));
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    assert_eq!(rig.payload("log:a:1").await.unwrap(), "one\ntwo\n", "complete before the result is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_progress_says_that_it_is_alive() {
    let mut rig = Rig::start().await;
    let mut progress = rig.bus.subscribe(subjects::PROGRESS, None).await.unwrap();
    let gate = Gate::new();
    let waiting = gate.clone();
    let _running = rig
        .work(rig.options(), |worker| {
            worker.handle("job.slow", move |context: Context, (): ()| {
                let gate = waiting.clone();
                async move {
                    context.progress(7, "slow");
                    // One sign for each that the test has heard.
                    for _ in 0..3 {
                        gate.open.acquire().await?.forget();
                        context.alive();
                    }
                    Ok(())
                }
            });
        })
        .await;
    rig.input("a", &Value::Null).await;
    rig.dispatch("a", 1, "job.slow").await;
    for _ in 0..3 {
        let heard = timeout(PATIENCE, progress.next()).await.unwrap().unwrap();
        let Payload::JobProgress(report) = envelope::decode(&heard.payload).unwrap().payload else { panic!("progress") };
        assert_eq!((report.percent, report.message.as_str(), report.dispatch), (7, "slow", Some(identity(1))), "also unchanged");
        gate.let_one_go();
    }
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_handler_sees_environment_and_bytes() {
    let mut rig = Rig::start().await;
    let options = WorkerOptions { topics: Some(vec![]), ..rig.options() };
    let _running = rig
        .work(options, |worker| {
            worker.handle_any_blocking("job.>", |context: Context, request: Request| {
                let seen =
                    json!({ "module": request.env["BUSBAR_MODULE"], "input": request.input.len(), "attempt": context.attempt() });
                Ok(seen.to_string().into())
            });
        })
        .await;
    let beat = rig.beat(|_| true).await;
    assert!(beat.topics.is_empty(), "every topic of the pool");
    rig.input("a", &json!([1, 2])).await;
    let env = [("BUSBAR_MODULE".to_owned(), "sha256:00".to_owned())].into();
    rig.dispatch_as(JobRequest { env, ..request("a", 4, "job.any.thing") }).await;
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    let output: Value = serde_json::from_slice(&rig.payload("res:a:4").await.unwrap()).unwrap();
    assert_eq!(output, json!({ "module": "sha256:00", "input": 5, "attempt": 4 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_redis_goes_through_blobs() {
    let mut rig = Rig::start().await;
    let folder = tempfile::tempdir().unwrap();
    let url = busbar_blobs::url_of(folder.path());
    let blobs = busbar_blobs::Blobs::open(&url).unwrap();
    let options = WorkerOptions { blobs_url: Some(url), ..rig.options() };
    let _running = rig.work(options, echo).await;
    let input = json!("x".repeat(2 << 20)).to_string();
    let stored = blobs.put_bytes(input.clone().into()).await.unwrap();
    let reference = ResourceRef {
        resolver_id: "busbar.blobs".to_owned(),
        uri: format!("blob:sha256:{}", stored.sha256),
        ..ResourceRef::default()
    };
    rig.dispatch_as(JobRequest { context_ref: Some(reference.clone()), ..request("a", 1, "job.echo") }).await;
    let result = rig.result().await;
    assert_eq!((result.status(), result.result_ptr.as_str()), (JobStatus::Succeeded, ""));
    let output = result.result_ref.unwrap();
    assert_eq!((output.resolver_id.as_str(), output.uri.as_str()), ("busbar.blobs", reference.uri.as_str()));
    assert_eq!((output.sha256.len(), output.size_bytes), (32, input.len() as u64));
    blobs.delete(&stored.sha256).await.unwrap();
    rig.dispatch_as(JobRequest { context_ref: Some(reference), ..request("b", 1, "job.echo") }).await;
    assert_eq!(rig.result().await.error_code, "payload_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_announces_itself_once_and_shows_signs_of_life() {
    let mut rig = Rig::start().await;
    let mut heartbeats = rig.bus.subscribe(subjects::HEARTBEAT, None).await.unwrap();
    let _running = rig.work(rig.options(), echo).await;
    let mut handshakes = rig.bus.consume(Stream::Handshakes).await.unwrap();
    let kept = timeout(PATIENCE, async {
        loop {
            let pulled = handshakes.pull(10, Duration::from_secs(1)).await.unwrap();
            if !pulled.is_empty() {
                return pulled;
            }
        }
    });
    let kept = kept.await.unwrap();
    assert_eq!(kept.len(), 1);
    let Payload::Handshake(handshake) = envelope::decode(&kept[0].message.payload).unwrap().payload else {
        panic!("a handshake")
    };
    assert_eq!((handshake.component_id.as_str(), handshake.ready_topics), (WORKER, vec!["job.echo".to_owned()]));
    assert!(handshake.capabilities["progress"] && handshake.capabilities["cancel"]);
    let heard = timeout(PATIENCE, heartbeats.next()).await.unwrap().unwrap();
    let Payload::Heartbeat(heartbeat) = envelope::decode(&heard.payload).unwrap().payload else { panic!("a heartbeat") };
    assert_eq!((heartbeat.worker_id.as_str(), heartbeat.pool.as_str(), heartbeat.max_parallel_jobs), (WORKER, "default", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_go_on_while_handlers_block_the_runtime() {
    let mut rig = Rig::start().await;
    let mut options = rig.options();
    options.max_parallel = 8;
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // A runtime with a single thread, and a handler that never yields it.
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut worker = Worker::connect(options).await.unwrap();
            worker.handle("job.rude", move |_, (): ()| {
                let held = Arc::clone(&held);
                async move { held.lock().unwrap().recv().map_err(Failure::from) }
            });
            worker.run(async { drop(stopped.await) }).await
        })
    });
    rig.beat(|_| true).await;
    rig.input("a", &Value::Null).await;
    rig.dispatch("a", 1, "job.rude").await;
    let first = rig.holds(&[("a", 1)]).await;
    rig.beat(|beat| beat.sequence >= first.sequence + 3 && beat.held.len() == 1).await;
    let_go.send(()).unwrap();
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    stop.send(()).unwrap();
    tokio::task::spawn_blocking(move || worker.join().unwrap()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_survives_the_death_of_nats_during_the_handler() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let _running = rig.work(rig.options(), |worker| gate.register(worker)).await;
    rig.input("a", &Value::Null).await;
    rig.input("b", &Value::Null).await;
    rig.dispatch("a", 1, "job.gate").await;
    let before = rig.holds(&[("a", 1)]).await;
    rig.stack.nats.kill9();
    gate.let_one_go();
    rig.stack.nats.restart().unwrap();
    let result = rig.result().await;
    assert_eq!((result.job_id.as_str(), result.status()), ("a", JobStatus::Succeeded));
    let after = rig.holds(&[]).await;
    assert_eq!(after.incarnation, before.incarnation);
    // It takes jobs again.
    gate.let_one_go();
    rig.dispatch("b", 1, "job.gate").await;
    assert_eq!(rig.result().await.job_id, "b");
    assert_eq!(gate.runs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_waits_for_redis_to_come_back() {
    let mut rig = Rig::start().await;
    let gate = Gate::new();
    let _running = rig.work(rig.options(), |worker| gate.register(worker)).await;
    rig.input("a", &Value::Null).await;
    rig.dispatch("a", 1, "job.gate").await;
    rig.holds(&[("a", 1)]).await;
    gate.ran(1).await;
    rig.stack.redis.kill9();
    gate.let_one_go();
    let held = rig.holds(&[("a", 1)]).await;
    rig.beat(|beat| beat.sequence > held.sequence && beat.held.len() == 1).await;
    rig.stack.redis.restart().unwrap();
    assert_eq!(rig.result().await.status(), JobStatus::Succeeded);
    assert_eq!(rig.payload("res:a:1").await.unwrap(), "\"passed\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_workers_subjects_harms_nothing() {
    let mut rig = Rig::start().await;
    let _running = rig.work(rig.options(), echo).await;
    for subject in [subjects::worker_jobs(WORKER).as_str(), &subjects::worker_batches(WORKER), subjects::CANCEL] {
        for garbage in [&b""[..], b"garbage", &[0xff; 100]] {
            rig.bus.publish(subject, Default::default(), garbage.to_vec().into()).await.unwrap();
        }
    }
    rig.dispatch_as(JobRequest { dispatch: None, ..request("unnamed", 1, "job.echo") }).await;
    rig.input("a", &json!({ "x": 1 })).await;
    rig.dispatch("a", 1, "job.echo").await;
    assert_eq!(rig.result().await.job_id, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_single_token_is_refused() {
    let rig = Rig::start().await;
    let refused = Worker::connect(WorkerOptions { id: "a.b".to_owned(), ..rig.options() }).await;
    assert!(matches!(refused, Err(WorkerError::Id { .. })));
}
