//! From the command line to a worker that serves: what it owns, the connection, the handlers.

use std::path::PathBuf;
use std::sync::Arc;

use busbar_blobs::Blobs;
use busbar_sandbox::{Sandbox, SandboxConfig};
use busbar_sdk::{Code, Context, Failure, Request, Tracer, Worker, WorkerError, WorkerOptions};
use busbar_service::Metrics;
use bytes::Bytes;

use crate::args::{Args, ECHO};
use crate::failure::{Fatal, in_full};
use crate::guests::{Guests, MODULE};
use crate::loader::Loader;
use crate::meters::{Health, Meters};
use crate::scratch::{Scratch, make_private};
use crate::signals::Signals;
use crate::threads::Threads;
use crate::wall::{self, Demand, Wall};

/// What must be there before any thread is begun: the wall is raised around it.
pub(crate) struct Ground {
    blobs: Blobs,
    scratch: Scratch,
    cache: PathBuf,
    wall: Wall,
}

impl Ground {
    /// Opens the folders and raises the wall around this thread and all that it will begin.
    pub(crate) fn prepare(args: &Args) -> Result<Self, Fatal> {
        let blobs = Blobs::open(&args.blobs).map_err(Fatal::Blobs)?;
        let scratch = Scratch::open(args.scratch.as_deref(), blobs.folder(), &args.id)?;
        let cache = args.cache.clone().unwrap_or_else(|| scratch.compiled());
        make_private(&cache).map_err(|source| Fatal::Scratch { path: cache.clone(), source })?;
        let wall = wall::raise(args.wall, &args.needs(&[blobs.folder(), scratch.path(), &cache]))?;
        let Wall { landlock, seccomp } = wall;
        tracing::info!(landlock, seccomp, "the second wall around guests");
        if args.wall == Demand::Auto && !(landlock > 0 && seccomp) {
            tracing::warn!("the second wall around guests has gaps on this system; docs/operations.md tells what it needs");
        }
        Ok(Self { blobs, scratch, cache, wall })
    }
}

/// Serves until a signal, then drains.
pub(crate) async fn serve(args: &Args, ground: Ground, tracer: Tracer, signals: &Signals) -> Result<(), Fatal> {
    let Ground { blobs, scratch, cache, wall } = ground;
    let metrics = Metrics::new();
    tell(wall, &metrics);
    let meters = Meters::register(&metrics, args.slots());
    let health = match args.health_listen {
        Some(address) => Some(Health::start(address, metrics.clone()).await?),
        None => None,
    };
    let runs_max = u32::try_from(args.slots()).unwrap_or(u32::MAX);
    let config = SandboxConfig { cache_dir: Some(cache), runs_max, ..SandboxConfig::new(scratch.tasks()) };
    let sandbox = Arc::new(Sandbox::new(config)?);
    let loader = Loader::new(Arc::clone(&sandbox));
    let threads = Threads::start(args.slots()).map_err(Fatal::Threads)?;
    let options = args.options(wall);
    let worker = tokio::select! {
        biased;
        () = signals.first() => return Ok(()),
        worker = connect(&options) => worker?,
    };
    if let Some(health) = &health {
        health.look(&worker, &metrics);
    }
    let worker = worker.with_tracer(tracer.clone());
    let (artifacts, checkpoints) = (worker.artifacts(), worker.checkpoints());
    let guests = Arc::new(Guests { sandbox, loader, threads, blobs, artifacts, checkpoints, meters, tracer });
    with_handlers(worker, &guests).run(signals.first()).await?;
    Ok(())
}

fn tell(wall: Wall, metrics: &Metrics) {
    let landlock = metrics.gauge("worker_wall_landlock", "The version of Landlock's interface that is in force, 0 for none");
    landlock.set(i64::from(wall.landlock));
    metrics.gauge("worker_wall_seccomp", "Whether system calls are filtered").set(i64::from(wall.seccomp));
}

/// Connects, for as long as it takes: workers are started before servers, and outlive them.
async fn connect(options: &WorkerOptions) -> Result<Worker, WorkerError> {
    loop {
        // Each attempt waits some seconds by itself.
        match Worker::connect(options.clone()).await {
            Err(error) if error.may_pass() => tracing::warn!(error = in_full(&error), "not connected; trying again"),
            connected => return connected,
        }
    }
}

fn with_handlers(mut worker: Worker, guests: &Arc<Guests>) -> Worker {
    let echoing = Arc::clone(guests);
    worker.handle_any(ECHO, move |context, request| {
        let guests = Arc::clone(&echoing);
        guests.meters.clone().attempt(async move {
            match request.env.contains_key(MODULE) {
                true => guests.run(context, request).await,
                false => Ok(request.input),
            }
        })
    });
    let others = Arc::clone(guests);
    worker.handle_any("job.>", move |context, request| others.meters.clone().attempt(any(Arc::clone(&others), context, request)));
    worker
}

async fn any(guests: Arc<Guests>, context: Context, request: Request) -> Result<Bytes, Failure> {
    if request.env.contains_key(MODULE) {
        return guests.run(context, request).await;
    }
    // Another worker may have code of its own for it.
    let message = format!("the dispatch of {} names no module, and this worker has no code of its own for it", request.topic);
    Err(Failure { retryable: true, ..Failure::of(Code::UnknownTopic, message) })
}
