//! Random odd numbers and how they fare in both halves, one a line, for another implementation to compare: `tools/bpsw-check`.
//!
//! `verdicts SEED COUNT BITS_MIN BITS_MAX` prints `<number in hex> <base 2: 0 or 1> <Lucas: 0 or 1>`. Numbers below 2^64 go through the
//! lanes that ranges are tested by.

use std::error::Error;
use std::io::{BufWriter, Write};

use bpsw_arith::lanes;
use bpsw_arith::random::SplitMix64;
use bpsw_arith::verdict::{Effort, judge};
use num_bigint::BigUint;

const USAGE: &str = "usage: verdicts SEED COUNT BITS_MIN BITS_MAX";
/// Numbers below 2^64 that are tested together.
const TOGETHER: usize = 1 << 16;

/// An odd number of exactly this many bits.
fn odd(random: &mut SplitMix64, bits: u64) -> BigUint {
    let words = bits.div_ceil(64);
    let whole = (0..words).fold(BigUint::ZERO, |number, _| (number << 64) + random.next_word());
    let mut number = whole >> (words * 64 - bits);
    number.set_bit(bits - 1, true);
    number.set_bit(0, true);
    number
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<u64> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [seed, count, bits_min, bits_max] = words[..] else { return Err(USAGE.into()) };
    if !(2..=bits_max).contains(&bits_min) || bits_max > 4096 {
        return Err("2 <= BITS_MIN <= BITS_MAX <= 4096 must hold".into());
    }
    let mut random = SplitMix64::new(seed);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut small = Vec::new();
    for _ in 0..count {
        let bits = bits_min + random.next_word() % (bits_max - bits_min + 1);
        let number = odd(&mut random, bits);
        match u64::try_from(&number) {
            Ok(word) => small.push(word),
            Err(_) => {
                let judged = judge(&number.clone().into(), Effort::Both);
                let lucas = judged.lucas.is_some_and(|lucas| lucas.passes());
                writeln!(out, "{number:x} {} {}", u8::from(judged.base_two), u8::from(lucas))?;
            }
        }
        if small.len() == TOGETHER {
            tell(&mut small, &mut out)?;
        }
    }
    tell(&mut small, &mut out)?;
    Ok(out.flush()?)
}

/// Tests the words and forgets them.
fn tell(words: &mut Vec<u64>, out: &mut impl Write) -> std::io::Result<()> {
    let (mut base_two, mut lucas) = (Vec::new(), Vec::new());
    lanes::strong_base_two(words, &mut base_two);
    lanes::lucas(words, &mut lucas);
    for ((word, base_two), lucas) in words.drain(..).zip(base_two).zip(lucas) {
        writeln!(out, "{word:x} {} {}", u8::from(base_two), u8::from(lucas))?;
    }
    Ok(())
}
