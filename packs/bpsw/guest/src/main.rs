//! The bpsw guest: one task as JSON on stdin, what was found as JSON on stdout.
//!
//! ```text
//! stdin ─► task_type ─┬► ranges         main_odds, large_numbers           ─┐
//!                     ├► families       chernick, pomerance_lite           ─┤
//!                     ├► constructions  pomerance_modular, lambda_plus_one ─┼─► stdout        any error: one line on stderr, exit 1
//!                     ├► opinions       judge, verify                      ─┤
//!                     ├► checks         none: a result of somebody else     ─┤
//!                     └► parts          split                              ─┘
//!                            ╰─► busbar.progress, busbar.checkpoint
//! ```
//!
//! It uses nothing but stdio and those two, so it also runs natively: `cargo run < input.json`.

use std::io::{Read, Write};
use std::process::ExitCode;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::failure::{GuestError, INPUT_BYTES_MAX};

mod certificates;
mod checks;
mod constructions;
mod failure;
mod families;
mod host;
mod opinions;
mod parts;
mod ranges;

/// What every input says.
#[derive(Debug, Deserialize)]
struct Kind {
    task_type: String,
}

/// What only the scheduler writes, for a verifier: the name of a result.
#[derive(Debug, Deserialize)]
struct OfVerifier {
    #[serde(rename = "artifact")]
    _artifact: IgnoredAny,
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
    let json = match serde_json::from_slice::<OfVerifier>(&text) {
        Ok(_) => checks::checked(&text, host::read_artifact),
        Err(_) => task(&text),
    }?;
    stdout.write_all(&json).and_then(|()| stdout.flush()).map_err(GuestError::Write)
}

