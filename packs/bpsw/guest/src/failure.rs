//! Everything that ends the guest with exit 1.

use std::io;

use bpsw_arith::family::ItemsError;
use bpsw_arith::natural::ParseError;
use bpsw_arith::search::{RangeError, SIEVE_MAX};
use bpsw_arith::split::SplitError;

/// The longest input, in bytes.
pub(crate) const INPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no result. Its text is the one line on standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error("stdin: {0}")]
    Read(io::Error),
    #[error("input: longer than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("input: {0}")]
    Input(serde_json::Error),
    #[error("input: {0}")]
    Range(RangeError),
    #[error("input: {0}")]
    Split(SplitError),
    #[error("input: {0}")]
    Items(ItemsError),
    #[error("input: factors must be 3, 4 or 5")]
    FactorCount,
    #[error(
        "input: target_digits and prime_digits do not suit: primes of 3 digits or more, at least twice as many digits in the product"
    )]
    Digits,
    #[error(
        "input: lambda_factors must be distinct primes with exponents from 1 on, their product below 2^63 with at most 100000 divisors"
    )]
    Lambda,
    #[error(
        "input: m_primes must be primes that are 1 modulo 4, without 5, and n_primes that are 3; distinct, from 1 to 128 of each"
    )]
    Moduli,
    #[error("input: products are made of primes, which the input names; where primes are looked for, it does not")]
    Phase,
    #[error("input: primes[{index}] {error}")]
    ProductPrime { index: usize, error: ParseError },
    #[error("input: primes must be distinct, from 1 to 4096, suit both moduli and not be of n_primes")]
    ProductPrimes,
    #[error("input: sieve_to must be from 3 to {SIEVE_MAX}")]
    SieveBound,
    #[error("input: a census has no sieve_to: it judges every number")]
    CensusSieves,
    #[error("input: numbers[{index}] {error}")]
    Number { index: usize, error: ParseError },
    #[error("input: numbers[{index}] is even, or below 3")]
    NotOdd { index: usize },
    #[error("input: unknown task_type '{0}'")]
    UnknownType(String),
    #[error("the result that is to be checked: {0}")]
    Artifact(io::Error),
    #[error("output: {0}")]
    Output(serde_json::Error),
    #[error("stdout: {0}")]
    Write(io::Error),
}
