//! The same numbers for the guest and for each peer, in turn.

use busbar_sandbox::{Module, Sandbox, Task};
use serde_json::{Value, json};

use crate::peers::{Peer, Said};
use crate::{Outcome, median, row};

/// Something that several can do.
pub(crate) struct Contest {
    title: &'static str,
    /// The guest's input, and the member of its result that the peers count too.
    input: Value,
    counted: &'static str,
    /// How many numbers that is.
    numbers: f64,
    peers: Vec<Peer>,
}

const BASE: u64 = 1_000_000_000_000_000_000;
/// Survivors have no odd factor up to this.
const TRIAL_TO: u32 = 1_000;

pub(crate) fn all() -> Vec<Contest> {
    let range = |mode: &str, length: u64| json!({"task_type": "main_odds", "from": BASE.to_string(), "to": (BASE + length).to_string(), "mode": mode});
    vec![
        Contest {
            title: "hunt: all primes of [10^18, +2*10^7]",
            input: range("hunt", 20_000_000),
            counted: "primes",
            numbers: 10_000_000.0,
            peers: vec![Peer::pari_forprime(BASE, 20_000_000), Peer::perl_forprimes(BASE, 20_000_000)],
        },
        Contest {
            title: "census: every odd number of [10^18, +4*10^6]",
            input: range("census", 4_000_000),
            counted: "primes",
            numbers: 2_000_000.0,
            peers: vec![Peer::pari_each(BASE, 4_000_000), Peer::perl_each(BASE, 4_000_000)],
        },
        survivors(4_000_000),
        large(512, 400),
        large(2048, 24),
        large(4096, 6),
    ]
}

/// Numbers that trial division leaves over, so that nothing but the tests is compared. The guest picks them out by itself, which counts for it: some hundredths of
/// what the tests take. The peers are given them.
fn survivors(length: u64) -> Contest {
    Contest {
        title: "survivors: the odd numbers of [10^18, +4*10^6] without a factor up to 1,000",
        input: json!({"task_type": "main_odds", "from": BASE.to_string(), "to": (BASE + length).to_string(), "mode": "hunt",
            "sieve_to": TRIAL_TO}),
        counted: "primes",
        numbers: f64::from(survivor_count(length)),
        peers: vec![Peer::pari_survivors(BASE, length, TRIAL_TO), Peer::perl_survivors(BASE, length, TRIAL_TO)],
    }
}

/// How many odd numbers from `BASE` on have no odd factor up to the bound.
fn survivor_count(length: u64) -> u32 {
    let primes = (3..=u64::from(TRIAL_TO)).step_by(2).filter(|p| (3..*p).take_while(|d| d * d <= *p).all(|d| p % d != 0));
    let primes: Vec<u64> = primes.collect();
    let survives = |n: &u64| primes.iter().all(|p| !n.is_multiple_of(*p));
    (BASE + 1..=BASE + length).step_by(2).filter(survives).map(|_| 1).sum()
}

/// Both halves of so many odd numbers from 2^(bits - 1) + 1 on.
fn large(bits: u32, count: u32) -> Contest {
    let title = match bits {
        512 => "both halves of 400 odd numbers from 2^511 on",
        2048 => "both halves of 24 odd numbers from 2^2047 on",
        _ => "both halves of 6 odd numbers from 2^4095 on",
    };
    let from = decimal_power_of_two(bits - 1);
    let to = plus(&from, 2 * count - 1);
    Contest {
        title,
        input: json!({"task_type": "large_numbers", "from": from, "to": to, "mode": "census"}),
        counted: "primes",
        numbers: f64::from(count),
        peers: vec![Peer::gmp_halves(bits, count)],
    }
}

impl Contest {
    /// Everyone in turn, so that what disturbs the machine disturbs all of them; medians of processor time.
    pub(crate) fn hold(&self, sandbox: &Sandbox, module: &Module, runs: usize) -> Outcome<Value> {
        println!("{}", self.title);
        let mut ours = Vec::new();
        let mut theirs: Vec<Result<Vec<f64>, String>> = self.peers.iter().map(|_| Ok(Vec::new())).collect();
        let (mut found, mut digest) = (None, Value::Null);
        for _ in 0..runs {
            let output = sandbox.run(module, Task::new(self.input.to_string()))?;
            ours.push(self.numbers / output.usage.cpu.as_secs_f64());
            let result: Value = serde_json::from_slice(&output.stdout)?;
            found = result[self.counted].as_u64();
            digest = result["digest"].clone();
            for (peer, rates) in self.peers.iter().zip(&mut theirs) {
                let Ok(known) = rates else { continue };
                match peer.run()? {
                    Said::Counted { count, seconds } if Some(count) == found => known.push(self.numbers / seconds),
                    Said::Counted { count, .. } => return Err(format!("{} counted {count}, we {found:?}", peer.name).into()),
                    Said::Absent(why) => *rates = Err(why),
                }
            }
        }
        let mine = row("  sandboxed guest", "numbers/s", &ours);
        let mut rows = vec![mine];
        for (peer, rates) in self.peers.iter().zip(theirs) {
            match rates {
                Ok(rates) => {
                    let mut line = row(&format!("  {}", peer.name), "numbers/s", &rates);
                    line["ours_to_theirs"] = json!(median(&ours) / median(&rates));
                    println!("{:<58} {:>14.2}", "    the guest's rate to this one's", median(&ours) / median(&rates));
                    rows.push(line);
                }
                Err(why) => {
                    println!("  {} skipped: {why}", peer.name);
                    rows.push(json!({ "what": peer.name, "skipped": why }));
                }
            }
        }
        Ok(json!({ "title": self.title, "counted": found, "digest": digest, "rows": rows }))
    }
}

/// 2^exponent, by doubling decimal digits.
fn decimal_power_of_two(exponent: u32) -> String {
    let mut digits = vec![1u8];
    for _ in 0..exponent {
        double(&mut digits);
    }
    digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
}

fn double(digits: &mut Vec<u8>) {
    let mut carry = 0;
    for digit in digits.iter_mut() {
        let twice = *digit * 2 + carry;
        (*digit, carry) = (twice % 10, twice / 10);
    }
    if carry > 0 {
        digits.push(carry);
    }
}

/// A decimal number and a small one.
fn plus(decimal: &str, addend: u32) -> String {
    let mut digits: Vec<u32> = decimal.bytes().rev().map(|byte| u32::from(byte - b'0')).collect();
    let mut carry = addend;
    for digit in &mut digits {
        carry += *digit;
        (*digit, carry) = (carry % 10, carry / 10);
    }
    digits.iter().rev().map(ToString::to_string).collect()
}
