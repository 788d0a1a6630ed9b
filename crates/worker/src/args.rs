//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_sdk::WorkerOptions;
use busbar_service::telemetry::{DEFAULT_FILTER, LogConfig, LogFormat, TraceConfig};
use clap::{Parser, ValueEnum};

use crate::wall::{Demand, Needs, Wall};

/// The topic that needs no module.
pub(crate) const ECHO: &str = "job.echo";
/// The label that says what stands around the guests beside their sandbox.
const WALL: &str = "wall";
/// The capability that says: any topic with a module, whatever its name.
const RUNS_MODULES: &str = "wasm";

/// Runs WebAssembly guests for every topic of its pool that names a module, and `job.echo`.
///
/// It waits for servers that are not there yet. SIGTERM or Ctrl-C: it takes nothing new and finishes what it holds; a second
/// signal ends it at once. Exit codes: 0 drained, 1 failed or cut short, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "worker", version)]
pub(crate) struct Args {
    /// Where NATS is.
    #[arg(long, value_name = "URL", env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats: String,
    /// Where Redis is.
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    pub(crate) redis: String,
    /// Where blobs are: modules, artifacts, large inputs and outputs.
    #[arg(long, value_name = "URL", env = "BLOBS_URL", hide_env_values = true)]
    pub(crate) blobs: String,
    /// The pool that it belongs to.
    #[arg(long, value_name = "NAME", env = "WORKER_POOL", default_value = "default")]
    pub(crate) pool: String,
    /// How many jobs run at once; one for each processor unless given.
    #[arg(long, value_name = "N", env = "WORKER_MAX_PARALLEL")]
    pub(crate) max_parallel: Option<NonZero<u16>>,
    /// How many jobs beyond those it takes in advance, as the scheduler does where jobs are short; as many as run at once unless
    /// given, 0 for none.
    #[arg(long, value_name = "N", env = "WORKER_PREFETCH")]
    pub(crate) prefetch: Option<u16>,
    /// What kind of machine or program it is; jobs can demand it.
    #[arg(long, value_name = "NAME", env = "WORKER_TYPE", default_value = "", hide_default_value = true)]
    pub(crate) worker_type: String,
    /// Its name: no other living worker's, without dots, `*`, `>` and white space. The name of the host up to its first dot unless
    /// given, which does where each worker has a host of its own, as in containers.
    #[arg(long, value_name = "ID", env = "WORKER_ID", default_value_t = host_name(), hide_default_value = true)]
    pub(crate) id: String,
    /// What jobs may demand of their worker; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// What it can do beside `wasm`, as jobs require it; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) capability: Vec<String>,
    /// Where tasks have their private folders, on the file system of the blobs if possible; below the folder of the blobs unless
    /// given.
    #[arg(long, value_name = "DIR", env = "WORKER_SCRATCH")]
    pub(crate) scratch: Option<PathBuf>,
    /// Where compiled modules are kept for the next process: a folder that belongs to this user and is closed to all others; beside the
    /// scratch folder unless given, for all workers of this user.
    #[arg(long, value_name = "DIR", env = "WORKER_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    /// What the worker gives up before it runs anybody's code: as much as the kernel allows, all or nothing, or nothing.
    #[arg(long, value_name = "HOW", env = "WORKER_WALL", default_value = "auto")]
    pub(crate) wall: Demand,
    /// A file or folder that it must be able to read besides, for example certificates in a place of their own; may be repeated.
    #[arg(long, value_name = "PATH", env = "WORKER_WALL_READ", value_delimiter = ':')]
    pub(crate) wall_read: Vec<PathBuf>,
    /// How long a drain may take, in seconds; what still runs then is told to stop, and tried again elsewhere.
    #[arg(long, value_name = "SECONDS", env = "WORKER_DRAIN_WITHIN", default_value_t = 300)]
    pub(crate) drain_within: u32,
    /// What is logged, for example `info,busbar_sdk=debug`.
    #[arg(long, value_name = "FILTER", env = "WORKER_LOG", default_value = DEFAULT_FILTER)]
    pub(crate) log: String,
    /// How a log line looks.
    #[arg(long, value_name = "FORMAT", env = "WORKER_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: Lines,
    /// Where it answers `/healthz`, `/readyz` and `/metrics`, for example `127.0.0.1:9091`; nowhere unless given.
    #[arg(long, value_name = "ADDR", env = "WORKER_HEALTH_LISTEN")]
    pub(crate) health_listen: Option<SocketAddr>,
    /// Where traces go: a collector that takes OTLP over gRPC, for example `http://127.0.0.1:4317`; nowhere unless given.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lines {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// How many jobs run at once.
    pub(crate) fn slots(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
        self.max_parallel.map_or_else(processors, |slots| usize::from(slots.get()))
    }

