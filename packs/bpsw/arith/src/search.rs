//! A range of odd numbers, searched from end to end, and what is told of it.

use sha2::{Digest, Sha256};

use crate::natural::{Natural, ParseError};
use crate::sieve::Sieve;
use crate::verdict::{Certificate, Effort, Judgement, Verdict, judge, judge_word};

/// The longest range: more belongs into several jobs.
pub const ODDS_MAX: u64 = 100_000_000;

/// How a range is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sieves first and runs the Lucas half only where base 2 was passed.
    Hunt,
    /// Runs both halves on every odd number and counts the pseudoprimes of each.
    Census,
}

/// All odd numbers above 1 between two ends, both inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    first_odd: Natural,
    count: u64,
    /// Bit length of the upper end, on which the sieve's bound depends.
    bits: u32,
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

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Odd numbers above 1 in the range, sieved ones included.
    pub checked: u64,
    /// Those that pass both halves and that nothing proves composite: primes below 2^64, probable primes above.
    pub primes: u64,
    /// Composites that pass the strong base-2 test; complete in a census only.
    pub strong_base_two: u64,
    /// Composites that pass the strong Lucas test; complete in a census only.
    pub strong_lucas: u64,
    /// Composites that pass both, with proof.
    pub counterexamples: Vec<(Natural, Certificate)>,
    /// SHA-256 (lower-case hex) over `n:verdict\n`, ascending, of all numbers that were tested and pass base 2.
    pub digest: String,
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
        Ok(Self { first_odd, count, bits: to.bits() })
    }

    /// How many odd numbers above 1 it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Searches it, calling `progress` with each new whole percentage from 0 to 100.
    pub fn search(&self, mode: Mode, progress: &mut dyn FnMut(i32)) -> Findings {
        let mut tally = Tally::new(self.count, progress);
        let effort = match mode {
            Mode::Hunt => Effort::Needed,
            Mode::Census => Effort::Both,
        };
        let small = self.first_odd.to_u64();
        let visit = |index: u64| match small.and_then(|first| first.checked_add(2 * index)) {
            Some(number) => tally.count(index, &judge_word(number, effort), || Natural::from(number)),
            None => {
                let number = self.first_odd.plus(2 * index);
                let judgement = judge(&number, effort);
                tally.count(index, &judgement, || number);
            }
        };
        match mode {
            Mode::Hunt => Sieve::new(&self.first_odd, self.count, self.sieve_bound()).for_each(visit),
            Mode::Census => (0..self.count).for_each(visit),
        }
        tally.findings()
    }

    /// Primes up to this bound are sieved by: more where a test costs more. It depends on the range alone, because
    /// the digest of a hunt depends on it.
    fn sieve_bound(&self) -> u32 {
        match self.bits {
            ..=64 => 1 << 16,
            65..=128 => 1 << 17,
            _ => 1 << 20,
        }
    }
}

struct Tally<'a> {
    findings: Findings,
    digest: Sha256,
    told: Option<u64>,
    progress: &'a mut dyn FnMut(i32),
}

impl<'a> Tally<'a> {
    fn new(checked: u64, progress: &'a mut dyn FnMut(i32)) -> Self {
        let findings = Findings {
            checked,
            primes: 0,
            strong_base_two: 0,
            strong_lucas: 0,
            counterexamples: Vec::new(),
            digest: String::new(),
        };
        Self { findings, digest: Sha256::new(), told: None, progress }
    }

    fn count(&mut self, index: u64, judgement: &Judgement, number: impl FnOnce() -> Natural) {
        self.tell(index * 100 / self.findings.checked);
        let found = &mut self.findings;
        let passes_lucas = judgement.lucas.is_some_and(|lucas| lucas.passes());
        match judgement.verdict {
            Verdict::Prime | Verdict::ProbablePrime => found.primes += 1,
            Verdict::Composite | Verdict::Counterexample(_) => {
                found.strong_base_two += u64::from(judgement.base_two);
                found.strong_lucas += u64::from(passes_lucas);
            }
        }
        if !judgement.base_two {
            return;
        }
        let number = number();
        self.digest.update(format!("{number}:{}\n", judgement.verdict.word()));
        if let Verdict::Counterexample(certificate) = judgement.verdict {
            found.counterexamples.push((number, certificate));
        }
    }

    fn tell(&mut self, percent: u64) {
        if self.told != Some(percent) {
            self.told = Some(percent);
            (self.progress)(i32::try_from(percent).expect("at most 100"));
        }
    }

    fn findings(mut self) -> Findings {
        self.tell(100);
        let bytes: [u8; 32] = self.digest.finalize().into();
        self.findings.digest = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lucas::Lucas;

    /// None is known, so this one is made up: what matters is how it is told.
    #[test]
    fn a_counterexample_is_listed_counted_and_digested() {
        let certificate = Certificate::StrongBase(3);
        let judgement = Judgement {
            base_two: true,
            lucas: Some(Lucas::Passes { discriminant: 5, congruences: true }),
            verdict: Verdict::Counterexample(certificate),
        };
        let mut progress = |_| {};
        let mut tally = Tally::new(1, &mut progress);
        tally.count(0, &judgement, || Natural::from(99));
        let found = tally.findings();
        assert_eq!(found.counterexamples, [(Natural::from(99), certificate)]);
        assert_eq!((found.primes, found.strong_base_two, found.strong_lucas), (0, 1, 1));
        let line: [u8; 32] = Sha256::digest("99:counterexample\n").into();
        assert_eq!(found.digest, line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}
