//! Random packets on the wire, made from the table of CAP's messages: every field, in any order and number, and what nobody knows.

use busbar_protocol::schema::{Field, Kind, MESSAGES, Message, Shape};

/// Random numbers that follow from a seed (SplitMix64, public domain).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// How far from what a decent sender writes the bytes may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Fields of the right wire types, in any order; also such as nobody knows.
    Decent,
    /// Wrong wire types, numbers in too many bytes, groups, text that is none. And what our generated code reads in another way than
    /// the SDK does: entries of maps with something unknown in them (the SDK takes them for none), and a float of minus zero (our
    /// code takes it for zero).
    Wild,
}

/// The bytes of a random message.
pub(crate) fn message(noise: &mut Noise, schema: &Message, manners: Manners) -> Vec<u8> {
    Maker { noise, manners }.message(schema, 4)
}

struct Maker<'a> {
    noise: &'a mut Noise,
    manners: Manners,
}

impl Maker<'_> {
    fn message(&mut self, schema: &Message, depth: u32) -> Vec<u8> {
        // Every fourth message has every field.
        let full = self.noise.once_in(4);
        let mut fields: Vec<&Field> = schema.fields.iter().filter(|_| full || self.noise.once_in(3)).collect();
        if !fields.is_empty() && self.noise.once_in(3) {
            let again = self.pick(&fields);
            fields.push(again);
        }
        if self.noise.once_in(2) {
            fields.sort_by_key(|field| field.number.wrapping_mul(0x9e37_79b9));
        }
        let strangers = self.manners == Manners::Wild || !schema.name.ends_with("Entry");
        let mut out = Vec::new();
        for field in fields {
            let times = if matches!(field.shape, Shape::List | Shape::Packed | Shape::Map) { self.noise.below(4) } else { 1 };
            for _ in 0..times {
                self.field(field, depth, &mut out);
            }
            if strangers && self.noise.once_in(12) {
                self.unknown(&mut out);
            }
        }
        if strangers && self.noise.once_in(6) {
            self.unknown(&mut out);
        }
        out
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.noise.below(choices.len() as u64)).unwrap_or(0)]
    }

    fn wild(&mut self, times: u64) -> bool {
        self.manners == Manners::Wild && self.noise.once_in(times)
    }

    fn field(&mut self, field: &Field, depth: u32, out: &mut Vec<u8>) {
        if self.wild(40) {
            let wire_type = self.noise.below(8);
            self.key(field.number, wire_type, out);
            return self.value(wire_type, field.number, out);
        }
        match field.kind {
            Kind::Bool | Kind::Int32 | Kind::Int64 if field.shape == Shape::Packed && self.noise.once_in(2) => {
                let mut packed = Vec::new();
                for _ in 0..self.noise.below(4) {
                    self.number(field.kind, &mut packed);
                }
                self.key(field.number, 2, out);
                self.block(&packed, out);
            }
            Kind::Bool | Kind::Int32 | Kind::Int64 => {
                self.key(field.number, 0, out);
                self.number(field.kind, out);
            }
            Kind::Float => {
                self.key(field.number, 5, out);
                let value = if self.wild(4) { 0x8000_0000 } else { self.pick(&[0, 0x3fc0_0000, 0x7f80_0000, 0x7fc0_0001]) };
                out.extend_from_slice(&u32::to_le_bytes(value));
            }
            Kind::Double => {
                self.key(field.number, 1, out);
                let value = if self.wild(4) { 1 << 63 } else { self.pick(&[0, 0x3ff8_0000_0000_0000, 0x7ff0_0000_0000_0000]) };
                out.extend_from_slice(&u64::to_le_bytes(value));
            }
            Kind::Text | Kind::Bytes => {
                let value = self.content(field.kind);
                self.key(field.number, 2, out);
                self.block(&value, out);
            }
            Kind::Message(place) => {
                let value = if depth == 0 { Vec::new() } else { self.message(&MESSAGES[place], depth - 1) };
                self.key(field.number, 2, out);
                self.block(&value, out);
            }
        }
    }

    fn content(&mut self, kind: Kind) -> Vec<u8> {
        let length = self.pick(&[0, 1, 2, 9, 50, 200]);
        if kind == Kind::Bytes || self.wild(200) {
            return self.noise.bytes(length);
        }
        let letters = ["a", "b", "Z", "0", ".", "-", "ä", "€", "🚀", "\0"];
        (0..length).map(|_| self.pick(&letters)).collect::<String>().into_bytes()
    }

    fn number(&mut self, kind: Kind, out: &mut Vec<u8>) {
        let value = match self.noise.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 31,
            3 => self.noise.next(),
            4 => u64::from(u32::MAX),
            _ => self.noise.below(300),
        };
        // A decent sender writes 32 bits with their sign, and truth as 0 or 1.
        let value = match (kind, self.manners) {
            (Kind::Int32, Manners::Decent) => {
                let [a, b, c, d, ..] = value.to_le_bytes();
                i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned()
            }
            (Kind::Bool, Manners::Decent) => value % 2,
            _ => value,
        };
        self.varint(value, out);
    }

    /// A field that no version of CAP has.
    fn unknown(&mut self, out: &mut Vec<u8>) {
        let number = 900 + u32::try_from(self.noise.below(200)).unwrap_or(0);
        let types: &[u64] = if self.manners == Manners::Wild { &[0, 1, 2, 3, 5, 6, 7] } else { &[0, 1, 2, 5] };
        let wire_type = self.pick(types);
        self.key(number, wire_type, out);
        self.value(wire_type, number, out);
    }

    fn value(&mut self, wire_type: u64, number: u32, out: &mut Vec<u8>) {
        match wire_type {
            0 => {
                let value = self.noise.next();
                self.varint(value, out);
            }
            1 => out.extend_from_slice(&self.noise.bytes(8)),
            5 => out.extend_from_slice(&self.noise.bytes(4)),
            3 => {
                self.unknown(out);
                self.key(number, 4, out);
            }
            _ => {
                let length = self.noise.below(20);
                let value = self.noise.bytes(length);
                self.block(&value, out);
            }
        }
    }

    fn block(&mut self, value: &[u8], out: &mut Vec<u8>) {
        self.varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }

    fn key(&mut self, number: u32, wire_type: u64, out: &mut Vec<u8>) {
        self.varint((u64::from(number) << 3) | wire_type, out);
    }

    fn varint(&mut self, mut value: u64, out: &mut Vec<u8>) {
        let longer = if self.wild(60) { self.noise.below(4) } else { 0 };
        while value >= 0x80 {
            out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        let last = value.to_le_bytes()[0];
        if longer == 0 {
            return out.push(last);
        }
        out.push(last | 0x80);
        out.extend(std::iter::repeat_n(0x80, usize::try_from(longer - 1).unwrap_or(0)));
        out.push(0);
    }
}

/// Appends a message as the value of a field.
pub(crate) fn put_message(field: u32, value: &[u8], out: &mut Vec<u8>) {
    let mut noise = Noise::new(0);
    let mut maker = Maker { noise: &mut noise, manners: Manners::Decent };
    maker.key(field, 2, out);
    maker.block(value, out);
}

/// Changes bytes at random: a bit, a byte more or less, the end cut off.
pub(crate) fn mutate(noise: &mut Noise, bytes: &mut Vec<u8>) {
    for _ in 0..=noise.below(3) {
        if bytes.is_empty() {
            return bytes.push(noise.next().to_le_bytes()[0]);
        }
        let place = usize::try_from(noise.below(bytes.len() as u64)).unwrap_or(0);
        match noise.below(5) {
            0 => bytes[place] ^= 1 << noise.below(8),
            1 => bytes[place] = noise.next().to_le_bytes()[0],
            2 => bytes.insert(place, noise.next().to_le_bytes()[0]),
            3 => bytes.truncate(place),
            _ => {
                bytes.remove(place);
            }
        }
    }
}
