//! Pomerance's construction in its two phases: primes that suit two moduli, then products of those that an earlier hunt has found.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::decimal;
use crate::failure::Failure;

/// The last subset of the five primes of N that are the pack's own choice.
const OWN_SUBSETS_LAST: u64 = 31;
/// How far a hunt for primes goes without a word: as far as its jobs can.
const SUBSETS_LAST_MAX: u64 = (1 << 39) - 1;
/// How far a hunt for products goes without a word.
const PRODUCTS_LAST_MAX: u64 = 4_095;
/// The pack tries each subset with all those of the smallest primes: at most so many, and at most half of them.
const NEAR_MAX: usize = 18;

/// What is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Phase {
    /// Primes that suit both moduli: the range is of subsets of the primes of N, by number.
    #[default]
    Primes,
    /// Products of such primes: the range is of subsets of the larger ones, by number.
    Products,
}

#[derive(Debug, Args)]
pub(super) struct ConstructionArgs {
    /// Of pomerance_modular: what is looked for.
    #[arg(long, value_enum, default_value_t = Phase::Primes)]
    phase: Phase,
    /// Of pomerance_modular: the primes of M, each 1 modulo 4, with commas between them; the pack's own unless given.
    #[arg(long, value_name = "P,P,…", value_delimiter = ',')]
    m_primes: Vec<u32>,
    /// Of pomerance_modular: the primes of N, each 3 modulo 4; the pack's own unless given.
    #[arg(long, value_name = "P,P,…", value_delimiter = ',')]
    n_primes: Vec<u32>,
    /// Of the products: they are made of the primes that an earlier hunt has found, for its moduli.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["primes", "m_primes", "n_primes"])]
    primes_of: Option<String>,
    /// Of the products: they are made of these primes.
    #[arg(long, value_name = "P,P,…", value_delimiter = ',', value_parser = decimal::parse)]
    primes: Vec<String>,
}

/// Both moduli, by their primes, and the primes that suit them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Suiting {
    /// The primes of M; none where they are the pack's own.
    pub(super) m: Vec<u32>,
    /// The primes of N; none where they are the pack's own.
    pub(super) n: Vec<u32>,
    /// What was found, or what products are made of.
    pub(super) primes: Vec<String>,
}

/// What is looked for, and among what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Construction {
    phase: Phase,
    suiting: Suiting,
}

impl ConstructionArgs {
    /// Whether nothing was said of it.
    pub(super) fn is_silent(&self) -> bool {
        self.phase == Phase::Primes && self.m_primes.is_empty() && self.n_primes.is_empty() && !self.names_primes()
    }

    fn names_primes(&self) -> bool {
        self.primes_of.is_some() || !self.primes.is_empty()
    }

    /// With what `found` tells of an earlier hunt, where one is named.
    ///
    /// # Errors
    /// What does not go together; and an earlier hunt that cannot be had, or found nothing to go on with.
    pub(super) fn resolve(&self, found: impl FnOnce(&str) -> Result<Suiting, Failure>) -> Result<Construction, Failure> {
        let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
        match self.phase {
            Phase::Primes if self.names_primes() => return usage("--primes and --primes-of are for --phase products"),
            Phase::Products if !self.names_primes() => return usage("--phase products needs --primes or --primes-of"),
            Phase::Primes | Phase::Products => {}
        }
        let Some(run_id) = &self.primes_of else {
            let (m, n, primes) = (self.m_primes.clone(), self.n_primes.clone(), self.primes.clone());
            return Ok(Construction { phase: self.phase, suiting: Suiting { m, n, primes } });
        };
        let mut suiting = found(run_id)?;
        // A prime of N divides no product that is -1 modulo N.
        suiting.primes.retain(|prime| !suiting.n.iter().any(|own| own.to_string() == *prime));
        if suiting.primes.is_empty() {
            return Err(Failure::Failed(format!("the hunt {run_id} has found no prime that products can be made of")));
        }
        Ok(Construction { phase: self.phase, suiting })
    }
}

