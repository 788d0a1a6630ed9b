//! Reading a part by its index: the counts of some buckets, or the list of the most frequent words, and hardly a byte besides.
//!
//! The sums in the index take the place of adding up everything: each bucket must have the counts that its marks say, and the last mark all words. So if
//! every shard of a part can be read, the part is right as a whole.

use std::io::{self, Read, Seek, SeekFrom};

use serde::de::DeserializeSeed as _;

use crate::counts::{Counts, Ranked};
use crate::part::{CountsSeed, Outline, PART_BYTES_MAX, PartError};
use crate::shard::Shard;
use crate::written::{MARK_DIGITS, Mark};

/// The index begins within so many bytes: three numbers with their names.
const HEAD_BYTES: u64 = 128;
const MARK_BYTES: u64 = 2 * MARK_DIGITS as u64;
/// What stands between the marks and the counts, around the list of the most frequent words.
const BEFORE_TOP: &[u8] = br#""},"top":"#;
const BEHIND_TOP: &[u8] = br#","counts":{"#;

/// A part that has an index.
pub(crate) struct Indexed<R> {
    part: R,
    words: u64,
    distinct: u64,
    buckets: u32,
    /// Where the marks begin.
    marks_at: u64,
    /// The last mark.
    end: Mark,
}

impl<R: Read + Seek> Indexed<R> {
    /// The part, if it has an index. What has none must be read as a whole.
    pub(crate) fn open(mut part: R) -> Result<Option<Self>, PartError> {
        let bytes = part.seek(SeekFrom::End(0))?;
        let head = read_at(&mut part, 0, HEAD_BYTES.min(bytes))?;
        let Some(Head { words, distinct, buckets, marks_at }) = Head::parse(&head) else { return Ok(None) };
        let mut indexed = Self { part, words, distinct, buckets, marks_at, end: Mark::default() };
        if buckets == 0 || indexed.mark_at(buckets) + MARK_BYTES > bytes {
            return Err(PartError::Index("there is no room for its marks"));
        }
        indexed.end = indexed.mark(buckets)?;
        if indexed.end.at.checked_add(2) != Some(bytes) || indexed.end.words != words {
            return Err(PartError::Index("its end is not that of the part"));
        }
        Ok(Some(indexed))
    }

    /// Adds the words of the shard to the counts.
    pub(crate) fn add(&mut self, shard: Shard, counts: &mut Counts) -> Result<(), PartError> {
        let buckets = shard.buckets(self.buckets);
        let (from, to) = (self.mark(*buckets.start())?, self.mark(buckets.end() + 1)?);
        let words = to.words.checked_sub(from.words).ok_or(PartError::Index("its sums fall"))?;
        let mut json = b"{".to_vec();
        json.extend(self.between(from.at, to.at)?);
        if json.ends_with(b",") {
            json.pop();
        }
        json.push(b'}');
        let mut json = serde_json::Deserializer::from_slice(&json);
        let seed = CountsSeed { counts, shard, buckets: Some((buckets, self.buckets)) };
        let sum = seed.deserialize(&mut json)?;
        json.end()?;
        if sum == words { Ok(()) } else { Err(PartError::Index("its sums are not those of the counts")) }
    }

    /// The part without its counts.
    pub(crate) fn outline(&mut self) -> Result<Outline, PartError> {
        let counts_at = self.mark(0)?.at;
        let between = self.between(self.mark_at(self.buckets) + MARK_BYTES, counts_at)?;
        let top = between.strip_prefix(BEFORE_TOP).and_then(|top| top.strip_suffix(BEHIND_TOP));
        let top: Vec<Ranked> = serde_json::from_slice(top.ok_or(PartError::Index("there is no top behind it"))?)?;
        Ok(Outline { words: self.words, distinct: self.distinct, top })
    }

    fn mark_at(&self, bucket: u32) -> u64 {
        self.marks_at + u64::from(bucket) * MARK_BYTES
    }

    fn mark(&mut self, bucket: u32) -> Result<Mark, PartError> {
        let at = self.mark_at(bucket);
        let digits = read_at(&mut self.part, at, MARK_BYTES)?;
        Mark::parse(&digits).ok_or(PartError::Index("a mark is not two numbers"))
    }

    fn between(&mut self, from: u64, to: u64) -> Result<Vec<u8>, PartError> {
        let bytes = to.checked_sub(from).filter(|_| to <= self.end.at).ok_or(PartError::Index("its marks are not in order"))?;
        if bytes > PART_BYTES_MAX {
            return Err(PartError::TooLarge { bytes });
        }
        Ok(read_at(&mut self.part, from, bytes)?)
    }
}

/// What a part begins with that has an index.
struct Head {
    words: u64,
    distinct: u64,
    buckets: u32,
    marks_at: u64,
}

impl Head {
    fn parse(head: &[u8]) -> Option<Self> {
        let (words, rest) = number(head.strip_prefix(br#"{"words":"#)?)?;
        let (distinct, rest) = number(rest.strip_prefix(br#","distinct":"#)?)?;
        let (buckets, rest) = number(rest.strip_prefix(br#","index":{"buckets":"#)?)?;
        let rest = rest.strip_prefix(br#","marks":""#)?;
        Some(Self { words, distinct, buckets: u32::try_from(buckets).ok()?, marks_at: (head.len() - rest.len()) as u64 })
    }
}

impl Mark {
    fn parse(digits: &[u8]) -> Option<Self> {
        let number = |digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (at, words) = digits.split_at_checked(MARK_DIGITS)?;
        Some(Self { at: number(at)?, words: number(words)? })
    }
}

/// The number that it begins with, and the rest.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = bytes.split_at(end);
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

fn read_at(mut part: impl Read + Seek, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    part.seek(SeekFrom::Start(at))?;
    let mut read = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    part.read_exact(&mut read)?;
    Ok(read)
}
