//! Jobs that belong to another job, and end with it when it is cancelled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use super::super::job::{Job, Outcome};
use super::super::transition::Event;
use super::Cell;
use super::replicating::parent_of;

/// How many children are cancelled in one turn: the rest follow in the next ones, and everybody else goes on.
const CANCELLED_AT_ONCE: usize = 512;
/// How long a cancellation is remembered for children that are on their way.
const REMEMBERED: Duration = Duration::from_secs(120);
/// The most cancellations that are remembered.
const REMEMBERED_MAX: usize = 200_000;

/// Who belongs to whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Family {
    /// Live jobs by the job that they belong to.
    children: BTreeMap<String, BTreeSet<JobId>>,
    /// Jobs whose children are being cancelled, since they were, or need no replicas any more.
    ending: VecDeque<String>,
    /// Jobs that were cancelled lately, and when.
    cancelled: BTreeMap<String, Timestamp>,
}

impl Family {
    /// Whether there is somebody to cancel.
    pub(super) fn has_work(&self) -> bool {
        !self.ending.is_empty()
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.cancelled.retain(|_, at| now.since(*at) < REMEMBERED);
    }
}

impl Cell {
    /// Whether a job was cancelled, as far as is known here: it is live and is being cancelled, or that was lately.
    #[must_use]
    pub fn is_cancelled(&self, parent: &str) -> bool {
        let wanted = JobId::parse(parent.to_owned()).ok().and_then(|id| self.job(&id)).is_some_and(|job| job.cancel.is_some());
        wanted || self.family.cancelled.contains_key(parent)
    }

    /// A job that is not live here was cancelled, or its replicas have spoken: its children end, too.
    pub fn parent_has_ended(&mut self, parent: &str) {
        if self.family.children.contains_key(parent) {
            self.family.ending.push_back(parent.to_owned());
        }
    }

    /// The jobs that live ones belong to and that are not live themselves.
    #[must_use]
    pub fn absent_parents(&self) -> Vec<String> {
        let is_live = |parent: &String| JobId::parse(parent.clone()).is_ok_and(|id| self.is_live(&id));
        self.family.children.keys().filter(|parent| !is_live(parent)).cloned().collect()
    }

    /// A job has come into the cell.
    pub(super) fn join_family(&mut self, job: &Job, now: Timestamp) {
        let parent = &job.parent_job_id;
        if !parent.is_empty() {
            self.family.children.entry(parent.clone()).or_default().insert(job.id.clone());
            // Where its parent's replicas have spoken before it was read, nobody needs it any more, and nothing else says so: the parent
            // is live here until its end is durable.
            let useless = || parent_of(job).and_then(|parent| self.job(&parent)).is_some_and(|parent| parent.end().is_some());
            if self.is_cancelled(parent) || useless() {
                self.family.ending.push_back(parent.clone());
            }
        }
        if job.cancel.is_some() {
            self.remember_cancelled(&job.id, now);
        }
    }

    /// A job has left the cell.
    pub(super) fn leave_family(&mut self, job: &Job) {
        if let Some(children) = self.family.children.get_mut(&job.parent_job_id) {
            children.remove(&job.id);
            if children.is_empty() {
                self.family.children.remove(&job.parent_job_id);
            }
        }
    }

    /// A job has changed: if it is being cancelled from now on, its children are too.
    pub(super) fn follow_cancellation(&mut self, id: &JobId, before: &Job, now: Timestamp) {
        let Some(job) = self.job(id) else { return };
        let wished = job.cancel.is_some() && before.cancel.is_none();
        let ended = job.end().is_some_and(|end| end.outcome == Outcome::Cancelled);
        if wished || ended {
            self.remember_cancelled(id, now);
        }
    }

    /// The children of a job that are in memory.
    pub(super) fn children_of(&self, id: &JobId) -> impl Iterator<Item = &Job> {
        self.family.children.get(id.as_str()).into_iter().flatten().filter_map(|child| self.job(child))
    }

    fn remember_cancelled(&mut self, id: &JobId, now: Timestamp) {
        if self.family.cancelled.len() < REMEMBERED_MAX {
            self.family.cancelled.insert(id.to_string(), now);
        }
        self.parent_has_ended(id.as_str());
    }

    /// Cancels some of those whose parents were cancelled, or need them no longer.
    pub(super) fn cancel_children(&mut self, now: Timestamp) {
        let mut left = CANCELLED_AT_ONCE;
        while let Some(parent) = self.family.ending.front().cloned() {
            let children = self.family.children.get(&parent).into_iter().flatten();
            let open = children.filter(|id| self.job(id).is_some_and(|job| job.cancel.is_none() && job.end().is_none()));
            let some: Vec<JobId> = open.take(left).cloned().collect();
            left -= some.len();
            let event = Event::CancelAsked {
                attempt: 0,
                reason: format!("the job {parent} that it belongs to has ended"),
                requested_by: subjects::SCHEDULER_SENDER.to_owned(),
                code: Code::Cancelled,
            };
            for id in &some {
                let _ = self.apply(id, &event, now);
            }
            if left == 0 {
                return;
            }
            self.family.ending.pop_front();
        }
    }
}
