//! Which worker gets a job: the least loaded of those that may have it and have room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use busbar_protocol::busbar::{TopicDocument, WorkerKind, WorkerVerdict};
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use super::holds::Holds;
use super::line::Class;
use super::trust::Bindings;
use super::workers::{Worker, Workers};

/// What a native worker can do that runs any topic with a module, whatever topics it announces.
const RUNS_MODULES: &str = "wasm";
/// The most attempts in flight through one topic's queue group, where its document says nothing.
pub const QUEUE_IN_FLIGHT_DEFAULT: u32 = 16;
/// Labels that also mean what a worker says of itself beside its labels.
const REGION: &str = "region";
const TYPE: &str = "type";

/// Who gets a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The worker; empty for the topic's queue group.
    pub worker_id: String,
    /// What kind of worker.
    pub kind: WorkerKind,
    /// The start of its process.
    pub incarnation: String,
}

/// What the queue group of a topic has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRoom {
    /// Attempts in flight through it.
    pub out: u32,
    /// Nobody was there lately, so it is not tried now.
    pub rests: bool,
    /// It is only for topics that a worker serves which has proved who it is: what others say would not count.
    pub proven_only: bool,
}

/// The room that workers have, while placements are made.
#[derive(Debug)]
pub struct Rooms<'a> {
    workers: Vec<Room<'a>>,
    by_class: BTreeMap<Arc<Class>, Candidates>,
}

#[derive(Debug)]
struct Room<'a> {
    id: &'a str,
    worker: &'a Worker,
    /// The tenant whose jobs alone it gets.
    tenant: Option<&'a str>,
    /// It neither drains nor is blocked.
    stays: bool,
    /// It is given something now: it stays, and was heard when it should have been.
    takes: bool,
    taken: u32,
}

/// Rooms by load, as it was when they were put here; the smallest comes first.
type Loads = BinaryHeap<Reverse<(Load, usize)>>;

/// The workers that may have jobs of a class.
#[derive(Debug, Default)]
struct Candidates {
    /// Somebody known serves the topic, with room or not.
    served: bool,
    /// Somebody who announced itself listens in the topic's queue group.
    in_group: bool,
    /// Somebody is there whom the class does not avoid.
    elsewhere: bool,
    /// Those that have a free slot.
    heap: Loads,
    /// Those that take attempts in advance.
    ahead: Loads,
}

/// How loaded a worker is: the share of its slots that is taken, then what it says of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    share: u64,
    reported: u32,
}

impl<'a> Rooms<'a> {
    /// The room that there is now.
    #[must_use]
    pub fn new(workers: &'a Workers, bindings: &'a Bindings, holds: &Holds, now: Timestamp) -> Self {
        let workers = workers
            .iter()
            .filter(|(_, worker)| !worker.lost)
            .map(|(id, worker)| {
                let taken = u32::try_from(worker.out.len()).unwrap_or(u32::MAX);
                let stays = stays((id, worker), holds, now);
                let tenant = bindings.get(id).map(String::as_str);
                Room { id, worker, tenant, stays, takes: stays && worker.is_fresh(now), taken }
            })
            .collect();
        Self { workers, by_class: BTreeMap::new() }
    }

    /// Finds room for a job of a class, and takes it. `short` says that its attempts are known to be short, so that it may wait
    /// inside a worker.
    pub fn find(&mut self, class: &Arc<Class>, document: &TopicDocument, group: GroupRoom, short: bool) -> Option<Placement> {
        if !self.by_class.contains_key(class) {
            let candidates = Candidates::new(&self.workers, class, document);
            self.by_class.insert(Arc::clone(class), candidates);
        }
        let candidates = self.by_class.get_mut(class)?;
        let group = group.place(document).filter(|_| candidates.in_group || !group.proven_only);
        // Who of a queue group gets it is not ours to say.
        let group = group.filter(|_| class.excluded.is_empty() && !class.known_only);
        if document.queue_only {
            return group;
        }
        let preferred = class.worker.as_deref().and_then(|wanted| {
            let avoided = candidates.elsewhere && class.avoided.contains(wanted);
            let fits = |(_, room): &(usize, &Room<'_>)| {
                room.id == wanted && !avoided && fits((room.id, room.worker, room.tenant), document, class).is_ok()
            };
            self.workers.iter().enumerate().find(fits).filter(|(_, room)| room.has_slot()).map(|(index, _)| index)
        });
        let free = preferred.or_else(|| pop(&mut candidates.heap, &self.workers, |room| room.has_slot()));
        let index = match free {
            Some(index) => Some(index),
            None if short => pop(&mut candidates.ahead, &self.workers, |room| room.has_prefetch()),
            None => None,
        };
        if let Some(index) = index {
            let room = &mut self.workers[index];
            room.taken += 1;
            if room.has_slot() {
                candidates.heap.push(Reverse((room.load(), index)));
            } else if room.has_prefetch() {
                candidates.ahead.push(Reverse((room.load(), index)));
            }
            return Some(Placement {
                worker_id: room.id.to_owned(),
                kind: room.worker.kind,
                incarnation: room.worker.incarnation.clone(),
            });
        }
        // Workers that never announce themselves can still be there, but only where nobody known serves the topic, and never for
        // modules, which need a native worker.
        let anybody = !candidates.served && document.module.is_empty() && class.requires.is_empty() && class.labels.is_empty();
        if anybody { group } else { None }
    }
}

