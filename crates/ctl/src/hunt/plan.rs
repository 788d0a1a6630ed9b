//! What a hunt searches: its kind and range as the input of a run of `bpsw.search`.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::construction::{Construction, ConstructionArgs};
use super::decimal;
use crate::failure::Failure;
use crate::render::grouped;

/// As many jobs as a hunt has at most, and the most numbers of each, as the pack says.
const PARTS_MAX: u64 = 10_000;
const CHUNK_MAX: u32 = 200_000_000;

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Every odd number of a range; numbers of machine size and somewhat above.
    MainOdds,
    /// The same, for numbers of hundreds of digits.
    LargeNumbers,
    /// Chernick's products (6k+1)(12k+1)(18k+1): the range is of k. A calibration.
    Chernick,
    /// Random products under Pomerance's first condition: the range is of seeds. A calibration.
    PomeranceLite,
    /// Pomerance's construction: primes that suit it, or products of these; the range is of subsets of primes, by number.
    PomeranceModular,
    /// Carmichael numbers after Erdős: the range is of subsets of primes, by number.
    LambdaPlusOne,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// What is searched.
    #[arg(long, value_enum, default_value_t = Kind::MainOdds)]
    pub(super) kind: Kind,
    /// Where the range begins. Without it each kind begins where nothing is known: numbers above 2^64. Everything below 2^64 has been
    /// verified by others: a range there is a check of this machine, and no hunt.
    #[arg(long, value_name = "N", value_parser = decimal::parse)]
    from: Option<String>,
    /// Where it ends, inclusive. Without it the range is of a usual length for its kind.
    #[arg(long, value_name = "N", value_parser = decimal::parse)]
    to: Option<String>,
    /// Judge every odd number in both halves, and count pseudoprimes, instead of sieving first.
    #[arg(long)]
    census: bool,
    /// Sieve by the primes up to this bound; without it the bound follows from the size of the numbers.
    #[arg(long, value_name = "N", conflicts_with = "census", value_parser = clap::value_parser!(u32).range(3..=1 << 24))]
    sieve_to: Option<u32>,
    /// About how long each job takes; a first one measures how fast a worker is.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=60))]
    chunk_seconds: u32,
    /// Numbers of each job, instead of measuring.
    #[arg(long, value_name = "N", conflicts_with = "chunk_seconds", value_parser = clap::value_parser!(u32).range(1..=i64::from(CHUNK_MAX)))]
    chunk: Option<u32>,
    /// Of chernick: how many factors the products have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=5))]
    factors: Option<u32>,
    /// Of pomerance_lite: how many digits the products have at least.
    #[arg(long, value_name = "N", default_value_t = 22)]
    target_digits: u32,
    /// Of pomerance_lite: how many digits their factors have.
    #[arg(long, value_name = "N", default_value_t = 7)]
    prime_digits: u32,
    #[command(flatten)]
    pub(super) construction: ConstructionArgs,
    /// Only workers of this pool check certificates; the topic job.bpsw.verify must list it. [default: trusted]
    #[arg(long, value_name = "POOL")]
    verify_pool: Option<String>,
}

impl Kind {
    /// Its name in the pack.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MainOdds => "main_odds",
            Self::LargeNumbers => "large_numbers",
            Self::Chernick => "chernick",
            Self::PomeranceLite => "pomerance_lite",
            Self::PomeranceModular => "pomerance_modular",
            Self::LambdaPlusOne => "lambda_plus_one",
        }
    }

    /// Whether it searches a range of odd numbers.
    const fn is_ranged(self) -> bool {
        matches!(self, Self::MainOdds | Self::LargeNumbers)
    }

    /// Where a hunt begins without a word, and how far it goes.
    fn usual(self, construction: &Construction) -> (String, u64) {
        match self {
            Self::MainOdds => ("100000000000000000001".to_owned(), 10_000_000_000),
            Self::LargeNumbers => (format!("1{:0>301}", 1), 200_000),
            // From here on the products of three factors are above 2^64.
            Self::Chernick => ("1000000".to_owned(), 100_000_000),
            Self::PomeranceLite => ("1".to_owned(), 9_999),
            Self::PomeranceModular => ("0".to_owned(), construction.usual_last()),
            Self::LambdaPlusOne => ("0".to_owned(), 4_095),
        }
    }
}

