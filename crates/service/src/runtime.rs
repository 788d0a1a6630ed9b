//! The runtime of a program of ours.

use std::io;
use std::num::NonZero;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// A runtime with half as many threads as there are processors, and at least one. Redis, NATS and handlers need the other half, and on a small
/// machine the threads of one program mostly wake each other: with one of two, idle jobs take a seventh less time.
///
/// # Errors
/// The threads cannot be started.
pub fn build() -> io::Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads((processors / 2).max(1)).enable_all().build()
}
