//! The load: tenants on the bus and one over HTTP, each with jobs of many kinds, for as long as the faults go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use busbar_api::SubmitReply;
use busbar_protocol::cap::JobPriority;
use busbar_protocol::ids;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use ureq::Agent;

use crate::Outcome;
use crate::admit::{Order, Tenant};
use crate::cap::{ANNOUNCED, SILENT};
use crate::cell::KEY;
use crate::chance::Chance;
use crate::ledger::{Acknowledged, Ledger};

const WORK: &str = "job.chaos.work";
const KEYED: &str = "job.chaos.keyed";
/// A load far above what the workers do would only make the end longer.
const LIVE_MAX: u64 = 1_500;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const HTTP_WITHIN: Duration = Duration::from_secs(10);

/// What everything that submits shares.
pub(crate) struct Load {
    pub(crate) ledger: Ledger,
    /// Ends that the watch has seen.
    pub(crate) ended: AtomicU64,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Load {
    /// Waits until there is room for more; false when the load is over.
    async fn goes_on(&self, chance: &mut Chance) -> bool {
        sleep(Duration::from_millis(chance.within(5..60))).await;
        loop {
            if *self.stop.borrow() {
                return false;
            }
            let acknowledged = self.ledger.lists().acknowledged.len() as u64;
            if acknowledged.saturating_sub(self.ended.load(Ordering::Relaxed)) < LIVE_MAX {
                return true;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A tenant on the bus: batches with keys, parents and cancels.
pub(crate) async fn on_the_bus(load: Arc<Load>, tenant: Tenant, mut chance: Chance) -> Outcome<()> {
    let mut mine: Vec<String> = Vec::new();
    while load.goes_on(&mut chance).await {
        let orders: Vec<(Order, u32)> = (0..chance.within(1..20)).map(|_| order(&tenant, &mine, &mut chance)).collect();
        let (orders, fails): (Vec<Order>, Vec<u32>) = orders.into_iter().unzip();
        load.ledger.begin(orders.len());
        let answers = tenant.submit(&orders).await?;
        if answers.len() != orders.len() {
            return Err(format!("{} answers came for {} submissions", answers.len(), orders.len()).into());
        }
        for ((order, answer), fails) in orders.iter().zip(answers).zip(fails) {
            match answer {
                Ok(job_id) => {
                    let forgets = [ANNOUNCED, SILENT].contains(&order.topic);
                    load.ledger.acknowledge(&job_id, &order.idempotency_key, Acknowledged { fails, forgets });
                    mine.push(job_id);
                }
                Err(code) => load.ledger.refuse(&code),
            }
        }
        if !mine.is_empty() && chance.percent(30) {
            tenant.cancel(late(&mine, &mut chance)).await?;
            load.ledger.lists().cancels += 1;
        }
    }
    Ok(())
}

/// One of the last hundred.
fn late<'a>(mine: &'a [String], chance: &mut Chance) -> &'a str {
    chance.one::<String>(&mine[mine.len().saturating_sub(100)..])
}

/// A job, and how many of its attempts will fail.
fn order(tenant: &Tenant, mine: &[String], chance: &mut Chance) -> (Order, u32) {
    let (input, fails) = input(chance);
    let topic = match chance.within(0..100) {
        0..20 => KEYED,
        20..30 => ANNOUNCED,
        30..40 => SILENT,
        _ => WORK,
    };
    let mut order = Order::new(topic, input);
    if order.topic == KEYED {
        order.concurrency_key = format!("key-{}", chance.within(0..5));
    }
    if chance.percent(20) {
        order.idempotency_key = format!("{}-{}", tenant.name(), order.job_id);
    }
    if !mine.is_empty() && chance.percent(10) {
        order.parent_job_id = late(mine, chance).to_owned();
    }
    order.priority = *chance.one(&[JobPriority::Batch, JobPriority::Interactive, JobPriority::Critical]);
    (order, fails)
}

fn input(chance: &mut Chance) -> (Value, u32) {
    let ms = chance.within(0..60);
    match chance.within(0..100) {
        0..5 => (json!({"ms": ms, "fails": 1}), 1),
        5..7 => (json!({"ms": ms, "fatal": true}), 0),
        // Long enough to be at work when its worker is killed or is silent for too long.
        7..10 => (json!({"ms": 1_000 + ms * 50}), 0),
        _ => (json!({"ms": ms}), 0),
    }
}

/// The tenant `default` through the gateway: one job at a time, each with an idempotency key, repeated until it is taken.
pub(crate) async fn over_http(load: Arc<Load>, base: String, mut chance: Chance) -> Outcome<()> {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(HTTP_WITHIN)).build();
    let agent: Agent = config.into();
    while load.goes_on(&mut chance).await {
        let (input, fails) = input(&mut chance);
        let key = ids::generate();
        let body = json!({"topic": WORK, "input": input, "priority": "batch", "idempotency_key": key}).to_string();
        load.ledger.begin(1);
        loop {
            let (agent, url, sent) = (agent.clone(), format!("{base}/api/v1/jobs"), body.clone());
            match tokio::task::spawn_blocking(move || post(&agent, &url, &sent)).await? {
                Some((202, body)) => {
                    let reply: SubmitReply = serde_json::from_str(&body)?;
                    load.ledger.acknowledge(&reply.job_id, &key, Acknowledged { fails, forgets: false });
                    break;
                }
                // Away, or not able to just now. Asking again with the same key is the same job.
                None | Some((503 | 504, _)) => sleep(Duration::from_millis(100)).await,
                Some((status, body)) => return Err(format!("a submission over HTTP was answered {status}: {body}").into()),
            }
        }
    }
    Ok(())
}

/// Status and body; none when the connection broke.
fn post(agent: &Agent, url: &str, body: &str) -> Option<(u16, String)> {
    let request = agent.post(url).header("X-API-Key", KEY).content_type("application/json");
    let mut answer = request.send(body).ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
}
