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
//! Of a long lane only the first jobs are in memory, whole; those behind them are shelved, and asked for in time.
//!
//! Shares follow start-time fair queueing (Goyal, Vin, Cheng 1996): a tenant's clock in a market moves on by the time that its
//! attempt takes, divided by its weight; the smallest clock is next; whoever was away begins where the market is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::time::Timestamp;

use super::lane::Lane;
use super::line::{Class, Line, Rank, Seat, Spot};
use super::timeline::{Gate, Timeline};

/// One placement of so many in a market goes to its oldest job, if that has waited longer than [`AGED`].
const AGED_EVERY: u64 = 8;
/// How long a job waits before its age counts more than its priority.
pub const AGED: Duration = Duration::from_secs(60);
/// A tenant's clock moves by this for each millisecond of work at weight 1.
const TICK: u64 = 1 << 16;
/// How many jobs of a lane are asked for at once, and with how many left whole.
const ASKED_AT_ONCE: usize = 256;
const ASKED_BELOW: usize = 128;
/// After so many placements at the earliest the clocks of a market are looked through.
const FORGOTTEN_EVERY: u64 = 1_024;
/// How many classes that found no worker are tried again in one turn.
const RETRIED_MAX: usize = 1_024;

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
    TenantWaits,
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
    shut_lanes: BTreeMap<Arc<str>, BTreeSet<Arc<Line>>>,
    /// The market that was served last.
    served: Option<Arc<str>>,
    room: WholeRoom,
    /// Shelved jobs that are needed in memory.
    wanted: Vec<Seat>,
    whole: usize,
    len: usize,
}

/// How many jobs that wait for a worker are in memory, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeRoom {
    /// Of all lanes together.
    pub cell: usize,
    /// Of one lane.
    pub lane: usize,
}

impl Default for WholeRoom {
    fn default() -> Self {
        Self { cell: 8_192, lane: 4_096 }
    }
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
struct Market {
    /// Where the market is: the clock of the tenant that was served last.
    now: u64,
    clocks: BTreeMap<Arc<str>, u64>,
    placed: u64,
    /// With which placement the clocks are looked through that need not be kept.
    forgets_at: u64,
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
        // Who is not ahead of the market begins where it is anyway. The more there are, the less often they are looked through.
        if self.placed >= self.forgets_at {
            let now = self.now;
            self.clocks.retain(|_, clock| *clock > now);
            self.forgets_at = self.placed + FORGOTTEN_EVERY.max(self.clocks.len() as u64);
        }
    }
}

impl Queue {
    /// Nobody waits.
    #[must_use]
    pub fn new(room: WholeRoom) -> Self {
        Self { room, ..Self::default() }
    }

    /// Adds a job to its lane. Adding it twice changes nothing. `market` is the pool in which its class asks for workers.
    pub fn add(&mut self, spot: &Spot, market: &str) {
        let Some(lane) = self.lane_or_new(&spot.line, market) else { return };
        if !lane.add(spot.seat) {
            return;
        }
        let leads = lane.first() == Some(spot.seat);
        self.whole += 1;
        self.came(&spot.line, 1, leads);
    }

    /// Adds jobs of a line that are shelved.
    pub fn add_shelved(&mut self, line: &Arc<Line>, market: &str, seats: &[Seat]) {
        let Some(lane) = self.lane_or_new(line, market) else { return };
        let first = lane.first();
        let count = seats.iter().filter(|seat| lane.add_shelved(**seat)).count();
        let leads = lane.first() != first;
        self.came(line, count, leads);
    }

    /// So many have come. Whoever comes behind others changes nothing about when their lane goes.
    fn came(&mut self, line: &Arc<Line>, count: usize, leads: bool) {
        self.len += count;
        if let Some(class) = self.classes.get_mut(&line.class) {
            class.len += count;
        }
        if leads {
            self.relist(line);
        }
    }

