//! Why a command did not do what it was asked, and what could help.

use std::path::PathBuf;
use std::process::ExitCode;

use busbar_api::Problem;
use busbar_protocol::codes::Code;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The gateway refused.
    #[error("{0}")]
    Refused(Problem),
    /// Nobody answers.
    #[error("no answer from {url}: {detail}")]
    Unreachable { url: String, detail: String },
    /// What answered is not what was expected.
    #[error("the answer to {path} cannot be read: {detail}")]
    Unreadable { path: String, detail: String },
    /// No running stack was found.
    #[error("no running stack was found: {} cannot be read ({detail})", path.display())]
    NoStack { path: PathBuf, detail: String },
    /// The arguments do not go together.
    #[error("{0}")]
    Usage(String),
    /// Something that was waited for ended, and not well.
    #[error("{told}")]
    Ended { told: String, code: String },
    /// It was done, and did not go well.
    #[error("{0}")]
    Failed(String),
    /// Stdout is gone.
    #[error("stdout: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// What the caller could do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(problem) => hint_of(&problem.code),
            Self::Ended { code, .. } => hint_of(code),
            Self::Unreachable { .. } => Some("check that the stack is running: `busbar dev` starts one".to_owned()),
            Self::NoStack { .. } => Some(
                "start one with `busbar dev`, or name one with --data-dir, BUSBAR_ENDPOINTS, or --url and --api-key".to_owned(),
            ),
            Self::Unreadable { .. } => Some("check that the URL is that of a Busbar gateway of about this version".to_owned()),
            Self::Usage(_) | Self::Failed(_) | Self::Output(_) => None,
        }
    }

    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => problem.status >= 500,
            Self::Unreadable { .. }
            | Self::NoStack { .. }
            | Self::Usage(_)
            | Self::Ended { .. }
            | Self::Failed(_)
            | Self::Output(_) => false,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Something that was waited for ended, and not well.
pub(crate) fn ended_badly(what: &str, state: impl std::fmt::Display, code: &str, message: &str) -> Failure {
    let mut told = format!("{what} ended as {state}");
    for part in [code, message] {
        if !part.is_empty() {
            told.push_str(": ");
            told.push_str(part);
        }
    }
    Failure::Ended { told, code: code.to_owned() }
}

/// What the page of a code says that one should do.
pub(crate) fn hint_of(code: &str) -> Option<String> {
    let page = Code::parse(code)?.page();
    let (_, advice) = page.split_once("**What to do.**")?;
    let paragraph = advice.trim_start().split("\n\n").next()?;
    Some(paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_hint() {
        for code in Code::ALL {
            let hint = hint_of(code.as_str());
            assert!(hint.as_deref().is_some_and(|text| text.len() > 10 && !text.contains('\n')), "{code}: {hint:?}");
        }
        assert_eq!(hint_of("code_of_tomorrow"), None);
    }
}
