//! Submitting and cancelling straight on the bus, again and again until there is an answer.
//!
//! The ids are ours, so that a repeated question is the same submission, also where nobody knows what became of the first.

use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{
    AdmitItem, AdmitReply, AdmitRequest, CancelItem, CancelReply, CancelRequest, JobOptions, admit_answer, cancel_answer,
};
use busbar_protocol::cap::{JobMetadata, JobPriority, JobRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus as _, Headers, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys, subjects};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::sleep;

use crate::Outcome;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A job in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub(crate) job_id: String,
    pub(crate) topic: &'static str,
    pub(crate) input: Value,
    pub(crate) priority: JobPriority,
    pub(crate) idempotency_key: String,
    pub(crate) concurrency_key: String,
    pub(crate) parent_job_id: String,
}

impl Order {
    pub(crate) fn new(topic: &'static str, input: Value) -> Self {
        Self { job_id: ids::generate(), topic, input, priority: JobPriority::Batch, ..Self::default() }
    }
}

/// What became of an order: the job, which is another one where the idempotency key was taken; or the code of the refusal.
pub(crate) type Answer = Result<String, String>;

/// A tenant on the bus.
#[derive(Clone)]
pub(crate) struct Tenant {
    bus: NatsBus,
    store: Store,
    name: String,
}

impl Tenant {
    pub(crate) async fn connect(nats: &str, redis: &str, name: &str) -> Outcome<Self> {
        let bus = NatsBus::connect(BusConfig::new(nats, format!("chaos-{name}"))).await?;
        let store = Store::connect(StoreConfig { client_name: format!("chaos-{name}"), ..StoreConfig::new(redis) }).await?;
        Ok(Self { bus, store, name: name.to_owned() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Submits until everything is answered; the answers stand in the order of the orders.
    pub(crate) async fn submit(&self, orders: &[Order]) -> Outcome<Vec<Answer>> {
        let mut items = Vec::with_capacity(orders.len());
        for order in orders {
            items.push(self.item(order).await);
        }
        let body = Bytes::from(AdmitRequest { items }.encode_to_vec());
        loop {
            if let Some(answers) = self.ask(&body).await? {
                return Ok(answers);
            }
            sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// The answers, unless it makes sense to ask again.
    async fn ask(&self, body: &Bytes) -> Outcome<Option<Vec<Answer>>> {
        let Ok(told) = self.bus.request(subjects::ADMIT, Headers::new(), body.clone(), ANSWER_WITHIN).await else {
            return Ok(None);
        };
        let reply = AdmitReply::decode(told.payload)?;
        let passes = |code: &str| [Code::SchedulerUnavailable, Code::StoreUnavailable].iter().any(|known| known.as_str() == code);
        match reply.problem {
            Some(problem) if passes(&problem.code) => return Ok(None),
            Some(problem) => return Err(format!("a whole submission was refused: {problem:?}").into()),
            None => {}
        }
        let mut answers = Vec::with_capacity(reply.answers.len());
        for answer in reply.answers {
            match answer.answer.ok_or("an empty answer")? {
                admit_answer::Answer::Admitted(admitted) => answers.push(Ok(admitted.job_id)),
                admit_answer::Answer::Rejected(problem) if passes(&problem.code) => return Ok(None),
                admit_answer::Answer::Rejected(problem) => answers.push(Err(problem.code)),
            }
        }
        Ok(Some(answers))
    }

    /// Stores the input and writes the item about it.
    async fn item(&self, order: &Order) -> AdmitItem {
        let input = Bytes::from(order.input.to_string());
        let input_bytes = input.len() as u64;
        let key = keys::context(&order.job_id);
        while self.store.put_payload(&key, input.clone(), Some(INPUT_TTL)).await.is_err() {
            sleep(ASK_AGAIN_AFTER).await;
        }
        let meta = JobMetadata {
            tenant_id: self.name.clone(),
            idempotency_key: order.idempotency_key.clone(),
            ..JobMetadata::default()
        };
        let request = JobRequest {
            job_id: order.job_id.clone(),
            topic: order.topic.to_owned(),
            priority: order.priority.into(),
            context_ptr: Pointer::Redis(key).to_string(),
            tenant_id: self.name.clone(),
            parent_job_id: order.parent_job_id.clone(),
            meta: Some(meta),
            ..JobRequest::default()
        };
        let options = JobOptions { concurrency_key: order.concurrency_key.clone(), ..JobOptions::default() };
        AdmitItem {
            request: request.encode_to_vec().into(),
            tenant_id: self.name.clone(),
            trace_id: ids::generate_trace(),
            input_bytes,
            options: Some(options),
            ..AdmitItem::default()
        }
    }

    /// Cancels until it is answered. That the job is not known or has ended is an answer, too.
    pub(crate) async fn cancel(&self, job_id: &str) -> Outcome<()> {
        let item = CancelItem {
            job_id: job_id.to_owned(),
            tenant_id: self.name.clone(),
            reason: "chance".to_owned(),
            requested_by: "chaos".to_owned(),
            attempt: 0,
        };
        let body = Bytes::from(CancelRequest { items: vec![item] }.encode_to_vec());
        loop {
            if let Ok(told) = self.bus.request(subjects::SCHEDULER_CANCEL, Headers::new(), body.clone(), ANSWER_WITHIN).await {
                let reply = CancelReply::decode(told.payload)?;
                let answer = reply.answers.into_iter().next().and_then(|answer| answer.answer);
                let again = |code: &str| code == Code::SchedulerUnavailable.as_str() || code == Code::StoreUnavailable.as_str();
                match (reply.problem, answer) {
                    (Some(problem), _) | (None, Some(cancel_answer::Answer::Rejected(problem))) if again(&problem.code) => {}
                    _ => return Ok(()),
                }
            }
            sleep(ASK_AGAIN_AFTER).await;
        }
    }
}
