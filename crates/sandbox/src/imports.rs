//! Which functions a guest may import, in groups that a person can judge.
//!
//! What every compiled program needs is always there: the standard streams, the (empty) lists of arguments and environment, the
//! names of granted directories, the end.

use busbar_protocol::imports::ImportGroup;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of groups. In JSON it is the list of their names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Imports(u8);

const fn bit(group: ImportGroup) -> u8 {
    1 << group as u8
}

/// The group of a function of WASI's; none if every guest may have it.
pub(crate) fn group_of_wasi(name: &str) -> Option<ImportGroup> {
    match name {
        "poll_oneoff" => Some(ImportGroup::Waiting),
        "random_get" => Some(ImportGroup::Random),
        name if name.starts_with("clock_") => Some(ImportGroup::Clocks),
        name if name.starts_with("path_") => Some(ImportGroup::Files),
        "fd_read"
        | "fd_write"
        | "fd_close"
        | "fd_seek"
        | "fd_tell"
        | "fd_fdstat_get"
        | "fd_fdstat_set_flags"
        | "fd_fdstat_set_rights"
        | "fd_prestat_get"
        | "fd_prestat_dir_name" => None,
        name if name.starts_with("fd_") => Some(ImportGroup::Files),
        _ => None,
    }
}

impl Imports {
    /// All groups.
    pub const ALL: Self = Self(
        bit(ImportGroup::Files)
            | bit(ImportGroup::Clocks)
            | bit(ImportGroup::Waiting)
            | bit(ImportGroup::Random)
            | bit(ImportGroup::Reports),
    );
    /// No group.
    pub const NONE: Self = Self(0);

    /// These groups and that one.
    #[must_use]
    pub const fn with(self, group: ImportGroup) -> Self {
        Self(self.0 | bit(group))
    }

    /// What is in either.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in these and not in the others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether there is no group in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn groups(self) -> impl Iterator<Item = ImportGroup> {
        ImportGroup::ALL.into_iter().filter(move |group| self.0 & bit(*group) != 0)
    }
}

impl FromIterator<ImportGroup> for Imports {
    fn from_iter<T: IntoIterator<Item = ImportGroup>>(groups: T) -> Self {
        groups.into_iter().fold(Self::NONE, Self::with)
    }
}

impl std::fmt::Display for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.groups().map(ImportGroup::as_str).collect::<Vec<_>>().join(", "))
    }
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Imports({self})")
    }
}

impl Serialize for Imports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.groups())
    }
}

impl<'de> Deserialize<'de> for Imports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<ImportGroup>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_lists_of_names() {
        let some: Imports = serde_json::from_str(r#"["random","files"]"#).expect("known names");
        assert_eq!(serde_json::to_string(&some).expect("JSON"), r#"["files","random"]"#);
        assert_eq!(some.to_string(), "files, random");
        assert_eq!(ImportGroup::ALL.into_iter().collect::<Imports>(), Imports::ALL);
        assert!(serde_json::from_str::<Imports>(r#"["network"]"#).is_err());
        assert!(some.without(Imports::ALL).is_empty());
        assert_eq!(some.common(Imports::NONE.with(ImportGroup::Random)).to_string(), "random");
    }

    #[test]
    fn what_every_program_needs_is_in_no_group() {
        for name in ["fd_write", "fd_read", "fd_close", "environ_get", "args_sizes_get", "proc_exit", "fd_prestat_get"] {
            assert_eq!(group_of_wasi(name), None, "{name}");
        }
        assert_eq!(group_of_wasi("path_open"), Some(ImportGroup::Files));
        assert_eq!(group_of_wasi("fd_readdir"), Some(ImportGroup::Files));
        assert_eq!(group_of_wasi("clock_res_get"), Some(ImportGroup::Clocks));
    }
}
