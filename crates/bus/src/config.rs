//! How to reach NATS, and how large its streams may grow.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach NATS.
#[derive(Clone)]
pub struct BusConfig {
    /// `nats://host:port`, several with commas between them.
    pub url: String,
    /// What the server shows as the name of this connection.
    pub name: String,
    /// Who we are.
    pub login: Login,
    /// Encryption.
    pub tls: Tls,
    /// How long [`crate::NatsBus::connect`] goes on trying.
    pub connect_within: Duration,
    /// How often the server is asked whether it still lives; the connection is given up at the third question
    /// without an answer.
    pub ping_interval: Duration,
    /// How many messages one subscription holds for its reader before more of them are lost.
    pub subscription_capacity: usize,
    /// How many durable publications wait for the stream's word at a time.
    pub durable_in_flight_max: usize,
    /// How long a durable publication waits for the stream's word.
    pub durable_within: Duration,
    /// The bounds of the streams that we create.
    pub streams: StreamLimits,
}

impl BusConfig {
    /// The defaults, for a server without login.
    #[must_use]
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            name: name.into(),
            login: Login::default(),
            tls: Tls::default(),
            connect_within: Duration::from_secs(30),
            ping_interval: Duration::from_millis(1_500),
            subscription_capacity: 65_536,
            durable_in_flight_max: 1_024,
            durable_within: Duration::from_secs(5),
            streams: StreamLimits::default(),
        }
    }

    /// The addresses, without the logins that may stand in them: for logs and messages.
    #[must_use]
    pub fn url_shown(&self) -> String {
        let shown: Vec<String> = self.addresses().map(without_login).collect();
        shown.join(",")
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|address| !address.is_empty())
    }
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BusConfig")
            .field("url", &self.url_shown())
            .field("name", &self.name)
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

fn without_login(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// Who we are to the server.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// Whoever the URL names (`nats://user:password@host`, `nats://token@host`), or nobody in particular.
    #[default]
    Anonymous,
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A `.creds` file with a JWT and a seed.
    CredentialsFile(PathBuf),
    /// A file that holds the seed of an nkey.
    NkeyFile(PathBuf),
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => out.write_str("Anonymous"),
            Self::Password { user, .. } => out.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::CredentialsFile(path) => out.debug_tuple("CredentialsFile").field(path).finish(),
            Self::NkeyFile(path) => out.debug_tuple("NkeyFile").field(path).finish(),
        }
    }
}

/// Encryption of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether an unencrypted connection is refused.
    pub required: bool,
    /// Further roots to trust (PEM).
    pub root_file: Option<PathBuf>,
    /// Our own certificate and its key (PEM).
    pub client_files: Option<(PathBuf, PathBuf)>,
}

/// The bounds of the streams and consumers that we create. What already exists must have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// How many servers keep a copy.
    pub replicas: usize,
    /// How many messages a work queue holds before it refuses more.
    pub work_queue_messages_max: i64,
    /// How many bytes a work queue holds before it refuses more.
    pub work_queue_bytes_max: i64,
    /// How many bytes the other streams hold before the oldest messages go.
    pub kept_bytes_max: i64,
    /// How long handshakes are kept.
    pub handshakes_kept: Duration,
    /// How long copies of dead letters are kept.
    pub dead_letters_kept: Duration,
    /// How long a delivery waits for its settlement before it comes again.
    pub ack_wait: Duration,
    /// How many deliveries may wait for their settlement.
    pub ack_pending_max: i64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            replicas: 1,
            work_queue_messages_max: 1_000_000,
            work_queue_bytes_max: 512 << 20,
            kept_bytes_max: 128 << 20,
            handshakes_kept: DAY * 7,
            dead_letters_kept: DAY * 30,
            ack_wait: Duration::from_secs(30),
            ack_pending_max: 20_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let config = BusConfig {
            login: Login::Password { user: "u".into(), password: "geheim".into() },
            ..BusConfig::new("nats://someone:secret@one:4222, two:4223", "test")
        };
        let text = format!("{config:?}");
        assert!(!text.contains("secret") && !text.contains("geheim"), "{text}");
        assert_eq!(config.url_shown(), "nats://one:4222,nats://two:4223");
    }
}
