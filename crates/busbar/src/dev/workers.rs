//! The workers of `dev`: processes of their own, as everywhere. Those that were asked for are in one pool; each other pool that a pack names for
//! its modules gets one more, so that every module that was installed finds somebody who runs it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use busbar_servers::{Companion, CompanionOptions};
use busbar_service::telemetry::LogFormat;

use super::endpoints::Endpoints;
use super::error::DevError;
use super::{blocking, program_dir};
use crate::cli::DevArgs;
use crate::config::Config;

const PROGRAM: &str = "worker";
/// Each worker has a folder of its own in this one.
const FOLDER: &str = "workers";
/// The pool of the workers that were asked for.
const POOL: &str = "default";
/// The most pools beside it that get a worker: a pack may name any number.
const POOLS_MAX: usize = 8;

/// A worker that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    id: String,
    pool: String,
    parallel: usize,
}

/// The workers that were asked for, and one with a single slot for each other pool. Who wants no workers starts all of them elsewhere.
pub(crate) fn plan(args: &DevArgs, pools: &BTreeSet<String>) -> Vec<Planned> {
    let (asked, parallel) = (usize::from(args.workers), args.max_parallel.map_or_else(processors, usize::from));
    let others: Vec<&String> = pools.iter().filter(|pool| *pool != POOL && asked > 0).collect();
    for pool in others.iter().skip(POOLS_MAX) {
        tracing::warn!(pool, "a pack names this pool, and there are too many: it gets no worker");
    }
    let asked = std::iter::repeat_n((POOL, parallel), asked);
    let others = others.into_iter().take(POOLS_MAX).map(|pool| (pool.as_str(), 1));
    let all = asked.chain(others).zip(1..);
    all.map(|((pool, parallel), number)| Planned { id: format!("dev-worker-{number}"), pool: pool.to_owned(), parallel })
        .collect()
}

/// Running workers. Dropping it kills them; one that dies is started again.
#[derive(Debug)]
pub(crate) struct Workers {
    companions: Vec<Companion>,
    ids: Vec<String>,
    logs: PathBuf,
}

/// The worker program beside this one, if any worker is wanted.
pub(crate) fn binary(count: u16) -> Result<PathBuf, DevError> {
    let path = program_dir()?.join(PROGRAM);
    if count > 0 && !path.is_file() {
        return Err(DevError::NoWorkerProgram { path });
    }
    Ok(path)
}

impl Workers {
    /// Starts them; that they are there, only the scheduler can tell.
    pub(crate) async fn start(
        binary: PathBuf,
        planned: Vec<Planned>,
        dir: &Path,
        endpoints: &Endpoints,
        config: &Config,
    ) -> Result<Self, DevError> {
        let logs = dir.join(FOLDER);
        let options: Vec<CompanionOptions> = planned
            .iter()
            .map(|worker| CompanionOptions {
                program: PROGRAM,
                binary: binary.clone(),
                args: arguments(worker, endpoints, config),
                env: None,
                dir: logs.join(&worker.id),
                supervised: true,
            })
            .collect();
        let ids = planned.into_iter().map(|worker| worker.id).collect();
        let companions = blocking(|| options.into_iter().map(Companion::start).collect::<Result<Vec<_>, _>>()).await??;
        Ok(Self { companions, ids, logs })
    }

    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The folder below which their logs stand.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Lets all of them finish what they hold, side by side, and kills those that take longer than ten seconds.
    pub(crate) async fn stop(self) {
        let stopped = blocking(move || {
            thread::scope(|scope| {
                for companion in self.companions {
                    scope.spawn(|| companion.stop());
                }
            });
        });
        if let Err(error) = stopped.await {
            tracing::warn!(%error, "the workers did not end in order");
        }
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn arguments(worker: &Planned, endpoints: &Endpoints, config: &Config) -> Vec<OsString> {
    let parallel = worker.parallel.to_string();
    let pairs = [
        ("--nats", endpoints.nats.as_str()),
        ("--redis", &endpoints.redis),
        ("--blobs", &endpoints.blobs),
        ("--pool", &worker.pool),
        ("--max-parallel", &parallel),
        ("--id", &worker.id),
    ];
    let traces = config.telemetry.otlp_endpoint.as_deref().map(|url| ("--otlp-endpoint", url));
    let lines = (config.log.format == LogFormat::Json).then_some(("--log-format", "json"));
    pairs.into_iter().chain(traces).chain(lines).flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn planned(line: &[&str], pools: &[&str]) -> Vec<(String, String, usize)> {
        let cli = Cli::try_parse_from(["busbar", "dev"].iter().chain(line)).expect("a good line");
        let Command::Dev(args) = cli.command else { panic!("another command") };
        let pools = pools.iter().map(|pool| (*pool).to_owned()).collect();
        plan(&args, &pools).into_iter().map(|worker| (worker.id, worker.pool, worker.parallel)).collect()
    }

    #[test]
    fn each_pool_of_a_pack_has_a_worker() {
        let of = |id: &str, pool: &str, parallel| (id.to_owned(), pool.to_owned(), parallel);
        let line = ["--workers", "2", "--max-parallel", "3"];
        let expected = [of("dev-worker-1", "default", 3), of("dev-worker-2", "default", 3), of("dev-worker-3", "trusted", 1)];
        assert_eq!(planned(&line, &["trusted", "default"]), expected);
        assert_eq!(planned(&["--workers", "0"], &["trusted"]), []);
        assert_eq!(planned(&["--workers", "1"], &["a", "b", "c", "d", "e", "f", "g", "h", "i"]).len(), 1 + POOLS_MAX);
    }
}
