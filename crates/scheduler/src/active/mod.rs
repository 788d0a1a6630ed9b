//! One term as the active scheduler: the event loop.
//!
//! Each turn takes what has arrived, lets the core decide, and commits everything in one flush; answers, settlements and messages
//! leave once it has come back. Meanwhile the loop goes on: it tells what the flush before has made true, and takes in what arrives
//! for the next one. Flushes grow with the load, so that no timer is needed: another one leaves when the store has done with the one
//! before, or behind it when there is much to carry and nothing of it concerns what is under way.
//!
//! ```text
//!  store   │   flush 1   │   flush 2   │   flush 3   │
//!  loop     take in for 2 │ tell 1, take in for 3 │ tell 2, take in for 4
//! ```

mod commit;
mod desk;
mod reading;
mod refusals;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::WorkerKind;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Bus, COMMIT_RETRY, Clock, Connection, Headers, Judge, LogTail, Records, Relay, RelayProgress, Settlement, UNITS_MAX,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use crate::Ports;
use crate::batches::{Batches, SentBatches};
use crate::config::SchedulerConfig;
use crate::core::cell::{Beginning, Cell, Order, Settings};
use crate::core::job::{Hold, Job};
use crate::core::transition::{Command, Event};
use crate::core::trust::Mode;
use crate::core::workers::Workers;
use crate::in_doubt::InDoubt;
use crate::input::{Admit, Input, Objection, Reported};
use crate::library::Library;
use crate::listen::Ears;
use crate::objections::Objections;
use crate::observer::{Instruments, Observer};
use crate::office::{Office, Proof};
use crate::perform::{self, Errand};
use crate::receipts::Receipt;
use crate::relay::{self, JobTeller};
use crate::service::TermError;
use crate::trust::Trust;
use crate::{library, takeover, tasks, verify};

use commit::{Flights, Landed};
use refusals::Refusals;

/// The most inputs of one flush.
const INPUTS_MAX: usize = 512;
/// The most placements of one turn.
const PLACEMENTS_MAX: usize = 512;
/// The longest sleep of the loop: workers fall silent without saying so.
const TURN: Duration = Duration::from_millis(200);
/// Whoever waited longer than this for a flush took in less than arrived: silence in it proves nothing.
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
    let (holds, holds_revision) = takeover::holds(&ports.records).await?;
    let beginning = Beginning {
        epoch,
        term,
        topics: library.topics.clone(),
        bounds: library::bounds(&ports.records).await?,
        holds,
        holds_revision,
        standing: takeover::standing(&ports.records, epoch).await?,
        snapshot,
        now: ports.clock.now(),
    };
    let settings = Settings { proven_only: config.worker_trust == Mode::Enforce, ..config.settings };
    let mut cell = Cell::new(settings, beginning);
    cell.adopt_workers(std::mem::take(known));
    let trust = Trust::load(config, ports.records.clone(), ports.clock.clone(), epoch).await?;
    let empty = cell.bind(trust.bindings());
    debug_assert!(empty, "no job was read yet");
    cell.set_owners(trust.owners());
    let rest = takeover::begin(config, ports, &mut cell).await?;

    let (inputs, arrived) = mpsc::channel(4 * INPUTS_MAX);
    let (shelf, shelved) = watch::channel(Arc::clone(&library));
    let tail = Arc::<LogTail>::default();
    let progress = Arc::<RelayProgress>::default();
    let observer = Observer::begin(instruments.clone(), Arc::clone(&progress), epoch);
    let relay = Relay {
        bus: ports.bus.clone(),
        records: ports.records.clone(),
        clock: ports.clock.clone(),
        teller: JobTeller { bus: ports.bus.clone(), meters: instruments.meters.clone(), voice: config.voice.clone() },
        of: relay::JOBS,
        epoch,
        tail: Arc::clone(&tail),
        progress,
    };
    tasks.spawn(relay.run());
    tasks.spawn(tasks::keep_lease(ports.clone(), config.clone(), epoch, Arc::clone(&proven), inputs.clone()));
    tasks.spawn(tasks::watch_connection(ports.bus.connection(), inputs.clone()));
    tasks::watch_config(ports, inputs.clone(), &mut tasks).await?;
    tasks::watch_snapshot(ports, inputs.clone(), &mut tasks).await?;
    let inbox = ports.bus.inbox();
    let objections = Arc::new(Objections::new(ports.bus.clone(), config.voice.clone(), instruments.meters.clone()));
    let ears = Ears {
        ports: ports.clone(),
        inputs: inputs.clone(),
        library: shelved,
        limits: config.settings.limits,
        inbox: inbox.clone(),
        instruments: instruments.clone(),
        epoch,
        objections: Arc::clone(&objections),
        trust: Arc::new(trust),
    };
    Arc::new(ears).start(&mut tasks).await?;
    tasks.spawn(tasks::call_workers(ports.bus.clone(), ports.clock.clone()));
    tasks.spawn(takeover::go_on(ports.clone(), config.load_page, rest, inputs.clone()));

    let started = ports.clock.now();
    let connection = *ports.bus.connection().borrow();
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
        tail,
        inbox,
        heard_since: started,
        proven,
        connection,
        started,
        tasks,
        teller: objections,
        parked: Vec::new(),
        refusals: Refusals::default(),
        admits: Vec::new(),
        effects: Effects::default(),
        taken: 0,
        flights: Flights::new(&ports.records, &ports.clock),
        sent_batches: SentBatches::default(),
        in_doubt: InDoubt::default(),
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
    tail: Arc<LogTail>,
    inbox: String,
    proven: Arc<Proof>,
    /// Since when the bus could be heard without a break.
    heard_since: Timestamp,
    connection: Connection,
    started: Timestamp,
    tasks: JoinSet<()>,
    teller: Arc<Objections<B>>,
    /// What waits until all jobs are read.
    parked: Vec<Input>,
    refusals: Refusals,
    // What was taken in for the next flush.
    admits: Vec<Admit>,
    effects: Effects,
    taken: usize,
    flights: Flights<'a, R, C>,
    sent_batches: SentBatches,
    in_doubt: InDoubt,
}

