//! The configuration of every role: one document, of which each role reads its part.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use busbar_bus::{BusConfig, Login, Tls};
use busbar_gateway::{GatewayConfig, KEY_CHARS_MIN};
use busbar_protocol::inline;
use busbar_safety_kernel::KernelConfig;
use busbar_scheduler::core::commit::Retention;
use busbar_service::config::{ConfigError, Sources, load};
use busbar_service::telemetry::{LogConfig, TelemetryError, TraceConfig};
use busbar_store::StoreConfig;
use serde::{Deserialize, Serialize, Serializer};

use crate::cli::ConfigArgs;

const NATS_URL: &str = "nats://127.0.0.1:4222";
const REDIS_URL: &str = "redis://127.0.0.1:6379";
const HTTP_PORT: u16 = 8081;
const GRPC_LISTEN: &str = "127.0.0.1:8080";
const HEALTH_PORT: u16 = 9090;
const SIGNING_KEY_ID: &str = "busbar-scheduler";
/// What is over stays at least a minute, and at most ten years.
const TTL_SECONDS_MIN: u64 = 60;
const TTL_SECONDS_MAX: u64 = 10 * 366 * 24 * 60 * 60;
const LOG_ENTRIES_MIN: u64 = 10_000;

/// The configuration of every role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What is logged, and how.
    pub(crate) log: LogConfig,
    /// Where traces go.
    pub(crate) telemetry: TraceConfig,
    /// The bus.
    pub(crate) nats: NatsConfig,
    /// The store.
    pub(crate) redis: RedisConfig,
    /// The blobs.
    pub(crate) blobs: BlobsConfig,
    /// Where a role without another HTTP server answers `/healthz`, `/readyz` and `/metrics`.
    pub(crate) health: HealthConfig,
    /// The gateway's HTTP server.
    pub(crate) http: HttpConfig,
    /// The gateway's gRPC server.
    pub(crate) grpc: GrpcConfig,
    /// The gateway.
    pub(crate) gateway: GatewayConfig,
    /// The scheduler.
    pub(crate) scheduler: SchedulerSection,
    /// The workflow engine.
    pub(crate) workflow_engine: WorkflowEngineSection,
    /// The safety kernel: where it listens, and where others find it.
    pub(crate) safety_kernel: SafetyKernelSection,
}

/// The bus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NatsConfig {
    /// `nats://[user:password@]host:port`, several with commas between them; none means the one on this machine, or for
    /// `dev` a server of its own.
    pub(crate) url: Option<ServerUrl>,
    /// A `.creds` file with a JWT and a seed.
    pub(crate) credentials_file: Option<PathBuf>,
    /// A file that holds the seed of an nkey.
    pub(crate) nkey_file: Option<PathBuf>,
    /// Whether an unencrypted connection is refused.
    pub(crate) tls_required: bool,
    /// Further roots to trust (PEM).
    pub(crate) tls_root_file: Option<PathBuf>,
    /// Our own certificate (PEM).
    pub(crate) tls_certificate_file: Option<PathBuf>,
    /// The key of our own certificate (PEM).
    pub(crate) tls_key_file: Option<PathBuf>,
    /// How many servers keep a copy of each stream; none means one.
    pub(crate) replicas: Option<u8>,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/database]`; none means the one on this machine, or for `dev` a server of its own.
    pub(crate) url: Option<ServerUrl>,
    /// Whether a server is accepted that evicts keys or keeps no append-only file, and so can lose acknowledged work.
    pub(crate) allow_unsafe: bool,
}

/// The blobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BlobsConfig {
    /// `file:///dir`; the gateway needs one, `dev` has a folder of its own.
    pub(crate) url: Option<String>,
}

/// The health server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HealthConfig {
    /// Where it listens; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { listen: local(HEALTH_PORT) }
    }
}

/// The gateway's HTTP server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpConfig {
    /// Where it listens; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: local(HTTP_PORT) }
    }
}

/// The gateway's gRPC server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GrpcConfig {
    /// Where it listens: `host:port`, or `:port` for every address of this machine; port 0 takes a free one.
    pub(crate) listen: String,
    /// The server's certificate with its chain (PEM); without it, plain text is spoken.
    pub(crate) tls_certificate_file: Option<PathBuf>,
    /// The key of the certificate (PEM).
    pub(crate) tls_key_file: Option<PathBuf>,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self { listen: GRPC_LISTEN.to_owned(), tls_certificate_file: None, tls_key_file: None }
    }
}

impl GrpcConfig {
    /// Where it listens, with the host that may be left out.
    pub(crate) fn address(&self) -> String {
        if self.listen.starts_with(':') { format!("0.0.0.0{}", self.listen) } else { self.listen.clone() }
    }

    /// The files of its certificate and of the key.
    pub(crate) fn tls_files(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate_file.as_deref().zip(self.tls_key_file.as_deref())
    }
}

