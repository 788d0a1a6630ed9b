//! One term as the active scheduler: the event loop.
//!
//! Each turn takes what has arrived, lets the core decide, commits everything in one flush, and only then answers, settles and
//! sends. What arrives during a flush waits for the next turn, so that flushes grow with the load and no timer is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::{
    AdmitReply, CancelAnswer, CancelItem, CancelReply, JobState, ListReply, ListRequest, SchedulerStatus, WorkersReply,
    admit_answer, cancel_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Answer, Bus, COMMIT_RETRY, Clock, CommitClass, Connection, Delivery, Headers, Judge, Records, Settlement, UNITS_MAX, Unit,
    Write, commit_all,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_rules::TopicPattern;

use crate::Ports;
use crate::admission::{self, Fate, Verdict};
use crate::config::SchedulerConfig;
use crate::core::cell::Cell;
use crate::core::job::Job;
use crate::core::transition::{Event, Rejected};
use crate::core::workers::Workers;
use crate::input::{Admit, Input, Origin, Reported};
use crate::intake::{self, Prepared};
use crate::library::Library;
use crate::listen::Ears;
use crate::meters::RelayProgress;
use crate::observer::{Instruments, Observer};
use crate::office::{Office, Proof};
use crate::perform;
use crate::relay::Relay;
use crate::service::TermError;
use crate::{takeover, tasks};

/// The most inputs of one turn.
const INPUTS_MAX: usize = 512;
/// The most placements of one turn.
const PLACEMENTS_MAX: usize = 512;
/// The longest sleep of the loop: workers fall silent without saying so.
const TURN: Duration = Duration::from_millis(100);
/// The most bytes of jobs in one reply to `list`: a message holds 1 MiB.
const LIST_BYTES_MAX: usize = 700 << 10;
/// What a job in a list takes beside its record: tag and length.
const LISTED_BYTES: usize = 6;
/// A turn that took longer than this was deaf: silence in it proves nothing.
const DEAF: Duration = Duration::from_millis(500);

/// How a term ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// We were told to stop.
    Stopped,
    /// Somebody else is active.
    Replaced,
    /// What stands in the store is not what we believed.
    Reload,
}

/// Runs one term.
pub(crate) async fn term<B: Bus, R: Records, C: Clock, J: Judge>(
    config: &SchedulerConfig,
    ports: &Ports<B, R, C, J>,
    instruments: &Instruments,
    office: Office,
    known: &mut Workers,
    stopping: watch::Receiver<bool>,
) -> Result<Left, TermError> {
    let mut tasks = JoinSet::new();
    let library = Library::load(&ports.records).await?;
    let snapshot = ports.judge.check(Vec::new()).await.map(|answer| answer.snapshot).unwrap_or_default();
    let Office { epoch, term, since } = office;
    let proven = Arc::new(Proof::new(since));
    let mut cell = Cell::new(config.settings, epoch, term, library.topics.clone(), snapshot);
    cell.adopt_workers(std::mem::take(known));
    takeover::load(ports, &mut cell).await?;

    let (inputs, arrived) = mpsc::channel(4 * INPUTS_MAX);
    let (shelf, shelved) = watch::channel(Arc::clone(&library));
    let relay_wake = Arc::new(Notify::new());
    let progress = Arc::<RelayProgress>::default();
    let observer = Observer::begin(instruments.clone(), Arc::clone(&progress), epoch);
    let relay = Relay {
        bus: ports.bus.clone(),
        records: ports.records.clone(),
        clock: ports.clock.clone(),
        epoch,
        meters: instruments.meters.clone(),
        progress,
    };
    let wake = Arc::clone(&relay_wake);
    tasks.spawn(async move { relay.run(&wake).await });
    tasks.spawn(tasks::keep_lease(ports.clone(), config.clone(), epoch, Arc::clone(&proven), inputs.clone()));
    tasks.spawn(tasks::watch_connection(ports.bus.connection(), inputs.clone()));
    tasks::watch_config(ports, inputs.clone(), &mut tasks).await?;
    tasks::watch_snapshot(ports, inputs.clone(), &mut tasks).await?;
    let inbox = ports.bus.inbox();
    let ears = Ears {
        ports: ports.clone(),
        inputs: inputs.clone(),
        library: shelved,
        limits: config.settings.limits,
        inbox: inbox.clone(),
        instruments: instruments.clone(),
    };
    Arc::new(ears).start(&mut tasks).await?;

    let started = ports.clock.now();
    let connected = ports.bus.connection().borrow().connected;
    let term = Term {
        config,
        ports,
        observer,
        cell,
        library,
        shelf,
        inputs,
        arrived,
        stopping,
        relay_wake,
        inbox,
        heard_since: started,
        proven,
        connected,
        started,
        tasks,
        admits: Vec::new(),
        settle: Vec::new(),
        replies: Vec::new(),
    };
    let (left, workers) = term.run().await;
    *known = workers;
    Ok(left)
}

