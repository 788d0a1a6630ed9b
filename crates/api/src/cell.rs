//! The cell as operators see it: workers and status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `GET /api/v1/workers` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    /// Every worker that the scheduler knows, by id.
    pub items: Vec<WorkerView>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Its id.
    pub id: String,
    /// `native`, `announced` or `silent`.
    pub kind: String,
    /// Its pool.
    pub pool: String,
    /// `online`, `stale`, `lost`, `draining` or `blocked`.
    pub status: String,
    /// How many attempts it takes at once.
    pub capacity: u32,
    /// How many it holds, as far as the scheduler knows.
    pub in_flight: u32,
    /// When it last gave a sign of life (RFC 3339).
    pub last_seen_at: String,
    /// The topics that it serves; none means every topic of its pool.
    #[serde(default)]
    #[schema(required)]
    pub topics: Vec<String>,
    /// What it can do.
    #[serde(default)]
    #[schema(required)]
    pub capabilities: Vec<String>,
    /// Labels that it gave itself.
    #[serde(default)]
    #[schema(required)]
    pub labels: BTreeMap<String, String>,
    /// Where it says that it runs.
    #[serde(default)]
    #[schema(required)]
    pub region: String,
    /// Which start of its process this is.
    #[serde(default)]
    #[schema(required)]
    pub incarnation: String,
    /// Its processor's load as reported, in percent.
    #[serde(default)]
    #[schema(required)]
    pub cpu_load: f32,
    /// Its memory's load as reported, in percent.
    #[serde(default)]
    #[schema(required)]
    pub memory_load: f32,
    /// Several instances use this id.
    #[serde(default)]
    #[schema(required)]
    pub shared: bool,
    /// Why it gets nothing, where somebody or something said so.
    #[serde(default)]
    #[schema(required)]
    pub reason: Option<String>,
    /// Attempts beyond its capacity that it takes in advance.
    #[serde(default)]
    #[schema(required)]
    pub prefetch: u32,
    /// What kind of machine or program it says it is.
    #[serde(default, rename = "type")]
    #[schema(required)]
    pub worker_type: String,
}

/// What `GET /api/v1/status` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Now (RFC 3339).
    pub time: String,
    /// The gateway's version.
    pub version: String,
    /// How long the gateway runs.
    pub uptime_seconds: u64,
    /// The bus as the gateway sees it.
    pub bus: BusStatus,
    /// The store as the gateway sees it.
    pub store: StoreStatus,
    /// The active scheduler; null while none answers.
    #[schema(required)]
    pub scheduler: Option<SchedulerView>,
    /// All workers together.
    pub workers: WorkerTotals,
}

/// The bus as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BusStatus {
    /// Connected right now.
    pub connected: bool,
    /// How many times a connection was made.
    pub connections: u64,
}

/// The store as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// It answered just now.
    pub ok: bool,
    /// What it said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The active scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchedulerView {
    /// Which process leads.
    pub owner: String,
    /// Rises with every change of leader.
    pub epoch: u64,
    /// When it took over (RFC 3339).
    pub started_at: String,
    /// The policy snapshot that it decides under.
    pub snapshot: String,
    /// Live jobs by state.
    pub live: BTreeMap<String, u64>,
}

/// All workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerTotals {
    /// Workers that are there: all but the lost ones.
    pub count: u32,
    /// Attempts that they take at once.
    pub capacity: u32,
    /// Attempts that they hold.
    pub in_flight: u32,
}