    /// What is logged, and how.
    pub(crate) fn log_config(&self) -> LogConfig {
        let format = match self.log_format {
            Lines::Text => LogFormat::Text,
            Lines::Json => LogFormat::Json,
        };
        LogConfig { format, filter: self.log.clone() }
    }

    /// Where traces go. Whether one is told, its beginner has decided.
    pub(crate) fn trace_config(&self) -> TraceConfig {
        let otlp_endpoint = self.otlp_endpoint.clone().filter(|url| !url.is_empty());
        TraceConfig { otlp_endpoint, ..TraceConfig::default() }
    }

    /// What the SDK is told. It announces one topic, because others have workers of their own; those with a module reach it by
    /// its capability.
    pub(crate) fn options(&self, wall: Wall) -> WorkerOptions {
        WorkerOptions {
            nats_url: self.nats.clone(),
            redis_url: self.redis.clone(),
            blobs_url: Some(self.blobs.clone()),
            id: self.id.clone(),
            pool: self.pool.clone(),
            max_parallel: self.slots(),
            prefetch: self.prefetch.map(usize::from),
            worker_type: self.worker_type.clone(),
            labels: self.labels(wall),
            capabilities: std::iter::once(RUNS_MODULES.to_owned()).chain(self.capability.iter().cloned()).collect(),
            topics: Some(vec![ECHO.to_owned()]),
            drain_within: Duration::from_secs(u64::from(self.drain_within)),
            ..WorkerOptions::default()
        }
    }
}

impl Args {
    /// Those that were asked for, and what stands around the guests: jobs may demand it.
    fn labels(&self, wall: Wall) -> BTreeMap<String, String> {
        std::iter::once((WALL.to_owned(), wall.describe().to_owned())).chain(self.label.iter().cloned()).collect()
    }

    /// What must stay possible behind the wall. Libraries find certificates by two names in the environment.
    pub(crate) fn needs(&self, written: &[&Path]) -> Needs {
        let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        Needs {
            written: written.iter().copied().map(Path::to_owned).collect(),
            read: certificates.chain(self.wall_read.iter().cloned()).collect(),
            listens: self.health_listen.map(|address| address.port()),
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}

fn label(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(name, _)| !name.is_empty());
    split.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "expected NAME=VALUE".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 9] = ["worker", "--nats", "nats://n", "--redis", "redis://r", "--blobs", "file:///b", "--id", "w1"];

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let options = Args::try_parse_from(NEEDED).expect("enough").options(Wall::default());
        assert_eq!((options.id.as_str(), options.pool.as_str(), options.max_parallel > 0), ("w1", "default", true));
        assert_eq!((options.prefetch, options.worker_type.as_str()), (None, ""));
        assert_eq!((options.capabilities, options.topics), (vec!["wasm".to_owned()], Some(vec!["job.echo".to_owned()])));
    }

    #[test]
    fn what_is_said_reaches_the_sdk() {
        let more = ["--max-parallel", "3", "--label", "zone=a=b", "--capability", "gpu", "--drain-within", "7"];
        let kinds = ["--prefetch", "0", "--worker-type", "spot"];
        let options = Args::try_parse_from(NEEDED.into_iter().chain(more).chain(kinds))
            .expect("valid")
            .options(Wall { landlock: 6, seccomp: true });
        assert_eq!((options.prefetch, options.worker_type.as_str()), (Some(0), "spot"));
        assert_eq!((options.max_parallel, options.drain_within), (3, Duration::from_secs(7)));
        assert_eq!((options.labels["zone"].as_str(), options.labels["wall"].as_str()), ("a=b", "landlock-seccomp"));
        assert_eq!(options.capabilities, ["wasm", "gpu"]);
    }

    #[test]
    fn what_is_named_stays_possible_behind_the_wall() {
        let more = ["--wall-read", "/x:/y", "--health-listen", "127.0.0.1:9091", "--wall", "require"];
        let args = Args::try_parse_from(NEEDED.into_iter().chain(more)).expect("valid");
        let needs = args.needs(&[Path::new("/b"), Path::new("/s")]);
        assert_eq!((args.wall, needs.listens), (Demand::Require, Some(9091)));
        assert_eq!(needs.written, ["/b", "/s"].map(PathBuf::from));
        assert!(needs.read.ends_with(&["/x", "/y"].map(PathBuf::from)), "{:?}", needs.read);
    }

    #[test]
    fn a_worker_without_an_id_is_called_like_its_host() {
        let args = Args::try_parse_from(&NEEDED[..7]).expect("enough");
        assert!(!args.id.is_empty() && !args.id.contains('.'), "{}", args.id);
    }

    #[test]
    fn nonsense_is_refused() {
        for more in
            [["--max-parallel", "0"], ["--label", "zone"], ["--label", "=x"], ["--frobnicate", "1"], ["--health-listen", "here"]]
        {
            assert!(Args::try_parse_from(NEEDED.into_iter().chain(more)).is_err(), "{more:?}");
        }
    }
}
