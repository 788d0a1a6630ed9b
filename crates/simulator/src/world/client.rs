//! Model clients: they submit in batches, repeat what was not answered, cancel some jobs, and submit some on the bare bus.

use std::time::Duration;

use tokio::task::JoinSet;

use busbar_protocol::busbar::{AdmitItem, AdmitReply, AdmitRequest, CancelItem, CancelRequest, admit_answer};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Budget, JobMetadata, JobRequest};
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use super::World;
use crate::model_bus::ModelClient;

const ASKING: u64 = 3;
const BATCHES: u64 = 4;

/// Starts the clients; they end when everything that they want is acknowledged.
pub(crate) fn spawn(world: &World) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..ASKING {
        clients.spawn(ask(world.clone(), number));
    }
    clients.spawn(drop_on_the_bus(world.clone()));
    clients
}

async fn ask(world: World, number: u64) {
    let bus = world.bus.client(&format!("client-{number}"));
    for batch in 0..BATCHES {
        tokio::time::sleep(world.pause(Duration::from_secs(6))).await;
        let size = 1 + world.chaos.below(6);
        let items: Vec<AdmitItem> = (0..size).map(|n| item(&world, &format!("c{number}-{batch}-{n}"))).collect();
        let told = submit(&world, &bus, items).await;
        world.ledger().acknowledged.extend(told.iter().cloned());
        for job in told {
            let approval = job.ends_with("approval");
            if approval || world.chaos.chance(150) {
                cancel(&world, &bus, job, approval).await;
            }
        }
    }
}

/// Submits until there is an answer, always the same message.
async fn submit(world: &World, bus: &ModelClient, items: Vec<AdmitItem>) -> Vec<String> {
    let body = AdmitRequest { items }.encode_to_vec();
    loop {
        let asked = bus.request(subjects::ADMIT, Headers::new(), body.clone().into(), Duration::from_secs(5)).await;
        let reply = asked.ok().and_then(|message| AdmitReply::decode(message.payload).ok());
        if let Some(AdmitReply { answers, problem: None }) = reply {
            let mut told = Vec::new();
            let mut again = false;
            for answer in answers {
                match answer.answer {
                    Some(admit_answer::Answer::Admitted(admitted)) => told.push(admitted.job_id),
                    Some(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms > 0 => again = true,
                    Some(admit_answer::Answer::Rejected(problem)) => {
                        world.ledger().broken.push(format!("a good submission was refused: {problem:?}"));
                    }
                    None => world.ledger().broken.push("a submission got an empty answer".to_owned()),
                }
            }
            if !again {
                return told;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn cancel(world: &World, bus: &ModelClient, job_id: String, until_answered: bool) {
    tokio::time::sleep(world.pause(Duration::from_millis(600))).await;
    let item =
        CancelItem { job_id, reason: "no longer wanted".to_owned(), requested_by: "client".to_owned(), ..CancelItem::default() };
    let body = CancelRequest { items: vec![item] }.encode_to_vec();
    while bus.request(subjects::SCHEDULER_CANCEL, Headers::new(), body.clone().into(), Duration::from_secs(5)).await.is_err()
        && until_answered
    {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn item(world: &World, name: &str) -> AdmitItem {
    const TOPICS: [&str; 12] = [
        "native",
        "native",
        "native",
        "native",
        "fragile",
        "slow",
        "unserved",
        "denied",
        "throttled",
        "approval",
        "announced",
        "silent",
    ];
    let topic = TOPICS[usize::try_from(world.chaos.below(12)).unwrap_or(0)];
    let key = if topic == "native" && world.chaos.chance(200) { format!("key-{}", world.chaos.below(3)) } else { String::new() };
    let deadline_ms = if world.chaos.chance(80) { 1_000 + i64::try_from(world.chaos.below(4_000)).unwrap_or(0) } else { 0 };
    let request = JobRequest {
        job_id: format!("{name}-{topic}"),
        topic: format!("job.{topic}"),
        priority: i32::try_from(world.chaos.below(4)).unwrap_or(0),
        meta: Some(JobMetadata { idempotency_key: key, ..JobMetadata::default() }),
        budget: Some(Budget { deadline_ms, ..Budget::default() }),
        ..JobRequest::default()
    };
    AdmitItem { request: request.encode_to_vec().into(), trace_id: name.to_owned(), ..AdmitItem::default() }
}

/// Submissions on the bare bus: acknowledged once the stream has them.
async fn drop_on_the_bus(world: World) {
    let bus = world.bus.client("bus-client");
    for number in 0..6 {
        tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
        let unknown = world.chaos.chance(200);
        let request = JobRequest {
            job_id: format!("bus-{number}"),
            topic: if unknown { "job.unknown" } else { "job.native" }.to_owned(),
            ..JobRequest::default()
        };
        let id = request.job_id.clone();
        let packet = envelope::packet("bus", "bus-client", world.clock.now(), Payload::JobRequest(request));
        while bus.publish_durable(subjects::SUBMIT, &id, Headers::new(), packet.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        world.ledger().acknowledged.insert(id);
    }
}
