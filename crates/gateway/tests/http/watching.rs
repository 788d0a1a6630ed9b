//! Watching jobs over gRPC: nothing is lost or told twice, whatever the bus loses and however slow the reader is.
//!
//! The tests write the log themselves, and choose which of its entries the bus tells.

use busbar_gateway::Role;
use busbar_protocol::busbar::watch_jobs_reply::What;
use busbar_protocol::busbar::{JobEvent, JobEventBatch, JobEventEntry, JobState, WatchBegins, WatchJobsReply, WatchJobsRequest};
use busbar_protocol::cap::JobProgress;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::ports::{Bus as _, CommitClass, CommitId, Headers, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, keys, subjects};
use busbar_rpc::tonic::{Code, Streaming};

use crate::grpc::{client, client_with, refused, submit};
use crate::support::{DEADLINE, Fixture, Scheduler, key};

/// Far later than what the stand-in for the scheduler writes into records.
const LATER: u64 = 1_800_000_000_000;

fn event(job_id: &str, state: JobState, at_ms: u64) -> JobEvent {
    JobEvent {
        job_id: job_id.into(),
        tenant_id: "acme".into(),
        topic: "job.echo".into(),
        states: vec![state.into()],
        at_ms,
        ..JobEvent::default()
    }
}

/// Appends events to the log. Returns what the relay would tell of them.
async fn append(fixture: &Fixture, events: &[JobEvent], keep: u64) -> Vec<JobEventBatch> {
    let mut after = fixture.store.log_end(keys::LOG_JOBS).await.expect("read");
    let append = |event: &JobEvent| Write::Append { log: keys::LOG_JOBS.into(), value: event.encode_to_vec().into(), keep };
    for chunk in events.chunks(128) {
        let unit = |event| Unit { id: CommitId::generate(), guards: vec![], writes: vec![append(event)] };
        fixture.store.commit(CommitClass::Advance, chunk.iter().map(unit).collect::<Vec<_>>()).await.expect("committed");
    }
    let mut batches = Vec::new();
    loop {
        let entries = fixture.store.log_after(keys::LOG_JOBS, &after, 100).await.expect("read");
        let Some(last) = entries.last().map(|entry| entry.cursor.clone()) else { return batches };
        let entry = |entry: busbar_protocol::ports::LogEntry| JobEventEntry {
            event: Some(JobEvent::decode(entry.value).expect("ours")),
            cursor: entry.cursor,
        };
        batches.push(JobEventBatch { after, entries: entries.into_iter().map(entry).collect() });
        after = last;
    }
}

async fn tell(fixture: &Fixture, batches: &[JobEventBatch]) {
    for batch in batches {
        fixture.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.encode_to_vec().into()).await.expect("published");
    }
}

async fn next(replies: &mut Streaming<WatchJobsReply>) -> Option<WatchJobsReply> {
    tokio::time::timeout(DEADLINE, replies.message()).await.expect("in time").expect("no refusal")
}

/// What the next reply says in short: the state of a job, of a change, or the percentage.
async fn short(replies: &mut Streaming<WatchJobsReply>) -> String {
    match next(replies).await.and_then(|reply| reply.what) {
        Some(What::Job(job)) => format!("job {}", job.state().as_str_name()),
        Some(What::Change(change)) => format!("change {}", change.states().next_back().expect("a state").as_str_name()),
        Some(What::Progress(progress)) => format!("progress {}", progress.percent),
        Some(What::Begins(WatchBegins { missed })) => format!("begins, missed: {missed}"),
        None => "the end".to_owned(),
    }
}

