//! Counts as they are written: one JSON value, the same bytes for the same counts, with an index for those who want to read only some.
//!
//! ```text
//! {"words":W,"distinct":D,"index":{"buckets":B,"marks":"…"},"top":[…],"counts":{"word":n,…}}
//!                                            │              └ of a reduce ┘         ▲
//!          B + 1 marks of 32 hexadecimal digits ─────── bucket k begins at byte … ──┘  and the counts before it add up to …
//! ```
//!
//! Words stand in *buckets*, equal ranges of their hashes, and are sorted within them. What has a single bucket, as short texts have, has no index, and all of
//! its words are sorted. The last mark is the end of all counts, and what they add up to.

use std::io::{self, Write};

use crate::counts::{Counts, Ranked};
use crate::shard::WordHash;

/// About as many bytes of counts make a bucket: what somebody reads in vain who wants only a part of one.
const BUCKET_BYTES: u64 = 8 << 10;
/// The quotes, the colon, the comma, and a digit.
const COUNT_BYTES_MIN: u64 = 5;
/// Digits of each number of a mark.
pub(crate) const MARK_DIGITS: usize = 16;

/// Counts, and the most frequent words if they are wanted.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) counts: Counts,
    pub(crate) top: Option<Vec<Ranked>>,
}

/// Where a bucket begins, and what stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes.
    pub(crate) at: u64,
    /// The sum of all counts before it.
    pub(crate) words: u64,
}

/// A word in its bucket. The order is that in which they are written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry<'a> {
    bucket: u32,
    word: &'a str,
    count: u64,
}

impl Sum {
    /// Writes it as one JSON value.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let buckets = buckets(&self.counts);
        let sorted = sorted(&self.counts, buckets);
        let begin = format!(r#"{{"words":{},"distinct":{}"#, self.counts.words(), self.counts.distinct());
        let top = self.top.as_ref().map(|top| serde_json::to_string(top).map(|top| format!(r#","top":{top}"#))).transpose()?;
        let end = format!(r#"{},"counts":{{"#, top.unwrap_or_default());
        to.write_all(begin.as_bytes())?;
        if buckets > 1 {
            write_index(&mut to, &marks(&sorted, buckets)?, begin.len() + end.len())?;
        }
        to.write_all(end.as_bytes())?;
        for (n, entry) in sorted.iter().enumerate() {
            if n > 0 {
                to.write_all(b",")?;
            }
            entry.write(&mut to)?;
        }
        to.write_all(b"}}")?;
        to.flush()
    }
}

impl Entry<'_> {
    fn write(&self, mut to: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut to, self.word)?;
        to.write_all(b":")?;
        Ok(serde_json::to_writer(to, &self.count)?)
    }
}

/// How many buckets there are, from the length of the words.
fn buckets(counts: &Counts) -> u32 {
    let bytes: u64 = counts.iter().map(|(word, _)| word.len() as u64 + COUNT_BYTES_MIN).sum();
    u32::try_from(bytes.div_ceil(BUCKET_BYTES)).unwrap_or(u32::MAX).max(1)
}

fn sorted(counts: &Counts, buckets: u32) -> Vec<Entry<'_>> {
    let bucket = |word| if buckets == 1 { 0 } else { WordHash::of(word).place(buckets) };
    let mut all: Vec<_> = counts.iter().map(|(word, count)| Entry { bucket: bucket(word), word, count }).collect();
    all.sort_unstable();
    all
}

/// The marks of all buckets, as if the counts began at byte 0.
fn marks(sorted: &[Entry<'_>], buckets: u32) -> io::Result<Vec<Mark>> {
    let buckets = usize::try_from(buckets).unwrap_or(usize::MAX);
    let mut marks = Vec::with_capacity(buckets + 1);
    let mut mark = Mark::default();
    for entry in sorted {
        marks.resize(marks.len().max(entry.bucket as usize + 1), mark);
        let mut length = Length(1);
        entry.write(&mut length)?;
        mark = Mark { at: mark.at + length.0, words: mark.words + entry.count };
    }
    // There is no comma behind the last one.
    mark.at = mark.at.saturating_sub(1);
    marks.resize(buckets + 1, mark);
    Ok(marks)
}

/// Writes the index, between what has `others` bytes together and stands before the counts, too.
fn write_index(mut to: impl Write, marks: &[Mark], others: usize) -> io::Result<()> {
    let (open, close) = (format!(r#","index":{{"buckets":{},"marks":""#, marks.len() - 1), r#""}"#);
    let counts_at = (others + open.len() + marks.len() * 2 * MARK_DIGITS + close.len()) as u64;
    to.write_all(open.as_bytes())?;
    for mark in marks {
        write!(to, "{:0MARK_DIGITS$x}{:0MARK_DIGITS$x}", counts_at + mark.at, mark.words)?;
    }
    to.write_all(close.as_bytes())
}

/// Counts the bytes that are written to it.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
