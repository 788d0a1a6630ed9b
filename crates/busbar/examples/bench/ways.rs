//! The ways to run echo jobs, and how long one takes until its result is in the client's hands, idle and beside a steady load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_sdk::{Client, Submission};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::Outcome;
use crate::figures::{percentile, rounded};
use crate::follower::Follower;
use crate::http::{ECHO, Http, input};
use crate::plain::Plain;

const WITHIN: Duration = Duration::from_secs(30);
/// The load comes in small portions, so that it is steady.
const PORTIONS_A_SECOND: usize = 50;
/// How long the load runs before the first probe.
const LEAD: Duration = Duration::from_secs(1);

/// One way of running echo jobs. Clones are the same way.
#[derive(Clone)]
pub(crate) enum Way {
    /// Through the gateway.
    Http(Http),
    /// Through the SDK, straight on the bus.
    Sdk(Client),
    /// Without a control plane.
    Plain(Arc<Plain>),
}

impl Way {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "busbar_http",
            Self::Sdk(_) => "busbar_sdk",
            Self::Plain(_) => "plain",
        }
    }

    /// Submits `count` jobs in large portions; all must be taken.
    pub(crate) async fn submit(&self, count: usize) -> Outcome<()> {
        match self {
            Self::Http(http) => http.submit(count).await,
            Self::Sdk(client) => {
                let jobs = (0..count).map(|number| Submission::new(ECHO, &input(number))).collect::<Result<Vec<_>, _>>()?;
                client.submit_many(jobs).await.into_iter().try_for_each(|answer| Ok(answer.map(drop)?))
            }
            Self::Plain(plain) => plain.submit((0..count).map(payload).collect()).await,
        }
    }

    /// Runs one job and fetches its result.
    pub(crate) async fn run(&self, number: usize) -> Outcome<()> {
        match self {
            Self::Http(http) => http.run(input(number)).await,
            Self::Sdk(client) => Ok(client.run::<_, Value>(ECHO, &input(number), WITHIN).await.map(drop)?),
            Self::Plain(plain) => plain.run(payload(number)).await,
        }
    }

    /// Milliseconds of each of `count` jobs, one after the other.
    pub(crate) async fn probe(&self, count: usize) -> Outcome<Vec<f64>> {
        if let Self::Http(http) = self {
            return http.probe(count).await;
        }
        let mut samples = Vec::with_capacity(count);
        for number in 0..count {
            let started = Instant::now();
            self.run(number).await?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(samples)
    }

    /// The same while `load` carries so many jobs a second, all of which must end, too.
    pub(crate) async fn probe_beside(
        &self,
        load: &Self,
        per_second: usize,
        follower: &Follower,
        count: usize,
    ) -> Outcome<Vec<f64>> {
        let portion = per_second.div_ceil(PORTIONS_A_SECOND);
        let mut portions = JoinSet::new();
        let mut submitted = 0;
        follower.begin();
        let feed = async {
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(PORTIONS_A_SECOND)?);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let load = load.clone();
                submitted += portion;
                portions.spawn(async move { load.submit(portion).await });
                while let Some(done) = portions.try_join_next() {
                    done??;
                }
            }
        };
        let probe = async {
            tokio::time::sleep(LEAD).await;
            self.probe(count).await
        };
        let samples = tokio::select! {
            failed = feed => return failed,
            samples = probe => samples?,
        };
        while let Some(done) = portions.join_next().await {
            done??;
        }
        follower.ends(submitted + count, 2 * WITHIN).await?;
        Ok(samples)
    }
}

fn payload(number: usize) -> Bytes {
    input(number).to_string().into()
}

/// The usual percentiles, in milliseconds.
pub(crate) fn percentiles(samples: &[f64]) -> Value {
    let at = |percent| rounded(percentile(samples, percent));
    json!({ "p50": at(50), "p90": at(90), "p99": at(99), "max": at(100), "samples": samples.len() })
}
