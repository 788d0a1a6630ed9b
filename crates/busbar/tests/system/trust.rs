//! Trust on a whole stack: workers prove enrolled keys, and whoever did not changes nothing where that is enforced.

use std::time::Duration;

use busbar_api::{JobState, JobView};
use busbar_protocol::busbar::WorkerBeat;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{
    JobCancel, JobProgress, JobRequest, JobResult, JobStatus, WorkerHandshakePurpose, WorkerHandshakeRejectionReason as Reason,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::signing::production::{self, Expected};
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use serde_json::{Value, json};

use crate::support::{Client, Dev, Executions, Prover, Sleeper, Wire, ctl, executions, scheduler_key, trusting, until, verdict};

const ENFORCE: &str = "scheduler.worker_trust=enforce";

fn online(client: &Client, id: &str) -> bool {
    client.workers().items.iter().any(|worker| worker.id == id && worker.status == "online")
}

fn submit(client: &Client) -> String {
    client.submit("job.cap.named", &json!({}))
}

fn view(client: &Client, job: &str) -> JobView {
    client.get(&format!("/api/v1/jobs/{job}")).of(200)
}

/// Results name no attempt: then they mean the one that their worker holds.
fn ended(status: JobStatus, job: &str, worker: &str) -> Payload {
    let (job_id, worker_id) = (job.to_owned(), worker.to_owned());
    Payload::JobResult(JobResult { job_id, worker_id, status: status.into(), ..JobResult::default() })
}

fn done(job: &str, worker: &str) -> Payload {
    ended(JobStatus::Succeeded, job, worker)
}

fn failed(job: &str, worker: &str) -> Payload {
    ended(JobStatus::FailedFatal, job, worker)
}

#[test]
fn who_has_no_session_changes_nothing_where_trust_is_enforced() {
    let dev = trusting(&[ENFORCE]);
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let alerts = wire.listen(subjects::ALERT);
    let prover = Prover::new("prover", 1);
    // Not enrolled: no challenge, and neither announcement nor heartbeat is believed.
    wire.send_asking(subjects::TRUST_CHALLENGE, prover.request(WorkerHandshakePurpose::Issue));
    until("the refusal is told", || alerts.told("handshake_refused").then_some(()));
    prover.live(&wire, "guessed");
    until("the doubt is told", || alerts.told("session_required").then_some(()));
    assert!(client.workers().items.is_empty());
    // Enrolled and proved: it is a worker.
    prover.enrol(&dev);
    let token = prover.session(&wire).unwrap();
    prover.live(&wire, &token);
    until("it is online", || online(&client, "prover").then_some(()));
    let job = submit(&client);
    until("it has the job", || (view(&client, &job).worker_id.as_deref() == Some("prover")).then_some(()));
    // Somebody else in its name, with no token, a wrong one, and with the token of another worker.
    let stranger = Prover::new("stranger", 2);
    stranger.enrol(&dev);
    let other = stranger.session(&wire).unwrap();
    for token in ["", "guessed", other.as_str()] {
        prover.say(&wire, subjects::RESULT, token, failed(&job, "prover"));
    }
    stranger.say(&wire, subjects::RESULT, &other, failed(&job, "prover"));
    // A native worker of its name is none: its name belongs to who proves it.
    let beat = WorkerBeat { worker_id: "prover".into(), incarnation: "9".into(), ..WorkerBeat::default() };
    wire.send(subjects::BEAT, beat.encode_to_vec().into());
    until("all of it is told", || alerts.told_of(&["sys.job.result", "busbar.worker.beat"]));
    assert_eq!(view(&client, &job).state, JobState::Dispatched);
    prover.say(&wire, subjects::RESULT, &token, done(&job, "prover"));
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    // Revoked while it holds a job: it is lost at once, and what it says comes too late.
    let held = submit(&client);
    until("it has the job", || (view(&client, &held).worker_id.as_deref() == Some("prover")).then_some(()));
    prover.revoke(&dev);
    until("its attempt is over", || (view(&client, &held).state == JobState::Scheduled).then_some(()));
    prover.say(&wire, subjects::RESULT, &token, done(&held, "prover"));
    prover.live(&wire, &token);
    stranger.live(&wire, &other);
    until("the other one has it", || (view(&client, &held).worker_id.as_deref() == Some("stranger")).then_some(()));
    assert!(!online(&client, "prover"));
    assert!(ctl(&dev, &["worker", "revoke", "prover", "proof-1"]).unwrap_err().contains("not_found"));
    let keys = ctl(&dev, &["worker", "keys"]).unwrap();
    assert!(keys.contains("stranger") && !keys.contains("prover"), "{keys}");
}

#[test]
fn a_challenge_is_answered_once_and_sessions_outlive_the_scheduler() {
    let mut dev = trusting(&[ENFORCE]);
    let wire = Wire::connect(&dev.endpoints.nats);
    let prover = Prover::new("prover", 1);
    prover.enrol(&dev);
    let challenge = prover.challenge(&wire, WorkerHandshakePurpose::Issue);
    let answer = prover.answer(&challenge, "");
    let verdicts: Vec<_> =
        wire.ask_all(subjects::TRUST_AUTHENTICATE, &vec![answer; 16]).into_iter().map(|told| verdict(told.payload)).collect();
    let tokens: Vec<&String> = verdicts.iter().flatten().collect();
    let [token] = tokens.as_slice() else { panic!("{verdicts:?}") };
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Err(Reason::ReplayDetected)).count(), 15, "{verdicts:?}");
    let before = (*token).clone();
    // An answer by another key, one to a challenge that we never issued, and a renewal of nothing.
    let challenge = prover.challenge(&wire, WorkerHandshakePurpose::Issue);
    let forged = Prover::new("prover", 2).answer(&challenge, "");
    assert_eq!(verdict(wire.ask(subjects::TRUST_AUTHENTICATE, forged).payload), Err(Reason::AuthenticationFailed));
    let mut invented = challenge;
    invented.challenge_id.push('0');
    let invented = prover.answer(&invented, "");
    assert_eq!(verdict(wire.ask(subjects::TRUST_AUTHENTICATE, invented).payload), Err(Reason::ReplayDetected));
    let renewal = prover.challenge(&wire, WorkerHandshakePurpose::Renew);
    let renewed = prover.answer(&renewal, "no-session");
    assert_eq!(verdict(wire.ask(subjects::TRUST_AUTHENTICATE, renewed).payload), Err(Reason::SessionInvalid));
    // Everything dies, and the session lives.
    dev.kill9();
    dev.restart();
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    prover.live(&wire, &before);
    until("it is believed again", || online(&client, "prover").then_some(()));
    let renewal = prover.challenge(&wire, WorkerHandshakePurpose::Renew);
    let renewed = prover.answer(&renewal, &before);
    let after = verdict(wire.ask(subjects::TRUST_AUTHENTICATE, renewed).payload).unwrap();
    assert_ne!(after, before);
}

