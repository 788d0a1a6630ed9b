//! The workers of `dev`: processes of their own, as everywhere.

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
        args: &DevArgs,
        dir: &Path,
        endpoints: &Endpoints,
        config: &Config,
    ) -> Result<Self, DevError> {
        let parallel = args.max_parallel.map_or_else(processors, usize::from);
        let ids: Vec<String> = (1..=args.workers).map(|number| format!("dev-worker-{number}")).collect();
        let logs = dir.join(FOLDER);
        let options: Vec<CompanionOptions> = ids
            .iter()
            .map(|id| CompanionOptions {
                program: PROGRAM,
                binary: binary.clone(),
                args: arguments(id, parallel, endpoints, config),
                env: None,
                dir: logs.join(id),
                supervised: true,
            })
            .collect();
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

fn arguments(id: &str, parallel: usize, endpoints: &Endpoints, config: &Config) -> Vec<OsString> {
    let parallel = parallel.to_string();
    let pairs = [
        ("--nats", endpoints.nats.as_str()),
        ("--redis", &endpoints.redis),
        ("--blobs", &endpoints.blobs),
        ("--pool", "default"),
        ("--max-parallel", &parallel),
        ("--id", id),
    ];
    let traces = config.telemetry.otlp_endpoint.as_deref().map(|url| ("--otlp-endpoint", url));
    let lines = (config.log.format == LogFormat::Json).then_some(("--log-format", "json"));
    pairs.into_iter().chain(traces).chain(lines).flat_map(|(name, value)| [name.into(), value.into()]).collect()
}
