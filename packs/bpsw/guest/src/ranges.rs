//! The task types `main_odds` and `large_numbers`: every odd number of a range.

use bpsw_arith::search::{Findings, Mode, Range, SIEVE_MAX, Search};
use serde::{Deserialize, Serialize};

use crate::certificates::Claim;
use crate::failure::GuestError;
use crate::host::{keep_checkpoint, last_checkpoint, tell_progress};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    task_type: RangeType,
    from: String,
    to: String,
    mode: SearchMode,
    sieve_to: Option<u32>,
}

/// Both types are ranges of odd numbers; they differ in the size of the numbers, which the search sees for itself.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum RangeType {
    MainOdds,
    LargeNumbers,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum SearchMode {
    Hunt,
    Census,
}

#[derive(Debug, Serialize)]
struct Output {
    task_type: RangeType,
    from: String,
    to: String,
    mode: SearchMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    sieve_to: Option<u32>,
    checked: u64,
    primes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    spsp2: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slpsp: Option<u64>,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
    digest: String,
}

/// What a later attempt goes on from.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    checked: u64,
    primes: u64,
    spsp2: u64,
    slpsp: u64,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
}

/// The result of a range, as JSON.
pub(crate) fn search(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: Input = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let range = Range::parse(&input.from, &input.to).map_err(GuestError::Range)?;
    let mode = match (input.mode, input.sieve_to) {
        (SearchMode::Hunt, Some(bound)) if !(3..=SIEVE_MAX).contains(&bound) => return Err(GuestError::SieveBound),
        (SearchMode::Hunt, bound) => Mode::Hunt { sieve_to: bound.unwrap_or_else(|| range.usual_sieve()) },
        (SearchMode::Census, None) => Mode::Census,
        (SearchMode::Census, Some(_)) => return Err(GuestError::CensusSieves),
    };
    let (found, digest) = run(&range, mode);
    serde_json::to_vec(&output(input, mode, found, digest)).map_err(GuestError::Output)
}

fn run(range: &Range, mode: Mode) -> (Findings, String) {
    let kept = last_checkpoint::<Checkpoint>().and_then(Checkpoint::findings);
    let resumed = kept.and_then(|found| Search::resumed(range.clone(), mode, found).ok());
    let mut search = resumed.unwrap_or_else(|| Search::new(range.clone(), mode));
    while search.step(&mut tell_progress) {
        keep_checkpoint(&Checkpoint::of(search.findings()));
    }
    search.finish(&mut tell_progress)
}

impl Checkpoint {
    fn of(found: &Findings) -> Self {
        Self {
            checked: found.checked,
            primes: found.primes,
            spsp2: found.strong_base_two,
            slpsp: found.strong_lucas,
            counterexamples: found.counterexamples.iter().map(|(n, certificate)| Claim::of(n, certificate)).collect(),
            blocks: found.blocks.clone(),
        }
    }

    fn findings(self) -> Option<Findings> {
        Some(Findings {
            checked: self.checked,
            primes: self.primes,
            strong_base_two: self.spsp2,
            strong_lucas: self.slpsp,
            counterexamples: self.counterexamples.iter().map(Claim::parse).collect::<Result<_, _>>().ok()?,
            blocks: self.blocks,
        })
    }
}

fn output(input: Input, mode: Mode, found: Findings, digest: String) -> Output {
    let Input { task_type, from, to, .. } = input;
    // A hunt has not looked at every composite, so it has no counts of pseudoprimes to give.
    let counted = |count| (input.mode == SearchMode::Census).then_some(count);
    let sieve_to = match mode {
        Mode::Hunt { sieve_to } => Some(sieve_to),
        Mode::Census => None,
    };
    Output {
        task_type,
        from,
        to,
        mode: input.mode,
        sieve_to,
        checked: found.checked,
        primes: found.primes,
        spsp2: counted(found.strong_base_two),
        slpsp: counted(found.strong_lucas),
        counterexamples: found.counterexamples.iter().map(|(n, certificate)| Claim::of(n, certificate)).collect(),
        blocks: found.blocks,
        digest,
    }
}
