//! The servers: children of `dev` in folders of their own, or the ones that were given.

use std::path::Path;

use busbar_servers::{Durability, Nats, NatsOptions, Redis, RedisOptions, Search};

use super::blocking;
use super::error::DevError;
use crate::cli::Ports;
use crate::config::{Config, ServerUrl};

const NATS_PORT: u16 = 4222;
const REDIS_PORT: u16 = 6379;

/// Where the servers are, and those that are ours. Dropping it kills ours.
#[derive(Debug)]
pub(crate) struct Servers {
    nats_url: String,
    redis_url: String,
    nats: Option<Nats>,
    redis: Option<Redis>,
}

/// Starts what was not given. A server that dies is started again on its port.
pub(crate) async fn start(dir: &Path, ports: Ports, config: &Config) -> Result<Servers, DevError> {
    let dir = dir.to_owned();
    let (nats, redis) = (config.nats.url.clone(), config.redis.url.clone());
    blocking(move || start_blocking(&dir, ports, nats.as_ref(), redis.as_ref())).await?
}

fn start_blocking(
    dir: &Path,
    ports: Ports,
    given_nats: Option<&ServerUrl>,
    given_redis: Option<&ServerUrl>,
) -> Result<Servers, DevError> {
    let search = Search::from_env();
    let nats = match given_nats {
        None => Some(start_nats(dir, ports, &search)?),
        Some(_) => None,
    };
    let redis = match given_redis {
        None => Some(start_redis(dir, ports, &search)?),
        Some(_) => None,
    };
    let url = |own: Option<String>, given: Option<&ServerUrl>| {
        own.or_else(|| given.map(|url| url.expose().to_owned())).unwrap_or_default()
    };
    Ok(Servers {
        nats_url: url(nats.as_ref().map(Nats::url), given_nats),
        redis_url: url(redis.as_ref().map(Redis::url), given_redis),
        nats,
        redis,
    })
}

fn start_nats(dir: &Path, ports: Ports, search: &Search) -> Result<Nats, busbar_servers::Error> {
    let binary = search.find_nats()?;
    Nats::start(NatsOptions {
        port: fixed(ports, NATS_PORT),
        supervised: true,
        ..NatsOptions::new(dir.join("nats"), binary.path)
    })
}

fn start_redis(dir: &Path, ports: Ports, search: &Search) -> Result<Redis, busbar_servers::Error> {
    let binary = search.find_redis()?;
    Redis::start(RedisOptions {
        port: fixed(ports, REDIS_PORT),
        durability: Durability::Safe,
        supervised: true,
        ..RedisOptions::new(dir.join("redis"), binary.path)
    })
}

fn fixed(ports: Ports, port: u16) -> Option<u16> {
    (ports == Ports::Fixed).then_some(port)
}

impl Servers {
    pub(crate) fn nats_url(&self) -> &str {
        &self.nats_url
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// Ends ours in order: the store last.
    pub(crate) async fn stop(self) {
        let stopped = blocking(move || {
            if let Some(nats) = self.nats {
                nats.stop();
            }
            if let Some(redis) = self.redis {
                redis.stop();
            }
        });
        if let Err(error) = stopped.await {
            tracing::warn!(%error, "the servers did not end in order");
        }
    }
}
