//! Roles, and what each of them may do.

use std::fmt;
use std::str::FromStr;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Jobs and the cell.
    Operator,
    /// Jobs.
    Submitter,
    /// Looking only.
    Viewer,
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To look at jobs, results, logs, artifacts, workflows and runs of the key's tenant.
    ReadJobs,
    /// To submit and cancel jobs, upload artifacts, save workflows, start and cancel runs of the key's tenant.
    WriteJobs,
    /// To look at workers, packs and the state of the cell.
    ReadCell,
    /// To install packs and take them away.
    ManagePacks,
    /// To pause what the cell sends, to drain and block workers, and to set bounds.
    Operate,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Submitter, Self::Viewer];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
        }
    }

    /// Whether a key with this role may do it.
    #[must_use]
    pub(crate) const fn allows(self, need: Need) -> bool {
        match (self, need) {
            (Self::Admin | Self::Operator, _) => true,
            (Self::Submitter, Need::ReadJobs | Need::WriteJobs) | (Self::Viewer, Need::ReadJobs | Need::ReadCell) => true,
            (Self::Submitter, Need::ReadCell | Need::ManagePacks | Need::Operate)
            | (Self::Viewer, Need::WriteJobs | Need::ManagePacks | Need::Operate) => false,
        }
    }
}

impl Need {
    /// In words, for the refusal.
    #[must_use]
    pub(crate) const fn roles(self) -> &'static str {
        match self {
            Self::ReadJobs => "admin, operator, submitter or viewer",
            Self::WriteJobs => "admin, operator or submitter",
            Self::ReadCell => "admin, operator or viewer",
            Self::ManagePacks | Self::Operate => "admin or operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role; the roles are admin, operator, submitter and viewer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_allows_what_it_says() {
        let table = |need| Role::ALL.map(|role| role.allows(need));
        assert_eq!(table(Need::ReadJobs), [true, true, true, true]);
        assert_eq!(table(Need::WriteJobs), [true, true, true, false]);
        assert_eq!(table(Need::ReadCell), [true, true, false, true]);
        assert_eq!(table(Need::ManagePacks), [true, true, false, false]);
        assert_eq!(table(Need::Operate), [true, true, false, false]);
        for need in [Need::ReadJobs, Need::WriteJobs, Need::ReadCell, Need::ManagePacks, Need::Operate] {
            for role in Role::ALL {
                assert_eq!(need.roles().contains(role.as_str()), role.allows(need), "{need:?} {role}");
            }
        }
    }
}
