//! `cargo xtask compose-local`: runs the services of `docker-compose.yml` as processes of this machine, with exactly the settings of
//! that file. `tools/compose-local` builds the programs, asks `docker-compose config`, and calls this.
//!
//! ```text
//!  docker-compose config ─► services in order ─► addresses, ports, folders mapped ─► processes ─► health checks ─► COMMAND
//!                                                                                         end, the last first ◄────┘
//! ```
//!
//! What a container engine would do and this does not: users, read-only files, networks, images.

mod health;
mod mapping;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use busbar_servers::{Companion, CompanionOptions, Search, free_port};

use self::health::Health;
use self::mapping::{Instance, Mapping, Ports};
use crate::compose::{Compose, ComposeError, Condition, MountKind, Service};

/// How long a service may take until it is well.
const WELL_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where the image has the packs.
pub(crate) const IMAGE_PACKS: &str = "/usr/share/busbar/packs";
/// The service that clients talk to.
const GATEWAY: &str = "gateway";

/// What `xtask compose-local` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What `docker-compose config` printed.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// An empty folder for logs and volumes.
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// The folder with `busbar`, `worker` and `ctl`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// The folder with the built packs.
    #[arg(long, value_name = "DIR")]
    packs: PathBuf,
    /// Stay up after the command, until killed.
    #[arg(long)]
    keep: bool,
    /// What to run when everything is well.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Why the services do not run, or the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Servers(#[from] busbar_servers::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{instance} runs {program:?}, which is not known here")]
    Program { instance: String, program: String },
    #[error("the health check of {0} is none that can be asked here")]
    HealthCheck(String),
    #[error("{instance}, whose health check said {said:?}: {source}")]
    Unwell { instance: String, said: String, source: busbar_servers::Error },
    #[error("the service {GATEWAY} has no {0}")]
    Gateway(&'static str),
    #[error("{0:?} ended with {1}")]
    Command(OsString, ExitStatus),
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::File { path, source }
}

/// A process that stands for a container.
struct Running {
    instance: Instance,
    companion: Companion,
    health: Option<Health>,
    /// Its environment, as mapped.
    environment: BTreeMap<String, String>,
}

/// Starts everything, runs the command, ends everything.
pub(crate) fn run(arguments: &Arguments) -> Result<(), LocalError> {
    let compose = Compose::read(&arguments.config)?;
    let began = Instant::now();
    let mut local = Local::new(arguments, compose)?;
    let outcome = local.start().and_then(|endpoints| {
        eprintln!("compose-local: {} processes are well after {:.1} s", local.running.len(), began.elapsed().as_secs_f64());
        local.tell(&endpoints);
        local.command(&endpoints)
    });
    local.stop();
    outcome
}

struct Local<'a> {
    arguments: &'a Arguments,
    work: PathBuf,
    compose: Compose,
    services: Vec<String>,
    ports: Ports<fn() -> u16>,
    /// In the order of their starts.
    running: Vec<Running>,
}

