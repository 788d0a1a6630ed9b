//! What others have computed about primes and pseudoprimes, against what we compute.

use bpsw_arith::digest::{BlockDigest, Passed};
use bpsw_arith::natural::Natural;
use bpsw_arith::search::{Findings, Mode, ODDS_MAX, Range, RangeError, Search};
use bpsw_arith::verdict::{Certificate, Effort, Verdict, judge, judge_word, proves_composite};
use num_bigint::BigUint;

const HUNT: Mode = Mode::Hunt { sieve_to: 1 << 16 };

fn search(from: &str, to: &str, mode: Mode) -> Findings {
    Search::new(Range::parse(from, to).expect("a range"), mode).finish(&mut |_| {}).0
}

fn number(text: &str) -> Natural {
    Natural::parse(text).expect("decimal")
}

fn ten_to(exponent: u32) -> BigUint {
    BigUint::from(10u32).pow(exponent)
}

fn hunt_primes(from: &BigUint, length: u32) -> u64 {
    search(&from.to_string(), &(from + length).to_string(), HUNT).primes
}

#[test]
fn primes_in_ranges_of_a_million() {
    assert_eq!(hunt_primes(&BigUint::from(3u32), 999_997), 78_497);
    assert_eq!(hunt_primes(&ten_to(12), 1_000_000), 36_249);
    assert_eq!(hunt_primes(&ten_to(15), 1_000_000), 28_845);
    assert_eq!(hunt_primes(&ten_to(18), 1_000_000), 24_280);
    assert_eq!(hunt_primes(&(BigUint::from(1u32) << 63), 1_000_000), 22_920);
}

#[test]
fn primes_beyond_words() {
    let from = ten_to(20) + 1u32;
    let found = search(&from.to_string(), &(&from + 19_998u32).to_string(), HUNT);
    assert_eq!((found.checked, found.primes), (10_000, 419));
    let few = search("100000000000000000001", "100000000000000000201", HUNT);
    assert_eq!(few.primes, 4);
    for tail in ["039", "129", "151", "193"] {
        let judgement = judge(&number(&format!("100000000000000000{tail}")), Effort::Needed);
        assert_eq!(judgement.verdict, Verdict::ProbablePrime);
    }
}

#[test]
fn primes_of_302_digits() {
    let from = ten_to(301) + 1u32;
    let found = search(&from.to_string(), &(&from + 850u32).to_string(), HUNT);
    assert_eq!((found.checked, found.primes), (426, 3));
    for tail in [531u32, 681, 847] {
        assert_eq!(judge(&number(&(ten_to(301) + tail).to_string()), Effort::Both).verdict, Verdict::ProbablePrime);
    }
}

/// Strong pseudoprimes to base 2: Pomerance, Selfridge and Wagstaff 1980. Strong Lucas pseudoprimes: Baillie and Wagstaff 1980.
#[test]
fn census_below_ten_million() {
    for (below, primes, base_two, lucas) in [(1_000_000, 78_497, 46, 58), (10_000_000, 664_578, 162, 178)] {
        let found = search("1", &(below - 1).to_string(), Mode::Census);
        assert_eq!((found.checked, found.primes), (below / 2 - 1, primes));
        // Each of them fails the other half, or it would count as a prime.
        assert_eq!((found.strong_base_two, found.strong_lucas), (base_two, lucas));
        assert_eq!(found.counterexamples, []);
    }
}

#[test]
#[ignore = "half a minute; `tools/bpsw-check` runs it"]
fn census_below_a_hundred_million() {
    let found = search("1", "99999999", Mode::Census);
    assert_eq!((found.checked, found.primes, found.strong_base_two), (49_999_999, 5_761_454, 488));
}