impl PlanArgs {
    /// The input of the run.
    ///
    /// # Errors
    /// What does not go together.
    pub(super) fn input(&self, construction: &Construction) -> Result<Value, Failure> {
        if (self.census || self.sieve_to.is_some()) && !self.kind.is_ranged() {
            return Err(Failure::Usage("--census and --sieve-to are for main_odds and large_numbers".to_owned()));
        }
        if self.factors.is_some() && self.kind != Kind::Chernick {
            return Err(Failure::Usage("--factors is for chernick".to_owned()));
        }
        if !self.construction.is_silent() && self.kind != Kind::PomeranceModular {
            return Err(Failure::Usage("--phase and what belongs to it are for pomerance_modular".to_owned()));
        }
        let (from, length) = self.kind.usual(construction);
        let from = self.from.clone().unwrap_or(from);
        let to = self.to.clone().unwrap_or_else(|| decimal::plus(&from, length));
        if (from.len(), &from) > (to.len(), &to) {
            return Err(Failure::Usage(format!("--from {from} is above --to {to}")));
        }
        self.fits(&from, &to)?;
        let mut input = json!({ "kind": self.kind.name(), "from": from, "to": to, "options": self.options(construction) });
        if self.kind.is_ranged() {
            input["mode"] = json!(if self.census { "census" } else { "hunt" });
        }
        match self.chunk {
            Some(chunk) => input["chunk"] = json!(chunk),
            None => input["seconds"] = json!(self.chunk_seconds),
        }
        if let Some(pool) = &self.verify_pool {
            input["verify_pool"] = json!(pool);
        }
        Ok(input)
    }

    /// Whether there are not too many jobs in a range, as far as that can be told before it is measured.
    fn fits(&self, from: &str, to: &str) -> Result<(), Failure> {
        let chunk = u64::from(self.chunk.unwrap_or(CHUNK_MAX));
        if decimal::distance(from, to).is_some_and(|distance| distance / chunk < PARTS_MAX) {
            return Ok(());
        }
        let (numbers, parts) = (grouped(PARTS_MAX * chunk), grouped(PARTS_MAX));
        Err(Failure::Usage(match self.chunk {
            Some(chunk) => {
                format!("a hunt has at most {parts} jobs, which is {numbers} numbers with --chunk {chunk}: the range is longer")
            }
            None => format!("a hunt is of at most {numbers} numbers: the range is longer"),
        }))
    }

    /// What the input of each job has beside its range.
    fn options(&self, construction: &Construction) -> Map<String, Value> {
        let mut options = Map::new();
        let mut set = |name: &str, value: Value| options.insert(name.to_owned(), value);
        match self.kind {
            Kind::MainOdds | Kind::LargeNumbers => {
                if let Some(bound) = self.sieve_to {
                    set("sieve_to", json!(bound));
                }
            }
            Kind::Chernick => {
                if let Some(factors) = self.factors {
                    set("factors", json!(factors));
                }
            }
            Kind::PomeranceLite => {
                set("target_digits", json!(self.target_digits));
                set("prime_digits", json!(self.prime_digits));
            }
            Kind::PomeranceModular => options = construction.options(),
            Kind::LambdaPlusOne => {}
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn input(line: &str) -> Result<Value, String> {
        let parsed = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()));
        parsed.expect(line).plan.input(&Construction::default()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_hunt_begins_where_nothing_is_known() {
        let usual = input("").expect("good");
        let expected = json!({"kind": "main_odds", "from": "100000000000000000001", "to": "100000000010000000001", "mode": "hunt",
            "options": {}, "seconds": 20});
        assert_eq!(usual, expected);
        let large = input("--kind large_numbers --sieve-to 100 --chunk 50").expect("good");
        assert_eq!(large["from"].as_str().map(str::len), Some(302));
        assert_eq!(
            (&large["options"], &large["chunk"], &large["seconds"]),
            (&json!({"sieve_to": 100}), &json!(50), &Value::Null)
        );
    }

    #[test]
    fn each_kind_has_options_of_its_own() {
        assert_eq!(input("--kind chernick --factors 4").expect("good")["options"], json!({"factors": 4}));
        let lite = input("--kind pomerance_lite").expect("good");
        assert_eq!((&lite["options"], &lite["mode"]), (&json!({"target_digits": 22, "prime_digits": 7}), &Value::Null));
        assert_eq!(input("--kind pomerance_modular").expect("good")["options"], json!({"phase": "primes"}));
        assert_eq!(input("--from 3 --to 1000 --census").expect("good")["mode"], json!("census"));
    }

    #[test]
    fn a_range_of_too_many_jobs_is_refused() {
        assert!(input("--from 0 --to 9999999 --chunk 1000").is_ok());
        let told = input("--from 0 --to 10000000 --chunk 1000").expect_err("a job too many");
        assert_eq!(told, "a hunt has at most 10,000 jobs, which is 10,000,000 numbers with --chunk 1000: the range is longer");
        let told = input("--from 3 --to 100000000000000000000000").expect_err("too long in any case");
        assert_eq!(told, "a hunt is of at most 2,000,000,000,000 numbers: the range is longer");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in
            ["--kind chernick --census", "--factors 3", "--from 10 --to 9", "--m-primes 13", "--kind chernick --phase products"]
        {
            assert!(input(line).is_err(), "{line}");
        }
    }
}