impl GroupRoom {
    /// A place in the queue group of a topic, as long as no more is out than its document allows.
    fn place(self, document: &TopicDocument) -> Option<Placement> {
        let most = if document.queue_in_flight_max == 0 { QUEUE_IN_FLIGHT_DEFAULT } else { document.queue_in_flight_max };
        let room = !self.rests && self.out < most;
        room.then(|| Placement { worker_id: String::new(), kind: WorkerKind::Silent, incarnation: String::new() })
    }
}

/// The least loaded candidate that has room. What other classes took meanwhile shows when a candidate comes up.
fn pop(heap: &mut Loads, rooms: &[Room<'_>], has_room: impl Fn(&Room<'_>) -> bool) -> Option<usize> {
    while let Some(Reverse((load, index))) = heap.pop() {
        let room = &rooms[index];
        if !has_room(room) {
            continue;
        }
        let now = room.load();
        if now == load {
            return Some(index);
        }
        heap.push(Reverse((now, index)));
    }
    None
}

impl Candidates {
    fn new(rooms: &[Room<'_>], class: &Class, document: &TopicDocument) -> Self {
        let may_have = |room: &Room<'_>| fits((room.id, room.worker, room.tenant), document, class).is_ok();
        let other = |room: &Room<'_>| room.stays && !class.avoided.contains(room.id) && may_have(room);
        let elsewhere = !class.avoided.is_empty() && rooms.iter().any(other);
        let mut candidates = Self { elsewhere, ..Self::default() };
        for (index, room) in rooms.iter().enumerate() {
            // Whose topics are unknown may serve any.
            let topics = &room.worker.topics;
            let may_serve = topics.is_empty() || topics.contains(&class.topic);
            candidates.in_group |= room.worker.kind == WorkerKind::Announced && may_serve && room.tenant.is_none();
            if !may_have(room) {
                continue;
            }
            candidates.served = true;
            if elsewhere && class.avoided.contains(room.id) {
                continue;
            }
            if room.has_slot() {
                candidates.heap.push(Reverse((room.load(), index)));
            }
            if room.has_prefetch() {
                candidates.ahead.push(Reverse((room.load(), index)));
            }
        }
        candidates
    }
}

impl Room<'_> {
    const fn has_slot(&self) -> bool {
        self.takes && self.taken < self.worker.capacity
    }

    const fn has_prefetch(&self) -> bool {
        self.takes && self.taken < self.worker.capacity.saturating_add(self.worker.prefetch)
    }

    fn load(&self) -> Load {
        let percent = (self.worker.cpu_load + self.worker.memory_load).clamp(0.0, 200.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 200,000")]
        let reported = (percent * 1_000.0) as u32;
        Load { share: (u64::from(self.taken) << 32) / u64::from(self.worker.capacity.max(1)), reported }
    }
}

/// Why a worker may not have a job of a class, whatever room it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// One word: `excluded`, `tenant`, `pool`, `topic`, `requires`, `region`, `type` or `label`.
    pub why: &'static str,
    /// In a few more.
    pub detail: String,
}

