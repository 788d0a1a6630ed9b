//! Digests by which results of different workers are compared, block by block.

use sha2::{Digest, Sha256};

/// What a number that passes base 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It passes both halves and is below 2^64.
    Prime,
    /// It passes both halves and is above 2^64.
    ProbablePrime,
    /// It passes base 2 and fails the Lucas half.
    BaseTwoOnly,
    /// It passes both halves and is proven composite.
    Counterexample,
}

impl Passed {
    fn code(self) -> u64 {
        match self {
            Self::Prime => 0,
            Self::ProbablePrime => 1,
            Self::BaseTwoOnly => 2,
            Self::Counterexample => 3,
        }
    }
}

/// SHA-256 over one record for each number of a block that was tested and passes base 2, ascending: 4 times the distance of its index
/// from the index of the number before (from 0 for the first), plus the code of what it is (prime 0, probable prime 1, base 2
/// only 2, counterexample 3), in LEB128: seven bits a byte, the lowest first, the top bit of a byte set where another follows. The
/// index of an odd number is how many odd numbers of the block are below it.
#[derive(Debug, Default)]
pub struct BlockDigest {
    hash: Sha256,
    last: u32,
}

impl BlockDigest {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number, which must not be below the one before.
    pub fn add(&mut self, index: u32, passed: Passed) {
        let mut record = u64::from(index - self.last) << 2 | passed.code();
        self.last = index;
        let (mut bytes, mut length) = ([0; 10], 0);
        loop {
            let more = record > 0x7f;
            bytes[length] = u8::try_from(record & 0x7f).expect("seven bits") | u8::from(more) << 7;
            length += 1;
            record >>= 7;
            if !more {
                break;
            }
        }
        self.hash.update(&bytes[..length]);
    }

    /// In lower-case hex.
    pub fn finish(self) -> String {
        hex(self.hash)
    }
}

/// SHA-256, in lower-case hex, of the line `head` and a line for each block's digest.
pub fn combined(head: &str, blocks: &[String]) -> String {
    let mut hash = Sha256::new();
    for line in std::iter::once(head).chain(blocks.iter().map(String::as_str)) {
        hash.update(line);
        hash.update("\n");
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_described() {
        let mut digest = BlockDigest::new();
        digest.add(1, Passed::Prime);
        digest.add(33, Passed::BaseTwoOnly);
        digest.add(33, Passed::Counterexample);
        digest.add(1033, Passed::ProbablePrime);
        // 4, then 4 * 32 + 2 = 130, then 3, then 4001.
        assert_eq!(digest.finish(), hex(Sha256::new_with_prefix([4, 0x82, 1, 3, 0xa1, 0x1f])));
        assert_eq!(combined("a", &["b".into()]), hex(Sha256::new_with_prefix("a\nb\n")));
    }
}
