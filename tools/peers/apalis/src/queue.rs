//! What the adapter and its workers share: the setting, the job, and the queue in Redis.

use std::env;

use apalis_redis::{Config, RedisStorage};
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// The `options` of a setting in peer.json.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// How many workers there are.
    pub(crate) processes: usize,
    /// So many jobs a worker fetches at once, and acknowledges at once.
    batch_size: usize,
    /// Whether a worker writes down that it has begun with a job, and renews that.
    lock_tasks: bool,
    /// A worker that has nothing to do looks so often, in milliseconds. apalis-redis 1.0.0 has no time of its own, and its publications
    /// tell nobody of new jobs: it pushes each as one that is due now. All of these are taken over when a worker looks, and if they are
    /// 8,000 or more, which is more than Lua unpacks, the worker fails: it must look often enough, and its batches must be short.
    pub(crate) poll_milliseconds: u64,
    /// The client looks so often for a result, in milliseconds; as `wait_for` does without.
    pub(crate) result_milliseconds: Option<u64>,
}

/// A job, and its result: the same as Busbar's own.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Echo {
    pub(crate) number: u64,
    text: String,
}

impl Echo {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, text: "the quick brown fox jumps over the lazy dog".to_owned() }
    }
}

impl Options {
    pub(crate) fn from_env() -> Outcome<Self> {
        Ok(serde_json::from_str(&env::var("PEER_OPTIONS")?)?)
    }

    /// The queue on a connection of its own.
    pub(crate) async fn queue(&self) -> Outcome<RedisStorage<Echo>> {
        let connection = apalis_redis::connect(env::var("PEER_REDIS_URL")?).await?;
        // Results are kept, as it comes: they are what acknowledges a job.
        let config = Config::default().queue("jobs").batch_size(self.batch_size).lock_tasks(self.lock_tasks);
        Ok(RedisStorage::new(connection).with_config(config))
    }
}