/// What the command is told, in its environment.
struct Endpoints {
    file: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl<'a> Local<'a> {
    fn new(arguments: &'a Arguments, compose: Compose) -> Result<Self, LocalError> {
        let services = compose.services.keys().cloned().collect();
        let work = fs::canonicalize(&arguments.work).map_err(file(&arguments.work))?;
        let free: fn() -> u16 = || free_port().expect("one of 200 ports is free");
        Ok(Self { arguments, work, compose, services, ports: Ports::new(free), running: Vec::new() })
    }

    /// Starts each service when those that it waits for are well, and returns when all of them are.
    fn start(&mut self) -> Result<Endpoints, LocalError> {
        let order: Vec<String> = self.compose.in_order()?.into_iter().map(str::to_owned).collect();
        for name in order {
            let service = self.compose.services[&name].clone();
            if service.is_preparation() {
                // Volumes are folders of ours here, and belong to us already.
                continue;
            }
            for (used, dependency) in &service.depends_on {
                if dependency.condition == Condition::Healthy {
                    self.until_well(used)?;
                }
            }
            if service.is_errand() {
                self.run_errand(&service, &Instance { service: name.clone(), number: 1 })?;
                continue;
            }
            for number in 1..=service.deploy.replicas {
                let running = self.start_one(&service, Instance { service: name.clone(), number })?;
                self.running.push(running);
            }
        }
        for name in self.services.clone() {
            self.until_well(&name)?;
        }
        self.endpoints()
    }

    /// Runs what ends by itself to its end.
    fn run_errand(&mut self, service: &Service, instance: &Instance) -> Result<(), LocalError> {
        let (program, binary) = self.program(service, instance)?;
        let folders = self.folders(service)?;
        let mut mapping = Mapping { instance, services: &self.services, ports: &mut self.ports, folders };
        let args = mapping.arguments(&service.command[1..]);
        let variables: Vec<_> = service.variables().into_iter().map(|(name, value)| (name, mapping.text(&value))).collect();
        let mut command = Command::new(&binary);
        let status = command.args(args).env_clear().envs(variables).status().map_err(file(&binary))?;
        if status.success() { Ok(()) } else { Err(LocalError::Command(program.into(), status)) }
    }

    fn start_one(&mut self, service: &Service, instance: Instance) -> Result<Running, LocalError> {
        let (program, binary) = self.program(service, &instance)?;
        let folders = self.folders(service)?;
        let mut mapping = Mapping { instance: &instance, services: &self.services, ports: &mut self.ports, folders };
        let args = mapping.arguments(&service.command[1..]);
        let variables = service.variables().into_iter();
        let mut environment: BTreeMap<String, String> = variables.map(|(name, value)| (name, mapping.text(&value))).collect();
        let test = service.healthcheck.as_ref().map(|check| mapping.arguments(&check.test));
        let unknown = || LocalError::HealthCheck(instance.name());
        let health = test.map(|test| Health::parse(&test).ok_or_else(unknown)).transpose()?;
        if program == "worker" {
            // A container is a host of its own, whose name the worker would take.
            environment.entry("WORKER_ID".to_owned()).or_insert_with(|| instance.name());
        }
        let companion = Companion::start(CompanionOptions {
            program,
            binary,
            args: args.into_iter().map(OsString::from).collect(),
            env: Some(environment.iter().map(|(name, value)| (name.into(), value.into())).collect()),
            dir: self.work.join(instance.name()),
            supervised: false,
        })?;
        eprintln!("compose-local: {} is started; its log is {}", instance.name(), companion.log_path().display());
        Ok(Running { instance, companion, health, environment })
    }

    fn program(&self, service: &Service, instance: &Instance) -> Result<(&'static str, PathBuf), LocalError> {
        let search = Search::from_env();
        let ours = |name: &str| {
            let path = self.arguments.programs.join(name);
            fs::canonicalize(&path).map_err(file(&path))
        };
        Ok(match service.program() {
            "nats-server" => ("nats-server", search.find_nats()?.path),
            "redis-server" => ("redis-server", search.find_redis()?.path),
            "busbar" => ("busbar", ours("busbar")?),
            "worker" => ("worker", ours("worker")?),
            "ctl" => ("ctl", ours("ctl")?),
            other => return Err(LocalError::Program { instance: instance.name(), program: other.to_owned() }),
        })
    }

    /// Volumes are folders in the work folder; folders of the host are themselves.
    fn folders(&self, service: &Service) -> Result<Vec<(PathBuf, PathBuf)>, LocalError> {
        let packs = fs::canonicalize(&self.arguments.packs).map_err(file(&self.arguments.packs))?;
        let mut folders = vec![(PathBuf::from(IMAGE_PACKS), packs)];
        for mount in &service.volumes {
            let here = match mount.kind {
                MountKind::Volume => self.work.join("volumes").join(&mount.source),
                MountKind::Bind => PathBuf::from(&mount.source),
            };
            if mount.kind == MountKind::Volume {
                fs::create_dir_all(&here).map_err(file(&here))?;
            }
            folders.push((mount.target.clone(), here));
        }
        Ok(folders)
    }

    /// Waits until every process of a service is well. One that ends before is an error; one that ends later is started again, as
    /// the file says.
    fn until_well(&self, service: &str) -> Result<(), LocalError> {
        let busbar = self.arguments.programs.join("busbar");
        for one in self.running.iter().filter(|one| one.instance.service == service) {
            let mut said = "nothing yet".to_owned();
            let asked = one.companion.until_ready(WELL_WITHIN, || match one.health.as_ref().map(|health| health.ask(&busbar)) {
                Some(Err(answer)) => {
                    said = answer;
                    thread::sleep(LOOK_EVERY);
                    None
                }
                Some(Ok(())) | None => Some(()),
            });
            asked.map_err(|source| LocalError::Unwell { instance: one.instance.name(), said, source })?;
            one.companion.supervise();
        }
        Ok(())
    }

    /// Writes `endpoints.json`, as `busbar dev` does, and gathers the same for the command's environment.
    fn endpoints(&self) -> Result<Endpoints, LocalError> {
        let gateway = self.running.iter().find(|one| one.instance.service == GATEWAY).ok_or(LocalError::Gateway("process"))?;
        let of = |name: &'static str| gateway.environment.get(name).cloned().ok_or(LocalError::Gateway(name));
        let http = format!("http://{}", of("BUSBAR_HTTP__LISTEN")?);
        let (nats, redis, blobs) = (of("NATS_URL")?, of("REDIS_URL")?, of("BLOBS_URL")?);
        let api_key = of("BUSBAR_GATEWAY__BOOTSTRAP_KEY")?;
        let content = serde_json::json!({
            "http": http,
            "grpc": gateway.environment.get("BUSBAR_GRPC__LISTEN"),
            "nats": nats,
            "redis": redis,
            "blobs": blobs,
            "api_key": api_key,
            "pid": std::process::id(),
        });
        let path = self.work.join("endpoints.json");
        fs::write(&path, content.to_string()).map_err(file(&path))?;
        let variables = vec![
            ("BUSBAR_URL", http),
            ("BUSBAR_API_KEY", api_key),
            ("NATS_URL", nats),
            ("REDIS_URL", redis),
            ("BLOBS_URL", blobs),
        ];
        Ok(Endpoints { file: path, variables })
    }

    fn tell(&self, endpoints: &Endpoints) {
        for one in &self.running {
            let pid = one.companion.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let health = match &one.health {
                Some(Health::Http(url)) => url.clone(),
                Some(Health::Redis(port)) => format!("127.0.0.1:{port}"),
                None => "no health check".to_owned(),
            };
            eprintln!("  {:<18} process {pid:<8} {health}", one.instance.name());
        }
        eprintln!("  BUSBAR_ENDPOINTS={}", endpoints.file.display());
    }

    fn command(&self, endpoints: &Endpoints) -> Result<(), LocalError> {
        if let Some((program, args)) = self.arguments.command.split_first() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let paths = std::iter::once(self.arguments.programs.clone()).chain(std::env::split_paths(&path));
            let mut command = Command::new(program);
            command.args(args).env("BUSBAR_ENDPOINTS", &endpoints.file).envs(endpoints.variables.iter().cloned());
            command.env("PATH", std::env::join_paths(paths).unwrap_or(path));
            let status = command.status().map_err(file(Path::new(program)))?;
            if !status.success() {
                return Err(LocalError::Command(program.clone(), status));
            }
        }
        if self.arguments.keep {
            eprintln!("compose-local: it stays up; Ctrl-C ends everything");
            loop {
                thread::park();
            }
        }
        Ok(())
    }

    /// Ends what runs in order: whoever needs another ends before it.
    fn stop(self) {
        for one in self.running.into_iter().rev() {
            one.companion.stop();
        }
    }
}
