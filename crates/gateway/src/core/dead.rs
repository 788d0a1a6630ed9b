//! Dead letters: which are meant, how they are shown, and how their jobs are called when they are tried again.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_api::{DeadLetterDetail, DeadLetterView, JobState, Problem};
use busbar_protocol::busbar::DeadLetter;
use busbar_protocol::cap::JobRequest;
use busbar_protocol::codes::Code;
use busbar_protocol::ids;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::prost::Message as _;
use busbar_rules::TopicPattern;

use super::moment;
use super::page::Place;
use super::view::{self, text, time};

/// Which dead letters are meant.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    topic: Option<TopicPattern>,
    reason_code: Option<String>,
    /// Dead at this time or later.
    pub(crate) since_ms: u64,
    /// Dead before this time.
    pub(crate) until_ms: u64,
    /// Only those that were tried again, or only those that were not.
    redriven: Option<bool>,
}

/// What a client says of the dead letters that it means.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meant<'a> {
    pub(crate) topic: Option<&'a str>,
    pub(crate) reason_code: Option<&'a str>,
    pub(crate) since: Option<&'a str>,
    pub(crate) until: Option<&'a str>,
    pub(crate) redriven: Option<bool>,
}

impl Filter {
    /// Checks what a client says. Empty texts count as none.
    pub(crate) fn new(meant: Meant<'_>) -> Result<Self, Problem> {
        let given = |text: Option<&'_ str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let topic = given(meant.topic).map(|topic| TopicPattern::parse(&topic)).transpose();
        let at = |member: &str, text: Option<&str>| given(text).map(|text| moment::parse(member, &text)).transpose();
        let since_ms = at("since", meant.since)?.map_or(0, |time| time.millis());
        let until_ms = at("until", meant.until)?.map_or(u64::MAX, |time| time.millis());
        if since_ms >= until_ms {
            return Err(Problem::new(Code::FieldInvalid, "until: it must lie after since"));
        }
        let topic = topic.map_err(|error| Problem::new(Code::TopicInvalid, error.to_string()))?;
        Ok(Self { topic, reason_code: given(meant.reason_code), since_ms, until_ms, redriven: meant.redriven })
    }

    /// Whether a letter is meant, apart from its time.
    pub(crate) fn fits(&self, letter: &DeadLetter) -> bool {
        self.topic.as_ref().is_none_or(|topic| topic.matches(&letter.topic))
            && self.reason_code.as_ref().is_none_or(|code| *code == letter.reason_code)
            && self.redriven.is_none_or(|redriven| redriven != letter.redriven_as.is_empty())
    }
}

/// A dead letter as lists show it.
pub(crate) fn view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        job_id: letter.job_id.clone(),
        topic: letter.topic.clone(),
        tenant_id: letter.tenant_id.clone(),
        trace_id: letter.trace_id.clone(),
        state: JobState::from_protocol(letter.state()).unwrap_or(JobState::Failed),
        reason_code: letter.reason_code.clone(),
        reason: letter.reason.clone(),
        attempts: letter.attempts,
        crashes: letter.crashes,
        dead_at: time(letter.created_ms),
        redriven_as: text(&letter.redriven_as),
        redriven_at: (letter.redriven_ms > 0).then(|| time(letter.redriven_ms)),
        redrive_of: text(&letter.redrive_of),
    }
}

/// A dead letter whole, without the input itself.
pub(crate) fn detail(letter: &DeadLetter) -> DeadLetterDetail {
    let request = JobRequest::decode(&letter.request[..]).unwrap_or_default();
    let plan = letter.plan.clone().unwrap_or_default();
    DeadLetterDetail {
        letter: view(letter),
        priority: view::priority(request.priority),
        labels: request.labels,
        requires: request.meta.map(|meta| meta.requires).unwrap_or_default(),
        max_attempts: plan.max_attempts,
        deadline_ms: request.budget.and_then(|budget| u64::try_from(budget.deadline_ms).ok()).filter(|ms| *ms > 0),
        concurrency_key: text(&plan.concurrency_key),
        parent_job_id: text(&request.parent_job_id),
        module: text(&plan.module),
        input_ptr: text(&request.context_ptr),
        input_bytes: plan.input_bytes,
        input: None,
    }
}

