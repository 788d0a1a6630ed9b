//! Running a job as a guest: module, limits and artifacts in, output or failure out.

use std::sync::Arc;
use std::time::Instant;

use busbar_blobs::{BlobError, Blobs};
use busbar_sandbox::{Artifact, GuestEvents, Limits, Module, ModuleError, Sandbox, Task, Usage};
use busbar_sdk::{
    Artifacts, CheckpointSender, Checkpoints, Code, Context, Failure, Request, Sha256Hex, Span, SpanKind, Tracer, ago,
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::failure::in_full;
use crate::input::artifact_ids;
use crate::loader::{LoadError, Loader, Wanted};
use crate::meters::Meters;
use crate::threads::{Panicked, Threads};

/// The entry of the environment that names the module: `sha256:<hex>`.
pub(crate) const MODULE: &str = "BUSBAR_MODULE";
/// The entry of the environment that holds the limits, as JSON.
const LIMITS: &str = "BUSBAR_LIMITS";
/// What is read of a module that is larger is not worth its memory: the sandbox takes no more either.
const MODULE_BYTES_MAX: u64 = 32 << 20;
/// One input names at most this many artifacts.
const ARTIFACTS_MAX: usize = 1_000;
/// The longest message that travels with a result.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// What it takes to run guests.
pub(crate) struct Guests {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) loader: Loader,
    pub(crate) threads: Threads,
    pub(crate) blobs: Blobs,
    pub(crate) artifacts: Artifacts,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) meters: Meters,
    pub(crate) tracer: Tracer,
}

impl Guests {
    /// Runs the guest that the environment names.
    pub(crate) async fn run(self: Arc<Self>, context: Context, request: Request) -> Result<Bytes, Failure> {
        let digest = digest_of(request.env.get(MODULE).map_or("", String::as_str))?;
        let limits = limits_of(request.env.get(LIMITS).map(String::as_str))?;
        let Given { artifacts, checkpoint, module } = tokio::select! {
            biased;
            () = context.cancelled() => return Err(Failure::cancelled()),
            given = self.given(&context, &request.input, digest, &limits) => given?,
        };
        let cancel = CancellationToken::new();
        // Also when nobody waits any more: a guest never outlives its attempt.
        let _abandoned = cancel.clone().drop_guard();
        let cancelling = cancel.clone();
        context.on_cancel(move || cancelling.cancel());
        let keeping = self.checkpoints.keep(&context);
        let about = context.clone();
        let events = Box::new(Telling { context, checkpoints: keeping.sender() });
        let task = Task { limits, artifacts, checkpoint, events, cancel, ..Task::new(request.input) };
        let (guests, lines) = (Arc::clone(&self), tracing::Span::current());
        let work = move || lines.in_scope(|| guests.run_loaded(&module, task, &about));
        let ran = self.threads.run(work).await;
        // Before the result is told: the next attempt may follow at once.
        keeping.finish().await;
        ran.unwrap_or_else(|panicked| Err(broken(panicked)))
    }

    /// The guest, and what it finds below `/in`.
    async fn given(&self, context: &Context, input: &[u8], digest: Sha256Hex, limits: &Limits) -> Result<Given, Failure> {
        let (artifacts, checkpoint) = (self.grant(context, input).await?, self.checkpoints.last(context).await?);
        let (blobs, of) = (self.blobs.clone(), digest.clone());
        let fetch = async move { blobs.read(&of, MODULE_BYTES_MAX).await };
        let loaded = self.loader.load(Wanted { digest, metered: limits.fuel > 0 }, fetch).await;
        let module = loaded.map_err(|error| match error {
            LoadError::Module(error) => module_failure(&error),
            LoadError::Panicked(panicked) => broken(panicked),
        })?;
        Ok(Given { artifacts, checkpoint, module })
    }

