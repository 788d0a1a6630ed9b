//! What a policy says of the groups of functions that a guest may import.
//!
//! It speaks of them as tools: `wasm.clocks` among `toolchain.allowed_tools` leaves a guest its clocks. A list that is stated and does not name a group takes
//! it away; nothing that a policy says gives a guest more than its topic does.

use busbar_protocol::imports::ImportGroup;

/// What the names of groups begin with, where a policy lists tools.
const TOOL_PREFIX: &str = "wasm.";

/// Whether a list of tools names a group.
#[must_use]
pub fn is_among(group: ImportGroup, tools: &[String]) -> bool {
    tools.iter().any(|tool| tool.strip_prefix(TOOL_PREFIX) == Some(group.as_str()))
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
        let named: Vec<ImportGroup> = ImportGroup::ALL.into_iter().filter(|group| is_among(*group, &tools)).collect();
        assert_eq!(named, [ImportGroup::Clocks]);
    }

    #[test]
    fn a_slip_of_the_pen_is_found() {
        assert_eq!(no_group(["cc", "wasm.random", "wasm.clock"].into_iter()), Some("wasm.clock"));
        assert_eq!(no_group(["cc", "wasm", "wasmtime", "wasm.reports"].into_iter()), None);
    }
}
