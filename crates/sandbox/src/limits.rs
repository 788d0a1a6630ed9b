//! What one task may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Imports;

const MIB: u64 = 1024 * 1024;

/// The bounds of one task. On the wire it is the JSON of `BUSBAR_LIMITS`, where every member may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of the guest, in bytes. Default 256 MiB.
    pub memory_bytes: u64,
    /// Processor time of the guest's thread, calls into the host included, in milliseconds. Default 5 minutes.
    pub cpu_ms: u64,
    /// Time from start to end, waiting included, in milliseconds. Default 10 minutes.
    pub wall_ms: u64,
    /// Bytes on standard output. Default 1 MiB.
    pub output_bytes: u64,
    /// Whether standard output is text: then it is cut at `output_bytes`, says so at its end, and the result is one JSON string of it. Default
    /// no: it is one JSON value, which cannot be cut, and more ends the guest.
    pub text: bool,
    /// Bytes that may be written below `/tmp` in all, overwritten and deleted ones included; 0 means that there is no `/tmp`. Default 0.
    pub tmp_bytes: u64,
    /// Files and folders that may be made below `/tmp` in all, deleted ones included. Default 1,000.
    pub tmp_files: u64,
    /// Files and folders that are open at once, with what the host itself needs for the guest. Default 256.
    pub open_handles: u64,
    /// Elements of all tables together. Default 100,000.
    pub table_elements: u64,
    /// Random bytes in all. Default 16 MiB.
    pub random_bytes: u64,
    /// Instructions, as wasmtime counts them: the same number for the same run on every machine. 0 means that they are not counted,
    /// which is about a fifth faster. Default 0.
    pub fuel: u64,
    /// Whether clocks, randomness and what can be seen of files are the same in every run with the same module and input. Default no.
    pub repeatable: bool,
    /// Which groups of functions the guest may import. Default all.
    pub imports: Imports,
}

/// `BUSBAR_LIMITS` is not an object of the known members with whole numbers.
#[derive(Debug, Error)]
#[error("the limits are malformed: {source}")]
pub struct LimitsInvalid {
    #[from]
    source: serde_json::Error,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 * MIB,
            cpu_ms: 5 * 60_000,
            wall_ms: 10 * 60_000,
            output_bytes: MIB,
            text: false,
            tmp_bytes: 0,
            tmp_files: 1_000,
            open_handles: 256,
            table_elements: 100_000,
            random_bytes: 16 * MIB,
            fuel: 0,
            repeatable: false,
            imports: Imports::ALL,
        }
    }
}

impl Limits {
    /// The most that a host allows unless its configuration says otherwise: 4 GiB of memory, a day, 64 MiB of output, 1 GiB of `/tmp`
    /// in 100,000 files, 4,096 handles, a million table elements, 1 GiB of random bytes.
    pub const CEILING: Self = Self {
        memory_bytes: 4096 * MIB,
        cpu_ms: 86_400_000,
        wall_ms: 86_400_000,
        output_bytes: 64 * MIB,
        text: false,
        tmp_bytes: 1024 * MIB,
        tmp_files: 100_000,
        open_handles: 4_096,
        table_elements: 1_000_000,
        random_bytes: 1024 * MIB,
        fuel: 0,
        repeatable: false,
        imports: Imports::ALL,
    };

    /// Reads the JSON of `BUSBAR_LIMITS`.
    ///
    /// # Errors
    /// [`LimitsInvalid`] when it is not that JSON, or has a member that we do not know.
    pub fn from_json(text: &str) -> Result<Self, LimitsInvalid> {
        Ok(serde_json::from_str(text)?)
    }

    /// The tighter of the two, member by member: limits can only be lowered.
    #[must_use]
    pub fn tightened(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            cpu_ms: self.cpu_ms.min(other.cpu_ms),
            wall_ms: self.wall_ms.min(other.wall_ms),
            output_bytes: self.output_bytes.min(other.output_bytes),
            text: self.text || other.text,
            tmp_bytes: self.tmp_bytes.min(other.tmp_bytes),
            tmp_files: self.tmp_files.min(other.tmp_files),
            open_handles: self.open_handles.min(other.open_handles),
            table_elements: self.table_elements.min(other.table_elements),
            random_bytes: self.random_bytes.min(other.random_bytes),
            fuel: match (self.fuel, other.fuel) {
                (0, fuel) | (fuel, 0) => fuel,
                (one, another) => one.min(another),
            },
            repeatable: self.repeatable || other.repeatable,
            imports: self.imports.common(other.imports),
        }
    }

    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ms)
    }

    pub(crate) fn wall(&self) -> Duration {
        Duration::from_millis(self.wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_members_have_defaults_and_unknown_ones_are_refused() {
        let limits = Limits::from_json(r#"{"cpu_ms":50}"#).expect("valid");
        assert_eq!(limits, Limits { cpu_ms: 50, ..Limits::default() });
        assert!(Limits::from_json(r#"{"cpu":50}"#).is_err());
        assert!(Limits::from_json(r#"{"cpu_ms":-1}"#).is_err());
        assert!(Limits::from_json("").is_err());
    }

    #[test]
    fn tightening_takes_the_smaller_of_each() {
        let a = Limits { cpu_ms: 10, wall_ms: 900, ..Limits::default() };
        let b = Limits { cpu_ms: 20, wall_ms: 100, ..Limits::CEILING };
        assert_eq!(a.tightened(b), Limits { cpu_ms: 10, wall_ms: 100, ..Limits::default() });
    }

    #[test]
    fn tightening_keeps_what_either_counts_demands_or_forbids() {
        let fuel = |fuel| Limits { fuel, ..Limits::default() };
        for (one, other, both) in [(0, 0, 0), (0, 7, 7), (7, 0, 7), (7, 9, 7)] {
            assert_eq!(fuel(one).tightened(fuel(other)).fuel, both);
        }
        let demanding = Limits::from_json(r#"{"repeatable":true,"text":true,"imports":["files","clocks"]}"#).expect("valid");
        let forbidding = Limits::from_json(r#"{"imports":["clocks","random"]}"#).expect("valid");
        for both in [demanding.tightened(forbidding), forbidding.tightened(demanding)] {
            assert_eq!((both.repeatable, both.text, both.imports.to_string().as_str()), (true, true, "clocks"));
        }
    }
}
