//! How a handler says that it did not succeed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use busbar_protocol::cap::ErrorCode;
use busbar_protocol::codes::Code;
use busbar_protocol::pause_hint::{HintScope, PauseHint};

/// The longest message that travels with a result, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4096;

/// A handler's bad end. Any error turns into one that is not tried again (code `handler_failed`), so that `?` works in handlers;
/// for anything else say [`Failure::retry`] or [`Failure::new`].
///
/// It is no [`Error`] itself, because every error converts into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A stable lower_snake word.
    pub code: String,
    /// What happened, for a person. Cut to 4 KiB on its way.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
}

impl Failure {
    /// A failure with a code, that is not tried again.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false }
    }

    /// A failure that another attempt may mend: code `attempt_failed`.
    #[must_use]
    pub fn retry(message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::of(Code::AttemptFailed, message) }
    }

    /// What the job needs takes nothing more for a while (code `rate_limited`): the scheduler pauses what is named for so long, at
    /// most 24 hours, and tries the job again afterwards. The attempt does not count.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use busbar_sdk::{Failure, PauseScope};
    ///
    /// let failure = Failure::rate_limited(PauseScope::Topic, Duration::from_secs(30));
    /// assert!(failure.message.starts_with("[pause topic 30s] "));
    /// ```
    ///
    /// What stands in brackets at the beginning of the message must stay there; the words after it are free.
    #[must_use]
    pub fn rate_limited(scope: HintScope, lasts: Duration) -> Self {
        let hint = PauseHint::new(scope, lasts);
        let message = format!("{hint} what the job needs takes nothing more for a while");
        Self { retryable: true, ..Self::of(Code::RateLimited, message) }
    }

    /// A failure with one of Busbar's own codes, that is not tried again.
    #[must_use]
    pub fn of(code: Code, message: impl Into<String>) -> Self {
        Self::new(code.as_str(), message)
    }

    /// What a handler returns that stopped because it was cancelled.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::of(Code::Cancelled, "the handler stopped because the job was cancelled")
    }

    /// An error with all its causes.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            source = inner.source();
        }
        Self::of(Code::HandlerFailed, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_error(&error)
    }
}

/// The CAP code that is nearest to a code of ours.
pub(crate) fn cap_code(code: &str) -> ErrorCode {
    match Code::parse(code) {
        Some(Code::InputInvalid | Code::PayloadMissing | Code::PointerInvalid) => ErrorCode::JobInvalidInput,
        Some(Code::WorkerLeft) => ErrorCode::JobWorkerUnavailable,
        Some(Code::LimitMemory | Code::LimitCpu | Code::LimitWall | Code::LimitOutput | Code::ResultTooLarge) => {
            ErrorCode::JobResourceExhausted
        }
        Some(
            Code::LimitTables | Code::LimitStack | Code::LimitHandles | Code::LimitRandom | Code::LimitFuel | Code::LimitCompile,
        ) => ErrorCode::JobResourceExhausted,
        _ => ErrorCode::Unspecified,
    }
}

/// The beginning of a text, cut between two characters.
pub(crate) fn shorten(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_convert_with_their_causes() {
        fn handler() -> Result<u8, Failure> {
            Ok("x".parse::<u8>()?)
        }
        let failure = handler().expect_err("not a number");
        assert_eq!((failure.code.as_str(), failure.retryable), ("handler_failed", false));
        assert_eq!(failure.message, "invalid digit found in string");
        assert!(Failure::retry("later").retryable);
    }

    #[test]
    fn a_rate_limit_is_told_as_the_scheduler_reads_it() {
        let failure = Failure::rate_limited(HintScope::Key, Duration::from_millis(1500));
        assert_eq!((failure.code.as_str(), failure.retryable), ("rate_limited", true));
        let (hint, words) = PauseHint::of_answer(&failure.code, &failure.message).expect("a hint");
        assert_eq!((hint.scope(), hint.lasts()), (HintScope::Key, Duration::from_millis(1500)));
        assert_eq!(words, "what the job needs takes nothing more for a while");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shorten("aää".to_owned(), 4), "aä");
        assert_eq!(shorten("abc".to_owned(), 3), "abc");
    }
}