    /// The files of the artifacts that the input names.
    async fn grant(&self, context: &Context, input: &[u8]) -> Result<Vec<Artifact>, Failure> {
        let ids = artifact_ids(input);
        if ids.len() > ARTIFACTS_MAX {
            let message = format!("the input names {} artifacts; at most {ARTIFACTS_MAX} can be granted", ids.len());
            return Err(Failure::of(Code::InputInvalid, message));
        }
        let mut granted = Vec::with_capacity(ids.len());
        for id in ids {
            let path = self.artifacts.path(context.tenant_id(), &id).await?;
            granted.push(Artifact { id, path });
        }
        Ok(granted)
    }

    /// Blocks for as long as the guest runs: only for the threads that are kept for this.
    fn run_loaded(&self, module: &Module, task: Task, about: &Context) -> Result<Bytes, Failure> {
        let (began, limits, digest) = (Instant::now(), task.limits, module.digest());
        let tell = |usage: &Usage, code: Option<Code>| {
            self.meters.guest(usage, code);
            self.trace(about, &Ran { digest, limits, usage, code, began });
        };
        match self.sandbox.run(module, task) {
            Ok(output) => {
                let (cpu, wall, memory_bytes) = (output.usage.cpu, output.usage.wall, output.usage.memory_bytes_peak);
                tracing::debug!(module = %digest, ?cpu, ?wall, memory_bytes, "a guest has succeeded");
                tell(&output.usage, None);
                Ok(output.stdout)
            }
            Err(failure) => {
                let (code, retryable) = (failure.kind.code(), failure.kind.is_retryable());
                tracing::debug!(module = %digest, %code, usage = ?failure.usage, "a guest has failed");
                tell(&failure.usage, Some(code));
                Err(Failure { retryable, ..Failure::of(code, fitted(&failure.message)) })
            }
        }
    }
}

/// What a run takes.
struct Given {
    artifacts: Vec<Artifact>,
    checkpoint: Option<Bytes>,
    module: Module,
}

/// A guest that has run.
struct Ran<'a> {
    digest: &'a Sha256Hex,
    limits: Limits,
    usage: &'a Usage,
    code: Option<Code>,
    began: Instant,
}

impl Guests {
    /// Tells of a guest as a span below the attempt's.
    fn trace(&self, about: &Context, ran: &Ran<'_>) {
        let Some(parent) = self.tracer.place(about.traceparent().unwrap_or_default(), about.trace_id()) else { return };
        let span = Span::over("guest", SpanKind::Internal, parent, parent.child("guest"), ago(ran.began.elapsed()))
            .text("busbar.job_id", about.job_id())
            .text("busbar.module", &format!("sha256:{}", ran.digest))
            .number("busbar.cpu_ms", ran.usage.cpu.as_millis())
            .number("busbar.cpu_ms_max", ran.limits.cpu_ms)
            .number("busbar.wall_ms", ran.usage.wall.as_millis())
            .number("busbar.wall_ms_max", ran.limits.wall_ms)
            .number("busbar.memory_bytes", ran.usage.memory_bytes_peak)
            .number("busbar.memory_bytes_max", ran.limits.memory_bytes);
        self.tracer.tell(match ran.code {
            Some(code) => span.failed(code.as_str()),
            None => span,
        });
    }
}

/// Passes on what a guest reports. Nothing here waits: its time is the guest's.
struct Telling {
    context: Context,
    checkpoints: CheckpointSender,
}

impl GuestEvents for Telling {
    fn progress(&mut self, percent: u8) {
        self.context.progress(percent, "");
    }

    fn alive(&mut self) {
        self.context.alive();
    }

    fn checkpoint(&mut self, state: Bytes) {
        self.checkpoints.send(state);
    }

    fn log(&mut self, line: &str) {
        self.context.log(line);
    }
}

/// Our own mistake.
fn broken(panicked: Panicked) -> Failure {
    Failure::of(Code::Internal, panicked.to_string())
}

fn digest_of(text: &str) -> Result<Sha256Hex, Failure> {
    let digest = text.strip_prefix("sha256:").and_then(|digits| Sha256Hex::parse(digits).ok());
    digest.ok_or_else(|| Failure::of(Code::ModuleInvalid, format!("{MODULE} is not sha256:<64 hexadecimal digits>: {text:?}")))
}

