//! Reading one part, what map gave or what an earlier reduce gave, without a copy of it in memory.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::counts::{Counts, Ranked};

/// Some of all words, by their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// All words.
    pub(crate) const ALL: Self = Self { index: 0, of: 1 };

    pub(crate) fn new(index: u32, of: u32) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }

    fn holds(self, word: &str) -> bool {
        self.of == 1 || fnv(word.as_bytes()) % u64::from(self.of) == u64::from(self.index)
    }
}

/// FNV-1a with 64 bits: the same on every machine, and not the hash of the tables.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Words,
    Distinct,
    Top,
    Counts,
}

/// Adds the words of a part that a shard holds to the counts, and checks that all of its counts add up to its `words`.
pub(crate) struct PartSeed<'a> {
    pub(crate) counts: &'a mut Counts,
    pub(crate) shard: Shard,
}

impl<'de> DeserializeSeed<'de> for PartSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PartSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("counts and words of a part")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut words, mut sum) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Words => words = Some(map.next_value::<u64>()?),
                Field::Distinct | Field::Top => drop(map.next_value::<IgnoredAny>()?),
                Field::Counts if sum.is_some() => return Err(A::Error::duplicate_field("counts")),
                Field::Counts => sum = Some(map.next_value_seed(CountsSeed { counts: self.counts, shard: self.shard })?),
            }
        }
        let words = words.ok_or_else(|| A::Error::missing_field("words"))?;
        let sum = sum.ok_or_else(|| A::Error::missing_field("counts"))?;
        if words == sum {
            return Ok(());
        }
        Err(A::Error::custom(format!("words is {words}, but its counts add up to {sum}")))
    }
}

struct CountsSeed<'a> {
    counts: &'a mut Counts,
    shard: Shard,
}

impl<'de> DeserializeSeed<'de> for CountsSeed<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for CountsSeed<'_> {
    /// The sum of all counts, also of those that the shard does not hold.
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("words with their counts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let too_many = || A::Error::custom("the sum of all counts does not fit 64 bits");
        let mut sum = 0_u64;
        while let Some(word) = map.next_key_seed(Word)? {
            let count: u64 = map.next_value()?;
            sum = sum.checked_add(count).ok_or_else(too_many)?;
            if self.shard.holds(&word) {
                self.counts.add(word, count).map_err(|_| too_many())?;
            }
        }
        Ok(sum)
    }
}

/// A word as it stands in the text, copied only where it is written with escapes.
struct Word;

impl<'de> DeserializeSeed<'de> for Word {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Word {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a word")
    }

    fn visit_borrowed_str<E: Error>(self, word: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(word))
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(word.to_owned()))
    }
}

/// A part without its counts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outline {
    pub(crate) words: u64,
    pub(crate) distinct: u64,
    pub(crate) top: Vec<Ranked>,
    #[serde(default, rename = "counts")]
    _counts: IgnoredAny,
}

impl Outline {
    /// Reads one that lists at least the `top` most frequent words of its part.
    pub(crate) fn parse(json: &[u8], top: u32) -> serde_json::Result<Self> {
        let part: Self = serde_json::from_slice(json)?;
        let listed = part.top.len() as u64;
        if listed >= part.distinct.min(u64::from(top)) {
            return Ok(part);
        }
        Err(serde_json::Error::custom(format!("top lists {listed} of {} words, and {top} are wanted", part.distinct)))
    }
}
