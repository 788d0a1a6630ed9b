//! The canonical bytes of a CAP message: those that signatures are made over.
//!
//! CAP signs the *deterministic* serialization of a packet, as protobuf's C runtime (upb, behind the Python SDK) writes it: every
//! field by ascending number, also the members of a choice; map entries by their keys, each with both key and value; whatever
//! is not known behind what is known, byte for byte as it came. Our generated code writes the same fields in another order and
//! leaves empty map values out, so signatures are made over what this module writes, from the table in [`crate::schema`].
//!
//! [`Tree`] holds a message as upb would after parsing: of what stands twice the last counts, sub-messages are merged, a member of a
//! choice puts the others out, and a field of a known number but of another wire type is not known.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::schema::{Field, Kind, MESSAGES, Message, Shape};
use crate::wire::{FIXED32, FIXED64, Malformed, Raw, Reader, VARINT, put_bytes, put_key, put_varint};

/// The deepest nesting that is read: messages and groups, as in the runtimes of protobuf.
pub(crate) const DEPTH_MAX: usize = 100;

/// A message as it was understood, and what of it was not.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    schema: &'static Message,
    fields: BTreeMap<u32, Value<'a>>,
    unknown: Vec<u8>,
}

/// A value without parts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

#[derive(Clone, Debug)]
enum Value<'a> {
    One(Scalar<'a>),
    Message(Box<Tree<'a>>),
    Scalars(Vec<Scalar<'a>>),
    Messages(Vec<Tree<'a>>),
    Map(BTreeMap<Key<'a>, Scalar<'a>>),
}

/// A key of a map, in upb's order: by its bytes, and where one key is the beginning of another, the longer one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key<'a>(&'a [u8]);

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let both = self.0.len().min(other.0.len());
        self.0[..both].cmp(&other.0[..both]).then(other.0.len().cmp(&self.0.len()))
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The canonical bytes of a message that came as `bytes`.
///
/// # Errors
/// [`Malformed`] where it is no message of this type.
pub fn canonical(schema: &'static Message, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    Ok(Tree::parse(schema, bytes)?.encode())
}

impl<'a> Tree<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are no protobuf, nest deeper than a hundred levels, or hold text that is not UTF-8.
    pub fn parse(schema: &'static Message, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut tree = Self::empty(schema);
        tree.merge(bytes, DEPTH_MAX)?;
        Ok(tree)
    }

    fn empty(schema: &'static Message) -> Self {
        Self { schema, fields: BTreeMap::new(), unknown: Vec::new() }
    }

    /// Whether anything in it, at any depth, is not known.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        !self.unknown.is_empty()
            || self.fields.values().any(|value| match value {
                Value::One(_) | Value::Scalars(_) | Value::Map(_) => false,
                Value::Message(inner) => inner.has_unknown(),
                Value::Messages(inner) => inner.iter().any(Self::has_unknown),
            })
    }

    /// Whether a field stands in it.
    #[must_use]
    pub fn holds(&self, number: u32) -> bool {
        self.fields.contains_key(&number)
    }

    /// Takes a field of bytes or text out.
    pub fn take_bytes(&mut self, number: u32) -> Option<&'a [u8]> {
        match self.fields.remove(&number)? {
            Value::One(Scalar::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Sets a field of bytes or text that stands at most once.
    pub fn set_bytes(&mut self, number: u32, bytes: &'a [u8]) {
        debug_assert!(
            self.schema.field(number).is_some_and(|field| matches!(field.kind, Kind::Bytes | Kind::Text)),
            "the field holds bytes"
        );
        self.fields.insert(number, Value::One(Scalar::Bytes(bytes)));
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn merge(&mut self, bytes: &'a [u8], depth: usize) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        while let Some((raw, whole)) = reader.field(depth)? {
            if !self.take(&raw, depth)? {
                self.unknown.extend_from_slice(whole);
            }
        }
        Ok(())
    }

    /// Takes a field of the wire over, and says whether it is known.
    fn take(&mut self, raw: &Raw<'a>, depth: usize) -> Result<bool, Malformed> {
        let Some(field) = self.schema.field(raw.number()) else { return Ok(false) };
        if let Kind::Message(place) = field.kind {
            let Raw::Bytes(_, bytes) = *raw else { return Ok(false) };
            let inner = MESSAGES.get(place).ok_or(Malformed { rule: "no such message type" })?;
            self.take_message(field, inner, bytes, depth)?;
            return Ok(true);
        }
        if matches!(field.shape, Shape::List | Shape::Packed) {
            return self.take_element(field, raw);
        }
        let Some(scalar) = scalar(field.kind, raw)? else { return Ok(false) };
        self.put_out_others(field);
        if matches!(field.shape, Shape::Plain) && scalar == default_of(field.kind) {
            self.fields.remove(&field.number);
        } else {
            self.fields.insert(field.number, Value::One(scalar));
        }
        Ok(true)
    }

    fn take_message(&mut self, field: &Field, inner: &'static Message, bytes: &'a [u8], depth: usize) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed { rule: "nested too deeply" })?;
        self.put_out_others(field);
        match field.shape {
            Shape::Map => {
                let mut entry = Self::empty(inner);
                entry.merge(bytes, depth)?;
                if !entry.unknown.is_empty() {
                    // As upb has it: an entry that is not understood is none, but it is kept.
                    put_bytes(field.number, &entry.encode(), &mut self.unknown);
                    return Ok(());
                }
                let value = match entry.fields.remove(&2) {
                    Some(Value::One(scalar)) => scalar,
                    _ => default_of(inner.field(2).map_or(Kind::Bytes, |value| value.kind)),
                };
                let key = entry.take_bytes(1).unwrap_or_default();
                if let Value::Map(map) = self.fields.entry(field.number).or_insert_with(|| Value::Map(BTreeMap::new())) {
                    map.insert(Key(key), value);
                }
            }
            Shape::List | Shape::Packed => {
                let mut tree = Self::empty(inner);
                tree.merge(bytes, depth)?;
                if let Value::Messages(list) = self.fields.entry(field.number).or_insert_with(|| Value::Messages(Vec::new())) {
                    list.push(tree);
                }
            }
            Shape::Plain | Shape::Present | Shape::Choice(_) => {
                let fresh = || Value::Message(Box::new(Self::empty(inner)));
                if let Value::Message(tree) = self.fields.entry(field.number).or_insert_with(fresh) {
                    tree.merge(bytes, depth)?;
                }
            }
        }
        Ok(())
    }

    /// One element of a list of plain values, or many behind one key: both forms are read, whichever the field is written in.
    fn take_element(&mut self, field: &Field, raw: &Raw<'a>) -> Result<bool, Malformed> {
        let mut elements = Vec::new();
        match (scalar(field.kind, raw)?, raw) {
            (Some(element), _) => elements.push(element),
            (None, Raw::Bytes(_, packed)) => {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    let element = reader.value(field.number, field.kind.wire_type())?;
                    elements.extend(scalar(field.kind, &element)?);
                }
            }
            (None, _) => return Ok(false),
        }
        if elements.is_empty() {
            return Ok(true);
        }
        if let Value::Scalars(list) = self.fields.entry(field.number).or_insert_with(|| Value::Scalars(Vec::new())) {
            list.extend(elements);
        }
        Ok(true)
    }

    /// A member of a choice puts the other members out.
    fn put_out_others(&mut self, field: &Field) {
        if let Shape::Choice(_) = field.shape {
            let others = self.schema.fields.iter().filter(|other| other.shape == field.shape && other.number != field.number);
            for other in others {
                self.fields.remove(&other.number);
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for field in self.schema.fields {
            match self.fields.get(&field.number) {
                None => {}
                Some(Value::One(scalar)) => write_scalar(field.number, *scalar, out),
                Some(Value::Message(inner)) => write_message(field.number, inner, out),
                Some(Value::Messages(list)) => list.iter().for_each(|inner| write_message(field.number, inner, out)),
                Some(Value::Scalars(list)) => write_scalars(field, list, out),
                Some(Value::Map(map)) => {
                    for (key, value) in map {
                        let mut entry = Vec::new();
                        write_scalar(1, Scalar::Bytes(key.0), &mut entry);
                        write_scalar(2, *value, &mut entry);
                        put_bytes(field.number, &entry, out);
                    }
                }
            }
        }
        out.extend_from_slice(&self.unknown);
    }
}

/// What a field of this kind holds; nothing where it stands in another wire type.
fn scalar<'a>(kind: Kind, raw: &Raw<'a>) -> Result<Option<Scalar<'a>>, Malformed> {
    Ok(match (kind, *raw) {
        (Kind::Text, Raw::Bytes(_, bytes)) => {
            std::str::from_utf8(bytes).map_err(|_| Malformed { rule: "text that is not UTF-8" })?;
            Some(Scalar::Bytes(bytes))
        }
        (Kind::Bytes, Raw::Bytes(_, bytes)) => Some(Scalar::Bytes(bytes)),
        (Kind::Bool, Raw::Varint(_, value)) => Some(Scalar::Varint(u64::from(value != 0))),
        (Kind::Int32, Raw::Varint(_, value)) => Some(Scalar::Varint(as_int32(value))),
        (Kind::Int64, Raw::Varint(_, value)) => Some(Scalar::Varint(value)),
        (Kind::Float, Raw::Fixed32(_, value)) => Some(Scalar::Fixed32(value)),
        (Kind::Double, Raw::Fixed64(_, value)) => Some(Scalar::Fixed64(value)),
        _ => None,
    })
}

