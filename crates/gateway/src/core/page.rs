//! Pages of a list that has two sources, for example live jobs from the scheduler and finished ones from an index.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::ids;

/// A place in a list that runs from the newest entry to the oldest; those of one millisecond run from the largest id down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) created_ms: u64,
    pub(crate) id: String,
}

impl Place {
    /// The opaque form.
    pub(crate) fn cursor(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1:{}:{}", self.created_ms, self.id))
    }

    /// Reads the opaque form.
    pub(crate) fn parse(cursor: &str) -> Result<Self, Problem> {
        Self::decode(cursor).ok_or_else(|| Problem::new(Code::CursorInvalid, "cursor: this is none that a list gave out"))
    }

    fn decode(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (created_ms, id) = text.strip_prefix("1:")?.split_once(':')?;
        ids::check(id).ok()?;
        Some(Self { created_ms: created_ms.parse().ok()?, id: id.to_owned() })
    }
}

/// What one source gave.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    /// Items that come after the place that was asked for, newest first.
    pub(crate) items: Vec<(Place, T)>,
    /// How far the source was read, where it may hold more that fits; `None` when it holds nothing more.
    pub(crate) read_to: Option<Place>,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<Place>,
}

/// Puts the sources together. A job that ended meanwhile may come from both: the finished one is the newer truth.
///
/// Nothing is shown beyond the place to which a source was read, because that source may hold something in between.
pub(crate) fn merge<T>(live: Part<T>, finished: Part<T>, limit: usize) -> Page<T> {
    // The list runs downwards, so that the nearer end is the larger place.
    let horizon = [live.read_to.clone(), finished.read_to.clone()].into_iter().flatten().max();
    let mut seen = BTreeSet::new();
    let mut all: Vec<(Place, T)> = Vec::new();
    for (place, item) in finished.items.into_iter().chain(live.items) {
        let reached = horizon.as_ref().is_none_or(|end| place >= *end);
        if reached && seen.insert(place.clone()) {
            all.push((place, item));
        }
    }
    all.sort_by(|a, b| b.0.cmp(&a.0));
    let cut = all.len() > limit;
    all.truncate(limit);
    let next = if cut { all.last().map(|(place, _)| place.clone()) } else { horizon };
    Page { items: all.into_iter().map(|(_, item)| item).collect(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(ms: u64) -> Place {
        Place { created_ms: ms, id: format!("j{ms}") }
    }

    fn part(items: &[u64], read_to: Option<u64>) -> Part<String> {
        Part { items: items.iter().map(|ms| (place(*ms), format!("{ms}"))).collect(), read_to: read_to.map(place) }
    }

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        let place = Place { created_ms: 1_700_000_000_000, id: "run:step[3]@2".into() };
        assert_eq!(Place::parse(&place.cursor()), Ok(place));
        for bad in
            ["", "x", "!!", &URL_SAFE_NO_PAD.encode("1:x:y"), &URL_SAFE_NO_PAD.encode("2:1:y"), &URL_SAFE_NO_PAD.encode("1:1:")]
        {
            assert_eq!(Place::parse(bad).map_err(|p| p.code), Err("cursor_invalid".into()), "{bad}");
        }
    }

    #[test]
    fn two_sources_are_one_list() {
        let page = merge(part(&[9, 4], None), part(&[8, 3], None), 10);
        assert_eq!(page.items, ["9", "8", "4", "3"]);
        assert_eq!(page.next, None);
        let page = merge(part(&[9, 4], None), part(&[8, 3], None), 3);
        assert_eq!((page.items.len(), page.next), (3, Some(place(4))));
    }

    #[test]
    fn a_job_that_ended_meanwhile_is_shown_once() {
        let live = Part { items: vec![(place(5), "live")], read_to: None };
        let finished = Part { items: vec![(place(5), "finished")], read_to: None };
        assert_eq!(merge(live, finished, 10).items, ["finished"]);
    }

    #[test]
    fn nothing_is_shown_beyond_what_was_read() {
        // The index was read down to 6 only: what is live and older than that waits for the next page.
        let page = merge(part(&[9, 4], None), part(&[8, 7], Some(6)), 10);
        assert_eq!(page.items, ["9", "8", "7"]);
        assert_eq!(page.next, Some(place(6)));
    }
}
