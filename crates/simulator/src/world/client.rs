//! Model clients: they submit in batches, repeat what was not answered, cancel some jobs, and submit some on the bare bus.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use busbar_protocol::busbar::{
    AdmitItem, AdmitReply, AdmitRequest, CancelItem, CancelReply, CancelRequest, JobOptions, Problem, admit_answer, cancel_answer,
};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Budget, JobMetadata, JobRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope;
use busbar_protocol::keys;
use busbar_protocol::labels;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;

use super::{World, judge};
use crate::chaos::Chaos;
use crate::model_bus::ModelClient;

const ASKING: u64 = 3;
const BATCHES: u64 = 2;

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
        let wishes: Vec<Wish> = (0..size).map(|n| wish(&world, tenant(number), &format!("c{number}-{batch}-{n}"))).collect();
        let told = submit(&world, &bus, &wishes).await;
        for job in told {
            let approval = job.ends_with("approval");
            if approval || world.chaos.chance(150) {
                cancel(&world, &bus, job, approval).await;
            }
        }
    }
}

/// What a client wants to submit.
struct Wish {
    item: AdmitItem,
    job_id: String,
    key: String,
    /// Its parent had been cancelled before anybody asked for it.
    doomed: bool,
    /// Its input, where it does not go along.
    stored: Option<Bytes>,
}

