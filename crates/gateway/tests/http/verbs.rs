//! What the stand-in for the scheduler answers beside admissions, cancellations and lists: explanations, pauses, drains, redrives.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{
    AdmitAnswer, Admitted, DeadLetter, DrainReply, DrainRequest, EnrolReply, EnrolRequest, ExplainReply, ExplainRequest, Gate,
    GateState, JobRecord, JobState, PauseReply, PauseRequest, Problem, RedriveItem, RedriveReply, RedriveRequest, Scheduled,
    WorkerVerdict, admit_answer, job_record,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::keys;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Guard, Message, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;

use crate::support::Scheduler;

impl Scheduler {
    pub(crate) fn explain(&self, message: &Message) -> Vec<u8> {
        let request = ExplainRequest::decode(message.payload.clone()).expect("a question");
        let state = self.state.lock().expect("not poisoned");
        let known = state.jobs.get(&request.job_id).filter(|record| record.tenant_id == request.tenant_id);
        let reply = match known {
            None => ExplainReply { problem: Some(refusal("job_not_found")), ..ExplainReply::default() },
            Some(_) => ExplainReply {
                state: JobState::Scheduled.into(),
                gates: vec![
                    Gate { name: "policy".into(), state: GateState::Passed.into(), spent_ms: 12, ..Gate::default() },
                    Gate {
                        name: "worker".into(),
                        state: GateState::Waits.into(),
                        detail: "no worker is free".into(),
                        spent_ms: 3_000,
                        workers: vec![WorkerVerdict { worker_id: "w1".into(), verdict: "full".into(), detail: "8 of 8".into() }],
                        ..Gate::default()
                    },
                ],
                summary: "It waits for a free worker.".into(),
                now_ms: 1_700_000_000_000,
                problem: None,
            },
        };
        reply.encode_to_vec()
    }

    pub(crate) fn pause(&self, message: &Message) -> Vec<u8> {
        let PauseRequest { set, lift } = PauseRequest::decode(message.payload.clone()).expect("a request");
        let mut state = self.state.lock().expect("not poisoned");
        for what in lift {
            state.pauses.remove(&(what.scope, what.name));
        }
        state.pauses.extend(set.into_iter().map(|pause| {
            let what = pause.what.clone().expect("named");
            ((what.scope, what.name), pause)
        }));
        PauseReply { pauses: state.pauses.values().cloned().collect(), problem: None }.encode_to_vec()
    }

    pub(crate) fn drain(&self, message: &Message) -> Vec<u8> {
        let DrainRequest { set, lift } = DrainRequest::decode(message.payload.clone()).expect("a request");
        let mut state = self.state.lock().expect("not poisoned");
        state.drains.retain(|worker_id, _| !lift.contains(worker_id));
        state.drains.extend(set.into_iter().map(|drain| (drain.worker_id.clone(), drain)));
        DrainReply { drains: state.drains.values().cloned().collect(), problem: None }.encode_to_vec()
    }

    pub(crate) fn enrol(&self, message: &Message) -> Vec<u8> {
        let EnrolRequest { enrol, revoke } = EnrolRequest::decode(message.payload.clone()).expect("a request");
        let mut state = self.state.lock().expect("not poisoned");
        state.keys.retain(|key| {
            !revoke.iter().any(|name| (&name.worker_id, &name.proof_key_id) == (&key.worker_id, &key.proof_key_id))
        });
        state.keys.extend(enrol);
        EnrolReply { keys: state.keys.clone(), problem: None }.encode_to_vec()
    }

    /// None where the answer is to be lost.
    pub(crate) async fn redrive(&self, message: &Message) -> Option<Vec<u8>> {
        let request = RedriveRequest::decode(message.payload.clone()).expect("a request");
        {
            let mut state = self.state.lock().expect("not poisoned");
            state.redrives.push(request.items.iter().map(|item| item.not_before_ms).collect());
            state.last_redrive = request.items.last().map(|item| item.new_job_id.clone()).unwrap_or_default();
        }
        let mut answers = Vec::new();
        for item in request.items {
            let answer = match self.try_again(item).await {
                Ok(admitted) => admitted.map(admit_answer::Answer::Admitted),
                Err(code) => Some(admit_answer::Answer::Rejected(refusal(&code))),
            };
            answers.push(AdmitAnswer { answer });
        }
        let mut state = self.state.lock().expect("not poisoned");
        if state.redrives_unanswered > 0 {
            state.redrives_unanswered -= 1;
            return None;
        }
        Some(RedriveReply { answers, problem: None }.encode_to_vec())
    }

