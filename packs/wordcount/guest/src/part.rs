//! Reading one part: what map gave, or what an earlier reduce gave.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::counts::{Counts, Ranked};
use crate::indexed::Indexed;
use crate::shard::{Shard, WordHash};

/// The most that is read of a part: as much as a guest can write.
pub(crate) const PART_BYTES_MAX: u64 = 64 << 20;

/// Why a part cannot be added up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("its index is wrong: {0}")]
    Index(&'static str),
    #[error("{bytes} bytes of it are more than the {PART_BYTES_MAX} that are read")]
    TooLarge { bytes: u64 },
    #[error("top lists {listed} of {distinct} words, and {top} are wanted")]
    ShortTop { listed: u64, distinct: u64, top: u32 },
}

/// Adds the words of the shard to the counts. Of a part with an index, only what the shard holds is read.
pub(crate) fn add(mut part: impl Read + Seek, shard: Shard, counts: &mut Counts) -> Result<(), PartError> {
    if shard != Shard::ALL
        && let Some(mut indexed) = Indexed::open(&mut part)?
    {
        return indexed.add(shard, counts);
    }
    let json = whole(part)?;
    let mut json = serde_json::Deserializer::from_slice(&json);
    PartSeed { counts, shard }.deserialize(&mut json)?;
    Ok(json.end()?)
}

/// The part without its counts; it must list at least the `top` most frequent words.
pub(crate) fn outline(mut part: impl Read + Seek, top: u32) -> Result<Outline, PartError> {
    let outline = match Indexed::open(&mut part)? {
        Some(mut indexed) => indexed.outline()?,
        None => serde_json::from_slice(&whole(part)?)?,
    };
    let (listed, distinct) = (outline.top.len() as u64, outline.distinct);
    if listed >= distinct.min(u64::from(top)) { Ok(outline) } else { Err(PartError::ShortTop { listed, distinct, top }) }
}

fn whole(mut part: impl Read + Seek) -> Result<Vec<u8>, PartError> {
    let bytes = part.seek(SeekFrom::End(0))?;
    if bytes > PART_BYTES_MAX {
        return Err(PartError::TooLarge { bytes });
    }
    part.seek(SeekFrom::Start(0))?;
    let mut read = Vec::with_capacity(usize::try_from(bytes).map_err(io::Error::other)?);
    part.read_to_end(&mut read)?;
    Ok(read)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Words,
    Distinct,
    Index,
    Top,
    Counts,
}

/// Adds the words of a part that a shard holds to the counts, and checks that all of its counts add up to its `words`.
struct PartSeed<'a> {
    counts: &'a mut Counts,
    shard: Shard,
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
                Field::Distinct | Field::Index | Field::Top => drop(map.next_value::<IgnoredAny>()?),
                Field::Counts if sum.is_some() => return Err(A::Error::duplicate_field("counts")),
                Field::Counts => {
                    let seed = CountsSeed { counts: self.counts, shard: self.shard, buckets: None };
                    sum = Some(map.next_value_seed(seed)?);
                }
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

