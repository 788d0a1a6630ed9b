//! A range of odd numbers, searched block by block, and what is told of it.

use crate::blocks::{BLOCKS_MAX, is_end, percent};
use crate::census::Factors;
use crate::digest::{BlockDigest, Passed, combined};
use crate::lanes;
use crate::natural::{Natural, ParseError};
use crate::sieve::Sieve;
use crate::verdict::{Certificate, Effort, Judgement, Verdict, judge};

/// The longest range: more belongs into several jobs.
pub const ODDS_MAX: u64 = 100_000_000;
/// The highest bound of a sieve.
pub const SIEVE_MAX: u32 = 1 << 24;

/// How a range is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sieves by the primes up to a bound and runs the Lucas half only where base 2 was passed.
    Hunt {
        /// The bound.
        sieve_to: u32,
    },
    /// Judges both halves of every odd number and counts the pseudoprimes of each.
    Census,
}

/// All odd numbers above 1 between two ends, both inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    from: Natural,
    to: Natural,
    first_odd: Natural,
    count: u64,
}

/// Why a range is not searched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The lower end is no number.
    #[error("from {0}")]
    From(ParseError),
    /// The upper end is no number.
    #[error("to {0}")]
    To(ParseError),
    /// The ends are the wrong way round.
    #[error("from is greater than to")]
    Reversed,
    /// More than `ODDS_MAX` numbers.
    #[error("the range from..to holds more than {ODDS_MAX} odd numbers; split it into several jobs")]
    TooLong,
}

/// A search that cannot go on from where it is said to have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint is not of this search")]
pub struct ResumeError;

/// What was found up to the end of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Odd numbers above 1 up to there, sieved ones included.
    pub checked: u64,
    /// Those that pass both halves and that nothing proves composite: primes below 2^64, probable primes above.
    pub primes: u64,
    /// Composites that pass the strong base-2 test; complete in a census only.
    pub strong_base_two: u64,
    /// Composites that pass the strong Lucas test; complete in a census only.
    pub strong_lucas: u64,
    /// Composites that pass both, with proof.
    pub counterexamples: Vec<(Natural, Certificate)>,
    /// The digest of each block, as [`crate::digest`] defines it.
    pub blocks: Vec<String>,
}

impl Range {
    /// The range between two decimal numbers.
    ///
    /// # Errors
    /// Which end is wrong and why, or what is wrong with the range.
    pub fn parse(from: &str, to: &str) -> Result<Self, RangeError> {
        let from = Natural::parse(from).map_err(RangeError::From)?;
        let to = Natural::parse(to).map_err(RangeError::To)?;
        if from > to {
            return Err(RangeError::Reversed);
        }
        let first_odd = match from.plus(u64::from(!from.is_odd())) {
            one if one == Natural::from(1) => Natural::from(3),
            odd => odd,
        };
        let count = if first_odd > to {
            0
        } else {
            // A distance that does not fit 64 bits is certainly too long.
            to.distance_from(&first_odd).ok_or(RangeError::TooLong)? / 2 + 1
        };
        if count > ODDS_MAX {
            return Err(RangeError::TooLong);
        }
        Ok(Self { from, to, first_odd, count })
    }

    /// How many odd numbers above 1 it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bound of the sieve where none is asked for: higher where a test costs more.
    pub fn usual_sieve(&self) -> u32 {
        match self.to.bits() {
            ..=64 => 1 << 18,
            65..=128 => 1 << 19,
            _ => 1 << 20,
        }
    }

    /// Odd numbers in a block: about a second's work or less, but so many that there are no more than `BLOCKS_MAX`. It depends on the
    /// range alone, because the digests do.
    pub fn block(&self) -> u32 {
        let usual = match self.to.bits() {
            ..=64 => 1 << 20,
            65..=128 => 1 << 16,
            129..=512 => 1 << 12,
            _ => 1 << 9,
        };
        usual.max(u32::try_from(self.count.div_ceil(BLOCKS_MAX)).expect("ranges are bounded"))
    }

    /// The digest of the whole search: SHA-256 (lower-case hex) of a line that names the search and a line for each block.
    pub fn digest(&self, mode: Mode, blocks: &[String]) -> String {
        let head = match mode {
            Mode::Hunt { sieve_to } => format!("bpsw hunt {} {} {sieve_to}", self.from, self.to),
            Mode::Census => format!("bpsw census {} {}", self.from, self.to),
        };
        combined(&head, blocks)
    }
}

/// A search under way.
pub struct Search {
    range: Range,
    mode: Mode,
    tester: Tester,
    findings: Findings,
}

impl Search {
    /// From the beginning.
    pub fn new(range: Range, mode: Mode) -> Self {
        Self::going_on(range, mode, Findings::default())
    }

    /// From the end of a block, where an earlier search of the same range in the same mode had found this.
    ///
    /// # Errors
    /// [`ResumeError`] where the findings end at no end of a block.
    pub fn resumed(range: Range, mode: Mode, findings: Findings) -> Result<Self, ResumeError> {
        let fits = is_end(findings.checked, range.count, range.block().into(), findings.blocks.len());
        if fits { Ok(Self::going_on(range, mode, findings)) } else { Err(ResumeError) }
    }

