//! Reading an index, from the newest entry down or from the oldest up, as far as one page of a list needs it.

use busbar_api::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{IndexRange, Records};

use crate::core::page::{Part, Place};
use crate::error::of_store;

/// How many entries of the index are read at once.
const CHUNK: u64 = 200;
/// How many entries of the index one page passes over at most while it looks for what fits.
const SCANNED_MAX: u64 = 10_000;

/// Which entries of an index are read, and in which order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// From this time on.
    pub(crate) since_ms: u64,
    /// Before this time.
    pub(crate) until_ms: u64,
    pub(crate) newest_first: bool,
}

/// Where the reading of an index is.
pub(crate) struct Scan<'a> {
    index: String,
    span: Span,
    after: Option<&'a Place>,
    offset: u64,
    read_to: Option<Place>,
    done: bool,
}

impl<'a> Scan<'a> {
    /// Through all entries, from the newest that comes after the place.
    pub(crate) fn new(index: String, after: Option<&'a Place>) -> Self {
        Self::over(index, Span { since_ms: 0, until_ms: u64::MAX, newest_first: true }, after)
    }

    /// Through some entries, from the first that comes after the place.
    pub(crate) fn over(index: String, span: Span, after: Option<&'a Place>) -> Self {
        Self { index, span, after, offset: 0, read_to: None, done: false }
    }

    /// The next places, or `None` where there are no more, or enough were passed over.
    pub(crate) async fn next(&mut self, records: &impl Records) -> Result<Option<Vec<Place>>, Problem> {
        if self.done || self.offset >= SCANNED_MAX {
            return Ok(None);
        }
        let entries = records.index(&self.index, self.range()).await.map_err(|error| of_store(&error))?;
        self.offset += CHUNK;
        self.done = (entries.len() as u64) < CHUNK;
        let newest_first = self.span.newest_first;
        let places = entries
            .into_iter()
            .map(|entry| Place { created_ms: u64::try_from(entry.score).unwrap_or(0), id: entry.member })
            .filter(|place| self.after.is_none_or(|after| if newest_first { place < after } else { place > after }))
            .collect::<Vec<_>>();
        self.read_to = places.last().cloned().or(self.read_to.take());
        Ok(Some(places))
    }

    fn range(&self) -> IndexRange {
        let Span { since_ms, until_ms, newest_first } = self.span;
        let score = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let (mut min, mut max) = (score(since_ms), score(until_ms.saturating_sub(1)));
        match self.after {
            Some(after) if newest_first => max = max.min(score(after.created_ms)),
            Some(after) => min = min.max(score(after.created_ms)),
            None => {}
        }
        IndexRange { min, max, newest_first, offset: self.offset, limit: CHUNK }
    }

    /// How far was read, where there may be more.
    pub(crate) fn read_to(&self) -> Option<Place> {
        self.read_to.clone().filter(|_| !self.done)
    }

    /// What was read, with word on how far.
    pub(crate) fn part<T>(self, items: Vec<(Place, T)>) -> Part<T> {
        Part { read_to: self.read_to(), items }
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
