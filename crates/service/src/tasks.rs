//! Named tasks under supervision: a task that panics, fails, or just ends before the shutdown was asked for brings the whole
//! service down, because a service with a silent hole in it is worse than one that is started again.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::shutdown::Shutdown;

/// What a task says when it ends.
type Outcome = Result<(), String>;

/// The tasks of one service.
#[derive(Debug)]
pub struct TaskSet {
    shutdown: Shutdown,
    tasks: JoinSet<Outcome>,
    names: HashMap<Id, String>,
}

/// Why a service ended although nobody asked it to, or not as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task said that it could not go on.
    #[error("{task} failed: {reason}")]
    Failed {
        /// The task.
        task: String,
        /// What it said.
        reason: String,
    },
    /// A task ended without a word, before the shutdown.
    #[error("{task} ended although nobody asked it to")]
    EndedEarly {
        /// The task.
        task: String,
    },
    /// A task panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// The task.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// Tasks did not end within the grace period and were aborted.
    #[error("still running when the time to end was over: {tasks:?}")]
    Stuck {
        /// The tasks.
        tasks: Vec<String>,
    },
}

impl TaskSet {
    /// An empty set; its tasks end with `shutdown`, and their failure triggers it.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: JoinSet::new(), names: HashMap::new() }
    }

    /// The shutdown that the tasks share.
    #[must_use]
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task. It should run until the shutdown, and then end with `Ok`.
    pub fn spawn<E: Error + Send + 'static>(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.map_err(|error| in_full(&error)) });
        self.names.insert(handle.id(), name.into());
    }

    /// Runs until the shutdown and all tasks have ended; `grace` is what they get after the shutdown was asked for. An immediate
    /// shutdown aborts them.
    ///
    /// # Errors
    /// [`TaskError`]: the first thing that went wrong.
    pub async fn join(mut self, grace: Duration) -> Result<(), TaskError> {
        let mut first = None;
        while !self.shutdown.is_triggered() && !self.tasks.is_empty() {
            let triggered = self.shutdown.clone();
            tokio::select! {
                () = triggered.triggered() => {}
                Some(ended) = self.tasks.join_next_with_id() => self.note(ended, &mut first),
            }
        }
        let deadline = tokio::time::sleep(grace);
        tokio::pin!(deadline);
        while !self.tasks.is_empty() {
            let shutdown = self.shutdown.clone();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.note(ended, &mut first),
                () = &mut deadline => return Err(self.abort(first)),
                () = shutdown.immediate() => return first.map_or(Ok(()), Err),
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn note(&mut self, ended: Result<(Id, Outcome), JoinError>, first: &mut Option<TaskError>) {
        let asked = self.shutdown.is_triggered();
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).unwrap_or_default();
        let error = match ended {
            Ok((_, Ok(()))) if asked => return,
            Ok((_, Ok(()))) => TaskError::EndedEarly { task },
            Ok((_, Err(reason))) => TaskError::Failed { task, reason },
            Err(error) => match error.try_into_panic() {
                Ok(panic) => TaskError::Panicked { task, message: panic_message(panic.as_ref()) },
                Err(_) => TaskError::EndedEarly { task },
            },
        };
        if first.is_none() {
            tracing::error!(%error, "the service ends");
            *first = Some(error);
        } else {
            tracing::warn!(%error, "another task ended badly");
        }
        self.shutdown.trigger();
    }

    /// The error of a set that did not end in time; its tasks are aborted when it is dropped.
    fn abort(mut self, first: Option<TaskError>) -> TaskError {
        let mut tasks: Vec<String> = self.names.drain().map(|(_, name)| name).collect();
        tasks.sort();
        tracing::error!(?tasks, "tasks did not end in time and are aborted");
        first.unwrap_or(TaskError::Stuck { tasks })
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

/// An error and everything that caused it: whoever reads it can do something only about the last.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[derive(Debug, thiserror::Error)]
    #[error("no luck")]
    struct NoLuck(#[source] std::io::Error);

    fn set() -> TaskSet {
        let mut tasks = TaskSet::new(Shutdown::new());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("well-behaved", async move {
            shutdown.triggered().await;
            Ok::<(), Infallible>(())
        });
        tasks
    }

    #[tokio::test]
    async fn all_end_with_the_shutdown() {
        let tasks = set();
        tasks.shutdown().trigger();
        assert_eq!(tasks.join(GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn one_that_fails_ends_panics_brings_all_down() {
        let mut tasks = set();
        tasks.spawn("failing", async { Err::<(), _>(NoLuck(std::io::Error::other("rain"))) });
        let expected = TaskError::Failed { task: "failing".into(), reason: "no luck: rain".into() };
        assert_eq!(tasks.join(GRACE).await, Err(expected));

        let mut tasks = set();
        tasks.spawn("short", async { Ok::<(), Infallible>(()) });
        assert_eq!(tasks.join(GRACE).await, Err(TaskError::EndedEarly { task: "short".into() }));

        let mut tasks = set();
        tasks.spawn("panicking", async {
            if GRACE > Duration::ZERO {
                panic!("oh {}", "no");
            }
            Ok::<(), Infallible>(())
        });
        let expected = TaskError::Panicked { task: "panicking".into(), message: "oh no".into() };
        assert_eq!(tasks.join(GRACE).await, Err(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_is_aborted() {
        let mut tasks = set();
        tasks.spawn("deaf", std::future::pending::<Result<(), Infallible>>());
        tasks.shutdown().trigger();
        assert_eq!(tasks.join(GRACE).await, Err(TaskError::Stuck { tasks: vec!["deaf".into()] }));
    }

    #[tokio::test]
    async fn an_immediate_end_waits_for_nobody() {
        let mut tasks = set();
        tasks.spawn("deaf", std::future::pending::<Result<(), Infallible>>());
        tasks.shutdown().trigger_now();
        assert_eq!(tasks.join(GRACE).await, Ok(()));
    }
}
