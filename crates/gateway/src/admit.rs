//! Asking the scheduler to admit jobs.
//!
//! ```text
//!  submissions ──► queue ──► one message (≤ 256 jobs, ≤ 512 KiB), up to four on their way ──► busbar.scheduler.admit
//! ```
//!
//! A message leaves as soon as one of the four places is free, with what gathered meanwhile: single submissions share messages
//! under load and wait for nothing when there is none. Repeating a message is safe, because the job ids are ours and the scheduler
//! answers a job that it admitted before with the same acceptance.
//!
//! What stays unanswered is settled against the store, so that nothing is half done: unless the job's record is there by now,
//! its input is taken away and it is marked as taken back, after which it can not be admitted any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busbar_api::Problem;
use busbar_protocol::busbar::{AdmitItem, AdmitReply, AdmitRequest, Admitted, JobRecord, JobState, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::{ADMIT_BYTES_MAX, ADMIT_ITEMS_MAX, INPUT_TTL};
use busbar_protocol::ports::{
    Answer, Bus, BusError, CommitClass, CommitId, Guard, Headers, Records, StoreError, TRACEPARENT, Unit, Write,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::core::view;
use crate::error::{internal, no_scheduler, of_bus, of_store, of_wire};

/// A little less than the 512 KiB that a message may have, for the frames around the items.
const MESSAGE_BYTES_MAX: usize = ADMIT_BYTES_MAX - 2 * 1024;
const IN_FLIGHT_MAX: usize = 4;
const QUEUE_MAX: usize = 4096;
/// How long a scheduler may be silent before what waits for it is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a job waits at most, however often the scheduler answers others.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// When a message is sent again: the scheduler that got it may be gone.
const TRY: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(50);

/// What became of one submission.
type Outcome = Result<Admitted, Problem>;

/// A job that waits for its admission.
#[derive(Debug)]
struct Waiting {
    job_id: String,
    item: AdmitItem,
    bytes: usize,
    since: Instant,
    outcome: oneshot::Sender<Outcome>,
}

impl Waiting {
    fn tell(self, outcome: Outcome) {
        // A client that has gone needs no answer.
        let _ = self.outcome.send(outcome);
    }
}

/// The way to the scheduler. All clones share its messages.
#[derive(Clone, Debug)]
pub(crate) struct Admitter {
    queue: mpsc::Sender<Waiting>,
}

impl Admitter {
    /// The way in, and the task that has to run for it.
    pub(crate) fn new<B: Bus, R: Records>(bus: B, records: R) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, run(Sender { bus, records, heard: Arc::default() }, waiting))
    }

    /// Asks for one job, whose input goes along or is stored already.
    pub(crate) async fn admit(&self, job_id: String, item: AdmitItem) -> Outcome {
        let (outcome, answered) = oneshot::channel();
        // The item's own frame: a tag and a length.
        let bytes = item.encoded_len() + 8;
        let waiting = Waiting { job_id, item, bytes, since: Instant::now(), outcome };
        self.queue.send(waiting).await.map_err(|_| no_scheduler())?;
        answered.await.map_err(|_| no_scheduler())?
    }
}

async fn run<B: Bus, R: Records>(sender: Sender<B, R>, mut queue: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut held = None;
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let first = match held.take() {
            Some(waiting) => waiting,
            None => match queue.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let group = gather(first, &mut queue, &mut held);
        let sender = sender.clone();
        tokio::spawn(async move {
            sender.deliver(group).await;
            drop(place);
        });
    }
}

/// Takes what is there until the message is full. What does not fit any more is held for the next one.
fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>, held: &mut Option<Waiting>) -> Vec<Waiting> {
    let mut bytes = first.bytes;
    let mut group = vec![first];
    while group.len() < ADMIT_ITEMS_MAX {
        let Ok(next) = queue.try_recv() else { break };
        if bytes + next.bytes > MESSAGE_BYTES_MAX {
            *held = Some(next);
            break;
        }
        bytes += next.bytes;
        group.push(next);
    }
    group
}

#[derive(Clone, Debug)]
struct Sender<B, R> {
    bus: B,
    records: R,
    /// When the scheduler last answered anything.
    heard: Arc<Mutex<Option<Instant>>>,
}

