//! Who has how much: attempts that are out, jobs that wait and tokens that are left, for each tenant, topic and key.
//!
//! An attempt counts from the moment that it is given a worker until that worker is known to have let go of it, which can be long
//! after its job has ended. So the charges are kept with the slots, and come back with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{FlowLimits, KeyLimits, KeyStrategy, Rate, TopicDocument};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::bounds::Bounds;
use super::bucket::Bucket;
use super::timeline::{Gate, Timeline};

/// Attempts that end sooner than this are short: the way to the worker is a large part of them.
const SHORT_MS: u64 = 200;
/// How much of the known duration of a topic's attempts the newest one is: one part in so many.
const MEMORY: u64 = 8;

/// What jobs with one concurrency key have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The topic in which it holds.
    pub topic: Arc<str>,
    /// The key.
    pub key: Arc<str>,
}

/// On whose account an attempt is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The key, if it has one.
    pub key: Option<Arc<str>>,
}

impl Charge {
    /// The name of its key.
    #[must_use]
    pub fn key_name(&self) -> Option<KeyName> {
        let key = self.key.clone()?;
        Some(KeyName { tenant: Arc::clone(&self.tenant), topic: Arc::clone(&self.topic), key })
    }
}

/// Who must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All jobs of the topic.
    Topic,
    /// All jobs of the tenant.
    Tenant,
    /// All jobs of the key.
    Key,
}

/// Why an attempt cannot start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Where it waits.
    pub gate: Gate,
    /// Who else waits there.
    pub whose: Whose,
    /// When it opens by itself, where that is known.
    pub opens: Option<Timestamp>,
}

/// Why a submission is not taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too fast.
    Rate {
        /// `tenant acme` or `topic job.echo`.
        whose: String,
        /// When the next one is taken.
        after: Duration,
    },
    /// Too many wait.
    Backlog {
        /// `tenant acme` or `topic job.echo`.
        whose: String,
        /// How many may wait.
        most: u64,
    },
    /// The key has no room, and its topic refuses jobs then.
    Key {
        /// How many jobs of the key there may be.
        most: u32,
    },
}

/// What is known of a tenant or a topic.
#[derive(Clone, Debug)]
struct Meter {
    out: u32,
    backlog: u64,
    /// Submissions that were let in and are on their way into the store.
    coming: u64,
    starts: Bucket,
    admissions: Bucket,
    timeline: Timeline,
    /// How long its attempts take, in eighths of milliseconds; 0 while none has ended.
    duration: u64,
}

/// What is known of a key.
#[derive(Clone, Debug)]
struct KeyMeter {
    out: u32,
    /// Submissions that were let in and are on their way into the store.
    coming: usize,
    starts: Bucket,
    /// Live jobs of the key, the oldest first.
    live: BTreeSet<(Timestamp, JobId)>,
    /// Those that stand aside because the key has no room.
    aside: BTreeSet<(Timestamp, JobId)>,
    timeline: Timeline,
}

/// All meters of a cell.
#[derive(Clone, Debug)]
pub struct Flow {
    bounds: Bounds,
    since: Timestamp,
    /// How many submissions are on their way into the store.
    coming: usize,
    tenants: BTreeMap<Arc<str>, Meter>,
    topics: BTreeMap<Arc<str>, Meter>,
    keys: BTreeMap<KeyName, KeyMeter>,
}

impl Flow {
    /// Nothing is out. `since` is when this scheduler began: nobody knows what was started shortly before.
    #[must_use]
    pub const fn new(bounds: Bounds, since: Timestamp) -> Self {
        Self { bounds, since, coming: 0, tenants: BTreeMap::new(), topics: BTreeMap::new(), keys: BTreeMap::new() }
    }

