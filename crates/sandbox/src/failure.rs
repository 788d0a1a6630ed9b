//! How a run can end badly, each way with its own code.

use std::fmt;
use std::time::Duration;

use busbar_protocol::codes::Code;
use bytes::Bytes;
use thiserror::Error;

use crate::{Limits, Usage};

/// How much of the log a failure's message repeats, in bytes.
const MESSAGE_LOG_BYTES_MAX: usize = 4 * 1024;
/// How much of the output it repeats, where the output was wrong.
const MESSAGE_OUTPUT_BYTES_MAX: usize = 512;
/// How much of the output of a guest that failed is kept.
const STDOUT_BYTES_MAX: usize = 1024 * 1024;

/// A run that did not succeed.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Failure {
    /// In what way.
    pub kind: FailureKind,
    /// For people: what happened, then the beginning of the output if that is what was wrong, then the last 4 KiB of standard error.
    pub message: String,
    /// What it had written to standard output: at most 1 MiB, and where something is missing it ends by saying so.
    pub stdout: Bytes,
    /// The last 64 KiB of standard error.
    pub stderr_tail: Bytes,
    /// What it used until then.
    pub usage: Box<Usage>,
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
    /// The guest did what WebAssembly or the host forbids: unreachable code, an address out of bounds.
    Trap,
    /// Memory above its limit.
    LimitMemory,
    /// Table elements above their limit.
    LimitTables,
    /// Calls nested deeper than the stack.
    LimitStack,
    /// Open files and folders above their limit.
    LimitHandles,
    /// Random bytes above their limit.
    LimitRandom,
    /// Instructions above their limit.
    LimitFuel,
    /// Processor time above its limit.
    LimitCpu,
    /// Wall-clock time above its limit.
    LimitWall,
    /// Standard output above its limit.
    LimitOutput,
    /// Exit code 0, but standard output is not one JSON value.
    OutputInvalid,
    /// It imports what its limits do not allow.
    ImportDenied,
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
            Self::LimitTables => Code::LimitTables,
            Self::LimitStack => Code::LimitStack,
            Self::LimitHandles => Code::LimitHandles,
            Self::LimitRandom => Code::LimitRandom,
            Self::LimitFuel => Code::LimitFuel,
            Self::LimitCpu => Code::LimitCpu,
            Self::LimitWall => Code::LimitWall,
            Self::LimitOutput => Code::LimitOutput,
            Self::OutputInvalid => Code::GuestOutputInvalid,
            Self::ImportDenied => Code::ImportDenied,
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
            | Self::LimitTables
            | Self::LimitStack
            | Self::LimitHandles
            | Self::LimitRandom
            | Self::LimitFuel
            | Self::LimitCpu
            | Self::LimitWall
            | Self::LimitOutput
            | Self::OutputInvalid
            | Self::ImportDenied
            | Self::Cancelled => false,
        }
    }
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, description: String, streams: Said, usage: Usage) -> Self {
        let Said { stdout, stderr_tail } = streams;
        let mut description = description;
        if matches!(kind, FailureKind::LimitOutput | FailureKind::OutputInvalid) && !stdout.is_empty() {
            let begin = cut(&stdout, usage.output_bytes, MESSAGE_OUTPUT_BYTES_MAX);
            description.push_str("; it began:\n");
            description.push_str(String::from_utf8_lossy(&begin).trim());
        }
        let stdout = cut(&stdout, usage.output_bytes, STDOUT_BYTES_MAX);
        let message = with_log(description, &stderr_tail);
        Self { kind, message, stdout, stderr_tail, usage: Box::new(usage) }
    }
}

/// What a guest that failed had written.
pub(crate) struct Said {
    /// The beginning of standard output.
    pub(crate) stdout: Bytes,
    pub(crate) stderr_tail: Bytes,
}