/// Puts inputs where their pointers say, as clients do whose inputs are large, or who are old.
async fn store_inputs(world: &World, wishes: &[Wish]) {
    for wish in wishes {
        let Some(input) = &wish.stored else { continue };
        while world.store.put_payload(&keys::context(&wish.job_id), input.clone(), Some(INPUT_TTL)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Submits until there is an answer, always the same message.
async fn submit(world: &World, bus: &ModelClient, wishes: &[Wish]) -> Vec<String> {
    store_inputs(world, wishes).await;
    let body = AdmitRequest { items: wishes.iter().map(|wish| wish.item.clone()).collect() }.encode_to_vec();
    loop {
        let asked = bus.request(subjects::ADMIT, Headers::new(), body.clone().into(), Duration::from_secs(5)).await;
        let reply = asked.ok().and_then(|message| AdmitReply::decode(message.payload).ok());
        if let Some(AdmitReply { answers, problem: None }) = reply {
            let mut told = Vec::new();
            let mut again = false;
            for (answer, wish) in answers.into_iter().zip(wishes) {
                match answer.answer {
                    Some(admit_answer::Answer::Admitted(admitted)) => {
                        acknowledged(world, &admitted.job_id, &wish.key);
                        if wish.doomed && admitted.job_id == wish.job_id {
                            world.breaks(format!("{} was taken, though its parent had been cancelled", wish.job_id));
                        }
                        told.push(admitted.job_id);
                    }
                    Some(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms > 0 => again = true,
                    Some(admit_answer::Answer::Rejected(problem)) => refused(world, wish, &problem),
                    None => world.breaks("a submission got an empty answer".to_owned()),
                }
            }
            if !again {
                return told;
            }
            // What waits for a person takes room in the backlog, and nobody here is that person.
            for job in told.into_iter().filter(|job| job.ends_with("approval")) {
                cancel(world, bus, job, true).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A submission was refused: for one of the reasons that there can be here, and so it is not there.
fn refused(world: &World, wish: &Wish, problem: &Problem) {
    let known = [Code::KeyBusy, Code::ParentCancelled, Code::IdempotencyKeyUsed];
    if !known.iter().any(|code| code.as_str() == problem.code) {
        world.breaks(format!("a good submission was refused: {problem:?}"));
    }
    if world.monitor.is_live(&wish.job_id).is_some() {
        world.breaks(format!("{} was refused and is there: {problem:?}", wish.job_id));
    }
}

/// A submission was acknowledged: so it is durable.
pub(crate) fn acknowledged(world: &World, job_id: &str, key: &str) {
    if world.monitor.is_live(job_id).is_none() {
        world.breaks(format!("{job_id} was acknowledged and is not there"));
    }
    let mut ledger = world.ledger();
    ledger.acknowledged.insert(job_id.to_owned());
    if !key.is_empty() {
        ledger.keyed_jobs.entry(key.to_owned()).or_default().insert(job_id.to_owned());
    }
}

async fn cancel(world: &World, bus: &ModelClient, job_id: String, until_answered: bool) {
    tokio::time::sleep(world.pause(Duration::from_millis(600))).await;
    let item = CancelItem {
        job_id: job_id.clone(),
        reason: "no longer wanted".to_owned(),
        requested_by: "client".to_owned(),
        ..CancelItem::default()
    };
    let body = CancelRequest { items: vec![item] }.encode_to_vec();
    loop {
        let asked = bus.request(subjects::SCHEDULER_CANCEL, Headers::new(), body.clone().into(), Duration::from_secs(5)).await;
        let reply = asked.ok().and_then(|message| CancelReply::decode(message.payload).ok());
        if let Some(answer) = reply.and_then(|reply| reply.answers.into_iter().next()?.answer) {
            return cancel_answered(world, &job_id, &answer);
        }
        if !until_answered {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A cancellation was answered: so it is durable, or there was nothing to cancel.
fn cancel_answered(world: &World, job_id: &str, answer: &cancel_answer::Answer) {
    let Some(job) = world.job(job_id) else { return };
    match answer {
        cancel_answer::Answer::State(_) if job.end().is_none() && job.cancel.is_none() => {
            world.breaks(format!("the cancellation of {job_id} was acknowledged, and its record does not know of it"));
        }
        cancel_answer::Answer::Rejected(problem) if job.end().is_none() && problem.code == Code::JobNotFound.as_str() => {
            world.breaks(format!("{job_id} is live, and was not found"));
        }
        cancel_answer::Answer::State(_) | cancel_answer::Answer::Rejected(_) => {}
    }
}

/// Whose client it is: two are of one tenant.
fn tenant(number: u64) -> &'static str {
    if number == 0 { "acme" } else { "default" }
}

/// Some jobs would rather not go to one of the workers, or to neither of them.
fn avoided(chaos: &Chaos) -> BTreeMap<String, String> {
    const WORKERS: [&str; 3] = ["native-0", "native-1", "native-0,native-1"];
    let which = usize::try_from(chaos.below(40)).unwrap_or(usize::MAX);
    let label = |ids: &&str| (labels::AVOIDED_WORKER_IDS.to_owned(), (*ids).to_owned());
    WORKERS.get(which).map(label).into_iter().collect()
}

fn wish(world: &World, tenant: &str, name: &str) -> Wish {
    const TOPICS: [&str; 26] = [
        "native",
        "native",
        "native",
        "native",
        "native",
        "native",
        "fragile",
        "fragile",
        "slow",
        "slow",
        "slow",
        "unserved",
        "denied",
        "throttled",
        "approval",
        "announced",
        "announced",
        "silent",
        "mute",
        "poison",
        "single",
        "latest",
        "agreed",
        "agreed",
        "proved",
        "proved",
    ];
    let chaos = &world.chaos;
    let topic = TOPICS[usize::try_from(chaos.below(26)).unwrap_or(0)];
    let job_id = format!("{name}-{topic}");
    let key = if topic == "native" && chaos.chance(200) { format!("key-{}", chaos.below(3)) } else { String::new() };
    let deadline_ms = if chaos.chance(80) { 1_000 + i64::try_from(chaos.below(4_000)).unwrap_or(0) } else { 0 };
    let parent_job_id = parent(world, &job_id);
    let input = input(world, &job_id);
    let (carried, stored) = if chaos.chance(700) { (input, None) } else { (None, input) };
    let input_bytes = stored.as_ref().map_or(0, |input| input.len() as u64);
    let has_input = carried.is_some() || stored.is_some();
    let request = JobRequest {
        job_id: job_id.clone(),
        topic: format!("job.{topic}"),
        priority: i32::try_from(chaos.below(4)).unwrap_or(0),
        meta: Some(JobMetadata { idempotency_key: key.clone(), ..JobMetadata::default() }),
        budget: Some(Budget { deadline_ms, ..Budget::default() }),
        parent_job_id: parent_job_id.clone(),
        labels: avoided(chaos).into_iter().chain(secret(world, &job_id, has_input)).collect(),
        context_ptr: if has_input { Pointer::Redis(keys::context(&job_id)).to_string() } else { String::new() },
        ..JobRequest::default()
    };
    let options = options(world, topic, !key.is_empty());
    let doomed = world.monitor.is_cancelled(&parent_job_id);
    world.monitor.expect(&job_id, &parent_job_id, options.not_before_ms);
    let item = AdmitItem {
        request: request.encode_to_vec().into(),
        trace_id: name.to_owned(),
        tenant_id: tenant.to_owned(),
        options: Some(options),
        input_bytes,
        input: carried.unwrap_or_default(),
        ..AdmitItem::default()
    };
    // The same key of two tenants is two keys.
    let key = if key.is_empty() { key } else { format!("{tenant} {key}") };
    Wish { item, job_id, key, doomed, stored }
}

/// What a new job works on, for most.
fn input(world: &World, job_id: &str) -> Option<Bytes> {
    if world.chaos.chance(300) {
        return None;
    }
    let input = Bytes::from(format!("{{\"of\":\"{job_id}\",\"n\":{}}}", world.chaos.below(1 << 30)));
    world.ledger().inputs.insert(job_id.to_owned(), input.clone());
    Some(input)
}

/// The label of jobs whose workers must not see their inputs.
fn secret(world: &World, job_id: &str, has_input: bool) -> Option<(String, String)> {
    let is_secret = has_input && world.chaos.chance(100);
    if is_secret {
        world.ledger().secret.insert(job_id.to_owned());
    }
    is_secret.then(|| (judge::SECRET.to_owned(), "yes".to_owned()))
}

/// The parent of a new job, for some: a job that was acknowledged, nobody, or the job itself.
fn parent(world: &World, job_id: &str) -> String {
    match world.chaos.below(40) {
        0 => job_id.to_owned(),
        1 => "nobody".to_owned(),
        2..=7 => {
            let ledger = world.ledger();
            let place = usize::try_from(world.chaos.below(ledger.acknowledged.len() as u64)).unwrap_or(0);
            ledger.acknowledged.iter().nth(place).cloned().unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn options(world: &World, topic: &str, keyed: bool) -> JobOptions {
    let chaos = &world.chaos;
    let with_key = matches!(topic, "single" | "latest") || (topic == "native" && chaos.chance(400));
    let concurrency_key = if with_key { format!("k-{}", chaos.below(2)) } else { String::new() };
    let later = Duration::from_millis(chaos.below(3_000));
    let not_before_ms = if chaos.chance(80) { world.clock.now().after(later).millis() } else { 0 };
    let policy = if keyed { i32::try_from(chaos.below(4)).unwrap_or(0) } else { 0 };
    JobOptions { concurrency_key, not_before_ms, idempotency_policy: policy, ..JobOptions::default() }
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
