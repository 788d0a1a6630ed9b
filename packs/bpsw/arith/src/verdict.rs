//! The judgement of one odd number: both halves of the test, and a second opinion on what passes both.

use num_bigint::BigUint;
use sha2::{Digest, Sha256};

use crate::lucas::{Jacobi, Lucas, Subject, congruences_hold, jacobi_over, strong_lucas};
use crate::natural::Natural;
use crate::ring::Ring;
use crate::strong::is_strong_probable_prime;
use crate::wide::Wide;
use crate::word::Word;

/// Which halves are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Lucas only for what passed base 2.
    Needed,
    /// Both halves, always.
    Both,
}

/// The outcome of both halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the number is a strong probable prime to base 2.
    pub base_two: bool,
    /// The Lucas half; `None` where it was not run.
    pub lucas: Option<Lucas>,
    /// What both halves together mean.
    pub verdict: Verdict,
}

/// What a number is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At least one half says so; both are proofs.
    Composite,
    /// Below 2^64, where no composite passes both halves (checked exhaustively by others).
    Prime,
    /// It passes both halves and the second opinion; nobody knows more.
    ProbablePrime,
    /// It passes both halves, and yet here is a proof that it is composite.
    Counterexample(Certificate),
}

impl Verdict {
    /// The word that digests are made of.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Composite => "composite",
            Self::Prime => "prime",
            Self::ProbablePrime => "bpsw_prp",
            Self::Counterexample(_) => "counterexample",
        }
    }
}

/// A proof of compositeness that anybody can check in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// A base to which the number is not a strong probable prime.
    StrongBase(u32),
    /// A discriminant, a non-residue, whose Lucas congruences fail.
    LucasCongruence(i32),
    /// Factors above 1, at least two of them, whose product the number is.
    Factors(Vec<Natural>),
}

/// The largest magnitude of a discriminant in a certificate: Selfridge's search ends far below.
const DISCRIMINANT_MAX: u32 = 1 << 20;

/// Bases of the second opinion: 3, and this many drawn from the SHA-256 of the number's decimal digits.
const DRAWN_BASES: usize = 3;
/// Bases tried when the Lucas congruences have already shown a number composite, for the simpler certificate.
const CERTIFICATE_BASES_MAX: u32 = 1000;

/// Judges a number below 2^64. It must be odd and above 1.
pub fn judge_word(number: u64, effort: Effort) -> Judgement {
    let (base_two, lucas) = halves(&Word::new(number), &number, effort);
    let verdict = if base_two && lucas.is_some_and(Lucas::passes) { Verdict::Prime } else { Verdict::Composite };
    Judgement { base_two, lucas, verdict }
}

/// Judges a number of any size that `Natural` reads. It must be odd and above 1.
pub fn judge(number: &Natural, effort: Effort) -> Judgement {
    match number.to_u64() {
        Some(word) => judge_word(word, effort),
        None => judge_wide(number, effort),
    }
}

/// Whether a number is prime, as far as is known: it is odd, above 1 and passes both halves and the second opinion; or 2.
pub fn is_prime(number: &Natural) -> bool {
    if !number.is_odd() || *number == Natural::from(1) {
        return *number == Natural::from(2);
    }
    matches!(judge(number, Effort::Needed).verdict, Verdict::Prime | Verdict::ProbablePrime)
}

/// Whether `certificate` proves `number`, which must be odd and above 1, composite.
pub fn proves_composite(number: &Natural, certificate: &Certificate) -> bool {
    match certificate {
        Certificate::StrongBase(base) => with_ring(number, StrongBaseCheck(*base)),
        Certificate::LucasCongruence(discriminant) => {
            is_usable(*discriminant, number) && with_ring(number, LucasCheck { number, discriminant: *discriminant })
        }
        Certificate::Factors(factors) => {
            let one = BigUint::from(1u32);
            let proper = factors.len() >= 2 && factors.iter().all(|factor| *factor.value() > one);
            proper && factors.iter().fold(one, |product, factor| product * factor.value()) == *number.value()
        }
    }
}

