//! Has the results of replicas checked: a submission of our own for each, like anybody else's but for what its record says it is for.
//!
//! ```text
//!  {"artifact": "<job>.r3", "job_id": "<job>", "topic": …, "input": …}     what the verifier is given
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};

use busbar_protocol::busbar::{AdmitItem, Problem, admit_answer};
use busbar_protocol::cap::{JobMetadata, JobRequest};
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::limits::PAYLOAD_BYTES_MAX;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Clock, CommitClass, CommitId, Judge, Records, StoreError};
use busbar_protocol::prost::Message as _;

use crate::Ports;
use crate::core::cell::{Unchecked, replica_id, verification_id};
use crate::core::commit;
use crate::core::job::Job;
use crate::core::transition::Limits;
use crate::input::{Admit, Input, Origin};
use crate::intake::{self, Prepared};
use crate::library::Library;
use crate::traces::Traces;

/// The most bytes of an input whose results are checked: the verifier is given it, with a little around it.
pub(crate) const INPUT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 1_024;
/// How long a store rests that did not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Who may be asked, and under which rules.
pub(crate) struct Desk<B, R, C, J> {
    pub ports: Ports<B, R, C, J>,
    pub library: watch::Receiver<Arc<Library>>,
    pub traces: Traces,
    pub limits: Limits,
    pub inputs: mpsc::Sender<Input>,
}

/// Why no check was begun.
enum Not {
    /// It is worth another try after this time.
    Yet(Duration),
    /// It would end the same way again, for this and any other result of the job.
    Ever(String),
    /// Nobody wants to know any more.
    Wanted,
}