/// The lower half, with its sign in every bit of the upper one.
fn as_int32(value: u64) -> u64 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned()
}

/// What a field of this kind holds when it is not written. A float of minus zero is not its default.
fn default_of<'a>(kind: Kind) -> Scalar<'a> {
    match kind {
        Kind::Text | Kind::Bytes | Kind::Message(_) => Scalar::Bytes(&[]),
        Kind::Bool | Kind::Int32 | Kind::Int64 => Scalar::Varint(0),
        Kind::Float => Scalar::Fixed32([0; 4]),
        Kind::Double => Scalar::Fixed64([0; 8]),
    }
}

fn write_scalar(number: u32, scalar: Scalar<'_>, out: &mut Vec<u8>) {
    match scalar {
        Scalar::Varint(value) => {
            put_key(number, VARINT, out);
            put_varint(value, out);
        }
        Scalar::Fixed32(value) => {
            put_key(number, FIXED32, out);
            out.extend_from_slice(&value);
        }
        Scalar::Fixed64(value) => {
            put_key(number, FIXED64, out);
            out.extend_from_slice(&value);
        }
        Scalar::Bytes(bytes) => put_bytes(number, bytes, out),
    }
}

fn write_scalars(field: &Field, list: &[Scalar<'_>], out: &mut Vec<u8>) {
    if !matches!(field.shape, Shape::Packed) {
        return list.iter().for_each(|element| write_scalar(field.number, *element, out));
    }
    let mut packed = Vec::new();
    for element in list {
        match element {
            Scalar::Varint(value) => put_varint(*value, &mut packed),
            Scalar::Fixed32(value) => packed.extend_from_slice(value),
            Scalar::Fixed64(value) => packed.extend_from_slice(value),
            Scalar::Bytes(bytes) => packed.extend_from_slice(bytes),
        }
    }
    put_bytes(field.number, &packed, out);
}

fn write_message(number: u32, tree: &Tree<'_>, out: &mut Vec<u8>) {
    put_bytes(number, &tree.encode(), out);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::cap::bus_packet::Payload;
    use crate::cap::{BusPacket, Heartbeat, JobRequest, WorkerHandshakeResult};
    use crate::schema::bus_packet;

    fn of(packet: &BusPacket) -> Vec<u8> {
        canonical(bus_packet(), &packet.encode_to_vec()).expect("our own packet")
    }

    #[test]
    fn members_of_a_choice_stand_by_their_numbers() {
        let result = WorkerHandshakeResult { accepted: true, ..WorkerHandshakeResult::default() };
        let packet =
            BusPacket { auth_token: "t".into(), payload: Some(Payload::WorkerHandshakeResult(result)), ..BusPacket::default() };
        // Field 18 before field 22, unlike what prost writes.
        assert_eq!(of(&packet), b"\x92\x01\x01t\xb2\x01\x02\x10\x01");
        assert_ne!(of(&packet), packet.encode_to_vec());
    }

    #[test]
    fn entries_of_maps_have_both_parts_and_an_order() {
        let labels = [("b", ""), ("", "x"), ("a", "y")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let packet = JobRequest { labels: labels.into(), ..JobRequest::default() };
        let schema = crate::schema::message("cordum.agent.v1.JobRequest").expect("known");
        let bytes = canonical(schema, &packet.encode_to_vec()).expect("well formed");
        assert_eq!(bytes, b"\x7a\x06\x0a\x01a\x12\x01y\x7a\x05\x0a\x01b\x12\x00\x7a\x05\x0a\x00\x12\x01x");
    }

    #[test]
    fn unknown_fields_stand_last_and_as_they_came() {
        // Field 999 with a key in more bytes than needed, then trace_id as a number, then trace_id.
        let raw = b"\xba\xbe\x00\x01x\x08\x05\x0a\x01t";
        let tree = Tree::parse(bus_packet(), raw).expect("well formed");
        assert!(tree.has_unknown());
        assert_eq!(tree.encode(), b"\x0a\x01t\xba\xbe\x00\x01x\x08\x05");
    }

    #[test]
    fn an_entry_with_something_unknown_is_kept_and_is_none() {
        let schema = crate::schema::message("cordum.agent.v1.JobRequest").expect("known");
        // a=b with a field 3, then a=c: value and key in the wrong order.
        let raw = b"\x7a\x08\x12\x01b\x18\x05\x0a\x01a\x7a\x06\x12\x01c\x0a\x01a";
        let tree = Tree::parse(schema, raw).expect("well formed");
        assert!(tree.has_unknown());
        assert_eq!(tree.encode(), b"\x7a\x06\x0a\x01a\x12\x01c\x7a\x08\x0a\x01a\x12\x01b\x18\x05");
    }

    #[test]
    fn what_stands_twice_is_merged_or_replaced() {
        let beat = |beat: Heartbeat| BusPacket { payload: Some(Payload::Heartbeat(beat)), ..BusPacket::default() };
        let first = beat(Heartbeat { worker_id: "w".into(), region: "r".into(), ..Heartbeat::default() });
        let second = beat(Heartbeat { region: "q".into(), ..Heartbeat::default() });
        let joined = [first.encode_to_vec(), second.encode_to_vec()].concat();
        let merged = beat(Heartbeat { worker_id: "w".into(), region: "q".into(), ..Heartbeat::default() });
        assert_eq!(canonical(bus_packet(), &joined), Ok(merged.encode_to_vec()));
        let other = BusPacket { payload: Some(Payload::JobRequest(JobRequest::default())), ..BusPacket::default() };
        let replaced = [first.encode_to_vec(), other.encode_to_vec()].concat();
        assert_eq!(canonical(bus_packet(), &replaced), Ok(other.encode_to_vec()));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics_and_what_is_canonical_stays(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for schema in MESSAGES {
                if let Ok(once) = canonical(schema, &bytes) {
                    proptest::prop_assert_eq!(canonical(schema, &once), Ok(once.clone()));
                }
            }
        }
    }
}