    fn going_on(range: Range, mode: Mode, findings: Findings) -> Self {
        let tester = Tester::new(&range, mode, findings.checked);
        Self { range, mode, tester, findings }
    }

    /// What was found up to now.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Searches the next block and says whether there was one left. `alive` is called now and then with the percentage of the
    /// whole range that is behind.
    pub fn step(&mut self, alive: &mut dyn FnMut(i32)) -> bool {
        let left = self.range.count - self.findings.checked;
        if left == 0 {
            return false;
        }
        let length = u32::try_from(left).unwrap_or(u32::MAX).min(self.range.block());
        let mut block = Block { findings: &mut self.findings, digest: BlockDigest::new() };
        let first = self.range.first_odd.plus(2 * block.findings.checked);
        let (count, behind) = (self.range.count, block.findings.checked);
        let mut told = |done: u32| alive(percent(behind + u64::from(done), count));
        match first.to_u64().filter(|first| first.checked_add(2 * u64::from(length)).is_some()) {
            Some(first) => self.tester.words(first, length, &mut block, &mut told),
            None => self.tester.naturals(&first, length, &mut block, &mut told),
        }
        let digest = block.digest.finish();
        self.findings.blocks.push(digest);
        self.findings.checked += u64::from(length);
        alive(percent(self.findings.checked, count));
        true
    }

    /// Everything, when no block is left, and the digest of it.
    pub fn finish(mut self, alive: &mut dyn FnMut(i32)) -> (Findings, String) {
        while self.step(alive) {}
        let digest = self.range.digest(self.mode, &self.findings.blocks);
        (self.findings, digest)
    }
}

/// A block's tally.
struct Block<'a> {
    findings: &'a mut Findings,
    digest: BlockDigest,
}

impl Block<'_> {
    /// A number below 2^64, at an offset of the block.
    fn word(&mut self, offset: u32, base_two: bool, lucas: bool) {
        match (base_two, lucas) {
            (true, true) => self.findings.primes += 1,
            (true, false) => self.findings.strong_base_two += 1,
            (false, true) => self.findings.strong_lucas += 1,
            (false, false) => {}
        }
        if base_two {
            self.digest.add(offset, if lucas { Passed::Prime } else { Passed::BaseTwoOnly });
        }
    }

    fn natural(&mut self, offset: u32, number: &Natural, judgement: &Judgement) {
        let found = &mut *self.findings;
        let passed = match &judgement.verdict {
            Verdict::Prime => Passed::Prime,
            Verdict::ProbablePrime => Passed::ProbablePrime,
            Verdict::Composite => Passed::BaseTwoOnly,
            Verdict::Counterexample(certificate) => {
                found.counterexamples.push((number.clone(), certificate.clone()));
                Passed::Counterexample
            }
        };
        match passed {
            Passed::Prime | Passed::ProbablePrime => found.primes += 1,
            Passed::BaseTwoOnly | Passed::Counterexample => {
                found.strong_base_two += u64::from(judgement.base_two);
                found.strong_lucas += u64::from(judgement.lucas.is_some_and(|lucas| lucas.passes()));
            }
        }
        if judgement.base_two {
            self.digest.add(offset, passed);
        }
    }
}

/// What tests the numbers of a block, with the memory that it uses again for the next one.
enum Tester {
    Hunt { sieve: Sieve, survivors: Vec<u32> },
    Census { factors: Factors },
}

/// Numbers that are sieved and tested together: as many bits fit a core's nearest cache.
const SEGMENT: u32 = 1 << 18;
/// The same in a census, which marks each number by two bytes and must never be without a sign of life for long.
const CENSUS_SEGMENT: u32 = 1 << 16;

impl Tester {
    fn new(range: &Range, mode: Mode, done: u64) -> Self {
        match mode {
            Mode::Hunt { sieve_to } => {
                let sieve = Sieve::new(&range.first_odd.plus(2 * done), range.count - done, sieve_to.min(SIEVE_MAX));
                Self::Hunt { sieve, survivors: Vec::new() }
            }
            Mode::Census => Self::Census { factors: Factors::new() },
        }
    }

    /// Numbers below 2^64.
    fn words(&mut self, first: u64, length: u32, block: &mut Block<'_>, told: &mut dyn FnMut(u32)) {
        match self {
            Self::Hunt { sieve, survivors } => {
                in_segments(length, SEGMENT, told, |start, length| {
                    survivors.clear();
                    sieve.segment(length, survivors);
                    hunted(first, start, survivors, block);
                });
            }
            Self::Census { factors } => {
                in_segments(length, CENSUS_SEGMENT, told, |start, length| taken(factors, first, start, length, block));
            }
        }
    }

