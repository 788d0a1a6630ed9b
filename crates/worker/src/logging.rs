//! Log lines, to stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::failure::Fatal;

/// Libraries that say much that is of no use to an operator. What the filter says of them by name wins.
const QUIET: &str = "async_nats=warn,cranelift_codegen=warn,fred=warn,wasmtime=warn,wasmtime_internal_cranelift=warn";

/// Begins to log.
pub(crate) fn init(filter: &str, format: LogFormat) -> Result<(), Fatal> {
    // Later directives for the same target win, so ours come first.
    let parsed = EnvFilter::try_new(format!("{QUIET},{filter}"));
    let parsed = parsed.map_err(|error| Fatal::Filter { filter: filter.to_owned(), detail: error.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
