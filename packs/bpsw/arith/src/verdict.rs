//! The judgement of one odd number: both halves of the test, and a second opinion on what passes both.

use sha2::{Digest, Sha256};

use crate::lucas::{Lucas, Subject, lucas_passes, strong_lucas};
use crate::natural::{LIMB_BITS, Natural};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// A base to which the number is not a strong probable prime.
    StrongBase(u32),
    /// A discriminant, a non-residue, whose Lucas congruences fail.
    LucasCongruence(i32),
}

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

/// Whether `certificate` proves `number` composite.
pub fn proves_composite(number: &Natural, certificate: Certificate) -> bool {
    with_ring(number, CertificateCheck { number, certificate })
}

fn judge_wide(number: &Natural, effort: Effort) -> Judgement {
    with_ring(number, FullTest { number, effort })
}

fn halves<R: Ring>(ring: &R, subject: &impl Subject, effort: Effort) -> (bool, Option<Lucas>) {
    let base_two = is_strong_probable_prime(ring, 2);
    let lucas = (base_two || effort == Effort::Both).then(|| strong_lucas(ring, subject));
    (base_two, lucas)
}

/// A proof that a number which passes both halves is composite, if the free congruences or other bases find one.
fn second_opinion<R: Ring>(ring: &R, number: &Natural, discriminant: i32, congruences: bool) -> Option<Certificate> {
    let refutes = |base: &u32| !is_strong_probable_prime(ring, *base);
    if let Some(base) = other_bases(number).iter().find(|base| refutes(base)) {
        return Some(Certificate::StrongBase(*base));
    }
    if congruences {
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
            Some(Lucas::Passes { discriminant, congruences }) if base_two => {
                let proof = second_opinion(ring, self.number, discriminant, congruences);
                proof.map_or(Verdict::ProbablePrime, Verdict::Counterexample)
            }
            _ => Verdict::Composite,
        };
        Judgement { base_two, lucas, verdict }
    }
}

struct CertificateCheck<'a> {
    number: &'a Natural,
    certificate: Certificate,
}

impl RingTask for CertificateCheck<'_> {
    type Output = bool;

    fn run<R: Ring>(self, ring: &R) -> bool {
        match self.certificate {
            Certificate::StrongBase(base) => !is_strong_probable_prime(ring, base),
            Certificate::LucasCongruence(discriminant) => !lucas_passes(ring, self.number, discriminant),
        }
    }
}

/// Runs `task` in the narrowest ring that holds `number`: widths grow by about a quarter, so that little is wasted
/// and few copies of the code exist.
fn with_ring<T: RingTask>(number: &Natural, task: T) -> T::Output {
    macro_rules! narrowest {
        ($($limbs:literal)*) => {
            match (number.bits() + 1).div_ceil(LIMB_BITS) {
                $(..=$limbs => task.run(&Wide::<$limbs>::new(number)),)*
                limbs => unreachable!("numbers have at most 1,024 digits, this one needs {limbs} limbs"),
            }
        };
    }
    narrowest!(3 4 5 6 8 10 14 19 24 29 36 48 64 80 100 122)
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
        congruences: bool,
    }

    impl RingTask for Opinion<'_> {
        type Output = Option<Certificate>;

        fn run<R: Ring>(self, ring: &R) -> Option<Certificate> {
            second_opinion(ring, self.number, 5, self.congruences)
        }
    }

    fn opinion(text: &str, congruences: bool) -> Option<Certificate> {
        let number = Natural::parse(text).expect("decimal");
        let found = with_ring(&number, Opinion { number: &number, congruences });
        if let Some(certificate @ Certificate::StrongBase(_)) = found {
            assert!(proves_composite(&number, certificate), "{text}: {certificate:?}");
        }
        found
    }

    #[test]
    fn composites_get_a_base_that_anybody_can_check() {
        // 2^67 - 1 and 2^101 - 1 pass base 2, as every Mersenne number with a prime exponent does.
        for text in ["147573952589676412927", "2535301200456458802993406410751"] {
            for congruences in [true, false] {
                assert!(matches!(opinion(text, congruences), Some(Certificate::StrongBase(_))), "{text}");
            }
        }
    }

    #[test]
    fn primes_are_left_alone() {
        assert_eq!(opinion("100000000000000000039", true), None);
        // Congruences that fail are a proof by themselves, when no base gives the simpler one.
        assert_eq!(opinion("100000000000000000039", false), Some(Certificate::LucasCongruence(5)));
    }

    #[test]
    fn a_congruence_certificate_is_checked_by_running_the_chain() {
        let prime = Natural::parse("170141183460469231731687303715884105727").expect("decimal");
        let Some(Lucas::Passes { discriminant, congruences: true }) = judge(&prime, Effort::Both).lucas else {
            panic!("2^127 - 1 is prime");
        };
        assert!(!proves_composite(&prime, Certificate::LucasCongruence(discriminant)));
        let composite = Natural::parse("147573952589676412927").expect("decimal");
        assert!(proves_composite(&composite, Certificate::LucasCongruence(-7)));
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
