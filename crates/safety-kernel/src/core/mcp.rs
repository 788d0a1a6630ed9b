//! Lists of MCP servers, tools, resources and actions. The facts come from labels.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::document::McpDocument;

/// What a request does over MCP; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpFacts {
    names: [Option<String>; 4],
}

/// The kinds of names, in the order of the arrays here.
const KINDS: [&str; 4] = ["server", "tool", "resource", "action"];

/// The labels that name each of them; the first that is there counts.
const LABELS: [[&str; 3]; 4] = [
    ["mcp.server", "mcp_server", "mcpServer"],
    ["mcp.tool", "mcp_tool", "mcpTool"],
    ["mcp.resource", "mcp_resource", "mcpResource"],
    ["mcp.action", "mcp_action", "mcpAction"],
];

impl McpFacts {
    /// Reads the names from the labels of a job.
    #[must_use]
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Self {
        let name = |spellings: [&str; 3]| {
            let name = spellings.into_iter().find_map(|label| labels.get(label));
            name.filter(|name| !name.is_empty()).map(|name| name.to_lowercase())
        };
        Self { names: LABELS.map(name) }
    }
}

/// Which names pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpLists {
    /// Per kind: allowed (empty: all) and denied.
    lists: [(BTreeSet<String>, BTreeSet<String>); 4],
}

impl McpLists {
    /// The first kind of name that does not pass.
    #[must_use]
    pub fn refused(&self, facts: &McpFacts) -> Option<&'static str> {
        self.lists.iter().zip(&facts.names).zip(KINDS).find_map(|(((allow, deny), name), kind)| {
            let name = name.as_ref()?;
            let passes = !deny.contains(name) && (allow.is_empty() || allow.contains(name));
            (!passes).then_some(kind)
        })
    }
}

impl From<McpDocument> for McpLists {
    fn from(document: McpDocument) -> Self {
        let lower = |names: Vec<String>| names.iter().map(|name| name.to_lowercase()).collect();
        Self {
            lists: [
                (lower(document.allow_servers), lower(document.deny_servers)),
                (lower(document.allow_tools), lower(document.deny_tools)),
                (lower(document.allow_resources), lower(document.deny_resources)),
                (lower(document.allow_actions), lower(document.deny_actions)),
            ],
        }
    }
}
