//! How fast packets are taken in: ours against the bare libraries below, in one run. `tools/bench wire` runs it.
//!
//! It prints nanoseconds for one packet, the best of all rounds, and the ratios.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{BusPacket, DispatchIdentity, Heartbeat, JobRequest, JobResult};
use busbar_protocol::envelope;
use busbar_protocol::ids::JobId;
use busbar_protocol::prost::Message as _;
use busbar_protocol::signing::{PrivateKey, packet};
use busbar_protocol::time::Timestamp;
use bytes::Bytes;
use clap::Parser;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde_json::json;

/// How often a packet is taken in for one figure.
const DECODINGS: u32 = 20_000;
const VERIFICATIONS: u32 = 400;

/// Compares how packets are taken in with the bare libraries for protobuf and P-256.
#[derive(Parser)]
#[command(name = "wire")]
struct Options {
    /// How often each figure is taken; the best one counts.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where every figure goes.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() {
    let Options { rounds, json } = Options::parse();
    let mut figures = Vec::new();
    for (name, packet) in packets() {
        let bare = best(rounds, DECODINGS, || drop(black_box(BusPacket::decode(black_box(packet.clone())))));
        let ours = best(rounds, DECODINGS, || drop(black_box(take_in(black_box(&packet)))));
        figures.push(Figure { name: format!("decode, validate, route: {name}"), bare, ours });
    }
    figures.push(verification(rounds));
    for Figure { name, bare, ours } in &figures {
        println!("{name:<42} bare {bare:>9.0} ns   ours {ours:>9.0} ns   {:>5.2} times", ours / bare);
    }
    if let Some(file) = json {
        std::fs::write(&file, as_json(&figures)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

struct Figure {
    name: String,
    bare: f64,
    ours: f64,
}

/// What the scheduler does with a packet before its event loop: understands it, checks it, and finds out for which job it is.
fn take_in(bytes: &Bytes) -> Option<(JobId, Bytes)> {
    let decoded = envelope::decode(bytes).ok()?;
    let id = match decoded.payload {
        Payload::JobRequest(request) => request.job_id,
        Payload::JobResult(result) => result.job_id,
        Payload::Heartbeat(beat) => beat.worker_id,
        _ => return None,
    };
    Some((JobId::parse(id).ok()?, decoded.raw_payload))
}

fn packets() -> Vec<(&'static str, Bytes)> {
    let labels = (0..4).map(|n| (format!("label-{n}"), format!("value-{n}"))).collect();
    let request = JobRequest {
        job_id: "01a222d5-4cef-73cc-a455-d0a267e9f6cd".into(),
        topic: "job.wordcount.map".into(),
        context_ptr: "redis://ctx:01a222d5-4cef-73cc-a455-d0a267e9f6cd".into(),
        tenant_id: "default".into(),
        labels,
        ..JobRequest::default()
    };
    let result = JobResult {
        job_id: request.job_id.clone(),
        status: 5,
        worker_id: "worker-17".into(),
        result_ptr: "redis://res:01a222d5-4cef-73cc-a455-d0a267e9f6cd".into(),
        execution_ms: 1_234,
        dispatch: Some(DispatchIdentity { dispatch_id: "d/1".into(), attempt: 1, assigned_worker_id: "worker-17".into() }),
        ..JobResult::default()
    };
    let beat = Heartbeat { worker_id: "worker-17".into(), pool: "default".into(), max_parallel_jobs: 4, ..Heartbeat::default() };
    let payloads = [
        ("submission", Payload::JobRequest(request)),
        ("result", Payload::JobResult(result)),
        ("heartbeat", Payload::Heartbeat(beat)),
    ];
    let packet = |payload| envelope::packet("4bf92f3577b34da6a3ce929d0e0e4736", "worker-17", Timestamp::from_millis(1), payload);
    payloads.into_iter().map(|(name, payload)| (name, packet(payload))).collect()
}

fn verification(rounds: u32) -> Figure {
    let secret = [7; 32];
    let key = PrivateKey::from_secret(&secret).expect("a key");
    let (_, unsigned) = packets().swap_remove(1);
    let signed = packet::sign(&unsigned, &key).expect("signed");
    let signature = BusPacket::decode(signed.clone()).expect("a packet").signature;
    let verifier: VerifyingKey = *SigningKey::from_slice(&secret).expect("a key").verifying_key();
    let bare = best(rounds, VERIFICATIONS, || {
        let signature = Signature::from_der(black_box(&signature)).expect("DER");
        verifier.verify(black_box(&unsigned), &signature).expect("verified");
    });
    let public = key.public();
    let ours = best(rounds, VERIFICATIONS, || packet::verify(black_box(&signed), &public).expect("verified"));
    Figure { name: "verify the signature of a result".to_owned(), bare, ours }
}

/// Nanoseconds for one call: the best round, since everything that disturbs makes it slower.
fn best(rounds: u32, calls: u32, mut call: impl FnMut()) -> f64 {
    let round = |_| {
        let begun = Instant::now();
        for _ in 0..calls {
            call();
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

fn as_json(figures: &[Figure]) -> Vec<u8> {
    let row =
        |Figure { name, bare, ours }: &Figure| json!({ "name": name, "bare_ns": bare, "ours_ns": ours, "times": ours / bare });
    serde_json::to_vec_pretty(&figures.iter().map(row).collect::<Vec<_>>()).expect("plain values")
}
