//! The task types that search among products of known primes: `chernick`, `pomerance_lite`.

use std::collections::BTreeMap;

use bpsw_arith::chernick::Chernick;
use bpsw_arith::family::{Family, FamilyFindings, FamilySearch};
use bpsw_arith::natural::Natural;
use bpsw_arith::pomerance_lite::PomeranceLite;
use bpsw_arith::product::Product;
use bpsw_arith::verdict::Certificate;
use serde::{Deserialize, Serialize};

use crate::certificates::{Claim, Proof};
use crate::failure::GuestError;
use crate::host::{keep_checkpoint, last_checkpoint, tell_progress};

/// Factors of a product where the input does not say how many.
const FACTORS: u32 = 3;
/// Digits of a random product and of its primes where the input does not say how many.
const TARGET_DIGITS: u32 = 22;
const PRIME_DIGITS: u32 = 7;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChernickInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    from: String,
    to: String,
    factors: Option<u32>,
}

#[derive(Debug, Serialize)]
struct ChernickOutput {
    task_type: &'static str,
    from: String,
    to: String,
    factors: u32,
    checked: u64,
    counters: BTreeMap<String, u64>,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
    digest: String,
}

/// What was found, and what a checkpoint is.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    pub(crate) checked: u64,
    pub(crate) counters: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) primes: Vec<String>,
    pub(crate) counterexamples: Vec<Claim>,
    pub(crate) blocks: Vec<String>,
}

/// The result of a range of k, as JSON.
pub(crate) fn chernick(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: ChernickInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let factors = input.factors.unwrap_or(FACTORS);
    let family = Chernick::new(factors).ok_or(GuestError::FactorCount)?;
    let (found, digest) = run(family, &input.from, &input.to)?;
    let Found { checked, counters, counterexamples, blocks, .. } = found;
    let ChernickInput { from, to, .. } = input;
    let output = ChernickOutput { task_type: "chernick", from, to, factors, checked, counters, counterexamples, blocks, digest };
    serde_json::to_vec(&output).map_err(GuestError::Output)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PomeranceLiteInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    from: String,
    to: String,
    target_digits: Option<u32>,
    prime_digits: Option<u32>,
}

#[derive(Debug, Serialize)]
struct PomeranceLiteOutput {
    task_type: &'static str,
    from: String,
    to: String,
    target_digits: u32,
    prime_digits: u32,
    checked: u64,
    counters: BTreeMap<String, u64>,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
    digest: String,
}

/// The result of a range of seeds, as JSON.
pub(crate) fn pomerance_lite(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: PomeranceLiteInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let target_digits = input.target_digits.unwrap_or(TARGET_DIGITS);
    let prime_digits = input.prime_digits.unwrap_or(PRIME_DIGITS);
    let family = PomeranceLite::new(target_digits, prime_digits).ok_or(GuestError::Digits)?;
    let (found, digest) = run(family, &input.from, &input.to)?;
    let Found { checked, counters, counterexamples, blocks, .. } = found;
    let PomeranceLiteInput { from, to, .. } = input;
    let task_type = "pomerance_lite";
    let output = PomeranceLiteOutput {
        task_type,
        from,
        to,
        target_digits,
        prime_digits,
        checked,
        counters,
        counterexamples,
        blocks,
        digest,
    };
    serde_json::to_vec(&output).map_err(GuestError::Output)
}

/// Searches from the last checkpoint, or else from the beginning, to the end; gives the digest too.
pub(crate) fn run(family: impl Family, from: &str, to: &str) -> Result<(Found, String), GuestError> {
    let mut search = FamilySearch::new(family, from, to).map_err(GuestError::Items)?;
    if let Some(findings) = last_checkpoint::<Found>().and_then(Found::findings) {
        // One that does not fit is left alone, and the search begins anew.
        search.resume(findings);
    }
    tell_progress(search.percent());
    while search.step() {
        tell_progress(search.percent());
        keep_checkpoint(&Found::of(search.findings()));
    }
    Ok((Found::of(search.findings()), search.digest()))
}

impl Found {
    fn of(findings: &FamilyFindings) -> Self {
        let claim = |product: &Product| Claim::of(product.value(), &Certificate::Factors(product.factors().to_vec()));
        Self {
            checked: findings.checked,
            counters: findings.counters.clone(),
            primes: findings.primes.iter().map(Natural::to_string).collect(),
            counterexamples: findings.counterexamples.iter().map(claim).collect(),
            blocks: findings.blocks.clone(),
        }
    }

    fn findings(self) -> Option<FamilyFindings> {
        let product = |claim: &Claim| match &claim.certificate {
            Proof::Factors { factors } => {
                Product::new(factors.iter().map(|text| Natural::parse(text).ok()).collect::<Option<_>>()?)
            }
            Proof::StrongBase { .. } | Proof::LucasCongruence { .. } => None,
        };
        Some(FamilyFindings {
            checked: self.checked,
            counters: self.counters,
            primes: self.primes.iter().map(|text| Natural::parse(text).ok()).collect::<Option<_>>()?,
            counterexamples: self.counterexamples.iter().map(product).collect::<Option<_>>()?,
            blocks: self.blocks,
        })
    }
}
