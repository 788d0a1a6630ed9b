//! An operator who pauses, drains and lifts, and tries dead letters again or throws them away.

use std::time::Duration;

use busbar_protocol::busbar::{
    Drain, DrainReply, DrainRequest, Pause, PauseName, PauseReply, PauseRequest, PauseScope, RedriveItem, RedriveReply,
    RedriveRequest, admit_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::Clock as _;
use busbar_protocol::subjects;

use super::{World, client, rules, starter};
use crate::model_bus::ModelClient;

/// What a redrive is called: the same dead letter is tried again by two people at once.
const NAMES: [&str; 2] = ["again-a", "again-b"];
/// How many dead letters are tried again at most.
const REDRIVES_MAX: usize = 6;
/// Long enough for what was sent twice to have arrived.
const SETTLED: Duration = Duration::from_secs(1);

/// Holds things up while there is trouble, and lets everything go afterwards.
pub(crate) async fn hold(world: World) {
    let bus = world.bus.client("operator");
    while world.troubled() {
        tokio::time::sleep(world.pause(Duration::from_secs(7))).await;
        if world.chaos.chance(250) {
            drain(&world, &bus).await;
        } else {
            pause(&world, &bus).await;
        }
    }
    tokio::time::sleep(SETTLED).await;
    loop {
        let paused: PauseReply = starter::ask(&bus, subjects::SCHEDULER_PAUSE, &PauseRequest::default()).await;
        let lift: Vec<PauseName> = paused.pauses.into_iter().filter_map(|pause| pause.what).collect();
        let drains: DrainReply = starter::ask(&bus, subjects::SCHEDULER_DRAIN, &DrainRequest::default()).await;
        let undrain: Vec<String> = drains.drains.into_iter().map(|drain| drain.worker_id).collect();
        if lift.is_empty() && undrain.is_empty() {
            return;
        }
        let request = PauseRequest { lift, ..PauseRequest::default() };
        let _: PauseReply = starter::ask(&bus, subjects::SCHEDULER_PAUSE, &request).await;
        let request = DrainRequest { lift: undrain, ..DrainRequest::default() };
        let _: DrainReply = starter::ask(&bus, subjects::SCHEDULER_DRAIN, &request).await;
        tokio::time::sleep(SETTLED).await;
    }
}

async fn pause(world: &World, bus: &ModelClient) {
    let (scope, name) = match world.chaos.below(6) {
        0 => (PauseScope::Topic, "job.native"),
        1 => (PauseScope::Tenant, "acme"),
        2 => (PauseScope::Key, "default job.native k-0"),
        3 => (PauseScope::Worker, "native-0"),
        4 => (PauseScope::Pool, rules::POOL),
        _ => (PauseScope::Topic, "job.fragile"),
    };
    let what = PauseName { scope: scope.into(), name: name.to_owned() };
    let by_itself = world.chaos.chance(300);
    let until_ms = if by_itself { world.clock.now().after(Duration::from_secs(2)).millis() } else { 0 };
    let pause = Pause { what: Some(what.clone()), until_ms, set_by: "operator".to_owned(), ..Pause::default() };
    let request = PauseRequest { set: vec![pause], ..PauseRequest::default() };
    let reply: PauseReply = starter::ask(bus, subjects::SCHEDULER_PAUSE, &request).await;
    if let Some(problem) = reply.problem {
        return world.breaks(format!("a good pause was refused: {problem:?}"));
    }
    if by_itself {
        tokio::time::sleep(SETTLED).await;
        return;
    }
    world.monitor.hold(scope, name, true);
    tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
    world.monitor.hold(scope, name, false);
    let request = PauseRequest { lift: vec![what], ..PauseRequest::default() };
    let _: PauseReply = starter::ask(bus, subjects::SCHEDULER_PAUSE, &request).await;
    tokio::time::sleep(SETTLED).await;
}

async fn drain(world: &World, bus: &ModelClient) {
    let name = "native-1";
    let drain = Drain { worker_id: name.to_owned(), set_by: "operator".to_owned(), ..Drain::default() };
    let request = DrainRequest { set: vec![drain], ..DrainRequest::default() };
    let reply: DrainReply = starter::ask(bus, subjects::SCHEDULER_DRAIN, &request).await;
    if let Some(problem) = reply.problem {
        return world.breaks(format!("a good drain was refused: {problem:?}"));
    }
    world.monitor.hold(PauseScope::Worker, name, true);
    tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
    world.monitor.hold(PauseScope::Worker, name, false);
    let request = DrainRequest { lift: vec![name.to_owned()], ..DrainRequest::default() };
    let _: DrainReply = starter::ask(bus, subjects::SCHEDULER_DRAIN, &request).await;
    tokio::time::sleep(SETTLED).await;
}

/// One of two people who try dead letters again; each of them some in the midst of trouble, and some in peace.
pub(crate) async fn redrive(world: World, number: usize) {
    let bus = world.bus.client(&format!("redriver-{number}"));
    let mut tried = 0;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(8) + world.pause(Duration::from_secs(7))).await;
        let dead = world.store.members(keys::INDEX_DEAD).into_iter().map(|entry| entry.member);
        // The jobs of runs are the engine's, and what was tried again is left in peace.
        let mine: Vec<String> = dead.filter(|id| !id.contains(':') && !id.starts_with("again")).collect();
        for job_id in mine {
            if tried < REDRIVES_MAX && world.chaos.chance(300) {
                tried += 1;
                if world.chaos.chance(250) {
                    discard(&world, &bus, &job_id).await;
                } else {
                    again(&world, &bus, &job_id, NAMES[number % NAMES.len()]).await;
                }
            }
        }
    }
}

