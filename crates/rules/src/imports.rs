//! Groups of functions that a guest may import, by the names that topic documents and policies use. The sandbox reads the same names.
//!
//! A policy speaks of them as tools: `wasm.clocks` among `toolchain.allowed_tools` leaves a guest its clocks. A list that is stated and does not name a group takes
//! it away; nothing that a policy says gives a guest more than its topic does.

use serde::{Deserialize, Serialize};

/// What the names of groups begin with, where a policy lists tools.
const TOOL_PREFIX: &str = "wasm.";

/// A group of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportGroup {
    /// Opening, reading, changing and listing files.
    Files,
    /// Reading a clock.
    Clocks,
    /// Sleeping and polling.
    Waiting,
    /// Random bytes.
    Random,
    /// Progress and checkpoints.
    Reports,
}

impl ImportGroup {
    /// Every group.
    pub const ALL: [Self; 5] = [Self::Files, Self::Clocks, Self::Waiting, Self::Random, Self::Reports];

    /// Its name in limits.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Clocks => "clocks",
            Self::Waiting => "waiting",
            Self::Random => "random",
            Self::Reports => "reports",
        }
    }

    /// Whether a list of tools names it.
    #[must_use]
    pub fn is_among(self, tools: &[String]) -> bool {
        tools.iter().any(|tool| tool.strip_prefix(TOOL_PREFIX) == Some(self.as_str()))
    }
}

/// The tool that is named like a group and is none, so that a slip of the pen does not take one away unnoticed.
#[must_use]
pub fn no_group<'a>(mut tools: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let is_none = |name: &str| ImportGroup::ALL.iter().all(|group| group.as_str() != name);
    tools.find(|tool| tool.strip_prefix(TOOL_PREFIX).is_some_and(is_none))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_tools_by_their_names() {
        let tools = ["wasm.clocks", "files", "cc"].map(str::to_owned);
        let named: Vec<ImportGroup> = ImportGroup::ALL.into_iter().filter(|group| group.is_among(&tools)).collect();
        assert_eq!(named, [ImportGroup::Clocks]);
        assert_eq!(serde_json::to_string(&ImportGroup::ALL).expect("JSON"), r#"["files","clocks","waiting","random","reports"]"#);
    }

    #[test]
    fn a_slip_of_the_pen_is_found() {
        assert_eq!(no_group(["cc", "wasm.random", "wasm.clock"].into_iter()), Some("wasm.clock"));
        assert_eq!(no_group(["cc", "wasm", "wasmtime", "wasm.reports"].into_iter()), None);
    }
}
