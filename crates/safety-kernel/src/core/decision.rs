//! What a rule may say, and which word is the stronger one.

use busbar_protocol::cap::DecisionType;

/// A decision. The order is that of strength: the greatest one of all matching rules holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// May run.
    Allow,
    /// May run within limits.
    AllowWithConstraints,
    /// May run once its payload has been redacted.
    Redact,
    /// Not now.
    Throttle,
    /// Not before a person has agreed.
    RequireHuman,
    /// Must not run and is kept for inspection.
    Quarantine,
    /// Must not run.
    Deny,
}

impl Decision {
    /// Reads the word of a rule, synonyms included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "allow" | "permit" => Some(Self::Allow),
            "allow_with_constraints" | "allow-with-constraints" => Some(Self::AllowWithConstraints),
            "redact" => Some(Self::Redact),
            "throttle" => Some(Self::Throttle),
            "require_approval" | "require-approval" | "require_human" | "require-human" => Some(Self::RequireHuman),
            "quarantine" => Some(Self::Quarantine),
            "deny" | "block" => Some(Self::Deny),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowWithConstraints => "allow_with_constraints",
            Self::Redact => "redact",
            Self::Throttle => "throttle",
            Self::RequireHuman => "require_human",
            Self::Quarantine => "quarantine",
            Self::Deny => "deny",
        }
    }

    /// What travels.
    #[must_use]
    pub const fn to_wire(self) -> DecisionType {
        match self {
            Self::Allow => DecisionType::Allow,
            Self::AllowWithConstraints => DecisionType::AllowWithConstraints,
            Self::Redact => DecisionType::Redact,
            Self::Throttle => DecisionType::Throttle,
            Self::RequireHuman => DecisionType::RequireHuman,
            Self::Quarantine => DecisionType::Quarantine,
            Self::Deny => DecisionType::Deny,
        }
    }
}
