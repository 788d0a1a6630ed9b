//! What is known of all owners, topic by topic, and when it must be written.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_protocol::busbar::QuorumCredits;
use busbar_protocol::time::Timestamp;

use super::credit::{Credit, Outcome};
use super::reputation::Reputation;
use crate::core::job::RECORD_VERSION;

/// How long what owners have passed may be in memory alone: whoever takes over knows a little less of them, and is the more careful.
const WRITTEN_AFTER: Duration = Duration::from_secs(1);

/// The credit of all owners.
#[derive(Clone, Debug, Default)]
pub struct Credits {
    topics: BTreeMap<String, Reputation>,
    /// By when it must be written.
    due: Option<Timestamp>,
}

impl Credits {
    /// Reads the record.
    #[must_use]
    pub fn from_record(record: QuorumCredits) -> Self {
        let topics = record.topics.into_iter().map(|(topic, known)| (topic, Reputation::from_record(known)));
        Self { topics: topics.collect(), due: None }
    }

    /// The record.
    #[must_use]
    pub fn to_record(&self) -> QuorumCredits {
        let topics = self.topics.iter().map(|(topic, known)| (topic.clone(), known.to_record()));
        QuorumCredits { version: RECORD_VERSION, topics: topics.collect() }
    }

    /// What is known of an owner.
    #[must_use]
    pub fn of(&self, topic: &str, owner: &str) -> Credit {
        self.topics.get(topic).map(|known| known.of(owner)).unwrap_or_default()
    }

    /// What a job has shown of its owners. What anybody has lost is written at once.
    pub fn learn(&mut self, topic: &str, outcomes: &[(String, Outcome)], now: Timestamp) {
        if outcomes.is_empty() {
            return;
        }
        let has_lost = self.topics.entry(topic.to_owned()).or_default().enter(outcomes);
        let due = if has_lost { now } else { now.after(WRITTEN_AFTER) };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// By when it must be written; none, if it is.
    #[must_use]
    pub const fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// It is about to be written.
    pub const fn written(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(5_000);

    fn outcomes(owner: &str, outcome: Outcome) -> [(String, Outcome); 1] {
        [(owner.to_owned(), outcome)]
    }

    #[test]
    fn what_is_learnt_survives_being_packed() {
        let mut credits = Credits::default();
        assert_eq!(credits.due(), None);
        credits.learn("job.a", &outcomes("x", Outcome::Confirmed), NOW);
        assert_eq!(credits.due(), Some(NOW.after(WRITTEN_AFTER)));
        credits.learn("job.a", &outcomes("y", Outcome::Refuted), NOW);
        assert_eq!(credits.due(), Some(NOW), "a lie is written at once");
        let read = Credits::from_record(credits.to_record());
        assert_eq!((read.of("job.a", "x").agreed, read.of("job.a", "y").wrong), (1, 1));
        assert_eq!(read.of("job.b", "x"), Credit::default(), "each topic knows its own");
    }
}
