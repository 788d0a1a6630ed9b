//! Baillie-PSW arithmetic: a strong test to base 2 and a strong Lucas-Selfridge test for every odd number of a range.
//!
//! ```text
//! search::Search ──sieve (hunt) or census (small factors)──► below 2^64: lanes, several words at a time ──► tally, digest of each block
//!                                                       └──► above: verdict::judge ──► strong + lucas over wide::Wide<N>, second opinion
//! family::FamilySearch ──chernick, pomerance_lite──────────────► product::Product, of known primes ──► tally, digest of each block
//!                      └─lambda_plus_one, pomerance_modular──► subsets::Subsets, meeting in the middle ─┘
//! ```
//!
//! Nothing here reads clocks, files or randomness: equal input gives equal output on every target, so that results of
//! different workers can be compared byte for byte. Nothing here knows of wasm or JSON either.

mod blocks;
mod census;
pub mod chernick;
pub mod digest;
pub mod family;
pub mod lambda_plus_one;
pub mod lanes;
pub mod lucas;
pub mod natural;
pub mod pomerance_lite;
pub mod pomerance_modular;
pub mod product;
pub mod random;
pub mod ring;
pub mod search;
pub mod sieve;
pub mod split;
pub mod strong;
pub mod subsets;
pub mod verdict;
pub mod wide;
pub mod word;
