//! How a run can end badly, each way with its own code.

use std::fmt;

use busbar_protocol::codes::Code;
use bytes::Bytes;
use thiserror::Error;

use crate::{Limits, Usage};

/// How much of the log a failure's message repeats, in bytes.
const MESSAGE_LOG_BYTES_MAX: usize = 4 * 1024;

/// A run that did not succeed.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Failure {
    /// In what way.
    pub kind: FailureKind,
    /// For people: what happened, then the last 4 KiB of standard error.
    pub message: String,
    /// The last 64 KiB of standard error.
    pub stderr_tail: Bytes,
    /// What it used until then.
    pub usage: Usage,
}

/// The ways to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The guest exited with a code that is neither 0 nor 75.
    Exit {
        /// That code.
        code: i32,
    },
    /// The guest exited with 75: it asks to be run again.
    Retryable,
    /// The guest did what WebAssembly or the host forbids: unreachable code, an address out of bounds, a stack overflow.
    Trap,
    /// Memory or tables above their limit.
    LimitMemory,
    /// Processor time above its limit.
    LimitCpu,
    /// Wall-clock time above its limit.
    LimitWall,
    /// Standard output above its limit.
    LimitOutput,
    /// Exit code 0, but standard output is not one JSON value.
    OutputInvalid,
    /// The caller cancelled it.
    Cancelled,
    /// An artifact could not be granted: it is not a file, or its id cannot be a file name.
    Artifact,
    /// The host could not prepare the run (disk, memory): not the guest's fault.
    Host,
}

impl FailureKind {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Exit { .. } => Code::GuestExit,
            Self::Retryable => Code::AttemptFailed,
            Self::Trap => Code::GuestTrap,
            Self::LimitMemory => Code::LimitMemory,
            Self::LimitCpu => Code::LimitCpu,
            Self::LimitWall => Code::LimitWall,
            Self::LimitOutput => Code::LimitOutput,
            Self::OutputInvalid => Code::GuestOutputInvalid,
            Self::Cancelled => Code::Cancelled,
            Self::Artifact => Code::ArtifactUnavailable,
            Self::Host => Code::Internal,
        }
    }

    /// Whether another attempt may end differently.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Retryable | Self::Artifact | Self::Host => true,
            Self::Exit { .. }
            | Self::Trap
            | Self::LimitMemory
            | Self::LimitCpu
            | Self::LimitWall
            | Self::LimitOutput
            | Self::OutputInvalid
            | Self::Cancelled => false,
        }
    }
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, description: String, stderr_tail: Bytes, usage: Usage) -> Self {
        let message = with_log(description, &stderr_tail);
        Self { kind, message, stderr_tail, usage }
    }
}

fn with_log(mut description: String, log: &[u8]) -> String {
    let start = log.len().saturating_sub(MESSAGE_LOG_BYTES_MAX);
    let log = String::from_utf8_lossy(log.get(start..).unwrap_or_default());
    let log = log.trim();
    if !log.is_empty() {
        description.push('\n');
        description.push_str(log);
    }
    description
}

/// Why we stopped a guest. It travels through wasmtime as an error and is found again at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Memory,
    Table,
    Cpu,
    Wall,
    Output,
    Cancelled,
}

impl std::error::Error for Stop {}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest was stopped: {self:?}")
    }
}

impl Stop {
    pub(crate) fn kind(self) -> FailureKind {
        match self {
            Self::Memory | Self::Table => FailureKind::LimitMemory,
            Self::Cpu => FailureKind::LimitCpu,
            Self::Wall => FailureKind::LimitWall,
            Self::Output => FailureKind::LimitOutput,
            Self::Cancelled => FailureKind::Cancelled,
        }
    }

    pub(crate) fn describe(self, limits: &Limits) -> String {
        match self {
            Self::Memory => format!("the guest wanted more than {} bytes of memory", limits.memory_bytes),
            Self::Table => format!("the guest wanted more than {} table elements", crate::budget::TABLE_ELEMENTS_MAX),
            Self::Cpu => format!("the guest used more than {} ms of processor time", limits.cpu_ms),
            Self::Wall => format!("the guest ran for more than {} ms", limits.wall_ms),
            Self::Output => format!("the guest wrote more than {} bytes to standard output", limits.output_bytes),
            Self::Cancelled => "the run was cancelled".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_keeps_the_end_of_the_log() {
        let log = [vec![b'x'; 10_000], b"the end\n".to_vec()].concat();
        let message = with_log("exit code 3".to_owned(), &log);
        assert!(message.starts_with("exit code 3\nxxx"), "{message}");
        assert!(message.ends_with("xxxthe end"), "{message}");
        assert!(message.len() < 4_200, "{}", message.len());
    }
}
