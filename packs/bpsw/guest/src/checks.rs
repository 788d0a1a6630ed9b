//! Checks the result of a search that somebody did whom nobody trusts: it must answer what was asked, and what it claims must hold. That it
//! has overlooked nothing cannot be seen in it: for that, results are compared.

use std::io;

use bpsw_arith::natural::Natural;
use serde::{Deserialize, Serialize};

use crate::certificates::Claim;
use crate::failure::{GuestError, INPUT_BYTES_MAX};
use crate::opinions;

/// What the scheduler gives to a verifier.
#[derive(Debug, Deserialize)]
struct Given {
    artifact: String,
    input: Asked,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Asked {
    task_type: String,
    from: String,
    to: String,
    mode: String,
}

/// What a result says that can be checked.
#[derive(Debug, Deserialize)]
struct Said {
    #[serde(flatten)]
    of: Asked,
    counterexamples: Vec<Claim>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum Word {
    Plausible,
    Wrong { reason: String },
}

/// Checks the result that the input names, as JSON. `read` gives the content of an artifact.
pub(crate) fn checked(text: &[u8], read: impl Fn(&str) -> io::Result<Vec<u8>>) -> Result<Vec<u8>, GuestError> {
    let given: Given = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let result = read(&given.artifact).map_err(GuestError::Artifact)?;
    let word = match check(&given.input, &result) {
        Ok(()) => Word::Plausible,
        Err(reason) => Word::Wrong { reason },
    };
    serde_json::to_vec(&word).map_err(GuestError::Output)
}

fn check(asked: &Asked, result: &[u8]) -> Result<(), String> {
    if result.len() as u64 > INPUT_BYTES_MAX {
        return Err("no result is so long".to_owned());
    }
    let said: Said = serde_json::from_slice(result).map_err(|error| format!("it is no result: {error}"))?;
    if said.of != *asked {
        return Err("it is the result of another search".to_owned());
    }
    let bound = |text: &str| Natural::parse(text).map_err(|error| format!("a bound {error}"));
    let (from, to) = (bound(&asked.from)?, bound(&asked.to)?);
    for claim in &said.counterexamples {
        let n = Natural::parse(&claim.n).map_err(|error| format!("a number of it {error}"))?;
        if n < from || n > to {
            return Err(format!("{} is not in the range", claim.n));
        }
        opinions::check(claim).map_err(|reason| format!("{}: {reason}", claim.n))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = r#"{"artifact":"j.r3","job_id":"j","topic":"job.bpsw.volunteers",
        "input":{"task_type":"main_odds","from":"2001","to":"2050","mode":"hunt","sieve_to":3}}"#;

    fn word(result: &str) -> String {
        let read = |artifact: &str| {
            assert_eq!(artifact, "j.r3");
            Ok(result.as_bytes().to_vec())
        };
        String::from_utf8(checked(INPUT.as_bytes(), read).expect("a word")).expect("text")
    }

    fn result(to: &str, counterexamples: &str) -> String {
        format!(
            r#"{{"task_type":"main_odds","from":"2001","to":"{to}","mode":"hunt","primes":7,"counterexamples":[{counterexamples}]}}"#
        )
    }

    #[test]
    fn a_result_without_claims_is_plausible_and_one_of_another_search_is_wrong() {
        assert_eq!(word(&result("2050", "")), r#"{"verdict":"plausible"}"#);
        assert!(word(&result("2060", "")).contains("another search"));
        assert!(word("[]").contains("it is no result"));
    }

    #[test]
    fn claims_must_be_in_the_range_and_hold() {
        // 2047 is 23 · 89 and passes base 2, but not the Lucas half.
        let claim = |n: &str| format!(r#"{{"n":"{n}","certificate":{{"kind":"factors","factors":["23","89"]}}}}"#);
        assert_eq!(
            word(&result("2050", &claim("2047"))),
            r#"{"verdict":"wrong","reason":"2047: it fails the strong Lucas test"}"#
        );
        assert!(word(&result("2050", &claim("3215031751"))).contains("is not in the range"));
    }

    #[test]
    fn an_artifact_that_cannot_be_read_is_no_word() {
        let read = |_: &str| Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(checked(INPUT.as_bytes(), read).is_err());
    }
}
