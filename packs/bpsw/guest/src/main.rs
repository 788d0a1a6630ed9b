//! The bpsw guest: one range as JSON on stdin, what was found as JSON on stdout; or a range that is to be split, and its parts.
//!
//! ```text
//! stdin ─► Input ─► bpsw_arith::search ─► Output ─► stdout          any error: one line on stderr, exit 1
//!            │           └─► busbar.progress(percent)
//!            └────► bpsw_arith::split ──► Parts ──► stdout
//! ```
//!
//! It uses nothing but stdio, so it also runs natively: `cargo run < input.json`.

use std::io::{Read, Write};
use std::process::ExitCode;

use bpsw_arith::search::{Findings, Mode, Range, RangeError};
use bpsw_arith::split::{SplitError, split};
use bpsw_arith::verdict::Certificate;
use serde::{Deserialize, Serialize};

/// The longest input: two numbers of 1,024 digits and the rest fit many times.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    task_type: TaskType,
    from: String,
    to: String,
    mode: SearchMode,
}

/// What every input says.
#[derive(Debug, Deserialize)]
struct Kind {
    task_type: String,
}

/// The task type that splits.
const SPLIT: &str = "split";

/// A range that is to be split.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitInput {
    #[serde(rename = "task_type")]
    _task_type: String,
    from: String,
    to: String,
    /// Numbers of one part.
    chunk: u64,
}

/// A range in parts.
#[derive(Debug, Serialize)]
struct Parts {
    task_type: &'static str,
    ranges: Vec<Part>,
}

/// A part: both ends are inclusive.
#[derive(Debug, Serialize)]
struct Part {
    from: String,
    to: String,
}

/// Both types are ranges of odd numbers; they differ in the size of the numbers, which the search sees for itself.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum TaskType {
    MainOdds,
    LargeNumbers,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum SearchMode {
    Hunt,
    Census,
}

#[derive(Debug, Serialize)]
struct Output {
    task_type: TaskType,
    from: String,
    to: String,
    mode: SearchMode,
    checked: u64,
    primes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    spsp2: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slpsp: Option<u64>,
    counterexamples: Vec<Counterexample>,
    digest: String,
}

#[derive(Debug, Serialize)]
struct Counterexample {
    n: String,
    certificate: CertificateText,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum CertificateText {
    StrongBase { base: u32 },
    LucasCongruence { discriminant: i32 },
}

/// Everything that ends the guest with exit 1.
#[derive(Debug)]
enum GuestError {
    Read(std::io::Error),
    TooLong,
    Input(serde_json::Error),
    Range(RangeError),
    Split(SplitError),
    Write(std::io::Error),
}

impl std::fmt::Display for GuestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => write!(f, "stdin: {error}"),
            Self::TooLong => write!(f, "input: longer than {INPUT_BYTES_MAX} bytes"),
            Self::Input(error) => write!(f, "input: {error}"),
            Self::Range(error) => write!(f, "input: {error}"),
            Self::Split(error) => write!(f, "input: {error}"),
            Self::Write(error) => write!(f, "stdout: {error}"),
        }
    }
}

