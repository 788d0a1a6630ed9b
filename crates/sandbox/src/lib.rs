//! Runs WebAssembly guests under a policy: every resource is bounded, and nothing is granted that was not asked for.
//!
//! ```text
//!  bytes, digest ──> Sandbox::load ──> Module          SHA-256 verified, imports checked, compiled once, kept in a bounded cache
//!                                        │
//!  Task { input, limits, artifacts } ──> Sandbox::run ──> Output | Failure     one store per task, thrown away afterwards
//!                                        │
//!                                        └──> GuestEvents: progress, checkpoint, log lines, while it runs
//! ```
//!
//! The guest ABI is number 1: a `wasm32-wasip1` command whose standard input is JSON, whose standard output is one JSON
//! value, and whose standard error is its log. `/in/<artifact_id>` and `/in/checkpoint` are read-only; `/tmp` exists only if
//! `tmp_bytes` is above zero.
//!
//! **What a guest does not have:** network, environment, arguments, real directories, threads, shared memory, a fine clock,
//! and the host's randomness when the task is to be repeatable.
//!
//! **Threads.** [`Sandbox::load`] and [`Sandbox::run`] block the calling thread and use its processor time: call them on
//! threads that are kept for this, never on those of a network runtime.
//!
//! **How time is limited.** One ticker thread advances wasmtime's epoch every five milliseconds while guests run. At a tick
//! the guest's own thread compares its processor time with `cpu_ms`, and the time since the start with `wall_ms`. Epochs do not
//! interrupt a call into the host, so a guest that sleeps is ended by a timer that runs beside it. Where it matters that a guest
//! stops at the same instruction everywhere, its limits name fuel and it is loaded with [`Sandbox::load_metered`].
//!
//! **Compiled modules on disk.** With `cache_dir`, a module is compiled once and not once a process. Loading machine code from a file
//! trusts that file completely, so that only what this user's own sandbox has signed on this machine is loaded.

mod budget;
mod cache;
mod compile;
mod compiled;
mod engine;
mod failure;
mod folder;
mod host;
mod imports;
mod limits;
mod listing;
mod modules;
mod repeatable;
mod run;
mod stdio;
mod task;
mod ticker;

pub use busbar_protocol::imports::ImportGroup;
pub use compiled::CacheError;
pub use engine::{Sandbox, SandboxConfig, SandboxError};
pub use failure::{Failure, FailureKind};
pub use imports::Imports;
pub use limits::{Limits, LimitsInvalid};
pub use modules::{Module, ModuleError};
pub use task::{Artifact, CHECKPOINT_BYTES_MAX, GuestEvents, NoEvents, Output, Task, Usage};
