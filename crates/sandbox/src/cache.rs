//! A bounded cache whose values are made once, however many ask at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::stdio::lock;

type Slot<V> = Arc<Mutex<Option<V>>>;

/// Keeps what was used last, up to a number of values and a total of their bytes.
pub(crate) struct OnceCache<K, V> {
    entries: Mutex<Entries<K, V>>,
    values_max: usize,
    bytes_max: usize,
}

struct Entries<K, V> {
    by_key: HashMap<K, Entry<V>>,
    uses: u64,
}

struct Entry<V> {
    slot: Slot<V>,
    last_use: u64,
    /// None while the value is being made.
    bytes: Option<usize>,
}

/// A value that was made, and what it counts for.
pub(crate) struct Made<V> {
    pub(crate) value: V,
    pub(crate) bytes: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> OnceCache<K, V> {
    pub(crate) fn new(values_max: usize, bytes_max: usize) -> Self {
        Self { entries: Mutex::new(Entries { by_key: HashMap::new(), uses: 0 }), values_max, bytes_max }
    }

    /// The kept value, if it was made. Does not wait for one that is being made.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let slot = {
            let mut entries = lock(&self.entries);
            entries.uses += 1;
            let last_use = entries.uses;
            let entry = entries.by_key.get_mut(key).filter(|entry| entry.bytes.is_some())?;
            entry.last_use = last_use;
            Arc::clone(&entry.slot)
        };
        // It was made: nobody holds it for longer than a copy takes.
        lock(&slot).clone()
    }

    /// The kept value, or the one that `make` makes. Others who ask for the same key wait; if making fails, the next of them tries.
    pub(crate) fn get_or_make<E>(&self, key: &K, make: impl FnOnce() -> Result<Made<V>, E>) -> Result<V, E> {
        let slot = self.slot(key);
        let mut guard = lock(&slot);
        if let Some(value) = guard.as_ref() {
            return Ok(value.clone());
        }
        match make() {
            Ok(Made { value, bytes }) => {
                *guard = Some(value.clone());
                drop(guard);
                self.keep(key, bytes);
                Ok(value)
            }
            Err(error) => {
                drop(guard);
                self.forget(key);
                Err(error)
            }
        }
    }

    fn slot(&self, key: &K) -> Slot<V> {
        let mut entries = lock(&self.entries);
        entries.uses += 1;
        let last_use = entries.uses;
        let entry = entries.by_key.entry(key.clone()).or_insert_with(|| Entry { slot: Slot::default(), last_use, bytes: None });
        entry.last_use = last_use;
        Arc::clone(&entry.slot)
    }

    fn keep(&self, key: &K, bytes: usize) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.by_key.get_mut(key) {
            entry.bytes = Some(bytes);
        }
        while entries.exceed(self.values_max, self.bytes_max) {
            let Some(oldest) = entries.oldest() else { return };
            entries.by_key.remove(&oldest);
        }
    }

    fn forget(&self, key: &K) {
        let mut entries = lock(&self.entries);
        if entries.by_key.get(key).is_some_and(|entry| entry.bytes.is_none()) {
            entries.by_key.remove(key);
        }
    }
}

impl<K: Eq + Hash + Clone, V> Entries<K, V> {
    fn exceed(&self, values_max: usize, bytes_max: usize) -> bool {
        let made = self.by_key.values().filter_map(|entry| entry.bytes);
        let (values, bytes) = made.fold((0, 0), |(values, bytes), more| (values + 1, bytes + more));
        values > values_max || bytes > bytes_max
    }

    fn oldest(&self) -> Option<K> {
        let made = self.by_key.iter().filter(|(_, entry)| entry.bytes.is_some());
        made.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn made(value: u32) -> Result<Made<u32>, ()> {
        Ok(Made { value, bytes: 10 })
    }

    #[test]
    fn is_made_once_for_all_who_ask() {
        let cache = OnceCache::new(4, 100);
        let makes = AtomicUsize::new(0);
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = cache.get_or_make(&"a", || {
                        makes.fetch_add(1, Ordering::Relaxed);
                        made(7)
                    });
                    assert_eq!(value, Ok(7));
                });
            }
        });
        assert_eq!(makes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_being_made_is_not_waited_for() {
        let cache = OnceCache::new(2, 100);
        assert_eq!(cache.get(&"a"), None);
        let seen = cache.get_or_make(&"a", || {
            assert_eq!(cache.get(&"a"), None);
            made(1)
        });
        assert_eq!((seen, cache.get(&"a")), (Ok(1), Some(1)));
        assert_eq!(cache.get_or_make(&"b", || made(2)), Ok(2));
        assert_eq!(cache.get(&"a"), Some(1));
        assert_eq!(cache.get_or_make(&"c", || made(3)), Ok(3));
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None), "looking at one is a use of it");
    }

    #[test]
    fn a_failure_is_not_kept() {
        let cache = OnceCache::new(4, 100);
        assert_eq!(cache.get_or_make(&"a", || Err("no")), Err("no"));
        assert_eq!(cache.get_or_make(&"a", || made(1)), Ok(1));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = OnceCache::new(2, 100);
        assert_eq!(cache.get_or_make(&"a", || made(1)), Ok(1));
        assert_eq!(cache.get_or_make(&"b", || made(2)), Ok(2));
        assert_eq!(cache.get_or_make(&"a", || Err(())), Ok(1));
        assert_eq!(cache.get_or_make(&"c", || made(3)), Ok(3));
        assert_eq!(cache.get_or_make(&"a", || Err(())), Ok(1), "used after b");
        assert_eq!(cache.get_or_make(&"b", || Err(())), Err(()), "forgotten");
    }

    #[test]
    fn bytes_count_too() {
        let cache = OnceCache::new(10, 15);
        assert_eq!(cache.get_or_make(&"a", || made(1)), Ok(1));
        assert_eq!(cache.get_or_make(&"b", || made(2)), Ok(2));
        assert_eq!(cache.get_or_make(&"a", || Err(())), Err(()));
    }
}