impl<B: Bus, R: Records> Sender<B, R> {
    /// Brings every job of the group to an outcome.
    async fn deliver(&self, mut group: Vec<Waiting>) {
        let since = group.iter().map(|waiting| waiting.since).min().unwrap_or_else(Instant::now);
        while !group.is_empty() {
            let items: Vec<AdmitItem> = group.iter().map(|waiting| waiting.item.clone()).collect();
            let headers = traceparent(&items);
            let request: Bytes = AdmitRequest { items }.encode_to_vec().into();
            let outcomes = match self.ask(since, headers, request).await {
                Ok(reply) => outcomes(reply, group.len()),
                Err(Some(problem)) => vec![Err(problem); group.len()],
                Err(None) => {
                    let outcomes = self.settle(&group).await;
                    return group.into_iter().zip(outcomes).for_each(|(waiting, outcome)| waiting.tell(outcome));
                }
            };
            group = self.tell_what_is_certain(group, outcomes).await;
        }
    }

    /// Tells the outcomes. What a scheduler that is being replaced would not take stays, to be asked for again.
    async fn tell_what_is_certain(&self, group: Vec<Waiting>, outcomes: Vec<Outcome>) -> Vec<Waiting> {
        let (again, told): (Vec<_>, Vec<_>) = group.into_iter().zip(outcomes).partition(|(_, outcome)| is_replaced(outcome));
        if !told.is_empty() {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let mut again: Vec<Waiting> = again.into_iter().map(|(waiting, _)| waiting).collect();
        if !again.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
        for (waiting, outcome) in told {
            if !misses_input(&waiting.item, &outcome) {
                waiting.tell(outcome);
                continue;
            }
            // A scheduler of an earlier version does not see an input that goes along, and expects it where this puts it.
            let input = waiting.item.input.clone();
            match self.records.put_payload(&keys::context(&waiting.job_id), input, Some(INPUT_TTL)).await {
                Ok(()) => again.push(Waiting { item: AdmitItem { input: Bytes::new(), ..waiting.item }, ..waiting }),
                Err(error) => waiting.tell(Err(of_store(&error))),
            }
        }
        again
    }

    /// Asks until there is an answer, a refusal, or no more patience (`Err(None)`).
    async fn ask(&self, since: Instant, headers: Headers, request: Bytes) -> Result<AdmitReply, Option<Problem>> {
        loop {
            let left = self.gives_up_at(since).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(None);
            }
            let asked = self.bus.request(subjects::ADMIT, headers.clone(), request.clone(), left.min(TRY)).await;
            match asked.map(|message| AdmitReply::decode(message.payload)) {
                Ok(Ok(reply)) => match reply.problem {
                    Some(problem) if problem.code == Code::SchedulerUnavailable.as_str() => tokio::time::sleep(PAUSE).await,
                    Some(problem) => return Err(Some(of_wire(problem))),
                    None => return Ok(reply),
                },
                Ok(Err(error)) => return Err(Some(internal(&error))),
                Err(BusError::TimedOut { .. }) => {}
                Err(BusError::NoResponders { .. } | BusError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
                Err(error @ BusError::TooLarge { .. }) => return Err(Some(of_bus(&error))),
            }
        }
    }

    /// A scheduler that answers others is there and busy: waiting goes on.
    fn gives_up_at(&self, since: Instant) -> Instant {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        (heard.unwrap_or(since).max(since) + PATIENCE).min(since + PATIENCE_MAX)
    }

    /// Finds out what became of jobs that nobody answered for, and makes sure that the others never come to be.
    async fn settle(&self, group: &[Waiting]) -> Vec<Outcome> {
        let job_ids: Vec<&str> = group.iter().map(|waiting| waiting.job_id.as_str()).collect();
        let units: Vec<Unit> = job_ids.iter().map(|job_id| revoke(job_id)).collect();
        let admitted: Vec<bool> = match self.records.commit(CommitClass::Advance, units).await {
            Ok(answers) => {
                answers.iter().map(|answer| matches!(answer, Answer::GuardFailed { .. } | Answer::Conflict { .. })).collect()
            }
            Err(error) => {
                tracing::warn!(%error, jobs = job_ids.len(), "submissions stay in doubt: neither scheduler nor store answers");
                return vec![Err(of_store(&error)); job_ids.len()];
            }
        };
        match self.acceptances(&job_ids, &admitted).await {
            Ok(outcomes) => outcomes,
            Err(error) => vec![Err(of_store(&error)); job_ids.len()],
        }
    }

    async fn acceptances(&self, job_ids: &[&str], admitted: &[bool]) -> Result<Vec<Outcome>, StoreError> {
        let keys: Vec<String> = job_ids.iter().zip(admitted).filter(|(_, there)| **there).map(|(id, _)| keys::job(id)).collect();
        let mut records = if keys.is_empty() { Vec::new() } else { self.records.read(keys).await? }.into_iter();
        let outcomes = admitted.iter().map(|there| {
            let record = if *there { records.next().flatten() } else { None };
            record
                .and_then(|stored| JobRecord::decode(stored.value).ok())
                .map_or_else(|| Err(no_scheduler()), |r| Ok(acceptance(&r)))
        });
        Ok(outcomes.collect())
    }
}

/// Takes the input of a job or a run away, unless its record is there.
pub(crate) fn take_back(record: String, input: String) -> Unit {
    Unit { id: CommitId::generate(), guards: vec![Guard::Absent { key: record }], writes: vec![Write::Delete { key: input }] }
}

/// Takes a submission back, unless its job is there.
fn revoke(job_id: &str) -> Unit {
    let mut unit = take_back(keys::job(job_id), keys::context(job_id));
    unit.writes.push(Write::PutPayload { key: keys::revoked(job_id), value: Bytes::new(), expire: Some(INPUT_TTL) });
    unit
}

/// What a job that is there was admitted as.
pub(crate) fn acceptance(record: &JobRecord) -> Admitted {
    let state = view::state(record).map_or(JobState::Unspecified, busbar_api::JobState::to_protocol);
    Admitted { job_id: record.job_id.clone(), trace_id: record.trace_id.clone(), state: state.into(), existing: false }
}

/// A scheduler that lost its lease between the question and the commit says so: nothing was admitted, its successor will.
fn is_replaced(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|problem| problem.code == Code::SchedulerUnavailable.as_str())
}

