//! Which words belong together: shards, which different jobs add up, and the buckets in which counts are written, by one and the same hash.
//!
//! The hash of a word is a number of 32 bits, and both shards and buckets are equal ranges of those. So the words of a shard stand in buckets that
//! follow one another, however many there are of each.

use std::ops::RangeInclusive;

/// The hash of a word: FNV-1a with 64 bits, stirred as MurmurHash3 ends (`fmix64`), of which the upper half. FNV alone would put words that differ only at
/// their ends into one range.
///
/// It is the same on every machine and in every version: counts are written in its order, and others find them by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WordHash(u32);

impl WordHash {
    pub(crate) fn of(word: &str) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut hash = word.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^= hash >> 33;
        Self(upper(hash))
    }

    /// In which of so many equal ranges it lies.
    pub(crate) fn place(self, of: u32) -> u32 {
        upper(u64::from(self.0) * u64::from(of))
    }
}

fn upper(number: u64) -> u32 {
    u32::try_from(number >> 32).expect("32 of 64 bits")
}

/// Some of all words, by their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// All words.
    pub(crate) const ALL: Self = Self { index: 0, of: 1 };

    pub(crate) fn new(index: u32, of: u32) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }

    pub(crate) fn holds(self, hash: WordHash) -> bool {
        hash.place(self.of) == self.index
    }

    /// Those of so many buckets in which words of the shard stand. The first and the last one can hold others, too.
    pub(crate) fn buckets(self, of: u32) -> RangeInclusive<u32> {
        let first = |index: u32| (u64::from(index) << 32).div_ceil(u64::from(self.of));
        let place = |hash: u64| upper(hash * u64::from(of));
        place(first(self.index))..=place(first(self.index + 1) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash is a promise: counts that were written long ago are found by it.
    #[test]
    fn known_hashes() {
        let hashes = ["", "a", "b", "the", "żółć"].map(|word| WordHash::of(word).0);
        assert_eq!(hashes, [0xefd0_1f60, 0x82a2_a958, 0x6e67_3288, 0xcb3f_f435, 0x2e1e_ef62]);
    }

    #[test]
    fn a_shard_finds_its_words_in_its_buckets() {
        let words: Vec<String> = (0..2_000).map(|n| format!("w{n}")).collect();
        for (shards, buckets) in [(1, 1), (1, 7), (3, 1), (3, 7), (7, 7), (7, 3), (97, 4_096), (10_000, 64)] {
            for word in &words {
                let hash = WordHash::of(word);
                let shard = Shard::new(hash.place(shards), shards).expect("one of them");
                assert!(shard.holds(hash));
                assert!(shard.buckets(buckets).contains(&hash.place(buckets)), "{word} of {shards} in {buckets}");
            }
            let all: Vec<_> = (0..shards).map(|index| Shard::new(index, shards).expect("one").buckets(buckets)).collect();
            assert_eq!((*all[0].start(), all.last().map(|last| *last.end())), (0, Some(buckets - 1)));
            assert!(all.windows(2).all(|pair| *pair[1].start() <= pair[0].end() + 1), "none is left out");
        }
        assert_eq!(Shard::new(3, 3), None);
    }

    #[test]
    fn words_that_differ_little_are_spread_evenly() {
        let mut shares = [0_u32; 16];
        for n in 0..16_000 {
            shares[WordHash::of(&format!("w{n:06}")).place(16) as usize] += 1;
        }
        assert!(shares.iter().all(|share| (850..1_150).contains(share)), "{shares:?}");
    }
}