/// Whether a prime would have to keep the congruences of this discriminant: it is 1 modulo 4 and a non-residue, and the number is too
/// large to divide Q.
fn is_usable(discriminant: i32, number: &Natural) -> bool {
    let suits = discriminant.rem_euclid(4) == 1 && discriminant.unsigned_abs() <= DISCRIMINANT_MAX;
    let is_large = number.value().bits() > u64::from(u32::BITS);
    suits && is_large && jacobi_over(discriminant, number) == Jacobi::NonResidue
}

fn judge_wide(number: &Natural, effort: Effort) -> Judgement {
    with_ring(number, FullTest { number, effort })
}

fn halves<R: Ring>(ring: &R, subject: &impl Subject, effort: Effort) -> (bool, Option<Lucas>) {
    let base_two = is_strong_probable_prime(ring, 2);
    let lucas = (base_two || effort == Effort::Both).then(|| strong_lucas(ring, subject));
    (base_two, lucas)
}

/// A proof that a number which passes both halves is composite, if other bases or the congruences find one.
fn second_opinion<R: Ring>(ring: &R, number: &Natural, discriminant: i32) -> Option<Certificate> {
    let refutes = |base: &u32| !is_strong_probable_prime(ring, *base);
    if let Some(base) = other_bases(number).into_iter().find(refutes) {
        return Some(Certificate::StrongBase(base));
    }
    if congruences_hold(ring, number, discriminant) {
        return None;
    }
    let simpler = (3..CERTIFICATE_BASES_MAX).find(refutes).map(Certificate::StrongBase);
    Some(simpler.unwrap_or(Certificate::LucasCongruence(discriminant)))
}

fn other_bases(number: &Natural) -> [u32; DRAWN_BASES + 1] {
    let digest: [u8; 32] = Sha256::digest(number.to_string()).into();
    let mut bases = [3; DRAWN_BASES + 1];
    for (base, bytes) in bases[1..].iter_mut().zip(digest.chunks_exact(4)) {
        let drawn = u32::from_be_bytes(bytes.try_into().expect("chunks of four"));
        *base = drawn.max(5);
    }
    bases
}

/// Something to do with a ring whose width is only known at run time.
trait RingTask {
    type Output;
    fn run<R: Ring>(self, ring: &R) -> Self::Output;
}

struct FullTest<'a> {
    number: &'a Natural,
    effort: Effort,
}

impl RingTask for FullTest<'_> {
    type Output = Judgement;

    fn run<R: Ring>(self, ring: &R) -> Judgement {
        let (base_two, lucas) = halves(ring, self.number, self.effort);
        let verdict = match lucas {
            Some(Lucas::Passes(discriminant)) if base_two => {
                let proof = second_opinion(ring, self.number, discriminant);
                proof.map_or(Verdict::ProbablePrime, Verdict::Counterexample)
            }
            _ => Verdict::Composite,
        };
        Judgement { base_two, lucas, verdict }
    }
}

/// Whether the number fails the strong test to this base.
struct StrongBaseCheck(u32);

impl RingTask for StrongBaseCheck {
    type Output = bool;

    fn run<R: Ring>(self, ring: &R) -> bool {
        !is_strong_probable_prime(ring, self.0)
    }
}

/// Whether the number breaks a congruence of this discriminant.
struct LucasCheck<'a> {
    number: &'a Natural,
    discriminant: i32,
}

impl RingTask for LucasCheck<'_> {
    type Output = bool;

    fn run<R: Ring>(self, ring: &R) -> bool {
        !congruences_hold(ring, self.number, self.discriminant)
    }
}

/// Runs `task` in the narrowest ring that holds `number`: widths grow by about a quarter, so that little is wasted
/// and few copies of the code exist.
fn with_ring<T: RingTask>(number: &Natural, task: T) -> T::Output {
    if let Some(word) = number.to_u64() {
        return task.run(&Word::new(word));
    }
    macro_rules! narrowest {
        ($($words:literal)*) => {
            match number.bits().div_ceil(u64::BITS) {
                $(..=$words => task.run(&Wide::<$words>::new(number)),)*
                words => unreachable!("numbers have at most 1,234 digits, this one needs {words} words"),
            }
        };
    }
    narrowest!(2 3 4 5 6 8 10 12 16 20 24 32 40 48 56 66)
}

