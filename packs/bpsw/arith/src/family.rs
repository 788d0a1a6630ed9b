//! What the searches among products have in common: items from one end to another, block by block, counters, and a digest of each block.

use std::collections::BTreeMap;

use crate::blocks::{BLOCKS_MAX, is_end, percent};
use crate::digest::combined;
use crate::natural::{Natural, ParseError};
use crate::product::{Halves, Product};

/// The most items of one search: more belongs into several jobs.
pub const ITEMS_MAX: u64 = 100_000_000;

/// A kind of product.
pub trait Family {
    /// What names a search of it and all its parameters, but not the ends.
    fn name(&self) -> String;
    /// Items that a block usually has.
    fn block(&self) -> u64;
    /// Every counter that can come up, so that results have all of them.
    fn counters(&self) -> &'static [&'static str];
    /// The last item that there is, if there is one.
    fn last(&self) -> Option<Natural> {
        None
    }
    /// Looks at `count` items from `first` on.
    fn search(&self, first: &Natural, count: u64, tally: &mut Tally);
}

/// What a block's products come to.
#[derive(Debug, Default)]
pub struct Tally {
    counters: BTreeMap<&'static str, u64>,
    lines: Vec<String>,
    primes: Vec<Natural>,
    counterexamples: Vec<Product>,
}

impl Tally {
    /// Adds to a counter.
    pub fn count(&mut self, counter: &'static str, more: u64) {
        *self.counters.entry(counter).or_default() += more;
    }

    /// Counts one where a condition holds.
    pub fn count_if(&mut self, counter: &'static str, holds: bool) {
        self.count(counter, u64::from(holds));
    }

    /// Adds a line to the block's digest.
    pub fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    /// A prime that was looked for.
    pub fn prime(&mut self, prime: Natural) {
        self.primes.push(prime);
    }

    /// Counts how a product fares in the halves, and adds the line `head` with the bits of both.
    pub fn halves(&mut self, head: &str, product: Product) {
        let halves = product.halves();
        self.count_if("half_fermat", halves.base_two);
        self.count_if("half_lucas", halves.lucas);
        self.end(head, &[halves.base_two, halves.lucas], halves, product);
    }

    /// Counts how a Carmichael number fares in the halves and in what the Lucas half asks of it, and adds the line `head` with the bits of all.
    pub fn carmichael(&mut self, head: &str, product: Product) {
        let t1 = product.signs_suit();
        let t2 = t1 && product.ranks_suit();
        let halves = product.halves();
        self.count_if("spsp2", halves.base_two);
        self.count_if("t1_pass", t1);
        self.count_if("t2_pass", t2);
        self.count_if("lucas_pass", halves.lucas);
        self.end(head, &[halves.base_two, t1, t2, halves.lucas], halves, product);
    }

    fn end(&mut self, head: &str, bits: &[bool], halves: Halves, product: Product) {
        let bits: String = bits.iter().map(|holds| if *holds { '1' } else { '0' }).collect();
        self.line(format!("{head}:{bits}"));
        if halves.base_two && halves.lucas {
            self.counterexamples.push(product);
        }
    }
}

/// Why items are not searched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemsError {
    /// The first is no number.
    #[error("from {0}")]
    From(ParseError),
    /// The last is no number.
    #[error("to {0}")]
    To(ParseError),
    /// The ends are the wrong way round.
    #[error("from is greater than to")]
    Reversed,
    /// More than `ITEMS_MAX`.
    #[error("from..to are more than {ITEMS_MAX}; split them into several jobs")]
    TooMany,
    /// There are not so many.
    #[error("to is beyond the last item, {0}")]
    Beyond(Natural),
}

/// What was found up to the end of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyFindings {
    /// Items up to there.
    pub checked: u64,
    /// By name; all names of the family once a block is done.
    pub counters: BTreeMap<String, u64>,
    /// Primes that were looked for.
    pub primes: Vec<Natural>,
    /// Products that pass both halves.
    pub counterexamples: Vec<Product>,
    /// SHA-256 of each block: of a line with the index of its first item, and of its lines.
    pub blocks: Vec<String>,
}

/// A search under way.
pub struct FamilySearch<F> {
    family: F,
    first: Natural,
    last: Natural,
    count: u64,
    findings: FamilyFindings,
}

impl<F: Family> FamilySearch<F> {
    /// From the beginning; both ends are inclusive.
    ///
    /// # Errors
    /// [`ItemsError`] says what is wrong with the ends.
    pub fn new(family: F, from: &str, to: &str) -> Result<Self, ItemsError> {
        let first = Natural::parse(from).map_err(ItemsError::From)?;
        let last = Natural::parse(to).map_err(ItemsError::To)?;
        if first > last {
            return Err(ItemsError::Reversed);
        }
        if let Some(end) = family.last().filter(|end| last > *end) {
            return Err(ItemsError::Beyond(end));
        }
        let count = last.distance_from(&first).filter(|distance| *distance < ITEMS_MAX).ok_or(ItemsError::TooMany)? + 1;
        Ok(Self { family, first, last, count, findings: FamilyFindings::default() })
    }

    /// Takes over what an earlier search of the same items had found at the end of a block, and says whether it is one.
    pub fn resume(&mut self, findings: FamilyFindings) -> bool {
        let fits = is_end(findings.checked, self.count, self.block(), findings.blocks.len());
        if fits {
            self.findings = findings;
        }
        fits
    }

    /// What was found up to now.
    pub fn findings(&self) -> &FamilyFindings {
        &self.findings
    }

    /// How much is behind, in percent.
    pub fn percent(&self) -> i32 {
        percent(self.findings.checked, self.count)
    }

    /// Searches the next block and says whether there was one left.
    pub fn step(&mut self) -> bool {
        let done = self.findings.checked;
        let length = (self.count - done).min(self.block());
        if length == 0 {
            return false;
        }
        let mut tally = Tally::default();
        self.family.search(&self.first.plus(done), length, &mut tally);
        for counter in self.family.counters() {
            let more = tally.counters.get(counter).copied().unwrap_or(0);
            *self.findings.counters.entry((*counter).to_owned()).or_default() += more;
        }
        self.findings.primes.append(&mut tally.primes);
        self.findings.counterexamples.append(&mut tally.counterexamples);
        self.findings.blocks.push(combined(&done.to_string(), &tally.lines));
        self.findings.checked += length;
        true
    }

    /// SHA-256 of a line that names the search and a line for each block.
    pub fn digest(&self) -> String {
        combined(&format!("bpsw {} {} {}", self.family.name(), self.first, self.last), &self.findings.blocks)
    }

    fn block(&self) -> u64 {
        self.family.block().max(self.count.div_ceil(BLOCKS_MAX))
    }
}
