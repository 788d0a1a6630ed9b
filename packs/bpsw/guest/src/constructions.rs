//! The task types that search among subsets of primes: `pomerance_modular`, `lambda_plus_one`.

use std::collections::BTreeMap;

use bpsw_arith::lambda_plus_one::LambdaPlusOne;
use bpsw_arith::natural::Natural;
use bpsw_arith::pomerance_modular::{Moduli, SuitingPrimes, SuitingProducts};
use serde::{Deserialize, Serialize};

use crate::certificates::Claim;
use crate::failure::GuestError;
use crate::families::{Found, run};

/// Λ where the input does not say: 720,720.
const LAMBDA: [LambdaFactor; 6] = [
    LambdaFactor { base: 2, exponent: 4 },
    LambdaFactor { base: 3, exponent: 2 },
    LambdaFactor { base: 5, exponent: 1 },
    LambdaFactor { base: 7, exponent: 1 },
    LambdaFactor { base: 11, exponent: 1 },
    LambdaFactor { base: 13, exponent: 1 },
];
/// The primes of both moduli where the input does not say.
const M_PRIMES: [u32; 5] = [13, 17, 29, 37, 41];
const N_PRIMES: [u32; 5] = [3, 7, 11, 19, 23];

/// A prime power of Λ.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LambdaFactor {
    base: u32,
    exponent: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LambdaInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    from: String,
    to: String,
    lambda_factors: Option<Vec<LambdaFactor>>,
}

#[derive(Debug, Serialize)]
struct LambdaOutput {
    task_type: &'static str,
    from: String,
    to: String,
    lambda_factors: Vec<LambdaFactor>,
    checked: u64,
    counters: BTreeMap<String, u64>,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
    digest: String,
}

/// The result of a range of subsets, as JSON.
pub(crate) fn lambda_plus_one(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: LambdaInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let lambda_factors = input.lambda_factors.unwrap_or_else(|| LAMBDA.to_vec());
    let pairs: Vec<(u32, u32)> = lambda_factors.iter().map(|factor| (factor.base, factor.exponent)).collect();
    let family = LambdaPlusOne::new(&pairs).ok_or(GuestError::Lambda)?;
    let (found, digest) = run(family, &input.from, &input.to)?;
    let Found { checked, counters, counterexamples, blocks, .. } = found;
    let (task_type, from, to) = ("lambda_plus_one", input.from, input.to);
    let output = LambdaOutput { task_type, from, to, lambda_factors, checked, counters, counterexamples, blocks, digest };
    serde_json::to_vec(&output).map_err(GuestError::Output)
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Primes,
    Products,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModularInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    phase: Phase,
    from: String,
    to: String,
    m_primes: Option<Vec<u32>>,
    n_primes: Option<Vec<u32>>,
    /// What products are made of.
    primes: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct ModularOutput {
    task_type: &'static str,
    phase: Phase,
    from: String,
    to: String,
    m_primes: Vec<u32>,
    n_primes: Vec<u32>,
    /// Those that were found, or what products were made of.
    primes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modulus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<bool>,
    checked: u64,
    counters: BTreeMap<String, u64>,
    counterexamples: Vec<Claim>,
    blocks: Vec<String>,
    digest: String,
}

/// The result of a range of subsets, as JSON.
pub(crate) fn pomerance_modular(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: ModularInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let m_primes = input.m_primes.unwrap_or_else(|| M_PRIMES.to_vec());
    let n_primes = input.n_primes.unwrap_or_else(|| N_PRIMES.to_vec());
    let moduli = Moduli::new(m_primes.clone(), n_primes.clone()).ok_or(GuestError::Moduli)?;
    let (mut modulus, mut calibration) = (None, None);
    let (found, digest, primes) = match (input.phase, input.primes) {
        (Phase::Primes, None) => {
            let (mut found, digest) = run(SuitingPrimes::new(moduli), &input.from, &input.to)?;
            let primes = std::mem::take(&mut found.primes);
            (found, digest, primes)
        }
        (Phase::Products, Some(primes)) => {
            let parse =
                |(index, text): (usize, &String)| Natural::parse(text).map_err(|error| GuestError::ProductPrime { index, error });
            let parsed = primes.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
            let family = SuitingProducts::new(&moduli, parsed).ok_or(GuestError::ProductPrimes)?;
            (modulus, calibration) = (Some(family.modulus().to_string()), Some(family.is_calibration()));
            let (found, digest) = run(family, &input.from, &input.to)?;
            (found, digest, primes)
        }
        (Phase::Primes, Some(_)) | (Phase::Products, None) => return Err(GuestError::Phase),
    };
    let Found { checked, counters, counterexamples, blocks, .. } = found;
    let output = ModularOutput {
        task_type: "pomerance_modular",
        phase: input.phase,
        from: input.from,
        to: input.to,
        m_primes,
        n_primes,
        primes,
        modulus,
        calibration,
        checked,
        counters,
        counterexamples,
        blocks,
        digest,
    };
    serde_json::to_vec(&output).map_err(GuestError::Output)
}