async fn again(world: &World, bus: &ModelClient, job_id: &str, name: &str) {
    let item = RedriveItem {
        job_id: job_id.to_owned(),
        new_job_id: format!("{name}-{job_id}"),
        requested_by: "operator".to_owned(),
        ..RedriveItem::default()
    };
    let request = RedriveRequest { items: vec![item] };
    loop {
        let reply: RedriveReply = starter::ask(bus, subjects::SCHEDULER_REDRIVE, &request).await;
        match reply.answers.into_iter().next().and_then(|answer| answer.answer) {
            Some(admit_answer::Answer::Admitted(admitted)) => {
                client::acknowledged(world, &admitted.job_id, "");
                let mut ledger = world.ledger();
                ledger.redriven.entry(job_id.to_owned()).or_default().insert(admitted.job_id);
                return;
            }
            Some(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms == 0 => {
                // The other one was faster, or the job is no longer dead to anybody, or it may not be there twice.
                let known = [Code::DeadLetterRedriven, Code::KeyBusy, Code::ParentCancelled];
                let gone = problem.code == Code::DeadLetterNotFound.as_str() && world.monitor.has_discarded(job_id);
                if !gone && !known.iter().any(|code| code.as_str() == problem.code) {
                    world.breaks(format!("{job_id} was not tried again: {problem:?}"));
                }
                return;
            }
            Some(admit_answer::Answer::Rejected(_)) | None => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

/// Throws a dead letter away.
async fn discard(world: &World, bus: &ModelClient, job_id: &str) {
    let item = RedriveItem { job_id: job_id.to_owned(), requested_by: "operator".to_owned(), ..RedriveItem::default() };
    let request = RedriveRequest { items: vec![item] };
    loop {
        let reply: RedriveReply = starter::ask(bus, subjects::SCHEDULER_REDRIVE, &request).await;
        match reply.answers.into_iter().next().and_then(|answer| answer.answer) {
            Some(admit_answer::Answer::Admitted(_)) => return world.monitor.is_discarded(job_id),
            Some(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms == 0 => {
                // Somebody was faster; perhaps we were, and the answer was lost.
                if problem.code != Code::DeadLetterNotFound.as_str() {
                    world.breaks(format!("the dead letter of {job_id} was not thrown away: {problem:?}"));
                }
                return;
            }
            Some(admit_answer::Answer::Rejected(_)) | None => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}
