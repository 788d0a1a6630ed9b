//! Who waits for a worker, and who is next.
//!
//! Jobs that any worker could serve alike form a *class*. Inside a class the priorities come one after the other, inside a
//! priority the tenants take turns by their shares, and inside a tenant the first that came is the first that goes:
//!
//! ```text
//!  market (a pool) ─▶ class ─▶ rank ─▶ lane (a tenant) ─▶ jobs, the oldest first
//!     fair shares      topic, requirements, labels          CRITICAL, INTERACTIVE, BATCH
//! ```
//!
//! Nothing here looks at a job that cannot run: a class, a tenant's lane or a job that was refused stands aside until somebody
//! opens it again. So a placement costs the logarithm of what waits, however much it is.
//!
//! Shares follow start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant's clock in a market moves on by the time that its
//! attempt takes, divided by its weight; the smallest clock is next; whoever was away begins where the market is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::cap::JobPriority;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::timeline::{Gate, Timeline};

/// One placement of so many in a market goes to its oldest job, if that has waited longer than [`AGED`].
const AGED_EVERY: u64 = 8;
/// How long a job waits before its age counts more than its priority.
pub const AGED: Duration = Duration::from_secs(60);
/// A tenant's clock moves by this for each millisecond of work at weight 1.
const TICK: u64 = 1 << 16;
/// How many classes that found no worker are tried again in one turn.
const RETRIED_MAX: usize = 1_024;

/// What placement needs to know of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Its topic.
    pub topic: String,
    /// Capabilities that the worker must have.
    pub requires: BTreeSet<String>,
    /// Labels that the worker must carry.
    pub labels: BTreeMap<String, String>,
    /// The only pool that it may go to, if it named one.
    pub pool: Option<String>,
    /// The worker that it would rather go to.
    pub worker: Option<String>,
}

/// Which priority goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Before all others.
    Critical,
    /// The default.
    Interactive,
    /// When nothing else waits.
    Batch,
}

impl From<JobPriority> for Rank {
    fn from(priority: JobPriority) -> Self {
        match priority {
            JobPriority::Critical => Self::Critical,
            JobPriority::Interactive | JobPriority::Unspecified => Self::Interactive,
            JobPriority::Batch => Self::Batch,
        }
    }
}

/// A job in its lane: first come, first served.
pub type Waiting = (Timestamp, JobId);

/// Where a job waits.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its class.
    pub class: Arc<Class>,
    /// Its priority.
    pub rank: Rank,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// Since when it is in the cell, and its name.
    pub waiting: Waiting,
}

/// What was decided about a job that is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// It goes; its attempt is expected to take so many milliseconds of a share of this weight.
    Goes {
        /// Where to.
        to: T,
        /// Expected milliseconds.
        cost_ms: u64,
        /// The weight of its tenant.
        weight: u32,
    },
    /// Its whole class waits.
    ClassWaits(Gate),
    /// All jobs of its tenant wait.
    TenantWaits(Gate),
    /// It alone stands aside; whoever said so has taken it.
    Aside,
}