fn main() -> ExitCode {
    match run(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(stdin: impl Read, mut stdout: impl Write) -> Result<(), GuestError> {
    let mut text = Vec::new();
    stdin.take(INPUT_BYTES_MAX + 1).read_to_end(&mut text).map_err(GuestError::Read)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(GuestError::TooLong);
    }
    let Kind { task_type } = serde_json::from_slice(&text).map_err(GuestError::Input)?;
    let json = if task_type == SPLIT { parts(&text)? } else { findings(&text)? };
    stdout.write_all(&json).and_then(|()| stdout.flush()).map_err(GuestError::Write)
}

/// A range in parts.
fn parts(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: SplitInput = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let ranges = split(&input.from, &input.to, input.chunk).map_err(GuestError::Split)?.into_iter();
    let ranges = ranges.map(|(from, to)| Part { from: from.to_string(), to: to.to_string() }).collect();
    serde_json::to_vec(&Parts { task_type: SPLIT, ranges }).map_err(|error| GuestError::Write(error.into()))
}

/// What a range holds.
fn findings(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: Input = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let range = Range::parse(&input.from, &input.to).map_err(GuestError::Range)?;
    let mode = match input.mode {
        SearchMode::Hunt => Mode::Hunt,
        SearchMode::Census => Mode::Census,
    };
    let output = output(input, range.search(mode, &mut tell_progress));
    serde_json::to_vec(&output).map_err(|error| GuestError::Write(error.into()))
}

fn output(input: Input, found: Findings) -> Output {
    let Input { task_type, from, to, mode } = input;
    // A hunt has not looked at every composite, so it has no counts of pseudoprimes to give.
    let counted = |count| (mode == SearchMode::Census).then_some(count);
    let proven = found.counterexamples.into_iter();
    Output {
        task_type,
        from,
        to,
        mode,
        checked: found.checked,
        primes: found.primes,
        spsp2: counted(found.strong_base_two),
        slpsp: counted(found.strong_lucas),
        counterexamples: proven.map(|(n, proof)| Counterexample { n: n.to_string(), certificate: proof.into() }).collect(),
        digest: found.digest,
    }
}

impl From<Certificate> for CertificateText {
    fn from(certificate: Certificate) -> Self {
        match certificate {
            Certificate::StrongBase(base) => Self::StrongBase { base },
            Certificate::LucasCongruence(discriminant) => Self::LucasCongruence { discriminant },
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn tell_progress(percent: i32) {
    #[link(wasm_import_module = "busbar")]
    #[expect(unsafe_code, reason = "an import can only be declared so; it takes a number and touches no memory")]
    unsafe extern "C" {
        safe fn progress(percent: i32);
    }
    progress(percent);
}

#[cfg(not(target_arch = "wasm32"))]
fn tell_progress(_percent: i32) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(input: &str) -> Result<String, String> {
        let mut stdout = Vec::new();
        run(input.as_bytes(), &mut stdout).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(stdout).expect("JSON is text"))
    }

    #[test]
    fn a_census_tells_everything_and_a_hunt_leaves_two_counts_out() {
        let census = answer(r#"{"task_type":"main_odds","from":"2000","to":"2050","mode":"census"}"#).expect("right");
        let head =
            r#"{"task_type":"main_odds","from":"2000","to":"2050","mode":"census","checked":25,"primes":6,"spsp2":1,"slpsp":0,"#;
        assert!(census.starts_with(head) && census.contains(r#""counterexamples":[],"digest":""#), "{census}");
        let hunt = answer(r#"{"task_type":"large_numbers","from":"2000","to":"2050","mode":"hunt"}"#).expect("right");
        assert!(hunt.contains(r#""checked":25,"primes":6,"counterexamples":[]"#), "{hunt}");
    }

    #[test]
    fn a_range_is_split() {
        let parts = answer(r#"{"task_type":"split","from":"3","to":"12","chunk":5}"#);
        assert_eq!(parts.as_deref(), Ok(r#"{"task_type":"split","ranges":[{"from":"3","to":"7"},{"from":"8","to":"12"}]}"#));
        assert_eq!(
            answer(r#"{"task_type":"split","from":"3","to":"12","chunk":0}"#),
            Err("input: chunk must be at least 1".into())
        );
        assert!(answer(r#"{"task_type":"split","from":"3","to":"12","mode":"hunt","chunk":5}"#).is_err());
    }

    #[test]
    fn certificates_as_text() {
        let proof = |certificate: Certificate| serde_json::to_string(&CertificateText::from(certificate)).expect("plain");
        assert_eq!(proof(Certificate::StrongBase(3)), r#"{"kind":"strong_base","base":3}"#);
        assert_eq!(proof(Certificate::LucasCongruence(-7)), r#"{"kind":"lucas_congruence","discriminant":-7}"#);
    }

    #[test]
    fn bad_input_is_named() {
        let refused = |input: &str| answer(input).expect_err("refused");
        let range =
            |from: &str, to: &str| refused(&format!(r#"{{"task_type":"main_odds","from":"{from}","to":"{to}","mode":"hunt"}}"#));
        assert_eq!(range("9", "3"), "input: from is greater than to");
        assert_eq!(range("12x", "13"), "input: from is not a decimal number: 'x' at position 3");
        assert_eq!(
            range("1", "1000000000"),
            "input: the range from..to holds more than 100000000 odd numbers; split it into several jobs"
        );
        assert!(refused("").starts_with("input: EOF"));
        assert!(refused("{}").contains("missing field `task_type`"));
        assert!(refused(r#"{"task_type":"chernick","from":"1","to":"3","mode":"hunt"}"#).contains("unknown variant `chernick`"));
        assert!(refused(r#"{"task_type":"main_odds","from":1,"to":"3","mode":"hunt"}"#).contains("expected a string"));
        assert!(refused(r#"{"task_type":"main_odds","from":"1","to":"3","mode":"hunt","x":1}"#).contains("unknown field `x`"));
        assert_eq!(refused(&" ".repeat(70_000)), "input: longer than 65536 bytes");
    }
}