/// What may be told once everything is durable that was taken in with it.
#[derive(Default)]
struct Effects {
    settle: Vec<(Receipt, Settlement)>,
    replies: Vec<(String, Vec<u8>)>,
    objections: Vec<Objection>,
    orders: Vec<Order>,
}

impl Effects {
    fn append(&mut self, mut later: Self) {
        self.settle.append(&mut later.settle);
        self.replies.append(&mut later.replies);
        self.objections.append(&mut later.objections);
        self.orders.append(&mut later.orders);
    }
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    async fn run(mut self) -> (Left, Workers) {
        let left = loop {
            if let Err(left) = self.turn().await {
                break left;
            }
        };
        if left == Left::Reload {
            // What is read next must not change under us.
            self.flights.over().await;
        }
        (left, self.cell.workers().clone())
    }

    async fn turn(&mut self) -> Result<(), Left> {
        let landed = self.gather().await?;
        let has_landed = landed.is_some();
        let told = landed.map(|landed| self.land(landed)).transpose()?;
        let is_stopping = *self.stopping.borrow();
        let now = self.ports.clock.now();
        if !is_stopping {
            self.decide(now);
        }
        // It leaves before the one that has landed is told: the store has work meanwhile.
        let at_once = self.launch(now);
        for effects in told.into_iter().chain(at_once) {
            if !self.is_still_active().await {
                return Err(Left::Replaced);
            }
            self.perform(effects).await;
        }
        if has_landed {
            self.tail.announce();
        }
        self.ask_for_arrival();
        self.observer.look(&self.cell, &self.config.settings.patience, now);
        let is_idle = self.flights.is_empty() && self.admits.is_empty();
        if is_stopping && is_idle { Err(Left::Stopped) } else { Ok(()) }
    }

    /// What follows from the time, and who gets what.
    fn decide(&mut self, now: Timestamp) {
        let heard_since = if self.connection.connected { self.heard_since } else { now };
        self.cell.pass_time(heard_since, now);
        self.ask_undecided();
        self.cell.place(PLACEMENTS_MAX, now);
        self.fetch_wanted();
        self.fetch_replicas();
        self.submit_checks();
    }

