//! What a run has counted while it still counts: the words of the parts that are done.
//!
//! The result of a part may have tens of megabytes. How many words it has stands at its beginning, and no more of it is read.

use busbar_api::{RunChange, StepChange, StepState};

use crate::client::{Client, encode};
use crate::render::{counted, grouped};

/// The step that counts parts.
const MAP: &str = "map";
/// What each result begins with, and how much of it holds that and the number.
const BEGINNING: &[u8] = b"{\"words\":";
const LOOKED_AT: usize = 64;

/// The sum of what was seen.
pub(super) struct Partial<'a> {
    client: &'a Client,
    sum: Sum,
}

/// Words, of so many parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    words: u64,
    parts: u64,
}

impl<'a> Partial<'a> {
    pub(super) fn of(client: &'a Client) -> Self {
        Self { client, sum: Sum::default() }
    }

    /// Looks at the parts that are done by now, and says what all of them have together.
    pub(super) fn hear(&mut self, change: &RunChange) -> String {
        for job_id in change.changes.iter().filter_map(counted_part) {
            let beginning = self.client.get_beginning(&format!("/api/v1/jobs/{}/result", encode(job_id)), LOOKED_AT);
            // Without it there is nothing to tell yet: the run tells it at its end.
            if let Some(words) = beginning.ok().as_deref().and_then(words_of) {
                self.sum = Sum { words: self.sum.words.saturating_add(words), parts: self.sum.parts + 1 };
            }
        }
        self.sum.told()
    }
}

impl Sum {
    fn told(self) -> String {
        match self.parts {
            0 => String::new(),
            parts => format!("{} words in {} so far", grouped(self.words), counted(parts, "part")),
        }
    }
}

/// The job of a part that is done.
fn counted_part(step: &StepChange) -> Option<&str> {
    let is_done = step.step == MAP && step.item.is_some() && step.state == StepState::Succeeded;
    step.job_id.as_deref().filter(|_| is_done)
}

/// The number of words, from the beginning of a result.
fn words_of(beginning: &[u8]) -> Option<u64> {
    let rest = beginning.strip_prefix(BEGINNING)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_at_the_beginning() {
        assert_eq!(words_of(br#"{"words":1234567,"distinct":8,"counts":{"and":40"#), Some(1_234_567));
        for other in [&b"{\"words\":12"[..], b"{\"words\":,", b"{\"distinct\":1,", b"", b"null"] {
            assert_eq!(words_of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn only_parts_that_are_done_count() {
        let step = |step: &str, item: Option<u32>, state| StepChange {
            step: step.to_owned(),
            item,
            state,
            attempt: 1,
            job_id: Some("r:map[3]@1".to_owned()),
            error: None,
            items: None,
        };
        assert_eq!(counted_part(&step("map", Some(3), StepState::Succeeded)), Some("r:map[3]@1"));
        for other in [
            step("map", None, StepState::Succeeded),
            step("map", Some(3), StepState::Running),
            step("reduce", Some(3), StepState::Succeeded),
        ] {
            assert_eq!(counted_part(&other), None, "{other:?}");
        }
        assert_eq!(Sum { words: 3_200, parts: 2 }.told(), "3,200 words in 2 parts so far");
        assert_eq!(Sum::default().told(), "");
    }
}
