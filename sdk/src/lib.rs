//! Write a Busbar worker or client in a few lines.
//!
//! A worker registers handlers and runs; see `examples/worker.rs`:
//!
//! ```no_run
//! use busbar_sdk::{Context, Failure, Worker, WorkerOptions};
//! use serde_json::Value;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut worker = Worker::connect(WorkerOptions::default()).await?;
//! worker.handle("job.echo", |_: Context, input: Value| async move { Ok::<_, Failure>(input) });
//! worker.run(async { let _ = tokio::signal::ctrl_c().await; }).await?;
//! # Ok(()) }
//! ```
//!
//! A client submits and waits; see `examples/client.rs`. Both are generic over the ports of `protocol`; `connect` gives them
//! NATS and Redis. What a worker promises the scheduler:
//!
//! ```text
//!  scheduler ── worker.<id>.jobs ──► ledger ── queued ──► handler ──► res:<job>:<attempt> ──► sys.job.result, until acknowledged
//!           ── sys.job.cancel ────► │ drops duplicates, answers finished ones again, hands back what a drain leaves unbegun
//!           ◄── busbar.worker.beat ─┘ every attempt that is held, from a thread of its own
//! ```
//!
//! Handlers are tested without servers: [`Context::for_test`] gives a context that records.

mod artifacts;
mod backoff;
mod blob;
mod checkpoints;
mod client;
mod context;
mod core;
mod failure;
mod handler;
mod payloads;
mod worker;

pub use artifacts::Artifacts;
pub use busbar_protocol::busbar::IdempotencyPolicy;
pub use busbar_protocol::cap::JobPriority;
pub use busbar_protocol::codes::Code;
pub use busbar_protocol::pause_hint::HintScope as PauseScope;
pub use busbar_protocol::pointers::Sha256Hex;
pub use busbar_protocol::ports::{Span, SpanKind, SpanSink, SpanValue, Tracer, ago};
pub use busbar_protocol::trace::TraceContext;
pub use checkpoints::{CheckpointSender, Checkpoints, Keeping};
pub use client::{Client, ClientError, ClientOptions, Finished, JobState, Refusal, Submission, Submitted};
pub use context::{Context, Recorder};
pub use failure::Failure;
pub use handler::Request;
pub use worker::{BeatConnect, BoxError, Ports, Worker, WorkerError, WorkerOptions};