/// A scheduler that takes the inputs that go along never misses one.
fn misses_input(item: &AdmitItem, outcome: &Outcome) -> bool {
    !item.input.is_empty() && outcome.as_ref().is_err_and(|problem| problem.code == Code::PayloadMissing.as_str())
}

fn outcomes(reply: AdmitReply, asked: usize) -> Vec<Outcome> {
    let mut answers = reply.answers.into_iter();
    let one = |answer: Option<admit_answer::Answer>| match answer {
        Some(admit_answer::Answer::Admitted(admitted)) => Ok(admitted),
        Some(admit_answer::Answer::Rejected(problem)) => Err(of_wire(problem)),
        None => Err(internal(&"the scheduler's reply has no answer for a job")),
    };
    (0..asked).map(|_| one(answers.next().and_then(|answer| answer.answer))).collect()
}

fn traceparent(items: &[AdmitItem]) -> Headers {
    items.first().map(|item| Headers::from([(TRACEPARENT.to_owned(), item.traceparent.clone())])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(bytes: usize) -> Waiting {
        let (outcome, _) = oneshot::channel();
        Waiting { job_id: "j".into(), item: AdmitItem::default(), bytes, since: Instant::now(), outcome }
    }

    fn groups(sizes: &[usize]) -> Vec<usize> {
        let (sender, mut queue) = mpsc::channel(1000);
        for bytes in sizes {
            sender.try_send(waiting(*bytes)).expect("room");
        }
        let (mut held, mut groups) = (None, Vec::new());
        while let Some(first) = held.take().or_else(|| queue.try_recv().ok()) {
            groups.push(gather(first, &mut queue, &mut held).len());
        }
        groups
    }

    #[test]
    fn messages_keep_both_bounds() {
        assert_eq!(groups(&[100; 600]), [256, 256, 88]);
        assert_eq!(groups(&[200 * 1024; 5]), [2, 2, 1]);
        assert_eq!(groups(&[MESSAGE_BYTES_MAX, 1, MESSAGE_BYTES_MAX, 1]), [1, 1, 1, 1]);
        assert_eq!(groups(&[]), Vec::<usize>::new());
    }

    #[test]
    fn every_job_has_an_outcome_also_when_the_reply_is_too_short() {
        let admitted = Admitted { job_id: "a".into(), ..Admitted::default() };
        let answer = busbar_protocol::busbar::AdmitAnswer { answer: Some(admit_answer::Answer::Admitted(admitted.clone())) };
        let outcomes = outcomes(AdmitReply { answers: vec![answer], problem: None }, 2);
        assert_eq!(outcomes[0], Ok(admitted));
        assert_eq!(outcomes[1].clone().map_err(|p| p.code), Err("internal".into()));
    }
}
