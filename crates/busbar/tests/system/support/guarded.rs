//! A nats-server with the permissions that ship in `deploy/nats`.

use std::path::Path;

use busbar_servers::{Companion, CompanionOptions, Search, free_port};
use tempfile::TempDir;

const USERS: [&str; 7] = ["scheduler", "gateway", "engine", "kernel", "worker-1", "client", "application"];

/// The server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Guarded {
    port: u16,
    _server: Companion,
    _folder: TempDir,
}

fn password(user: &str) -> String {
    format!("password-of-{user}")
}

impl Guarded {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port().unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/busbar.conf");
        let place = ["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"].map(Into::into);
        let args = ["--config".into(), config.into()].into_iter().chain(place).chain([folder.path().join("js").into()]).collect();
        let variable = |user: &str| format!("BUSBAR_NATS_{}", user.to_uppercase().replace('-', "_"));
        let server = Companion::start(CompanionOptions {
            program: "nats-server",
            binary: Search::from_env().find_nats().unwrap().path,
            args,
            env: Some(USERS.map(|user| (variable(user).into(), password(user).into())).into()),
            dir: folder.path().join("nats"),
            supervised: false,
        });
        Self { port, _server: server.unwrap(), _folder: folder }
    }

    /// The address by which a user connects.
    pub(crate) fn url(&self, user: &str) -> String {
        format!("nats://{user}:{}@127.0.0.1:{}", password(user), self.port)
    }
}
