//! Connecting, and knowing whether we are connected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::client::Statistics;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::AccountErrorKind;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use busbar_protocol::ports::Connection;
use busbar_protocol::subjects;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{BusConfig, Login};
use crate::convert::with_causes;

/// The oldest nats-server that keeps what we ask of it: older ones drop JetStream options silently.
pub const NATS_MINIMUM: (u32, u32) = (2, 12);

/// How long one attempt to connect may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Every how many lost messages of slow readers a line is logged.
const SLOW_LOGGED_EVERY: u64 = 1_000;

/// Why there is no bus.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be read.
    #[error("{url:?} is not the address of a NATS server, which looks like nats://host:4222")]
    Address {
        /// The address, without a login.
        url: String,
    },
    /// A file with a secret or a certificate cannot be used.
    #[error("the NATS login cannot be used: {detail}")]
    Login {
        /// Which file, and why.
        detail: String,
    },
    /// Nobody answers.
    #[error("no NATS server answers at {url} ({detail}): start one, or correct NATS_URL")]
    Unreachable {
        /// The address, without a login.
        url: String,
        /// What the last attempt said.
        detail: String,
    },
    /// The server does not let us in.
    #[error("the NATS server at {url} refused the login ({detail}): check user, credentials and permissions")]
    Refused {
        /// The address, without a login.
        url: String,
        /// What the server said.
        detail: String,
    },
    /// The server is too old.
    #[error(
        "the NATS server at {url} has version {found}; {major}.{minor} or newer is needed: upgrade it",
        major = NATS_MINIMUM.0,
        minor = NATS_MINIMUM.1
    )]
    TooOld {
        /// The address, without a login.
        url: String,
        /// The version it has.
        found: String,
    },
    /// The server keeps no streams.
    #[error(
        "the NATS server at {url} does not offer JetStream ({detail}): start it with -js, or enable JetStream for our account"
    )]
    NoJetStream {
        /// The address, without a login.
        url: String,
        /// What the server said.
        detail: String,
    },
}

/// What the connection's events amount to.
#[derive(Debug)]
pub(crate) struct Health {
    state: watch::Sender<Connection>,
    closed: watch::Sender<bool>,
    slow: AtomicU64,
    statistics: OnceLock<Arc<Statistics>>,
}

impl Health {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(Connection::default()),
            closed: watch::Sender::new(false),
            slow: AtomicU64::new(0),
            statistics: OnceLock::new(),
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<Connection> {
        // Connections are counted before their events are heard: whoever asks must not be told of one that is gone.
        if self.has_started() {
            let generation = self.generation();
            self.state.send_if_modified(|state| std::mem::replace(&mut state.generation, generation) != generation);
        }
        self.state.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// How many connections were made. Events can be lost in a flood of them, this count cannot.
    pub(crate) fn generation(&self) -> u64 {
        self.statistics.get().map_or(1, |statistics| statistics.connects.load(Ordering::Relaxed))
    }

    fn set(&self, connected: bool) {
        let now = Connection { connected, generation: self.generation() };
        self.state.send_if_modified(|state| std::mem::replace(state, now) != now);
    }

    fn started(&self, client: &Client) {
        // Only the counters are kept: holding the client would keep the connection open for ever.
        let _first = self.statistics.set(client.statistics());
        self.set(true);
    }

    /// Whether there has been a connection; before that, [`connect`] itself does the waiting.
    fn has_started(&self) -> bool {
        self.statistics.get().is_some()
    }

    fn heard(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.set(true);
                tracing::info!(generation = self.generation(), "connected to NATS");
            }
            Event::Disconnected => {
                self.set(false);
                tracing::warn!("connection to NATS lost");
            }
            Event::Closed => {
                self.set(false);
                self.closed.send_replace(true);
            }
            Event::SlowConsumer(_) => self.lost_one(),
            Event::ServerError(error) => tracing::warn!(%error, "NATS server reports an error"),
            Event::ClientError(error) => tracing::debug!(%error, "NATS client reports an error"),
            Event::LameDuckMode => tracing::info!("the NATS server is about to shut down"),
            Event::Draining => tracing::debug!("draining"),
        }
    }

    fn lost_one(&self) {
        let count = self.slow.fetch_add(1, Ordering::Relaxed) + 1;
        if count % SLOW_LOGGED_EVERY == 1 {
            tracing::warn!(count, "a subscription is read too slowly and loses messages");
        }
    }
}

