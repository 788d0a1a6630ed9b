//! Who goes next: lines, gates, and what opens a gate again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::TopicDocument;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::super::flow::{Charge, KeyName, Wait, Whose};
use super::super::line::{Class, Spot};
use super::super::place::{GroupRoom, Placement, Rooms};
use super::super::queue::Turn;
use super::super::roll::Listed;
use super::super::timeline::Gate;
use super::super::transition::Event;
use super::{Cell, Entry};

/// How long a topic rests whose queue group had nobody.
pub(super) const REST: Duration = Duration::from_secs(2);
/// What an attempt is expected to take while that is not known, in milliseconds.
const COST_MS_DEFAULT: u64 = 100;
/// The longest that one attempt moves its tenant's clock: an hour's work must not lock a tenant out for an hour.
const COST_MS_MAX: u64 = 60_000;

/// A gate that opens by itself at a known time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The topic has a token.
    Topic(Arc<str>),
    /// The tenant has a token.
    Tenant(Arc<str>),
    /// The key has a token.
    Key(KeyName),
    /// The topic's queue group may be tried again.
    Rested(Arc<str>),
    /// A pause may be over.
    Pause,
}

impl Cell {
    /// Places what can be placed, up to `limit` jobs.
    pub fn place(&mut self, limit: usize, now: Timestamp) -> usize {
        self.fresh = false;
        self.settle_charges(now);
        if self.queue.is_empty() || !self.queue.may_go() {
            return 0;
        }
        let placed = self.choose(limit, now);
        let count = placed.len();
        self.fresh = count >= limit;
        for (id, charge, placement) in placed {
            self.go(&id, &charge, placement, now);
        }
        self.judge_replicas(now);
        count
    }

    /// A job goes where room was found for it.
    fn go(&mut self, id: &JobId, charge: &Charge, placement: Placement, now: Timestamp) {
        let Some(Entry { job, .. }) = self.jobs.get(id) else { return };
        if job.is_replicated() {
            if !self.replicate(id, now) {
                self.flow.release_key(charge);
            }
            // The room that was found for it is there for its replicas, which are as likely to wait for it as anybody.
            self.queue.room_came();
            return;
        }
        let Placement { worker_id, kind, incarnation } = placement;
        // Two replicas may be next at the same time, and only one of them can go to one owner's workers.
        if self.is_taken(job, &worker_id) {
            self.give_back(charge);
            self.sort_part(id, now);
        } else if self.apply(id, &Event::Placed { worker_id, kind, incarnation }, now).is_err() {
            self.give_back(charge);
        }
    }

    /// Takes jobs out of their lines, each with the worker that it goes to.
    fn choose(&mut self, limit: usize, now: Timestamp) -> Vec<(JobId, Charge, Placement)> {
        let Self { queue, flow, holds, workers, topics, roll, jobs, queued_out, resting, alarms, settings, bindings, .. } = self;
        let mut more_groups = self.replication.room();
        let mut rooms = Rooms::new(workers, bindings, holds, now);
        let mut in_group: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        let mut placed = Vec::new();
        while placed.len() < limit {
            let next = queue.next(now, |spot| {
                let Some(Listed::Whole(id)) = roll.at(spot.seat) else { return Turn::Aside };
                let Some(entry) = jobs.get(id) else { return Turn::Aside };
                let charge = &entry.charge;
                let Some(document) = topics.resolve(&spot.line.class.topic) else { return Turn::ClassWaits(Gate::Worker) };
                if holds.topic(&charge.topic, now).or_else(|| holds.pools(pools(&spot.line.class, document), now)).is_some() {
                    return Turn::ClassWaits(Gate::Pause);
                }
                if holds.tenant(&charge.tenant, now).is_some() {
                    flow.tenant_stands_at(&charge.tenant, Some(Gate::Pause), now);
                    return Turn::TenantWaits;
                }
                let key_paused = charge.key_name().filter(|name| holds.key(name, now).is_some());
                if let Some(name) = key_paused {
                    flow.step_aside(name, entry.of_key(), now);
                    return Turn::Aside;
                }
                if let Err(Wait { gate, whose, opens }) = flow.may_start(charge, Some(document), now) {
                    let (turn, alarm) = match (whose, charge.key_name()) {
                        (Whose::Topic, _) => (Turn::ClassWaits(gate), Alarm::Topic(Arc::clone(&charge.topic))),
                        (Whose::Key, Some(name)) => {
                            flow.step_aside(name.clone(), entry.of_key(), now);
                            (Turn::Aside, Alarm::Key(name))
                        }
                        (Whose::Tenant | Whose::Key, _) => {
                            flow.tenant_stands_at(&charge.tenant, Some(gate), now);
                            (Turn::TenantWaits, Alarm::Tenant(Arc::clone(&charge.tenant)))
                        }
                    };
                    alarms.extend(opens.map(|at| (at, alarm)));
                    return turn;
                }
                let out = queued_out.get(&charge.topic).map_or(0, |out| u32::try_from(out.len()).unwrap_or(u32::MAX));
                let group = GroupRoom {
                    out: out.saturating_add(in_group.get(&charge.topic).copied().unwrap_or(0)),
                    rests: resting.get(&charge.topic).is_some_and(|until| *until > now),
                    proven_only: settings.proven_only,
                };
                if entry.job.is_replicated() && more_groups == 0 {
                    return Turn::ClassWaits(Gate::Worker);
                }
                // What waits inside a worker reports nothing, and the clock of its reports runs from the dispatch.
                let in_advance = flow.is_short(&charge.topic) && entry.job.plan.heartbeat_timeout_ms == 0;
                let Some(to) = rooms.find(&spot.line.class, document, group, in_advance) else {
                    return Turn::ClassWaits(Gate::Worker);
                };
                if to.worker_id.is_empty() {
                    *in_group.entry(Arc::clone(&charge.topic)).or_default() += 1;
                }
                // The attempts of a job with replicas are theirs.
                if entry.job.is_replicated() {
                    more_groups -= 1;
                    flow.start_key(charge, Some(document), now);
                } else {
                    flow.start(charge, Some(document), now);
                }
                flow.tenant_stands_at(&charge.tenant, None, now);
                let cost_ms = flow.duration_ms(&charge.topic).unwrap_or(COST_MS_DEFAULT).min(COST_MS_MAX);
                Turn::Goes { to: (id.clone(), charge.clone(), to), cost_ms, weight: flow.bounds().weight(&charge.tenant) }
            });
            let Some((_, went)) = next else { break };
            placed.push(went);
        }
        placed
    }