/// The scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SchedulerSection {
    /// How long the lease outlives its last renewal, in milliseconds: a killed scheduler is replaced after this time.
    pub(crate) lease_ttl_ms: u64,
    /// How often the active replica renews the lease, and a standby asks for it, in milliseconds.
    pub(crate) lease_poll_ms: u64,
    /// The most live jobs that the cell takes.
    pub(crate) live_jobs_max: usize,
    /// How long a finished job can be looked at, and an idempotency key stands for its job, in seconds.
    pub(crate) job_ttl_seconds: u64,
    /// How long input and result stay after the end of a job whose topic says nothing else, in seconds.
    pub(crate) result_ttl_seconds: u64,
    /// How long a dead letter is kept, with its input, in seconds.
    pub(crate) dead_letter_ttl_seconds: u64,
    /// About how many entries the log of jobs keeps: followers that fell back further begin anew.
    pub(crate) log_entries_max: u64,
    /// Up to how many bytes inputs go with dispatches and outputs may come with results: 0 to 4096, and 0 means that none do.
    pub(crate) inline_bytes_max: usize,
    /// A file with the key (P-256, PKCS #8 in PEM) that signs what the scheduler says on CAP's subjects; none means unsigned.
    pub(crate) signing_key_file: Option<PathBuf>,
    /// The name under which workers know that key.
    pub(crate) signing_key_id: String,
    /// What becomes of what CAP workers say without a live session of the trust handshake: `off`, `warn` or `enforce`.
    pub(crate) worker_trust: Demand,
    /// What becomes of packets on CAP's subjects that are not signed by an enrolled key of their sender: `off`, `warn` or `enforce`.
    pub(crate) signatures: Demand,
}

impl SchedulerSection {
    fn check_retention(&self) -> Result<(), Unfit> {
        let ttls = [
            ("job_ttl_seconds", self.job_ttl_seconds),
            ("result_ttl_seconds", self.result_ttl_seconds),
            ("dead_letter_ttl_seconds", self.dead_letter_ttl_seconds),
        ];
        if let Some((name, _)) = ttls.into_iter().find(|(_, ttl)| !(TTL_SECONDS_MIN..=TTL_SECONDS_MAX).contains(ttl)) {
            return Err(Unfit::Ttl(name));
        }
        if self.log_entries_max < LOG_ENTRIES_MIN { Err(Unfit::LogEntries) } else { Ok(()) }
    }
}

/// How much of a proof is demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Demand {
    /// None: nobody looks.
    #[default]
    Off,
    /// What lacks it counts, and operators are told.
    Warn,
    /// What lacks it changes nothing, and operators are told.
    Enforce,
}

impl Default for SchedulerSection {
    fn default() -> Self {
        let Retention { jobs, results, dead_letters, log_entries, .. } = Retention::default();
        Self {
            lease_ttl_ms: 2_000,
            lease_poll_ms: 250,
            live_jobs_max: 1_000_000,
            job_ttl_seconds: jobs.as_secs(),
            result_ttl_seconds: results.as_secs(),
            dead_letter_ttl_seconds: dead_letters.as_secs(),
            log_entries_max: log_entries,
            inline_bytes_max: inline::BYTES_MAX,
            signing_key_file: None,
            signing_key_id: SIGNING_KEY_ID.to_owned(),
            worker_trust: Demand::Off,
            signatures: Demand::Off,
        }
    }
}

/// The workflow engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkflowEngineSection {
    /// How long the lease outlives its last renewal, in milliseconds: a killed engine is replaced after this time.
    pub(crate) lease_ttl_ms: u64,
    /// How often the active replica renews the lease, and a standby asks for it, in milliseconds.
    pub(crate) lease_poll_ms: u64,
    /// The most live runs that the cell takes.
    pub(crate) live_runs_max: usize,
}

impl Default for WorkflowEngineSection {
    fn default() -> Self {
        Self { lease_ttl_ms: 2_000, lease_poll_ms: 250, live_runs_max: 10_000 }
    }
}

/// The safety kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SafetyKernelSection {
    /// Where others find it: `host:port`.
    pub(crate) addr: String,
    /// Where the kernel listens, `host:port`; none means on `addr`. Port 0 takes a free one.
    pub(crate) listen: Option<String>,
    /// The operator's own bundle (YAML); none means that nothing is allowed but what published bundles allow.
    pub(crate) policy_path: Option<PathBuf>,
    /// How often policy file and published bundles are read again, in milliseconds, in case word of a change was lost.
    pub(crate) refresh_ms: u64,
}

