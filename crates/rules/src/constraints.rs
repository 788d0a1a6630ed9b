//! Limits that a policy puts on a job. Merging two of them gives one that is at least as tight as each.
//!
//! Here a limit that is not stated is `None`, and a list that is stated and empty grants nothing. The wire cannot tell these
//! apart for lists; [`Constraints::nothing_left`] names the lists for which that would matter.

use std::collections::BTreeSet;

use busbar_protocol::cap::{BudgetConstraints, DiffConstraints, PolicyConstraints, SandboxProfile, ToolchainConstraints};

/// What is allowed; `None` where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    /// Milliseconds that one attempt may run.
    pub max_runtime_ms: Option<i64>,
    /// Attempts after the first.
    pub max_retries: Option<i32>,
    /// Bytes of artifacts.
    pub max_artifact_bytes: Option<i64>,
    /// Jobs of the tenant at the same time.
    pub max_concurrent_jobs: Option<i32>,
    /// Runs apart from everything else.
    pub isolated: bool,
    /// Hosts that may be reached.
    pub network_allowlist: Option<BTreeSet<String>>,
    /// Paths that may be read.
    pub fs_read_only: Option<BTreeSet<String>>,
    /// Paths that may be read and written.
    pub fs_read_write: Option<BTreeSet<String>>,
    /// Tools that may be used.
    pub allowed_tools: Option<BTreeSet<String>>,
    /// Commands that may be run.
    pub allowed_commands: Option<BTreeSet<String>>,
    /// Files that a change may touch.
    pub max_files: Option<i32>,
    /// Lines that a change may touch.
    pub max_lines: Option<i32>,
    /// Paths that a change may not touch.
    pub deny_path_globs: BTreeSet<String>,
    /// How much of the payload is hidden.
    pub redaction_level: Option<RedactionLevel>,
}

/// How much of a payload is hidden, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RedactionLevel {
    /// Nothing.
    None,
    /// The most sensitive fields.
    Low,
    /// Sensitive fields.
    Medium,
    /// Everything that could be sensitive.
    High,
    /// Everything.
    Full,
}

impl RedactionLevel {
    /// Its text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Full => "full",
        }
    }

    /// The level with this text form, whatever its case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Low, Self::Medium, Self::High, Self::Full]
            .into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(text))
    }
}

impl Constraints {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another one says: the tighter value wins, lists of what is allowed are intersected, lists of what is denied joined.
    #[must_use]
    pub fn tighten(self, other: &Self) -> Self {
        Self {
            max_runtime_ms: least(self.max_runtime_ms, other.max_runtime_ms),
            max_retries: least(self.max_retries, other.max_retries),
            max_artifact_bytes: least(self.max_artifact_bytes, other.max_artifact_bytes),
            max_concurrent_jobs: least(self.max_concurrent_jobs, other.max_concurrent_jobs),
            isolated: self.isolated || other.isolated,
            network_allowlist: common(self.network_allowlist, other.network_allowlist.as_ref()),
            fs_read_only: common(self.fs_read_only, other.fs_read_only.as_ref()),
            fs_read_write: common(self.fs_read_write, other.fs_read_write.as_ref()),
            allowed_tools: common(self.allowed_tools, other.allowed_tools.as_ref()),
            allowed_commands: common(self.allowed_commands, other.allowed_commands.as_ref()),
            max_files: least(self.max_files, other.max_files),
            max_lines: least(self.max_lines, other.max_lines),
            deny_path_globs: self.deny_path_globs.union(&other.deny_path_globs).cloned().collect(),
            redaction_level: self.redaction_level.max(other.redaction_level),
        }
    }