/// One term.
struct Term<'a, B, R, C, J> {
    config: &'a SchedulerConfig,
    ports: &'a Ports<B, R, C, J>,
    observer: Observer,
    cell: Cell,
    library: Arc<Library>,
    shelf: watch::Sender<Arc<Library>>,
    inputs: mpsc::Sender<Input>,
    arrived: mpsc::Receiver<Input>,
    stopping: watch::Receiver<bool>,
    relay_wake: Arc<Notify>,
    inbox: String,
    proven: Arc<Proof>,
    /// Since when the bus could be heard without a break.
    heard_since: Timestamp,
    connected: bool,
    started: Timestamp,
    tasks: JoinSet<()>,
    // What the present turn has gathered.
    admits: Vec<Admit>,
    settle: Vec<(Delivery, Settlement)>,
    replies: Vec<(String, Vec<u8>)>,
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    async fn run(mut self) -> (Left, Workers) {
        let left = loop {
            if let Some(left) = self.turn().await {
                break left;
            }
        };
        (left, self.cell.workers().clone())
    }

    async fn turn(&mut self) -> Option<Left> {
        if let Err(left) = self.gather().await {
            return Some(left);
        }
        let now = self.ports.clock.now();
        let heard_since = if self.connected { self.heard_since } else { now };
        self.cell.pass_time(heard_since, now);
        self.ask_undecided();
        self.cell.place(PLACEMENTS_MAX, now);
        let outcome = self.commit().await;
        let after = self.ports.clock.now();
        if after.since(now) > DEAF {
            self.heard_since = after;
        }
        if let Err(left) = outcome {
            return Some(left);
        }
        if !self.is_still_active().await {
            return Some(Left::Replaced);
        }
        self.perform(after).await;
        self.observer.look(&self.cell, &self.config.settings.patience, after);
        None
    }

    /// Whether what this turn has found out may be told. A process that was stopped for a while and goes on still believes what
    /// it knew; what it commits is fenced by the epoch, but an answer from memory is not.
    async fn is_still_active(&self) -> bool {
        loop {
            let now = self.ports.clock.now();
            if now.since(self.proven.at()) < self.config.lease_ttl {
                return true;
            }
            match self.ports.records.lease(keys::LOCK_SCHEDULER, &self.config.owner, self.config.lease_ttl).await {
                Ok(lease) if lease.held && lease.epoch == self.cell.epoch() => self.proven.renew(now),
                Ok(_) => return false,
                Err(_) => self.ports.clock.sleep(COMMIT_RETRY).await,
            }
        }
    }

    /// Waits for something to do and takes what is there.
    async fn gather(&mut self) -> Result<(), Left> {
        let wait = self.pause();
        let mut first = None;
        if !wait.is_zero() {
            tokio::select! {
                biased;
                _ = self.stopping.changed() => {}
                input = self.arrived.recv() => first = input,
                () = self.ports.clock.sleep(wait) => {}
            }
        }
        if *self.stopping.borrow() {
            return Err(Left::Stopped);
        }
        let now = self.ports.clock.now();
        let mut taken = 0;
        while let Some(input) = first.take().or_else(|| self.arrived.try_recv().ok()) {
            self.handle(input, now)?;
            taken += 1;
            if taken >= INPUTS_MAX {
                break;
            }
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }

    /// How long there is nothing to do by itself.
    fn pause(&self) -> Duration {
        let now = self.ports.clock.now();
        if self.cell.has_changes() {
            return Duration::ZERO;
        }
        self.cell.next_timer().map_or(TURN, |at| at.since(now).clamp(Duration::from_millis(1), TURN))
    }

    fn handle(&mut self, input: Input, now: Timestamp) -> Result<(), Left> {
        match input {
            Input::Admit(admit) => self.admits.push(admit),
            Input::Reported(reported) => self.reported(reported, now),
            Input::Progress { job, attempt, worker_id, percent } => {
                if let Some(attempt) = attempt.or_else(|| self.cell.workers().attempt_of(&worker_id, &job)) {
                    let _ = self.cell.apply(&job, &Event::Evidence { attempt, percent: Some(percent) }, now);
                }
            }
            Input::Beat(beat) => self.cell.beat(&beat, now),
            Input::Heartbeat(beat) => self.cell.heartbeat(&beat, now),
            Input::Handshake(shake, sent) => self.cell.handshake(&shake, sent, now),
            Input::NobodyThere { job, attempt } => self.cell.nobody_there(&job, attempt, now),
            Input::Cancel { items, reply } => self.cancel(&items, reply, now),
            Input::List { request, reply } => {
                let page = self.list(&request);
                self.replies.push((reply, page.encode_to_vec()));
            }
            Input::Workers { reply } => {
                let view = self.view_workers(now);
                self.replies.push((reply, view.encode_to_vec()));
            }
            Input::Verdicts(verdicts) => {
                for (job, verdict) in verdicts {
                    let applied = verdict.map(|verdict| self.cell.apply(&job, &Event::Decided(verdict), now));
                    if !matches!(applied, Some(Ok(()))) {
                        self.cell.unasked(&job, now);
                    }
                }
            }
            Input::Topics(library) => {
                self.cell.set_topics(library.topics.clone());
                self.shelf.send_replace(Arc::clone(&library));
                self.library = library;
            }
            Input::Snapshot(snapshot) => self.cell.set_snapshot(snapshot, now),
            Input::Connection(Connection { connected, .. }) => {
                self.connected = connected;
                self.heard_since = now;
            }
            Input::LeaseLost => return Err(Left::Replaced),
        }
        Ok(())
    }

    fn reported(&mut self, mut reported: Reported, now: Timestamp) {
        let Reported { job: id, report, delivery, checked, received } = &mut reported;
        report.attempt = report.attempt.or_else(|| self.cell.workers().attempt_of(&report.worker_id, id));
        let current = self.cell.job(id).filter(|job| job.hold().is_some() && report.attempt.is_none_or(|a| a == job.attempt));
        if let Some(job) = current.filter(|job| !*checked && tasks::needs_check(job, report, &self.library)) {
            let (job, library) = (job.clone(), Arc::clone(&self.library));
            self.tasks.spawn(tasks::check_result(self.ports.clone(), library, job, reported, self.inputs.clone()));
            return;
        }
        if let Some(attempt) = report.attempt {
            self.cell.free_slot(&report.worker_id.clone(), &(id.clone(), attempt));
        }
        match self.cell.apply(id, &Event::Reported(report.clone()), now) {
            Ok(()) => self.observer.received(id, *received),
            Err(rejected) => {
                tracing::debug!(job_id = %id, worker_id = report.worker_id, %rejected, "a result changes nothing");
            }
        }
        self.settle.push((delivery.clone(), Settlement::Ack));
    }

    fn cancel(&mut self, items: &[CancelItem], reply: Option<String>, now: Timestamp) {
        let answers = items.iter().map(|item| CancelAnswer { answer: Some(self.cancel_one(item, now)) }).collect();
        if let Some(reply) = reply {
            self.replies.push((reply, CancelReply { answers, problem: None }.encode_to_vec()));
        }
    }

    fn cancel_one(&mut self, item: &CancelItem, now: Timestamp) -> cancel_answer::Answer {
        let missing =
            || cancel_answer::Answer::Rejected(intake::problem(Code::JobNotFound, format!("no live job {}", item.job_id)));
        let Ok(id) = JobId::parse(item.job_id.clone()) else { return missing() };
        let Some(job) = self.cell.job(&id).filter(|job| item.tenant_id.is_empty() || item.tenant_id == job.tenant_id) else {
            return missing();
        };
        let before = job.state.tag();
        let event = Event::CancelAsked { reason: item.reason.clone(), requested_by: item.requested_by.clone() };
        match self.cell.apply(&id, &event, now) {
            Ok(()) | Err(Rejected::Unchanged) => {}
            Err(Rejected::Terminal | Rejected::StaleAttempt | Rejected::WrongState) => {
                return cancel_answer::Answer::State(before.into());
            }
        }
        cancel_answer::Answer::State(self.cell.job(&id).map_or(before, |job| job.state.tag()).into())
    }

    fn list(&self, request: &ListRequest) -> ListReply {
        let before = (request.before_ms > 0)
            .then(|| JobId::parse(request.before_id.clone()).ok().map(|id| (Timestamp::from_millis(request.before_ms), id)))
            .flatten();
        let wanted = request.state();
        let patterns: Vec<TopicPattern> =
            request.topic_patterns.iter().filter_map(|pattern| TopicPattern::parse(pattern).ok()).collect();
        let fitting = self
            .cell
            .newest_before(before.as_ref())
            .filter(|job| request.tenant_id.is_empty() || job.tenant_id == request.tenant_id)
            .filter(|job| wanted == JobState::Unspecified || job.state.tag() == wanted)
            .filter(|job| request.topic.is_empty() || job.topic == request.topic)
            .filter(|job| request.topic_patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&job.topic)))
            .take(usize::try_from(request.limit.min(1000)).unwrap_or(1000));
        let mut reply = ListReply::default();
        let mut bytes = 0;
        for record in fitting.map(Job::to_record) {
            bytes += record.encoded_len() + LISTED_BYTES;
            // One is told whatever its size, so that whoever asks gets ahead.
            if bytes > LIST_BYTES_MAX && !reply.jobs.is_empty() {
                reply.more = true;
                break;
            }
            reply.jobs.push(record);
        }
        reply
    }

    fn view_workers(&self, now: Timestamp) -> WorkersReply {
        WorkersReply {
            workers: self.cell.workers().view(&self.config.settings.patience, now),
            scheduler: Some(SchedulerStatus {
                owner: self.config.owner.clone(),
                epoch: self.cell.epoch(),
                live: self.cell.live().iter().map(|(state, count)| (state.short_name().to_owned(), *count)).collect(),
                snapshot: self.cell.snapshot().to_owned(),
                started_ms: self.started.millis(),
            }),
            problem: None,
        }
    }

    fn ask_undecided(&mut self) {
        let jobs = self.cell.take_undecided(UNITS_MAX);
        if !jobs.is_empty() {
            let traces = self.observer.instruments().traces.clone();
            self.tasks.spawn(tasks::ask(self.ports.clone(), traces, jobs, self.inputs.clone()));
        }
    }

    /// Commits the turn: new jobs and changes of old ones, both in flight at once.
    async fn commit(&mut self) -> Result<(), Left> {
        let admits = std::mem::take(&mut self.admits);
        let (fresh, units) = self.admission_units(&admits);
        let changes = self.cell.take_units();
        let (ids, advances): (Vec<JobId>, Vec<Unit>) = changes.into_iter().unzip();
        if units.is_empty() && advances.is_empty() {
            self.answer_admits(admits, &[]);
            return Ok(());
        }
        let ports = self.ports;
        let log_entries =
            units.iter().chain(&advances).filter(|unit| matches!(unit.writes.last(), Some(Write::Append { .. }))).count();
        let begun = Instant::now();
        let (admitted, advanced) = tokio::join!(
            commit_all(&ports.records, &ports.clock, CommitClass::Admit, units),
            commit_all(&ports.records, &ports.clock, CommitClass::Advance, advances)
        );
        for answer in advanced.map_err(|_| Left::Reload)? {
            match answer {
                Some(Answer::Applied { .. } | Answer::Already) => {}
                // The only guard that can fail while we are who we believe to be is the epoch's.
                Some(Answer::Conflict { guard } | Answer::GuardFailed { guard }) => {
                    return Err(if guard == 0 { Left::Replaced } else { Left::Reload });
                }
                None => return Err(Left::Reload),
            }
        }
        self.observer.committed(begun.elapsed(), log_entries);
        let now = self.ports.clock.now();
        let facts = self.cell.take_facts();
        self.observer.tell(facts, &self.cell, now);
        for id in &ids {
            self.cell.committed(id);
        }
        let outcomes: Vec<Fate> = admitted
            .map_err(|_| Left::Reload)?
            .iter()
            .zip(&fresh)
            .map(|(answer, prepared)| admission::fate(answer.as_ref(), &prepared.job))
            .collect();
        if outcomes.iter().any(|fate| matches!(fate, Fate::NotOwner)) {
            return Err(Left::Replaced);
        }
        for (prepared, fate) in fresh.into_iter().zip(&outcomes) {
            if matches!(fate, Fate::Admitted) {
                self.cell.insert(prepared.job, 1, prepared.class, now);
            }
        }
        self.answer_admits(admits, &outcomes);
        self.relay_wake.notify_one();
        Ok(())
    }

    /// The units of everything that is to be admitted, in order.
    fn admission_units(&mut self, admits: &[Admit]) -> (Vec<Prepared>, Vec<Unit>) {
        let mut fresh = Vec::new();
        let mut units = Vec::new();
        let mut room = self.config.live_jobs_max.saturating_sub(self.cell.len());
        for prepared in admits.iter().flat_map(|admit| &admit.outcomes).flatten() {
            let refused = prepared.job.from_bus && prepared.passed.first() != Some(&JobState::Pending);
            if room == 0 && !refused {
                continue;
            }
            room = room.saturating_sub(1);
            units.push(self.cell.admission(&prepared.job, &prepared.passed, refused));
            fresh.push(prepared.clone());
        }
        (fresh, units)
    }

    /// Answers submissions; `fates` are those of the units, in the same order. What got no unit found the cell full.
    fn answer_admits(&mut self, admits: Vec<Admit>, fates: &[Fate]) {
        let mut fates = fates.iter();
        for Admit { outcomes, origin, received } in admits {
            let mut doubtful = false;
            let answers: Vec<Verdict> = outcomes
                .into_iter()
                .map(|outcome| match outcome {
                    Err(problem) => {
                        let verdict = Verdict::Known(admit_answer::Answer::Rejected(problem));
                        self.observer.answered(None, &verdict, received);
                        verdict
                    }
                    Ok(prepared) => {
                        let verdict = admission::verdict(&prepared, fates.next());
                        self.observer.answered(Some(&prepared.job), &verdict, received);
                        doubtful |= matches!(verdict, Verdict::Doubtful(_));
                        verdict
                    }
                })
                .collect();
            self.observer.instruments().meters.answered(received.elapsed());
            match origin {
                Origin::Asked { reply } if doubtful => {
                    self.tasks.spawn(tasks::resolve_duplicates(self.ports.clone(), answers, reply));
                }
                Origin::Asked { reply } => {
                    let answers = answers.into_iter().map(Verdict::certain).collect();
                    self.replies.push((reply, AdmitReply { answers, problem: None }.encode_to_vec()));
                }
                Origin::Queue { deliveries } => {
                    let settled = deliveries.into_iter().zip(&answers).map(|(delivery, answer)| (delivery, answer.settlement()));
                    self.settle.extend(settled);
                }
            }
        }
    }

    /// Sends what has become true.
    async fn perform(&mut self, now: Timestamp) {
        let bus = &self.ports.bus;
        for (reply, body) in self.replies.drain(..) {
            if let Err(error) = bus.publish(&reply, Headers::new(), body.into()).await {
                tracing::debug!(%error, "an answer was not sent");
            }
        }
        for order in self.cell.take_orders() {
            perform::send(bus, &self.observer.instruments().traces, &order, self.cell.job(&order.job), &self.inbox, now).await;
        }
        for (delivery, settlement) in self.settle.drain(..) {
            if let Err(error) = bus.settle(&delivery, settlement).await {
                tracing::debug!(%error, "a delivery was not settled and comes again");
            }
        }
    }
}