    async fn try_again(&self, item: RedriveItem) -> Result<Option<Admitted>, String> {
        let key = keys::dead_letter(&item.job_id);
        let stored = self.store.read(vec![key.clone()]).await.expect("read").remove(0).ok_or("dead_letter_not_found")?;
        let mut letter = DeadLetter::decode(stored.value).expect("a letter");
        if letter.tenant_id != item.tenant_id {
            return Err("dead_letter_not_found".into());
        }
        if item.new_job_id.is_empty() {
            self.discard(&letter, key, stored.revision).await;
            return Ok(None);
        }
        let admitted = |existing| Admitted {
            job_id: item.new_job_id.clone(),
            trace_id: letter.trace_id.clone(),
            state: JobState::Scheduled.into(),
            existing,
        };
        if letter.redriven_as == item.new_job_id {
            return Ok(Some(admitted(true)));
        }
        if !letter.redriven_as.is_empty() {
            return Err("dead_letter_redriven".into());
        }
        if letter.topic == "job.full" {
            return Err("backlog_full".into());
        }
        let answer = admitted(false);
        let (context, own) = (keys::context(&item.new_job_id), keys::context(&letter.job_id));
        let wanted = if item.edited_input_bytes > 0 { &context } else { &own };
        self.store.payloads(vec![wanted.clone()]).await.expect("read").remove(0).ok_or("payload_missing")?;
        let record = JobRecord {
            version: 1,
            job_id: item.new_job_id.clone(),
            tenant_id: letter.tenant_id.clone(),
            topic: letter.topic.clone(),
            request: letter.request.clone(),
            redrive_of: letter.job_id.clone(),
            state: Some(job_record::State::Scheduled(Scheduled { since_ms: 1, not_before_ms: item.not_before_ms })),
            ..JobRecord::default()
        };
        self.write(std::slice::from_ref(&record), None).await;
        self.state.lock().expect("not poisoned").jobs.insert(item.new_job_id.clone(), record);
        (letter.redriven_as, letter.redriven_ms) = (item.new_job_id, 1_700_000_000_000);
        let mut writes = vec![Write::Put {
            key: key.clone(),
            revision: stored.revision + 1,
            value: letter.encode_to_vec().into(),
            expire: None,
        }];
        if item.edited_input_bytes > 0 {
            writes.push(Write::Persist { key: context });
        }
        self.apply(vec![Guard::Revision { key, revision: stored.revision }], writes).await;
        Ok(Some(answer))
    }

    async fn discard(&self, letter: &DeadLetter, key: String, revision: u64) {
        let remove = |index: String| Write::IndexRemove { index, member: letter.job_id.clone() };
        let indexes = [remove(keys::INDEX_DEAD.to_owned()), remove(keys::index_dead(&letter.tenant_id))];
        let writes = [Write::Delete { key: key.clone() }].into_iter().chain(indexes).collect();
        self.apply(vec![Guard::Revision { key, revision }], writes).await;
    }

    /// A dead job of the tenant `acme`, with its input.
    pub(crate) async fn bury(&self, job_id: &str, topic: &str, code: &str, died_ms: u64) {
        let request = JobRequest {
            job_id: job_id.to_owned(),
            topic: topic.to_owned(),
            context_ptr: format!("redis://{}", keys::context(job_id)),
            labels: BTreeMap::from([("x".to_owned(), "y".to_owned())]),
            ..JobRequest::default()
        };
        let letter = DeadLetter {
            version: 1,
            job_id: job_id.to_owned(),
            tenant_id: "acme".into(),
            topic: topic.to_owned(),
            reason_code: code.to_owned(),
            reason: "it died".into(),
            state: JobState::Failed.into(),
            attempts: 3,
            created_ms: died_ms,
            request: request.encode_to_vec().into(),
            trace_id: "t".into(),
            ..DeadLetter::default()
        };
        let (key, score) = (keys::dead_letter(job_id), i64::try_from(died_ms).expect("a small number"));
        let add = |index: String| Write::IndexAdd { index, member: job_id.to_owned(), score };
        let writes = vec![
            Write::Put { key: key.clone(), revision: 1, value: letter.encode_to_vec().into(), expire: None },
            add(keys::INDEX_DEAD.to_owned()),
            add(keys::index_dead("acme")),
        ];
        self.apply(vec![Guard::Absent { key }], writes).await;
        self.store.put_payload(&keys::context(job_id), format!("\"{job_id}\"").into(), None).await.expect("stored");
    }

    async fn apply(&self, guards: Vec<Guard>, writes: Vec<Write>) {
        let unit = Unit { id: CommitId::generate(), guards, writes };
        let answers = self.store.commit(CommitClass::Advance, vec![unit]).await.expect("committed");
        assert!(matches!(answers[..], [Answer::Applied { .. }]), "{answers:?}");
    }
}

fn refusal(code: &str) -> Problem {
    Problem { code: code.to_owned(), detail: "the stand-in says so".into(), retry_after_ms: 0 }
}
