//! What one must say to reach a Redis server.

use std::time::Duration;

/// How to reach the Redis server, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `redis://[user[:password]@]host[:port][/database]`.
    pub url: String,
    /// Shown in the server's `CLIENT LIST`.
    pub client_name: String,
    /// How long any call may take, waiting in queues and repetitions included.
    pub call_timeout: Duration,
    /// How long the first connection may take, a server that still loads its data included.
    pub connect_timeout: Duration,
    /// Whether a server is accepted that evicts keys or keeps no append-only file, and so can lose acknowledged work.
    pub allow_unsafe: bool,
}

impl StoreConfig {
    /// Calls within 3 s, a connection within 10 s, a safe server.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            client_name: "busbar".into(),
            call_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(10),
            allow_unsafe: false,
        }
    }
}