    /// Numbers of any size, one by one.
    fn naturals(&mut self, first: &Natural, length: u32, block: &mut Block<'_>, told: &mut dyn FnMut(u32)) {
        let mut visit = |offset: u32, effort| {
            if offset.is_multiple_of(8) {
                told(offset);
            }
            let number = first.plus(2 * u64::from(offset));
            block.natural(offset, &number, &judge(&number, effort));
        };
        match self {
            Self::Hunt { sieve, survivors } => {
                survivors.clear();
                sieve.segment(length, survivors);
                survivors.iter().for_each(|offset| visit(*offset, Effort::Needed));
            }
            Self::Census { .. } => (0..length).for_each(|offset| visit(offset, Effort::Both)),
        }
    }
}

fn in_segments(length: u32, segment: u32, told: &mut dyn FnMut(u32), mut visit: impl FnMut(u32, u32)) {
    for start in (0..length).step_by(segment as usize) {
        told(start);
        visit(start, segment.min(length - start));
    }
}

/// Base 2 for the survivors, Lucas for what passes it.
fn hunted(first: u64, start: u32, survivors: &[u32], block: &mut Block<'_>) {
    let number = |offset: &u32| first + 2 * u64::from(start + offset);
    let numbers: Vec<u64> = survivors.iter().map(number).collect();
    let (mut base_two, mut lucas) = (Vec::with_capacity(numbers.len()), Vec::new());
    lanes::strong_base_two(&numbers, &mut base_two);
    let offsets: Vec<u32> = survivors.iter().zip(&base_two).filter(|(_, passes)| **passes).map(|(offset, _)| *offset).collect();
    lanes::lucas(&offsets.iter().map(number).collect::<Vec<_>>(), &mut lucas);
    offsets.iter().zip(lucas).for_each(|(offset, lucas)| block.word(start + offset, true, lucas));
}

/// Both halves of every number: in full, where no small factor shows that it fails.
fn taken(factors: &mut Factors, first: u64, start: u32, length: u32, block: &mut Block<'_>) {
    let first = first + 2 * u64::from(start);
    let number = |offset: &u32| first + 2 * u64::from(*offset);
    let (mut for_base_two, mut for_lucas) = (Vec::new(), Vec::new());
    if Factors::suits(first) {
        factors.segment(first, length);
        for offset in 0..length {
            let excluded = factors.excluded(offset);
            if !excluded.base_two {
                for_base_two.push(offset);
            }
            if !excluded.lucas {
                for_lucas.push(offset);
            }
        }
    } else {
        for_base_two.extend(0..length);
        for_lucas.extend(0..length);
    }
    let (mut base_two, mut lucas) = (Vec::new(), Vec::new());
    lanes::strong_base_two(&for_base_two.iter().map(number).collect::<Vec<_>>(), &mut base_two);
    lanes::lucas(&for_lucas.iter().map(number).collect::<Vec<_>>(), &mut lucas);
    let passing = |offsets: Vec<u32>, passes: Vec<bool>| {
        offsets.into_iter().zip(passes).filter(|(_, passes)| *passes).map(|(offset, _)| offset)
    };
    let mut lucas = passing(for_lucas, lucas).peekable();
    for offset in passing(for_base_two, base_two) {
        while let Some(earlier) = lucas.next_if(|other| *other < offset) {
            block.word(start + earlier, false, true);
        }
        block.word(start + offset, true, lucas.next_if_eq(&offset).is_some());
    }
    lucas.for_each(|offset| block.word(start + offset, false, true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lucas::Lucas;

    /// None is known, so this one is made up: what matters is how it is told.
    #[test]
    fn a_counterexample_is_listed_counted_and_digested() {
        let certificate = Certificate::StrongBase(3);
        let judgement =
            Judgement { base_two: true, lucas: Some(Lucas::Passes(5)), verdict: Verdict::Counterexample(certificate.clone()) };
        let mut findings = Findings::default();
        let mut block = Block { findings: &mut findings, digest: BlockDigest::new() };
        block.natural(0, &Natural::from(99), &judgement);
        let mut expected = BlockDigest::new();
        expected.add(0, Passed::Counterexample);
        assert_eq!(block.digest.finish(), expected.finish());
        assert_eq!(findings.counterexamples, [(Natural::from(99), certificate)]);
        assert_eq!((findings.primes, findings.strong_base_two, findings.strong_lucas), (0, 1, 1));
    }

    #[test]
    fn a_search_goes_on_from_the_end_of_any_block() {
        let from = 10_u64.pow(18);
        let range = Range::parse(&from.to_string(), &(from + 6_000_000).to_string()).expect("a range");
        for mode in [Mode::Hunt { sieve_to: 1000 }, Mode::Census] {
            let whole = Search::new(range.clone(), mode).finish(&mut |_| {});
            let mut search = Search::new(range.clone(), mode);
            let mut steps = 0;
            loop {
                // Each block by a search of its own.
                search = Search::resumed(range.clone(), mode, search.findings().clone()).expect("its own");
                if !search.step(&mut |_| {}) {
                    break;
                }
                steps += 1;
            }
            assert_eq!(steps, 3);
            assert_eq!(search.finish(&mut |_| {}), whole);
        }
        let foreign = Findings { checked: 17, ..Findings::default() };
        assert!(Search::resumed(range, Mode::Census, foreign).is_err());
    }
}