/// A census of numbers that small factors exclude agrees with one number at a time.
#[test]
fn a_census_misses_no_pseudoprime() {
    for n in [37_870_128_451u64, 46_493_311_411, 48_354_810_571, 800_484_227, 181_212_049_547, 836_237_054_267, 3_215_031_751] {
        let (from, to) = (n - 20_000, n + 20_000);
        let judged: Vec<_> = (from..=to).filter(|n| n % 2 == 1).map(|n| judge_word(n, Effort::Both)).collect();
        let composites = || judged.iter().filter(|judged| judged.verdict == Verdict::Composite);
        let found = search(&from.to_string(), &to.to_string(), Mode::Census);
        let base_two = composites().filter(|judged| judged.base_two).count() as u64;
        let lucas = composites().filter(|judged| judged.lucas.is_some_and(|lucas| lucas.passes())).count() as u64;
        assert_eq!((found.strong_base_two, found.strong_lucas), (base_two, lucas), "around {n}");
        assert!(base_two + lucas > 0, "{n} itself");
    }
}

#[test]
fn census_and_hunt_agree_beyond_words() {
    let from = ten_to(20) + 1u32;
    let (from, to) = (from.to_string(), (from + 1_998u32).to_string());
    let (census, hunt) = (search(&from, &to, Mode::Census), search(&from, &to, HUNT));
    assert_eq!((census.primes, census.checked), (hunt.primes, hunt.checked));
    assert_eq!((census.strong_base_two, census.strong_lucas), (0, 0));
    assert_eq!(census.blocks, hunt.blocks, "equal where no pseudoprime is sieved out");
}

#[test]
fn hunts_do_not_depend_on_where_they_are_cut() {
    let whole = search("18446744073709540001", "18446744073709570001", HUNT).primes;
    let below = search("18446744073709540001", "18446744073709551615", HUNT).primes;
    let above = search("18446744073709551616", "18446744073709570001", HUNT).primes;
    assert_eq!(whole, below + above);
}

/// Products that pass one half by construction (Pomerance's conditions, each alone).
#[test]
fn half_counterexamples() {
    for n in [37_870_128_451, 46_493_311_411, 48_354_810_571] {
        let judgement = judge_word(n, Effort::Both);
        assert!(judgement.base_two && !judgement.lucas.expect("both").passes(), "{n}");
        assert_eq!(judgement.verdict, Verdict::Composite);
    }
    for n in [800_484_227, 181_212_049_547, 836_237_054_267] {
        let judgement = judge_word(n, Effort::Both);
        assert!(!judgement.base_two && judgement.lucas.expect("both").passes(), "{n}");
        assert_eq!(judgement.verdict, Verdict::Composite);
    }
}

#[test]
fn chernick_products_begin_as_known() {
    let is_prime = |n: u64| judge_word(n, Effort::Needed).verdict == Verdict::Prime;
    let admissible = |k: &u64| is_prime(6 * k + 1) && is_prime(12 * k + 1) && is_prime(18 * k + 1);
    let found: Vec<u64> = (1..=100).filter(admissible).collect();
    assert_eq!(found, [1, 6, 35, 45, 51, 55, 56, 100]);
}

#[test]
fn large_primes_and_composites() {
    for exponent in [89u32, 107, 127, 521, 607, 1279, 2203] {
        let mersenne = (BigUint::from(1u32) << exponent) - 1u32;
        assert_eq!(judge(&number(&mersenne.to_string()), Effort::Both).verdict, Verdict::ProbablePrime, "{exponent}");
    }
    let prime = (BigUint::from(1u32) << 1279u32) - 1u32;
    assert_eq!(judge(&number(&(&prime * &prime).to_string()), Effort::Both).verdict, Verdict::Composite);
    // A Mersenne number with a prime exponent always passes base 2: composite ones are left to the Lucas half.
    for exponent in [67u32, 101, 103, 109, 1277] {
        let composite = (BigUint::from(1u32) << exponent) - 1u32;
        let judgement = judge(&number(&composite.to_string()), Effort::Both);
        assert!(judgement.base_two && !judgement.lucas.expect("both").passes(), "{exponent}");
    }
}

#[test]
fn every_width_agrees_with_plain_powers() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for bits in [65u32, 83, 84, 111, 112, 140, 224, 500, 700, 1008, 1300, 2100, 3300] {
        let mut n = BigUint::from(1u32);
        for _ in 0..bits.div_ceil(32) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            n = (n << 32) + (state >> 32);
        }
        let excess = n.bits() - u64::from(bits);
        n = (n >> excess) | BigUint::from(1u32);
        for _ in 0..20 {
            let judgement = judge(&number(&n.to_string()), Effort::Both);
            assert_eq!(judgement.base_two, strong_base_two(&n), "{n}");
            n += 2u32;
        }
    }
}

