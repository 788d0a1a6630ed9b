//! Who sees what.

use busbar_gateway::Role;
use busbar_protocol::busbar::JobState::{Running, Scheduled, Succeeded};
use busbar_protocol::busbar::{Items, JobEvent, RunEvent, RunRecord, RunState, StepChange, StepRecord, StepState};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Heartbeat, JobProgress, JobStatus, SystemAlert};
use busbar_protocol::ports::{CommitClass, CommitId, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::clients::{Ledger, Socket, change, job_and_states};
use crate::support::{Fixture, Scheduler, key};

fn progress(job_id: &str, percent: i32) -> Payload {
    Payload::JobProgress(JobProgress {
        job_id: job_id.into(),
        percent,
        status: JobStatus::Running.into(),
        ..JobProgress::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_see_their_own_and_the_cell_only_who_may() {
    let fixture = Fixture::start().await;
    let other = key(&fixture.store, "other", Role::Submitter).await;
    let (mut ours, mut theirs) = (
        Socket::connect(&fixture, &fixture.key, "snapshot=false").await,
        Socket::connect(&fixture, &other, "snapshot=false").await,
    );
    let _ = (ours.frame().await, theirs.frame().await);
    let ledger = Ledger::new(&fixture);
    let of_other = JobEvent { tenant_id: "other".into(), ..change("b", &[Running]) };
    ledger.tell(&[change("a", &[Running]), of_other.clone()]).await;
    assert_eq!(job_and_states(&ours.told(1).await[0]).0, "a");
    assert_eq!(job_and_states(&theirs.told(1).await[0]).0, "b");

    ledger.packet(subjects::PROGRESS, "w1", progress("a", 10)).await;
    ledger.packet(subjects::PROGRESS, "w1", progress("b", 20)).await;
    ledger.packet(subjects::PROGRESS, "w1", progress("unknown", 30)).await;
    let alert = SystemAlert {
        level: "warning".into(),
        message: "x".into(),
        component: "c".into(),
        code: "y".into(),
        ..SystemAlert::default()
    };
    ledger.packet(subjects::ALERT, "busbar-scheduler", Payload::Alert(alert)).await;
    let beat = Heartbeat { worker_id: "w9".into(), cpu_load: 12.5, ..Heartbeat::default() };
    ledger.packet(subjects::HEARTBEAT, "w9", Payload::Heartbeat(beat)).await;
    let told = ours.told(3).await;
    let packet = |name: &str| told.iter().find_map(|frame| frame["packet"].get(name)).cloned().unwrap_or_default();
    assert_eq!(packet("jobProgress"), json!({"jobId": "a", "percent": 10, "status": "JOB_STATUS_RUNNING"}), "{told:?}");
    assert_eq!((&packet("alert")["code"], &packet("heartbeat")["workerId"]), (&json!("y"), &json!("w9")));
    assert_eq!(theirs.told(1).await[0]["packet"]["jobProgress"]["percent"], 20);
    // Alert and heartbeat have been taken in by now. Nothing of them comes before this.
    ledger.packet(subjects::PROGRESS, "w1", progress("b", 21)).await;
    assert_eq!(theirs.told(1).await[0]["packet"]["jobProgress"]["percent"], 21);
    ledger.tell(&[JobEvent { states: vec![Succeeded.into()], ..of_other }]).await;
    assert_eq!(theirs.told(1).await[0]["event"]["state"], "SUCCEEDED");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_lets_pass_what_it_names_and_can_be_replaced() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let submitted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let of = |job_id: &str, topic: &str| JobEvent { topic: topic.into(), ..change(job_id, &[Scheduled]) };
    let mut socket = Socket::connect(&fixture, &fixture.key, "topic=job.a.*,job.b&snapshot=false").await;
    let _ = socket.frame().await;
    let ledger = Ledger::new(&fixture);
    ledger.tell(&[of("1", "job.a"), of("2", "job.a.x"), of("3", "job.a.x.y"), of("4", "job.b"), of("5", "job.c")]).await;
    let ids = |frames: &[Value]| frames.iter().map(|frame| job_and_states(frame).0).collect::<Vec<_>>();
    assert_eq!(ids(&socket.told(2).await), ["2", "4"]);

    socket.say(Message::text(r#"{"filter":{"topic":["job.echo","job.c"],"kind":["job"]}}"#)).await;
    let opening = socket.opening().await;
    assert_eq!(opening[0]["filter"], json!({"topic": ["job.echo", "job.c"], "kind": ["job"]}));
    assert_eq!((&opening[1]["event"]["job_id"], &opening[1]["snapshot"]), (&submitted["job_id"], &json!(true)));
    ledger.tell(&[of("6", "job.b"), of("7", "job.c")]).await;
    assert_eq!(ids(&socket.told(1).await), ["7"]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_job_sees_it_even_if_it_has_ended() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let submitted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let job_id = submitted["job_id"].as_str().expect("an id");
    scheduler.finish(job_id, Succeeded, Some("1")).await;
    let mut socket = Socket::connect(&fixture, &fixture.key, &format!("job={job_id},none")).await;
    let opening = socket.opening().await;
    assert_eq!((opening.len(), &opening[1]["event"]["state"]), (3, &json!("SUCCEEDED")), "{opening:?}");
    let other = key(&fixture.store, "other", Role::Admin).await;
    let mut socket = Socket::connect(&fixture, &other, &format!("job={job_id}")).await;
    assert_eq!(socket.opening().await.len(), 2, "others do not see it");
    fixture.end().await;
}

async fn put(fixture: &Fixture, key: String, value: Vec<u8>) {
    let writes = vec![Write::Put { key: key.clone(), revision: 1, value: value.into(), expire: None }];
    let unit = Unit { id: CommitId::generate(), guards: vec![], writes };
    fixture.store.commit(CommitClass::Advance, vec![unit]).await.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_and_their_steps() {
    let fixture = Fixture::start().await;
    let run = RunRecord {
        run_id: "r1".into(),
        tenant_id: "acme".into(),
        workflow_id: "count".into(),
        steps: vec!["map".into()],
        state: RunState::Running.into(),
        updated_ms: 1_000,
        ..RunRecord::default()
    };
    let items = Items { total: 9, next: 4, succeeded: 2, failed: 0 };
    let step = StepRecord {
        run_id: "r1".into(),
        step_id: "map".into(),
        state: StepState::Running.into(),
        items: Some(items),
        ..StepRecord::default()
    };
    put(&fixture, keys::run("r1"), run.encode_to_vec()).await;
    put(&fixture, keys::step("r1", "map"), step.encode_to_vec()).await;
    let mut steps = Socket::connect(&fixture, &fixture.key, "run=r1&kind=run,step,job").await;
    let mut runs = Socket::connect(&fixture, &fixture.key, "run=r1&kind=run").await;
    let opening = steps.opening().await;
    assert_eq!(opening[1]["event"]["changes"][0]["items"], json!({"total": 9, "succeeded": 2, "failed": 0, "running": 2}));
    assert!(runs.opening().await[1]["event"].get("changes").is_none());

    let event = |changes, state: RunState| RunEvent {
        run_id: "r1".into(),
        tenant_id: "acme".into(),
        workflow_id: "count".into(),
        at_ms: 2_000,
        state: state.into(),
        changes,
        ..RunEvent::default()
    };
    let item = StepChange { step_id: "map".into(), item: 3, state: StepState::Succeeded.into(), ..StepChange::default() };
    let ledger = Ledger::new(&fixture);
    ledger.tell_runs(&[event(vec![item], RunState::Running), event(vec![], RunState::Succeeded)]).await;
    ledger.tell(&[change("r1:map[2]@1", &[Scheduled]), change("r2:map[2]@1", &[Scheduled])]).await;
    let told = steps.told(3).await;
    let first = told.iter().find(|frame| frame["event"].get("changes").is_some()).expect("a step");
    assert_eq!((&first["event"]["changes"][0]["item"], &first["subject"]), (&json!(2), &json!("busbar.run.event")));
    assert!(told.iter().any(|frame| frame["event"]["job_id"] == "r1:map[2]@1"), "{told:?}");
    assert_eq!(runs.told(1).await[0]["event"]["state"], "SUCCEEDED");
    fixture.end().await;
}