/// Submits what checks a result, until that is in order or never will be.
pub(crate) async fn submit<B: Bus, R: Records, C: Clock, J: Judge>(desk: Desk<B, R, C, J>, of: Unchecked) {
    let why = loop {
        match desk.attempt(&of).await {
            Ok(()) | Err(Not::Wanted) => return,
            Err(Not::Yet(wait)) => desk.ports.clock.sleep(wait).await,
            Err(Not::Ever(why)) => break why,
        }
    };
    let _ = desk.inputs.send(Input::CheckRefused { parent: of.parent.id, replica: of.replica, why }).await;
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Desk<B, R, C, J> {
    async fn attempt(&self, of: &Unchecked) -> Result<(), Not> {
        let prepared = self.prepare(of).await?;
        // It becomes a job all the same, so that there is a record of what was decided.
        let refused = prepared.job.end().map(|end| format!("{}: {}", end.code, end.message));
        let (done, told) = oneshot::channel();
        let admit = Admit { outcomes: vec![Ok(prepared)], origin: Origin::Task { done }, received: Instant::now() };
        self.inputs.send(Input::Admit(admit)).await.map_err(|_| Not::Wanted)?;
        let verdict = told.await.ok().and_then(|mut verdicts| verdicts.pop()).ok_or(Not::Wanted)?;
        match (verdict.refusal(), refused) {
            (admit_answer::Answer::Admitted(_), None) => Ok(()),
            (admit_answer::Answer::Admitted(_), Some(why)) => Err(Not::Ever(why)),
            (admit_answer::Answer::Rejected(problem), _) => Err(problem.into()),
        }
    }

    async fn prepare(&self, of: &Unchecked) -> Result<Prepared, Not> {
        let Ports { records, clock, judge, .. } = &self.ports;
        let request = JobRequest::decode(of.parent.request.clone()).unwrap_or_default();
        let input = match Pointer::parse(&request.context_ptr) {
            Ok(Pointer::Redis(key)) => {
                let read = records.payloads(vec![key]).await?.pop().flatten();
                Some(read.ok_or_else(|| Not::Ever("the job's input is gone".to_owned()))?)
            }
            Ok(Pointer::Blob(_)) | Err(_) => None,
        };
        let (item, input) = submission(&of.parent, &request, of.replica, input.as_deref()).map_err(Not::Ever)?;
        // Not with the submission: it may be larger than what goes along.
        let job_id = verification_id(&of.parent.id, of.replica).map(|id| id.to_string()).unwrap_or_default();
        records.commit(CommitClass::Admit, vec![commit::put_input(&job_id, input, CommitId::generate())]).await?;
        let library = Arc::clone(&self.library.borrow());
        let mut outcomes = intake::prepare(&[item], &library, records, judge, &self.traces, &self.limits, clock.now()).await?;
        let mut prepared = outcomes.pop().ok_or(Not::Wanted)??;
        let job = Arc::make_mut(&mut prepared.job);
        job.verifies = of.replica;
        // A verifier's own word is believed, whatever its topic says by now.
        job.plan.replication = None;
        Ok(prepared)
    }
}

impl From<StoreError> for Not {
    fn from(error: StoreError) -> Self {
        tracing::debug!(%error, "a check is submitted again");
        Self::Yet(AGAIN_AFTER)
    }
}

impl From<Problem> for Not {
    fn from(problem: Problem) -> Self {
        match problem.retry_after_ms {
            0 => Self::Ever(format!("{}: {}", problem.code, problem.detail)),
            wait => Self::Yet(Duration::from_millis(wait)),
        }
    }
}

/// The submission that checks the result of a replica, and its input.
fn submission(parent: &Job, request: &JobRequest, replica: u32, input: Option<&[u8]>) -> Result<(AdmitItem, Bytes), String> {
    let (Some(id), Some(of)) = (verification_id(&parent.id, replica), replica_id(&parent.id, replica)) else {
        return Err("the job's name is too long for the one that checks its results".to_owned());
    };
    let given = given(parent, &of, input)?;
    let topic = parent.plan.replication.as_ref().map(|replication| replication.verifier.clone()).unwrap_or_default();
    let who = request.meta.clone().unwrap_or_default();
    let request = JobRequest {
        job_id: id.to_string(),
        topic,
        priority: parent.priority.into(),
        context_ptr: Pointer::Redis(keys::context(id.as_str())).to_string(),
        parent_job_id: parent.id.to_string(),
        tenant_id: parent.tenant_id.clone(),
        principal_id: request.principal_id.clone(),
        meta: Some(JobMetadata { actor_id: who.actor_id, actor_type: who.actor_type, ..JobMetadata::default() }),
        ..JobRequest::default()
    };
    let item = AdmitItem {
        request: request.encode_to_vec().into(),
        tenant_id: parent.tenant_id.clone(),
        trace_id: parent.trace_id.clone(),
        traceparent: parent.traceparent.clone(),
        input_bytes: given.len() as u64,
        ..AdmitItem::default()
    };
    Ok((item, given))
}

/// What a verifier is given: which artifact the result is, and what it was to be the result of.
fn given(parent: &Job, replica: &JobId, input: Option<&[u8]>) -> Result<Bytes, String> {
    let input: Option<&RawValue> =
        input.map(serde_json::from_slice).transpose().map_err(|error| format!("the job's input is no JSON: {error}"))?;
    let given = json!({"artifact": replica.as_str(), "job_id": parent.id.as_str(), "topic": parent.topic, "input": input});
    let given = Bytes::from(given.to_string());
    if given.len() > PAYLOAD_BYTES_MAX {
        return Err(format!("the job's input has more than {INPUT_BYTES_MAX} bytes, as many as a verifier can be given"));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::Replication;
    use busbar_protocol::time::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::core::job::State;

    fn parent() -> Job {
        let mut job = Job::new(JobId::parse("j").expect("a good id"), State::Pending { not_before: Timestamp::default() });
        job.topic = "job.p.fold".to_owned();
        job.tenant_id = "acme".to_owned();
        job.plan.replication = Some(Replication { verifier: "job.p.check".to_owned(), ..Replication::default() });
        job
    }

    #[test]
    fn a_check_belongs_to_its_job_and_is_given_input_and_result() {
        let request = JobRequest { principal_id: "ada".to_owned(), ..JobRequest::default() };
        let (item, input) = submission(&parent(), &request, 3, Some(br#"{"n": 1.0}"#)).expect("in order");
        let request = JobRequest::decode(item.request).expect("a request");
        assert_eq!(
            (request.job_id.as_str(), request.topic.as_str(), request.parent_job_id.as_str()),
            ("j.v3", "job.p.check", "j")
        );
        assert_eq!((request.context_ptr.as_str(), request.principal_id.as_str()), ("redis://ctx:j.v3", "ada"));
        assert_eq!(item.input_bytes, input.len() as u64);
        let given: Value = serde_json::from_slice(&input).expect("JSON");
        assert_eq!(given, json!({"artifact": "j.r3", "job_id": "j", "topic": "job.p.fold", "input": {"n": 1.0}}));
    }

    #[test]
    fn what_cannot_be_given_is_said() {
        let given = |input: &[u8]| submission(&parent(), &JobRequest::default(), 1, Some(input)).map(|(_, input)| input.len());
        assert!(given(b"{").expect_err("no JSON").starts_with("the job's input is no JSON: "));
        let text = |bytes: usize| format!("{:?}", "x".repeat(bytes - 2)).into_bytes();
        assert!(given(&text(INPUT_BYTES_MAX)).is_ok());
        assert!(given(&text(PAYLOAD_BYTES_MAX)).expect_err("too large").contains("1047552 bytes"));
        let none = submission(&parent(), &JobRequest::default(), 1, None).expect("in order").1;
        assert!(String::from_utf8_lossy(&none).contains(r#""input":null"#));
    }
}