impl Default for SafetyKernelSection {
    fn default() -> Self {
        let KernelConfig { addr, policy_path, refresh_ms } = KernelConfig::default();
        Self { addr, listen: None, policy_path, refresh_ms }
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The address of a server, which is never shown with the password that may stand in it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct ServerUrl(String);

impl ServerUrl {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The whole address. Do not log it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.split(',').map(|one| without_password(one.trim())).collect();
        f.write_str(&shown.join(","))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for ServerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// In NATS a lone name before the `@` is a token, so that is hidden as well.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let Some((login, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = login.split_once(':').map_or("", |(user, _)| user);
    format!("{scheme}://{user}:***@{host}")
}

/// What is wrong with values that are good one by one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("nats.credentials_file and nats.nkey_file are both set; one login is enough")]
    TwoLogins,
    #[error("{section}.tls_certificate_file and {section}.tls_key_file go together; one of them is not set")]
    HalfCertificate { section: &'static str },
    #[error(
        "{0}.lease_poll_ms must be above 0 and at most a third of {0}.lease_ttl_ms, or the lease is lost between two renewals"
    )]
    LeasePoll(&'static str),
    #[error("nats.replicas must be 1, 3 or 5")]
    Replicas,
    #[error("gateway.bootstrap_key is too short: at least {KEY_CHARS_MIN} characters are wanted")]
    BootstrapKey,
    #[error("scheduler.worker_trust needs scheduler.signing_key_file: workers must be able to tell the scheduler from others")]
    TrustWithoutKey,
    #[error("scheduler.signing_key_id must be 1 to 256 visible characters of ASCII")]
    SigningKeyId,
    #[error(
        "scheduler.{0} must be between {TTL_SECONDS_MIN} and {TTL_SECONDS_MAX}: what is over must be there long enough to be read, and end one day"
    )]
    Ttl(&'static str),
    #[error("scheduler.inline_bytes_max must be at most {}: workers take no larger payloads out of messages", inline::BYTES_MAX)]
    InlineBytes,
    #[error("scheduler.log_entries_max must be at least {LOG_ENTRIES_MIN}, or followers lose their place whenever much happens")]
    LogEntries,
    #[error("telemetry: {0}")]
    Telemetry(#[from] TelemetryError),
}

impl Config {
    /// What this process was given.
    pub(crate) fn of_process(args: &ConfigArgs) -> Result<Self, crate::Failure> {
        let sources = Sources::of_process(args.config.as_deref(), args.overrides())?;
        let config = Self::from_sources(&sources)?;
        config.check()?;
        Ok(config)
    }

    fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        load(sources)
    }

    fn check(&self) -> Result<(), Unfit> {
        if self.nats.credentials_file.is_some() && self.nats.nkey_file.is_some() {
            return Err(Unfit::TwoLogins);
        }
        let (nats, grpc) = (&self.nats, &self.grpc);
        if nats.tls_certificate_file.is_some() != nats.tls_key_file.is_some() {
            return Err(Unfit::HalfCertificate { section: "nats" });
        }
        if grpc.tls_certificate_file.is_some() != grpc.tls_key_file.is_some() {
            return Err(Unfit::HalfCertificate { section: "grpc" });
        }
        if !matches!(self.nats.replicas, None | Some(1 | 3 | 5)) {
            return Err(Unfit::Replicas);
        }
        let bootstrap_key = &self.gateway.bootstrap_key;
        if !bootstrap_key.is_empty() && bootstrap_key.expose().chars().count() < KEY_CHARS_MIN {
            return Err(Unfit::BootstrapKey);
        }
        if self.scheduler.worker_trust != Demand::Off && self.scheduler.signing_key_file.is_none() {
            return Err(Unfit::TrustWithoutKey);
        }
        if !busbar_protocol::handshake::is_name(&self.scheduler.signing_key_id) {
            return Err(Unfit::SigningKeyId);
        }
        self.scheduler.check_retention()?;
        if self.scheduler.inline_bytes_max > inline::BYTES_MAX {
            return Err(Unfit::InlineBytes);
        }
        self.telemetry.check()?;
        for (section, ttl_ms, poll_ms) in [
            ("scheduler", self.scheduler.lease_ttl_ms, self.scheduler.lease_poll_ms),
            ("workflow_engine", self.workflow_engine.lease_ttl_ms, self.workflow_engine.lease_poll_ms),
        ] {
            if poll_ms == 0 || poll_ms.saturating_mul(3) > ttl_ms {
                return Err(Unfit::LeasePoll(section));
            }
        }
        Ok(())
    }

    /// How a role reaches the bus.
    pub(crate) fn bus(&self, role: &str) -> BusConfig {
        let nats = &self.nats;
        let url = nats.url.as_ref().map_or(NATS_URL, ServerUrl::expose);
        let login = match (&nats.credentials_file, &nats.nkey_file) {
            (Some(file), _) => Login::CredentialsFile(file.clone()),
            (None, Some(file)) => Login::NkeyFile(file.clone()),
            (None, None) => Login::Anonymous,
        };
        let tls = Tls {
            required: nats.tls_required,
            root_file: nats.tls_root_file.clone(),
            client_files: nats.tls_certificate_file.clone().zip(nats.tls_key_file.clone()),
        };
        let mut config = BusConfig { login, tls, ..BusConfig::new(url, format!("busbar-{role}")) };
        if let Some(replicas) = nats.replicas {
            config.streams.replicas = usize::from(replicas);
        }
        config
    }

    /// How a role reaches the store.
    pub(crate) fn store(&self, role: &str) -> StoreConfig {
        let url = self.redis.url.as_ref().map_or(REDIS_URL, ServerUrl::expose);
        StoreConfig { client_name: format!("busbar-{role}"), allow_unsafe: self.redis.allow_unsafe, ..StoreConfig::new(url) }
    }
}

