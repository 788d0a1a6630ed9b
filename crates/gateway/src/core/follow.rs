//! Following the log of jobs: where a follower stands, what a message of the bus means to it, and what it wants to hear of.

use busbar_api::{JobState, Problem};
use busbar_protocol::busbar::{JobEvent, JobEventBatch, JobEventEntry};
use busbar_protocol::codes::Code;
use busbar_protocol::cursor::LogCursor;
use busbar_rules::TopicPattern;

/// The place that a client names.
pub(crate) fn cursor(text: &str) -> Result<LogCursor, Problem> {
    LogCursor::parse(text).ok_or_else(|| Problem::new(Code::CursorInvalid, "cursor: this is none that a watch gave out"))
}

/// What a message of the bus means to a follower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step<'a> {
    /// These entries come next.
    Entries(&'a [JobEventEntry]),
    /// All of it is known.
    Nothing,
    /// Something in between is missing: the log has it.
    Gap,
}

/// Compares a message with where the follower stands.
pub(crate) fn step(at: LogCursor, batch: &JobEventBatch) -> Step<'_> {
    let cursor = |entry: &JobEventEntry| LogCursor::parse(&entry.cursor);
    let Some(last) = batch.entries.last() else { return Step::Nothing };
    let (Some(last), Some(after)) = (cursor(last), LogCursor::parse(&batch.after)) else { return Step::Gap };
    if last <= at {
        Step::Nothing
    } else if after > at {
        Step::Gap
    } else {
        let first = batch.entries.iter().position(|entry| cursor(entry).is_none_or(|cursor| cursor > at)).unwrap_or(0);
        Step::Entries(&batch.entries[first..])
    }
}

/// Whom a follower wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// One job.
    Job(String),
    /// The jobs of the tenant, of topics that fit.
    Tenant(Option<TopicPattern>),
}

/// What a follower wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) tenant_id: String,
    pub(crate) whom: Whom,
    /// Only changes into these states; none means all.
    pub(crate) states: Vec<JobState>,
}

impl Filter {
    /// Whether the change is one of a job that is followed.
    pub(crate) fn is_of(&self, event: &JobEvent) -> bool {
        event.tenant_id == self.tenant_id
            && match &self.whom {
                Whom::Job(job_id) => *job_id == event.job_id,
                Whom::Tenant(topic) => topic.as_ref().is_none_or(|topic| topic.matches(&event.topic)),
            }
    }

    /// Whether the change goes into a state that is wanted. The end of the one job always is.
    pub(crate) fn wants(&self, event: &JobEvent) -> bool {
        let passed = |state| event.states().any(|passed| JobState::from_protocol(passed) == Some(state));
        self.states.is_empty() || self.states.iter().copied().any(passed) || (self.is_of_one() && is_end(event))
    }

    /// Whether one job is followed.
    pub(crate) const fn is_of_one(&self) -> bool {
        matches!(self.whom, Whom::Job(_))
    }
}

/// Whether the change is the end of its job.
pub(crate) fn is_end(event: &JobEvent) -> bool {
    event.states().next_back().is_some_and(busbar_protocol::busbar::JobState::is_terminal)
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar;

    use super::*;

    fn at(text: &str) -> LogCursor {
        cursor(text).expect("a cursor")
    }

    fn batch(after: &str, cursors: &[&str]) -> JobEventBatch {
        let entry = |cursor: &&str| JobEventEntry { cursor: (*cursor).to_owned(), event: None };
        JobEventBatch { after: after.to_owned(), entries: cursors.iter().map(entry).collect() }
    }

    #[test]
    fn what_is_no_cursor_is_refused_with_a_code() {
        assert_eq!(cursor("17-3").map(|at| at.to_string()), Ok("17-3".to_owned()));
        assert_eq!(cursor("17-").map_err(|problem| problem.code), Err("cursor_invalid".into()));
    }

    #[test]
    fn a_message_comes_next_overlaps_is_old_or_leaves_a_gap() {
        let message = batch("5-0", &["6-0", "7-0", "7-1"]);
        let of = |cursor: &str| match step(at(cursor), &message) {
            Step::Entries(entries) => entries.first().map(|entry| entry.cursor.clone()),
            Step::Nothing => Some("nothing".to_owned()),
            Step::Gap => Some("gap".to_owned()),
        };
        let expected = [("5-0", "6-0"), ("6-0", "7-0"), ("7-0", "7-1"), ("7-1", "nothing"), ("8-0", "nothing"), ("4-0", "gap")];
        for (cursor, told) in expected {
            assert_eq!(of(cursor).as_deref(), Some(told), "{cursor}");
        }
        assert_eq!(step(at("0"), &batch("", &["6-0"])), Step::Gap);
        assert_eq!(step(at("0"), &batch("5-0", &[])), Step::Nothing);
    }

    #[test]
    fn others_are_not_heard_and_the_end_always_is() {
        let event = |tenant: &str, job: &str, topic: &str, states: &[busbar::JobState]| JobEvent {
            tenant_id: tenant.into(),
            job_id: job.into(),
            topic: topic.into(),
            states: states.iter().map(|state| i32::from(*state)).collect(),
            ..JobEvent::default()
        };
        let (running, failed) = (busbar::JobState::Running, busbar::JobState::Failed);
        let filter = |whom, states: &[JobState]| Filter { tenant_id: "acme".into(), whom, states: states.to_vec() };
        let one = filter(Whom::Job("j".into()), &[JobState::Scheduled]);
        assert!(one.is_of(&event("acme", "j", "job.a", &[])));
        assert!(!one.is_of(&event("other", "j", "job.a", &[])) && !one.is_of(&event("acme", "k", "job.a", &[])));
        assert!(!one.wants(&event("acme", "j", "job.a", &[running])) && one.wants(&event("acme", "j", "job.a", &[failed])));
        let all = filter(Whom::Tenant(Some(TopicPattern::parse("job.a.*").expect("a pattern"))), &[JobState::Running]);
        assert!(all.is_of(&event("acme", "x", "job.a.b", &[])) && !all.is_of(&event("acme", "x", "job.b", &[])));
        assert!(
            all.wants(&event("acme", "x", "job.a.b", &[running, failed]))
                && !all.wants(&event("acme", "x", "job.a.b", &[failed]))
        );
        assert!(filter(Whom::Tenant(None), &[]).wants(&event("acme", "x", "y", &[running])));
    }
}