impl Subject for u64 {
    fn remainder(&self, divisor: u32) -> u32 {
        u32::try_from(self % Self::from(divisor)).expect("a remainder is below its divisor")
    }

    fn equals(&self, small: u32) -> bool {
        *self == Self::from(small)
    }

    fn is_square(&self) -> bool {
        self.isqrt().pow(2) == *self
    }
}

impl Subject for Natural {
    fn remainder(&self, divisor: u32) -> u32 {
        Self::remainder(self, divisor)
    }

    fn equals(&self, small: u32) -> bool {
        self.to_u64() == Some(u64::from(small))
    }

    fn is_square(&self) -> bool {
        Self::is_square(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for a second opinion without having run the halves.
    struct Opinion<'a> {
        number: &'a Natural,
        discriminant: i32,
    }

    impl RingTask for Opinion<'_> {
        type Output = Option<Certificate>;

        fn run<R: Ring>(self, ring: &R) -> Option<Certificate> {
            second_opinion(ring, self.number, self.discriminant)
        }
    }

    fn number(text: &str) -> Natural {
        Natural::parse(text).expect("decimal")
    }

    fn opinion(text: &str, discriminant: i32) -> Option<Certificate> {
        let number = number(text);
        with_ring(&number, Opinion { number: &number, discriminant })
    }

    #[test]
    fn composites_get_a_base_that_anybody_can_check() {
        // 2^67 - 1 and 2^101 - 1 pass base 2, as every Mersenne number with a prime exponent does.
        for text in ["147573952589676412927", "2535301200456458802993406410751"] {
            let certificate = opinion(text, 5).expect("composite");
            assert!(matches!(certificate, Certificate::StrongBase(_)), "{text}: {certificate:?}");
            assert!(proves_composite(&number(text), &certificate), "{text}: {certificate:?}");
        }
    }

    #[test]
    fn primes_are_left_alone() {
        let prime = number("170141183460469231731687303715884105727");
        let Some(Lucas::Passes(discriminant)) = judge(&prime, Effort::Both).lucas else { panic!("2^127 - 1 is prime") };
        assert_eq!(opinion("170141183460469231731687303715884105727", discriminant), None);
        assert!(!proves_composite(&prime, &Certificate::LucasCongruence(discriminant)));
        // Nobody may call a prime composite by a discriminant that says nothing: residues, and what is not 1 modulo 4.
        for discriminant in [-5000..-2, 2..5000].into_iter().flatten() {
            assert!(!proves_composite(&prime, &Certificate::LucasCongruence(discriminant)), "{discriminant}");
        }
    }

    #[test]
    fn a_congruence_certificate_is_checked_by_running_the_chain() {
        let composite = number("147573952589676412927");
        let discriminant = [5, -7, -11, 13, -15, 17].into_iter().find(|d| is_usable(*d, &composite)).expect("one of them");
        assert!(proves_composite(&composite, &Certificate::LucasCongruence(discriminant)));
    }

    #[test]
    fn factors_are_multiplied() {
        let composite = number("147573952589676412927");
        let factors = |texts: &[&str]| Certificate::Factors(texts.iter().map(|text| number(text)).collect());
        assert!(proves_composite(&composite, &factors(&["193707721", "761838257287"])));
        for wrong in
            [&["193707721", "761838257289"][..], &["147573952589676412927"], &["1", "147573952589676412927"], &[], &["0", "0"]]
        {
            assert!(!proves_composite(&composite, &factors(wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn bases_depend_on_the_number_alone() {
        let bases = other_bases(&Natural::from(91));
        assert_eq!(bases[0], 3);
        assert!(bases[1..].iter().all(|base| *base >= 5));
        assert_eq!(bases, other_bases(&Natural::from(91)));
        assert_ne!(bases, other_bases(&Natural::from(93)));
    }
}