fn limits_of(text: Option<&str>) -> Result<Limits, Failure> {
    let limits = text.map_or_else(|| Ok(Limits::default()), Limits::from_json);
    // The scheduler wrote it: whoever submitted the job can not mend it.
    limits.map_err(|error| Failure::of(Code::Internal, format!("{LIMITS}: {error}")))
}

/// A module that is not there, or is not what it should be, stays so; a disk may recover.
fn module_failure(error: &ModuleError) -> Failure {
    let code = error.code();
    let plain = || Failure::of(code, in_full(error));
    let source = match error {
        ModuleError::Missing { source, .. } => source,
        // Another machine may be faster, or less busy.
        ModuleError::TooCostly { .. } => return Failure { retryable: true, ..plain() },
        ModuleError::DigestMismatch { .. } | ModuleError::Invalid { .. } => return plain(),
    };
    match source.downcast_ref::<BlobError>() {
        Some(BlobError::Corrupt { .. }) => Failure::of(Code::ModuleDigestMismatch, source.to_string()),
        Some(BlobError::TooLarge { .. }) => Failure::of(Code::ModuleInvalid, source.to_string()),
        Some(BlobError::Missing { .. }) => plain(),
        _ => Failure { retryable: true, ..plain() },
    }
}

/// A failure's message in what a result has room for: its first line, and as much as possible of the end of the guest's log, where
/// the reason stands.
fn fitted(message: &str) -> String {
    const CUT: &str = "\n…";
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let head = first_bytes(message.lines().next().unwrap_or_default(), MESSAGE_BYTES_MAX / 4);
    let earliest = message.len() - (MESSAGE_BYTES_MAX - head.len() - CUT.len());
    let start = (earliest..=message.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(message.len());
    format!("{head}{CUT}{}", &message[start..])
}

fn first_bytes(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(source: BlobError) -> Failure {
        module_failure(&ModuleError::Missing { digest: Sha256Hex::of(b""), source: source.into() })
    }

    fn said(failure: &Failure) -> (&str, bool) {
        (&failure.code, failure.retryable)
    }

    #[test]
    fn environment_that_is_malformed_has_its_code() {
        let digest = Sha256Hex::of(b"x");
        assert_eq!(digest_of(&format!("sha256:{digest}")), Ok(digest));
        for text in ["", "sha256:", "sha256:12", "md5:00"] {
            assert_eq!(said(&digest_of(text).expect_err(text)), ("module_invalid", false));
        }
        assert_eq!(limits_of(None), Ok(Limits::default()));
        assert_eq!(limits_of(Some(r#"{"cpu_ms":7}"#)).map(|limits| limits.cpu_ms), Ok(7));
        assert_eq!(said(&limits_of(Some("7")).expect_err("malformed")), ("internal", false));
    }

    #[test]
    fn a_module_that_cannot_be_had_has_its_code() {
        let sha256 = Sha256Hex::of(b"");
        assert_eq!(said(&missing(BlobError::Missing { sha256: sha256.clone() })), ("module_missing", false));
        assert_eq!(said(&missing(BlobError::Corrupt { sha256 })), ("module_digest_mismatch", false));
        assert_eq!(said(&missing(BlobError::TooLarge { size_bytes_max: 1 })), ("module_invalid", false));
        assert_eq!(said(&missing(BlobError::Stopping)), ("module_missing", true));
    }

    #[test]
    fn a_message_keeps_its_first_line_and_its_end() {
        assert_eq!(fitted("exit code 3\nlog"), "exit code 3\nlog");
        for log in ["x".repeat(9_000), "ä".repeat(4_500), "€".repeat(3_000)] {
            let fitted = fitted(&format!("exit code 3\n{log}the end"));
            assert!(fitted.starts_with("exit code 3\n…") && fitted.ends_with("the end"), "{fitted}");
            assert!(fitted.len() <= MESSAGE_BYTES_MAX && fitted.len() > MESSAGE_BYTES_MAX - 8, "{}", fitted.len());
        }
        assert!(fitted(&"ö".repeat(9_000)).len() <= MESSAGE_BYTES_MAX);
    }
}