/// Adds those counts that a shard holds to others; gives the sum of all.
pub(crate) struct CountsSeed<'a> {
    pub(crate) counts: &'a mut Counts,
    pub(crate) shard: Shard,
    /// In which buckets, of how many, every word must be, if that is known.
    pub(crate) buckets: Option<(RangeInclusive<u32>, u32)>,
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
            let hash = (self.shard != Shard::ALL).then(|| WordHash::of(&word));
            let is_in = |(buckets, of): &(RangeInclusive<u32>, u32)| hash.is_none_or(|hash| buckets.contains(&hash.place(*of)));
            if !self.buckets.as_ref().is_none_or(is_in) {
                return Err(A::Error::custom(format!("the word {word:?} is in the wrong bucket")));
            }
            if hash.is_none_or(|hash| self.shard.holds(hash)) {
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
pub(crate) struct Outline {
    pub(crate) words: u64,
    pub(crate) distinct: u64,
    pub(crate) top: Vec<Ranked>,
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::written::Sum;

    /// Knows how much was read of it.
    struct Watched<'a> {
        part: Cursor<&'a [u8]>,
        bytes: u64,
    }

    impl Read for Watched<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.part.read(buffer)?;
            self.bytes += read as u64;
            Ok(read)
        }
    }

    impl Seek for Watched<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.part.seek(to)
        }
    }

    /// A part with so many words that hardly another part has.
    fn part(number: u64, distinct: u64) -> Vec<u8> {
        let mut counts = Counts::default();
        for n in 0..distinct {
            let word = format!("\"w{:x}", (n + number * distinct).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            counts.add(word.into(), n % 3 + 1).expect("small");
        }
        let top = Some(counts.top(3));
        let mut bytes = Vec::new();
        Sum { counts, top }.write(&mut bytes).expect("memory");
        bytes
    }

    /// Twice the text has twice the parts and twice the shards. If each shard read each part as a whole, each byte would be read once for every shard.
    #[test]
    fn shards_read_each_byte_about_once_however_many_there_are() {
        for number in [2_u32, 8, 32] {
            let parts: Vec<Vec<u8>> = (0..number).map(|n| part(u64::from(n), 40_000)).collect();
            let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
            let (mut read, mut distinct) = (0, 0);
            for index in 0..number {
                let mut counts = Counts::default();
                for part in &parts {
                    let mut watched = Watched { part: Cursor::new(part), bytes: 0 };
                    add(&mut watched, Shard::new(index, number).expect("one of them"), &mut counts).expect("right");
                    read += watched.bytes;
                }
                distinct += counts.distinct();
            }
            assert_eq!(distinct, u64::from(number) * 40_000);
            assert!(read < total * 3 / 2, "{read} bytes of {total} for {number} shards");
        }
    }

    #[test]
    fn an_outline_is_read_without_the_counts() {
        let bytes = part(0, 40_000);
        let mut watched = Watched { part: Cursor::new(&bytes), bytes: 0 };
        let found = outline(&mut watched, 3).expect("right");
        assert_eq!((found.words, found.distinct, found.top.len()), (79_999, 40_000, 3));
        assert!(watched.bytes < 1_000, "{}", watched.bytes);
    }

    /// Each wrong byte of the index is noticed by a shard that reads there.
    #[test]
    fn an_index_that_lies_is_refused() {
        let right = part(0, 1_500);
        let sum_up = |bytes: &[u8]| {
            let mut counts = Counts::default();
            let add = |index| add(Cursor::new(bytes), Shard::new(index, 3).expect("one of them"), &mut counts);
            (0..3).try_for_each(add).map(|()| (counts.words(), counts.distinct()))
        };
        let marks = {
            let text = std::str::from_utf8(&right).expect("text");
            let begin = text.find(r#""marks":""#).expect("an index") + 9;
            begin..begin + text[begin..].find('"').expect("its end")
        };
        let whole = sum_up(&right).expect("right");
        assert_eq!(whole, (3_000, 1_500));
        for at in marks.clone() {
            for digit in *b"0f," {
                let mut wrong = right.clone();
                wrong[at] = digit;
                assert!(wrong == right || sum_up(&wrong).is_err_and(|error| !matches!(error, PartError::Unreadable(_))), "{at}");
            }
        }
        let cut = &right[..right.len() - 1];
        assert!(matches!(sum_up(cut), Err(PartError::Index("its end is not that of the part"))));
        assert!(matches!(sum_up(&right[..marks.start]), Err(PartError::Index("there is no room for its marks"))));
        let swapped = String::from_utf8(right.clone()).expect("text").replacen(r#"{"\"w"#, r#"{"\"v"#, 1);
        assert!(sum_up(swapped.as_bytes()).expect_err("another word").to_string().contains("in the wrong bucket"));
    }

    #[test]
    fn what_cannot_be_held_is_not_read() {
        struct Huge;
        impl Read for Huge {
            fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
        }
        impl Seek for Huge {
            fn seek(&mut self, _to: SeekFrom) -> io::Result<u64> {
                Ok(PART_BYTES_MAX + 1)
            }
        }
        assert!(matches!(add(Huge, Shard::ALL, &mut Counts::default()), Err(PartError::TooLarge { .. })));
    }
}
