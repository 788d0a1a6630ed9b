//! The patterns of policy rules: those of Go's `path.Match`, without regard to case.
//!
//! `*` is any number of characters other than `/`, so that in a topic it spans dots; `?` is one such character; `[a-z]` and
//! `[^a-z]` are classes; `\` makes the next character an ordinary one.

use std::borrow::Cow;

/// The longest pattern, in characters.
const GLOB_CHARACTERS_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    One,
    Many,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{glob:?} is no pattern: {rule}")]
pub struct GlobError {
    /// The text.
    pub glob: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`GlobError`] when it is empty, too long, or has an unfinished class or escape.
    pub fn compile(text: &str) -> Result<Self, GlobError> {
        let error = |rule| GlobError { glob: text.chars().take(80).collect(), rule };
        if text.is_empty() || text.chars().count() > GLOB_CHARACTERS_MAX {
            return Err(error("it must have between 1 and 512 characters"));
        }
        let lower = text.to_lowercase();
        let mut characters = lower.chars();
        let mut parts = Vec::new();
        while let Some(character) = characters.next() {
            let part = match character {
                '*' => Part::Many,
                '?' => Part::One,
                '[' => class(&mut characters).ok_or_else(|| error("a class must be closed and not be empty"))?,
                '\\' => Part::Literal(characters.next().ok_or_else(|| error("nothing follows the last `\\`"))?),
                other => Part::Literal(other),
            };
            // Two stars in a row say no more than one.
            if part != Part::Many || parts.last() != Some(&Part::Many) {
                parts.push(part);
            }
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every matching text begins with, in lower case.
    #[must_use]
    pub fn literal_prefix(&self) -> String {
        self.parts
            .iter()
            .map_while(|part| match part {
                Part::Literal(character) => Some(*character),
                Part::One | Part::Many | Part::Class { .. } => None,
            })
            .collect()
    }

    /// Whether the whole text matches. Takes at most (pattern length × text length) steps.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text = lower(text);
        // Places in the text are those of bytes.
        let (mut at, mut part) = (0, 0);
        // Where to go on when the present try fails: after the last star, which then takes one character more.
        let mut resume: Option<(usize, usize)> = None;
        while let Some(character) = character_at(&text, at) {
            if self.parts.get(part) == Some(&Part::Many) {
                part += 1;
                resume = Some((at, part));
            } else if self.parts.get(part).is_some_and(|part| part.takes(character)) {
                at += character.len_utf8();
                part += 1;
            } else {
                match resume.and_then(|(from, after)| Some((from, character_at(&text, from)?, after))) {
                    Some((from, skipped, after)) if skipped != '/' => {
                        (at, part) = (from + skipped.len_utf8(), after);
                        resume = Some((at, after));
                    }
                    Some(_) | None => return false,
                }
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Many)
    }
}

/// The same in lower case; most texts are already.
fn lower(text: &str) -> Cow<'_, str> {
    let is_lower = text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
    if is_lower { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) }
}

fn character_at(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

impl Part {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Literal(expected) => *expected == character,
            Self::One => character != '/',
            Self::Many => false,
            Self::Class { negated, ranges } => {
                character != '/' && *negated != ranges.iter().any(|(low, high)| (*low..=*high).contains(&character))
            }
        }
    }
}

fn class(characters: &mut std::str::Chars<'_>) -> Option<Part> {
    let negated = characters.as_str().starts_with('^');
    if negated {
        characters.next();
    }
    let mut ranges = Vec::new();
    loop {
        let low = match characters.next()? {
            ']' if !ranges.is_empty() => return Some(Part::Class { negated, ranges }),
            ']' | '-' => return None,
            '\\' => characters.next()?,
            other => other,
        };
        let high = if characters.as_str().starts_with('-') {
            characters.next();
            match characters.next()? {
                ']' | '-' => return None,
                '\\' => characters.next()?,
                other => other,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, text: &str) -> bool {
        Glob::compile(glob).expect("a pattern").matches(text)
    }

    #[test]
    fn stars_span_dots_and_case_does_not_count() {
        for (glob, text) in [
            ("job.*", "job.a.b"),
            ("job.*.map", "job.x.y.map"),
            ("JOB.Echo", "job.echo"),
            ("*", "job.echo"),
            ("*", ""),
            ("job.?cho", "job.echo"),
            ("job.[a-e]cho", "job.echo"),
            ("job.[^x]cho", "job.echo"),
            (r"job.\*", "job.*"),
            ("a**b", "axxb"),
        ] {
            assert!(matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [
            ("job.*", "job"),
            ("job.*.map", "job.map"),
            ("job.[^e]cho", "job.echo"),
            (r"job.\*", "job.a"),
            ("*", "a/b"),
            ("a*c", "ab/c"),
            ("job.echo", "job.echo2"),
        ] {
            assert!(!matches(glob, text), "{glob} {text}");
        }
    }

    #[test]
    fn unfinished_patterns_are_refused() {
        for bad in ["", "a[", "a[]", "a[a-", "a[-a]", "a\\"] {
            assert!(Glob::compile(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_wildcard() {
        assert_eq!(Glob::compile("Job.bpsw.*").expect("a pattern").literal_prefix(), "job.bpsw.");
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let glob = "*a".repeat(200);
        assert!(!matches(&glob, &"a".repeat(199)));
        assert!(!matches(&format!("{glob}b"), &"a".repeat(4000)));
    }

    /// What the patterns mean, without regard to how long that takes.
    fn by_definition(parts: &[Part], text: &[char]) -> bool {
        match (parts, text) {
            ([], text) => text.is_empty(),
            ([Part::Many, rest @ ..], text) => {
                by_definition(rest, text)
                    || text.split_first().is_some_and(|(first, text)| *first != '/' && by_definition(parts, text))
            }
            ([part, rest @ ..], [first, text @ ..]) => part.takes(*first) && by_definition(rest, text),
            ([_, ..], []) => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_matched_as_defined(glob in "([a-cé/.*?]|\\[[a-b]-[b-é]\\]|\\[\\^bé\\]){1,8}", text in "[a-cB-CéÉß€/.]{0,10}") {
            // A range may be the wrong way round, and is empty then.
            let compiled = Glob::compile(&glob).expect("a pattern");
            let characters: Vec<char> = text.to_lowercase().chars().collect();
            proptest::prop_assert_eq!(compiled.matches(&text), by_definition(&compiled.parts, &characters), "{} {}", glob, text);
        }

        #[test]
        fn a_text_matches_itself_escaped(text in "[a-z.*?\\[\\]]{1,30}") {
            let escaped: String = text.chars().flat_map(|character| ['\\', character]).collect();
            proptest::prop_assert!(matches(&escaped, &text));
        }
    }
}
