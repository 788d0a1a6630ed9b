//! JSON values as CEL sees them.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use serde_json::Number;

/// A JSON value. A clone shares lists, maps and texts with its original.
///
/// Whole numbers are CEL's `int`, or `uint` where they are larger than that holds; all other numbers are `double`. A number that
/// neither holds exactly is what JSON readers make of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Value(pub(super) cel::Value);

impl Value {
    /// Takes a JSON value.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        Self(from_json(json))
    }

    /// The JSON value. Members stand in the order of their names; what JSON cannot hold (NaN, infinities) is null.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        to_json(&self.0)
    }

    /// Null.
    #[must_use]
    pub const fn null() -> Self {
        Self(cel::Value::Null)
    }

    /// True or false.
    #[must_use]
    pub const fn bool(value: bool) -> Self {
        Self(cel::Value::Bool(value))
    }

    /// A text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(cel::Value::String(Arc::new(text.to_owned())))
    }

    /// A list.
    #[must_use]
    pub fn list(entries: Vec<Self>) -> Self {
        Self(cel::Value::List(Arc::new(entries.into_iter().map(|entry| entry.0).collect())))
    }

    /// A map.
    #[must_use]
    pub fn map(members: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self(map(members.into_iter().map(|(name, value)| (name, value.0))))
    }

    /// What it is, where it is true or false.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match self.0 {
            cel::Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// How many entries it has, where it is a list.
    #[must_use]
    pub fn list_len(&self) -> Option<usize> {
        match &self.0 {
            cel::Value::List(entries) => Some(entries.len()),
            _ => None,
        }
    }

    /// An entry of a list.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Self> {
        match &self.0 {
            cel::Value::List(entries) => entries.get(index).cloned().map(Self),
            _ => None,
        }
    }
}

fn map(members: impl Iterator<Item = (String, cel::Value)>) -> cel::Value {
    let members: HashMap<Key, cel::Value> = members.map(|(name, value)| (Key::String(Arc::new(name)), value)).collect();
    cel::Value::Map(Map { map: Arc::new(members) })
}

fn from_json(json: &serde_json::Value) -> cel::Value {
    match json {
        serde_json::Value::Null => cel::Value::Null,
        serde_json::Value::Bool(value) => cel::Value::Bool(*value),
        serde_json::Value::Number(number) => from_number(number),
        serde_json::Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(entries) => cel::Value::List(Arc::new(entries.iter().map(from_json).collect())),
        serde_json::Value::Object(members) => map(members.iter().map(|(name, value)| (name.clone(), from_json(value)))),
    }
}

fn from_number(number: &Number) -> cel::Value {
    let whole = number.as_i64().map(cel::Value::Int).or_else(|| number.as_u64().map(cel::Value::UInt));
    whole.or_else(|| number.as_f64().map(cel::Value::Float)).unwrap_or(cel::Value::Null)
}

fn to_json(value: &cel::Value) -> serde_json::Value {
    match value {
        cel::Value::Bool(value) => (*value).into(),
        cel::Value::Int(number) => (*number).into(),
        cel::Value::UInt(number) => (*number).into(),
        cel::Value::Float(number) => Number::from_f64(*number).map_or(serde_json::Value::Null, serde_json::Value::Number),
        cel::Value::String(text) => text.as_str().into(),
        cel::Value::List(entries) => entries.iter().map(to_json).collect(),
        cel::Value::Map(map) => {
            map.map.iter().map(|(name, value)| (name_of(name), to_json(value))).collect::<serde_json::Map<_, _>>().into()
        }
        // Values of types that no JSON gives and no function of ours makes; `evaluate` refuses them as results.
        _ => serde_json::Value::Null,
    }
}

fn name_of(key: &Key) -> String {
    match key {
        Key::String(text) => text.as_ref().clone(),
        Key::Int(number) => number.to_string(),
        Key::Uint(number) => number.to_string(),
        Key::Bool(value) => value.to_string(),
    }
}

/// Whether JSON can hold it.
pub(super) fn is_json(value: &cel::Value) -> bool {
    match value {
        cel::Value::Bool(_)
        | cel::Value::Int(_)
        | cel::Value::UInt(_)
        | cel::Value::Float(_)
        | cel::Value::String(_)
        | cel::Value::Null => true,
        cel::Value::List(entries) => entries.iter().all(is_json),
        cel::Value::Map(map) => map.map.values().all(is_json),
        _ => false,
    }
}

/// About how many bytes its JSON has, and no fewer; counting stops beyond `most`.
pub(super) fn json_bytes(value: &cel::Value, most: usize) -> usize {
    match value {
        cel::Value::String(text) => text_bytes(text),
        cel::Value::List(entries) => sum(entries.iter().map(|entry| (1, entry)), most),
        // Around a member stand a colon and a comma.
        cel::Value::Map(map) => sum(map.map.iter().map(|(name, value)| (2 + name_bytes(name), value)), most),
        cel::Value::Int(number) => digits(number.unsigned_abs()) + 1,
        cel::Value::UInt(number) => digits(*number),
        cel::Value::Float(_) => 24,
        _ => 5,
    }
}

fn sum<'a>(parts: impl Iterator<Item = (usize, &'a cel::Value)>, most: usize) -> usize {
    let mut bytes = 2;
    for (around, value) in parts {
        if bytes > most {
            break;
        }
        bytes += around + json_bytes(value, most - bytes);
    }
    bytes
}

fn text_bytes(text: &str) -> usize {
    // An escape makes a byte at most six.
    2 + text.len() + 5 * text.bytes().filter(|b| *b < 0x20 || *b == b'"' || *b == b'\\').count()
}

fn name_bytes(key: &Key) -> usize {
    match key {
        Key::String(text) => text_bytes(text),
        Key::Int(number) => digits(number.unsigned_abs()) + 3,
        Key::Uint(number) => digits(*number) + 2,
        Key::Bool(_) => 7,
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| usize::try_from(log).unwrap_or(0) + 1)
}
