//! The protobuf wire, field by field, without knowing what the fields mean.

/// Bytes that are no protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf: {rule}")]
pub struct Malformed {
    /// What is wrong.
    pub rule: &'static str,
}

/// Wire type of integers, truth values and enumerations.
pub(crate) const VARINT: u32 = 0;
/// Wire type of 64-bit floats.
pub(crate) const FIXED64: u32 = 1;
/// Wire type of text, bytes, sub-messages and packed lists.
pub(crate) const BYTES: u32 = 2;
/// Wire type of 32-bit floats.
pub(crate) const FIXED32: u32 = 5;
const GROUP_BEGIN: u32 = 3;
const GROUP_END: u32 = 4;

/// The longest key; a number may take ten bytes.
const KEY_BYTES_MAX: usize = 5;

/// A field: its number and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    Varint(u32, u64),
    Fixed64(u32, [u8; 8]),
    Fixed32(u32, [u8; 4]),
    Bytes(u32, &'a [u8]),
    /// A group, which CAP does not use.
    Group(u32),
}

impl Raw<'_> {
    pub(crate) const fn number(&self) -> u32 {
        match *self {
            Raw::Varint(number, _)
            | Raw::Fixed64(number, _)
            | Raw::Fixed32(number, _)
            | Raw::Bytes(number, _)
            | Raw::Group(number) => number,
        }
    }

    pub(crate) const fn wire_type(&self) -> u32 {
        match *self {
            Raw::Varint(..) => VARINT,
            Raw::Fixed64(..) => FIXED64,
            Raw::Fixed32(..) => FIXED32,
            Raw::Bytes(..) => BYTES,
            Raw::Group(_) => GROUP_BEGIN,
        }
    }
}

/// Reads a message from its front.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Whether every number so far stood in as few bytes as it could.
    minimal: bool,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, minimal: true }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn is_minimal(&self) -> bool {
        self.minimal
    }

    /// The next field, and all of its bytes; groups may nest `depth` deep.
    pub(crate) fn field(&mut self, depth: usize) -> Result<Option<(Raw<'a>, &'a [u8])>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let before = self.rest;
        let (number, wire_type) = self.key()?;
        let raw = match wire_type {
            GROUP_BEGIN => {
                self.pass_group(number, depth)?;
                Raw::Group(number)
            }
            other => self.value(number, other)?,
        };
        let whole = &before[..before.len() - self.rest.len()];
        Ok(Some((raw, whole)))
    }

    /// One value without a key, as in a packed list.
    pub(crate) fn value(&mut self, number: u32, wire_type: u32) -> Result<Raw<'a>, Malformed> {
        Ok(match wire_type {
            VARINT => Raw::Varint(number, self.varint()?),
            FIXED64 => Raw::Fixed64(number, self.array()?),
            FIXED32 => Raw::Fixed32(number, self.array()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed { rule: "a length without measure" })?;
                Raw::Bytes(number, self.bytes(length)?)
            }
            GROUP_END => return Err(Malformed { rule: "a group ends that did not begin" }),
            _ => return Err(Malformed { rule: "a wire type that does not exist" }),
        })
    }

    fn key(&mut self) -> Result<(u32, u32), Malformed> {
        let before = self.rest.len();
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed { rule: "a key beyond 32 bits" })?;
        if before - self.rest.len() > KEY_BYTES_MAX {
            return Err(Malformed { rule: "a key in more than five bytes" });
        }
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed { rule: "a field of number 0" });
        }
        Ok((number, key & 7))
    }

    /// Moves behind the end of a group that has begun.
    fn pass_group(&mut self, number: u32, depth: usize) -> Result<(), Malformed> {
        let mut open = vec![number];
        while let Some(current) = open.last().copied() {
            let (number, wire_type) = self.key()?;
            match wire_type {
                GROUP_BEGIN => open.push(number),
                GROUP_END if number == current => {
                    open.pop();
                }
                GROUP_END => return Err(Malformed { rule: "another group ends than began" }),
                other => {
                    self.value(number, other)?;
                }
            }
            if open.len() > depth {
                return Err(Malformed { rule: "nested too deeply" });
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().copied().enumerate().take(10) {
            // Of the tenth byte one bit has room, and the others are dropped, as in the runtimes of protobuf.
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.minimal &= (byte != 0 || index == 0) && (index < 9 || byte == 1);
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed { rule: "a number that does not end" })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| Malformed { rule: "a field ends beyond its message" })
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed { rule: "a field ends beyond its message" })?;
        self.rest = rest;
        Ok(bytes)
    }
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(crate) fn put_key(number: u32, wire_type: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