    /// A job leaves memory, and keeps its place.
    pub fn shelve(&mut self, spot: &Spot) {
        if self.lane_mut(&spot.line).is_some_and(|lane| lane.shelve(spot.seat)) {
            self.whole -= 1;
        }
    }

    /// A shelved job is in memory now.
    pub fn unshelve(&mut self, spot: &Spot) {
        if self.lane_mut(&spot.line).is_some_and(|lane| lane.unshelve(spot.seat)) {
            self.whole += 1;
            self.relist(&spot.line);
        }
    }

    /// Whether one more of a line should not be in memory: enough are, or others of it are not.
    #[must_use]
    pub fn is_crowded(&self, line: &Line) -> bool {
        let lane = self.lane(line);
        self.whole >= self.room.cell || lane.is_some_and(|lane| lane.whole() >= self.room.lane || lane.has_shelved())
    }

    /// Takes a job out, if it is there.
    pub fn remove(&mut self, spot: &Spot) {
        let Some(lane) = self.lane_mut(&spot.line) else { return };
        let was_first = lane.first() == Some(spot.seat);
        let Some(was_whole) = lane.remove(spot.seat) else { return };
        self.whole -= usize::from(was_whole);
        self.len -= 1;
        if let Some(class) = self.classes.get_mut(&spot.line.class) {
            class.len -= 1;
        }
        if was_first {
            self.relist(&spot.line);
        }
    }

    /// Whether a job is here and in memory.
    #[must_use]
    pub fn has(&self, spot: &Spot) -> bool {
        self.lane(&spot.line).is_some_and(|lane| lane.has_whole(spot.seat))
    }

