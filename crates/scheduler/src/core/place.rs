//! Placement: a problem goes in, a plan comes out.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::busbar::{TopicDocument, WorkerKind};
use busbar_protocol::ids::JobId;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use super::queue::{Class, Queue, Waiting};
use super::workers::{Worker, Workers};

/// What a native worker can do that runs any topic with a module, whatever topics it announces.
const RUNS_MODULES: &str = "wasm";
/// The most attempts in flight through one topic's queue group, where its document says nothing.
pub const QUEUE_IN_FLIGHT_DEFAULT: u32 = 16;

/// What placement reads.
pub struct Problem<'a> {
    /// Who waits.
    pub queue: &'a Queue,
    /// Who could serve.
    pub workers: &'a Workers,
    /// The topic documents, by topic.
    pub topic: &'a dyn Fn(&str) -> Option<&'a TopicDocument>,
    /// Attempts in flight through queue groups, by topic.
    pub queued_out: &'a BTreeMap<String, BTreeSet<JobId>>,
    /// Topics whose queue group had nobody lately, and until when they rest.
    pub resting: &'a BTreeMap<String, Timestamp>,
    /// The present.
    pub now: Timestamp,
    /// The most placements of one plan.
    pub limit: usize,
}

/// One job and who gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The job.
    pub job: JobId,
    /// The worker; empty for the topic's queue group.
    pub worker_id: String,
    /// What kind of worker.
    pub kind: WorkerKind,
    /// The start of its process.
    pub incarnation: String,
}

/// Makes a plan: by priority, then first come, first served; each job to the least loaded worker that may have it, and never
/// more to a worker than it takes.
#[must_use]
pub fn plan(problem: &Problem<'_>) -> Vec<Placement> {
    let mut rooms = Rooms::new(problem);
    let mut placements = Vec::new();
    for (_, classes) in problem.queue.ranks() {
        let mut heads: BTreeMap<Waiting, (&Class, std::collections::btree_set::Iter<'_, Waiting>)> = BTreeMap::new();
        for (class, jobs) in classes {
            let mut jobs = jobs.iter();
            if let Some(head) = jobs.next() {
                heads.insert(head.clone(), (class, jobs));
            }
        }
        while let Some((head, (class, mut rest))) = heads.pop_first() {
            if placements.len() >= problem.limit {
                return placements;
            }
            // A class that has no worker now has none for its other jobs either.
            let Some(place) = rooms.find(problem, class, &head.1) else { continue };
            placements.push(place);
            if let Some(next) = rest.next() {
                heads.insert(next.clone(), (class, rest));
            }
        }
    }
    placements
}

/// The room that is left while a plan is made.
struct Rooms<'a> {
    workers: Vec<Room<'a>>,
    queued: BTreeMap<String, u32>,
}

struct Room<'a> {
    id: &'a String,
    worker: &'a Worker,
    taken: u32,
}

impl<'a> Rooms<'a> {
    fn new(problem: &Problem<'a>) -> Self {
        let workers = problem
            .workers
            .iter()
            .filter(|(_, worker)| !worker.lost && !worker.draining)
            .map(|(id, worker)| Room { id, worker, taken: u32::try_from(worker.out.len()).unwrap_or(u32::MAX) })
            .collect();
        let queued =
            problem.queued_out.iter().map(|(topic, jobs)| (topic.clone(), u32::try_from(jobs.len()).unwrap_or(u32::MAX)));
        Self { workers, queued: queued.collect() }
    }

    fn find(&mut self, problem: &Problem<'_>, class: &Class, job: &JobId) -> Option<Placement> {
        let document = (problem.topic)(&class.topic)?;
        if document.queue_only {
            return self.queue_group(problem, document, class, job);
        }
        let mut served = false;
        let mut best: Option<&mut Room<'a>> = None;
        for room in &mut self.workers {
            if !fits(room.worker, room.id, document, class) {
                continue;
            }
            served = true;
            if room.taken < room.worker.capacity && best.as_ref().is_none_or(|b| room.is_better(b, class)) {
                best = Some(room);
            }
        }
        match best {
            Some(room) => {
                room.taken += 1;
                Some(Placement {
                    job: job.clone(),
                    worker_id: room.id.clone(),
                    kind: room.worker.kind,
                    incarnation: room.worker.incarnation.clone(),
                })
            }
            // Workers that never announce themselves can still be there, but only where nobody known serves the topic, and
            // never for modules, which need a native worker.
            None if !served && document.module.is_empty() && class.requires.is_empty() && class.labels.is_empty() => {
                self.queue_group(problem, document, class, job)
            }
            None => None,
        }
    }

    fn queue_group(&mut self, problem: &Problem<'_>, document: &TopicDocument, class: &Class, job: &JobId) -> Option<Placement> {
        if problem.resting.get(&class.topic).is_some_and(|until| *until > problem.now) {
            return None;
        }
        let most = if document.queue_in_flight_max == 0 { QUEUE_IN_FLIGHT_DEFAULT } else { document.queue_in_flight_max };
        let taken = self.queued.entry(class.topic.clone()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Placement { job: job.clone(), worker_id: String::new(), kind: WorkerKind::Silent, incarnation: String::new() })
    }
}

impl Room<'_> {
    /// Preferred worker first, then the smaller share of slots taken, then the smaller reported load, then the name.
    fn is_better(&self, other: &Self, class: &Class) -> bool {
        let preferred = |room: &Self| class.worker.as_deref() == Some(room.id.as_str());
        if preferred(self) != preferred(other) {
            return preferred(self);
        }
        let mine = u64::from(self.taken) * u64::from(other.worker.capacity.max(1));
        let theirs = u64::from(other.taken) * u64::from(self.worker.capacity.max(1));
        let load = |room: &Self| room.worker.cpu_load + room.worker.memory_load;
        mine.cmp(&theirs).then(load(self).total_cmp(&load(other))).is_lt()
    }
}

/// Whether a worker may have a job of this class, room or not.
fn fits(worker: &Worker, id: &str, document: &TopicDocument, class: &Class) -> bool {
    let pool_ok = match (&class.pool, worker.pool.as_str()) {
        (Some(wanted), own) => wanted == own && document.pools.iter().any(|pool| pool == own),
        (None, "") => worker.kind == WorkerKind::Announced && !worker.topics.is_empty(),
        (None, own) => document.pools.iter().any(|pool| pool == own),
    };
    let topic_ok = match worker.kind {
        WorkerKind::Native => {
            let runs_module = !document.module.is_empty() && worker.capabilities.contains(RUNS_MODULES);
            runs_module || worker.topics.is_empty() || worker.patterns.iter().any(|p| p.matches(&class.topic))
        }
        // On its direct subject an announced worker looks its handler up by the exact topic.
        WorkerKind::Announced => {
            document.module.is_empty() && worker.topics.contains(&class.topic) && subjects::is_addressable(id)
        }
        WorkerKind::Silent | WorkerKind::Unspecified => false,
    };
    pool_ok
        && topic_ok
        && class.requires.iter().all(|wanted| worker.capabilities.contains(wanted))
        && class.labels.iter().all(|(name, value)| worker.labels.get(name) == Some(value))
}
