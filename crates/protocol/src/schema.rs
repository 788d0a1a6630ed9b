//! What CAP's messages are made of, as a table: the canonical encoder goes by it, and so do tests that make messages at random.

use crate::wire::{BYTES, FIXED32, FIXED64, VARINT};

/// A message type.
#[derive(Debug)]
pub struct Message {
    /// Its full name, such as `cordum.agent.v1.BusPacket`; the entries of a map are messages too.
    pub name: &'static str,
    /// Its fields, by ascending number.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in `proto/`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// How often it stands, and when it is left out.
    pub shape: Shape,
}

/// What the values of a field are. Kinds that stand on the wire in the same way are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Bytes,
    /// A truth value.
    Bool,
    /// A 32-bit integer or an enumeration; negative ones take ten bytes.
    Int32,
    /// A 64-bit integer, with or without a sign.
    Int64,
    /// A 32-bit float.
    Float,
    /// A 64-bit float.
    Double,
    /// The message at this place of [`MESSAGES`].
    Message(usize),
}

/// How often a field stands in a message, and when it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Once; left out when it has its default value.
    Plain,
    /// Once, or not at all: sub-messages, and what is marked `optional`.
    Present,
    /// A member of the choice with this name, of which at most one stands.
    Choice(&'static str),
    /// Any number of times.
    List,
    /// Any number of times, all values behind one key.
    Packed,
    /// A map from strings to plain values.
    Map,
}

impl Kind {
    /// How values of this kind stand on the wire.
    pub(crate) const fn wire_type(self) -> u32 {
        match self {
            Self::Bool | Self::Int32 | Self::Int64 => VARINT,
            Self::Float => FIXED32,
            Self::Double => FIXED64,
            Self::Text | Self::Bytes | Self::Message(_) => BYTES,
        }
    }
}

mod table {
    include!("generated/cap_schema.rs");
}

pub use table::MESSAGES;

/// The message type of this full name.
#[must_use]
pub fn message(name: &str) -> Option<&'static Message> {
    let place = MESSAGES.binary_search_by(|message| message.name.cmp(name)).ok()?;
    MESSAGES.get(place)
}

/// The envelope of everything that CAP puts on the bus.
///
/// # Panics
/// Never: the table has it, as a test says.
#[must_use]
pub fn bus_packet() -> &'static Message {
    message("cordum.agent.v1.BusPacket").expect("the table holds CAP's envelope")
}

impl Message {
    /// The field of this number.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&'static Field> {
        let place = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        self.fields.get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_whole() {
        assert!(MESSAGES.is_sorted_by_key(|message| message.name));
        for message in MESSAGES {
            assert!(message.fields.is_sorted_by_key(|field| field.number), "{}", message.name);
            for field in message.fields {
                if let Kind::Message(place) = field.kind {
                    assert!(place < MESSAGES.len(), "{}.{}", message.name, field.name);
                }
            }
        }
        assert_eq!(bus_packet().field(14).map(|field| field.name), Some("signature"));
        assert_eq!(bus_packet().field(23).map(|field| field.name), None);
    }
}