    /// Other bounds are in force.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// The bounds in force.
    #[must_use]
    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Whether a submission is taken; if so, it takes its tokens, and counts as one that waits until [`Flow::came`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&mut self, charge: &Charge, document: Option<&TopicDocument>, now: Timestamp) -> Result<(), Refusal> {
        let (tenant, topic) = (self.bounds.tenant(&charge.tenant), self.bounds.topic(&charge.topic, document));
        self.tenant_mut(&charge.tenant).may_admit(&tenant, || format!("tenant {}", charge.tenant), now)?;
        self.topic_mut(&charge.topic).may_admit(&topic.flow, || format!("topic {}", charge.topic), now)?;
        self.may_join_key(charge, &topic.key)?;
        self.tenant_mut(&charge.tenant).admissions.take(tenant.admissions.as_ref(), now);
        self.topic_mut(&charge.topic).admissions.take(topic.flow.admissions.as_ref(), now);
        self.comes(charge);
        Ok(())
    }

    /// A submission is on its way into the store.
    pub fn comes(&mut self, charge: &Charge) {
        self.coming += 1;
        self.tenant_mut(&charge.tenant).coming += 1;
        self.topic_mut(&charge.topic).coming += 1;
        if let Some(name) = charge.key_name() {
            self.key_mut(name).coming += 1;
        }
    }

    /// A submission is not on its way any more: it is live, or was not taken.
    pub fn came(&mut self, charge: &Charge) {
        let less = |coming: &mut u64| *coming = coming.saturating_sub(1);
        self.coming = self.coming.saturating_sub(1);
        less(&mut self.tenant_mut(&charge.tenant).coming);
        less(&mut self.topic_mut(&charge.topic).coming);
        if let Some(name) = charge.key_name() {
            let meter = self.key_mut(name.clone());
            meter.coming = meter.coming.saturating_sub(1);
            self.forget_unused(&name);
        }
    }

    /// How many submissions are on their way into the store.
    #[must_use]
    pub const fn coming(&self) -> usize {
        self.coming
    }

    fn may_join_key(&self, charge: &Charge, limits: &KeyLimits) -> Result<(), Refusal> {
        let meter = charge.key_name().and_then(|name| self.keys.get(&name));
        let live = meter.map_or(0, |meter| meter.live.len() + meter.coming);
        let most = key_room(limits);
        let is_full = live >= usize::try_from(most).unwrap_or(usize::MAX);
        if is_full && limits.strategy() == KeyStrategy::Reject { Err(Refusal::Key { most }) } else { Ok(()) }
    }

    /// The live jobs of a key that must end in favour of newer ones, where that is the topic's strategy.
    #[must_use]
    pub fn superseded(&self, charge: &Charge, document: Option<&TopicDocument>) -> Vec<JobId> {
        let limits = self.bounds.topic(&charge.topic, document).key;
        let meter = charge.key_name().and_then(|name| self.keys.get(&name));
        let Some(meter) = meter.filter(|_| limits.strategy() == KeyStrategy::CancelOldest) else { return Vec::new() };
        let excess = meter.live.len().saturating_sub(usize::try_from(key_room(&limits)).unwrap_or(usize::MAX));
        meter.live.iter().take(excess).map(|(_, id)| id.clone()).collect()
    }

    /// A job is live that no worker holds, or is no longer such a job.
    pub fn wait(&mut self, charge: &Charge, waits: bool) {
        let count = |meter: &mut Meter| {
            meter.backlog = if waits { meter.backlog + 1 } else { meter.backlog.saturating_sub(1) };
        };
        count(self.tenant_mut(&charge.tenant));
        count(self.topic_mut(&charge.topic));
    }

    /// So many more jobs are live that no worker holds.
    pub fn wait_more(&mut self, charge: &Charge, count: u64) {
        self.tenant_mut(&charge.tenant).backlog += count;
        self.topic_mut(&charge.topic).backlog += count;
    }

    /// A job of a key is live, or is over.
    pub fn live(&mut self, charge: &Charge, job: (Timestamp, JobId), live: bool) {
        let Some(name) = charge.key_name() else { return };
        let meter = self.key_mut(name.clone());
        if live {
            meter.live.insert(job);
            return;
        }
        meter.live.remove(&job);
        meter.aside.remove(&job);
        self.forget_unused(&name);
    }

