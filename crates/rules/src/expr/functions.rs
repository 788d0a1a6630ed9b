//! The functions that expressions have beside CEL's own. All of them are pure.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::Map;
use cel::{Context, ExecutionError, Value as Cel};

use super::LIST_ENTRIES_MAX;
use super::value::{Value, json_bytes};

/// CEL's functions that an expression may call, and ours. Operators are no functions here.
pub(super) const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    MAX,
    MIN,
    CHUNKS,
    GROUPS_BY_BYTES,
    FLATTEN,
    SUM,
    RANGE,
    JSON,
    MERGE,
    ZIP,
];

const MAX: &str = "max";
const MIN: &str = "min";
const CHUNKS: &str = "chunks";
const GROUPS_BY_BYTES: &str = "groupsByBytes";
const FLATTEN: &str = "flatten";
const SUM: &str = "sum";
const RANGE: &str = "range";
const JSON: &str = "json";
const MERGE: &str = "merge";
const ZIP: &str = "zip";

/// Makes our functions known.
pub(super) fn register(context: &mut Context<'_, '_>) {
    // Registering fails only for a name that CEL has itself, and it has none of these.
    // The library has these two, but leaves it to its users to offer them: they are no part of CEL's own.
    let _ = context.add_function(MAX, cel::functions::max);
    let _ = context.add_function(MIN, cel::functions::min);
    let _ = context.add_function(CHUNKS, chunks);
    let _ = context.add_function(GROUPS_BY_BYTES, groups_by_bytes);
    let _ = context.add_function(FLATTEN, flatten);
    let _ = context.add_function(SUM, sum);
    let _ = context.add_function(RANGE, range);
    let _ = context.add_function(JSON, json);
    let _ = context.add_function(MERGE, merge);
    let _ = context.add_function(ZIP, zip);
}

/// `chunks(list, n)`: the entries in order, in lists of `n`; the last one may be shorter.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn chunks(list: Arc<Vec<Cel>>, n: i64) -> Result<Cel, ExecutionError> {
    let size = usize::try_from(n).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| ExecutionError::function_error(CHUNKS, format!("lists of {n} entries cannot be made")))?;
    Ok(of_lists(list.chunks(size).map(<[Cel]>::to_vec)))
}

/// `groupsByBytes(list, bytes)`: the places of the entries in order, in lists such that the JSON of a group's entries has at most so
/// many bytes; an entry that is larger stands alone.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn groups_by_bytes(list: Arc<Vec<Cel>>, bytes: i64) -> Result<Cel, ExecutionError> {
    let most = usize::try_from(bytes).ok().filter(|most| *most > 0);
    let most =
        most.ok_or_else(|| ExecutionError::function_error(GROUPS_BY_BYTES, format!("groups of {bytes} bytes cannot be made")))?;
    let mut groups: Vec<Vec<Cel>> = Vec::new();
    let mut taken = 0;
    for (place, entry) in (0_i64..).zip(list.iter()) {
        let size = json_bytes(entry, usize::MAX) + 1;
        if groups.is_empty() || taken + size > most {
            groups.push(Vec::new());
            taken = 2;
        }
        taken += size;
        if let Some(group) = groups.last_mut() {
            group.push(Cel::Int(place));
        }
    }
    Ok(of_lists(groups.into_iter()))
}

/// `flatten(lists)`: the entries of all lists in order.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn flatten(lists: Arc<Vec<Cel>>) -> Result<Cel, ExecutionError> {
    let mut entries = Vec::new();
    for list in lists.iter() {
        match list {
            Cel::List(list) => entries.extend(list.iter().cloned()),
            _ => return Err(ExecutionError::function_error(FLATTEN, "an entry is no list")),
        }
    }
    Ok(Cel::List(Arc::new(entries)))
}

/// `sum(numbers)`: their sum; 0 for none. Whole numbers stay whole.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn sum(numbers: Arc<Vec<Cel>>) -> Result<Cel, ExecutionError> {
    let fail = |detail: &str| ExecutionError::function_error(SUM, detail);
    let mut total = Cel::Int(0);
    for number in numbers.iter() {
        total = match (total, number) {
            (Cel::Int(left), Cel::Int(right)) => {
                Cel::Int(left.checked_add(*right).ok_or_else(|| fail("the sum is larger than a whole number can be"))?)
            }
            (Cel::Int(left), Cel::Float(right)) => Cel::Float(left as f64 + right),
            (Cel::Float(left), Cel::Int(right)) => Cel::Float(left + *right as f64),
            (Cel::Float(left), Cel::Float(right)) => Cel::Float(left + right),
            _ => return Err(fail("an entry is no number")),
        };
    }
    Ok(total)
}

fn of_lists(lists: impl Iterator<Item = Vec<Cel>>) -> Cel {
    Cel::List(Arc::new(lists.map(|list| Cel::List(Arc::new(list))).collect()))
}

/// `range(a, b)`: the whole numbers from `a` to `b`, `b` not included.
fn range(from: i64, to: i64) -> Result<Cel, ExecutionError> {
    let length = i128::from(to) - i128::from(from);
    if length > LIST_ENTRIES_MAX as i128 {
        return Err(ExecutionError::function_error(
            RANGE,
            format!("{length} entries, where at most {LIST_ENTRIES_MAX} are made"),
        ));
    }
    Ok(Cel::List(Arc::new((from..to).map(Cel::Int).collect())))
}

/// `merge(maps)`: the members of all maps; of two with the same name the later one counts.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn merge(maps: Arc<Vec<Cel>>) -> Result<Cel, ExecutionError> {
    let mut members = HashMap::new();
    for map in maps.iter() {
        match map {
            Cel::Map(map) => members.extend(map.map.iter().map(|(name, value)| (name.clone(), value.clone()))),
            _ => return Err(ExecutionError::function_error(MERGE, "an entry is no map")),
        }
    }
    Ok(Cel::Map(Map { map: Arc::new(members) }))
}

/// `zip(a, b)`: pairs of the entries that stand at the same place in two lists of the same length.
#[expect(clippy::needless_pass_by_value, reason = "the form of a function that cel can call")]
fn zip(left: Arc<Vec<Cel>>, right: Arc<Vec<Cel>>) -> Result<Cel, ExecutionError> {
    if left.len() != right.len() {
        let detail = format!("one list has {} entries, the other one {}", left.len(), right.len());
        return Err(ExecutionError::function_error(ZIP, detail));
    }
    Ok(of_lists(left.iter().zip(right.iter()).map(|(left, right)| vec![left.clone(), right.clone()])))
}

/// `json(value)`: the value as JSON text.
fn json(value: Cel) -> Cel {
    Cel::String(Arc::new(Value(value).to_json().to_string()))
}