    /// Takes back what workers have let go of, and opens the gates that waited for it.
    fn settle_charges(&mut self, now: Timestamp) {
        for charge in self.workers.take_released() {
            self.give_back(&charge);
        }
        if self.workers.take_room_came() {
            self.queue.room_came();
        }
        self.ring(now);
    }

    /// An attempt is out no longer.
    pub(super) fn give_back(&mut self, charge: &Charge) {
        self.flow.release(charge);
        let document = self.topics.resolve(&charge.topic);
        if self.flow.bounds().topic(&charge.topic, document).flow.concurrency_max > 0 {
            self.queue.open_topic(&charge.topic);
        }
        if self.flow.bounds().tenant(&charge.tenant).concurrency_max > 0 {
            self.queue.open_tenant(&charge.tenant);
        }
        if let Some(name) = charge.key_name() {
            self.alarms.insert((Timestamp::default(), Alarm::Key(name)));
        }
    }

    /// Everything may go again: what is in force has changed.
    pub(super) fn open_everything(&mut self) {
        self.queue.open_all();
        let keys: Vec<KeyName> = self.flow.keys_with_waiting().cloned().collect();
        self.alarms.extend(keys.into_iter().map(|name| (Timestamp::default(), Alarm::Key(name))));
        self.fresh = true;
    }

    /// Opens the gates whose time has come.
    pub(super) fn ring(&mut self, now: Timestamp) {
        while let Some((at, alarm)) = self.alarms.first().cloned().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, alarm.clone()));
            match alarm {
                Alarm::Topic(topic) => self.queue.open_topic(&topic),
                Alarm::Tenant(tenant) => self.queue.open_tenant(&tenant),
                Alarm::Key(name) => self.come_back(&name, now),
                Alarm::Rested(topic) => {
                    self.resting.remove(&topic);
                    self.queue.room_came();
                }
                Alarm::Pause => self.pauses_end(now),
            }
            self.fresh = true;
        }
    }

    /// The jobs of a key that stand aside line up again, as far as there is room.
    fn come_back(&mut self, name: &KeyName, now: Timestamp) {
        if self.holds.key(name, now).is_some() {
            return;
        }
        let document = self.topics.resolve(&name.topic);
        // Whoever lines up takes its room only when it goes: no more line up than there is room for.
        for _ in 0..self.flow.key_room(name, document) {
            let document = self.topics.resolve(&name.topic);
            match self.flow.come_back(name, document, now) {
                Ok(id) => self.line_up(&id),
                Err(opens) => {
                    self.alarms.extend(opens.map(|at| (at, Alarm::Key(name.clone()))));
                    return;
                }
            }
        }
    }

    /// A job that could run now joins its line, unless it stands aside.
    pub(super) fn line_up(&mut self, id: &JobId) {
        let Some(entry) = self.jobs.get(id) else { return };
        let spot = entry.spot();
        if entry.charge.key_name().is_some_and(|name| self.flow.is_aside(&name, &entry.of_key())) {
            return;
        }
        let market = market(&spot.line.class, self.topics.resolve(&spot.line.class.topic)).to_owned();
        self.queue.add(&spot, &market);
        self.fresh = true;
    }

    /// A job that cannot run now leaves its line.
    pub(super) fn leave_line(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let spot: Spot = entry.spot();
        if let Some(name) = entry.charge.key_name() {
            self.flow.leave(&name, &entry.of_key(), now);
            // It may have lined up for room that another one of its key can have now.
            if self.queue.has(&spot) {
                self.alarms.insert((Timestamp::default(), Alarm::Key(name)));
            }
        }
        self.queue.remove(&spot);
    }
}

/// The pools to which a class may go: the one that it asks for, or those of its topic.
pub(super) fn pools<'a>(class: &'a Class, document: &'a TopicDocument) -> impl Iterator<Item = &'a str> {
    let fits = |pool: &&'a String| class.pool.as_ref().is_none_or(|wanted| wanted == *pool);
    document.pools.iter().filter(fits).map(String::as_str)
}

/// The pool in which a class competes: the one that it asks for, or the first of its topic.
pub(super) fn market<'a>(class: &'a Class, document: Option<&'a TopicDocument>) -> &'a str {
    let Some(document) = document else { return "" };
    let wanted = class.pool.as_deref().filter(|wanted| document.pools.iter().any(|pool| pool == wanted));
    wanted.or(document.pools.first().map(String::as_str)).unwrap_or("")
}
