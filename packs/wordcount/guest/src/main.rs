//! The wordcount guest: reads one JSON object from stdin, writes one to stdout.
//!
//! ```text
//! {"text"} or {"artifact","start","end"} ─► map ─────► {"words","distinct","index","counts"}
//! {"parts"} or {"artifacts"}             ─► reduce ──► {"words","distinct","index","top","counts"}
//! the same with {"outline":true}         ─► outline ─► {"words","distinct","top"}      any error: one line on stderr, exit 1
//! ```
//!
//! The shape of the input says which of these is wanted. Artifacts are files below `/in`; outside of a sandbox, below the folder that
//! the first argument names.

mod counts;
mod files;
mod indexed;
mod input;
mod map;
mod part;
mod pieces;
mod progress;
mod reduce;
mod shard;
mod words;
mod written;

use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::counts::Counts;
use crate::input::{InputError, Task};
use crate::map::MapError;
use crate::reduce::ReduceError;
use crate::written::Sum;

/// More than any payload that is passed inline; larger texts are artifacts.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// Where the host puts the artifacts that the input names.
const ARTIFACTS: &str = "/in";

/// Everything that ends the guest with exit 1.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("stdin: {0}")]
    Read(std::io::Error),
    #[error("input: longer than {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("input: {0}")]
    Input(#[from] InputError),
    #[error("{0}")]
    Map(#[from] MapError),
    #[error("{0}")]
    Reduce(#[from] ReduceError),
    #[error("stdout: {0}")]
    Write(std::io::Error),
}

fn main() -> ExitCode {
    let artifacts = std::env::args_os().nth(1).unwrap_or_else(|| ARTIFACTS.into());
    match run(std::io::stdin().lock(), std::io::stdout().lock(), Path::new(&artifacts)) {
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
    let counted = |counts: Counts| Sum { counts, top: None };
    let stdout = BufWriter::with_capacity(64 * 1024, stdout);
    match Task::parse(&text)? {
        Task::Text { text, wanted } => counted(map::count_text(&text, &wanted)?).write(stdout),
        Task::Range { artifact, range, wanted } => {
            counted(map::count_artifact(artifacts, &artifact, range, &wanted)?).write(stdout)
        }
        Task::Merge { parts, shard, top } => reduce::merge(&parts, artifacts, shard, top)?.write(stdout),
        Task::Outline { parts, top } => reduce::outline(&parts, artifacts, top)?.write(stdout),
    }
    .map_err(GuestError::Write)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn answer(input: &str) -> Result<String, String> {
        let mut stdout = Vec::new();
        run(input.as_bytes(), &mut stdout, Path::new("/nonexistent")).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(stdout).expect("JSON is text"))
    }

    #[test]
    fn maps_and_reduces_by_the_shape_of_the_input() {
        let map = answer(r#"{"text":"The cat. The DOG's cat!"}"#).expect("right");
        assert_eq!(map, r#"{"words":5,"distinct":3,"counts":{"cat":2,"dog's":1,"the":2}}"#);
        let reduce = answer(&format!(r#"{{"parts":[{map},{map}],"top":2}}"#)).expect("right");
        let top = r#""top":[{"word":"cat","count":4},{"word":"the","count":4}]"#;
        assert_eq!(reduce, format!(r#"{{"words":10,"distinct":3,{top},"counts":{{"cat":4,"dog's":2,"the":4}}}}"#));
        let outline = answer(&format!(r#"{{"parts":[{reduce}],"top":2,"outline":true}}"#)).expect("right");
        assert_eq!(outline, format!(r#"{{"words":10,"distinct":3,{top}}}"#));
        let picky = answer(r#"{"text":"The cat. The DOG's cat!","stop_words":["THE"],"min_length":4}"#).expect("right");
        assert_eq!(picky, r#"{"words":1,"distinct":1,"counts":{"dog's":1}}"#);
    }

    #[test]
    fn the_demonstration_text() {
        let text = "Busbar orchestrates distributed compute with trust and verification. ".repeat(400);
        let map = answer(&format!(r#"{{"text":"{text}"}}"#)).expect("right");
        let counts = ["and", "busbar", "compute", "distributed", "orchestrates", "trust", "verification", "with"];
        let counts = counts.map(|word| format!(r#""{word}":400"#)).join(",");
        assert_eq!(map, format!(r#"{{"words":3200,"distinct":8,"counts":{{{counts}}}}}"#));
    }

    /// The answers that the guest gives in the sandbox, too: its bytes are compared there.
    #[test]
    fn known_answers() {
        let answers: Vec<Value> = serde_json::from_str(include_str!("../answers.json")).expect("JSON");
        for known in answers {
            let found = answer(&known["input"].to_string()).expect("right");
            assert_eq!(Some(found.as_str()), known["output"].as_str(), "{}", known["input"]);
        }
    }

    #[test]
    fn bad_input_is_named() {
        let refused = |input: &str| answer(input).expect_err("refused");
        for input in ["{}", r#"{"text":"a","parts":[]}"#, r#"{"artifact":"a","artifacts":["b"]}"#] {
            assert_eq!(refused(input), "input: wanted is one of text, artifact, and parts or artifacts");
        }
        assert_eq!(refused(r#"{"text":"a","top":3}"#), "input: top does not go with text");
        assert_eq!(refused(r#"{"text":"a","start":3}"#), "input: start does not go with text");
        assert_eq!(refused(r#"{"parts":[],"end":3}"#), "input: end does not go with parts");
        assert_eq!(refused(r#"{"parts":[],"shard":0}"#), "input: shard and shards go together");
        assert_eq!(refused(r#"{"parts":[],"shard":2,"shards":2}"#), "input: there is no shard 2 of 2");
        assert_eq!(refused(r#"{"parts":[],"outline":true}"#), "input: an outline needs top");
        assert_eq!(refused(r#"{"artifact":"../etc"}"#), "input: artifact is not a name of one file: \"../etc\"");
        assert!(refused(r#"{"artifact":"a1"}"#).starts_with("artifact a1: "));
        assert!(refused(r#"{"artifacts":["a1"]}"#).starts_with("artifact a1: "));
        assert!(refused(r#"{"text":1}"#).starts_with("input: invalid type"));
        assert!(refused("").starts_with("input: EOF"));
        assert!(refused(r#"{"txt":"a"}"#).starts_with("input: unknown field `txt`"));
    }
}
