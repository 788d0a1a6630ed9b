//! Topic patterns, with the wildcards of the bus: `*` is one token, `>` as the last token is one or more.
//!
//! The same words are matched by `rules`, which a worker does not depend on: it would bring a JSON Schema compiler along.

/// A topic or topic pattern below `job.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// Takes a pattern; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let tokens: Vec<&str> = text.split('.').collect();
        let last = tokens.len() - 1;
        let good = last > 0
            && tokens[0] == "job"
            && tokens.iter().enumerate().all(|(place, token)| match *token {
                "*" => true,
                ">" => place == last,
                word => !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
            });
        good.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, topic: &str) -> bool {
        let mut have = topic.split('.');
        for want in self.0.split('.') {
            match (want, have.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (word, Some(token)) if word == token => {}
                _ => return false,
            }
        }
        have.next().is_none()
    }

    /// How narrow the pattern is; of two that match, the narrower one is meant. Wildcards weigh less the earlier they stand.
    pub(crate) fn narrowness(&self) -> Vec<u8> {
        let weigh = |token: &str| match token {
            ">" => 0,
            "*" => 1,
            _ => 2,
        };
        self.0.split('.').map(weigh).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).expect("a pattern").matches(topic)
    }

    #[test]
    fn wildcards_cover_tokens() {
        assert!(matches("job.echo", "job.echo") && !matches("job.echo", "job.echo.x") && !matches("job.echo", "job.ech"));
        assert!(matches("job.*", "job.a") && !matches("job.*", "job.a.b") && !matches("job.*.c", "job.a.b"));
        assert!(matches("job.>", "job.a") && matches("job.>", "job.a.b") && !matches("job.a.>", "job.a"));
    }

    #[test]
    fn patterns_stay_below_job() {
        for bad in ["", "job", "job.", "sys.a", "*.a", ">", "job.>.a", "job.a b", "job..a"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn exact_topics_are_narrower_than_wildcards() {
        let narrow = |text: &str| Pattern::parse(text).expect("a pattern").narrowness();
        assert!(
            narrow("job.a.b") > narrow("job.a.*") && narrow("job.a.*") > narrow("job.a.>") && narrow("job.a.>") > narrow("job.>")
        );
        assert!(narrow("job.a.*") > narrow("job.*.b"));
    }
}
