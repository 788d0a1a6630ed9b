//! What makes a unit senseless, the same for every store.

use super::records::{Guard, Unit, Write};

/// Scores, counts and bounds beyond this are refused: Redis keeps them as floating point numbers, exact only up to here.
const NUMBER_MAX: i64 = 1 << 53;

/// Why no store can take this unit: an empty key, a number that is too large, or a revision that does not follow from its
/// guard. `None` for a good unit.
#[must_use]
pub fn unit_fault(unit: &Unit) -> Option<String> {
    let in_guards = unit.guards.iter().find_map(guard_fault);
    in_guards.or_else(|| unit.writes.iter().find_map(|write| write_fault(unit, write)))
}

fn guard_fault(guard: &Guard) -> Option<String> {
    match guard {
        Guard::Epoch { lock: key, .. } | Guard::Absent { key } | Guard::Exists { key } | Guard::TokenBucket { key, .. } => {
            empty(key)
        }
        Guard::Revision { key, revision } => empty(key).or_else(|| zero(key, *revision)),
        Guard::CounterBelow { key, bound } => empty(key).or_else(|| large(key, *bound)),
    }
}

fn write_fault(unit: &Unit, write: &Write) -> Option<String> {
    match write {
        Write::Put { key, revision, .. } => empty(key).or_else(|| zero(key, *revision)).or_else(|| leap(unit, key, *revision)),
        Write::Delete { key }
        | Write::PutPayload { key, .. }
        | Write::Persist { key }
        | Write::Expire { key, .. }
        | Write::Append { log: key, .. }
        | Write::IndexRemove { index: key, .. } => empty(key),
        Write::IndexAdd { index, score, .. } => empty(index).or_else(|| large(index, *score)),
        Write::IndexTrim { index, below } => empty(index).or_else(|| large(index, *below)),
        Write::Count { key, by } => empty(key).or_else(|| large(key, *by)),
        Write::Copy { from, to, .. } => empty(from).or_else(|| empty(to)),
    }
}

fn empty(key: &str) -> Option<String> {
    key.is_empty().then(|| "an empty key".to_owned())
}

fn zero(key: &str, revision: u64) -> Option<String> {
    (revision == 0).then(|| format!("revision 0 of {key}"))
}

fn large(key: &str, number: i64) -> Option<String> {
    (number.unsigned_abs() > NUMBER_MAX.unsigned_abs()).then(|| format!("{number} of {key} is beyond 2^53"))
}

/// A put whose revision is not one more than that of the guard on the same record.
fn leap(unit: &Unit, put: &str, revision: u64) -> Option<String> {
    let before = unit.guards.iter().find_map(|guard| match guard {
        Guard::Revision { key, revision } if key == put => Some(*revision),
        Guard::Absent { key } if key == put => Some(0),
        _ => None,
    })?;
    (before.checked_add(1) != Some(revision)).then(|| format!("{put} goes from revision {before} to {revision}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ports::CommitId;

    fn put_after(guard: Guard, revision: u64) -> Option<String> {
        let put = Write::Put { key: "k".into(), revision, value: Bytes::new(), expire: None };
        unit_fault(&Unit { id: CommitId([0; 16]), guards: vec![guard], writes: vec![put] })
    }

    #[test]
    fn a_revision_follows_from_its_guard() {
        assert_eq!(put_after(Guard::Revision { key: "k".into(), revision: 4 }, 5), None);
        assert_eq!(put_after(Guard::Absent { key: "k".into() }, 1), None);
        assert_eq!(put_after(Guard::Absent { key: "other".into() }, 9), None);
        assert!(put_after(Guard::Revision { key: "k".into(), revision: 4 }, 4).is_some());
        assert!(put_after(Guard::Absent { key: "k".into() }, 2).is_some());
        assert!(put_after(Guard::Exists { key: "k".into() }, 0).is_some());
    }

    #[test]
    fn numbers_that_a_float_cannot_hold_are_faults() {
        let add = |score| Unit {
            id: CommitId([0; 16]),
            guards: vec![],
            writes: vec![Write::IndexAdd { index: "i".into(), member: "m".into(), score }],
        };
        assert_eq!(unit_fault(&add(1 << 53)), None);
        assert!(unit_fault(&add((1 << 53) + 1)).is_some());
        assert!(unit_fault(&add(i64::MIN)).is_some());
    }
}