/// All jobs that could run now.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    classes: BTreeMap<Arc<Class>, ClassQueue>,
    markets: BTreeMap<Arc<str>, Market>,
    by_topic: BTreeMap<String, BTreeSet<Arc<Class>>>,
    /// Classes that found no worker, in the order in which they are tried again.
    no_worker: VecDeque<Arc<Class>>,
    /// How many of them have not been tried since there may be room.
    retries: usize,
    /// Lanes that wait because of their tenant.
    shut_lanes: BTreeMap<Arc<str>, BTreeSet<(Arc<Class>, Rank)>>,
    /// The market that was served last.
    served: Option<Arc<str>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct ClassQueue {
    market: Arc<str>,
    ranks: BTreeMap<Rank, Ranked>,
    shut: Option<Gate>,
    /// It stands in the row of those that found no worker.
    in_row: bool,
    /// How it is listed in its market.
    listed: Option<Listing>,
    timeline: Timeline,
    len: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listing {
    best: (Rank, u64, Timestamp),
    oldest: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct Ranked {
    lanes: BTreeMap<Arc<str>, Lane>,
    /// Open lanes by their tenant's clock, as it was when they were listed, and then by their oldest job.
    by_clock: BTreeSet<(u64, Timestamp, Arc<str>)>,
    /// Open lanes by their oldest job.
    by_age: BTreeSet<(Timestamp, Arc<str>)>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    jobs: BTreeSet<Waiting>,
    listed: Option<(u64, Timestamp)>,
}

#[derive(Clone, Debug, Default)]
struct Market {
    /// Where the market is: the clock of the tenant that was served last.
    now: u64,
    clocks: BTreeMap<Arc<str>, u64>,
    placed: u64,
    by_rank: BTreeSet<(Rank, u64, Timestamp, Arc<Class>)>,
    by_age: BTreeSet<(Timestamp, Arc<Class>)>,
}

impl Market {
    fn clock(&self, tenant: &str) -> u64 {
        self.clocks.get(tenant).copied().unwrap_or(0).max(self.now)
    }

    /// A tenant is served: the market is where it was, and it moves on.
    fn serve(&mut self, tenant: &Arc<str>, cost_ms: u64, weight: u32) {
        let clock = self.clock(tenant);
        self.now = self.now.max(clock);
        self.placed += 1;
        let step = cost_ms.max(1).saturating_mul(TICK) / u64::from(weight.max(1));
        self.clocks.insert(Arc::clone(tenant), clock.saturating_add(step.max(1)));
        // Who is not ahead of the market begins where it is anyway.
        if self.placed.is_multiple_of(1_024) {
            let now = self.now;
            self.clocks.retain(|_, clock| *clock > now);
        }
    }
}

impl Queue {
    /// Adds a job to the lane of its tenant. Adding it twice changes nothing. `market` is the pool in which its class asks for
    /// workers.
    pub fn add(&mut self, spot: &Spot, market: &str) {
        if !self.classes.contains_key(&spot.class) {
            self.open_class(&spot.class, market);
        }
        let Some(class) = self.classes.get_mut(&spot.class) else { return };
        let ranked = class.ranks.entry(spot.rank).or_default();
        let lane = ranked.lanes.entry(Arc::clone(&spot.tenant)).or_default();
        if lane.jobs.insert(spot.waiting.clone()) {
            class.len += 1;
            self.len += 1;
            self.relist(&spot.class, spot.rank, &spot.tenant);
        }
    }

    /// Takes a job out, if it is there.
    pub fn remove(&mut self, spot: &Spot) {
        let Some(class) = self.classes.get_mut(&spot.class) else { return };
        let Some(lane) = class.ranks.get_mut(&spot.rank).and_then(|ranked| ranked.lanes.get_mut(&spot.tenant)) else { return };
        if !lane.jobs.remove(&spot.waiting) {
            return;
        }
        class.len -= 1;
        self.len -= 1;
        self.relist(&spot.class, spot.rank, &spot.tenant);
    }

    /// Who is next: asks about one job after the other, until one goes or none is left that may.
    pub fn next<T>(&mut self, now: Timestamp, mut ask: impl FnMut(&Spot) -> Turn<T>) -> Option<(Spot, T)> {
        self.retry();
        let mut waiting: VecDeque<Arc<str>> = self.markets.keys().cloned().collect();
        if let Some(served) = &self.served {
            let place = waiting.iter().position(|name| name > served).unwrap_or(0);
            waiting.rotate_left(place);
        }
        while let Some(name) = waiting.pop_front() {
            while let Some(spot) = self.candidate(&name, now) {
                match ask(&spot) {
                    Turn::Goes { to, cost_ms, weight } => {
                        self.stand_class_at(&spot.class, None, now);
                        if let Some(market) = self.markets.get_mut(&name) {
                            market.serve(&spot.tenant, cost_ms, weight);
                        }
                        self.remove(&spot);
                        self.served = Some(name);
                        return Some((spot, to));
                    }
                    Turn::ClassWaits(gate) => self.shut_class(&spot.class, gate, now),
                    Turn::TenantWaits(_) => self.shut_lane(&spot),
                    Turn::Aside => self.remove(&spot),
                }
            }
        }
        None
    }

    /// The best job of a market; its oldest, when it is age's turn.
    fn candidate(&mut self, name: &Arc<str>, now: Timestamp) -> Option<Spot> {
        let market = self.markets.get(name)?;
        if market.placed % AGED_EVERY == AGED_EVERY - 1
            && let Some((oldest, class)) = market.by_age.first()
            && now.since(*oldest) > AGED
        {
            let class = Arc::clone(class);
            return self.oldest_of(&class);
        }
        loop {
            let market = self.markets.get(name)?;
            let (rank, _, _, class) = market.by_rank.first()?.clone();
            let ranked = self.classes.get(&class)?.ranks.get(&rank)?;
            let (clock, _, tenant) = ranked.by_clock.first()?.clone();
            // The tenant may have been served through another class since its lane was listed here.
            if market.clock(&tenant) != clock {
                self.relist(&class, rank, &tenant);
                continue;
            }
            let waiting = ranked.lanes.get(&tenant)?.jobs.first()?.clone();
            return Some(Spot { class, rank, tenant, waiting });
        }
    }

    fn oldest_of(&self, class: &Arc<Class>) -> Option<Spot> {
        let ranks = &self.classes.get(class)?.ranks;
        let (_, rank, tenant) =
            ranks.iter().filter_map(|(rank, ranked)| ranked.by_age.first().map(|(at, tenant)| (*at, *rank, tenant))).min()?;
        let waiting = ranks.get(&rank)?.lanes.get(tenant)?.jobs.first()?.clone();
        Some(Spot { class: Arc::clone(class), rank, tenant: Arc::clone(tenant), waiting })
    }

    /// There may be room with workers: classes that found none are tried again.
    pub fn room_came(&mut self) {
        self.retries = self.no_worker.len();
    }

    /// Something about a topic changed: its classes may go again, unless they wait for a worker.
    pub fn open_topic(&mut self, topic: &str) {
        for class in self.by_topic.get(topic).cloned().unwrap_or_default() {
            if self.classes.get(&class).is_some_and(|queue| queue.shut != Some(Gate::Worker)) {
                self.reopen(&class);
            }
        }
    }

    /// Something about a tenant changed: its lanes may go again.
    pub fn open_tenant(&mut self, tenant: &str) {
        let Some((tenant, lanes)) = self.shut_lanes.remove_entry(tenant) else { return };
        for (class, rank) in lanes {
            self.relist(&class, rank, &tenant);
        }
    }

    /// Everything may go again.
    pub fn open_all(&mut self) {
        let tenants: Vec<Arc<str>> = self.shut_lanes.keys().cloned().collect();
        tenants.iter().for_each(|tenant| self.open_tenant(tenant));
        let classes: Vec<Arc<Class>> = self.classes.keys().cloned().collect();
        classes.iter().for_each(|class| self.reopen(class));
    }

    /// Whether a look at the queue may find somebody.
    #[must_use]
    pub fn may_go(&self) -> bool {
        self.len > 0 && (self.retries > 0 || self.markets.values().any(|market| !market.by_rank.is_empty()))
    }

    /// The classes that have jobs: how many they are, and since when the first one is there.
    pub fn waiting(&self) -> impl Iterator<Item = (&Class, Timestamp, usize)> {
        self.classes.iter().filter_map(|(class, queue)| {
            let lanes = queue.ranks.values().flat_map(|ranked| ranked.lanes.values());
            let oldest = lanes.filter_map(|lane| lane.jobs.first()).map(|(at, _)| *at).min()?;
            Some((&**class, oldest, queue.len))
        })
    }

    /// Where the time of a class went.
    #[must_use]
    pub fn class_timeline(&self, class: &Class) -> Option<&Timeline> {
        self.classes.get(class).map(|queue| &queue.timeline)
    }

    /// How many jobs are before one in its lane, as far as `most`; and how many tenants take turns with its own.
    #[must_use]
    pub fn before(&self, spot: &Spot, most: usize) -> Option<(usize, usize)> {
        let ranked = self.classes.get(&spot.class)?.ranks.get(&spot.rank)?;
        let lane = ranked.lanes.get(&spot.tenant)?;
        Some((lane.jobs.range(..&spot.waiting).take(most).count(), ranked.lanes.len()))
    }

    /// How many jobs wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn open_class(&mut self, class: &Arc<Class>, market: &str) {
        let market: Arc<str> = match self.markets.get_key_value(market) {
            Some((name, _)) => Arc::clone(name),
            None => market.into(),
        };
        self.markets.entry(Arc::clone(&market)).or_default();
        self.by_topic.entry(class.topic.clone()).or_default().insert(Arc::clone(class));
        let queue = ClassQueue {
            market,
            ranks: BTreeMap::new(),
            shut: None,
            in_row: false,
            listed: None,
            timeline: Timeline::default(),
            len: 0,
        };
        self.classes.insert(Arc::clone(class), queue);
    }

    /// Forgets a class that has no jobs.
    fn close_class(&mut self, class: &Arc<Class>) {
        self.unlist(class);
        self.classes.remove(class);
        if let Some(of_topic) = self.by_topic.get_mut(&class.topic) {
            of_topic.remove(class);
            if of_topic.is_empty() {
                self.by_topic.remove(&class.topic);
            }
        }
    }

    /// Takes classes that found no worker, and for which there may be room now, back among those that may go.
    fn retry(&mut self) {
        for _ in 0..self.retries.min(RETRIED_MAX) {
            self.retries -= 1;
            let Some(class) = self.no_worker.pop_front() else {
                self.retries = 0;
                return;
            };
            if let Some(queue) = self.classes.get_mut(&class) {
                queue.in_row = false;
            }
            self.reopen(&class);
        }
    }

    fn reopen(&mut self, class: &Arc<Class>) {
        if let Some(queue) = self.classes.get_mut(class)
            && queue.shut.take().is_some()
        {
            self.list(class);
        }
    }

    fn shut_class(&mut self, class: &Arc<Class>, gate: Gate, now: Timestamp) {
        self.stand_class_at(class, Some(gate), now);
        self.unlist(class);
        if let Some(queue) = self.classes.get_mut(class) {
            queue.shut = Some(gate);
            if gate == Gate::Worker && !std::mem::replace(&mut queue.in_row, true) {
                self.no_worker.push_back(Arc::clone(class));
            }
        }
    }

    fn stand_class_at(&mut self, class: &Arc<Class>, gate: Option<Gate>, now: Timestamp) {
        if let Some(queue) = self.classes.get_mut(class) {
            queue.timeline.stand_at(gate, now);
        }
    }

    fn shut_lane(&mut self, spot: &Spot) {
        self.shut_lanes.entry(Arc::clone(&spot.tenant)).or_default().insert((Arc::clone(&spot.class), spot.rank));
        self.relist(&spot.class, spot.rank, &spot.tenant);
    }

    /// Brings the listing of a lane in step with its jobs, its tenant's clock and whether it is open.
    fn relist(&mut self, class_name: &Arc<Class>, rank: Rank, tenant: &Arc<str>) {
        let is_shut = self.shut_lanes.get(tenant).is_some_and(|lanes| lanes.contains(&(Arc::clone(class_name), rank)));
        let Some(class) = self.classes.get_mut(class_name) else { return };
        let clock = self.markets.get(&class.market).map_or(0, |market| market.clock(tenant));
        let Some(ranked) = class.ranks.get_mut(&rank) else { return };
        let Some(lane) = ranked.lanes.get_mut(tenant) else { return };
        if let Some((clock, oldest)) = lane.listed.take() {
            ranked.by_clock.remove(&(clock, oldest, Arc::clone(tenant)));
            ranked.by_age.remove(&(oldest, Arc::clone(tenant)));
        }
        match lane.jobs.first() {
            Some((oldest, _)) if !is_shut => {
                lane.listed = Some((clock, *oldest));
                ranked.by_clock.insert((clock, *oldest, Arc::clone(tenant)));
                ranked.by_age.insert((*oldest, Arc::clone(tenant)));
            }
            Some(_) => {}
            None => {
                ranked.lanes.remove(tenant);
                if ranked.lanes.is_empty() {
                    class.ranks.remove(&rank);
                }
                self.forget_shut(class_name, rank, tenant);
            }
        }
        if self.classes.get(class_name).is_some_and(|class| class.ranks.is_empty()) {
            self.close_class(class_name);
        } else {
            self.list(class_name);
        }
    }

    fn forget_shut(&mut self, class: &Arc<Class>, rank: Rank, tenant: &Arc<str>) {
        if let Some(lanes) = self.shut_lanes.get_mut(tenant) {
            lanes.remove(&(Arc::clone(class), rank));
            if lanes.is_empty() {
                self.shut_lanes.remove(tenant);
            }
        }
    }

    /// Brings the listing of a class in its market in step with its lanes.
    fn list(&mut self, class: &Arc<Class>) {
        let Some(queue) = self.classes.get(class) else { return };
        let listing = if queue.shut.is_some() { None } else { listing(queue) };
        if listing == queue.listed {
            return;
        }
        self.unlist(class);
        let (Some(queue), Some(listing)) = (self.classes.get_mut(class), listing) else { return };
        if let Some(market) = self.markets.get_mut(&queue.market) {
            let (rank, clock, at) = listing.best;
            market.by_rank.insert((rank, clock, at, Arc::clone(class)));
            market.by_age.insert((listing.oldest, Arc::clone(class)));
        }
        queue.listed = Some(listing);
    }

    fn unlist(&mut self, class: &Arc<Class>) {
        let Some(queue) = self.classes.get_mut(class) else { return };
        let (Some(listing), Some(market)) = (queue.listed.take(), self.markets.get_mut(&queue.market)) else { return };
        let (rank, clock, at) = listing.best;
        market.by_rank.remove(&(rank, clock, at, Arc::clone(class)));
        market.by_age.remove(&(listing.oldest, Arc::clone(class)));
    }
}

fn listing(queue: &ClassQueue) -> Option<Listing> {
    let best = queue.ranks.iter().find_map(|(rank, ranked)| {
        let (clock, at, _) = ranked.by_clock.first()?;
        Some((*rank, *clock, *at))
    })?;
    let oldest = queue.ranks.values().filter_map(|ranked| ranked.by_age.first()).map(|(at, _)| *at).min()?;
    Some(Listing { best, oldest })
}
