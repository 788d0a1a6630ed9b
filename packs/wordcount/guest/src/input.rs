//! From the input to a task: which members go together.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::map::Wanted;
use crate::reduce::Parts;
use crate::shard::Shard;

/// All members that an input can have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<'a> {
    text: Option<String>,
    artifact: Option<String>,
    start: Option<u64>,
    end: Option<u64>,
    stop_words: Option<Vec<String>>,
    min_length: Option<u32>,
    #[serde(borrow)]
    parts: Option<Vec<&'a RawValue>>,
    artifacts: Option<Vec<String>>,
    shard: Option<u32>,
    shards: Option<u32>,
    outline: Option<bool>,
    top: Option<u32>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task<'a> {
    /// Count the words of a text.
    Text { text: String, wanted: Wanted },
    /// Count the words of a range of an artifact.
    Range { artifact: String, range: (Option<u64>, Option<u64>), wanted: Wanted },
    /// Add parts up.
    Merge { parts: Parts<'a>, shard: Shard, top: Option<u32> },
    /// Add up parts that have no word in common, without their counts.
    Outline { parts: Parts<'a>, top: u32 },
}

/// Why an input is no task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("wanted is one of text, artifact, and parts or artifacts")]
    Shape,
    #[error("{member} does not go with {owner}")]
    Stray { member: &'static str, owner: &'static str },
    #[error("shard and shards go together")]
    Shards,
    #[error("there is no shard {index} of {of}")]
    Shard { index: u32, of: u32 },
    #[error("an outline needs top")]
    Top,
}

impl<'a> Task<'a> {
    /// Reads the input.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, InputError> {
        let input: Input<'a> = serde_json::from_slice(json)?;
        let reduces = input.parts.is_some() || input.artifacts.is_some();
        match (input.text.is_some(), input.artifact.is_some(), reduces) {
            (true, false, false) => input.text(),
            (false, true, false) => input.range(),
            (false, false, true) => input.reduce(),
            _ => Err(InputError::Shape),
        }
    }
}

impl<'a> Input<'a> {
    fn text(self) -> Result<Task<'a>, InputError> {
        self.no_range("text")?;
        self.no_reduce("text")?;
        let wanted = self.wanted();
        Ok(Task::Text { text: self.text.unwrap_or_default(), wanted })
    }

    fn range(self) -> Result<Task<'a>, InputError> {
        self.no_reduce("artifact")?;
        let wanted = self.wanted();
        Ok(Task::Range { artifact: self.artifact.unwrap_or_default(), range: (self.start, self.end), wanted })
    }

    fn reduce(self) -> Result<Task<'a>, InputError> {
        self.no_range("parts")?;
        absent(self.stop_words.is_some(), "stop_words", "parts")?;
        absent(self.min_length.is_some(), "min_length", "parts")?;
        let shard = match (self.shard, self.shards) {
            (None, None) => Shard::ALL,
            (Some(index), Some(of)) => Shard::new(index, of).ok_or(InputError::Shard { index, of })?,
            _ => return Err(InputError::Shards),
        };
        let inline = self.parts.unwrap_or_default().into_iter().map(RawValue::get).collect();
        let parts = Parts { inline, artifacts: self.artifacts.unwrap_or_default() };
        if self.outline != Some(true) {
            return Ok(Task::Merge { parts, shard, top: self.top });
        }
        absent(self.shard.is_some(), "shard", "outline")?;
        Ok(Task::Outline { parts, top: self.top.ok_or(InputError::Top)? })
    }

    fn wanted(&self) -> Wanted {
        Wanted::new(self.stop_words.as_deref().unwrap_or_default(), self.min_length.unwrap_or(0))
    }

    fn no_range(&self, owner: &'static str) -> Result<(), InputError> {
        absent(self.start.is_some(), "start", owner)?;
        absent(self.end.is_some(), "end", owner)
    }

    fn no_reduce(&self, owner: &'static str) -> Result<(), InputError> {
        absent(self.shard.is_some(), "shard", owner)?;
        absent(self.shards.is_some(), "shards", owner)?;
        absent(self.outline.is_some(), "outline", owner)?;
        absent(self.top.is_some(), "top", owner)
    }
}

fn absent(present: bool, member: &'static str, owner: &'static str) -> Result<(), InputError> {
    if present { Err(InputError::Stray { member, owner }) } else { Ok(()) }
}
