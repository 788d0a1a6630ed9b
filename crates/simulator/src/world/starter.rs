//! Model clients of the workflow engine: one writes workflows, the others start runs of them, start some again, pause and cancel some.

use std::time::Duration;

use busbar_protocol::busbar::{
    DefineReply, DefineRequest, Problem, RemoveReply, RemoveRequest, RunCancelReply, RunCancelRequest, RunEventBatch,
    RunHoldRequest, RunState, StartReply, StartRequest, Started, run_cancel_reply, start_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{Bus as _, Headers, Records as _};
use busbar_protocol::prost::Message;
use busbar_protocol::subjects;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::{World, workflows};
use crate::model_bus::ModelClient;

const STARTERS: u64 = 3;
const RUNS: u64 = 3;
const TENANT: &str = "default";

/// Listens to what is told of runs, past every fault.
pub(crate) async fn listen(world: World) {
    let mut told = world.bus.tap(subjects::RUN_EVENT);
    while let Some(message) = told.next().await {
        let Ok(batch) = RunEventBatch::decode(message.payload) else {
            world.breaks("what is told of runs cannot be read".to_owned());
            continue;
        };
        world.ledger().told.extend(batch.entries.into_iter().map(|entry| entry.cursor));
    }
}

/// Starts the clients; they end when everything that they want is acknowledged.
pub(crate) fn spawn(world: &World, clients: &mut JoinSet<()>) {
    clients.spawn(write(world.clone()));
    for number in 0..STARTERS {
        clients.spawn(start_runs(world.clone(), number));
    }
}

/// Saves workflows, then newer versions of two, and takes one away.
async fn write(world: World) {
    let bus = world.bus.client("author");
    for id in workflows::ALL {
        define(&world, &bus, id, 1).await;
    }
    tokio::time::sleep(world.pause(Duration::from_secs(12))).await;
    define(&world, &bus, workflows::SUMS, 2).await;
    define(&world, &bus, workflows::QUICK, 2).await;
    tokio::time::sleep(world.pause(Duration::from_secs(8))).await;
    remove(&world, &bus, workflows::BRIEF).await;
}

/// Asks until there is an answer that can be read.
pub(crate) async fn ask<Q: Message, A: Message + Default>(bus: &ModelClient, subject: &str, question: &Q) -> A {
    let body = question.encode_to_vec();
    loop {
        let asked = bus.request(subject, Headers::new(), body.clone().into(), Duration::from_secs(3)).await;
        if let Some(answer) = asked.ok().and_then(|message| A::decode(message.payload).ok()) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn define(world: &World, bus: &ModelClient, id: &str, version: u32) {
    let request =
        DefineRequest { document: workflows::document(id, version), tenant_id: TENANT.to_owned(), ..DefineRequest::default() };
    loop {
        let reply: DefineReply = ask(bus, subjects::ENGINE_DEFINE, &request).await;
        match reply.problem {
            None if reply.number == version => return,
            None => return world.breaks(format!("version {version} of {id} was saved as {}", reply.number)),
            Some(problem) if problem.retry_after_ms > 0 => tokio::time::sleep(Duration::from_millis(200)).await,
            Some(problem) => return world.breaks(format!("a good workflow was refused: {problem:?}")),
        }
    }
}

async fn remove(world: &World, bus: &ModelClient, id: &str) {
    let request = RemoveRequest { workflow_id: id.to_owned(), tenant_id: TENANT.to_owned(), ..RemoveRequest::default() };
    loop {
        let reply: RemoveReply = ask(bus, subjects::ENGINE_REMOVE, &request).await;
        let Some(problem) = reply.problem else { break };
        if is(&problem, Code::WorkflowNotFound) {
            // The answer to the first time was lost.
            break;
        }
        if problem.retry_after_ms == 0 && !is(&problem, Code::WorkflowInUse) {
            return world.breaks(format!("{id} was not taken away: {problem:?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = world.store.contents(&keys::workflow(TENANT, id));
    if !left.is_empty() {
        world.breaks(format!("{id} was taken away, and {} of its records are there", left.len()));
    }
}

fn is(problem: &Problem, code: Code) -> bool {
    problem.code == code.as_str()
}

async fn start_runs(world: World, number: u64) {
    let bus = world.bus.client(&format!("starter-{number}"));
    for count in 0..RUNS {
        tokio::time::sleep(world.pause(Duration::from_secs(7))).await;
        let workflow = workflows::pick(&world.chaos);
        let key = if world.chaos.chance(250) { format!("{workflow}-{}", world.chaos.below(2)) } else { String::new() };
        let input = workflows::input(workflow, &world.chaos).to_string();
        let request = StartRequest {
            run_id: format!("{:08x}-0000-7000-8000-{:012x}", world.chaos.below(1 << 32), number * RUNS + count),
            tenant_id: TENANT.to_owned(),
            workflow_id: workflow.to_owned(),
            idempotency_key: key,
            trace_id: format!("trace-{number}-{count}"),
            input_bytes: input.len() as u64,
            requested_by: "starter".to_owned(),
            ..StartRequest::default()
        };
        while world.store.put_payload(&keys::run_input(&request.run_id), input.clone().into(), Some(INPUT_TTL)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Some begin with two copies at once, as where somebody is too impatient for the first answer.
        let started = if world.chaos.chance(300) {
            let (one, other) = tokio::join!(start(&world, &bus, &request), start(&world, &bus, &request));
            // The workflow may be taken away between them.
            if let (Some(one), Some(other)) = (&one, &other)
                && one.run_id != other.run_id
            {
                world.breaks(format!("{} was started twice, as {one:?} and {other:?}", request.run_id));
            }
            one.or(other)
        } else {
            start(&world, &bus, &request).await
        };
        let Some(started) = started else { continue };
        // Again and again, so that one of them comes when the engine changes hands.
        for _ in 0..world.chaos.below(6) {
            tokio::time::sleep(world.pause(Duration::from_secs(3))).await;
            let again = start(&world, &bus, &request).await;
            if again.map(|again| again.run_id) != Some(started.run_id.clone()) {
                world.breaks(format!("{} was started again and is another run", started.run_id));
            }
        }
        let cancels = if workflow == workflows::PATIENT { 600 } else { 200 };
        if world.chaos.chance(250) {
            pause(&world, &bus, &started.run_id).await;
        }
        if world.chaos.chance(cancels) {
            cancel(&world, &bus, started.run_id).await;
        }
    }
}

/// Starts a run, always with the same message. Nothing when its workflow was taken away.
async fn start(world: &World, bus: &ModelClient, request: &StartRequest) -> Option<Started> {
    loop {
        let reply: StartReply = ask(bus, subjects::ENGINE_START, request).await;
        match reply.answer {
            Some(start_reply::Answer::Started(started)) => {
                let mut ledger = world.ledger();
                ledger.started.insert(started.run_id.clone());
                if !request.idempotency_key.is_empty() {
                    ledger.keyed.entry(request.idempotency_key.clone()).or_default().insert(started.run_id.clone());
                } else if started.run_id != request.run_id {
                    ledger.broken.push(format!("{} was started as {}", request.run_id, started.run_id));
                }
                return Some(started);
            }
            Some(start_reply::Answer::Rejected(problem)) => {
                // It may not have been saved yet.
                let unknown = is(&problem, Code::WorkflowNotFound);
                if unknown && request.workflow_id == workflows::BRIEF {
                    return None;
                }
                if problem.retry_after_ms == 0 && !unknown {
                    world.breaks(format!("a good start was refused: {problem:?}"));
                    return None;
                }
            }
            None => world.breaks("a start got an empty answer".to_owned()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Pauses a run, and after a while lets it go on, or ends it as it is.
async fn pause(world: &World, bus: &ModelClient, run_id: &str) {
    tokio::time::sleep(world.pause(Duration::from_secs(2))).await;
    hold(world, bus, subjects::ENGINE_PAUSE, run_id, RunState::Paused).await;
    tokio::time::sleep(world.pause(Duration::from_secs(8))).await;
    if world.chaos.chance(300) {
        return cancel(world, bus, run_id.to_owned()).await;
    }
    hold(world, bus, subjects::ENGINE_RESUME, run_id, RunState::Running).await;
}

async fn hold(world: &World, bus: &ModelClient, subject: &str, run_id: &str, wanted: RunState) {
    let request = RunHoldRequest { run_id: run_id.to_owned(), requested_by: "starter".to_owned(), ..RunHoldRequest::default() };
    let reply: RunCancelReply = ask(bus, subject, &request).await;
    match reply.answer {
        // After the commit it may have ended in the same turn.
        Some(run_cancel_reply::Answer::State(state)) if state == i32::from(wanted) => {}
        Some(run_cancel_reply::Answer::State(state)) if RunState::try_from(state).is_ok_and(is_end) => {}
        Some(run_cancel_reply::Answer::Rejected(problem)) if is(&problem, Code::RunTerminal) => {}
        other => world.breaks(format!("{run_id} was to be {wanted:?}: {other:?}")),
    }
}

const fn is_end(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Timeout)
}

async fn cancel(world: &World, bus: &ModelClient, run_id: String) {
    tokio::time::sleep(world.pause(Duration::from_secs(3))).await;
    let request = RunCancelRequest {
        run_id: run_id.clone(),
        reason: "no longer wanted".to_owned(),
        requested_by: "starter".to_owned(),
        ..RunCancelRequest::default()
    };
    let reply: RunCancelReply = ask(bus, subjects::ENGINE_CANCEL, &request).await;
    match reply.answer {
        Some(run_cancel_reply::Answer::State(state)) => {
            let state = RunState::try_from(state).unwrap_or_default();
            world.ledger().cancelled.insert(run_id, state);
        }
        Some(run_cancel_reply::Answer::Rejected(problem)) if is(&problem, Code::RunTerminal) => {}
        other => world.breaks(format!("{run_id} was not cancelled: {other:?}")),
    }
}
