//! What is paused, and which workers drain: what operators said, and what workers asked for when they were told to slow down.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::busbar::{Drain, HoldsDocument, Pause, PauseName, PauseScope};
use busbar_protocol::ids::{self, JobId};
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicPattern;

use super::flow::KeyName;

/// The version of the record that this code writes.
const RECORD_VERSION: u32 = 1;
/// The most pauses, and the most drains: more than that is a mistake somewhere, and the record must stay small.
pub const HOLDS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 1_024;
const REASON_CHARACTERS_MAX: usize = 500;

/// Pauses and drains in force.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    pauses: BTreeMap<(i32, String), Pause>,
    drains: BTreeMap<String, Drain>,
    /// The topics that are paused, ready for matching.
    topics: Vec<(TopicPattern, String)>,
}

/// Why a hold is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// What is to be paused is not named.
    #[error(
        "a pause names a scope (pool, topic, tenant, key, worker or run) and something in it, in at most {NAME_BYTES_MAX} bytes"
    )]
    Name,
    /// The topic is no pattern.
    #[error("{0}")]
    Topic(String),
    /// There are too many.
    #[error("there are {HOLDS_MAX} pauses or drains already")]
    Full,
}

impl Holds {
    /// Reads the record.
    #[must_use]
    pub fn from_record(record: HoldsDocument) -> Self {
        let mut holds = Self::default();
        for pause in record.pauses {
            // What was accepted once is good; a later version's scope says nothing to us.
            let _ = holds.pause(pause);
        }
        for drain in record.drains {
            let _ = holds.drain(drain);
        }
        holds
    }

    /// The record.
    #[must_use]
    pub fn to_record(&self) -> HoldsDocument {
        HoldsDocument { version: RECORD_VERSION, pauses: self.pauses(), drains: self.drains() }
    }

    /// All pauses.
    #[must_use]
    pub fn pauses(&self) -> Vec<Pause> {
        self.pauses.values().cloned().collect()
    }

    /// The pause of this name.
    #[must_use]
    pub fn find(&self, what: &PauseName) -> Option<&Pause> {
        self.pauses.get(&(what.scope, what.name.clone()))
    }

    /// All drains.
    #[must_use]
    pub fn drains(&self) -> Vec<Drain> {
        self.drains.values().cloned().collect()
    }

    /// Sets a pause, in place of one with the same name.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn pause(&mut self, mut pause: Pause) -> Result<(), HoldError> {
        let what = pause.what.clone().ok_or(HoldError::Name)?;
        if what.scope() == PauseScope::Unspecified || what.name.is_empty() || what.name.len() > NAME_BYTES_MAX {
            return Err(HoldError::Name);
        }
        let pattern = match what.scope() {
            PauseScope::Topic => Some(TopicPattern::parse(&what.name).map_err(|error| HoldError::Topic(error.to_string()))?),
            _ => None,
        };
        let place = (what.scope, what.name.clone());
        if self.pauses.len() >= HOLDS_MAX && !self.pauses.contains_key(&place) {
            return Err(HoldError::Full);
        }
        pause.reason = shortened(&pause.reason);
        if self.pauses.insert(place, pause).is_none()
            && let Some(pattern) = pattern
        {
            self.topics.push((pattern, what.name));
        }
        Ok(())
    }

    /// Lifts a pause; whether there was one.
    pub fn lift(&mut self, what: &PauseName) -> bool {
        let was = self.pauses.remove(&(what.scope, what.name.clone())).is_some();
        if was && what.scope() == PauseScope::Topic {
            self.topics.retain(|(_, name)| *name != what.name);
        }
        was
    }

    /// Lets a worker drain.
    ///
    /// # Errors
    /// [`HoldError`].
    pub fn drain(&mut self, mut drain: Drain) -> Result<(), HoldError> {
        if drain.worker_id.is_empty() || drain.worker_id.len() > NAME_BYTES_MAX {
            return Err(HoldError::Name);
        }
        if self.drains.len() >= HOLDS_MAX && !self.drains.contains_key(&drain.worker_id) {
            return Err(HoldError::Full);
        }
        drain.reason = shortened(&drain.reason);
        self.drains.insert(drain.worker_id.clone(), drain);
        Ok(())
    }

    /// Lets a worker take jobs again; whether it drained.
    pub fn undrain(&mut self, worker_id: &str) -> bool {
        self.drains.remove(worker_id).is_some()
    }

    /// Takes away the pauses whose time is over; whether there were any.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let over: Vec<PauseName> =
            self.pauses.values().filter(|pause| !is_on(pause, now)).filter_map(|pause| pause.what.clone()).collect();
        over.iter().for_each(|what| {
            self.lift(what);
        });
        !over.is_empty()
    }

    /// When the next pause is over by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.pauses.values().map(|pause| pause.until_ms).filter(|until| *until > 0).min().map(Timestamp::from_millis)
    }

    /// The pause that holds a topic.
    #[must_use]
    pub fn topic(&self, topic: &str, now: Timestamp) -> Option<&Pause> {
        let names = self.topics.iter().filter(|(pattern, _)| pattern.matches(topic)).map(|(_, name)| name);
        names.filter_map(|name| self.get(PauseScope::Topic, name, now)).next()
    }

    /// The pause that holds a tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &str, now: Timestamp) -> Option<&Pause> {
        self.get(PauseScope::Tenant, tenant, now)
    }

    /// The pause that holds a key.
    #[must_use]
    pub fn key(&self, name: &KeyName, now: Timestamp) -> Option<&Pause> {
        if self.pauses.is_empty() { None } else { self.get(PauseScope::Key, &key_text(name), now) }
    }

    /// The pause that holds a pool.
    #[must_use]
    pub fn pool(&self, pool: &str, now: Timestamp) -> Option<&Pause> {
        self.get(PauseScope::Pool, pool, now)
    }

    /// The pause that holds jobs which may go to these pools: all of them must be paused. It counts for workers that say no pool, too.
    #[must_use]
    pub fn pools<'a>(&self, mut pools: impl Iterator<Item = &'a str>, now: Timestamp) -> Option<&Pause> {
        if self.pauses.is_empty() {
            return None;
        }
        let first = self.pool(pools.next()?, now)?;
        pools.all(|pool| self.pool(pool, now).is_some()).then_some(first)
    }

    /// The pause that holds the run of a job, until it is lifted or expires.
    #[must_use]
    pub fn run_of(&self, job: &JobId) -> Option<&Pause> {
        let name = ids::run_of(job.as_str()).filter(|_| !self.pauses.is_empty())?;
        self.pauses.get(&(PauseScope::Run.into(), name.to_owned()))
    }

    /// The runs that are paused.
    #[must_use]
    pub fn runs(&self) -> BTreeSet<String> {
        let scope = i32::from(PauseScope::Run);
        self.pauses.range((scope, String::new())..(scope + 1, String::new())).map(|((_, name), _)| name.clone()).collect()
    }

    /// The pause that holds a worker: it is blocked.
    #[must_use]
    pub fn worker(&self, worker_id: &str, now: Timestamp) -> Option<&Pause> {
        self.get(PauseScope::Worker, worker_id, now)
    }

    /// A worker's drain.
    #[must_use]
    pub fn drain_of(&self, worker_id: &str) -> Option<&Drain> {
        self.drains.get(worker_id)
    }

    fn get(&self, scope: PauseScope, name: &str, now: Timestamp) -> Option<&Pause> {
        if self.pauses.is_empty() {
            return None;
        }
        self.pauses.get(&(scope.into(), name.to_owned())).filter(|pause| is_on(pause, now))
    }
}