#[test]
fn native_workers_need_no_session_and_warnings_stop_nobody() {
    let dev = trusting(&[ENFORCE, "scheduler.signatures=enforce"]);
    let client = dev.client();
    let file = executions(&dev);
    let sleeper = Sleeper::start(&dev, "sleeper-1", 4, &file);
    let wire = Wire::connect(&dev.endpoints.nats);
    let (alerts, heartbeats) = (wire.listen(subjects::ALERT), wire.listen(subjects::HEARTBEAT));
    // Native workers speak in CAP's words too, for others who listen.
    for job in client.submit_sleeps([1, 2, 3, 3_000]) {
        assert_eq!(client.wait(&job).state, JobState::Succeeded);
    }
    until("it has sent a heartbeat", || heartbeats.first());
    for job in client.submit_sleeps([1, 2]) {
        assert_eq!(client.wait(&job).state, JobState::Succeeded);
    }
    assert_eq!((Executions::read(&file).count(), alerts.all()), (6, Vec::new()));
    drop(sleeper);
    drop(dev);
    let dev = trusting(&["scheduler.worker_trust=warn", "scheduler.signatures=warn"]);
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let alerts = wire.listen(subjects::ALERT);
    let prover = Prover::new("prover", 1);
    prover.live(&wire, "");
    until("it is online", || online(&client, "prover").then_some(()));
    let job = submit(&client);
    until("it has the job", || (view(&client, &job).worker_id.as_deref() == Some("prover")).then_some(()));
    prover.say(&wire, subjects::RESULT, "", done(&job, "prover"));
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    until("the doubts are told", || alerts.told("session_required").then_some(()));
}

