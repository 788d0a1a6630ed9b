//! How a worker says that something takes nothing more for a while: an answer with the code `rate_limited`, whose message may
//! begin with what is to be paused and for how long.
//!
//! ```text
//! [pause topic 30s] the translation service asks for patience
//!        │     └ an integer with ms, s, m or h; at most 24 hours
//!        └ topic, key, tenant, pool or worker: those of the job and of the worker that answers
//! ```

use std::fmt;
use std::time::Duration;

use crate::busbar::PauseScope;
use crate::codes::Code;

/// The longest pause that a worker can ask for; what is longer is cut to it.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a worker asks to pause, of the job that it answers. Nothing else can be named, so that a worker has no say in what is not
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintScope {
    /// All jobs of the topic, on every worker.
    Topic,
    /// The jobs of the same tenant and topic that carry the same concurrency key. Where the job has none, it is the topic.
    Key,
    /// All jobs of the tenant.
    Tenant,
    /// All workers of the pool of the worker that answers.
    Pool,
    /// The worker that answers, and nobody else.
    Worker,
}

impl HintScope {
    const ALL: [Self; 5] = [Self::Topic, Self::Key, Self::Tenant, Self::Pool, Self::Worker];

    /// The word that stands in the message.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Pool => "pool",
            Self::Worker => "worker",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

impl From<HintScope> for PauseScope {
    fn from(scope: HintScope) -> Self {
        match scope {
            HintScope::Topic => Self::Topic,
            HintScope::Key => Self::Key,
            HintScope::Tenant => Self::Tenant,
            HintScope::Pool => Self::Pool,
            HintScope::Worker => Self::Worker,
        }
    }
}

/// What a worker asks to pause, and for how long. Its text form is what stands in front of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseHint {
    scope: HintScope,
    lasts: Duration,
}

impl PauseHint {
    /// What is meant where the message does not say.
    pub const DEFAULT: Self = Self { scope: HintScope::Topic, lasts: Duration::from_secs(1) };

    /// A hint. The duration is rounded up to whole milliseconds, at least one, and cut to [`PAUSE_MAX`].
    #[must_use]
    pub fn new(scope: HintScope, lasts: Duration) -> Self {
        let millis = lasts.min(PAUSE_MAX).as_nanos().div_ceil(1_000_000).max(1);
        Self { scope, lasts: Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)) }
    }

    /// What is to be paused.
    #[must_use]
    pub const fn scope(&self) -> HintScope {
        self.scope
    }

    /// For how long: from 1 ms to [`PAUSE_MAX`].
    #[must_use]
    pub const fn lasts(&self) -> Duration {
        self.lasts
    }

    /// What an answer asks to pause, and its words without the hint; `None` for every other answer. The case of the code does not
    /// matter.
    #[must_use]
    pub fn of_answer<'m>(error_code: &str, error_message: &'m str) -> Option<(Self, &'m str)> {
        let limited = error_code.eq_ignore_ascii_case(Code::RateLimited.as_str());
        limited.then(|| Self::read(error_message).unwrap_or((Self::DEFAULT, error_message)))
    }

    /// The hint at the beginning of a message, and the words after it; `None` where none stands there or it is malformed.
    #[must_use]
    pub fn read(message: &str) -> Option<(Self, &str)> {
        let (hint, words) = message.strip_prefix("[pause ")?.split_once(']')?;
        let (scope, lasts) = hint.split_once(' ')?;
        Some((Self::new(HintScope::parse(scope)?, duration(lasts)?), words.trim_start()))
    }
}

/// An integer above 0 with a unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let count: u64 = count.parse().ok().filter(|count| *count > 0)?;
    Some(Duration::from_millis(count.saturating_mul(unit_ms)))
}

