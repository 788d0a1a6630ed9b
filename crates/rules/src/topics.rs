//! Topic patterns, and the table that finds the one document that speaks for a topic.
//!
//! A pattern is a topic in which a token may be `*` (exactly one token, whatever it is) and the last one may be `>` (one or
//! more tokens). An exact name wins over every pattern; among patterns the one that is more specific at the first token in
//! which they differ wins: a word before `*` before `>`.

use std::collections::BTreeMap;

use busbar_protocol::busbar::TopicDocument;

/// The longest pattern, in bytes: that of a topic.
const PATTERN_BYTES_MAX: usize = 255;

/// One token of a pattern. The order is that of specificity, the most specific first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Word(String),
    One,
    Rest,
}

/// A topic, or a family of topics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicPattern {
    tokens: Vec<Token>,
    /// What every topic of it begins with, kept because most topics are told apart by it.
    prefix: String,
}

/// A text that is no topic pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no topic pattern: {rule}")]
pub struct TopicPatternError {
    /// The text.
    pub pattern: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl TopicPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`TopicPatternError`] when it does not begin with `job.`, has an empty token or strange characters, or a `>` that is not last.
    pub fn parse(text: &str) -> Result<Self, TopicPatternError> {
        let error = |rule| TopicPatternError { pattern: text.chars().take(80).collect(), rule };
        if text.len() > PATTERN_BYTES_MAX {
            return Err(error("at most 255 bytes"));
        }
        if !text.starts_with("job.") {
            return Err(error("it must begin with `job.`"));
        }
        let tokens: Vec<Token> = text
            .split('.')
            .map(token)
            .collect::<Option<_>>()
            .ok_or_else(|| error("each token must be `*`, `>` or one or more letters, digits, `_` and `-`"))?;
        if tokens.iter().rev().skip(1).any(|token| *token == Token::Rest) {
            return Err(error("`>` may only stand at the end"));
        }
        let prefix = literal_prefix(&tokens);
        Ok(Self { tokens, prefix })
    }

    /// Whether it names one topic only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Word(_)))
    }

    /// What every topic of it begins with: up to the first wildcard, or the whole name.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether a topic belongs to it. Topics are case-sensitive, as on the bus.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if !topic.starts_with(&self.prefix) {
            return false;
        }
        let mut words = topic.split('.');
        for token in &self.tokens {
            match (token, words.next()) {
                (Token::Word(expected), Some(word)) if expected == word => {}
                (Token::One, Some(_)) => {}
                (Token::Rest, Some(_)) => return true,
                (Token::Word(_) | Token::One | Token::Rest, _) => return false,
            }
        }
        words.next().is_none()
    }
}

fn literal_prefix(tokens: &[Token]) -> String {
    let mut prefix = String::new();
    for (n, token) in tokens.iter().enumerate() {
        if n > 0 {
            prefix.push('.');
        }
        match token {
            Token::Word(word) => prefix.push_str(word),
            Token::One | Token::Rest => break,
        }
    }
    prefix
}

fn token(text: &str) -> Option<Token> {
    let is_word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match text {
        "*" => Some(Token::One),
        ">" => Some(Token::Rest),
        _ if is_word => Some(Token::Word(text.to_owned())),
        _ => None,
    }
}

/// All topic documents, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct TopicTable {
    exact: BTreeMap<String, TopicDocument>,
    /// The most specific first.
    patterns: Vec<(TopicPattern, TopicDocument)>,
}

/// Why documents do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicTableError {
    /// A document's name is no topic pattern.
    #[error(transparent)]
    Pattern(#[from] TopicPatternError),
    /// Two documents have the same name.
    #[error("two documents speak for the topic {topic}")]
    Duplicate {
        /// The name.
        topic: String,
    },
}

impl TopicTable {
    /// Builds the table.
    ///
    /// # Errors
    /// [`TopicTableError`] names the document that is wrong.
    pub fn new(documents: impl IntoIterator<Item = TopicDocument>) -> Result<Self, TopicTableError> {
        let mut table = Self::default();
        let mut patterns = BTreeMap::new();
        for document in documents {
            let pattern = TopicPattern::parse(&document.topic)?;
            let topic = document.topic.clone();
            let replaced =
                if pattern.is_exact() { table.exact.insert(topic.clone(), document) } else { patterns.insert(pattern, document) };
            if replaced.is_some() {
                return Err(TopicTableError::Duplicate { topic });
            }
        }
        // The order of the map is the order of specificity.
        table.patterns = patterns.into_iter().collect();
        Ok(table)
    }

    /// The document that speaks for a topic.
    #[must_use]
    pub fn resolve(&self, topic: &str) -> Option<&TopicDocument> {
        self.exact
            .get(topic)
            .or_else(|| self.patterns.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, document)| document))
    }

    /// All documents, exact names first.
    pub fn documents(&self) -> impl Iterator<Item = &TopicDocument> {
        self.exact.values().chain(self.patterns.iter().map(|(_, document)| document))
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(topic: &str) -> TopicDocument {
        TopicDocument { topic: topic.to_owned(), ..TopicDocument::default() }
    }

    #[test]
    fn patterns_match_by_token() {
        let matches = |pattern, topic| TopicPattern::parse(pattern).expect("a pattern").matches(topic);
        assert!(matches("job.echo", "job.echo"));
        assert!(!matches("job.echo", "job.echo.x"));
        assert!(!matches("job.echo", "job.Echo"));
        assert!(matches("job.*", "job.echo"));
        assert!(!matches("job.*", "job.a.b"));
        assert!(matches("job.*.map", "job.a.map"));
        assert!(!matches("job.*.map", "job.map"));
        assert!(matches("job.>", "job.a.b"));
        assert!(!matches("job.a.>", "job.a"));
        let prefix = |pattern: &str| TopicPattern::parse(pattern).expect("a pattern").literal_prefix().to_owned();
        let prefixes = ["job.a.b", "job.a.*.b", "job.>"].map(prefix);
        assert_eq!(prefixes, ["job.a.b", "job.a.", "job."]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "job", "job.", "sys.a", "job..a", "job.>.a", "job.a*", "job.ä", "job.a b"] {
            assert!(TopicPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_more_specific_document_speaks() {
        let names = ["job.>", "job.*.map", "job.a.*", "job.a.>", "job.a.map", "job.*"];
        let table = TopicTable::new(names.map(document)).expect("a table");
        let name = |topic| table.resolve(topic).map(|document| document.topic.as_str());
        assert_eq!(name("job.a.map"), Some("job.a.map"));
        assert_eq!(name("job.a.reduce"), Some("job.a.*"));
        assert_eq!(name("job.a.b.c"), Some("job.a.>"));
        assert_eq!(name("job.b.map"), Some("job.*.map"));
        assert_eq!(name("job.b"), Some("job.*"));
        assert_eq!(name("job.b.c"), Some("job.>"));
        assert_eq!(name("sys.b"), None);
        assert_eq!(table.documents().count(), names.len());
    }

    #[test]
    fn two_documents_of_one_name_are_refused() {
        let twice = TopicTable::new([document("job.*"), document("job.*")]);
        assert_eq!(twice.err(), Some(TopicTableError::Duplicate { topic: "job.*".into() }));
        assert!(TopicTable::new([document("no")]).is_err());
    }
}
