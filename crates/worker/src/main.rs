//! `worker`: our reference worker. It runs WebAssembly guests for whatever topic names a module, and echoes.
//!
//! It uses nothing but the SDK, the sandbox, the blob store and the process kit, and could live in another repository:
//!
//! ```text
//!  worker.<id>.jobs ─► SDK ─► BUSBAR_MODULE in env? ── no ──► job.echo gives its input back
//!                                   │ yes
//!                                   ▼
//!      artifacts from blobs, module from memory or the loader ─► sandbox, on a thread of a pool of its own ─► output or failure ─► SDK
//! ```
//!
//! Exit codes: 0 drained after a signal; 1 something failed, or a second signal cut the drain short; 2 wrong usage.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use busbar_service::telemetry::{self, Process, SpanExport};
use clap::Parser as _;
use mimalloc::MiMalloc;

use crate::args::Args;
use crate::failure::Fatal;
use crate::serve::Ground;
use crate::signals::Signals;

mod args;
mod failure;
mod guests;
mod input;
mod loader;
mod meters;
mod scratch;
mod serve;
mod signals;
mod threads;
mod wall;

/// A third of the processor time of this program was the system's allocator: docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What log lines and traces say of this program.
const PROCESS: Process = Process { role: "worker", version: env!("CARGO_PKG_VERSION") };
/// How long work of the runtime may hold up the end of the process.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            // When stderr is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "worker: {}", fatal.in_full());
            fatal.exit_code()
        }
    }
}

fn run(args: Args) -> Result<(), Fatal> {
    telemetry::init(&args.log_config(), PROCESS)?;
    let ground = Ground::prepare(&args)?;
    let runtime = busbar_service::runtime::build().map_err(Fatal::Runtime)?;
    // A task of the runtime, not of this thread: its wake-ups need no other thread.
    let work = runtime.spawn(async move {
        let signals = Signals::listen().map_err(Fatal::Signals)?;
        let mut export = SpanExport::default();
        let tracer = export.tracer(&args.trace_config(), PROCESS)?;
        let ended = tokio::select! {
            biased;
            () = signals.second() => Err(Fatal::CutShort),
            ended = serve::serve(&args, ground, tracer, &signals) => ended,
        };
        export.finish().await;
        ended
    });
    let ended = runtime.block_on(work).unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}
