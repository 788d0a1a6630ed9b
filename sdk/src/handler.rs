//! Handlers: what a worker author writes, brought into one form.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use busbar_protocol::codes::Code;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::context::Context;
use crate::core::pattern::Pattern;
use crate::failure::Failure;

/// The stack of a thread that runs a blocking handler; only touched pages cost memory.
const STACK_BYTES: usize = 8 << 20;

/// What a raw handler is given beside its context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The topic of the job.
    pub topic: String,
    /// Parameters from the scheduler: `BUSBAR_MODULE`, `BUSBAR_LIMITS`, and what the submitter set.
    pub env: BTreeMap<String, String>,
    /// The input as it was stored: one JSON value.
    pub input: Bytes,
}

/// Any handler. What it returns is one JSON value.
pub(crate) type Handler = Arc<dyn Fn(Context, Request) -> BoxFuture<'static, Result<Bytes, Failure>> + Send + Sync>;

/// An async handler with input and output of its own types.
pub(crate) fn typed<I, O, F, Fut>(handler: F) -> Handler
where
    I: DeserializeOwned + Send + 'static,
    O: Serialize,
    F: Fn(Context, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |context, request| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let input = read(&request.input)?;
            write(&handler(context, input).await?)
        })
    })
}

/// An async handler that sees the bytes.
pub(crate) fn raw<F, Fut>(handler: F) -> Handler
where
    F: Fn(Context, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
{
    Arc::new(move |context, request| Box::pin(handler(context, request)))
}

/// A blocking handler with input and output of its own types.
pub(crate) fn blocking<I, O, F>(handler: F) -> Handler
where
    I: DeserializeOwned,
    O: Serialize,
    F: Fn(Context, I) -> Result<O, Failure> + Send + Sync + 'static,
{
    raw_blocking(move |context, request| write(&handler(context, read(&request.input)?)?))
}

/// A blocking handler that sees the bytes.
pub(crate) fn raw_blocking<F>(handler: F) -> Handler
where
    F: Fn(Context, Request) -> Result<Bytes, Failure> + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |context, request| {
        let handler = Arc::clone(&handler);
        Box::pin(on_thread(move || handler(context, request)))
    })
}

/// Runs blocking work on a thread of its own: the worker's slots bound how many there are, and neither the network nor tokio's
/// own blocking calls ever wait behind them.
async fn on_thread(work: impl FnOnce() -> Result<Bytes, Failure> + Send + 'static) -> Result<Bytes, Failure> {
    let (tell, told) = oneshot::channel();
    let (runtime, lines) = (Handle::current(), tracing::Span::current());
    let run = move || {
        let (_inside, _lines) = (runtime.enter(), lines.entered());
        // Nobody may listen any more: then the worker has ended.
        let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
    };
    std::thread::Builder::new()
        .name("busbar-handler".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|error| Failure::retry(format!("no thread for the handler: {error}")))?;
    match told.await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err(Failure::of(Code::HandlerFailed, "the handler's thread vanished")),
    }
}

fn read<I: DeserializeOwned>(input: &[u8]) -> Result<I, Failure> {
    serde_json::from_slice(input)
        .map_err(|error| Failure::of(Code::InputInvalid, format!("the input is not what the handler takes: {error}")))
}

fn write<O: Serialize>(output: &O) -> Result<Bytes, Failure> {
    let json = serde_json::to_vec(output);
    json.map(Bytes::from)
        .map_err(|error| Failure::of(Code::HandlerFailed, format!("the output can not be written as JSON: {error}")))
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the handler panicked: {}", text.as_deref().unwrap_or("no message"))
}

/// Handlers by topic pattern.
#[derive(Clone, Default)]
pub(crate) struct Routes(Vec<(Pattern, Handler)>);

impl Routes {
    /// Adds a handler; a later one for the same pattern replaces the earlier one.
    ///
    /// # Panics
    /// When the pattern is not one: a mistake in the program.
    pub(crate) fn add(&mut self, pattern: &str, handler: Handler) {
        let parsed = Pattern::parse(pattern);
        let pattern = parsed.unwrap_or_else(|| panic!("{pattern:?} is not a topic or topic pattern below `job.`"));
        self.0.retain(|(known, _)| *known != pattern);
        self.0.push((pattern, handler));
    }

    /// The handler with the narrowest pattern that covers a topic.
    pub(crate) fn find(&self, topic: &str) -> Option<Handler> {
        let covering = self.0.iter().filter(|(pattern, _)| pattern.matches(topic));
        covering.max_by_key(|(pattern, _)| pattern.narrowness()).map(|(_, handler)| Arc::clone(handler))
    }

    /// All patterns, sorted.
    pub(crate) fn patterns(&self) -> Vec<String> {
        let mut patterns: Vec<String> = self.0.iter().map(|(pattern, _)| pattern.as_str().to_owned()).collect();
        patterns.sort();
        patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &str) -> Request {
        Request { input: Bytes::from(input.to_owned()), ..Request::default() }
    }

    async fn call(handler: &Handler, input: &str) -> Result<Bytes, Failure> {
        handler(Context::for_test().0, request(input)).await
    }

    #[tokio::test]
    async fn typed_handlers_read_and_write_json() {
        let handler = typed(|_, numbers: Vec<u32>| async move { Ok(numbers.iter().sum::<u32>()) });
        assert_eq!(call(&handler, "[1,2,3]").await, Ok(Bytes::from("6")));
        assert_eq!(call(&handler, "\"x\"").await.map_err(|f| f.code), Err("input_invalid".to_owned()));
    }

    #[tokio::test]
    async fn blocking_handlers_run_on_threads_and_may_use_the_runtime() {
        let handler = blocking(|context: Context, (): ()| {
            assert_eq!(std::thread::current().name(), Some("busbar-handler"));
            context.on_cancel(|| ());
            Ok(Handle::current().block_on(async { 7 }))
        });
        assert_eq!(call(&handler, "null").await, Ok(Bytes::from("7")));
    }

    #[tokio::test]
    async fn a_panic_on_a_thread_is_a_panic_of_the_handler() {
        let handler = blocking(|_, (): ()| -> Result<(), Failure> { panic!("on {}", "purpose") });
        let ended = tokio::spawn(async move { call(&handler, "null").await }).await.expect_err("a panic");
        assert_eq!(panic_message(&*ended.into_panic()), "the handler panicked: on purpose");
    }

    #[tokio::test]
    async fn the_narrowest_pattern_is_meant() {
        let mut routes = Routes::default();
        for pattern in ["job.>", "job.a.*", "job.a.b"] {
            routes.add(pattern, raw(move |_, _| async move { Ok(Bytes::from(pattern)) }));
        }
        for (topic, pattern) in [("job.a.b", "job.a.b"), ("job.a.c", "job.a.*"), ("job.x", "job.>")] {
            assert_eq!(call(&routes.find(topic).expect("covered"), "null").await, Ok(Bytes::from(pattern)));
        }
        assert!(routes.find("sys.x").is_none());
        assert_eq!(routes.patterns(), ["job.>", "job.a.*", "job.a.b"]);
    }
}