/// Whether a worker, by its id and the tenant that it is bound to, may have a job of this class, room or not.
///
/// # Errors
/// [`Unfit`] says why not.
pub fn fits((id, worker, tenant): (&str, &Worker, Option<&str>), document: &TopicDocument, class: &Class) -> Result<(), Unfit> {
    let unfit = |why, detail: String| Err(Unfit { why, detail });
    if class.excluded.contains(id) {
        return unfit("excluded", "the job must not go there".to_owned());
    }
    if let Some(tenant) = tenant.filter(|tenant| class.tenant.as_deref() != Some(tenant)) {
        return unfit("tenant", format!("it is bound to tenant {tenant}"));
    }
    let in_pools = |pool: &str| document.pools.iter().any(|own| own == pool);
    let pool_ok = match (&class.pool, worker.pool.as_str()) {
        (Some(wanted), own) => wanted == own && in_pools(own),
        (None, "") => worker.kind == WorkerKind::Announced && !worker.topics.is_empty(),
        (None, own) => in_pools(own),
    };
    if !pool_ok {
        return unfit("pool", format!("it is in pool {:?}", worker.pool));
    }
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
    if !topic_ok || worker.shared {
        return unfit(
            "topic",
            if worker.shared { "its id is shared".to_owned() } else { "it does not serve the topic".to_owned() },
        );
    }
    if let Some(missing) = class.requires.iter().find(|wanted| !worker.capabilities.contains(*wanted)) {
        return unfit("requires", format!("it lacks {missing}"));
    }
    for (name, wanted) in &class.labels {
        let (why, own) = match (name.as_str(), worker.labels.get(name)) {
            (REGION, None) => ("region", Some(&worker.region)),
            (TYPE, None) => ("type", Some(&worker.worker_type)),
            (_, own) => ("label", own),
        };
        if own != Some(wanted) {
            return unfit(why, format!("{name} is {:?}, not {wanted:?}", own.map_or("", String::as_str)));
        }
    }
    Ok(())
}

/// Whether a worker neither drains nor is blocked.
fn stays((id, worker): (&str, &Worker), holds: &Holds, now: Timestamp) -> bool {
    !worker.draining && holds.drain_of(id).is_none() && holds.worker(id, now).is_none() && holds.pool(&worker.pool, now).is_none()
}

/// What keeps each worker from taking a job of a class now; the most promising come first.
#[must_use]
pub fn verdicts(
    (workers, bindings): (&Workers, &Bindings),
    holds: &Holds,
    class: &Class,
    document: &TopicDocument,
    now: Timestamp,
) -> Vec<WorkerVerdict> {
    let tenant_of = |id: &str| bindings.get(id).map(String::as_str);
    let other = |id: &str, worker: &Worker| {
        let there = !worker.lost && stays((id, worker), holds, now);
        there && !class.avoided.contains(id) && fits((id, worker, tenant_of(id)), document, class).is_ok()
    };
    let elsewhere = !class.avoided.is_empty() && workers.iter().any(|(id, worker)| other(id, worker));
    let mut all: Vec<(u8, WorkerVerdict)> = workers
        .iter()
        .map(|(id, worker)| {
            let (order, verdict, detail) = match verdict((id, worker, tenant_of(id)), holds, class, document, now) {
                (0, _, _) if elsewhere && class.avoided.contains(id) => {
                    (1, "avoided", "the job goes elsewhere as long as another worker that may have it is there".to_owned())
                }
                verdict => verdict,
            };
            (order, WorkerVerdict { worker_id: id.clone(), verdict: verdict.to_owned(), detail })
        })
        .collect();
    all.sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| a.worker_id.cmp(&b.worker_id)));
    all.into_iter().map(|(_, verdict)| verdict).collect()
}

fn verdict(
    (id, worker, tenant): (&str, &Worker, Option<&str>),
    holds: &Holds,
    class: &Class,
    document: &TopicDocument,
    now: Timestamp,
) -> (u8, &'static str, String) {
    if let Err(unfit) = fits((id, worker, tenant), document, class) {
        return (3, unfit.why, unfit.detail);
    }
    if worker.lost {
        return (2, "lost", "it was not heard any more".to_owned());
    }
    if !worker.is_fresh(now) {
        let seconds = now.since(worker.seen).as_secs();
        return (2, "silent", format!("it was last heard {seconds} s ago, and does not listen or should have been heard since"));
    }
    if let Some(pause) = holds.worker(id, now).or_else(|| holds.pool(&worker.pool, now)) {
        return (1, "blocked", pause.reason.clone());
    }
    if worker.draining || holds.drain_of(id).is_some() {
        return (1, "draining", holds.drain_of(id).map_or_else(String::new, |drain| drain.reason.clone()));
    }
    let (taken, capacity) = (worker.out.len(), worker.capacity);
    if taken >= usize::try_from(capacity).unwrap_or(usize::MAX) {
        return (0, "full", format!("{taken} of {capacity} slots are taken"));
    }
    (0, "free", format!("{taken} of {capacity} slots are taken"))
}