    /// Whether what has become true may be told. A process that was stopped for a while and goes on still believes what
    /// it knew; what it commits is fenced by the epoch, but an answer from memory is not.
    async fn is_still_active(&mut self) -> bool {
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

    /// Takes in what arrives until a flush that is under way has landed, or another one may follow it; where there is none, until there is
    /// something to do.
    async fn gather(&mut self) -> Result<Option<Landed>, Left> {
        while self.tasks.try_join_next().is_some() {}
        self.take_arrived(None)?;
        while !self.flights.is_empty() {
            if self.may_follow() {
                return Ok(None);
            }
            let may_take = self.taken < INPUTS_MAX && !*self.stopping.borrow();
            let input = tokio::select! {
                biased;
                landed = self.flights.next() => return Ok(landed),
                input = self.arrived.recv(), if may_take => input,
            };
            self.take_arrived(input)?;
        }
        let wait = self.rest();
        if wait.is_zero() || self.taken > 0 || !self.admits.is_empty() || *self.stopping.borrow() {
            return Ok(None);
        }
        let input = tokio::select! {
            biased;
            _ = self.stopping.changed() => None,
            input = self.arrived.recv() => input,
            () = self.ports.clock.sleep(wait) => None,
        };
        self.take_arrived(input)?;
        Ok(None)
    }

    /// Takes in what is there, as far as there is room for it in the next flush.
    fn take_arrived(&mut self, mut first: Option<Input>) -> Result<(), Left> {
        let now = self.ports.clock.now();
        while self.taken < INPUTS_MAX && !*self.stopping.borrow() {
            let Some(input) = first.take().or_else(|| self.arrived.try_recv().ok()) else { break };
            self.handle(input, now)?;
            self.taken += 1;
        }
        Ok(())
    }

    /// How long there is nothing to do by itself.
    fn rest(&self) -> Duration {
        let now = self.ports.clock.now();
        if self.cell.has_changes() {
            return Duration::ZERO;
        }
        self.cell.next_timer().map_or(TURN, |at| at.since(now).clamp(Duration::from_millis(1), TURN))
    }

    fn deal_with(&mut self, input: Input, now: Timestamp) -> Result<(), Left> {
        match input {
            Input::Admit(admit) => self.admits.push(admit),
            Input::Reported(reported) => self.reported(reported, now),
            Input::Progress { job, attempt, worker_id, percent, objection } => {
                if self.objects_about(&job, &worker_id, objection) {
                    return Ok(());
                }
                let is_theirs = |hold: &Hold| hold.worker_id.is_empty() || hold.worker_id == worker_id;
                let attempt = attempt.or_else(|| self.cell.workers().attempt_of(&worker_id, &job));
                let attempt = attempt.filter(|_| self.cell.job(&job).and_then(Job::hold).is_some_and(is_theirs));
                if let Some(attempt) = attempt {
                    let _ = self.cell.apply(&job, &Event::Evidence { attempt, percent: Some(percent) }, now);
                }
            }
            Input::Beat(beat) => self.cell.beat(&beat, now),
            Input::Heartbeat(beat, objection) => {
                if !self.disbelieves(&beat.worker_id, objection) {
                    self.cell.heartbeat(&beat, now);
                    self.in_doubt.heard(&beat.worker_id).iter().for_each(|attempt| self.cell.send_again(attempt));
                }
            }
            Input::Handshake(shake, sent, objection) => {
                if !self.disbelieves(&shake.component_id, objection) {
                    self.cell.handshake(&shake, sent, now);
                }
            }
            Input::Bindings(bindings, owners) => {
                self.cell.set_owners(owners);
                if !self.cell.bind(bindings) {
                    return Err(Left::Reload);
                }
            }
            Input::Distrusted(workers) => workers.iter().for_each(|worker| self.cell.distrust(worker, now)),
            Input::NobodyThere { job, attempt } => self.cell.nobody_there(&job, attempt, now),
            Input::NobodyTook { batch } => {
                if let Some((worker_id, attempts)) = self.sent_batches.forget(batch) {
                    self.cell.nobody_took(&worker_id, &attempts, now);
                }
            }
            Input::Cancel { items, reply } => self.cancel(&items, reply, now),
            Input::List { request, reply } => self.list(&request, reply),
            Input::Listed { jobs, reply } => self.listed(jobs, reply),
            Input::Workers { reply } => {
                let view = self.view_workers(now);
                self.effects.replies.push((reply, view.encode_to_vec()));
            }
            Input::Pause { request, reply } => {
                let answer = self.pause(request, now);
                self.effects.replies.push((reply, answer.encode_to_vec()));
            }
            Input::Drain { request, reply } => {
                let answer = self.drain(request, now);
                self.effects.replies.push((reply, answer.encode_to_vec()));
            }
            Input::Explain { request, reply } => {
                let answer = self.explain(&request, now);
                self.effects.replies.push((reply, answer.encode_to_vec()));
            }
            Input::Verdicts(verdicts) => {
                for (job, verdict) in verdicts {
                    let applied = verdict.map(|verdict| self.cell.apply(&job, &Event::Decided(verdict), now));
                    if !matches!(applied, Some(Ok(()))) {
                        self.cell.unasked(&job, now);
                    }
                }
            }
            Input::Fetched { jobs, then } => return self.fetched(jobs, then, now),
            Input::Loaded { page, place } => {
                self.cell.load(page, now);
                drop(place);
            }
            Input::AllLoaded => return self.all_loaded(now),
            Input::Unreadable => return Err(Left::Reload),
            Input::EndedParents(parents) => parents.iter().for_each(|parent| self.cell.parent_has_ended(parent)),
            Input::Replicas { parent, found } => self.cell.replicas_read(&parent, found, now),
            Input::CheckRefused { parent, replica, why } => self.cell.check_refused(&parent, replica, why),
            Input::Topics(library) => {
                self.cell.set_topics(library.topics.clone());
                self.shelf.send_replace(Arc::clone(&library));
                self.library = library;
            }
            Input::Bounds(bounds) => self.cell.set_bounds(bounds),
            Input::Snapshot(snapshot) => self.cell.set_snapshot(snapshot, now),
            Input::Connection(connection) => {
                // That one was lost may be told only with the next one.
                if connection.connected && connection != self.connection {
                    self.tasks.spawn(tasks::call_workers(self.ports.bus.clone(), self.ports.clock.clone()));
                    self.cell.bus_returned();
                    self.in_doubt.connected(connection.generation).iter().for_each(|attempt| self.cell.send_again(attempt));
                }
                self.connection = connection;
                self.heard_since = now;
            }
            Input::CameBack { number, arrived } => self.in_doubt.came_back(number, arrived),
            Input::LeaseLost => return Err(Left::Replaced),
        }
        Ok(())
    }

    /// Whether what a worker says of itself must not count. A native one is known by its beats, and speaks in CAP's words for others.
    fn disbelieves(&mut self, worker_id: &str, objection: Option<Objection>) -> bool {
        let is_native = self.cell.workers().get(worker_id).is_some_and(|worker| worker.kind == WorkerKind::Native);
        !is_native && self.objects(objection)
    }

    /// Whether something must not count against which this speaks; it is told.
    fn objects(&mut self, objection: Option<Objection>) -> bool {
        let Some(objection) = objection else { return false };
        let refuses = objection.doubt.refuses;
        self.effects.objections.push(objection);
        refuses
    }

    /// Whether a packet about a job must not count. Of what a native worker holds, it may speak: it is known by its beats. Where
    /// nobody holds the job, the packet changes nothing but the slots of a worker, if there is such a worker.
    fn objects_about(&mut self, job: &JobId, worker_id: &str, objection: Option<Objection>) -> bool {
        let may_speak = match self.cell.job(job).and_then(Job::hold) {
            Some(hold) => hold.kind == WorkerKind::Native && hold.worker_id == worker_id,
            None => self.cell.workers().get(worker_id).is_none_or(|worker| worker.kind == WorkerKind::Native),
        };
        !may_speak && self.objects(objection)
    }

    fn reported(&mut self, mut reported: Reported, now: Timestamp) {
        let objection = reported.objection.take();
        if self.objects_about(&reported.job, &reported.report.worker_id, objection) {
            self.effects.settle.push((reported.receipt, Settlement::Term));
            return;
        }
        let Reported { job: id, report, checked, suspect, received, .. } = &mut reported;
        report.attempt = report.attempt.or_else(|| self.cell.workers().attempt_of(&report.worker_id, id));
        let current = self.cell.job(id).filter(|job| job.hold().is_some() && report.attempt.is_none_or(|a| a == job.attempt));
        if let Some(job) = current.filter(|job| !*checked && tasks::needs_check(job, report, *suspect, &self.library)) {
            let (job, library) = (job.clone(), Arc::clone(&self.library));
            self.tasks.spawn(tasks::check_result(self.ports.clone(), library, job, reported, self.inputs.clone()));
            return;
        }
        match self.cell.report(id, report, now) {
            Ok(()) => self.observer.received(id, *received),
            Err(rejected) => {
                tracing::debug!(job_id = %id, worker_id = report.worker_id, %rejected, "a result changes nothing");
            }
        }
        self.effects.settle.push((reported.receipt, Settlement::Ack));
    }

    fn ask_undecided(&mut self) {
        let jobs = self.cell.take_undecided(UNITS_MAX);
        if !jobs.is_empty() {
            let traces = self.observer.instruments().traces.clone();
            self.tasks.spawn(tasks::ask(self.ports.clone(), traces, jobs, self.inputs.clone()));
        }
    }

    /// Has results checked that count only then.
    fn submit_checks(&mut self) {
        for unchecked in self.cell.take_unchecked() {
            let desk = verify::Desk {
                ports: self.ports.clone(),
                library: self.shelf.subscribe(),
                traces: self.observer.instruments().traces.clone(),
                limits: self.config.settings.limits,
                inputs: self.inputs.clone(),
            };
            self.tasks.spawn(verify::submit(desk, unchecked));
        }
    }

    /// Begins a round trip behind what was sent to workers that cannot show it.
    fn ask_for_arrival(&mut self) {
        let number = self.connection.connected.then(|| self.in_doubt.ask()).flatten();
        if let Some(number) = number {
            let Ports { bus, clock, .. } = self.ports;
            self.tasks.spawn(tasks::go_and_return(bus.clone(), clock.clone(), number, self.inputs.clone()));
        }
    }

    /// Sends what has become true.
    async fn perform(&mut self, effects: Effects) {
        let (bus, now) = (&self.ports.bus, self.ports.clock.now());
        for (reply, body) in effects.replies {
            if let Err(error) = bus.publish(&reply, Headers::new(), body.into()).await {
                tracing::debug!(%error, "an answer was not sent");
            }
        }
        for Objection { subject, doubt, bytes } in effects.objections {
            self.teller.tell(subject, &doubt.error, &bytes, now).await;
        }
        // Before the next attempts, so that workers let go of the last ones before they get them.
        for (receipt, settlement) in effects.settle {
            if let Err(error) = receipt.settle(bus, settlement).await {
                tracing::debug!(%error, "a delivery was not settled and comes again");
            }
        }
        let mut batches = Batches::default();
        for order in effects.orders {
            if !self.cell.is_due(&order) {
                continue;
            }
            let speaker = (bus, &self.config.voice);
            let traces = &self.observer.instruments().traces;
            let is_dispatch = matches!(order.command, Command::Dispatch { .. });
            let input = if is_dispatch { self.cell.take_input(&order.job) } else { None };
            let job = self.cell.job(&order.job);
            let bound = self.cell.tenant_of(&order.worker_id).is_some();
            let errand = Errand { order: &order, bound, input, output_bytes_max: self.config.inline_bytes_max };
            let together = job.filter(|_| is_dispatch).and_then(|job| Some((job, job.hold()?)));
            if let Some((job, hold)) = together.filter(|(_, hold)| self.cell.workers().takes_batches(hold)) {
                let item = perform::dispatch_item(job, errand, traces.of_dispatch(job), now);
                let full = batches.add(hold, (job.id.clone(), job.attempt), item);
                perform::send_batches(bus, &mut self.sent_batches, full, &self.inbox).await;
                continue;
            }
            if !is_dispatch {
                // Whoever is to stop something gets it before.
                perform::send_batches(bus, &mut self.sent_batches, batches.take(), &self.inbox).await;
            }
            if let Some((job, hold)) = together.filter(|(_, hold)| hold.kind != WorkerKind::Native) {
                let generation = bus.connection().borrow().generation;
                self.in_doubt.add(&hold.worker_id, (job.id.clone(), job.attempt), generation);
            }
            perform::send(speaker, traces, errand, job, &self.inbox, now).await;
        }
        perform::send_batches(bus, &mut self.sent_batches, batches.take(), &self.inbox).await;
    }
}