impl fmt::Display for PauseHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.lasts.as_millis();
        let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, unit_ms) = units.into_iter().find(|(_, unit_ms)| millis.is_multiple_of(*unit_ms)).unwrap_or(("ms", 1));
        write!(f, "[pause {} {}{unit}]", self.scope.as_str(), millis / unit_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Option<(HintScope, u64, &str)> {
        let (hint, words) = PauseHint::read(message)?;
        Some((hint.scope(), u64::try_from(hint.lasts().as_millis()).expect("bounded"), words))
    }

    #[test]
    fn a_hint_stands_in_front_of_the_words() {
        use HintScope::{Key, Pool, Tenant, Topic, Worker};
        assert_eq!(read("[pause topic 30s] too many requests"), Some((Topic, 30_000, "too many requests")));
        assert_eq!(read("[pause key 250ms]"), Some((Key, 250, "")));
        assert_eq!(read("[pause tenant 2m]x"), Some((Tenant, 120_000, "x")));
        assert_eq!(read("[pause pool 1h] [pause topic 1s]"), Some((Pool, 3_600_000, "[pause topic 1s]")));
        assert_eq!(read("[pause worker 99999h] for ever"), Some((Worker, 86_400_000, "for ever")));
        assert_eq!(read(&format!("[pause worker {}h]", u64::MAX)), Some((Worker, 86_400_000, "")));
    }

    #[test]
    fn what_is_malformed_is_no_hint() {
        for message in [
            "",
            "words",
            " [pause topic 1s]",
            "words [pause topic 1s]",
            "[pause topic 1s",
            "[pause]",
            "[pause ]",
            "[pause topic]",
            "[pause topic ]",
            "[pause  topic 1s]",
            "[pause topic  1s]",
            "[pause topic 1 s]",
            "[pause topic 1s ]",
            "[pause Topic 1s]",
            "[pause cell 1s]",
            "[pause topic 1]",
            "[pause topic s]",
            "[pause topic 0s]",
            "[pause topic -1s]",
            "[pause topic +1s]",
            "[pause topic 1.5s]",
            "[pause topic 1d]",
            "[pause topic 1sec]",
            "[pause topic ١s]",
            "[pause topic 18446744073709551616ms]",
            "[PAUSE topic 1s]",
        ] {
            assert_eq!(read(message), None, "{message:?}");
        }
    }

    #[test]
    fn only_answers_with_the_code_ask_for_a_pause() {
        let of = |code, message| PauseHint::of_answer(code, message);
        let asked = PauseHint::new(HintScope::Pool, Duration::from_secs(2));
        assert_eq!(of("rate_limited", "[pause pool 2s] later"), Some((asked, "later")));
        assert_eq!(of("RATE_LIMITED", "later"), Some((PauseHint::DEFAULT, "later")));
        assert_eq!(of("rate_limited", "[pause pool 2 weeks]"), Some((PauseHint::DEFAULT, "[pause pool 2 weeks]")));
        assert_eq!(of("attempt_failed", "[pause pool 2s] later"), None);
    }

    #[test]
    fn every_hint_is_read_as_it_was_written() {
        let spans =
            [(0, "1ms"), (1, "1ms"), (1_500, "1500ms"), (30_000, "30s"), (90_000, "90s"), (120_000, "2m"), (7_200_000, "2h")];
        for scope in HintScope::ALL {
            for (millis, text) in spans {
                let hint = PauseHint::new(scope, Duration::from_millis(millis));
                assert_eq!(hint.to_string(), format!("[pause {} {text}]", scope.as_str()));
                assert_eq!(PauseHint::read(&format!("{hint} words")), Some((hint, "words")));
                assert_eq!(PauseScope::from(scope).as_str_name(), format!("PAUSE_SCOPE_{}", scope.as_str().to_uppercase()));
            }
        }
        assert_eq!(PauseHint::new(HintScope::Topic, Duration::MAX).lasts(), PAUSE_MAX);
        assert_eq!(PauseHint::new(HintScope::Topic, Duration::from_nanos(1)).lasts(), Duration::from_millis(1));
    }

    proptest::proptest! {
        #[test]
        fn no_message_breaks_the_reader(message in ".{0,64}", lasts in 0u64..=u64::MAX) {
            let _ = PauseHint::read(&message);
            let _ = PauseHint::read(&format!("[pause {message}"));
            let hint = PauseHint::new(HintScope::Key, Duration::from_millis(lasts));
            let written = hint.to_string();
            proptest::prop_assert_eq!(PauseHint::read(&written), Some((hint, "")));
        }
    }
}
