//! `ctl worker keys|enroll|revoke`: the keys that CAP workers prove to have.

use std::path::PathBuf;

use busbar_api::{EnrolRequest, WorkerKeyList, WorkerKeyView};
use clap::Args;

use super::path;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{Output, table};

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// The worker; without it, all.
    worker_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// The worker.
    worker_id: String,
    /// The key's name: what the worker calls `proof_key_id`.
    #[arg(long)]
    key_id: String,
    /// The file with the public key, on P-256: `BEGIN PUBLIC KEY` in PEM.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// Which agent the worker is; by default its own id.
    #[arg(long)]
    agent_id: Option<String>,
    /// Whose the worker is; by default the tenant of the API key.
    #[arg(long)]
    tenant_id: Option<String>,
    /// The worker speaks CAP-PRODUCTION: it gets jobs of that tenant alone, and must sign its results.
    #[arg(long)]
    production: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The worker.
    worker_id: String,
    /// The key's name.
    key_id: String,
}

pub(super) fn list(args: &KeysArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = args.worker_id.as_ref().map_or_else(|| "/api/v1/worker-keys".to_owned(), |id| path(id, "keys"));
    let keys: WorkerKeyList = client.get(&path)?;
    output.show(&keys, || table(&HEADER, keys.items.iter().map(row)))
}

pub(super) fn enroll(args: EnrollArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let file = &args.public_key;
    let public_key = std::fs::read_to_string(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    let request = EnrolRequest { public_key, agent_id: args.agent_id, tenant_id: args.tenant_id, production: args.production };
    let key: WorkerKeyView = client.put(&key_path(&args.worker_id, &args.key_id), &request)?;
    let WorkerKeyView { worker_id, key_id, agent_id, tenant_id, .. } = &key;
    output.show(&key, || format!("worker {worker_id} may prove key {key_id}, as agent {agent_id} of tenant {tenant_id}"))
}

pub(super) fn revoke(args: &RevokeArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let left: WorkerKeyList = client.delete_for(&key_path(&args.worker_id, &args.key_id))?;
    let count = left.items.len();
    output.show(&left, || format!("key {} of worker {} is revoked; it has {count} others", args.key_id, args.worker_id))
}

fn key_path(worker_id: &str, key_id: &str) -> String {
    path(worker_id, &format!("keys/{}", encode(key_id)))
}

const HEADER: [&str; 7] = ["WORKER", "KEY", "AGENT", "TENANT", "PROFILE", "ENROLLED", "BY"];

fn row(key: &WorkerKeyView) -> Vec<String> {
    let WorkerKeyView { worker_id, key_id, agent_id, tenant_id, production, enrolled_at, enrolled_by, .. } = key;
    let profile = if *production { "production" } else { "" };
    [worker_id, key_id, agent_id, tenant_id, profile, enrolled_at, enrolled_by].map(str::to_owned).into()
}