    /// Whether an attempt may start now.
    ///
    /// # Errors
    /// [`Wait`] says why not.
    pub fn may_start(&mut self, charge: &Charge, document: Option<&TopicDocument>, now: Timestamp) -> Result<(), Wait> {
        let (tenant, topic) = (self.bounds.tenant(&charge.tenant), self.bounds.topic(&charge.topic, document));
        self.topic_mut(&charge.topic).may_start(&topic.flow, Whose::Topic, now)?;
        self.tenant_mut(&charge.tenant).may_start(&tenant, Whose::Tenant, now)?;
        let Some(meter) = charge.key_name().and_then(|name| self.keys.get_mut(&name)) else { return Ok(()) };
        if meter.out >= key_room(&topic.key) {
            return Err(Wait { gate: Gate::Key, whose: Whose::Key, opens: None });
        }
        let opens = meter.starts.opens(topic.key.starts.as_ref(), now);
        if opens > now { Err(Wait { gate: Gate::Key, whose: Whose::Key, opens: Some(opens) }) } else { Ok(()) }
    }

    /// The meters of one job alone, to look at without touching anything.
    #[must_use]
    pub fn clone_for(&self, charge: &Charge) -> Self {
        let mut part = Self::new(self.bounds.clone(), self.since);
        let meter = |meters: &BTreeMap<Arc<str>, Meter>, name: &Arc<str>| {
            meters.get(name).map(|meter| (Arc::clone(name), meter.clone())).into_iter().collect()
        };
        part.tenants = meter(&self.tenants, &charge.tenant);
        part.topics = meter(&self.topics, &charge.topic);
        let key = charge.key_name().and_then(|name| self.keys.get(&name).map(|meter| (name, meter.clone())));
        part.keys = key.into_iter().collect();
        part
    }

    /// An attempt starts: it counts, and takes its tokens.
    pub fn start(&mut self, charge: &Charge, document: Option<&TopicDocument>, now: Timestamp) {
        let (tenant, topic) = (self.bounds.tenant(&charge.tenant), self.bounds.topic(&charge.topic, document));
        self.tenant_mut(&charge.tenant).starts.take(tenant.starts.as_ref(), now);
        self.topic_mut(&charge.topic).starts.take(topic.flow.starts.as_ref(), now);
        self.tenant_mut(&charge.tenant).out += 1;
        self.topic_mut(&charge.topic).out += 1;
        self.start_key(charge, document, now);
    }

    /// Something starts that counts for its key alone: a job whose attempts are those of its replicas.
    pub fn start_key(&mut self, charge: &Charge, document: Option<&TopicDocument>, now: Timestamp) {
        let limits = self.bounds.topic(&charge.topic, document).key;
        if let Some(meter) = charge.key_name().and_then(|name| self.keys.get_mut(&name)) {
            meter.starts.take(limits.starts.as_ref(), now);
        }
        self.hold_key(charge);
    }

    /// An attempt is out that was started before.
    pub fn hold(&mut self, charge: &Charge) {
        self.tenant_mut(&charge.tenant).out += 1;
        self.topic_mut(&charge.topic).out += 1;
        self.hold_key(charge);
    }

    /// Something counts for its key alone, and was started before.
    pub fn hold_key(&mut self, charge: &Charge) {
        if let Some(name) = charge.key_name() {
            self.key_mut(name).out += 1;
        }
    }

    /// A worker has let go of an attempt.
    pub fn release(&mut self, charge: &Charge) {
        let meter = self.tenant_mut(&charge.tenant);
        meter.out = meter.out.saturating_sub(1);
        let meter = self.topic_mut(&charge.topic);
        meter.out = meter.out.saturating_sub(1);
        self.release_key(charge);
    }

    /// Something is over that counted for its key alone.
    pub fn release_key(&mut self, charge: &Charge) {
        if let Some(meter) = charge.key_name().and_then(|name| self.keys.get_mut(&name)) {
            meter.out = meter.out.saturating_sub(1);
        }
    }

    /// A job stands aside, because its key has no room.
    pub fn step_aside(&mut self, name: KeyName, job: (Timestamp, JobId), now: Timestamp) {
        let meter = self.key_mut(name);
        meter.aside.insert(job);
        meter.timeline.stand_at(Some(Gate::Key), now);
    }

