//! Listens on the bus: events wake the reader of the logs, packets become newest values. Packets may be lost; the next one of
//! their kind says it again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{JobRecord, job_record};
use busbar_protocol::cap::BusPacket;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus, BusError, Message, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys, subjects};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::Hub;
use crate::core::stream::item::{Item, Kind, Owner};
use crate::core::stream::latest::Key;
use crate::core::stream::owners::Whose;
use crate::core::stream::packet;

/// How many packets are dealt with at once.
const CHUNK: usize = 1_024;
/// How long packets gather: clients take newest values more rarely still.
const GATHER: Duration = Duration::from_millis(25);
/// A bus that is away comes back soon.
const PAUSE: Duration = Duration::from_millis(250);
/// How long packets wait to learn whose they are.
const PATIENCE: Duration = Duration::from_secs(1);

/// Listens until the shutdown, as long as somebody is connected: there may be thousands of packets a second, and nobody to tell.
pub(super) async fn listen<B: Bus, R: Records>(hub: Arc<Hub<B, R>>) -> Result<(), Infallible> {
    loop {
        let heard = tokio::select! {
            heard = async { hub.until_watched().await; hear(&hub).await } => heard,
            () = hub.shutdown.triggered() => return Ok(()),
        };
        hub.listening.send_replace(false);
        if let Err(error) = heard {
            tracing::debug!(%error, "the stream hears nothing now");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Listens until something comes that nobody waits for: events wake the reader of the logs, packets are taken in.
async fn hear<B: Bus, R: Records>(hub: &Hub<B, R>) -> Result<(), BusError> {
    let mut events = subscribe(&hub.bus, &[subjects::JOB_EVENT, subjects::RUN_EVENT]).await?;
    let heard = [subjects::PROGRESS, subjects::RESULT, subjects::HEARTBEAT, subjects::ALERT];
    let mut packets = subscribe(&hub.bus, &heard).await?.ready_chunks(CHUNK);
    hub.listening.send_replace(true);
    // What changed before anybody listened is read now.
    hub.wake_all();
    let wake = async {
        while hub.is_watched() {
            let event = events.next().await.ok_or_else(ended)?;
            let wake = if event.subject == subjects::RUN_EVENT { &hub.wake_runs } else { &hub.wake_jobs };
            wake.notify_one();
        }
        Ok(())
    };
    let take = async {
        while hub.is_watched() {
            let chunk = packets.next().await.ok_or_else(ended)?;
            take(hub, &chunk).await;
            tokio::time::sleep(GATHER).await;
        }
        Ok(())
    };
    tokio::select! {
        ended = wake => ended,
        ended = take => ended,
    }
}

fn ended() -> BusError {
    BusError::Unavailable { detail: "a subscription of the stream has ended".into() }
}

async fn subscribe<B: Bus>(bus: &B, subjects: &[&str]) -> Result<BoxStream<'static, Message>, BusError> {
    let mut subscriptions = Vec::new();
    for subject in subjects {
        // The end of one is the end of all: a stream that hears less than it should must not go on in silence.
        let messages = bus.subscribe(subject, None).await?.map(Some).chain(stream::once(async { None }));
        subscriptions.push(messages.boxed());
    }
    let merged = stream::select_all(subscriptions);
    Ok(merged.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready).boxed())
}

/// Takes packets in. Those that cannot be read are told of by whoever they were meant for.
async fn take<B: Bus, R: Records>(hub: &Hub<B, R>, messages: &[Message]) {
    let packets =
        messages.iter().filter_map(|message| Some((message.subject.as_str(), envelope::decode(&message.payload).ok()?)));
    let packets: Vec<_> = packets.map(|(subject, decoded)| (subject, decoded.packet, decoded.payload)).collect();
    let unknown = {
        let board = hub.board();
        let mut jobs: Vec<_> = packets.iter().filter_map(|(_, _, payload)| job_of(payload)).collect();
        jobs.retain(|job_id| board.owners.get(job_id).is_none());
        jobs.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let looked_up = look_up(hub, unknown).await;
    let mut board = hub.board();
    for (subject, packet, payload) in &packets {
        let whose = |job_id: &str| board.owners.get(job_id).or_else(|| looked_up.get(job_id)).cloned();
        if let Some((key, item)) = news(subject, packet, payload, whose) {
            board.latest.set(key, item);
        }
    }
    for (job_id, whose) in looked_up {
        board.owners.learn(&job_id, whose);
    }
    drop(board);
    hub.tell();
}

fn job_of(payload: &Payload) -> Option<&str> {
    match payload {
        Payload::JobProgress(progress) => Some(&progress.job_id),
        Payload::JobResult(result) => Some(&result.job_id),
        _ => None,
    }
}

/// Whose these jobs are, as far as their records say.
async fn look_up<B: Bus, R: Records>(hub: &Hub<B, R>, job_ids: Vec<String>) -> HashMap<String, Whose> {
    if job_ids.is_empty() {
        return HashMap::new();
    }
    let names = job_ids.iter().map(|job_id| keys::job(job_id)).collect();
    let Ok(Ok(stored)) = tokio::time::timeout(PATIENCE, hub.records.read(names)).await else { return HashMap::new() };
    let records = stored.into_iter().flatten().filter_map(|stored| JobRecord::decode(stored.value).ok());
    let live = records.filter(|record| !matches!(record.state, Some(job_record::State::Ended(_))));
    live.map(|record| (record.job_id, Whose { tenant_id: record.tenant_id, topic: record.topic })).collect()
}

/// What a packet tells. Nothing of jobs that nobody knows.
fn news(subject: &str, packet: &BusPacket, payload: &Payload, whose: impl Fn(&str) -> Option<Whose>) -> Option<(Key, Item)> {
    let of_job = |kind, job_id: &str, worker_id: &str, body| {
        let whose = whose(job_id)?;
        let item = Item::new(kind, Owner::Tenant(whose.tenant_id), body);
        let run_id = ids::run_of(job_id).map(str::to_owned);
        Some(Item {
            topic: Some(whose.topic),
            job_id: Some(job_id.to_owned()),
            worker_id: Some(worker_id.to_owned()),
            run_id,
            ..item
        })
    };
    let body = |name, fields| packet::body(subject, packet, name, fields);
    match payload {
        Payload::JobProgress(told) => {
            let body = body("jobProgress", packet::progress(told));
            Some((Key::Progress(told.job_id.clone()), of_job(Kind::Progress, &told.job_id, &packet.sender_id, body)?))
        }
        Payload::JobResult(told) => {
            let body = body("jobResult", packet::result(told));
            Some((Key::Result(told.job_id.clone()), of_job(Kind::Result, &told.job_id, &told.worker_id, body)?))
        }
        Payload::Heartbeat(beat) => {
            let item = Item::new(Kind::Worker, Owner::Cell, body("heartbeat", packet::heartbeat(beat)));
            Some((Key::Heartbeat(beat.worker_id.clone()), Item { worker_id: Some(beat.worker_id.clone()), ..item }))
        }
        Payload::Alert(alert) => {
            let key = Key::Alert(format!("{}/{}/{}", packet.sender_id, alert.component, alert.code));
            Some((key, Item::new(Kind::Alert, Owner::Cell, body("alert", packet::alert(alert)))))
        }
        _ => None,
    }
}
