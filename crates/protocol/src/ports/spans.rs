//! Spans as a port: what a shell tells of the way of one piece of work.
//!
//! Spans are told when they are over, with their times, and never entered or held: most of ours begin in one turn of a loop and
//! end in another, or begin in a process that has died since. A [`Tracer`] that is off costs one look.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::trace::TraceContext;

/// Takes spans. Must not wait: what it has no room for, it drops.
pub trait SpanSink: Send + Sync + 'static {
    /// Takes a span that is over.
    fn take(&self, span: Span);
}

/// What a span is in the eyes of those who draw service maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// The answer to a request.
    Server,
    /// Something sent on, for somebody to take up later.
    Producer,
    /// Something taken up that was sent on.
    Consumer,
    /// Everything else.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A span that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// What was done: one of few.
    pub name: Cow<'static, str>,
    /// What kind of span it is.
    pub kind: SpanKind,
    /// Where it stands.
    pub context: TraceContext,
    /// What it is part of; a root where the trace begins with it.
    pub parent: TraceContext,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else is known.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Span {
    /// A span that began at some time and is over now.
    #[must_use]
    pub fn over(
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: TraceContext,
        context: TraceContext,
        started: SystemTime,
    ) -> Self {
        let ended = SystemTime::now().max(started);
        Self { name: name.into(), kind, context, parent, started, ended, attributes: Vec::new(), failure: None }
    }

    /// Adds a text; an empty one says nothing and is left out.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.attributes.push((name, SpanValue::Text(value.to_owned())));
        }
        self
    }

    /// Adds a number; one that has no room stands at the end of what has.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: impl TryInto<i64>) -> Self {
        self.attributes.push((name, SpanValue::Number(value.try_into().unwrap_or(i64::MAX))));
        self
    }

    /// Says why it failed.
    #[must_use]
    pub fn failed(self, why: impl Into<String>) -> Self {
        Self { failure: Some(why.into()), ..self }
    }
}

/// The time that lies so far back.
#[must_use]
pub fn ago(duration: Duration) -> SystemTime {
    SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Where the spans of one role go; off unless it was given a sink. Clones tell the same sink.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    sink: Arc<dyn SpanSink>,
    ratio: f64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Tracer(on)" } else { "Tracer(off)" })
    }
}

impl Tracer {
    /// A tracer that tells nobody.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Tells `sink`. Of traces that begin here, a share of `ratio` (0 to 1) is told; of others, those whose beginner wants it.
    #[must_use]
    pub fn new(sink: Arc<dyn SpanSink>, ratio: f64) -> Self {
        Self(Some(Arc::new(On { sink, ratio })))
    }

    /// Whether it tells anybody anything.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The root of a new trace.
    #[must_use]
    pub fn begin(&self) -> TraceContext {
        self.lot(TraceContext::begin(true))
    }

    /// The place to which this `traceparent` points, or else the root of the trace of this name: `None` where nothing is to be
    /// told of it.
    #[must_use]
    pub fn place(&self, traceparent: &str, trace_id: &str) -> Option<TraceContext> {
        self.0.as_ref()?;
        let place = TraceContext::parse(traceparent).unwrap_or_else(|| self.lot(TraceContext::root(trace_id, true)));
        place.is_sampled().then_some(place)
    }

    /// Tells of a span, unless nobody wants to see it.
    pub fn tell(&self, span: Span) {
        if let Some(on) = self.0.as_ref().filter(|_| span.context.is_sampled()) {
            on.sink.take(span);
        }
    }

    fn lot(&self, root: TraceContext) -> TraceContext {
        let told = self.0.as_ref().is_none_or(|on| root.lot() < on.ratio);
        if told { root } else { TraceContext::root(&root.trace_id(), false) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn take(&self, span: Span) {
            self.0.lock().expect("nobody panics").push(span);
        }
    }

    #[test]
    fn what_is_off_tells_nobody_and_lets_traces_pass() {
        let tracer = Tracer::off();
        assert_eq!(tracer.place("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""), None);
        assert!(tracer.begin().is_sampled(), "others may tell of it");
    }

    #[test]
    fn who_begins_a_trace_says_whether_it_is_told() {
        let sink = Arc::new(Kept::default());
        let tracer = Tracer::new(sink.clone(), 0.0);
        let asked = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(tracer.place(asked, "").is_some());
        assert!(tracer.place(&asked.replace("-01", "-00"), "").is_none());
        assert!(tracer.place("", "anything").is_none() && !tracer.begin().is_sampled());
        assert!(Tracer::new(sink.clone(), 1.0).place("", "anything").is_some());

        let parent = tracer.place(asked, "").expect("wanted");
        let span = |context| Span::over("work", SpanKind::Internal, parent, context, SystemTime::now());
        tracer.tell(span(parent.child("work")).text("job_id", "j").text("code", "").number("attempt", 2));
        tracer.tell(span(tracer.begin()));
        let kept = sink.0.lock().expect("nobody panics");
        assert_eq!(kept.len(), 1);
        let attributes = [("job_id", SpanValue::Text("j".into())), ("attempt", SpanValue::Number(2))];
        assert_eq!(kept[0].attributes, attributes);
    }

    #[test]
    fn half_of_the_traces_are_about_a_half() {
        let tracer = Tracer::new(Arc::new(Kept::default()), 0.5);
        let told = (0..1000).filter(|n| tracer.place("", &format!("trace {n}")).is_some()).count();
        assert!((400..600).contains(&told), "{told}");
    }
}