fn of_job(job_id: &str) -> WatchJobsRequest {
    WatchJobsRequest { job_id: job_id.into(), ..WatchJobsRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_is_watched_to_its_end_although_the_bus_loses_messages() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let job_id = submit(&mut jobs).await;
    // What was before the watch is no news to it.
    append(&fixture, &[event(&job_id, JobState::Scheduled, 1)], 1_000).await;
    let mut replies = jobs.watch(of_job(&job_id)).await.expect("begun").into_inner();
    assert_eq!(short(&mut replies).await, "job JOB_STATE_SCHEDULED");

    let told = append(&fixture, &[event(&job_id, JobState::Dispatched, LATER)], 1_000).await;
    tell(&fixture, &told).await;
    tell(&fixture, &told).await;
    assert_eq!(short(&mut replies).await, "change JOB_STATE_DISPATCHED");
    let progress = JobProgress { job_id: job_id.clone(), percent: 40, ..JobProgress::default() };
    let packet = envelope::packet("t", "w1", Timestamp::wall_clock(), Payload::JobProgress(progress));
    fixture.bus.publish(subjects::PROGRESS, Headers::new(), packet).await.expect("published");
    assert_eq!(short(&mut replies).await, "progress 40");

    // One message is lost, the next one shows the gap.
    append(&fixture, &[event(&job_id, JobState::Running, LATER)], 1_000).await;
    let told = append(&fixture, &[event(&job_id, JobState::Scheduled, LATER)], 1_000).await;
    tell(&fixture, &told).await;
    assert_eq!(short(&mut replies).await, "change JOB_STATE_RUNNING");
    let before_the_end = next(&mut replies).await.expect("a change").cursor;

    // The message of the end is lost, and none comes after it.
    scheduler.finish(&job_id, JobState::Succeeded, Some(r#"{"b": 2}"#)).await;
    append(&fixture, &[event(&job_id, JobState::Succeeded, LATER)], 1_000).await;
    assert_eq!(short(&mut replies).await, "change JOB_STATE_SUCCEEDED");
    let last = next(&mut replies).await.expect("the job");
    let Some(What::Job(job)) = &last.what else { panic!("{last:?}") };
    assert_eq!(&job.result_json[..], br#"{"b": 2}"#);
    assert_eq!(short(&mut replies).await, "the end");

    // Whoever was cut off goes on where it was.
    for (cursor, expected) in [
        (before_the_end.as_str(), &["change JOB_STATE_SUCCEEDED", "job JOB_STATE_SUCCEEDED", "the end"][..]),
        (last.cursor.as_str(), &["job JOB_STATE_SUCCEEDED", "the end"]),
        ("9999999999999-0", &["job JOB_STATE_SUCCEEDED", "the end"]),
        ("", &["job JOB_STATE_SUCCEEDED", "the end"]),
    ] {
        let request = WatchJobsRequest { cursor: cursor.into(), ..of_job(&job_id) };
        let mut replies = jobs.watch(request).await.expect("begun").into_inner();
        for told in expected {
            assert_eq!(short(&mut replies).await, *told, "after {cursor:?}");
        }
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_hears_of_its_own_jobs_that_fit() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let request =
        WatchJobsRequest { topic: "job.a.*".into(), states: vec![JobState::Failed.into()], ..WatchJobsRequest::default() };
    let mut replies = jobs.watch(request.clone()).await.expect("begun").into_inner();
    assert_eq!(short(&mut replies).await, "begins, missed: false");
    let of = |tenant: &str, topic: &str, state, job: &str| JobEvent {
        tenant_id: tenant.into(),
        topic: topic.into(),
        ..event(job, state, LATER)
    };
    let events = [
        of("other", "job.a.b", JobState::Failed, "j1"),
        of("acme", "job.b", JobState::Failed, "j2"),
        of("acme", "job.a.b", JobState::Running, "j3"),
        of("acme", "job.a.b", JobState::Failed, "j4"),
    ];
    tell(&fixture, &append(&fixture, &events, 1_000).await).await;
    let reply = next(&mut replies).await.expect("a change");
    let Some(What::Change(change)) = &reply.what else { panic!("{reply:?}") };
    assert_eq!((change.job_id.as_str(), change.at.expect("set").seconds), ("j4", 1_800_000_000));

    for (bad, code) in [
        (WatchJobsRequest { cursor: "garbage".into(), ..request.clone() }, "cursor_invalid"),
        (WatchJobsRequest { topic: "job..x".into(), ..request.clone() }, "topic_invalid"),
        (WatchJobsRequest { job_id: "j4".into(), ..request.clone() }, "field_invalid"),
        (WatchJobsRequest { states: vec![99], ..request }, "field_invalid"),
    ] {
        refused(jobs.watch(bad).await.map(drop), Code::InvalidArgument, code);
    }
    refused(jobs.watch(of_job("nobody")).await.map(drop), Code::NotFound, "job_not_found");
    // The end of the gateway ends the watch, with word on what to do.
    fixture.kit.shutdown.trigger();
    let ended = tokio::time::timeout(DEADLINE, replies.message()).await.expect("in time");
    refused(ended, Code::Unavailable, "gateway_busy");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_misses_nothing_and_holds_up_nobody() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let viewer = key(&fixture.store, "acme", Role::Viewer).await;
    let mut watching = [client(&fixture), client_with(&fixture, Some(&viewer))].map(Some);
    let mut streams = Vec::new();
    for client in &mut watching {
        let client = client.as_mut().expect("there");
        let mut replies = client.watch(WatchJobsRequest::default()).await.expect("begun").into_inner();
        assert_eq!(short(&mut replies).await, "begins, missed: false");
        streams.push(replies);
    }
    let [slow, quick] = &mut streams[..] else { unreachable!() };
    // Far more than the gateway keeps for followers: 20,000 events, each of them a message.
    let events: Vec<JobEvent> = (0..20_000)
        .map(|n| JobEvent { error_message: "x".repeat(200), ..event(&format!("j{n}"), JobState::Failed, LATER) })
        .collect();
    let batches = append(&fixture, &events, 100_000).await;
    let read = async |replies: &mut Streaming<WatchJobsReply>| {
        for n in 0..20_000 {
            let reply = next(replies).await.expect("a change");
            let Some(What::Change(change)) = reply.what else { panic!("{reply:?}") };
            assert_eq!(change.job_id, format!("j{n}"));
        }
    };
    let one_by_one = batches.iter().flat_map(|batch| {
        let mut after = batch.after.clone();
        batch.entries.iter().map(move |entry| JobEventBatch {
            after: std::mem::replace(&mut after, entry.cursor.clone()),
            entries: vec![entry.clone()],
        })
    });
    let one_by_one: Vec<JobEventBatch> = one_by_one.collect();
    tokio::join!(tell(&fixture, &one_by_one), read(quick));
    read(slow).await;

    // Cut off in the middle, and going on from there.
    let middle = &batches[123].entries[45];
    let request = WatchJobsRequest { cursor: middle.cursor.clone(), ..WatchJobsRequest::default() };
    let mut resumed = client(&fixture).watch(request).await.expect("begun").into_inner();
    for n in 12_346..20_000 {
        let reply = next(&mut resumed).await.expect("a change");
        let Some(What::Change(change)) = reply.what else { panic!("{reply:?}") };
        assert_eq!(change.job_id, format!("j{n}"));
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_the_log_has_forgotten_is_told() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let first = append(&fixture, &[event("j", JobState::Running, LATER)], 1_000).await;
    let cursor = first[0].entries[0].cursor.clone();
    let many: Vec<JobEvent> = (0..1_000).map(|n| event(&format!("j{n}"), JobState::Running, LATER)).collect();
    append(&fixture, &many, 10).await;
    for cursor in [cursor.as_str(), "0", "9999999999999-0"] {
        let request = WatchJobsRequest { cursor: cursor.into(), ..WatchJobsRequest::default() };
        let mut replies = jobs.watch(request).await.expect("begun").into_inner();
        assert_eq!(short(&mut replies).await, "begins, missed: true", "after {cursor}");
    }
    fixture.end().await;
}