/// Connects, trying again until the time is up, and makes sure that the server is one that we can use.
pub(crate) async fn connect(config: &BusConfig) -> Result<(Client, Arc<Health>), ConnectError> {
    let addresses = addresses(config)?;
    let deadline = Instant::now() + config.connect_within;
    let health = Arc::new(Health::new());
    let mut attempt = 0;
    let client = loop {
        attempt += 1;
        let options = options(config, &addresses, Arc::clone(&health)).await?;
        match options.connect(addresses.as_slice()).await {
            Ok(client) => break client,
            Err(error) => give_up(config, &error, deadline)?,
        }
        tokio::time::sleep(backoff(attempt)).await;
    };
    health.started(&client);
    check_version(config, &client)?;
    check_streams(config, &client, deadline).await?;
    Ok((client, health))
}

fn addresses(config: &BusConfig) -> Result<Vec<ServerAddr>, ConnectError> {
    let parsed: Result<Vec<ServerAddr>, _> = config.addresses().map(str::parse).collect();
    match parsed {
        Ok(addresses) if !addresses.is_empty() && addresses.iter().all(|address| !address.host().is_empty()) => Ok(addresses),
        Ok(_) | Err(_) => Err(ConnectError::Address { url: config.url_shown() }),
    }
}

/// Decides whether an attempt that failed was the last one.
fn give_up(config: &BusConfig, error: &async_nats::ConnectError, deadline: Instant) -> Result<(), ConnectError> {
    let url = config.url_shown();
    let detail = with_causes(error);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Err(ConnectError::Refused { url, detail }),
        ConnectErrorKind::ServerParse => Err(ConnectError::Address { url }),
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Tls
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => {
            if Instant::now() >= deadline {
                Err(ConnectError::Unreachable { url, detail })
            } else {
                tracing::debug!(%url, %detail, "NATS does not answer yet");
                Ok(())
            }
        }
    }
}