#[test]
fn what_is_not_signed_by_its_sender_changes_nothing_where_that_is_enforced() {
    let dev = trusting(&["scheduler.signatures=enforce"]);
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let alerts = wire.listen(subjects::ALERT);
    let (sender, other) = (Prover::new("sender", 1), Prover::new("sender", 2));
    sender.enrol(&dev);
    let request = |job_id: &str| {
        let topic = "job.cap.named".to_owned();
        Payload::JobRequest(JobRequest { job_id: job_id.to_owned(), topic, ..JobRequest::default() })
    };
    wire.say(subjects::SUBMIT, "sender", request("unsigned"));
    other.say(&wire, subjects::SUBMIT, "", request("forged"));
    sender.say(&wire, subjects::SUBMIT, "", request("signed"));
    until("the signed one is known", || (client.get("/api/v1/jobs/signed").status == 200).then_some(()));
    for job in ["unsigned", "forged"] {
        assert_eq!(client.get(&format!("/api/v1/jobs/{job}")).status, 404, "{job}");
    }
    until("both are told", || (alerts.told("signature_missing") && alerts.told("signature_invalid")).then_some(()));
    // So with everything that a worker or a client says.
    other.live(&wire, "");
    let cancel = JobCancel { job_id: "signed".into(), requested_by: "nobody".into(), ..JobCancel::default() };
    wire.say(subjects::CANCEL, "sender", Payload::JobCancel(cancel));
    sender.live(&wire, "");
    until("it has the job", || (view(&client, "signed").worker_id.as_deref() == Some("sender")).then_some(()));
    wire.say(subjects::RESULT, "sender", failed("signed", "sender"));
    let progress = JobProgress { job_id: "signed".into(), percent: 50, ..JobProgress::default() };
    wire.say(subjects::PROGRESS, "sender", Payload::JobProgress(progress));
    until("they are told", || alerts.told_of(&["sys.job.cancel", "sys.job.result", "sys.job.progress", "sys.heartbeat"]));
    assert_eq!(view(&client, "signed").state, JobState::Dispatched);
    sender.say(&wire, subjects::RESULT, "", done("signed", "sender"));
    assert_eq!(client.wait("signed").state, JobState::Succeeded);
}

#[test]
fn a_production_worker_signs_each_result_for_its_subject_and_gets_jobs_of_its_tenant_alone() {
    let dev = trusting(&[ENFORCE]);
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let alerts = wire.listen(subjects::ALERT);
    let prover = Prover::new("prover", 1);
    prover.enrol_with(&dev, &["--production"]);
    let sent = wire.listen(&subjects::worker_jobs("prover"));
    let token = prover.session(&wire).unwrap();
    prover.live(&wire, &token);
    until("it is online", || online(&client, "prover").then_some(()));
    let acme = dev.client_of("acme");
    let theirs = submit(&acme);
    let job = submit(&client);
    until("it has the job", || (view(&client, &job).worker_id.as_deref() == Some("prover")).then_some(()));
    let dispatch = until("it was sent", || sent.first());
    let expected = Expected {
        audience: "worker.prover.jobs",
        tenant_id: "default",
        sender_id: subjects::SCHEDULER_SENDER,
        key: ("busbar-scheduler", &scheduler_key().public()),
        now: Timestamp::wall_clock(),
        skew: Duration::from_secs(1),
    };
    let verified = production::verify(&dispatch, &expected).unwrap();
    let Some(Payload::JobRequest(request)) = verified.packet.payload else { panic!("a request") };
    assert_eq!((request.job_id.as_str(), request.identity), (job.as_str(), verified.packet.identity));
    // In the ordinary way, without a session, and under the name of another message.
    prover.say(&wire, subjects::RESULT, &token, failed(&job, "prover"));
    prover.seal_result(&wire, "guessed", [1; 16], failed(&job, "prover"));
    prover.seal_result(&wire, &token, [2; 16], ended(JobStatus::Succeeded, "another", "prover"));
    prover.seal_result(&wire, &token, [2; 16], failed(&job, "prover"));
    prover.seal_result(&wire, &token, [3; 16], done(&job, "prover"));
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    let told = ["signature_missing", "session_required", "signature_invalid"];
    until("all is told", || told.iter().all(|code| alerts.told(code)).then_some(()));
    assert_eq!(view(&acme, &theirs).state, JobState::Scheduled);
}

#[test]
fn keys_that_are_none_are_refused_and_say_why() {
    let dev = Dev::start();
    let client = dev.client();
    let file = dev.temp().join("none.pem");
    std::fs::write(&file, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap();
    let file = file.to_str().unwrap();
    let said = ctl(&dev, &["worker", "enroll", "w", "--key-id", "k", "--public-key", file]).unwrap_err();
    assert!(said.contains("field_invalid") && said.contains("P-256"), "{said}");
    let said = ctl(&dev, &["worker", "enroll", "w", "--key-id", "two words", "--public-key", file]).unwrap_err();
    assert!(said.contains("proof_key_id"), "{said}");
    assert_eq!(client.get("/api/v1/worker-keys").of::<Value>(200), json!({"items": []}));
}