fn task(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let Kind { task_type } = serde_json::from_slice(text).map_err(GuestError::Input)?;
    match task_type.as_str() {
        "main_odds" | "large_numbers" => ranges::search(text),
        "chernick" => families::chernick(text),
        "pomerance_lite" => families::pomerance_lite(text),
        "pomerance_modular" => constructions::pomerance_modular(text),
        "lambda_plus_one" => constructions::lambda_plus_one(text),
        "judge" => opinions::judgements(text),
        "verify" => opinions::verified(text),
        "split" => parts::split_range(text),
        _ => Err(GuestError::UnknownType(task_type)),
    }
}

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
        assert!(census.starts_with(head) && census.contains(r#""counterexamples":[],"blocks":[""#), "{census}");
        let hunt = answer(r#"{"task_type":"large_numbers","from":"2000","to":"2050","mode":"hunt"}"#).expect("right");
        assert!(hunt.contains(r#""sieve_to":262144,"checked":25,"primes":6,"counterexamples":[],"blocks":[""#), "{hunt}");
        let other =
            answer(r#"{"task_type":"large_numbers","from":"2000","to":"2050","mode":"hunt","sieve_to":3}"#).expect("right");
        assert!(other.contains(r#""sieve_to":3,"checked":25,"primes":6"#), "{other}");
        let digest = |text: &str| text[text.find(r#""digest""#).expect("there")..].to_owned();
        assert_ne!(digest(&hunt), digest(&other));
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
    fn single_numbers_are_judged() {
        let judged = answer(r#"{"task_type":"judge","numbers":["2047","5459","100000000000000000039","15"]}"#).expect("right");
        let expected = r#"{"task_type":"judge","judgements":[
            {"n":"2047","base_two":true,"lucas":false,"verdict":"composite"},
            {"n":"5459","base_two":false,"lucas":true,"verdict":"composite"},
            {"n":"100000000000000000039","base_two":true,"lucas":true,"verdict":"bpsw_prp"},
            {"n":"15","base_two":false,"lucas":false,"verdict":"composite"}]}"#;
        assert_eq!(judged, expected.replace("\n            ", ""));
        let refused = answer(r#"{"task_type":"judge","numbers":["3","4"]}"#).expect_err("even");
        assert_eq!(refused, "input: numbers[1] is even, or below 3");
    }

    #[test]
    fn products_of_chernick_are_counted() {
        let found = answer(r#"{"task_type":"chernick","from":"1","to":"100"}"#).expect("right");
        assert!(
            found.starts_with(r#"{"task_type":"chernick","from":"1","to":"100","factors":3,"checked":100,"counters":{"#),
            "{found}"
        );
        assert!(found.contains(r#""tuples":3},"counterexamples":[],"blocks":[""#), "{found}");
        let refused = answer(r#"{"task_type":"chernick","from":"1","to":"100","factors":6}"#).expect_err("too many");
        assert_eq!(refused, "input: factors must be 3, 4 or 5");
    }

    #[test]
    fn random_products_are_counted() {
        let found = answer(r#"{"task_type":"pomerance_lite","from":"1","to":"20"}"#).expect("right");
        let head =
            r#"{"task_type":"pomerance_lite","from":"1","to":"20","target_digits":22,"prime_digits":7,"checked":20,"counters":{"#;
        assert!(found.starts_with(head) && found.contains(r#""products":20},"counterexamples":[]"#), "{found}");
        let refused = answer(r#"{"task_type":"pomerance_lite","from":"1","to":"20","prime_digits":12}"#).expect_err("too long");
        assert!(refused.starts_with("input: target_digits and prime_digits"), "{refused}");
    }

    #[test]
    fn products_of_a_lambda_are_counted() {
        let erdos = r#"[{"base":2,"exponent":3},{"base":3,"exponent":1},{"base":5,"exponent":1}]"#;
        let asked = |to: &str, factors: &str| {
            answer(&format!(r#"{{"task_type":"lambda_plus_one","from":"0","to":"{to}","lambda_factors":{factors}}}"#))
        };
        let found = asked("7", erdos).expect("right");
        let head =
            format!(r#"{{"task_type":"lambda_plus_one","from":"0","to":"7","lambda_factors":{erdos},"checked":8,"counters":{{"#);
        assert!(found.starts_with(&head) && found.contains(r#""carmichaels":3,"#), "{found}");
        assert_eq!(asked("8", erdos), Err("input: to is beyond the last item, 7".into()));
        let refused = asked("7", r#"[{"base":4,"exponent":1}]"#).expect_err("no prime");
        assert!(refused.starts_with("input: lambda_factors must be"), "{refused}");
        let usual = answer(r#"{"task_type":"lambda_plus_one","from":"0","to":"99"}"#).expect("right");
        assert!(usual.contains(r#""lucas_pass":0,"#) && usual.contains(r#""counterexamples":[]"#), "{usual}");
    }

    #[test]
    fn primes_that_suit_are_found_and_multiplied() {
        let found = answer(r#"{"task_type":"pomerance_modular","phase":"primes","from":"0","to":"31"}"#).expect("right");
        assert!(found.contains(r#""primes":["3","83"],"checked":32,"counters":{"primes_found":2},"#), "{found}");
        let products = |primes: &str| {
            answer(&format!(r#"{{"task_type":"pomerance_modular","phase":"products","from":"0","to":"1","primes":{primes}}}"#))
        };
        let found = products(r#"["83"]"#).expect("right");
        assert!(found.contains(r#""modulus":"1","calibration":true,"checked":2,"counters":{"#), "{found}");
        assert!(products(r#"["3","83"]"#).expect_err("3 divides N").starts_with("input: primes must be distinct"));
        assert_eq!(products(r#"["x"]"#), Err("input: primes[0] is not a decimal number: 'x' at position 1".into()));
        assert!(answer(r#"{"task_type":"pomerance_modular","phase":"products","from":"0","to":"1"}"#).is_err());
        let refused = answer(r#"{"task_type":"pomerance_modular","phase":"primes","from":"0","to":"1","m_primes":[5]}"#);
        assert!(refused.expect_err("5").starts_with("input: m_primes must be"));
    }

    #[test]
    fn claims_that_prove_nothing_are_refused() {
        let claims = r#"{"task_type":"verify","claims":[
            {"n":"2047","certificate":{"kind":"factors","factors":["23","89"]}},
            {"n":"5459","certificate":{"kind":"factors","factors":["53","103"]}},
            {"n":"100000000000000000039","certificate":{"kind":"strong_base","base":3}},
            {"n":"100000000000000000039","certificate":{"kind":"factors","factors":["x"]}}]}"#;
        let answered = answer(claims).expect("right");
        let expected = r#"{"task_type":"verify","confirmed":[],"refused":[
            {"n":"2047","reason":"it fails the strong Lucas test"},
            {"n":"5459","reason":"it fails the strong test to base 2"},
            {"n":"100000000000000000039","reason":"the certificate does not prove it composite"},
            {"n":"100000000000000000039","reason":"a number of it is not a decimal number: 'x' at position 1"}]}"#;
        assert_eq!(answered, expected.replace("\n            ", ""));
        assert!(
            answer(r#"{"task_type":"verify","claims":[{"n":"2047"}]}"#)
                .expect_err("bare")
                .contains("missing field `certificate`")
        );
    }

    #[test]
    fn answers_are_those_that_the_sandboxed_build_is_held_to() {
        let answers: Vec<serde_json::Value> = serde_json::from_str(include_str!("../answers.json")).expect("a list");
        for expected in &answers {
            let given = answer(&expected["input"].to_string()).expect("right");
            let given: serde_json::Value = serde_json::from_str(&given).expect("JSON");
            assert_eq!(given["digest"], expected["digest"], "{}", expected["input"]);
        }
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
        assert_eq!(refused(r#"{"task_type":"all","from":"1","to":"3","mode":"hunt"}"#), "input: unknown task_type 'all'");
        let sieved = |mode: &str, bound: u64| {
            refused(&format!(r#"{{"task_type":"main_odds","from":"3","to":"9","mode":"{mode}","sieve_to":{bound}}}"#))
        };
        assert_eq!(sieved("hunt", 2), "input: sieve_to must be from 3 to 16777216");
        assert_eq!(sieved("census", 100), "input: a census has no sieve_to: it judges every number");
        assert!(refused(r#"{"task_type":"main_odds","from":1,"to":"3","mode":"hunt"}"#).contains("expected a string"));
        assert!(refused(r#"{"task_type":"main_odds","from":"1","to":"3","mode":"hunt","x":1}"#).contains("unknown field `x`"));
        assert_eq!(refused(&" ".repeat(1_100_000)), "input: longer than 1048576 bytes");
    }
}
