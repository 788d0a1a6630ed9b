//! Log lines: text for people, or one JSON object a line, with the fields of the spans around them flattened in.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::{Process, TelemetryError};

/// What is logged when nothing else is said.
pub const DEFAULT_FILTER: &str = "info";

/// Libraries that say much that is of no use to an operator. What the filter says of them by name wins.
const QUIET: &[&str] = &[
    "async_nats=warn",
    "cranelift_codegen=warn",
    "fred=warn",
    "h2=warn",
    "hyper=warn",
    "hyper_util=warn",
    "tonic=warn",
    "tower=warn",
    "wasmtime=warn",
    "wasmtime_internal_cranelift=warn",
];

/// Whose lines come from a crate of this name, also where several roles share a process.
const ROLES: &[(&str, &str)] = &[
    ("busbar_gateway", "gateway"),
    ("busbar_safety_kernel", "safety-kernel"),
    ("busbar_scheduler", "scheduler"),
    ("busbar_workflow_engine", "workflow-engine"),
];

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how: a part of a service's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A filter such as `info,busbar_scheduler=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: DEFAULT_FILTER.to_owned() }
    }
}

/// Begins to log to stderr. The first call in a process counts; later ones change nothing.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &LogConfig, process: Process) -> Result<(), TelemetryError> {
    static DONE: OnceLock<()> = OnceLock::new();
    let filter = filter(&config.filter)?;
    if DONE.set(()).is_err() {
        return Ok(());
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(JsonLines(process)).try_init(),
    };
    begun.map_err(|error| TelemetryError::Taken { detail: error.to_string() })
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    // Later directives for the same target win, so ours come first.
    let all = QUIET.iter().copied().chain([text]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(all).map_err(|error| TelemetryError::Filter { filter: text.to_owned(), detail: error.to_string() })
}

/// One JSON object a line: what every line has, then the fields of the spans from the outermost to the innermost, then the
/// event's own; the innermost word on a name holds.
struct JsonLines(Process);

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(&self, ctx: &FmtContext<'_, S, JsonFields>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Map::new();
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(known) = span.extensions().get::<FormattedFields<JsonFields>>() {
                fields.extend(serde_json::from_str::<Map<String, Value>>(&known.fields).unwrap_or_default());
            }
        }
        event.record(&mut Collect(&mut fields));
        let target = event.metadata().target();
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let role = fields.remove("role").unwrap_or_else(|| self.0.role_of(target).into());
        let message = fields.remove("message").unwrap_or_default();
        let always = [
            ("timestamp", time.into()),
            ("level", event.metadata().level().as_str().into()),
            ("role", role),
            ("version", self.0.version.into()),
            ("target", target.into()),
            ("message", message),
        ];
        fields.retain(|name, _| !always.iter().any(|(taken, _)| taken == name));
        let own = always.iter().map(|(name, value)| (*name, value));
        let all = own.chain(fields.iter().map(|(name, value)| (name.as_str(), value)));
        for (place, (name, value)) in all.enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            write!(writer, "{before}{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

impl Process {
    /// Whose line it is that comes from this module.
    fn role_of(&self, target: &str) -> &'static str {
        let krate = target.split("::").next().unwrap_or_default();
        ROLES.iter().find(|(name, _)| *name == krate).map_or(self.role, |(_, role)| role)
    }
}

/// Collects fields as JSON.
struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Collect<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn lines(speak: impl FnOnce()) -> Vec<Value> {
        let kept = Kept::default();
        let process = Process { role: "dev", version: "1.2.3" };
        let lines = tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(JsonLines(process));
        tracing::subscriber::with_default(lines.with_writer(kept.clone()).finish(), speak);
        let bytes = kept.0.lock().expect("nobody panics").clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[test]
    fn a_line_carries_the_fields_of_the_spans_around_it() {
        let lines = lines(|| {
            let outer = tracing::error_span!("job", trace_id = "t", tenant_id = tracing::field::Empty, code = "outer");
            let _outer = outer.enter();
            outer.record("tenant_id", "acme");
            let _inner = tracing::error_span!("attempt", job_id = "j", attempt = 2).entered();
            tracing::warn!(target: "busbar_scheduler::active", code = "inner", held = true, "a \"quoted\" word");
        });
        let line = &lines[0];
        for (name, value) in [("trace_id", "t"), ("tenant_id", "acme"), ("job_id", "j"), ("code", "inner"), ("level", "WARN")] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
        assert_eq!((&line["attempt"], &line["held"]), (&2.into(), &true.into()));
        assert_eq!(line["message"], "a \"quoted\" word");
        assert_eq!((&line["role"], &line["version"]), (&"scheduler".into(), &"1.2.3".into()));
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }

    #[test]
    fn what_no_role_says_is_the_processs() {
        let lines = lines(|| {
            tracing::info!(target: "busbar_bus::nats", timestamp = "forged", "plain");
            tracing::info!(role = "gateway", "named");
        });
        assert_eq!((&lines[0]["role"], &lines[1]["role"]), (&"dev".into(), &"gateway".into()));
        assert_ne!(lines[0]["timestamp"], "forged");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        assert!(filter("info,busbar_scheduler=debug").is_ok());
        assert!(matches!(filter("busbar=nonsense"), Err(TelemetryError::Filter { .. })));
    }
}