#[cfg(test)]
mod tests {
    use busbar_service::config::{FAMILIAR, print};

    use super::*;

    fn of(file: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        Config::from_sources(&Sources {
            file: Some(("busbar.yaml".into(), file.into())),
            env: own(env).into_iter().collect(),
            aliases: own(FAMILIAR),
            overrides: own(overrides),
        })
    }

    #[test]
    fn the_defaults_are_good_and_can_be_printed_and_read_again() {
        let config = of("", &[], &[]).expect("defaults");
        config.check().expect("good");
        assert_eq!(of(&print(&config), &[], &[]).expect("what was printed"), config);
        assert_eq!(config.bus("x").url, NATS_URL);
        assert_eq!(config.store("x").url, REDIS_URL);
    }

    #[test]
    fn familiar_variables_are_taken() {
        let env = [
            ("NATS_URL", "nats://bus:4222"),
            ("REDIS_URL", "redis://store:6379"),
            ("SAFETY_KERNEL_ADDR", "kernel:50051"),
            ("SAFETY_POLICY_PATH", "/etc/busbar/policy.yaml"),
            ("BUSBAR_HTTP__LISTEN", "0.0.0.0:80"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            ("GATEWAY_GRPC_ADDR", ":8080"),
            ("GRPC_TLS_CERT", "/tls/cert.pem"),
            ("GRPC_TLS_KEY", "/tls/key.pem"),
        ];
        let config = of("", &env, &[("nats.url", "nats://flag:1")]).expect("good");
        assert_eq!(config.bus("x").url, "nats://flag:1");
        assert_eq!(config.store("x").url, "redis://store:6379");
        assert_eq!(config.safety_kernel.addr, "kernel:50051");
        assert_eq!(config.safety_kernel.policy_path, Some("/etc/busbar/policy.yaml".into()));
        assert_eq!(config.http.listen.port(), 80);
        assert_eq!(config.telemetry.otlp_endpoint.as_deref(), Some("http://collector:4317"));
        assert_eq!(config.grpc.address(), "0.0.0.0:8080");
        assert_eq!(config.grpc.tls_files(), Some((Path::new("/tls/cert.pem"), Path::new("/tls/key.pem"))));
    }

    #[test]
    fn passwords_are_never_shown() {
        let config = of(
            "redis: {url: 'redis://u:geheim@h:1'}\nnats: {url: 'nats://token@a:1,nats://b:2'}\ngateway: {bootstrap_key: geheim}",
            &[],
            &[],
        )
        .expect("good");
        let shown = format!("{config:?} {}", print(&config));
        assert!(!shown.contains("geheim") && !shown.contains("token"), "{shown}");
        assert!(shown.contains("redis://u:***@h:1") && shown.contains("nats://:***@a:1,nats://b:2"), "{shown}");
        assert_eq!(config.store("x").url, "redis://u:geheim@h:1");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = of("nats: {uri: x}", &[], &[]).expect_err("misspelt");
        assert!(error.to_string().contains("uri"), "{error}");
        assert!(of("", &[("BUSBAR_SCHEDULER__COLOUR", "red")], &[]).is_err());
    }

    #[test]
    fn values_that_do_not_go_together_are_refused() {
        for bad in [
            "nats: {credentials_file: a, nkey_file: b}",
            "nats: {tls_key_file: a}",
            "grpc: {tls_certificate_file: a}",
            "nats: {replicas: 2}",
            "gateway: {bootstrap_key: short}",
            "scheduler: {lease_ttl_ms: 500}",
            "scheduler: {job_ttl_seconds: 1}",
            "scheduler: {result_ttl_seconds: 0}",
            "scheduler: {dead_letter_ttl_seconds: 99999999999}",
            "scheduler: {log_entries_max: 10}",
            "scheduler: {inline_bytes_max: 4097}",
            "telemetry: {sample_ratio: 2}",
            "telemetry: {otlp_endpoint: 'collector:4317'}",
        ] {
            of(bad, &[], &[]).expect("each value is good").check().expect_err(bad);
        }
    }
}