/// How a key is named in a pause.
#[must_use]
pub fn key_text(name: &KeyName) -> String {
    format!("{} {} {}", name.tenant, name.topic, name.key)
}

const fn is_on(pause: &Pause, now: Timestamp) -> bool {
    pause.until_ms == 0 || pause.until_ms > now.millis()
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(scope: PauseScope, name: &str, until_ms: u64) -> Pause {
        let what = PauseName { scope: scope.into(), name: name.to_owned() };
        Pause { what: Some(what), until_ms, ..Pause::default() }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    #[test]
    fn topics_are_paused_by_patterns_until_their_time() {
        let mut holds = Holds::default();
        holds.pause(pause(PauseScope::Topic, "job.bpsw.*", 2_000)).expect("a good pause");
        assert!(holds.topic("job.bpsw.main", NOW).is_some());
        assert!(holds.topic("job.echo", NOW).is_none());
        assert!(holds.topic("job.bpsw.main", Timestamp::from_millis(2_000)).is_none(), "its time is over");
        assert_eq!(holds.next_end(), Some(Timestamp::from_millis(2_000)));
        assert!(!holds.expire(NOW) && holds.expire(Timestamp::from_millis(2_000)));
        assert!(holds.topics.is_empty() && holds.pauses().is_empty());
    }

    #[test]
    fn what_is_set_again_is_replaced_and_what_is_lifted_is_gone() {
        let mut holds = Holds::default();
        for until in [0, 5_000] {
            holds.pause(pause(PauseScope::Topic, "job.a", until)).expect("a good pause");
        }
        assert_eq!(holds.pauses().len(), 1);
        let again = Holds::from_record(holds.to_record());
        assert_eq!(again.pauses(), holds.pauses());
        assert!(holds.lift(&PauseName { scope: PauseScope::Topic.into(), name: "job.a".into() }));
        assert!(holds.topic("job.a", NOW).is_none());
    }

    #[test]
    fn jobs_wait_when_all_their_pools_are_paused() {
        let mut holds = Holds::default();
        holds.pause(pause(PauseScope::Pool, "a", 2_000)).expect("a good pause");
        let held = |holds: &Holds, pools: &[&str], now| holds.pools(pools.iter().copied(), now).is_some();
        assert!(held(&holds, &["a"], NOW) && !held(&holds, &["a", "b"], NOW) && !held(&holds, &[], NOW));
        assert!(!held(&holds, &["a"], Timestamp::from_millis(2_000)), "its time is over");
        holds.pause(pause(PauseScope::Pool, "b", 0)).expect("a good pause");
        assert!(held(&holds, &["a", "b"], NOW));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let mut holds = Holds::default();
        assert_eq!(holds.pause(Pause::default()), Err(HoldError::Name));
        assert_eq!(holds.pause(pause(PauseScope::Tenant, "", 0)), Err(HoldError::Name));
        assert!(matches!(holds.pause(pause(PauseScope::Topic, "echo", 0)), Err(HoldError::Topic(_))));
        assert_eq!(holds.drain(Drain::default()), Err(HoldError::Name));
    }
}