async fn options(config: &BusConfig, addresses: &[ServerAddr], health: Arc<Health>) -> Result<ConnectOptions, ConnectError> {
    let mut options = with_login(ConnectOptions::new(), &config.login, addresses).await?;
    if config.tls.required {
        options = options.require_tls(true);
    }
    if let Some(file) = &config.tls.root_file {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &config.tls.client_files {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if let Some(prefix) = inbox_prefix(&config.login, addresses) {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(options
        .name(&config.name)
        .max_reconnects(None)
        .connection_timeout(ATTEMPT_TIMEOUT)
        .ping_interval(config.ping_interval)
        .subscription_capacity(config.subscription_capacity)
        .reconnect_delay_callback({
            let health = Arc::clone(&health);
            move |attempt| if health.has_started() { backoff(attempt) } else { Duration::ZERO }
        })
        .event_callback(move |event| {
            let health = Arc::clone(&health);
            async move { health.heard(&event) }
        }))
}

async fn with_login(options: ConnectOptions, login: &Login, addresses: &[ServerAddr]) -> Result<ConnectOptions, ConnectError> {
    match login {
        Login::Anonymous => Ok(with_login_of_url(options, addresses)),
        Login::Password { user, password } => Ok(options.user_and_password(user.clone(), password.clone())),
        Login::CredentialsFile(path) => {
            let text = read(path).await?;
            options.credentials(&text).map_err(|error| unusable(path, &error))
        }
        Login::NkeyFile(path) => Ok(options.nkey(read(path).await?.trim().to_owned())),
    }
}

/// The login that stands in the first address that has one, a user alone being a token; async-nats leaves it unused.
fn with_login_of_url(options: ConnectOptions, addresses: &[ServerAddr]) -> ConnectOptions {
    let login = addresses.iter().find_map(|address| Some((address.username()?.to_owned(), address.password())));
    match login {
        None => options,
        Some((token, None)) => options.token(token),
        Some((user, Some(password))) => options.user_and_password(user, password.to_owned()),
    }
}

/// Where answers to us come, so that the server can keep them from others: below a name of our own, if the login has a user whose
/// name can be a part of a subject.
fn inbox_prefix(login: &Login, addresses: &[ServerAddr]) -> Option<String> {
    let user = match login {
        Login::Anonymous => addresses.iter().find(|address| address.password().is_some())?.username()?,
        Login::Password { user, .. } => user,
        Login::CredentialsFile(_) | Login::NkeyFile(_) => return None,
    };
    subjects::is_addressable(user).then(|| format!("_INBOX_{user}"))
}

async fn read(path: &std::path::Path) -> Result<String, ConnectError> {
    tokio::fs::read_to_string(path).await.map_err(|error| unusable(path, &error))
}

fn unusable(path: &std::path::Path, error: &std::io::Error) -> ConnectError {
    ConnectError::Login { detail: format!("{}: {error}", path.display()) }
}

/// How long to wait before an attempt: not at all before the first, then 50 to 250 ms, later up to 2 s; a server that comes
/// back should not meet all its clients in the same instant.
fn backoff(attempt: usize) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    let ceiling = 200_u64 << attempt.saturating_sub(3).min(3);
    Duration::from_millis(50 + random() % ceiling)
}

/// A number that differs between calls and processes; nothing depends on how.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn check_version(config: &BusConfig, client: &Client) -> Result<(), ConnectError> {
    let (major, minor) = NATS_MINIMUM;
    if client.is_server_compatible(i64::from(major), i64::from(minor), 0) {
        return Ok(());
    }
    Err(ConnectError::TooOld { url: config.url_shown(), found: client.server_info().version })
}

/// Asks JetStream for our account: what the server says of itself is neither necessary nor sufficient.
async fn check_streams(config: &BusConfig, client: &Client, deadline: Instant) -> Result<(), ConnectError> {
    let context = async_nats::jetstream::new(client.clone());
    loop {
        let Err(error) = context.query_account().await else {
            return Ok(());
        };
        // A cluster may have no leader yet; but a server without JetStream will not get it by waiting.
        let may_come = client.server_info().jetstream && !is_disabled(&error.kind());
        if !may_come || Instant::now() >= deadline {
            return Err(ConnectError::NoJetStream { url: config.url_shown(), detail: with_causes(&error) });
        }
        tokio::time::sleep(backoff(1)).await;
    }
}

fn is_disabled(kind: &AccountErrorKind) -> bool {
    match kind {
        AccountErrorKind::JetStream(error) => {
            [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&error.error_code())
        }
        AccountErrorKind::JetStreamUnavailable | AccountErrorKind::TimedOut | AccountErrorKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_below_the_name_of_the_user() {
        let of = |url: &str| inbox_prefix(&Login::Anonymous, &[url.parse().expect("an address")]);
        assert_eq!(of("nats://gateway:secret@a:1"), Some("_INBOX_gateway".to_owned()));
        for nameless in ["nats://a:1", "nats://token@a:1", "nats://a.b:secret@a:1"] {
            assert_eq!(of(nameless), None, "{nameless}");
        }
    }

    #[test]
    fn the_first_attempts_follow_within_a_quarter_of_a_second_and_all_within_two() {
        assert_eq!(backoff(0), Duration::ZERO);
        for attempt in 1..=3 {
            let wait = backoff(attempt);
            assert!(wait >= Duration::from_millis(50) && wait <= Duration::from_millis(250), "{attempt}: {wait:?}");
        }
        for attempt in 4..100 {
            assert!(backoff(attempt) <= Duration::from_secs(2), "{attempt}");
        }
    }
}
