//! Stands in for kernel, engine and scheduler: keeps what it is given, and refuses what the tests tell it to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    BundleAction, DefineReply, DefineRequest, JobRecord, ListReply, ListRequest, Problem, PublishBundleReply,
    PublishBundleRequest, RemoveReply, RemoveRequest, SchedulerStatus, WorkersReply,
};
use busbar_protocol::ports::{Bus as _, Headers, Message, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_rules::TopicPattern;
use busbar_store::Store;
use bytes::Bytes;
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

/// Which topics the scheduler says it has in force.
#[derive(Clone, Debug, Default)]
pub(super) enum InForce {
    /// What stands in the store.
    #[default]
    Newest,
    /// What this commit wrote, whatever stands there.
    Still(Bytes),
    /// It says nothing at all.
    Untold,
}

/// What the scheduler says, and how often it was asked.
#[derive(Debug, Default)]
struct Asked {
    in_force: InForce,
    times: u32,
}

/// The stand-in. All clones are the same one.
#[derive(Clone)]
pub(super) struct Around {
    bus: NatsBus,
    store: Store,
    held: Arc<Mutex<Held>>,
    asked: Arc<Mutex<Asked>>,
}

impl Around {
    pub(super) async fn start(bus: &NatsBus, store: &Store, subjects: &[&'static str]) -> Self {
        let around = Self { bus: bus.clone(), store: store.clone(), held: Arc::default(), asked: Arc::default() };
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

    /// From now on the scheduler says this, and counts anew how often it is asked.
    pub(super) fn say(&self, in_force: InForce) {
        *self.asked.lock().expect("not poisoned") = Asked { in_force, times: 0 };
    }

    /// How often the scheduler was asked since it says what it says.
    pub(super) fn times_asked(&self) -> u32 {
        self.asked.lock().expect("not poisoned").times
    }

    /// The commit that wrote the topics as they stand, as a scheduler tells it.
    pub(super) async fn topics_commit(&self) -> Bytes {
        let stored = self.store.read(vec![keys::TOPICS.to_owned()]).await.expect("read").remove(0);
        stored.map(|stored| Bytes::copy_from_slice(&stored.commit.0)).unwrap_or_default()
    }

    async fn answer(&self, message: Message) {
        let payload = message.payload.clone();
        let reply = match message.subject.as_str() {
            subjects::KERNEL_PUBLISH => self.publish(PublishBundleRequest::decode(payload).expect("ours")).encode_to_vec(),
            subjects::ENGINE_DEFINE => self.define(DefineRequest::decode(payload).expect("ours")).encode_to_vec(),
            subjects::ENGINE_REMOVE => self.remove(&RemoveRequest::decode(payload).expect("ours")).encode_to_vec(),
            subjects::SCHEDULER_WORKERS => match self.status().await {
                Some(reply) => reply.encode_to_vec(),
                None => return,
            },
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

    async fn status(&self) -> Option<WorkersReply> {
        let in_force = {
            let mut asked = self.asked.lock().expect("not poisoned");
            asked.times += 1;
            asked.in_force.clone()
        };
        let topics_commit = match in_force {
            InForce::Newest => self.topics_commit().await,
            InForce::Still(commit) => commit,
            InForce::Untold => return None,
        };
        let scheduler = SchedulerStatus { topics_commit, ..SchedulerStatus::default() };
        Some(WorkersReply { scheduler: Some(scheduler), ..WorkersReply::default() })
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
