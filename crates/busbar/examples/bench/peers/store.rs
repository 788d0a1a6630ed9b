//! The server that keeps a peer's jobs: one of its own for each turn, as durable as everybody else's.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use busbar_servers::{Durability, Redis, RedisOptions, Search, free_port};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::manifest::StoreKind;
use crate::Outcome;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server, if the peer has one. Dropping it ends it.
pub(crate) enum Store {
    None,
    Redis(Redis),
    Postgres(Postgres),
}

/// PostgreSQL, which lives for as long as its script's stdin is open.
pub(crate) struct Postgres {
    script: Child,
    stdin: ChildStdin,
    port: u16,
}

impl Store {
    /// Starts one in a folder of its own; `scripts` is where that of PostgreSQL is.
    pub(crate) async fn start(kind: StoreKind, dir: &Path, durability: Durability, scripts: &Path) -> Outcome<Self> {
        match kind {
            StoreKind::None => Ok(Self::None),
            StoreKind::Redis => {
                let binary = Search::from_env().find_redis()?.path;
                let options = RedisOptions { durability, ..RedisOptions::new(dir.join("redis"), binary) };
                Ok(Self::Redis(tokio::task::spawn_blocking(move || Redis::start(options)).await??))
            }
            StoreKind::Postgres => Ok(Self::Postgres(Postgres::start(&dir.join("postgres"), durability, scripts).await?)),
        }
    }

    /// The variable in which an adapter finds it, and the address.
    pub(crate) fn address(&self) -> (&'static str, String) {
        match self {
            Self::None => ("PEER_REDIS_URL", String::new()),
            Self::Redis(redis) => ("PEER_REDIS_URL", redis.url()),
            Self::Postgres(postgres) => {
                ("PEER_POSTGRES_URL", format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port))
            }
        }
    }

    /// Its process; none if there is none.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Redis(redis) => redis.pid(),
            Self::Postgres(postgres) => postgres.script.id(),
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Outcome<()> {
        match self {
            Self::None => Ok(()),
            Self::Redis(redis) => Ok(tokio::task::spawn_blocking(move || redis.stop()).await?),
            Self::Postgres(postgres) => postgres.stop().await,
        }
    }
}

impl Postgres {
    async fn start(dir: &Path, durability: Durability, scripts: &Path) -> Outcome<Self> {
        let synchronous = match durability {
            Durability::Fast => "off",
            Durability::Safe => "on",
        };
        let port = free_port()?;
        let log = std::fs::File::create(dir.with_extension("log"))?;
        let mut command = Command::new(scripts.join("postgres"));
        command.arg(dir).args([port.to_string().as_str(), synchronous]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let mut script = command.spawn()?;
        let stdin = script.stdin.take().ok_or("no stdin")?;
        let mut postgres = Self { script, stdin, port };
        postgres.until_ready(dir).await?;
        Ok(postgres)
    }

    async fn until_ready(&mut self, dir: &Path) -> Outcome<()> {
        let deadline = Instant::now() + READY_WITHIN;
        // The file says `ready` in its last line once connections are taken.
        let pid_file = dir.join("data/postmaster.pid");
        loop {
            let ready = std::fs::read_to_string(&pid_file).is_ok_and(|text| text.lines().last().unwrap_or("").trim() == "ready");
            if ready && TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            if self.script.try_wait()?.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(dir.with_extension("log")).unwrap_or_default();
                return Err(format!("PostgreSQL does not get ready; it said:\n{log}").into());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn stop(self) -> Outcome<()> {
        let Self { mut script, stdin, .. } = self;
        drop(stdin);
        timeout(STOP_WITHIN, script.wait()).await.map_err(|_| "PostgreSQL does not end")??;
        Ok(())
    }
}
