//! What can be asked, and what is answered.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use busbar_protocol::busbar::{
    DefineReply, DefineRequest, PauseReply, PauseRequest, RunCancelReply, RunEventBatch, RunHoldRequest, RunState, StartReply,
    Started, StepState, run_cancel_reply, start_reply,
};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use futures::future::join_all;
use futures::{StreamExt as _, join};
use serde_json::json;

use crate::rig::{Rig, document, heard, map_reduce, until, within};

fn started(reply: StartReply) -> Started {
    let Some(start_reply::Answer::Started(started)) = reply.answer else { panic!("{reply:?}") };
    started
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_saved_in_versions_and_taken_away() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    let saved = rig.define(&map_reduce()).await;
    assert_eq!((saved.number, saved.created, saved.problem), (1, true, None));
    let again = rig.define(&map_reduce()).await;
    assert_eq!((again.number, again.created), (1, false), "the same once more");

    let twice = document("doubled", &json!({"all": {"type": "transform", "value": 7}}), &json!("${steps.all.output}"));
    let check = DefineRequest {
        document: twice.to_string().into(),
        tenant_id: "default".to_owned(),
        check_only: true,
        ..DefineRequest::default()
    };
    let checked: DefineReply = rig.ask(subjects::ENGINE_DEFINE, &check).await;
    assert_eq!((checked.number, checked.created), (2, true), "as it would be");
    assert_eq!(rig.define(&twice).await.number, 2);

    let newest = rig.start_run("doubled", &json!({"numbers": [1, 2]})).await;
    assert_eq!(rig.output(&newest).await, json!(7));
    let mut first = Rig::question("doubled");
    first.workflow_version = 1;
    rig.input(&first.run_id, r#"{"numbers": [1, 2]}"#).await;
    assert_eq!(started(rig.ask_start(&first).await).workflow_version, 1);
    assert_eq!(rig.output(&first.run_id).await, json!(6), "a run is pinned to its version");

    assert_eq!(rig.remove("doubled", true).await, None);
    assert_eq!(rig.remove("doubled", false).await, None);
    assert_eq!(rig.remove("doubled", false).await.as_deref(), Some("workflow_not_found"));
    assert_eq!(rig.output(&first.run_id).await, json!(6), "what has run stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_repeated_is_the_same_run() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    rig.define(&map_reduce()).await;
    let mut request = Rig::question("doubled");
    request.idempotency_key = "once".to_owned();
    rig.input(&request.run_id, r#"{"numbers": [1, 2, 3]}"#).await;
    assert!(!started(rig.ask_start(&request).await).existing);
    assert_eq!(rig.output(&request.run_id).await, json!(12));
    let lives = rig.expires_in(&keys::run_output(&request.run_id));

    // Another version, and then none: what began stays what it was, and as long as it was to stay.
    rig.define(&document("doubled", &json!({"all": {"type": "transform", "value": 7}}), &json!("${steps.all.output}"))).await;
    let again = started(rig.ask_start(&request).await);
    assert_eq!((again.run_id.as_str(), again.existing, again.state()), (request.run_id.as_str(), true, RunState::Succeeded));
    assert_eq!(rig.remove("doubled", false).await, None);
    assert!(started(rig.ask_start(&request).await).existing);
    let mut other = Rig::question("doubled");
    other.idempotency_key = "once".to_owned();
    rig.input(&other.run_id, "null").await;
    assert_eq!(started(rig.ask_start(&other).await).run_id, request.run_id, "by its key");
    assert_eq!(rig.output(&request.run_id).await, json!(12));
    let left = rig.expires_in(&keys::run_output(&request.run_id));
    assert!(left > 24 * 3600 && left <= lives, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_with_live_runs_stays_and_a_run_is_cancelled_with_its_jobs() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    rig.define(&map_reduce()).await;
    rig.desk.hold("job.double");
    let mut told = rig.told().await;
    let run = rig.start_run("doubled", &json!({"numbers": [1, 2, 3]})).await;
    until("the jobs are out", async || (rig.desk.held().len() == 3).then_some(())).await;
    for check_only in [true, false] {
        assert_eq!(rig.remove("doubled", check_only).await.as_deref(), Some("workflow_in_use"));
    }
    let reply = rig.cancel(&run, "default").await;
    assert_eq!(reply.answer, Some(run_cancel_reply::Answer::State(RunState::Running.into())), "while jobs are out");
    let ended = rig.ended(&run).await;
    assert_eq!((ended.state(), ended.ending.unwrap().error_code.as_str()), (RunState::Cancelled, "cancelled"));
    assert_eq!(rig.step(&run, "map").await.unwrap().state(), StepState::Cancelled);
    assert!(rig.desk.held().is_empty(), "nothing of it lives");
    let ends = async {
        let mut ends = Vec::new();
        while ends.is_empty() {
            let batch: RunEventBatch = heard(&mut told).await;
            let events = batch.entries.into_iter().filter_map(|entry| entry.event);
            ends.extend(events.filter(|event| event.state() != RunState::Running).map(|event| event.state()));
        }
        ends
    };
    assert_eq!(within("the end is told", ends).await, [RunState::Cancelled]);
    assert_eq!(rig.remove("doubled", false).await, None);
}

/// A run whose workflow is gone could not go on after a takeover.
#[tokio::test(flavor = "multi_thread")]
async fn what_begins_while_its_workflow_is_taken_away_is_refused_or_keeps_it() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    let waiting = json!({"all": {"type": "job", "topic": "job.double", "input": "${input}"}});
    rig.desk.hold("job.double");
    for round in 0..40 {
        let contested = format!("contested-{round}");
        rig.define(&document(&contested, &waiting, &json!(null))).await;
        let start = async || {
            let request = Rig::question(&contested);
            rig.input(&request.run_id, "1").await;
            crate::refusals::code(&rig.ask_start(&request).await).map(str::to_owned)
        };
        let remove = async {
            // A start is prepared for longer: the two meet at one time or the other.
            tokio::time::sleep(Duration::from_micros(300 * round)).await;
            rig.remove(&contested, false).await
        };
        let (refusal, started) = join!(remove, join_all((0..8).map(|_| start())));
        match refusal.as_deref() {
            None => {
                let codes: Vec<Option<&str>> = started.iter().map(Option::as_deref).collect();
                assert_eq!(codes, [Some("workflow_not_found"); 8], "round {round}: it was taken away");
            }
            Some("workflow_in_use") => assert!(started.iter().any(Option::is_none), "round {round}: {started:?}"),
            other => panic!("round {round}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_or_gives_a_blob_fails_its_step_with_a_code() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    for (topic, code) in [("job.nobody", "unknown_topic"), ("job.broken", "handler_failed"), ("job.blob", "run_too_large")] {
        rig.define(&document("one", &json!({"one": {"type": "job", "topic": topic}}), &json!(null))).await;
        let run = rig.start_run("one", &json!(null)).await;
        let ended = rig.ended(&run).await;
        assert_eq!((ended.state(), ended.ending.unwrap().error_code.as_str()), (RunState::Failed, "step_failed"), "{topic}");
        assert_eq!(rig.step(&run, "one").await.unwrap().error_code, code, "{topic}");
    }
}

/// Whoever has paused a run and was answered sees none of its jobs begin any more: the scheduler, however slow, holds them by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_answered_when_the_scheduler_holds_the_run() {
    let rig = Rig::start().await;
    let mut questions = rig.bus.subscribe(subjects::SCHEDULER_PAUSE, None).await.unwrap();
    let (bus, holds) = (rig.bus.clone(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&holds);
    let scheduler = tokio::spawn(async move {
        while let Some(message) = questions.next().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let pauses = PauseRequest::decode(message.payload).unwrap().set;
            seen.fetch_or(!pauses.is_empty(), Ordering::SeqCst);
            let reply = PauseReply { pauses, ..PauseReply::default() }.encode_to_vec();
            bus.publish(&message.reply.unwrap(), Headers::new(), reply.into()).await.unwrap();
        }
    });
    let _engine = rig.engine("a").await;
    rig.desk.hold("job.double");
    rig.define(&map_reduce()).await;
    let run_id = rig.start_run("doubled", &json!({"numbers": [1, 2]})).await;
    let request = RunHoldRequest { run_id, tenant_id: "default".to_owned(), ..RunHoldRequest::default() };
    let paused = async || rig.ask::<RunCancelReply>(subjects::ENGINE_PAUSE, &request).await.answer;
    let state = |state: RunState| Some(run_cancel_reply::Answer::State(state.into()));
    assert_eq!(paused().await, state(RunState::Paused));
    assert!(holds.load(Ordering::SeqCst), "the scheduler holds it");

    // One that is not there makes nobody wait for ever.
    let resumed: RunCancelReply = rig.ask(subjects::ENGINE_RESUME, &request).await;
    assert_eq!(resumed.answer, state(RunState::Running));
    scheduler.abort();
    assert_eq!(paused().await, state(RunState::Paused));
}
