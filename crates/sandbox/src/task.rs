//! What goes into a run, what is told while it lasts, and what comes out.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::Limits;

/// The largest checkpoint that a guest may hand over, in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 64 * 1024;

/// One run of a guest.
pub struct Task {
    /// What the guest reads from standard input.
    pub input: Bytes,
    /// What it may use. The ceilings of the sandbox's configuration lower it further.
    pub limits: Limits,
    /// Files that appear, read-only, as `/in/<id>`.
    pub artifacts: Vec<Artifact>,
    /// The last checkpoint of an earlier attempt: it appears as `/in/checkpoint`.
    pub checkpoint: Option<Bytes>,
    /// With a seed, clocks, randomness and what can be seen of files are the same in every run with that seed, on every machine. Without
    /// one, a task that is to be repeatable gets one that follows from module and input.
    pub seed: Option<[u8; 32]>,
    /// Who hears of progress, checkpoints and log lines.
    pub events: Box<dyn GuestEvents>,
    /// Ends the run with `cancelled`.
    pub cancel: CancellationToken,
}

impl Task {
    /// A task with this input: default limits, no files, nobody who listens.
    #[must_use]
    pub fn new(input: impl Into<Bytes>) -> Self {
        Self {
            input: input.into(),
            limits: Limits::default(),
            artifacts: Vec::new(),
            checkpoint: None,
            seed: None,
            events: Box::new(NoEvents),
            cancel: CancellationToken::new(),
        }
    }
}

/// A local file that a guest may read as `/in/<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The file name below `/in`: letters, digits and `:._@-[]`, at most 128, starting with a letter or digit, and not `checkpoint`.
    pub id: String,
    /// A regular file. It is hard-linked where possible and copied otherwise, so put the scratch folder on the same file system.
    pub path: PathBuf,
}

/// Told on the guest's thread, in order, while it runs. Calls must not block: their time is the guest's.
pub trait GuestEvents: Send + 'static {
    /// Percent done, 0 to 100. Told only when it rises.
    fn progress(&mut self, percent: u8) {
        let _ = percent;
    }

    /// The guest reported progress that did not rise: it still works. Told at most five times a second.
    fn alive(&mut self) {}

    /// State to go on from after a crash, at most [`CHECKPOINT_BYTES_MAX`], at most one a second.
    fn checkpoint(&mut self, state: Bytes) {
        let _ = state;
    }

    /// One line of standard error, without its end, at most 4 KiB; at most 64 KiB a second, and what is left out is said.
    fn log(&mut self, line: &str) {
        let _ = line;
    }
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoEvents;

impl GuestEvents for NoEvents {}

/// What a run has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of the guest's thread, from instantiation to end.
    pub cpu: Duration,
    /// Time from start to end.
    pub wall: Duration,
    /// The largest linear memory, in bytes.
    pub memory_bytes_peak: u64,
    /// Elements of all tables.
    pub table_elements: u64,
    /// Bytes written to standard output.
    pub output_bytes: u64,
    /// Bytes written below `/tmp`, and 4 KiB for each file or folder made there.
    pub tmp_bytes: u64,
    /// Files and folders made below `/tmp`.
    pub tmp_files: u64,
    /// Random bytes drawn.
    pub random_bytes: u64,
    /// Instructions, if they were counted.
    pub fuel: u64,
}

/// A run that ended with exit code 0 and one JSON value, or with text.
#[derive(Clone, Debug)]
pub struct Output {
    /// The JSON text on standard output, without white space around it; of a guest that writes text, one JSON string of that.
    pub stdout: Bytes,
    /// The last 64 KiB of standard error.
    pub stderr_tail: Bytes,
    /// What it used.
    pub usage: Usage,
}
