//! The command line.

use std::path::PathBuf;

use busbar_gateway::Role;
use busbar_service::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::keys;
use crate::probe::ProbeUrl;

/// The bus-first control plane for jobs and workflows: every role of it, and the whole of it for development.
#[derive(Debug, Parser)]
#[command(name = "busbar", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one scheduler: the active one of its cell, or a standby.
    Scheduler(ConfigArgs),
    /// Runs one gateway: HTTP and gRPC.
    Gateway(ConfigArgs),
    /// Runs one safety kernel.
    SafetyKernel(ConfigArgs),
    /// Runs one workflow engine: the active one of its cell, or a standby.
    WorkflowEngine(ConfigArgs),
    /// Runs everything on this machine: servers, every role, and workers.
    Dev(DevArgs),
    /// Makes, lists and revokes API keys, straight in the store.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Asks an address once, for health checks: exit 0 if the answer is a 200.
    Probe {
        /// For example http://127.0.0.1:9090/readyz.
        #[arg(value_name = "URL", value_parser = ProbeUrl::parse)]
        url: ProbeUrl,
    },
    /// Answers CAP's conformance kit as a control plane, on stdin and stdout.
    Conformance {
        /// Switches the rule of one case off, which must then fail: to show that it can.
        #[arg(long, value_name = "CASE")]
        without: Option<String>,
    },
}

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key and prints it: the only time that it can be seen.
    Create(NewKeyArgs),
    /// Lists the keys, without the keys themselves.
    List {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Takes a key away.
    Revoke {
        /// Its name, or at least 8 characters of its id.
        #[arg(value_name = "NAME|ID")]
        which: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// A key that is to be made.
#[derive(Debug, Args)]
pub(crate) struct NewKeyArgs {
    /// Names the key, and those who use it, in logs and records.
    #[arg(long, value_name = "NAME", value_parser = keys::name)]
    pub(crate) name: String,
    /// What it may do: admin, operator, submitter, viewer; may be repeated.
    #[arg(long, value_name = "ROLE", required = true)]
    pub(crate) role: Vec<Role>,
    /// Whose jobs it sees.
    #[arg(long, value_name = "TENANT", default_value = "default")]
    pub(crate) tenant: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

impl KeyCommand {
    pub(crate) const fn config(&self) -> &ConfigArgs {
        match self {
            Self::Create(args) => &args.config,
            Self::List { config } | Self::Revoke { config, .. } => config,
        }
    }
}

/// Where the configuration comes from: defaults, then the file, then the environment, then these.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// A YAML file.
    #[arg(long, value_name = "FILE", env = "BUSBAR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Sets any key, for example `--set http.listen=0.0.0.0:8081`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) set: Vec<(String, String)>,
    /// The bus: the key `nats.url`.
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// The store: the key `redis.url`.
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// The blobs: the key `blobs.url`.
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<String>,
    /// What is logged, for example `info,busbar_scheduler=debug`: the key `log.filter`.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How a log line looks: the key `log.format`.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// Says whether the configuration is good, and ends.
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Prints the configuration without its secrets, and ends.
    #[arg(long)]
    pub(crate) print_config: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

impl ConfigArgs {
    /// The flags as keys and values.
    pub(crate) fn overrides(&self) -> Vec<(String, String)> {
        let format = self.log_format.map(|format| match format {
            Format::Text => "text".to_owned(),
            Format::Json => "json".to_owned(),
        });
        let named = [
            ("nats.url", self.nats.clone()),
            ("redis.url", self.redis.clone()),
            ("blobs.url", self.blobs.clone()),
            ("log.filter", self.log.clone()),
            ("log.format", format),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.set.iter().cloned().chain(named).collect()
    }
}

/// Everything on this machine.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Where everything is kept; a later start with the same folder goes on where this one was.
    /// [default: $XDG_STATE_HOME/busbar/dev, else ~/.local/state/busbar/dev]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// `auto` takes free ports, `fixed` the familiar ones: HTTP 8081, gRPC 8080, NATS 4222, Redis 6379.
    #[arg(long, value_enum, default_value_t = Ports::Auto)]
    pub(crate) ports: Ports,
    /// How many workers are started.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=64))]
    pub(crate) workers: u16,
    /// How many attempts each worker takes at once. [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) max_parallel: Option<u16>,
    /// A folder of packs to install, as folders or as .tgz files. [default: the folder `packs` beside the one of this program]
    #[arg(long, value_name = "DIR", env = "BUSBAR_PACKS")]
    pub(crate) packs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ports {
    /// Free ones.
    Auto,
    /// The familiar ones.
    Fixed,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is wanted, for example http.listen=0.0.0.0:8081".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_come_after_set() {
        let cli = Cli::parse_from([
            "busbar",
            "scheduler",
            "--nats",
            "nats://b:1",
            "--set",
            "nats.url=nats://a:1",
            "--log-format",
            "json",
        ]);
        let Command::Scheduler(args) = cli.command else { panic!("another command") };
        let overrides = args.overrides();
        let of = |key: &str| overrides.iter().rfind(|(k, _)| k == key).map(|(_, value)| value.as_str());
        assert_eq!((of("nats.url"), of("log.format"), of("redis.url")), (Some("nats://b:1"), Some("json"), None));
    }

    #[test]
    fn what_is_no_key_and_value_is_refused() {
        for bad in ["nats.url", "=x"] {
            assert!(Cli::try_parse_from(["busbar", "gateway", "--set", bad]).is_err(), "{bad}");
        }
        assert!(Cli::try_parse_from(["busbar", "dev", "--workers", "65"]).is_err());
        assert!(Cli::try_parse_from(["busbar", "dev", "--max-parallel", "0"]).is_err());
        for bad in ["key create --name x", "key create --name x --role king", "key revoke", "probe https://a:1/"] {
            assert!(Cli::try_parse_from(["busbar"].into_iter().chain(bad.split(' '))).is_err(), "{bad}");
        }
    }
}
