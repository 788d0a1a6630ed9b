//! Committing many units until the store has answered all of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::{Answer, Clock, CommitClass, Records, StoreError, UNITS_MAX, Unit};

/// After how long a question is repeated that the store did not answer.
pub const COMMIT_RETRY: Duration = Duration::from_millis(50);

/// What the store said of units, in their order. One that was refused for want of memory has no answer. Of one that was sent again nobody
/// says what it has appended.
pub type Answers = Vec<Option<Answer>>;

/// What comes back of a call, with its number.
type Returned = (usize, Result<Vec<Answer>, StoreError>);

/// Commits units in order, repeating what the store did not answer: a repeated unit is recognised and not applied twice.
///
/// # Errors
/// [`StoreError`] when the store refuses for good, or is short of memory where a unit may have been applied before: then nothing
/// is certain.
pub async fn commit_all<R: Records, C: Clock>(
    records: &R,
    clock: &C,
    class: CommitClass,
    units: Vec<Unit>,
) -> Result<Answers, StoreError> {
    let mut commits = Commits::new(records, clock);
    commits.add([(class, units)]);
    commits.next().await.map_or_else(|| Ok(Vec::new()), |[answers]| answers)
}

/// Batches of units on their way into the store, one behind the other without waiting for the answers between.
///
/// They are carried out in the order in which they were added. Where the store does not answer, nothing more is sent before everything has
/// come back that is under way, and then all that has no answer is sent again, in the same order.
pub struct Commits<'a, R, C, const PARTS: usize> {
    records: &'a R,
    clock: &'a C,
    /// How many calls each part of each batch has that is not over.
    batches: VecDeque<[usize; PARTS]>,
    /// The calls of these batches, in order.
    calls: VecDeque<Call>,
    /// How many calls there were before these.
    over: usize,
    /// That a call was not answered is to be known at once, whatever is under way before it.
    under_way: FuturesUnordered<BoxFuture<'a, Returned>>,
    /// A call was not answered.
    failed: bool,
    /// Until everything without an answer is sent again.
    pause: Option<BoxFuture<'a, ()>>,
}

/// Up to [`UNITS_MAX`] units.
struct Call {
    class: CommitClass,
    /// Kept until there is an answer: they may have to be sent again.
    units: Arc<[Unit]>,
    state: CallState,
    /// It may have been carried out.
    doubtful: bool,
}

impl Call {
    /// What was sent again may have come behind what was sent after it: where it stands in a log says nothing of their order.
    fn settled(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Applied { .. } if self.doubtful => Answer::Applied { appended: None },
            answer => answer,
        }
    }
}

enum CallState {
    Waits,
    Sent,
    Answered(Result<Answers, StoreError>),
}

impl<R, C, const PARTS: usize> fmt::Debug for Commits<'_, R, C, PARTS> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Commits").field("calls", &self.calls.len()).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<'a, R: Records, C: Clock, const PARTS: usize> Commits<'a, R, C, PARTS> {
    /// Nothing is under way.
    #[must_use]
    pub fn new(records: &'a R, clock: &'a C) -> Self {
        let (batches, calls, under_way) = (VecDeque::new(), VecDeque::new(), FuturesUnordered::new());
        Self { records, clock, batches, calls, over: 0, under_way, failed: false, pause: None }
    }

    /// Adds a batch of parts, each of units of one class. It is on its way from now on, whatever its caller does meanwhile, unless the store
    /// has not answered something before it.
    pub fn add(&mut self, parts: [(CommitClass, Vec<Unit>); PARTS]) {
        let calls = parts.map(|(class, units)| {
            let before = self.calls.len();
            let mut units = units.into_iter().peekable();
            while units.peek().is_some() {
                let units = units.by_ref().take(UNITS_MAX).collect();
                self.calls.push_back(Call { class, units, state: CallState::Waits, doubtful: false });
            }
            self.calls.len() - before
        });
        self.batches.push_back(calls);
        // What has come back already may say that something is lost.
        while let Some(Some((number, result))) = self.under_way.next().now_or_never() {
            self.answered(number, result);
        }
        self.send();
    }

    /// The answers to each part of the first batch, once all of them are there; `None` where nothing was added. Whoever stops waiting may
    /// begin again.
    ///
    /// # Errors
    /// Of a part: as [`commit_all`].
    pub async fn next(&mut self) -> Option<[Result<Answers, StoreError>; PARTS]> {
        loop {
            let first = self.batches.front()?;
            let is_answered = |call: &Call| matches!(call.state, CallState::Answered(_));
            if self.calls.iter().take(first.iter().sum()).all(is_answered) {
                return self.batches.pop_front().map(|parts| parts.map(|calls| self.take_answers(calls)));
            }
            if let Some(pause) = &mut self.pause {
                pause.await;
                (self.pause, self.failed) = (None, false);
                self.send();
            }
            if let Some((number, result)) = self.under_way.next().await {
                self.answered(number, result);
            }
        }
    }

    /// Sends what waits, each call after the one before, until one of them fails.
    fn send(&mut self) {
        let records = self.records;
        for place in 0..self.calls.len() {
            let call = &mut self.calls[place];
            if self.failed || !matches!(call.state, CallState::Waits) {
                continue;
            }
            call.state = CallState::Sent;
            let mut sent = records.commit(call.class, Arc::clone(&call.units)).boxed();
            let number = self.over + place;
            // Asked for before the next one is.
            match (&mut sent).now_or_never() {
                Some(result) => self.answered(number, result),
                None => self.under_way.push(async move { (number, sent.await) }.boxed()),
            }
        }
    }

    fn answered(&mut self, number: usize, result: Result<Vec<Answer>, StoreError>) {
        if let Some(call) = self.calls.get_mut(number - self.over) {
            call.state = match result {
                Ok(answers) => CallState::Answered(Ok(answers.into_iter().map(|answer| Some(call.settled(answer))).collect())),
                Err(StoreError::MemoryShort) if !call.doubtful => CallState::Answered(Ok(vec![None; call.units.len()])),
                Err(StoreError::Unavailable { .. }) => {
                    (call.doubtful, self.failed) = (true, true);
                    CallState::Waits
                }
                Err(error) => CallState::Answered(Err(error)),
            };
        }
        if self.failed && self.under_way.is_empty() {
            self.pause = Some(self.clock.sleep(COMMIT_RETRY).boxed());
        }
    }

    fn take_answers(&mut self, calls: usize) -> Result<Answers, StoreError> {
        let mut all = Vec::new();
        let mut failure = None;
        self.over += calls;
        for call in self.calls.drain(..calls) {
            match call.state {
                CallState::Answered(Ok(mut answers)) => all.append(&mut answers),
                CallState::Answered(Err(error)) => failure = failure.or(Some(error)),
                CallState::Waits | CallState::Sent => unreachable!("all calls of the batch are answered"),
            }
        }
        failure.map_or(Ok(all), Err)
    }
}
