//! Reading an index from the newest entry down, as far as one page of a list needs it.

use busbar_api::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{IndexRange, Records};

use crate::core::page::{Part, Place};
use crate::error::of_store;

/// How many entries of the index are read at once.
const CHUNK: u64 = 200;
/// How many entries of the index one page passes over at most while it looks for what fits.
const SCANNED_MAX: u64 = 10_000;

/// Where the reading of an index is.
pub(crate) struct Scan<'a> {
    index: String,
    after: Option<&'a Place>,
    offset: u64,
    read_to: Option<Place>,
    done: bool,
}

impl<'a> Scan<'a> {
    /// From the newest entry that comes after the place.
    pub(crate) fn new(index: String, after: Option<&'a Place>) -> Self {
        Self { index, after, offset: 0, read_to: None, done: false }
    }

    /// The next places, or `None` where there are no more, or enough were passed over.
    pub(crate) async fn next(&mut self, records: &impl Records) -> Result<Option<Vec<Place>>, Problem> {
        if self.done || self.offset >= SCANNED_MAX {
            return Ok(None);
        }
        let max = self.after.map_or(i64::MAX, |place| i64::try_from(place.created_ms).unwrap_or(i64::MAX));
        let range = IndexRange { min: 0, max, newest_first: true, offset: self.offset, limit: CHUNK };
        let entries = records.index(&self.index, range).await.map_err(|error| of_store(&error))?;
        self.offset += CHUNK;
        self.done = (entries.len() as u64) < CHUNK;
        let places = entries
            .into_iter()
            .map(|entry| Place { created_ms: u64::try_from(entry.score).unwrap_or(0), id: entry.member })
            .filter(|place| self.after.is_none_or(|after| place < after))
            .collect::<Vec<_>>();
        self.read_to = places.last().cloned().or(self.read_to.take());
        Ok(Some(places))
    }

    /// What was read, with word on how far.
    pub(crate) fn part<T>(self, items: Vec<(Place, T)>) -> Part<T> {
        Part { items, read_to: self.read_to.filter(|_| !self.done) }
    }
}

/// How many items a page shall have.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(PAGE_ITEMS_DEFAULT);
    if (1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(Code::FieldInvalid, format!("limit: 1 to {PAGE_ITEMS_MAX}, not {limit}")))
}

/// The place after which a page begins.
pub(crate) fn after(cursor: Option<&str>) -> Result<Option<Place>, Problem> {
    cursor.filter(|cursor| !cursor.is_empty()).map(Place::parse).transpose()
}
