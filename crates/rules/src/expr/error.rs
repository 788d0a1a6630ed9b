//! What can be wrong with an expression or a template.

/// What can be wrong with an expression or a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}`{text}`: {detail}", at(place))]
pub struct ExprError {
    /// What kind of mistake it is.
    pub kind: ExprErrorKind,
    /// Where in a template the expression stands, as a JSON pointer (RFC 6901); empty for an expression alone.
    pub place: String,
    /// The expression.
    pub text: String,
    /// What is wrong with it.
    pub detail: String,
}

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExprErrorKind {
    /// It is no expression.
    Syntax,
    /// It uses a name or a function that does not exist.
    UnknownName,
    /// It cannot be evaluated with these values.
    Evaluate,
    /// The text, the cost or the value is too large.
    TooLarge,
}

impl ExprError {
    pub(super) fn new(kind: ExprErrorKind, text: &str, detail: impl Into<String>) -> Self {
        // Enough to recognise it by.
        const SHOWN: usize = 120;
        let shown: String = text.chars().take(SHOWN).collect();
        Self { kind, place: String::new(), text: shown, detail: detail.into() }
    }

    pub(super) fn at(self, place: &str) -> Self {
        Self { place: place.to_owned(), ..self }
    }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}
