//! Processor time of a process and of everything that it has started.

use std::collections::BTreeMap;
use std::fs;

use crate::Outcome;

/// What the kernel says of one process: its parent, and its ticks with those of the children that it has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// Seconds of processor that these processes and their descendants have used so far. What a descendant used that has ended counts
/// with whoever waited for it.
pub(crate) fn cpu_seconds(roots: &[u32]) -> Outcome<f64> {
    let all = all();
    let ticks: u64 = members(roots, &all).iter().map(|pid| all[pid].ticks).sum();
    Ok(f64::from(u32::try_from(ticks)?) / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?))
}

/// The living descendants of a process, itself included.
pub(crate) fn of(root: u32) -> Vec<u32> {
    members(&[root], &all())
}

fn all() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process may end between the listing and the reading.
    pids.filter_map(|pid| Some((pid, stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

fn stat(text: &str) -> Option<Stat> {
    // The second field may hold anything, in parentheses. The parent is field 4; user and system time, own and children's, are
    // fields 14 to 17.
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = rest.get(11..15)?.iter().map(|field| field.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
    Some(Stat { parent: rest.get(1)?.parse().ok()?, ticks })
}

fn members(roots: &[u32], all: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let mut members: Vec<u32> = roots.iter().copied().filter(|root| all.contains_key(root)).collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        let children = all.iter().filter(|(pid, stat)| stat.parent == parent && !members.contains(pid));
        members.extend(children.map(|(pid, _)| *pid).collect::<Vec<u32>>());
        next += 1;
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_past_an_odd_name() {
        let text = "7 (a ) b) S 3 7 7 0 -1 0 0 0 0 0 10 20 300 4000 20 0 1 0";
        assert_eq!(stat(text), Some(Stat { parent: 3, ticks: 4330 }));
        assert_eq!(stat("7 (short) S 3"), None);
    }

    #[test]
    fn descendants_of_descendants_belong_to_the_tree() {
        let of = |parent| Stat { parent, ticks: 1 };
        let all = BTreeMap::from([(1, of(0)), (2, of(1)), (3, of(2)), (4, of(1)), (5, of(3))]);
        assert_eq!(members(&[2, 9], &all), [2, 3, 5]);
    }
}
