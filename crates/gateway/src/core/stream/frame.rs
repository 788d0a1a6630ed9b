//! Frames as they go out.

use busbar_api::{Problem, SnapshotEnd, StreamFilter, StreamFrame, StreamReset};

use super::cursor::Cursor;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where a client resumes that has got this frame; none in the middle of a snapshot.
    pub(crate) resume: Option<String>,
    /// The JSON.
    pub(crate) text: String,
}

impl Frame {
    /// Something that happened.
    pub(crate) fn news(cursor: Cursor, body: &str) -> Self {
        let resume = cursor.opaque();
        Self { text: format!(r#"{{"cursor":"{resume}",{body}}}"#), resume: Some(resume) }
    }

    /// Something as it is.
    pub(crate) fn present(body: &str) -> Self {
        Self { text: format!(r#"{{"snapshot":true,{body}}}"#), resume: None }
    }

    /// A place to resume. Before a snapshot it is one only for who has no need of the rest of the snapshot.
    pub(crate) fn cursor(cursor: Cursor, snapshot_follows: bool) -> Self {
        let resume = cursor.opaque();
        let text = format!(r#"{{"cursor":"{resume}"}}"#);
        Self { text, resume: (!snapshot_follows).then_some(resume) }
    }

    /// The stream begins anew.
    pub(crate) fn reset(cursor: Cursor, reason: &str, snapshot_follows: bool) -> Self {
        let resume = cursor.opaque();
        let reset = Some(StreamReset { reason: reason.to_owned() });
        let frame = StreamFrame { cursor: Some(resume.clone()), reset, ..StreamFrame::default() };
        Self { text: json(&frame), resume: (!snapshot_follows).then_some(resume) }
    }

    pub(crate) fn snapshot_end(cursor: Cursor, end: SnapshotEnd) -> Self {
        let resume = cursor.opaque();
        let frame = StreamFrame { cursor: Some(resume.clone()), snapshot_end: Some(end), ..StreamFrame::default() };
        Self { text: json(&frame), resume: Some(resume) }
    }

    /// The filter from now on.
    pub(crate) fn filter(cursor: Cursor, filter: StreamFilter) -> Self {
        let frame = StreamFrame { cursor: Some(cursor.opaque()), filter: Some(filter), ..StreamFrame::default() };
        Self { text: json(&frame), resume: None }
    }

    /// The last word.
    pub(crate) fn error(problem: Problem) -> Self {
        Self { text: json(&StreamFrame { error: Some(problem), ..StreamFrame::default() }), resume: None }
    }

    /// As an event of a `text/event-stream`.
    pub(crate) fn as_event(&self, into: &mut String) {
        if let Some(resume) = &self.resume {
            into.extend(["id: ", resume, "\n"]);
        }
        into.extend(["data: ", &self.text, "\n\n"]);
    }
}

fn json(frame: &StreamFrame) -> String {
    serde_json::to_string(frame).expect("a frame has only texts, numbers and lists")
}

#[cfg(test)]
mod tests {
    use super::super::item::tests::job;
    use super::*;
    use busbar_api::StreamItem;

    fn read(frame: &Frame) -> StreamFrame {
        serde_json::from_str(&frame.text).expect("a frame")
    }

    #[test]
    fn what_goes_out_reads_back() {
        let cursor = Cursor::default();
        let item = job("acme", "a", "job.x", 0);
        let news = read(&Frame::news(cursor, &item.body));
        assert_eq!((news.cursor, news.snapshot), (Some(cursor.opaque()), false));
        let present = read(&Frame::present(&item.body));
        assert!(present.cursor.is_none() && present.snapshot);
        assert!(matches!(present.item(), Ok(StreamItem::Job(change)) if change.job_id == "a"));
        assert!(matches!(read(&Frame::reset(cursor, "why", true)).item(), Ok(StreamItem::Reset(reset)) if reset.reason == "why"));
        assert!(matches!(read(&Frame::cursor(cursor, true)).item(), Ok(StreamItem::Cursor)));
    }

    #[test]
    fn only_places_to_resume_have_an_id() {
        let mut text = String::new();
        Frame::cursor(Cursor::default(), true).as_event(&mut text);
        assert!(text.starts_with("data: {") && text.ends_with("}\n\n"), "{text}");
        text.clear();
        Frame::cursor(Cursor::default(), false).as_event(&mut text);
        assert!(text.starts_with(&format!("id: {}\ndata: {{", Cursor::default().opaque())), "{text}");
        assert_eq!(text.matches('\n').count(), 3);
    }
}
