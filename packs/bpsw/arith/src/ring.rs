//! What the tests need of arithmetic modulo one odd number, and what follows from it for every implementation.

/// The odd part `d` of `n - 1` or `n + 1`, with `neighbour = d * 2^twos`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OddPart<E> {
    /// The odd factor.
    pub odd: E,
    /// How often 2 divides the neighbour.
    pub twos: u32,
    /// Bit length of `odd`, at least 1.
    pub bits: u32,
}

/// Arithmetic modulo one odd number above 1. Elements are always fully reduced, so that equality is congruence.
pub trait Ring {
    /// A residue, in whatever form the implementation multiplies best.
    type Element: Copy + PartialEq;
    /// A plain integer no larger than the modulus plus one.
    type Exponent: Copy;

    /// The residue 0.
    fn zero(&self) -> Self::Element;
    /// The residue 1.
    fn one(&self) -> Self::Element;
    /// `a + b`.
    fn add(&self, a: &Self::Element, b: &Self::Element) -> Self::Element;
    /// `a - b`.
    fn sub(&self, a: &Self::Element, b: &Self::Element) -> Self::Element;
    /// `a / 2`.
    fn half(&self, a: &Self::Element) -> Self::Element;
    /// `a / divisor`, for a divisor above 0 that has no factor in common with the modulus.
    fn divide(&self, a: &Self::Element, divisor: u32) -> Self::Element;
    /// `a * b`.
    fn mul(&self, a: &Self::Element, b: &Self::Element) -> Self::Element;
    /// The odd part of the modulus minus one.
    fn below(&self) -> OddPart<Self::Exponent>;
    /// The odd part of the modulus plus one.
    fn above(&self) -> OddPart<Self::Exponent>;
    /// Bit `index` of an exponent, 0 being the lowest.
    fn bit(exponent: &Self::Exponent, index: u32) -> bool;

    /// `-a`.
    fn neg(&self, a: &Self::Element) -> Self::Element {
        self.sub(&self.zero(), a)
    }

    /// `a * factor` by doubling and adding: for the small factors that occur this is cheaper than a product.
    fn scale(&self, a: &Self::Element, factor: i64) -> Self::Element {
        let magnitude = factor.unsigned_abs();
        let mut sum = self.zero();
        for index in (0..u64::BITS - magnitude.leading_zeros()).rev() {
            sum = self.add(&sum, &sum);
            if magnitude >> index & 1 == 1 {
                sum = self.add(&sum, a);
            }
        }
        if factor < 0 { self.neg(&sum) } else { sum }
    }
}

/// How often an odd modulus must be added to a residue, so that `divisor` divides the sum: it is below `divisor`. Both are given
/// by their remainders on division by it, and that of the modulus must be a unit.
pub(crate) fn complement(residue: u32, modulus: u32, divisor: u32) -> u32 {
    let fits = |times: &u32| (u64::from(residue) + u64::from(*times) * u64::from(modulus)).is_multiple_of(divisor.into());
    (0..divisor).find(fits).expect("a unit reaches every residue")
}
