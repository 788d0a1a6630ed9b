//! Counting what was uploaded: ranges of artifacts, in runs of `wordcount.count` that build on one another.
//!
//! ```text
//!  artifacts ─► ranges ─► run 1 ─ sums ─► run 2 ─ sums ─► run 3 ─► words, distinct, top
//!                           └─ a first result     └─ a better one
//! ```
//!
//! Each run adds up its own ranges and the sums of the run before, so that each ends with the exact result of what was counted until then, and there is
//! no bound on how many runs there are. They grow: the first result comes early, and most of the work is done in few runs.

use busbar_api::RunView;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::partial::Partial;
use crate::client::Client;
use crate::failure::Failure;
use crate::runs::{Wanted, output, run_and_hear};

const WORKFLOW: &str = "wordcount.count";
/// As many as the workflow takes.
const PARTS_MAX: usize = 800;
/// The parts of the first run, and how many times as many the next one has.
const PARTS_FIRST: usize = 16;
const GROWTH: usize = 4;
/// What one job counts: at most what the workflow allows, and no less than what is worth a job.
const PART_BYTES_MAX: u64 = 16 << 20;
const PART_BYTES_MIN: u64 = 128 << 10;
/// Into so many parts everything is cut where they are not too large or too small then.
const PARTS_WANTED: u64 = 64;

/// A range of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Part {
    pub(crate) artifact: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Which words count, and how many are listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) top: u32,
    pub(crate) stop_words: Vec<String>,
    pub(crate) min_length: u32,
}

/// What a run gives back.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Total {
    pub(crate) words: u64,
    pub(crate) distinct: u64,
    pub(crate) top: Vec<TopWord>,
    pub(crate) sums: Vec<Sum>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TopWord {
    pub(crate) word: String,
    pub(crate) count: u64,
}

/// Where counts are: the job whose result they are.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Sum {
    pub(crate) artifact: String,
    pub(crate) bytes: u64,
}

/// What is known after a run.
pub(crate) struct Counted<'a> {
    pub(crate) total: &'a Total,
    pub(crate) run: &'a RunView,
    /// Bytes that are counted, of how many.
    pub(crate) bytes: u64,
    pub(crate) of: u64,
}

/// The ranges of artifacts, given with their sizes.
pub(crate) fn parts(artifacts: &[(String, u64)]) -> Vec<Part> {
    let total: u64 = artifacts.iter().map(|(_, bytes)| bytes).sum();
    let size = total.div_ceil(PARTS_WANTED).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let ranges = |(artifact, bytes): &(String, u64)| {
        let (artifact, bytes) = (artifact.clone(), *bytes);
        (0..bytes.div_ceil(size)).map(move |part| Part {
            artifact: artifact.clone(),
            start: part * size,
            end: bytes.min((part + 1) * size),
        })
    };
    artifacts.iter().flat_map(ranges).collect()
}

/// Counts the parts; `tell` hears of the result so far after each run but the last.
///
/// # Errors
/// The first run that does not succeed.
pub(crate) fn count(
    client: &Client,
    parts: &[Part],
    options: &Options,
    mut tell: impl FnMut(&Counted<'_>) -> Result<(), Failure>,
) -> Result<(Total, Vec<RunView>), Failure> {
    let of = parts.iter().map(|part| part.end - part.start).sum();
    let mut total = Total { words: 0, distinct: 0, top: Vec::new(), sums: Vec::new() };
    let mut runs = Vec::new();
    let mut bytes = 0;
    for wave in waves(parts) {
        let input = json!({
            "parts": wave, "sums": total.sums, "top": options.top,
            "stop_words": options.stop_words, "min_length": options.min_length,
        });
        let mut partial = Partial::of(client);
        let run = run_and_hear(client, "words", &[Wanted { workflow: WORKFLOW, input }], |change| partial.hear(change))?.pop();
        let run = run.ok_or_else(|| Failure::Failed("a run was started, and is not there".to_owned()))?;
        total = output(client, &run)?;
        bytes += wave.iter().map(|part| part.end - part.start).sum::<u64>();
        if bytes < of {
            tell(&Counted { total: &total, run: &run, bytes, of })?;
        }
        runs.push(run);
    }
    Ok((total, runs))
}

/// The parts of each run.
fn waves(parts: &[Part]) -> impl Iterator<Item = &[Part]> {
    let (mut rest, mut size) = (parts, PARTS_FIRST);
    std::iter::from_fn(move || {
        let (wave, later) = rest.split_at(size.min(rest.len()));
        (rest, size) = (later, (size * GROWTH).min(PARTS_MAX));
        (!wave.is_empty()).then_some(wave)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sizes: &[u64]) -> Vec<Part> {
        let artifacts: Vec<(String, u64)> = sizes.iter().enumerate().map(|(n, bytes)| (n.to_string(), *bytes)).collect();
        parts(&artifacts)
    }

    #[test]
    fn parts_cover_everything_in_sizes_that_suit() {
        let range = |artifact: &str, start, end| Part { artifact: artifact.to_owned(), start, end };
        assert_eq!(of(&[10]), [range("0", 0, 10)]);
        assert_eq!(
            of(&[PART_BYTES_MIN + 1, 5]),
            [range("0", 0, PART_BYTES_MIN), range("0", PART_BYTES_MIN, PART_BYTES_MIN + 1), range("1", 0, 5),]
        );
        assert_eq!(of(&[64 << 20]).len(), 64);
        assert_eq!(of(&[2 << 30]).len(), 128);
    }

    #[test]
    fn runs_grow_and_are_bounded() {
        let sizes: Vec<usize> = waves(&of(&[40 << 30])).map(<[Part]>::len).collect();
        assert_eq!(sizes, [16, 64, 256, 800, 800, 624]);
        assert_eq!(waves(&of(&[1])).count(), 1);
    }
}
