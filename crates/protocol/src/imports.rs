//! Groups of functions that a guest may import, by the names that topic documents, limits and policies use.

use serde::{Deserialize, Serialize};

/// A group of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportGroup {
    /// Opening, reading, changing and listing what lies in a granted directory.
    Files,
    /// Reading a clock.
    Clocks,
    /// Sleeping, and waiting for a stream.
    Waiting,
    /// Random bytes.
    Random,
    /// Progress and checkpoints: the module `busbar`.
    Reports,
}

impl ImportGroup {
    /// Every group.
    pub const ALL: [Self; 5] = [Self::Files, Self::Clocks, Self::Waiting, Self::Random, Self::Reports];

    /// Its name, as in JSON.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_same_names_in_json() {
        assert_eq!(serde_json::to_string(&ImportGroup::ALL).expect("JSON"), r#"["files","clocks","waiting","random","reports"]"#);
        assert_eq!(ImportGroup::ALL.map(ImportGroup::as_str), ["files", "clocks", "waiting", "random", "reports"]);
    }
}