fn strong_base_two(n: &BigUint) -> bool {
    let (one, below) = (BigUint::from(1u32), n - 1u32);
    let twos = below.trailing_zeros().expect("n is above 1");
    let mut power = BigUint::from(2u32).modpow(&(&below >> twos), n);
    if power == one || power == below {
        return true;
    }
    (1..twos).any(|_| {
        power = &power * &power % n;
        power == below
    })
}

#[test]
fn certificates_are_checkable() {
    // A Carmichael number beyond 2^64, which hides from more bases than other composites do.
    let k = (1_000_000u64..).find(|k| [6, 12, 18].iter().all(|f| is_prime(f * k + 1))).expect("exists");
    let n = [6, 12, 18].iter().fold(BigUint::from(1u32), |n, f| n * (f * k + 1));
    let composite = number(&n.to_string());
    assert_eq!(composite.to_u64(), None);
    assert!((2..100).any(|base| proves_composite(&composite, &Certificate::StrongBase(base))));
    let prime = number("100000000000000000039");
    assert!((2..100).all(|base| !proves_composite(&prime, &Certificate::StrongBase(base))));
}

fn is_prime(n: u64) -> bool {
    judge_word(n, Effort::Needed).verdict == Verdict::Prime
}

#[test]
fn small_and_odd_ends() {
    let counts = |from, to| {
        let found = search(from, to, Mode::Census);
        (found.checked, found.primes)
    };
    assert_eq!(counts("0", "0"), (0, 0));
    assert_eq!(counts("1", "2"), (0, 0));
    assert_eq!(counts("2", "3"), (1, 1));
    assert_eq!(counts("0", "10"), (4, 3));
    assert_eq!(counts("9", "9"), (1, 0));
    assert_eq!(counts("25", "49"), (13, 6));
    assert_eq!(counts("18446744073709551615", "18446744073709551615"), (1, 0));
    assert!(search("8", "8", HUNT).blocks.is_empty());
}

#[test]
fn digests_are_of_the_numbers_described() {
    // 3, 5, 7, 11 pass; 9 does not pass base 2, so it has no record.
    let mut expected = BlockDigest::new();
    [0, 1, 2, 4].into_iter().for_each(|index| expected.add(index, Passed::Prime));
    assert_eq!(search("1", "12", HUNT).blocks, [expected.finish()]);
    let mut expected = BlockDigest::new();
    expected.add(0, Passed::BaseTwoOnly);
    assert_eq!(search("2046", "2048", Mode::Census).blocks, [expected.finish()]);
    let range = Range::parse("1", "12").expect("a range");
    let digests = [HUNT, Mode::Hunt { sieve_to: 2 }, Mode::Census].map(|mode| range.digest(mode, &[]));
    assert!(digests[0] != digests[1] && digests[1] != digests[2], "the bound of the sieve is part of it: {digests:?}");
}

#[test]
fn refused_ranges() {
    let refusal = |from: &str, to: &str| Range::parse(from, to).expect_err("refused");
    assert_eq!(refusal("5", "3"), RangeError::Reversed);
    assert_eq!(refusal("1", &(2 * ODDS_MAX + 3).to_string()), RangeError::TooLong);
    assert_eq!(refusal("1", &"9".repeat(40)), RangeError::TooLong);
    assert!(matches!(refusal("x", "3"), RangeError::From(_)));
    assert!(matches!(refusal("3", ""), RangeError::To(_)));
    assert_eq!(Range::parse("3", &(2 * ODDS_MAX + 1).to_string()).expect("just fits").count(), ODDS_MAX);
}

#[test]
fn progress_rises_to_a_hundred() {
    let mut told = Vec::new();
    let range = Range::parse("3", "10000001").expect("a range");
    Search::new(range, Mode::Census).finish(&mut |percent| told.push(percent));
    assert!(told.is_sorted() && told.len() > 50);
    assert_eq!((told.first(), told.last()), (Some(&0), Some(&100)));
}
