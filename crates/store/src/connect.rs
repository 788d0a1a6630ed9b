//! Makes connections, and refuses servers that could not keep our promises.

use std::time::Duration;

use busbar_protocol::ports::StoreError;
use fred::clients::Client;
use fred::error::ErrorKind;
use fred::interfaces::ClientLike;
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy, UnresponsiveConfig};
use tokio::time::Instant;

use crate::config::StoreConfig;
use crate::decode;
use crate::lane::{Lane, Repeat};

/// The oldest redis-server with functions.
const VERSION_MIN: (u32, u32) = (7, 0);
/// Between two attempts to connect for the first time.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to connect again.
const RECONNECT_MS_MAX: u32 = 400;
/// Commands that wait inside the client; beyond that it refuses.
const COMMANDS_MAX: usize = 10_000;
/// A connection that owes an answer for so long is given up and made anew.
const UNRESPONSIVE: Duration = Duration::from_secs(5);

/// Connects; tries again until the connect timeout, since the server may still be starting.
///
/// # Errors
/// [`StoreError::Refused`] for a URL that cannot be used, [`StoreError::Unavailable`].
pub(crate) async fn connect(config: &StoreConfig, purpose: &str) -> Result<Lane, StoreError> {
    let builder = builder(config)?;
    let deadline = Instant::now() + config.connect_timeout;
    loop {
        let detail = match tokio::time::timeout_at(deadline, try_connect(&builder, config, purpose)).await {
            Ok(Ok(lane)) => return Ok(lane),
            Ok(Err(Attempt::Final(error))) => return Err(error),
            Ok(Err(Attempt::Again(detail))) => detail,
            Err(_) => "no answer in time".to_owned(),
        };
        if Instant::now() + PAUSE >= deadline {
            let detail = format!("cannot connect to Redis at {}: {detail}", address(config));
            return Err(StoreError::Unavailable { detail });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Attempt {
    Again(String),
    Final(StoreError),
}

async fn try_connect(builder: &Builder, config: &StoreConfig, purpose: &str) -> Result<Lane, Attempt> {
    let client: Client = builder.build().map_err(|error| Attempt::Final(decode::refused(&error.to_string())))?;
    let connection = client.init().await.map_err(|error| match error.kind() {
        ErrorKind::Auth => Attempt::Final(decode::refused(&format!(
            "Redis at {} does not accept the user or password of the URL: {}",
            address(config),
            error.details()
        ))),
        _ => Attempt::Again(error.to_string()),
    })?;
    let lane = Lane::new(client, connection, config.call_timeout);
    name_connection(&lane, config, purpose).await;
    Ok(lane)
}

/// The name helps the operator who reads `CLIENT LIST`; a server that forbids it is as good.
async fn name_connection(lane: &Lane, config: &StoreConfig, purpose: &str) {
    let name = format!("{}:{purpose}", config.client_name).replace(char::is_whitespace, "-");
    let args = vec![crate::lane::fixed("SETNAME"), crate::lane::owned(name)];
    if let Err(error) = lane.call("CLIENT", args, Repeat::Harmless).await {
        tracing::debug!(%error, "the Redis connection keeps no name");
    }
}

/// The client waits for ever and buffers without bounds unless it is told otherwise.
pub(crate) fn builder(config: &StoreConfig) -> Result<Builder, StoreError> {
    let mut server = parse_url(&config.url)?;
    server.fail_fast = true;
    let mut policy = ReconnectPolicy::new_exponential(0, 20, RECONNECT_MS_MAX, 2);
    policy.set_jitter(30);
    let mut builder = Builder::from_config(server);
    let call_timeout = config.call_timeout;
    builder.set_policy(policy).with_performance_config(|performance| {
        performance.default_command_timeout = call_timeout;
    });
    builder.with_connection_config(|connection| {
        connection.connection_timeout = Duration::from_secs(2);
        connection.internal_command_timeout = Duration::from_secs(2);
        connection.max_command_attempts = 1;
        connection.max_command_buffer_len = COMMANDS_MAX;
        connection.disable_cluster_health_check = true;
        connection.unresponsive = UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: Duration::from_secs(1) };
        connection.tcp.nodelay = Some(true);
    });
    Ok(builder)
}

fn parse_url(url: &str) -> Result<Config, StoreError> {
    let scheme = url.split("://").next().unwrap_or_default();
    if !matches!(scheme, "redis" | "valkey") {
        return Err(decode::refused(&format!(
            "the Redis URL begins with {scheme:?}; redis://[user[:password]@]host[:port][/database] is wanted (no cluster, no sentinel, no TLS yet)"
        )));
    }
    Config::from_url_centralized(url).map_err(|error| decode::refused(&format!("the Redis URL is no URL: {}", error.details())))
}

/// Host and port, without credentials.
fn address(config: &StoreConfig) -> &str {
    let rest = config.url.split("://").nth(1).unwrap_or(&config.url);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

/// Asks the server what it is.
///
/// # Errors
/// [`StoreError::Refused`] with what to do when it cannot keep our promises.
pub(crate) async fn inspect(lane: &Lane, config: &StoreConfig) -> Result<(), StoreError> {
    let info = decode::text(lane.call("INFO", vec![], Repeat::Harmless).await?)?;
    let Some(why) = unsuitable(&info) else { return Ok(()) };
    match why {
        Unsuitable::Unsafe(reason) if config.allow_unsafe => {
            tracing::warn!(reason, "this Redis can lose acknowledged work, which was allowed");
            Ok(())
        }
        Unsuitable::Unsafe(reason) => Err(refuse(config, &format!("{reason}, or allow an unsafe server for this REDIS_URL"))),
        Unsuitable::Wrong(reason) => Err(refuse(config, &reason)),
    }
}

fn refuse(config: &StoreConfig, reason: &str) -> StoreError {
    decode::refused(&format!("Redis at {}: {reason}", address(config)))
}

#[derive(Debug, PartialEq, Eq)]
enum Unsuitable {
    /// It does not do what we need.
    Wrong(String),
    /// It works, and can lose acknowledged work.
    Unsafe(String),
}

fn unsuitable(info: &str) -> Option<Unsuitable> {
    let version = field(info, "redis_version").unwrap_or_default();
    if parse_version(version).is_none_or(|version| version < VERSION_MIN) {
        let (major, minor) = VERSION_MIN;
        return Some(Unsuitable::Wrong(format!("its version is {version:?}; install redis-server {major}.{minor} or newer")));
    }
    if field(info, "redis_mode") == Some("cluster") || field(info, "cluster_enabled") == Some("1") {
        let reason = "it is a Redis Cluster; point REDIS_URL at one primary with cluster-enabled no";
        return Some(Unsuitable::Wrong(reason.into()));
    }
    if field(info, "role") != Some("master") {
        return Some(Unsuitable::Wrong("it is a replica; point REDIS_URL at its primary".into()));
    }
    let policy = field(info, "maxmemory_policy").unwrap_or("unknown");
    if policy != "noeviction" {
        let reason = format!("it may evict records (maxmemory-policy {policy}); run CONFIG SET maxmemory-policy noeviction");
        return Some(Unsuitable::Unsafe(reason));
    }
    if field(info, "aof_enabled") != Some("1") {
        let reason = "it keeps no append-only file; run CONFIG SET appendonly yes";
        return Some(Unsuitable::Unsafe(reason.into()));
    }
    None
}

/// The value of a field in what `INFO` answers.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nmaxmemory_policy:noeviction\r\n\
                        aof_enabled:1\r\nrole:master\r\ncluster_enabled:0\r\n";

    fn with(from: &str, to: &str) -> Option<Unsuitable> {
        assert!(GOOD.contains(from));
        unsuitable(&GOOD.replace(from, to))
    }

    #[test]
    fn a_good_server_is_taken() {
        assert_eq!(unsuitable(GOOD), None);
        assert_eq!(with("7.0.15", "10.1.0"), None);
    }

    #[test]
    fn wrong_servers_are_told_from_unsafe_ones() {
        assert!(matches!(with("7.0.15", "6.2.14"), Some(Unsuitable::Wrong(_))));
        assert!(matches!(with("redis_version:7.0.15", "something:else"), Some(Unsuitable::Wrong(_))));
        assert!(matches!(with("cluster_enabled:0", "cluster_enabled:1"), Some(Unsuitable::Wrong(_))));
        assert!(matches!(with("role:master", "role:slave"), Some(Unsuitable::Wrong(_))));
        assert!(matches!(with("noeviction", "allkeys-lru"), Some(Unsuitable::Unsafe(_))));
        assert!(matches!(with("aof_enabled:1", "aof_enabled:0"), Some(Unsuitable::Unsafe(_))));
    }

    #[test]
    fn other_schemes_are_refused_and_passwords_are_not_shown() {
        assert!(parse_url("redis-cluster://h:1").is_err());
        assert!(parse_url("rediss://h:1").is_err());
        assert!(parse_url("h:1").is_err());
        assert!(parse_url("redis://user:secret@h:1/2").is_ok());
        assert_eq!(address(&StoreConfig::new("redis://user:secret@h:1/2")), "h:1");
    }
}
