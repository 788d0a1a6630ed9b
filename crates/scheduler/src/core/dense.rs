//! A sorted map for very many entries that mostly come in order and go in order.
//!
//! A B-tree that is filled in order splits each node in the middle and never comes back to the first half, so that half of its memory
//! stays empty. Here a run of entries is filled to its end before the next one begins: only who comes in between splits one.

use std::collections::BTreeMap;

/// How many entries stand together at most. Whoever comes or goes moves those behind it in its run.
const RUN_MAX: usize = 64;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct DenseMap<K, V> {
    /// Runs of entries, none of them empty, by a key that is not above the first in it and above all in the run before.
    runs: BTreeMap<K, Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for DenseMap<K, V> {
    fn default() -> Self {
        Self { runs: BTreeMap::new(), len: 0 }
    }
}

impl<K: Copy + Ord, V> DenseMap<K, V> {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What stands at a key.
    pub(super) fn get(&self, key: K) -> Option<&V> {
        let (_, run) = self.runs.range(..=key).next_back()?;
        let place = run.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&run[place].1)
    }

    /// The smallest key, and what stands there.
    pub(super) fn first(&self) -> Option<(K, &V)> {
        let (_, run) = self.runs.first_key_value()?;
        run.first().map(|(key, value)| (*key, value))
    }

    /// Puts something at a key, and returns what stood there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some((_, run)) = self.runs.range_mut(..=key).next_back() else {
            self.insert_first(key, value);
            return None;
        };
        match run.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(place) => return Some(std::mem::replace(&mut run[place].1, value)),
            Err(place) if run.len() < RUN_MAX => run.insert(place, (key, value)),
            Err(RUN_MAX) => drop(self.runs.insert(key, vec![(key, value)])),
            Err(place) => {
                let mut behind = run.split_off(RUN_MAX / 2);
                match place.checked_sub(RUN_MAX / 2) {
                    None => run.insert(place, (key, value)),
                    Some(place) => behind.insert(place, (key, value)),
                }
                self.runs.insert(behind[0].0, behind);
            }
        }
        self.len += 1;
        None
    }

    /// Puts something before all others: into the first run, which has another bound then, or into a new one.
    fn insert_first(&mut self, key: K, value: V) {
        let mut run = match self.runs.first_entry() {
            Some(first) if first.get().len() < RUN_MAX => first.remove(),
            Some(_) | None => Vec::new(),
        };
        run.insert(0, (key, value));
        self.runs.insert(key, run);
        self.len += 1;
    }

    /// Takes away what stands at a key.
    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let (bound, run) = self.runs.range_mut(..=key).next_back()?;
        let place = run.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let (_, value) = run.remove(place);
        if run.is_empty() {
            let bound = *bound;
            self.runs.remove(&bound);
        } else if run.len() <= run.capacity() / 4 {
            // One that stays for long must not keep the room of those that stood beside it.
            run.shrink_to(run.len() * 2);
        }
        self.len -= 1;
        Some(value)
    }

    /// Everything below a key, or everything, the largest key first.
    pub(super) fn back_from(&self, end: Option<K>) -> impl Iterator<Item = (K, &V)> {
        let is_below = move |key: K| end.is_none_or(|end| key < end);
        let runs = match end {
            Some(end) => self.runs.range(..end),
            None => self.runs.range(..),
        };
        runs.rev()
            .flat_map(|(_, run)| run.iter().rev())
            .map(|(key, value)| (*key, value))
            .skip_while(move |(key, _)| !is_below(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like chance and are the same each time.
    fn scattered(count: u64) -> impl Iterator<Item = u64> {
        (1..=count).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40)
    }

    fn check(map: &DenseMap<u64, u64>, model: &BTreeMap<u64, u64>) {
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(map.first(), model.first_key_value().map(|(key, value)| (*key, value)));
        assert!(map.back_from(None).eq(model.iter().rev().map(|(key, value)| (*key, value))));
        assert!(map.runs.values().all(|run| !run.is_empty() && run.len() <= RUN_MAX));
    }

    #[test]
    fn it_does_what_a_tree_does() {
        let (mut map, mut model) = (DenseMap::default(), BTreeMap::new());
        for (step, key) in scattered(5_000).enumerate() {
            let key = key % 2_000;
            if step % 3 == 2 {
                assert_eq!(map.remove(key), model.remove(&key));
            } else {
                assert_eq!(map.insert(key, step as u64), model.insert(key, step as u64));
            }
            assert_eq!(map.get(key), model.get(&key));
            if step % 100 == 0 {
                check(&map, &model);
                for end in [0, 1, 777, 1_999, 5_000] {
                    assert!(map.back_from(Some(end)).eq(model.range(..end).rev().map(|(key, value)| (*key, value))));
                }
            }
        }
        for key in 0..2_000 {
            assert_eq!(map.remove(key), model.remove(&key));
        }
        check(&map, &model);
    }

    #[test]
    fn who_comes_in_order_fills_it() {
        let mut map = DenseMap::default();
        (0..10_000_u64).for_each(|key| assert_eq!(map.insert(key, ()), None));
        let room: usize = map.runs.values().map(Vec::capacity).sum();
        assert!(room <= 10_000 + RUN_MAX, "{room}");
        (0..10_000).filter(|key| key % 100 != 0).for_each(|key| assert_eq!(map.remove(key), Some(())));
        let room: usize = map.runs.values().map(Vec::capacity).sum();
        assert!(map.len() == 100 && room <= 400, "{room}");
    }

    #[test]
    fn who_comes_in_the_opposite_order_fills_it_too() {
        let mut map = DenseMap::default();
        (0..10_000_u64).rev().for_each(|key| assert_eq!(map.insert(key, ()), None));
        assert!(map.runs.len() <= 10_000 / RUN_MAX + 1, "{}", map.runs.len());
    }
}
