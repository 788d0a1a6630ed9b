//! Both servers together, as `dev` and nearly every test want them.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::error::Error;
use crate::nats::{Nats, NatsOptions};
use crate::redis::{Durability, Redis, RedisOptions};
use crate::search::Search;

/// How to start both servers.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Where the programs are looked for.
    pub search: Search,
    /// The folder above the servers' own (`nats`, `redis`).
    pub dir: PathBuf,
    /// What an acknowledged Redis write survives.
    pub durability: Durability,
    /// Whether to start a server again when it dies without being asked to.
    pub supervised: bool,
    /// Whether the nats-server tells what it does over HTTP.
    pub monitored: bool,
}

impl StackOptions {
    /// Found through the environment, safe, not supervised, not monitored.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let (search, dir) = (Search::from_env(), dir.into());
        Self { search, dir, durability: Durability::default(), supervised: false, monitored: false }
    }
}

/// A running nats-server and a running redis-server. Dropping it kills both.
#[derive(Debug)]
pub struct Stack {
    /// The bus.
    pub nats: Nats,
    /// The store.
    pub redis: Redis,
    /// Removed last: fields are dropped in order.
    temp: Option<TempDir>,
}

impl Stack {
    /// Starts both servers on free ports.
    ///
    /// # Errors
    /// A server is missing or does not get ready; then none is left running.
    pub fn start(options: &StackOptions) -> Result<Self, Error> {
        let nats = options.search.find_nats()?;
        let redis = options.search.find_redis()?;
        let nats = Nats::start(NatsOptions {
            supervised: options.supervised,
            monitored: options.monitored,
            ..NatsOptions::new(options.dir.join("nats"), nats.path)
        })?;
        let redis = Redis::start(RedisOptions {
            durability: options.durability,
            supervised: options.supervised,
            ..RedisOptions::new(options.dir.join("redis"), redis.path)
        })?;
        Ok(Self { nats, redis, temp: None })
    }

    /// Starts both servers on free ports in a temporary folder that goes with them: for tests.
    ///
    /// # Errors
    /// As [`Stack::start`].
    pub fn start_temp() -> Result<Self, Error> {
        let temp = tempfile::Builder::new().prefix("busbar-").tempdir().map_err(Error::file("create", &std::env::temp_dir()))?;
        let stack = Self::start(&StackOptions::new(temp.path()))?;
        Ok(Self { temp: Some(temp), ..stack })
    }

    /// The temporary folder, if [`Stack::start_temp`] made it: tests may put their files there.
    #[must_use]
    pub fn temp_dir(&self) -> Option<&std::path::Path> {
        self.temp.as_ref().map(TempDir::path)
    }

    /// Ends both in order.
    pub fn stop(self) {
        self.nats.stop();
        self.redis.stop();
    }
}