    /// The oldest job that stands aside, if its key has room for it now; or when that will be, as far as it is known.
    pub fn come_back(
        &mut self,
        name: &KeyName,
        document: Option<&TopicDocument>,
        now: Timestamp,
    ) -> Result<JobId, Option<Timestamp>> {
        let limits = self.bounds.topic(&name.topic, document).key;
        let Some(meter) = self.keys.get_mut(name).filter(|meter| !meter.aside.is_empty()) else { return Err(None) };
        if meter.out >= key_room(&limits) {
            return Err(None);
        }
        let opens = meter.starts.opens(limits.starts.as_ref(), now);
        if opens > now {
            return Err(Some(opens));
        }
        let Some((_, id)) = meter.aside.pop_first() else { return Err(None) };
        if meter.aside.is_empty() {
            meter.timeline.stand_at(None, now);
        }
        Ok(id)
    }

    /// How many more attempts of a key may be out.
    #[must_use]
    pub fn key_room(&self, name: &KeyName, document: Option<&TopicDocument>) -> u32 {
        let out = self.keys.get(name).map_or(0, |meter| meter.out);
        key_room(&self.bounds.topic(&name.topic, document).key).saturating_sub(out)
    }

    /// A job that stood aside does not wait any more.
    pub fn leave(&mut self, name: &KeyName, job: &(Timestamp, JobId), now: Timestamp) {
        let Some(meter) = self.keys.get_mut(name) else { return };
        if meter.aside.remove(job) && meter.aside.is_empty() {
            meter.timeline.stand_at(None, now);
        }
    }

    /// Whether a job stands aside.
    #[must_use]
    pub fn is_aside(&self, name: &KeyName, job: &(Timestamp, JobId)) -> bool {
        self.keys.get(name).is_some_and(|meter| meter.aside.contains(job))
    }

    /// Keys that have jobs which stand aside.
    pub fn keys_with_waiting(&self) -> impl Iterator<Item = &KeyName> {
        self.keys.iter().filter(|(_, meter)| !meter.aside.is_empty()).map(|(name, _)| name)
    }

    /// A tenant's jobs stand at this gate, or at none.
    pub fn tenant_stands_at(&mut self, tenant: &Arc<str>, gate: Option<Gate>, now: Timestamp) {
        self.tenant_mut(tenant).timeline.stand_at(gate, now);
    }

    /// Where a tenant's time went.
    #[must_use]
    pub fn tenant_timeline(&self, tenant: &str) -> Option<&Timeline> {
        self.tenants.get(tenant).map(|meter| &meter.timeline)
    }

    /// Where a key's time went.
    #[must_use]
    pub fn key_timeline(&self, name: &KeyName) -> Option<&Timeline> {
        self.keys.get(name).map(|meter| &meter.timeline)
    }

    /// How many attempts of a tenant, a topic and a key are out.
    #[must_use]
    pub fn out(&self, charge: &Charge) -> [u32; 3] {
        let key = charge.key_name().and_then(|name| self.keys.get(&name)).map_or(0, |meter| meter.out);
        let of = |meters: &BTreeMap<Arc<str>, Meter>, name: &Arc<str>| meters.get(name).map_or(0, |meter| meter.out);
        [of(&self.tenants, &charge.tenant), of(&self.topics, &charge.topic), key]
    }

    /// An attempt of a topic took so long.
    pub fn took(&mut self, topic: &Arc<str>, millis: u64) {
        let meter = self.topic_mut(topic);
        let newest = millis.min(u64::from(u32::MAX)) * MEMORY;
        meter.duration =
            if meter.duration == 0 { newest.max(1) } else { (meter.duration * (MEMORY - 1) + newest).div_ceil(MEMORY) };
    }

