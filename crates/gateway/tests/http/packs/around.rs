//! Stands in for kernel, engine and scheduler: keeps what it is given, and refuses what the tests tell it to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    BundleAction, DefineReply, DefineRequest, JobRecord, ListReply, ListRequest, Problem, PublishBundleReply,
    PublishBundleRequest, RemoveReply, RemoveRequest,
};
use busbar_protocol::ports::{Bus as _, Headers, Message};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_rules::TopicPattern;
use futures::StreamExt as _;

/// What the other services hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Content and topics by id.
    pub(super) bundles: BTreeMap<String, (String, Vec<String>)>,
    /// Document and pack by id.
    pub(super) workflows: BTreeMap<String, (Vec<u8>, String)>,
    /// Workflows with live runs.
    pub(super) running: BTreeSet<String>,
    /// Topics with a live job.
    pub(super) busy: BTreeSet<String>,
    /// A workflow that passes every check and is refused when it is to be saved.
    pub(super) false_friend: Option<String>,
}

/// The stand-in. All clones are the same one.
#[derive(Clone)]
pub(super) struct Around {
    bus: NatsBus,
    held: Arc<Mutex<Held>>,
}

impl Around {
    pub(super) async fn start(bus: &NatsBus, subjects: &[&'static str]) -> Self {
        let around = Self { bus: bus.clone(), held: Arc::default() };
        for subject in subjects {
            let mut asked = bus.subscribe(subject, None).await.expect("subscribed");
            let own = around.clone();
            tokio::spawn(async move {
                while let Some(message) = asked.next().await {
                    own.answer(message).await;
                }
            });
        }
        around
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("not poisoned")
    }

    async fn answer(&self, message: Message) {
        let payload = message.payload.clone();
        let reply = match message.subject.as_str() {
            subjects::KERNEL_PUBLISH => self.publish(PublishBundleRequest::decode(payload).expect("ours")).encode_to_vec(),
            subjects::ENGINE_DEFINE => self.define(DefineRequest::decode(payload).expect("ours")).encode_to_vec(),
            subjects::ENGINE_REMOVE => self.remove(&RemoveRequest::decode(payload).expect("ours")).encode_to_vec(),
            _ => self.list(&ListRequest::decode(payload).expect("ours")).encode_to_vec(),
        };
        self.bus.publish(&message.reply.expect("a request"), Headers::new(), reply.into()).await.expect("published");
    }

    fn publish(&self, request: PublishBundleRequest) -> PublishBundleReply {
        let bad = request.content.contains("maybe").then(|| problem("bundle_invalid", "maybe is no decision"));
        let action = request.action();
        match (&bad, action) {
            (Some(_), _) | (None, BundleAction::Check) => {}
            (None, BundleAction::Publish) => {
                self.held().bundles.insert(request.bundle_id, (request.content, request.topics));
            }
            (None, BundleAction::Remove) => {
                self.held().bundles.remove(&request.bundle_id);
            }
        }
        PublishBundleReply { snapshot: "sha256:0".to_owned(), problem: bad }
    }

    fn define(&self, request: DefineRequest) -> DefineReply {
        let document: serde_json::Value = serde_json::from_slice(&request.document).expect("JSON");
        let id = document["id"].as_str().expect("an id").to_owned();
        assert_eq!(request.tenant_id, "", "a pack's workflow is everybody's");
        let mut held = self.held();
        let refused = if document.get("steps").is_none() {
            Some(problem("workflow_invalid", "steps: there must be some"))
        } else if !request.check_only && held.false_friend.as_ref() == Some(&id) {
            Some(problem("workflow_invalid", "changed my mind"))
        } else {
            None
        };
        if refused.is_none() && !request.check_only {
            held.workflows.insert(id.clone(), (request.document.to_vec(), request.pack_id));
        }
        DefineReply { workflow_id: id, number: 1, created: true, problem: refused }
    }

    fn remove(&self, request: &RemoveRequest) -> RemoveReply {
        let mut held = self.held();
        let refused = if held.running.contains(&request.workflow_id) {
            Some(problem("workflow_in_use", "runs are live"))
        } else if !held.workflows.contains_key(&request.workflow_id) {
            Some(problem("workflow_not_found", "none"))
        } else {
            None
        };
        if refused.is_none() && !request.check_only {
            let (_, pack_id) = held.workflows.remove(&request.workflow_id).expect("there");
            assert_eq!(pack_id, request.pack_id);
        }
        RemoveReply { problem: refused }
    }

    fn list(&self, request: &ListRequest) -> ListReply {
        assert!(request.tenant_id.is_empty() && !request.topic_patterns.is_empty(), "{request:?}");
        let patterns: Vec<_> = request.topic_patterns.iter().map(|topic| TopicPattern::parse(topic).expect("good")).collect();
        let busy = self.held().busy.clone().into_iter().filter(|topic| patterns.iter().any(|pattern| pattern.matches(topic)));
        let jobs = busy.map(|topic| JobRecord { job_id: "j1".to_owned(), topic, ..JobRecord::default() }).collect();
        ListReply { jobs, ..ListReply::default() }
    }
}

fn problem(code: &str, detail: &str) -> Problem {
    Problem { code: code.to_owned(), detail: detail.to_owned(), retry_after_ms: 0 }
}