/// At most so many of the first bytes. Where bytes are missing, the end says how many there are, and how many there were.
pub(crate) fn cut(bytes: &Bytes, written: u64, bytes_max: usize) -> Bytes {
    let kept = bytes.len().min(bytes_max);
    if kept as u64 >= written {
        return bytes.clone();
    }
    let suffix = format!("\n[cut: the first {kept} of {written} bytes]");
    Bytes::from([&bytes[..kept], suffix.as_bytes()].concat())
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

/// Why we stopped a guest, with what it had used or wanted. It travels through wasmtime as an error and is found again at the other
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Memory { wanted: u64 },
    Tables { wanted: u64 },
    Cpu { used: Duration },
    Wall { used: Duration },
    Output { wanted: u64 },
    Random { wanted: u64 },
    Handles,
    Fuel,
    Stack { bytes_max: usize },
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
            Self::Memory { .. } => FailureKind::LimitMemory,
            Self::Tables { .. } => FailureKind::LimitTables,
            Self::Cpu { .. } => FailureKind::LimitCpu,
            Self::Wall { .. } => FailureKind::LimitWall,
            Self::Output { .. } => FailureKind::LimitOutput,
            Self::Random { .. } => FailureKind::LimitRandom,
            Self::Handles => FailureKind::LimitHandles,
            Self::Fuel => FailureKind::LimitFuel,
            Self::Stack { .. } => FailureKind::LimitStack,
            Self::Cancelled => FailureKind::Cancelled,
        }
    }

    /// Which limit, how much of it there was, and how much was used or wanted.
    pub(crate) fn describe(self, limits: &Limits) -> String {
        match self {
            Self::Memory { wanted } => {
                format!("memory_bytes: the guest wanted {wanted} of {} bytes of memory", limits.memory_bytes)
            }
            Self::Tables { wanted } => {
                format!("table_elements: the guest wanted {wanted} of {} table elements", limits.table_elements)
            }
            Self::Cpu { used } => {
                format!("cpu_ms: the guest used {} ms of {} ms of processor time", used.as_millis(), limits.cpu_ms)
            }
            Self::Wall { used } => format!("wall_ms: the guest ran for {} ms of {} ms", used.as_millis(), limits.wall_ms),
            Self::Output { wanted } => {
                format!("output_bytes: the guest wrote {wanted} of {} bytes to standard output", limits.output_bytes)
            }
            Self::Random { wanted } => {
                format!("random_bytes: the guest wanted {wanted} of {} random bytes", limits.random_bytes)
            }
            Self::Handles => format!("open_handles: the guest wanted more than {} open files and folders", limits.open_handles),
            Self::Fuel => format!("fuel: the guest used {0} of {0} instructions", limits.fuel),
            Self::Stack { bytes_max } => format!("the guest's calls filled all {bytes_max} bytes of its stack"),
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

    #[test]
    fn what_is_cut_says_so() {
        let all = Bytes::from_static(b"12345");
        assert_eq!(cut(&all, 5, 5), all);
        assert_eq!(cut(&all, 5, 3), "123\n[cut: the first 3 of 5 bytes]");
        assert_eq!(cut(&all, 9, 100), "12345\n[cut: the first 5 of 9 bytes]");
    }

    #[test]
    fn output_that_is_wrong_is_shown_and_other_output_only_kept() {
        let failure = |kind| {
            let said = Said { stdout: Bytes::from_static(b"pri"), stderr_tail: Bytes::from_static(b"log") };
            Failure::new(kind, "why".to_owned(), said, Usage { output_bytes: 5, ..Usage::default() })
        };
        assert_eq!(failure(FailureKind::LimitOutput).message, "why; it began:\npri\n[cut: the first 3 of 5 bytes]\nlog");
        assert_eq!(failure(FailureKind::Trap).message, "why\nlog");
        assert_eq!(failure(FailureKind::Trap).stdout, "pri\n[cut: the first 3 of 5 bytes]");
    }
}
