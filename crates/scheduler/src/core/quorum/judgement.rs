//! What a verifier says of a result: read from its own result.

use busbar_protocol::busbar::{Comparison, Judgement};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::compare;

/// A verifier's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub judgement: Judgement,
    /// SHA-256 of the form of the result in which it is to be compared, where the verifier gave one.
    pub canonical: Option<[u8; 32]>,
}

#[derive(Deserialize)]
struct Said<'a> {
    verdict: Verdict,
    #[serde(borrow)]
    canonical: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Proven,
    Plausible,
    Wrong,
}

/// Reads the result of a verifier: an object with `verdict`, one of `proven`, `plausible` and `wrong`, and perhaps `canonical`, the
/// result in the one form that equal results have. Other members are the verifier's own affair.
///
/// # Errors
/// What is wrong with it.
pub fn read(result: &[u8]) -> Result<Word, String> {
    let said: Said<'_> = serde_json::from_slice(result).map_err(|error| format!("it is no word of a verifier: {error}"))?;
    let judgement = match said.verdict {
        Verdict::Proven => Judgement::Proven,
        Verdict::Plausible => Judgement::Plausible,
        Verdict::Wrong => Judgement::Wrong,
    };
    let canonical = said.canonical.map(|form| compare::digest(form.get().as_bytes(), Comparison::Json));
    Ok(Word { judgement, canonical })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_a_verdict_and_perhaps_a_form() {
        let form = |json: &str| Some(compare::digest(json.as_bytes(), Comparison::Json));
        for (result, judgement, canonical) in [
            (r#"{"verdict":"proven"}"#, Judgement::Proven, None),
            (r#"{"verdict":"plausible","canonical":{"b":1, "a":[2]}}"#, Judgement::Plausible, form(r#"{"a":[2],"b":1}"#)),
            (r#"{"reason":"no factor","verdict":"wrong","canonical":null}"#, Judgement::Wrong, None),
        ] {
            assert_eq!(read(result.as_bytes()), Ok(Word { judgement, canonical }), "{result}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for result in ["", "null", "7", "{}", r#"{"verdict":"right"}"#, r#"{"verdict":null}"#, r#"{"verdict":"proven""#] {
            let error = read(result.as_bytes()).expect_err(result);
            assert!(error.starts_with("it is no word of a verifier: "), "{error}");
        }
    }
}
