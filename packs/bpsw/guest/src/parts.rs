//! The task type `split`: a range in parts, each small enough for one job.

use bpsw_arith::split::split;
use serde::{Deserialize, Serialize};

use crate::failure::GuestError;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(rename = "task_type")]
    _task_type: String,
    from: String,
    to: String,
    /// Numbers of one part.
    chunk: u64,
    /// Only so many parts, the first ones.
    parts_max: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Output {
    task_type: &'static str,
    ranges: Vec<Part>,
}

/// A part: both ends are inclusive.
#[derive(Debug, Serialize)]
struct Part {
    from: String,
    to: String,
}

/// A range in parts, as JSON.
pub(crate) fn split_range(text: &[u8]) -> Result<Vec<u8>, GuestError> {
    let input: Input = serde_json::from_slice(text).map_err(GuestError::Input)?;
    let ranges = split(&input.from, &input.to, input.chunk, input.parts_max).map_err(GuestError::Split)?.into_iter();
    let ranges = ranges.map(|(from, to)| Part { from: from.to_string(), to: to.to_string() }).collect();
    serde_json::to_vec(&Output { task_type: "split", ranges }).map_err(GuestError::Output)
}
