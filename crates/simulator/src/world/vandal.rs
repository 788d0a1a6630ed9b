//! Somebody who sends what nobody should send: it must be harmless.

use std::time::Duration;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Budget, BusPacket, DispatchIdentity, Heartbeat, JobProgress, JobRequest, JobResult, JobStatus};
use busbar_protocol::ports::{Bus as _, Clock as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;

use super::World;

const NAME: &str = "vandal";
/// An attempt that no job reaches.
const NEVER: u64 = 99;

/// Sends nonsense while there is trouble.
pub(crate) async fn rage(world: World) {
    let bus = world.bus.client(NAME);
    let mut number = 0;
    while world.troubled() {
        tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
        number += 1;
        let (subject, payload) = nonsense(&world, number);
        let payload = payload.map_or_else(|| Bytes::from_static(b"\xff\xff\xff no packet"), |payload| packet(&world, payload));
        let _ = bus.publish(subject, Headers::new(), payload).await;
    }
}

/// A packet that nobody has checked before it is sent.
fn packet(world: &World, payload: Payload) -> Bytes {
    let packet = BusPacket {
        trace_id: NAME.to_owned(),
        sender_id: NAME.to_owned(),
        created_at: Some(world.clock.now().to_proto()),
        protocol_version: 1,
        payload: Some(payload),
        ..BusPacket::default()
    };
    packet.encode_to_vec().into()
}

/// What to send where; nothing stands for bytes that are no packet.
fn nonsense(world: &World, number: u32) -> (&'static str, Option<Payload>) {
    let victim = format!("c{}-{}-0-native", world.chaos.below(3), world.chaos.below(4));
    let dispatch =
        DispatchIdentity { dispatch_id: format!("{victim}/{NEVER}"), attempt: NEVER, assigned_worker_id: NAME.to_owned() };
    let result = |job_id: String| JobResult {
        job_id,
        status: JobStatus::Succeeded.into(),
        worker_id: NAME.to_owned(),
        dispatch: Some(dispatch.clone()),
        ..JobResult::default()
    };
    let request = |name: &str| JobRequest {
        job_id: format!("vandal-{number}-{name}"),
        topic: "job.native".to_owned(),
        ..JobRequest::default()
    };
    match world.chaos.below(9) {
        0 => (subjects::RESULT, None),
        1 => (subjects::RESULT, Some(Payload::JobResult(result(victim)))),
        2 => (subjects::RESULT, Some(Payload::JobResult(result("nobody".to_owned())))),
        3 => {
            let foreign = JobResult { result_ptr: "redis://ctx:other".to_owned(), ..result(victim) };
            (subjects::RESULT, Some(Payload::JobResult(foreign)))
        }
        4 => (subjects::SUBMIT, None),
        5 => {
            let env = [("BUSBAR_MODULE".to_owned(), "sha256:00".to_owned())].into();
            (subjects::SUBMIT, Some(Payload::JobRequest(JobRequest { env, ..request("env") })))
        }
        6 => {
            let budget = Some(Budget { deadline_ms: -5, ..Budget::default() });
            (subjects::SUBMIT, Some(Payload::JobRequest(JobRequest { budget, ..request("past") })))
        }
        7 => {
            let progress = JobProgress { job_id: victim, percent: 1_000, ..JobProgress::default() };
            (subjects::PROGRESS, Some(Payload::JobProgress(progress)))
        }
        _ => {
            let beat = Heartbeat {
                worker_id: NAME.to_owned(),
                max_parallel_jobs: -7,
                active_jobs: i32::MAX,
                cpu_load: f32::NAN,
                ..Heartbeat::default()
            };
            (subjects::HEARTBEAT, Some(Payload::Heartbeat(beat)))
        }
    }
}
