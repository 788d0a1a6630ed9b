//! Values of which only the newest counts: progress of a job, a worker's state. Each change gets the next version; who has seen
//! versions up to n gets the newest value of everything that changed since, and nothing is kept for anybody.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::item::Item;

/// Whose newest value it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Progress(String),
    Result(String),
    Worker(String),
    Heartbeat(String),
    /// Alerts of one sender with one code.
    Alert(String),
}

/// The newest values.
#[derive(Debug)]
pub(crate) struct Latest {
    by_version: BTreeMap<u64, (Key, Arc<Item>)>,
    version_of: HashMap<Key, u64>,
    version: u64,
    max: usize,
}

impl Latest {
    /// Keeps at most so many; the oldest goes first.
    pub(crate) fn new(max: usize) -> Self {
        Self { by_version: BTreeMap::new(), version_of: HashMap::new(), version: 0, max }
    }

    /// The version of the newest value.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn set(&mut self, key: Key, item: Item) {
        self.version += 1;
        if let Some(before) = self.version_of.insert(key.clone(), self.version) {
            self.by_version.remove(&before);
        }
        self.by_version.insert(self.version, (key, Arc::new(item)));
        while self.by_version.len() > self.max {
            if let Some((_, (oldest, _))) = self.by_version.pop_first() {
                self.version_of.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        if let Some(version) = self.version_of.remove(key) {
            self.by_version.remove(&version);
        }
    }

    /// Everything, the oldest change first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Item> {
        self.by_version.values().map(|(_, item)| &**item)
    }

    /// What changed after a version, oldest change first, at most `max` values; and the version up to which that is all.
    pub(crate) fn since(&self, seen: u64, max: usize) -> (Vec<Arc<Item>>, u64) {
        let changed = self.by_version.range(seen.saturating_add(1)..).take(max);
        let (mut items, mut reached) = (Vec::new(), seen);
        for (version, (_, item)) in changed {
            items.push(item.clone());
            reached = *version;
        }
        let all = items.len() < max;
        (items, if all { self.version } else { reached })
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::tests::progress;
    use super::*;

    fn set(latest: &mut Latest, job: &str, percent: i32) {
        latest.set(Key::Progress(job.into()), progress("acme", job, percent));
    }

    fn told(latest: &Latest, seen: u64, max: usize) -> (Vec<String>, u64) {
        let (items, reached) = latest.since(seen, max);
        (items.iter().map(|item| item.body.clone()).collect(), reached)
    }

    #[test]
    fn only_the_newest_value_of_each_key_is_told() {
        let mut latest = Latest::new(10);
        for percent in 0..50 {
            set(&mut latest, "a", percent);
            set(&mut latest, "b", percent);
        }
        let (bodies, reached) = told(&latest, 0, 10);
        assert_eq!(bodies.len(), 2);
        assert!(bodies.iter().all(|body| body.contains(r#""percent":49"#)), "{bodies:?}");
        assert_eq!(reached, 100);
        assert_eq!(told(&latest, reached, 10), (vec![], 100));
        set(&mut latest, "a", 60);
        assert_eq!(told(&latest, reached, 10).0.len(), 1);
    }

    #[test]
    fn a_reader_that_takes_little_at_a_time_gets_all_in_the_end() {
        let mut latest = Latest::new(10);
        for job in ["a", "b", "c"] {
            set(&mut latest, job, 1);
        }
        let (first, reached) = told(&latest, 0, 2);
        let (second, end) = told(&latest, reached, 2);
        assert_eq!((first.len(), second.len(), end), (2, 1, 3));
    }

    #[test]
    fn there_is_a_bound_and_what_is_over_is_forgotten() {
        let mut latest = Latest::new(3);
        for job in ["a", "b", "c", "d"] {
            set(&mut latest, job, 1);
        }
        assert_eq!((latest.by_version.len(), latest.version_of.len()), (3, 3));
        latest.forget(&Key::Progress("d".into()));
        latest.forget(&Key::Progress("a".into()));
        assert_eq!((latest.by_version.len(), latest.version_of.len()), (2, 2));
    }
}