/// What the job is called that tries a dead one again: the same whoever asks and however often, so that asking again changes
/// nothing. `order-7` is tried again as `order-7.d1`, and that as `order-7.d2`.
pub(crate) fn next_id(job_id: &str) -> String {
    let (root, number) = match job_id.rsplit_once(".d").and_then(|(root, n)| Some((root, n.parse::<u32>().ok()?))) {
        Some((root, number)) if !root.is_empty() => (root, number.saturating_add(1)),
        _ => (job_id, 1),
    };
    let id = format!("{root}.d{number}");
    if id.len() <= ids::ID_BYTES_MAX {
        return id;
    }
    // What is too long is named by its digest.
    format!("{}.d{number}", Sha256Hex::of(root.as_bytes()))
}

/// Where trying many again goes on: behind a dead letter, and with starts from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedriveCursor {
    pub(crate) start_ms: u64,
    pub(crate) place: Place,
}

impl RedriveCursor {
    /// The opaque form.
    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("r1:{}:{}", self.start_ms, self.place.cursor()))
    }

    /// Reads the opaque form.
    pub(crate) fn parse(cursor: &str) -> Result<Self, Problem> {
        let decoded = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let parts = decoded.as_deref().and_then(|text| text.strip_prefix("r1:")?.split_once(':'));
        let read =
            parts.and_then(|(start_ms, place)| Some(Self { start_ms: start_ms.parse().ok()?, place: Place::parse(place).ok()? }));
        read.ok_or_else(|| Problem::new(Code::CursorInvalid, "cursor: this is none that a redrive gave out"))
    }
}

/// When each of many may start, so that no more than so many start in any second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) start_ms: u64,
    pub(crate) per_second: u64,
}

impl Pace {
    /// When the one with this number may start, from 0.
    pub(crate) const fn start_of(self, number: u64) -> u64 {
        self.start_ms.saturating_add(number.saturating_mul(1000) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_tried_again_counts() {
        for (dead, next) in [("order-7", "order-7.d1"), ("order-7.d1", "order-7.d2"), (".d1", ".d1.d1"), ("a.dx", "a.dx.d1")] {
            assert_eq!(next_id(dead), next);
        }
        let long = "x".repeat(128);
        let (first, second) = (next_id(&long), next_id(&next_id(&long)));
        assert!(
            ids::check(&first).is_ok() && first.ends_with(".d1") && second == first.replace(".d1", ".d2"),
            "{first} {second}"
        );
        assert_ne!(first, next_id(&"y".repeat(128)));
    }

    #[test]
    fn no_second_has_more_starts_than_may_be() {
        for per_second in [1, 3, 7, 10, 999] {
            let pace = Pace { start_ms: 1_700_000_000_000, per_second };
            let starts: Vec<u64> = (0..per_second * 3).map(|n| pace.start_of(n)).collect();
            for (n, start) in starts.iter().enumerate() {
                let within = starts[n..].iter().take_while(|other| **other < start + 1000).count() as u64;
                assert!(within <= per_second, "{within} of {per_second} from the one with number {n}");
            }
        }
    }

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        let cursor = RedriveCursor { start_ms: 7, place: Place { created_ms: 5, id: "a:b".into() } };
        assert_eq!(RedriveCursor::parse(&cursor.text()), Ok(cursor.clone()));
        for bad in ["", "x", &cursor.place.cursor(), &URL_SAFE_NO_PAD.encode("r1:x:y")] {
            assert_eq!(RedriveCursor::parse(bad).map_err(|problem| problem.code), Err("cursor_invalid".into()), "{bad}");
        }
    }

    #[test]
    fn filters_look_at_everything() {
        let letter =
            DeadLetter { topic: "job.a.b".into(), reason_code: "bad".into(), redriven_as: "n".into(), ..DeadLetter::default() };
        let fits = |meant| Filter::new(meant).expect("good").fits(&letter);
        assert!(fits(Meant { topic: Some("job.a.*"), reason_code: Some("bad"), redriven: Some(true), ..Meant::default() }));
        assert!(fits(Meant { topic: Some(""), reason_code: Some(""), ..Meant::default() }));
        assert!(!fits(Meant { topic: Some("job.b.>"), ..Meant::default() }));
        assert!(!fits(Meant { reason_code: Some("ba"), ..Meant::default() }));
        assert!(!fits(Meant { redriven: Some(false), ..Meant::default() }));
        let (early, late) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
        for (meant, code) in [
            (Meant { topic: Some("jobs"), ..Meant::default() }, "topic_invalid"),
            (Meant { since: Some("x"), ..Meant::default() }, "field_invalid"),
            (Meant { since: late, until: early, ..Meant::default() }, "field_invalid"),
        ] {
            assert_eq!(Filter::new(meant).map(drop).map_err(|problem| problem.code), Err(code.into()));
        }
    }
}