impl Construction {
    /// What the input of each job has beside its range.
    pub(super) fn options(&self) -> Map<String, Value> {
        let (phase, Suiting { m, n, primes }) = (self.phase, &self.suiting);
        let phase = match phase {
            Phase::Primes => "primes",
            Phase::Products => "products",
        };
        let members = [
            ("phase", Some(json!(phase))),
            ("m_primes", (!m.is_empty()).then(|| json!(m))),
            ("n_primes", (!n.is_empty()).then(|| json!(n))),
            ("primes", (!primes.is_empty()).then(|| json!(primes))),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// How far the range goes from 0 without a word.
    pub(super) fn usual_last(&self) -> u64 {
        let (count, most) = match self.phase {
            Phase::Primes if self.suiting.n.is_empty() => return OWN_SUBSETS_LAST,
            Phase::Primes => (self.suiting.n.len(), SUBSETS_LAST_MAX),
            Phase::Products => {
                let primes = self.suiting.primes.len();
                (primes - (primes / 2).min(NEAR_MAX), PRODUCTS_LAST_MAX)
            }
        };
        u32::try_from(count).ok().and_then(|count| 1_u64.checked_shl(count)).map_or(most, |subsets| (subsets - 1).min(most))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        construction: ConstructionArgs,
    }

    fn construction(line: &str, found: &[&str]) -> Result<Construction, String> {
        let parsed = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).expect(line);
        let primes = found.iter().map(|prime| (*prime).to_owned()).collect();
        let earlier = |run: &str| {
            assert_eq!(run, "r");
            Ok(Suiting { m: vec![13, 41], n: vec![3, 7], primes })
        };
        parsed.construction.resolve(earlier).map_err(|failure| failure.to_string())
    }

    #[test]
    fn products_are_made_of_what_an_earlier_hunt_has_found() {
        let products = construction("--phase products --primes-of r", &["3", "83", "227"]).expect("good");
        let options = json!({"phase": "products", "m_primes": [13, 41], "n_primes": [3, 7], "primes": ["83", "227"]});
        assert_eq!((json!(products.options()), products.usual_last()), (options, 1));
        let told = construction("--phase products --primes-of r", &["3"]).expect_err("3 divides N");
        assert!(told.contains("the hunt r has found no prime"), "{told}");
    }

    #[test]
    fn what_is_not_said_is_left_to_the_pack() {
        let usual = construction("", &[]).expect("good");
        assert_eq!((json!(usual.options()), usual.usual_last()), (json!({"phase": "primes"}), 31));
        let own = construction("--m-primes 13,17 --n-primes 3,7,11", &[]).expect("good");
        assert_eq!(
            (json!(own.options()), own.usual_last()),
            (json!({"phase": "primes", "m_primes": [13, 17], "n_primes": [3, 7, 11]}), 7)
        );
    }

    #[test]
    fn the_range_is_bounded_however_many_primes_there_are() {
        let with = |phase, n: usize, primes: usize| {
            let suiting = Suiting { m: Vec::new(), n: vec![3; n], primes: vec!["83".to_owned(); primes] };
            Construction { phase, suiting }.usual_last()
        };
        assert_eq!([with(Phase::Primes, 20, 0), with(Phase::Primes, 128, 0)], [(1 << 20) - 1, SUBSETS_LAST_MAX]);
        assert_eq!([with(Phase::Products, 0, 9), with(Phase::Products, 0, 4_096)], [31, PRODUCTS_LAST_MAX]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in ["--phase products", "--primes 83", "--primes-of r"] {
            assert!(construction(line, &[]).is_err(), "{line}");
        }
        for line in ["--phase products --primes-of r --primes 83", "--phase both", "--m-primes x"] {
            assert!(Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).is_err(), "{line}");
        }
    }
}
