//! The wordcount guest: reads one JSON object from stdin, writes one to stdout.
//!
//! ```text
//! {"text"} or {"artifact","start","end"} ─► map ────► {"counts","words"}
//! {"parts","top"}                        ─► reduce ─► {"counts","words","top"}      any error: one line on stderr, exit 1
//! ```
//!
//! The shape of the input says which of the two is wanted. Artifacts are files below `/in`.

mod map;
mod progress;
mod reduce;
mod words;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::map::MapError;
use crate::reduce::{Part, ReduceError};

/// More than any payload that is passed inline; larger texts are artifacts.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// Where the host puts the artifacts that the input names.
const ARTIFACTS: &str = "/in";

/// All members that an input can have; `Work` says which go together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: Option<String>,
    artifact: Option<String>,
    start: Option<u64>,
    end: Option<u64>,
    parts: Option<Vec<Part>>,
    top: Option<u32>,
}

/// Everything that ends the guest with exit 1.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("stdin: {0}")]
    Read(std::io::Error),
    #[error("input: longer than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("input: {0}")]
    Json(serde_json::Error),
    #[error("input: exactly one of text, artifact and parts is wanted")]
    Shape,
    #[error("input: {0} does not go with {1}")]
    Stray(&'static str, &'static str),
    #[error("{0}")]
    Map(#[from] MapError),
    #[error("input: {0}")]
    Reduce(#[from] ReduceError),
    #[error("stdout: {0}")]
    Write(std::io::Error),
}

fn main() -> ExitCode {
    match run(std::io::stdin().lock(), std::io::stdout().lock(), Path::new(ARTIFACTS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(stdin: impl Read, stdout: impl Write, artifacts: &Path) -> Result<(), GuestError> {
    let mut text = Vec::new();
    stdin.take(INPUT_BYTES_MAX + 1).read_to_end(&mut text).map_err(GuestError::Read)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(GuestError::TooLong);
    }
    let input: Input = serde_json::from_slice(&text).map_err(GuestError::Json)?;
    let stray = |present: bool, name, owner| if present { Err(GuestError::Stray(name, owner)) } else { Ok(()) };
    match (input.text, input.artifact, input.parts) {
        (Some(text), None, None) => {
            stray(input.start.is_some(), "start", "text")?;
            stray(input.end.is_some(), "end", "text")?;
            stray(input.top.is_some(), "top", "text")?;
            answer(stdout, &map::count_text(&text)?)
        }
        (None, Some(artifact), None) => {
            stray(input.top.is_some(), "top", "artifact")?;
            answer(stdout, &map::count_artifact(artifacts, &artifact, input.start, input.end)?)
        }
        (None, None, Some(parts)) => {
            stray(input.start.is_some(), "start", "parts")?;
            stray(input.end.is_some(), "end", "parts")?;
            answer(stdout, &reduce::merge(parts, input.top)?)
        }
        _ => Err(GuestError::Shape),
    }
}

fn answer(mut stdout: impl Write, output: &impl Serialize) -> Result<(), GuestError> {
    let json = serde_json::to_vec(output).map_err(|error| GuestError::Write(error.into()))?;
    stdout.write_all(&json).and_then(|()| stdout.flush()).map_err(GuestError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(input: &str) -> Result<String, String> {
        let mut stdout = Vec::new();
        run(input.as_bytes(), &mut stdout, Path::new("/nonexistent")).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(stdout).expect("JSON is text"))
    }

    #[test]
    fn maps_and_reduces_by_the_shape_of_the_input() {
        let map = answer(r#"{"text":"The cat. The DOG's cat!"}"#).expect("right");
        assert_eq!(map, r#"{"counts":{"cat":2,"dog's":1,"the":2},"words":5}"#);
        let reduce = answer(&format!(r#"{{"parts":[{map},{map}],"top":2}}"#)).expect("right");
        assert_eq!(
            reduce,
            r#"{"counts":{"cat":4,"dog's":2,"the":4},"words":10,"top":[{"word":"cat","count":4},{"word":"the","count":4}]}"#
        );
        assert_eq!(answer(r#"{"parts":[]}"#).expect("right"), r#"{"counts":{},"words":0}"#);
    }

    #[test]
    fn the_demonstration_text() {
        let text = "Busbar orchestrates distributed compute with trust and verification. ".repeat(400);
        let map = answer(&format!(r#"{{"text":"{text}"}}"#)).expect("right");
        assert!(map.contains(r#""verification":400"#) && map.ends_with(r#""words":3200}"#), "{map}");
    }

    #[test]
    fn bad_input_is_named() {
        let refused = |input: &str| answer(input).expect_err("refused");
        assert_eq!(refused("{}"), "input: exactly one of text, artifact and parts is wanted");
        assert_eq!(refused(r#"{"text":"a","parts":[]}"#), "input: exactly one of text, artifact and parts is wanted");
        assert_eq!(refused(r#"{"text":"a","top":3}"#), "input: top does not go with text");
        assert_eq!(refused(r#"{"parts":[],"end":3}"#), "input: end does not go with parts");
        assert_eq!(refused(r#"{"artifact":"../etc"}"#), "input: artifact is not a name of one file: \"../etc\"");
        assert!(refused(r#"{"artifact":"a1"}"#).starts_with("artifact a1: "));
        assert!(refused(r#"{"text":1}"#).starts_with("input: invalid type"));
        assert!(refused("").starts_with("input: EOF"));
        assert!(refused(r#"{"txt":"a"}"#).starts_with("input: unknown field `txt`"));
    }
}
