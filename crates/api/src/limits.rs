//! Bounds of tenants and topics.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most rows of the document.
pub const LIMIT_ROWS_MAX: usize = 10_000;
/// The largest weight of a tenant.
pub const WEIGHT_MAX: u32 = 10_000;

/// What `GET /api/v1/limits` and `PUT /api/v1/limits` answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Rises with every change; 0 while nothing was ever set.
    pub revision: u64,
    /// Bounds of tenants, by tenant.
    pub tenants: Vec<TenantLimits>,
    /// Bounds of topics, by pattern.
    pub topics: Vec<TopicLimits>,
}

/// What `PUT /api/v1/limits` takes: all bounds, instead of those that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// The revision that this replaces; an `If-Match` header says the same. One of both is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Bounds of tenants: one row each.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    pub tenants: Vec<TenantLimits>,
    /// Bounds of topics: one row a pattern.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    pub topics: Vec<TopicLimits>,
}

/// What a change of one row answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsChange {
    /// The revision of the document after the change.
    pub revision: u64,
}

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub count: u32,
    /// In how many milliseconds; without it a second, at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub per_ms: Option<u64>,
    /// How many at once after a pause; without it as many as `count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub burst: Option<u32>,
}

/// What a tenant may use of the cell. What is left out has no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantLimits {
    /// The tenant; `*` stands for each tenant that has no row of its own. In a path that names it, it may be left out.
    #[serde(default)]
    pub tenant_id: String,
    /// Its share of a pool that several tenants want: twice the weight is twice the work. Without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub weight: Option<u32>,
    /// Attempts that workers hold at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub concurrency_max: Option<u32>,
    /// Attempts that are sent to workers; what comes faster waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Rate>,
    /// Submissions that are taken; what comes faster is refused with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admissions: Option<Rate>,
    /// Live jobs that no worker holds; further submissions are refused with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub backlog_max: Option<u64>,
}

/// What an operator says about a topic's flow: it replaces what the topic document says. What is left out has no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicLimits {
    /// Exact, or with `*` for one token, or ending in `>` for the rest; the narrowest row counts. In a path that names it, it may
    /// be left out.
    #[serde(default)]
    pub topic: String,
    /// Attempts that workers hold at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub concurrency_max: Option<u32>,
    /// Attempts that are sent to workers; what comes faster waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Rate>,
    /// Submissions that are taken; what comes faster is refused with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admissions: Option<Rate>,
    /// Live jobs that no worker holds; further submissions are refused with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub backlog_max: Option<u64>,
    /// Bounds for its jobs of one tenant that carry the same concurrency key; without it what the topic document says is gone too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyLimits>,
}

/// Bounds for jobs of one tenant and topic that carry the same concurrency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    /// Attempts that workers hold at once; without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub concurrency_max: Option<u32>,
    /// What happens when a job comes whose key has no room.
    #[serde(default)]
    pub strategy: KeyStrategy,
    /// Attempts that are sent to workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Rate>,
}

/// What happens when a job comes whose key has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyStrategy {
    /// It waits.
    #[default]
    Queue,
    /// It is refused.
    Reject,
    /// The oldest live job of the key is cancelled in its favour.
    CancelOldest,
}