    /// The first list of tools or commands that is stated and empty. The wire would carry it as "not stated", that is, as
    /// anything: whoever decides must deny instead. (Empty sandbox lists are safe: a sandbox grants only what is listed.)
    #[must_use]
    pub fn nothing_left(&self) -> Option<&'static str> {
        let empty = |list: &Option<BTreeSet<String>>| list.as_ref().is_some_and(BTreeSet::is_empty);
        [("toolchain.allowed_tools", &self.allowed_tools), ("toolchain.allowed_commands", &self.allowed_commands)]
            .into_iter()
            .find_map(|(name, list)| empty(list).then_some(name))
    }

    /// The form that travels; `None` where nothing is said.
    #[must_use]
    pub fn to_wire(&self) -> Option<PolicyConstraints> {
        if self.is_empty() {
            return None;
        }
        Some(PolicyConstraints {
            budgets: stated(BudgetConstraints {
                max_runtime_ms: self.max_runtime_ms.unwrap_or_default(),
                max_retries: self.max_retries.unwrap_or_default(),
                max_artifact_bytes: self.max_artifact_bytes.unwrap_or_default(),
                max_concurrent_jobs: self.max_concurrent_jobs.unwrap_or_default(),
            }),
            sandbox: self.sandbox(),
            toolchain: stated(ToolchainConstraints {
                allowed_tools: listed(self.allowed_tools.as_ref()),
                allowed_commands: listed(self.allowed_commands.as_ref()),
            }),
            diff: stated(DiffConstraints {
                max_files: self.max_files.unwrap_or_default(),
                max_lines: self.max_lines.unwrap_or_default(),
                deny_path_globs: listed(Some(&self.deny_path_globs)),
            }),
            redaction_level: self.redaction_level.map(|level| level.as_str().to_owned()).unwrap_or_default(),
        })
    }

    /// The sandbox profile: present as soon as anything is said of it, because an empty list in it says "nothing".
    fn sandbox(&self) -> Option<SandboxProfile> {
        let lists = [&self.network_allowlist, &self.fs_read_only, &self.fs_read_write];
        (self.isolated || lists.iter().any(|list| list.is_some())).then(|| SandboxProfile {
            isolated: self.isolated,
            network_allowlist: listed(self.network_allowlist.as_ref()),
            fs_read_only: listed(self.fs_read_only.as_ref()),
            fs_read_write: listed(self.fs_read_write.as_ref()),
        })
    }
}

fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

fn common(a: Option<BTreeSet<String>>, b: Option<&BTreeSet<String>>) -> Option<BTreeSet<String>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
        (None, b) => b.cloned(),
        (a, None) => a,
    }
}

fn listed(list: Option<&BTreeSet<String>>) -> Vec<String> {
    list.map(|list| list.iter().cloned().collect()).unwrap_or_default()
}

fn stated<T: Default + PartialEq>(part: T) -> Option<T> {
    (part != T::default()).then_some(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn the_tighter_value_wins_and_lists_are_intersected() {
        let a = Constraints {
            max_runtime_ms: Some(100),
            network_allowlist: Some(set(&["a", "b"])),
            deny_path_globs: set(&["x"]),
            redaction_level: Some(RedactionLevel::Low),
            ..Constraints::default()
        };
        let b = Constraints {
            max_runtime_ms: Some(50),
            max_retries: Some(2),
            isolated: true,
            network_allowlist: Some(set(&["b", "c"])),
            deny_path_globs: set(&["y"]),
            redaction_level: Some(RedactionLevel::Full),
            ..Constraints::default()
        };
        let both = a.tighten(&b);
        assert_eq!((both.max_runtime_ms, both.max_retries, both.isolated), (Some(50), Some(2), true));
        assert_eq!(both.network_allowlist, Some(set(&["b"])));
        assert_eq!(both.deny_path_globs, set(&["x", "y"]));
        let wire = both.to_wire().expect("stated");
        assert_eq!(wire.budgets.map(|budgets| budgets.max_runtime_ms), Some(50));
        assert_eq!(wire.redaction_level, "full");
        assert_eq!(wire.toolchain, None);
    }

    #[test]
    fn nothing_said_is_nothing_sent() {
        assert_eq!(Constraints::default().to_wire(), None);
    }

    #[test]
    fn lists_with_nothing_in_common_are_named() {
        let one = |tool| Constraints { allowed_tools: Some(set(&[tool])), ..Constraints::default() };
        assert_eq!(one("a").nothing_left(), None);
        assert_eq!(one("a").tighten(&one("b")).nothing_left(), Some("toolchain.allowed_tools"));
    }

    fn list() -> impl Strategy<Value = Option<BTreeSet<String>>> {
        proptest::option::of(proptest::collection::btree_set("[a-d]", 0..4))
    }

    prop_compose! {
        fn any_constraints()(
            max_runtime_ms in proptest::option::of(1..5_i64), isolated: bool, network_allowlist in list(),
            allowed_tools in list(), deny_path_globs in proptest::collection::btree_set("[a-d]", 0..4),
        ) -> Constraints {
            Constraints { max_runtime_ms, isolated, network_allowlist, allowed_tools, deny_path_globs, ..Constraints::default() }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_merging_does_not_matter(a in any_constraints(), b in any_constraints(), c in any_constraints()) {
            prop_assert_eq!(a.clone().tighten(&b), b.clone().tighten(&a));
            prop_assert_eq!(a.clone().tighten(&b).tighten(&c), a.clone().tighten(&b.tighten(&c)));
            prop_assert_eq!(a.clone().tighten(&a), a);
        }
    }
}