    /// How long attempts of a topic take, in milliseconds; none while that is not known.
    #[must_use]
    pub fn duration_ms(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic).map(|meter| meter.duration).filter(|duration| *duration > 0).map(|duration| duration / MEMORY)
    }

    /// Whether attempts of a topic are known to be short.
    #[must_use]
    pub fn is_short(&self, topic: &str) -> bool {
        self.duration_ms(topic).is_some_and(|millis| millis <= SHORT_MS)
    }

    /// Forgets tenants and topics of which nothing must be known: a million tenants that sent one job each leave nothing.
    pub fn sweep(&mut self, now: Timestamp) {
        let bounds = &self.bounds;
        self.tenants.retain(|tenant, meter| {
            let limits = bounds.tenant(tenant);
            meter.is_needed(&limits, now)
        });
        self.topics.retain(|topic, meter| {
            let limits = bounds.topic(topic, None).flow;
            meter.is_needed(&limits, now)
        });
        self.keys.retain(|name, meter| {
            let limits = bounds.topic(&name.topic, None).key;
            meter.is_counted() || !meter.starts.is_full(limits.starts.as_ref(), now)
        });
    }

    fn tenant_mut(&mut self, tenant: &Arc<str>) -> &mut Meter {
        meter(&mut self.tenants, tenant, self.since)
    }

    fn topic_mut(&mut self, topic: &Arc<str>) -> &mut Meter {
        meter(&mut self.topics, topic, self.since)
    }

    fn key_mut(&mut self, name: KeyName) -> &mut KeyMeter {
        let since = self.since;
        self.keys.entry(name).or_insert_with(|| KeyMeter::new(since))
    }

    fn forget_unused(&mut self, name: &KeyName) {
        if self.keys.get(name).is_some_and(|meter| !meter.is_counted() && meter.starts == Bucket::empty(self.since)) {
            self.keys.remove(name);
        }
    }
}

fn meter<'a>(meters: &'a mut BTreeMap<Arc<str>, Meter>, name: &Arc<str>, since: Timestamp) -> &'a mut Meter {
    if !meters.contains_key(name) {
        meters.insert(Arc::clone(name), Meter::new(since));
    }
    meters.get_mut(name).expect("it has just been put there if it was not")
}

fn key_room(limits: &KeyLimits) -> u32 {
    limits.concurrency_max.max(1)
}

impl KeyMeter {
    fn new(since: Timestamp) -> Self {
        Self {
            out: 0,
            coming: 0,
            starts: Bucket::empty(since),
            live: BTreeSet::new(),
            aside: BTreeSet::new(),
            timeline: Timeline::default(),
        }
    }

    /// Whether anything of the key is out, live or on its way.
    fn is_counted(&self) -> bool {
        self.out > 0 || self.coming > 0 || !self.live.is_empty()
    }
}

impl Meter {
    fn new(since: Timestamp) -> Self {
        let bucket = Bucket::empty(since);
        Self { out: 0, backlog: 0, coming: 0, starts: bucket, admissions: bucket, timeline: Timeline::default(), duration: 0 }
    }

    fn may_admit(&mut self, limits: &FlowLimits, whose: impl Fn() -> String, now: Timestamp) -> Result<(), Refusal> {
        if limits.backlog_max > 0 && self.backlog + self.coming >= limits.backlog_max {
            return Err(Refusal::Backlog { whose: whose(), most: limits.backlog_max });
        }
        let opens = self.admissions.opens(limits.admissions.as_ref(), now);
        if opens > now { Err(Refusal::Rate { whose: whose(), after: opens.since(now) }) } else { Ok(()) }
    }

    fn may_start(&mut self, limits: &FlowLimits, whose: Whose, now: Timestamp) -> Result<(), Wait> {
        if limits.concurrency_max > 0 && self.out >= limits.concurrency_max {
            return Err(Wait { gate: Gate::Quota, whose, opens: None });
        }
        let opens = self.starts.opens(limits.starts.as_ref(), now);
        if opens > now { Err(Wait { gate: Gate::Rate, whose, opens: Some(opens) }) } else { Ok(()) }
    }

    fn is_needed(&mut self, limits: &FlowLimits, now: Timestamp) -> bool {
        let full = |bucket: &mut Bucket, rate: Option<&Rate>| bucket.is_full(rate, now);
        self.out > 0
            || self.backlog > 0
            || self.coming > 0
            || !full(&mut self.starts, limits.starts.as_ref())
            || !full(&mut self.admissions, limits.admissions.as_ref())
    }
}
