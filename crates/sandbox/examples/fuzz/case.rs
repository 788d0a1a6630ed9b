//! One case: a guest, and under what it runs. All of it follows from its seed and the corpus.

use std::fmt;

use busbar_sandbox::{ImportGroup, Imports, Limits};

use crate::dice::Dice;
use crate::guests;

/// What is tried.
pub(crate) struct Case {
    seed: u64,
    /// The guest in text, or what it was made from.
    shown: String,
    pub(crate) wasm: Vec<u8>,
    pub(crate) limits: Limits,
    /// Whether it may be run again with the same end: nothing that depends on time can end it first.
    pub(crate) again: bool,
}

impl Case {
    /// A guest of the corpus, as it is.
    pub(crate) fn known(name: &str, wasm: &[u8]) -> Self {
        let limits = limits(&mut Dice::new(0));
        Self { seed: 0, shown: name.to_owned(), wasm: wasm.to_vec(), limits, again: false }
    }

    pub(crate) fn random(seed: u64, corpus: &[crate::Known]) -> Self {
        let mut dice = Dice::new(seed);
        let limits = limits(&mut dice);
        let again = dice.once_in(4);
        if !corpus.is_empty() && dice.once_in(3) {
            let (name, wasm) = dice.pick(corpus);
            return Self { seed, shown: format!("{name}, changed"), wasm: changed(wasm, &mut dice), limits, again };
        }
        let shown = guests::random(&mut dice);
        let wasm = wat::parse_str(&shown).unwrap_or_else(|error| panic!("case {seed}: our own text is wrong: {error}\n{shown}"));
        let wasm = if dice.once_in(6) { changed(&wasm, &mut dice) } else { wasm };
        Self { seed, shown, wasm, limits, again }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "case {}: {:?}\n{}", self.seed, self.limits, self.shown)
    }
}

/// Small ones, so that each of them is met.
fn limits(dice: &mut Dice) -> Limits {
    let imports = ImportGroup::ALL.into_iter().filter(|_| !dice.once_in(60)).collect::<Imports>();
    Limits {
        memory_bytes: *dice.pick(&[1 << 20, 8 << 20, 64 << 20]),
        cpu_ms: 100,
        wall_ms: 250,
        output_bytes: *dice.pick(&[0, 100, 100_000]),
        tmp_bytes: *dice.pick(&[0, 10_000, 1 << 20]),
        tmp_files: *dice.pick(&[0, 3, 100]),
        open_handles: *dice.pick(&[16, 32, 256]),
        table_elements: *dice.pick(&[100, 50_000, 100_000]),
        random_bytes: *dice.pick(&[0, 1_000, 1 << 20]),
        fuel: *dice.pick(&[0, 0, 1_000, 200_000]),
        repeatable: dice.once_in(2),
        text: dice.once_in(4),
        imports,
    }
}

/// Some bytes changed, taken away or doubled.
fn changed(wasm: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = wasm.to_vec();
    for _ in 0..=dice.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.roll().to_le_bytes()[0],
            2 => drop(bytes.drain(at..(at + 1 + dice.below(8)).min(bytes.len()))),
            _ => {
                let end = (at + 1 + dice.below(8)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}
