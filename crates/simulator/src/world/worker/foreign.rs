//! Workers as CAP SDKs make them: one that announces itself, one that is only a member of a queue group.

use std::time::Duration;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Handshake, Heartbeat, JobResult, JobStatus};
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers, Message, Records as _};
use busbar_protocol::{keys, subjects};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::super::World;
use super::{ANNOUNCED_CAPACITY, request};
use crate::model_bus::ModelClient;

/// A worker of a CAP SDK: handshake once, heartbeats, no beats, no memory of what it has seen.
pub(super) async fn announced(world: World) {
    let id = "announced";
    let bus = world.bus.client(id);
    let Ok(direct) = bus.subscribe(&subjects::worker_jobs(id), None).await else { return };
    let Ok(topic) = bus.subscribe("job.announced", Some("job.announced")).await else { return };
    let shake = Handshake {
        component_id: id.to_owned(),
        role: busbar_protocol::cap::ComponentRole::Worker.into(),
        supported_versions: vec![1],
        ready_topics: vec!["job.announced".to_owned()],
        ..Handshake::default()
    };
    let packet = envelope::packet("hello", id, world.clock.now(), Payload::Handshake(shake));
    let _ = bus.publish(subjects::HANDSHAKE, Headers::new(), packet).await;
    let mut jobs = futures::stream::select(direct, topic);
    let mut work = JoinSet::new();
    let mut next_beat = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        tokio::select! {
            biased;
            message = jobs.next() => {
                let Some(message) = message else { return };
                work.spawn(plain(world.clone(), bus.clone(), id.to_owned(), message));
            }
            Some(_) = work.join_next() => {}
            () = tokio::time::sleep_until(next_beat) => {
                next_beat += Duration::from_secs(5);
                let active_jobs = i32::try_from(work.len()).unwrap_or(0);
                let max_parallel_jobs = i32::try_from(ANNOUNCED_CAPACITY).unwrap_or(1);
                let beat = Heartbeat { worker_id: id.to_owned(), max_parallel_jobs, active_jobs, ..Heartbeat::default() };
                let packet = envelope::packet(id, id, world.clock.now(), Payload::Heartbeat(beat));
                let _ = bus.publish(subjects::HEARTBEAT, Headers::new(), packet).await;
            }
        }
    }
}

/// A worker that is only a member of a queue group, and not always there.
pub(super) async fn silent(world: World) {
    tokio::time::sleep(world.pause(Duration::from_secs(5))).await;
    let bus = world.bus.client("silent");
    let Ok(mut jobs) = bus.subscribe("job.silent", Some("job.silent")).await else { return };
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            message = jobs.next() => {
                let Some(message) = message else { return };
                work.spawn(plain(world.clone(), bus.clone(), "silent".to_owned(), message));
            }
            Some(_) = work.join_next() => {}
        }
    }
}

/// How a CAP SDK runs a job: result under the job's name, published once, no word of the attempt.
async fn plain(world: World, bus: ModelClient, id: String, message: Message) {
    let Some((trace, request)) = request(&message) else { return };
    tokio::time::sleep(world.pause(Duration::from_millis(500))).await;
    let key = keys::result(&request.job_id);
    let stored = world.store.put_payload(&key, "\"done\"".into(), None).await;
    let status = if stored.is_ok() { JobStatus::Succeeded } else { JobStatus::Failed };
    let result = JobResult {
        job_id: request.job_id,
        status: status.into(),
        result_ptr: if stored.is_ok() { format!("redis://{key}") } else { String::new() },
        worker_id: id.clone(),
        ..JobResult::default()
    };
    let packet = envelope::packet(&trace, &id, world.clock.now(), Payload::JobResult(result));
    let _ = bus.publish(subjects::RESULT, Headers::new(), packet).await;
}