    /// Whether shelved jobs are needed in memory.
    #[must_use]
    pub const fn wants(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The shelved jobs that are needed in memory and were not told yet.
    pub fn take_wanted(&mut self) -> Vec<Seat> {
        std::mem::take(&mut self.wanted)
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
                if self.lane(&spot.line).is_some_and(|lane| !lane.has_whole(spot.seat)) {
                    self.want(&spot.line);
                    continue;
                }
                match ask(&spot) {
                    Turn::Goes { to, cost_ms, weight } => {
                        self.stand_class_at(&spot.line.class, None, now);
                        if let Some(market) = self.markets.get_mut(&name) {
                            market.serve(&spot.line.tenant, cost_ms, weight);
                        }
                        self.remove(&spot);
                        self.want_more(&spot.line);
                        self.served = Some(name);
                        return Some((spot, to));
                    }
                    Turn::ClassWaits(gate) => self.shut_class(&spot.line.class, gate, now),
                    Turn::TenantWaits => self.shut_lane(&spot.line),
                    Turn::Aside => self.remove(&spot),
                }
            }
        }
        None
    }

    /// The first jobs of a lane are needed, which is not gone on with before they are there.
    fn want(&mut self, line: &Arc<Line>) {
        // Where there is room for few, as many as the room; where there is none, still some, or nobody would ever get on.
        let most = self.room.cell.saturating_sub(self.whole).clamp(1, ASKED_AT_ONCE);
        let most = most.max(ASKED_AT_ONCE / 32).min(self.room.lane.max(1));
        let wanted = self.lane_mut(line).map(|lane| lane.ask(most)).unwrap_or_default();
        self.wanted.extend(wanted);
        self.relist(line);
    }

    /// A lane goes on: those that are about to be next are asked for before it must wait for them.
    fn want_more(&mut self, line: &Arc<Line>) {
        let below = ASKED_BELOW.min(self.room.lane);
        if self.lane(line).is_some_and(|lane| lane.has_unasked() && lane.whole() + lane.asked() < below) {
            self.want(line);
        }
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
            let lane = ranked.lanes.get(&tenant)?;
            // The tenant may have been served through another class since its lane was listed here.
            if market.clock(&tenant) != clock {
                let line = Arc::clone(&lane.line);
                self.relist(&line);
                continue;
            }
            return Some(Spot { line: Arc::clone(&lane.line), seat: lane.first()? });
        }
    }

    fn oldest_of(&self, class: &Arc<Class>) -> Option<Spot> {
        let ranks = &self.classes.get(class)?.ranks;
        let (_, rank, tenant) =
            ranks.iter().filter_map(|(rank, ranked)| ranked.by_age.first().map(|(at, tenant)| (*at, *rank, tenant))).min()?;
        let lane = ranks.get(&rank)?.lanes.get(tenant)?;
        Some(Spot { line: Arc::clone(&lane.line), seat: lane.first()? })
    }

    fn lane(&self, line: &Line) -> Option<&Lane> {
        self.classes.get(&line.class)?.ranks.get(&line.rank)?.lanes.get(&line.tenant)
    }

    fn lane_mut(&mut self, line: &Line) -> Option<&mut Lane> {
        self.classes.get_mut(&line.class)?.ranks.get_mut(&line.rank)?.lanes.get_mut(&line.tenant)
    }

    fn lane_or_new(&mut self, line: &Arc<Line>, market: &str) -> Option<&mut Lane> {
        if !self.classes.contains_key(&line.class) {
            self.open_class(&line.class, market);
        }
        let ranked = self.classes.get_mut(&line.class)?.ranks.entry(line.rank).or_default();
        Some(ranked.lanes.entry(Arc::clone(&line.tenant)).or_insert_with(|| Lane::new(Arc::clone(line))))
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
        let Some(lanes) = self.shut_lanes.remove(tenant) else { return };
        for line in lanes {
            self.relist(&line);
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
            let oldest = lanes.filter_map(Lane::first).min()?.came();
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
        let ranked = self.classes.get(&spot.line.class)?.ranks.get(&spot.line.rank)?;
        let lane = ranked.lanes.get(&spot.line.tenant)?;
        Some((lane.before(spot.seat, most), ranked.lanes.len()))
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

    fn shut_lane(&mut self, line: &Arc<Line>) {
        self.shut_lanes.entry(Arc::clone(&line.tenant)).or_default().insert(Arc::clone(line));
        self.relist(line);
    }

    /// Brings the listing of a lane in step with its jobs, its tenant's clock and whether it is open.
    fn relist(&mut self, line: &Arc<Line>) {
        let is_shut = self.shut_lanes.get(&line.tenant).is_some_and(|lanes| lanes.contains(line));
        let Some(class) = self.classes.get_mut(&line.class) else { return };
        let clock = self.markets.get(&class.market).map_or(0, |market| market.clock(&line.tenant));
        let Some(ranked) = class.ranks.get_mut(&line.rank) else { return };
        let Some(lane) = ranked.lanes.get_mut(&line.tenant) else { return };
        if let Some((clock, oldest)) = lane.listed.take() {
            ranked.by_clock.remove(&(clock, oldest, Arc::clone(&line.tenant)));
            ranked.by_age.remove(&(oldest, Arc::clone(&line.tenant)));
        }
        match lane.first().map(Seat::came) {
            Some(oldest) if !is_shut && !lane.is_waiting() => {
                lane.listed = Some((clock, oldest));
                ranked.by_clock.insert((clock, oldest, Arc::clone(&line.tenant)));
                ranked.by_age.insert((oldest, Arc::clone(&line.tenant)));
            }
            Some(_) => {}
            None => {
                ranked.lanes.remove(&line.tenant);
                if ranked.lanes.is_empty() {
                    class.ranks.remove(&line.rank);
                }
                self.forget_shut(line);
            }
        }
        if self.classes.get(&line.class).is_some_and(|class| class.ranks.is_empty()) {
            self.close_class(&line.class);
        } else {
            self.list(&line.class);
        }
    }

    fn forget_shut(&mut self, line: &Arc<Line>) {
        if let Some(lanes) = self.shut_lanes.get_mut(&line.tenant) {
            lanes.remove(line);
            if lanes.is_empty() {
                self.shut_lanes.remove(&line.tenant);
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
