//! One term as the active engine: the event loop.
//!
//! Each turn takes what has arrived, lets the core decide, commits everything in one flush, and only then answers and commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{
    CancelItem, EngineStatus, RemoveReply, RunCancelReply, RunCancelRequest, RunHoldRequest, RunRecord, RunState, StartReply,
    WorkflowHead, run_cancel_reply, start_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{
    Answer, Answers, Bus, COMMIT_RETRY, Clock, CommitClass, Commits, Guard, Headers, LogTail, Records, Relay, RelayProgress,
    StoreError, Unit, Write, appended,
};
use busbar_protocol::prost::{self, Message as _};
use busbar_protocol::time::Timestamp;
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::EngineConfig;
use crate::core::commit::{GUARD_INPUT, GUARD_WORKFLOW};
use crate::core::engine::{Engine, Order};
use crate::core::request::admit_item;
use crate::core::run::{Head, Outcome, Run};
use crate::core::transition::{Event, JobOutcome, Rejected, Staged, Submission};
use crate::input::{Found, Input, What};
use crate::jobs::Expecting;
use crate::library::{Library, decode};
use crate::listen::{Ears, problem};
use crate::meters::Meters;
use crate::office::{Office, keep_lease};
use crate::perform::{self, Outgoing};
use crate::relay::{self, RunTeller};
use crate::service::{Ports, TermError};
use crate::{janitor, jobs, starts, takeover};

/// The most inputs of one turn.
const INPUTS_MAX: usize = 256;
/// The longest sleep of the loop.
const TURN: Duration = Duration::from_millis(250);
/// The most jobs that are looked at at once of which nothing was heard.
const LOOK_MAX: usize = 1024;

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
pub(crate) async fn term<B: Bus, R: Records, C: Clock>(
    config: &EngineConfig,
    ports: &Ports<B, R, C>,
    office: Office,
    meters: &Meters,
    stopping: watch::Receiver<bool>,
) -> Result<Left, TermError> {
    let Office { epoch, term } = office;
    meters.begin(epoch);
    let mut tasks = JoinSet::new();
    let (inputs, arrived) = mpsc::channel(4 * INPUTS_MAX);
    // Renewed from the beginning: reading many runs may take longer than the lease lives.
    tasks.spawn(keep_lease(ports.clone(), config.clone(), epoch, inputs.clone()));
    let library = Library::default();
    let mut engine = Engine::new(config.settings, epoch, term);
    takeover::load(ports, &library, &mut engine).await?;

    let tail = Arc::<LogTail>::default();
    let progress = Arc::<RelayProgress>::default();
    let relay = Relay {
        bus: ports.bus.clone(),
        records: ports.records.clone(),
        clock: ports.clock.clone(),
        teller: RunTeller { bus: ports.bus.clone(), meters: meters.clone() },
        of: relay::RUNS,
        epoch,
        tail: Arc::clone(&tail),
        progress: Arc::clone(&progress),
    };
    tasks.spawn(relay.run());
    tasks.spawn(janitor::run(ports.clone(), epoch, config.settings.retention.runs));
    let ears = Ears { ports: ports.clone(), inputs: inputs.clone(), library, epoch };
    Arc::new(ears).start(&mut tasks).await?;
    let term = Term {
        config,
        ports,
        meters,
        engine,
        inputs,
        arrived,
        stopping,
        tail,
        progress,
        tasks,
        started: ports.clock.now(),
        submitting: BTreeSet::new(),
        holding: Holding::default(),
        looked_at: String::new(),
        missed: true,
        starts: Vec::new(),
        removals: Vec::new(),
        replies: Vec::new(),
    };
    Ok(term.run().await)
}

/// Somebody who wants a run to start.
struct Starting {
    head: Arc<Head>,
    /// It was there already.
    existing: bool,
    reply: String,
}

/// A workflow that is to be taken away in this turn.
struct Removal {
    unit: Unit,
    reply: String,
}

/// What the scheduler was told of paused runs. It is told by one task at a time, so that what is newer comes later.
#[derive(Debug, Default)]
struct Holding {
    /// What it was told last; nothing, where it is to be told again.
    told: Option<BTreeSet<String>>,
    /// It is being told.
    busy: bool,
    /// Who is answered once it was told what it is being told now.
    asked: Vec<(String, Vec<u8>)>,
    /// Who is answered once it was told what is to be told next.
    waiting: Vec<(String, Vec<u8>)>,
}

/// One term.
struct Term<'a, B, R, C> {
    config: &'a EngineConfig,
    ports: &'a Ports<B, R, C>,
    meters: &'a Meters,
    engine: Engine,
    inputs: mpsc::Sender<Input>,
    arrived: mpsc::Receiver<Input>,
    stopping: watch::Receiver<bool>,
    tail: Arc<LogTail>,
    /// How far the relay is.
    progress: Arc<RelayProgress>,
    tasks: JoinSet<()>,
    started: Timestamp,
    /// Jobs that are on their way to the scheduler, and so may well be unknown there.
    submitting: BTreeSet<String>,
    holding: Holding,
    /// The last job of the last look.
    looked_at: String,
    /// Word about jobs was lost.
    missed: bool,
    // What the present turn has gathered.
    starts: Vec<Starting>,
    removals: Vec<Removal>,
    replies: Vec<(String, Vec<u8>)>,
}

impl<B: Bus, R: Records, C: Clock> Term<'_, B, R, C> {
    async fn run(mut self) -> Left {
        loop {
            if let Err(left) = self.turn().await {
                return left;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Left> {
        self.gather().await?;
        self.engine.pass_time(self.ports.clock.now());
        if self.missed {
            self.missed = false;
            let all: Vec<String> = self.engine.jobs_out().cloned().collect();
            self.look_at(all, Expecting::Nothing);
        }
        self.commit().await?;
        self.meters.relay(self.progress.lag(self.ports.clock.now()));
        self.perform().await;
        Ok(())
    }

    /// Waits for something to do, and takes in what has arrived.
    async fn gather(&mut self) -> Result<(), Left> {
        let now = self.ports.clock.now();
        let sleep = if self.engine.has_changes() || self.missed {
            Duration::ZERO
        } else {
            self.engine.next_timer().map_or(TURN, |at| at.since(now).min(TURN))
        };
        let first = tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stop| *stop) => return Err(Left::Stopped),
            input = self.arrived.recv() => input,
            () = self.ports.clock.sleep(sleep) => None,
        };
        let now = self.ports.clock.now();
        let mut next = first;
        for _ in 0..INPUTS_MAX {
            let Some(input) = next else { break };
            self.take(input, now)?;
            next = self.arrived.try_recv().ok();
        }
        Ok(())
    }

    fn take(&mut self, input: Input, now: Timestamp) -> Result<(), Left> {
        match input {
            Input::Start { run, reply } => self.start(*run, reply, now),
            Input::Remove { head, revision, check_only, reply } => self.remove(&head, revision, check_only, reply),
            Input::Cancel { request, reply } => self.cancel(request, reply, now),
            Input::Hold { request, pause, reply } => self.hold(request, pause, reply, now),
            Input::Status { reply } => self.replies.push((reply, self.status().encode_to_vec())),
            Input::Ended(ids) => {
                let ours = ids.into_iter().filter(|id| self.engine.spot_of(id).is_some()).collect();
                self.look_at(ours, Expecting::Ends);
            }
            Input::Missed => self.missed = true,
            Input::Found(found) => found.into_iter().for_each(|found| self.found(found, now)),
            Input::Submitted(ids) => ids.iter().for_each(|id| {
                self.submitting.remove(id);
            }),
            Input::Held => {
                self.holding.busy = false;
                self.replies.append(&mut self.holding.asked);
            }
            Input::Look => self.look(),
            Input::LeaseLost => return Err(Left::Replaced),
        }
        Ok(())
    }

    fn start(&mut self, run: Run, reply: String, now: Timestamp) {
        let head = Arc::clone(&run.head);
        if let Some(present) = self.engine.run(&head.id).map(|run| Arc::clone(&run.head)) {
            if present.tenant_id != head.tenant_id || present.workflow_id != head.workflow_id {
                return self.refuse_start(reply, Code::RunDuplicate, format!("another run is called {}", head.id));
            }
            return self.starts.push(Starting { head: present, existing: true, reply });
        }
        if self.engine.len() >= self.config.live_runs_max {
            let detail = format!("{} runs are live, and no more are taken", self.engine.len());
            return self.refuse_start(reply, Code::RunsFull, detail);
        }
        self.engine.begin(run, now);
        self.starts.push(Starting { head, existing: false, reply });
    }

    fn refuse_start(&mut self, reply: String, code: Code, detail: String) {
        let answer = Some(start_reply::Answer::Rejected(problem(code, detail)));
        self.replies.push((reply, StartReply { answer }.encode_to_vec()));
    }

    fn remove(&mut self, head: &WorkflowHead, revision: u64, check_only: bool, reply: String) {
        let live = self.engine.live_of(&head.tenant_id, &head.workflow_id);
        if live > 0 {
            let detail = format!("{live} runs of {} are live", head.workflow_id);
            let problem = Some(problem(Code::WorkflowInUse, detail));
            return self.replies.push((reply, RemoveReply { problem }.encode_to_vec()));
        }
        if check_only {
            return self.replies.push((reply, RemoveReply::default().encode_to_vec()));
        }
        let key = keys::workflow(&head.tenant_id, &head.workflow_id);
        let versions = (1..=head.newest).map(|number| keys::workflow_version(&head.tenant_id, &head.workflow_id, number));
        let mut writes: Vec<Write> = versions.chain([key.clone()]).map(|key| Write::Delete { key }).collect();
        let index = keys::index_workflows(&head.tenant_id);
        writes.push(Write::IndexRemove { index, member: head.workflow_id.clone() });
        let guards = vec![
            Guard::Epoch { lock: keys::LOCK_ENGINE.to_owned(), epoch: self.engine.epoch() },
            Guard::Revision { key, revision },
        ];
        self.removals.push(Removal { unit: Unit { id: self.engine.next_commit(), guards, writes }, reply });
    }

    fn cancel(&mut self, request: RunCancelRequest, reply: String, now: Timestamp) {
        let ours = self.engine.run(&request.run_id);
        let permitted = ours.is_some_and(|run| request.tenant_id.is_empty() || request.tenant_id == run.head.tenant_id);
        if !permitted {
            self.tasks.spawn(refuse_cancel(self.ports.clone(), request, reply));
            return;
        }
        let RunCancelRequest { run_id, reason, requested_by, .. } = request;
        let event = Event::CancelAsked { reason, requested_by };
        match self.engine.apply(&run_id, &event, now) {
            Ok(()) | Err(Rejected::Unchanged) => {
                let state = self.engine.run(&run_id).map_or(RunState::Cancelled, |run| run.progress.state());
                let answer = Some(run_cancel_reply::Answer::State(state.into()));
                self.replies.push((reply, RunCancelReply { answer }.encode_to_vec()));
            }
            Err(Rejected::Ended | Rejected::Ending | Rejected::Stale) => {
                let answer = Some(run_cancel_reply::Answer::Rejected(terminal(&run_id)));
                self.replies.push((reply, RunCancelReply { answer }.encode_to_vec()));
            }
        }
    }

    /// Lets a run start nothing more for now, or go on. Whoever pauses is answered when the scheduler holds the run's jobs, or could not be told.
    fn hold(&mut self, request: RunHoldRequest, pause: bool, reply: String, now: Timestamp) {
        let ours = self.engine.run(&request.run_id);
        let permitted = ours.is_some_and(|run| request.tenant_id.is_empty() || request.tenant_id == run.head.tenant_id);
        let RunHoldRequest { run_id, tenant_id, requested_by } = request;
        if !permitted {
            let asked = RunCancelRequest { run_id, tenant_id, requested_by, ..RunCancelRequest::default() };
            self.tasks.spawn(refuse_cancel(self.ports.clone(), asked, reply));
            return;
        }
        let event = if pause { Event::PauseAsked } else { Event::ResumeAsked };
        let (answer, replies) = match self.engine.apply(&run_id, &event, now) {
            Ok(()) | Err(Rejected::Unchanged) => {
                tracing::info!(run = run_id, pause, requested_by, "a run is held or goes on");
                let state = self.engine.run(&run_id).map_or(RunState::Running, |run| run.progress.state());
                let replies = if pause { &mut self.holding.waiting } else { &mut self.replies };
                (run_cancel_reply::Answer::State(state.into()), replies)
            }
            Err(Rejected::Ending) => {
                let ending = problem(Code::RunTerminal, format!("run {run_id} is ending"));
                (run_cancel_reply::Answer::Rejected(ending), &mut self.replies)
            }
            Err(Rejected::Ended | Rejected::Stale) => (run_cancel_reply::Answer::Rejected(terminal(&run_id)), &mut self.replies),
        };
        replies.push((reply, RunCancelReply { answer: Some(answer) }.encode_to_vec()));
    }

    fn status(&self) -> EngineStatus {
        EngineStatus {
            owner: self.config.owner.clone(),
            epoch: self.engine.epoch(),
            live_runs: self.engine.len() as u64,
            started_ms: self.started.millis(),
        }
    }

    fn found(&mut self, found: Found, now: Timestamp) {
        let Found { job_id, what } = found;
        let Some((run_id, spot)) = self.engine.spot_of(&job_id).cloned() else { return };
        let event = match what {
            What::Over(outcome) => Event::JobOver { spot, job_id, outcome },
            What::Unknown if self.submitting.contains(&job_id) => return,
            What::Unknown => match self.engine.submission_of(&job_id) {
                Some((run_id, Ok(submission))) => return self.submit(vec![(run_id, submission)]),
                Some((_, Err(message))) => Event::JobOver { spot, job_id, outcome: lost_input(&message) },
                None => return,
            },
        };
        if let Err(rejected) = self.engine.apply(&run_id, &event, now) {
            tracing::debug!(run = run_id, %rejected, "word of a job changes nothing");
        }
    }

    /// Looks at some of the jobs that are out, the next ones each time, and says again what must be cancelled or held.
    fn look(&mut self) {
        let mut ids: Vec<String> = self.engine.jobs_out().cloned().collect();
        ids.sort_unstable();
        let from = ids.partition_point(|id| *id <= self.looked_at);
        ids.rotate_left(from);
        ids.truncate(LOOK_MAX);
        self.looked_at = ids.last().cloned().unwrap_or_default();
        self.look_at(ids, Expecting::Nothing);
        let cancel: Vec<Order> = self.engine.jobs_to_cancel().collect();
        self.command(cancel);
        self.holding.told = None;
    }

    fn look_at(&mut self, ids: Vec<String>, expecting: Expecting) {
        if !ids.is_empty() {
            self.tasks.spawn(jobs::look(self.ports.clone(), ids, expecting, self.inputs.clone()));
        }
    }

    /// Commits the turn: values first, then runs and removals.
    async fn commit(&mut self) -> Result<(), Left> {
        self.stage().await?;
        let units = self.engine.take_units();
        let removals = std::mem::take(&mut self.removals);
        if units.is_empty() && removals.is_empty() {
            return self.answer_starts(&BTreeMap::new());
        }
        let begun = Instant::now();
        let (new, old): (Vec<_>, Vec<_>) = units.into_iter().partition(|(_, new, _)| *new);
        let unzip = |of: Vec<(String, bool, Unit)>| of.into_iter().map(|(id, _, unit)| (id, unit)).unzip();
        let ((old_ids, old_units), (new_ids, new_units)): ((Vec<String>, _), (Vec<String>, _)) = (unzip(old), unzip(new));
        let (removals, replies) = removals.into_iter().map(|removal| (removal.unit, removal.reply)).unzip();
        let [advanced, removed, started] = self.flush(old_units, removals, new_units).await?;
        for answer in advanced {
            match answer {
                Some(Answer::Applied { .. } | Answer::Already) => {}
                Some(Answer::Conflict { guard } | Answer::GuardFailed { guard }) => {
                    return Err(if guard == 0 { Left::Replaced } else { Left::Reload });
                }
                None => return Err(Left::Reload),
            }
        }
        old_ids.iter().for_each(|id| self.committed(id));

        let fates: BTreeMap<String, Option<Answer>> = new_ids.into_iter().zip(started).collect();
        self.answer_starts(&fates)?;
        self.answer_removals(removed, replies)?;
        self.meters.committed(begun, self.engine.len(), self.engine.jobs_out().count());
        Ok(())
    }

    /// Commits changes of live runs, removals of workflows, and then runs that begin. All of them leave at once, in this order: nothing was
    /// live of a workflow that is taken away, and what would begin of it in the same turn finds that it is gone. What runs append to the log,
    /// the relay has to tell.
    async fn flush(&mut self, old: Vec<Unit>, removals: Vec<Unit>, new: Vec<Unit>) -> Result<[Answers; 3], Left> {
        let appends = [&old, &new].map(|units| units.iter().map(|unit| appended(unit, keys::LOG_RUNS)).collect::<Vec<_>>());
        let mut commits = Commits::new(&self.ports.records, &self.ports.clock);
        commits.add([(CommitClass::Advance, old), (CommitClass::Advance, removals), (CommitClass::Admit, new)]);
        let Some([Ok(advanced), Ok(removed), Ok(started)]) = commits.next().await else { return Err(Left::Reload) };
        for (appends, answers) in appends.into_iter().zip([&advanced, &started]) {
            self.progress.written(appends.iter().flatten().count());
            self.tail.committed(appends, answers);
        }
        self.tail.announce();
        Ok([advanced, removed, started])
    }

    /// A run's last change is durable.
    fn committed(&mut self, run_id: &str) {
        if let Some(run) = self.engine.run(run_id).filter(|run| run.is_over()) {
            self.meters.ended(run, self.ports.clock.now());
        }
        self.engine.committed(run_id);
    }

    /// Writes the values of which the units speak. Until they stand, nothing goes on.
    async fn stage(&mut self) -> Result<(), Left> {
        let mut staged = self.engine.take_staged();
        while !staged.is_empty() {
            let records = &self.ports.records;
            let writes = staged.iter().map(|Staged { key, value }| records.put_payload(key, value.clone(), Some(INPUT_TTL)));
            let outcomes = join_all(writes).await;
            if let Some(error) = outcomes.iter().find_map(|outcome| match outcome {
                Err(error @ (StoreError::Refused { .. } | StoreError::Corrupt { .. })) => Some(error),
                _ => None,
            }) {
                tracing::error!(%error, "a value of a run cannot be written");
                return Err(Left::Reload);
            }
            let mut outcomes = outcomes.into_iter();
            staged.retain(|_| outcomes.next().is_some_and(|outcome| outcome.is_err()));
            if !staged.is_empty() {
                self.ports.clock.sleep(COMMIT_RETRY).await;
            }
        }
        Ok(())
    }

    /// Answers those who wanted to start runs; `fates` are those of the runs that have begun in this turn.
    fn answer_starts(&mut self, fates: &BTreeMap<String, Option<Answer>>) -> Result<(), Left> {
        for (run_id, fate) in fates {
            match fate {
                Some(Answer::Applied { .. } | Answer::Already) => {
                    self.meters.started();
                    self.committed(run_id);
                }
                Some(Answer::Conflict { guard: 0 } | Answer::GuardFailed { guard: 0 }) => return Err(Left::Replaced),
                Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | None => self.engine.forget(run_id),
            }
        }
        for Starting { head, existing, reply } in std::mem::take(&mut self.starts) {
            match fates.get(&head.id) {
                None | Some(Some(Answer::Applied { .. } | Answer::Already)) => {
                    let answer = Some(start_reply::Answer::Started(starts::started(&head, existing)));
                    self.replies.push((reply, StartReply { answer }.encode_to_vec()));
                }
                Some(None) => self.refuse_start(reply, Code::MemoryShort, "Redis is short of memory".to_owned()),
                Some(Some(Answer::GuardFailed { guard: GUARD_INPUT })) => {
                    self.refuse_start(reply, Code::PayloadMissing, "the input is gone".to_owned());
                }
                Some(Some(Answer::GuardFailed { guard: GUARD_WORKFLOW })) => {
                    self.refuse_start(reply, Code::WorkflowNotFound, "the workflow was taken away".to_owned());
                }
                // The run, or one for its key, is there already.
                Some(Some(Answer::Conflict { .. } | Answer::GuardFailed { .. })) => {
                    self.tasks.spawn(starts::resolve(self.ports.clone(), head, reply));
                }
            }
        }
        Ok(())
    }

    /// Answers those who wanted to take workflows away.
    fn answer_removals(&mut self, answers: Answers, replies: Vec<String>) -> Result<(), Left> {
        for (answer, reply) in answers.into_iter().zip(replies) {
            let problem = match answer {
                Some(Answer::Applied { .. } | Answer::Already) => None,
                Some(Answer::GuardFailed { guard: 0 } | Answer::Conflict { guard: 0 }) => return Err(Left::Replaced),
                // Somebody saved it meanwhile, or this was a repetition after an answer that was lost.
                Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | None => {
                    Some(problem(Code::StoreUnavailable, "the workflow has changed meanwhile: look at it, and try again"))
                }
            };
            self.replies.push((reply, RemoveReply { problem }.encode_to_vec()));
        }
        Ok(())
    }

    /// Answers and commands, now that everything is durable.
    async fn perform(&mut self) {
        let orders = self.engine.take_orders();
        self.command(orders);
        self.hold_paused();
        for (reply, body) in std::mem::take(&mut self.replies) {
            send(&self.ports.bus, &reply, body.into()).await;
        }
    }

    /// Tells the scheduler which runs are paused, if that is something new to it: of those it sends no jobs.
    fn hold_paused(&mut self) {
        if self.holding.busy {
            return;
        }
        let paused = self.engine.paused();
        let asked = std::mem::take(&mut self.holding.waiting);
        if self.holding.told.as_ref() == Some(&paused) {
            self.replies.extend(asked);
            return;
        }
        self.tasks.spawn(perform::hold(self.ports.clone(), paused.clone(), self.inputs.clone()));
        self.holding = Holding { told: Some(paused), busy: true, asked, waiting: Vec::new() };
    }

    fn command(&mut self, orders: Vec<Order>) {
        let mut submit = Vec::new();
        let mut cancel = Vec::new();
        for order in orders {
            match order {
                Order::Submit { run_id, submission } => submit.push((run_id, submission)),
                Order::Cancel { run_id, job_id } => cancel.extend(self.cancel_item(&run_id, job_id)),
            }
        }
        self.submit(submit);
        if !cancel.is_empty() {
            self.tasks.spawn(perform::cancel(self.ports.clone(), cancel));
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn cancel_item(&self, run_id: &str, job_id: String) -> Option<CancelItem> {
        let run = self.engine.run(run_id)?;
        Some(CancelItem {
            job_id,
            tenant_id: run.head.tenant_id.clone(),
            reason: format!("run {run_id} is ending"),
            requested_by: busbar_protocol::subjects::ENGINE_QUEUE.to_owned(),
            attempt: 0,
        })
    }

    fn submit(&mut self, jobs: Vec<(String, Submission)>) {
        let outgoing: Vec<Outgoing> = jobs
            .into_iter()
            .filter_map(|(run_id, submission)| {
                let item = admit_item(self.engine.run(&run_id)?, &submission)?;
                Some(Outgoing { job_id: submission.job_id, input: submission.input, item })
            })
            .collect();
        if outgoing.is_empty() {
            return;
        }
        self.meters.submitted(outgoing.len());
        self.submitting.extend(outgoing.iter().map(|job| job.job_id.clone()));
        self.tasks.spawn(perform::submit(self.ports.clone(), outgoing, self.inputs.clone()));
    }
}

fn lost_input(message: &str) -> JobOutcome {
    JobOutcome::NotSucceeded {
        outcome: Outcome::Failed,
        code: Code::ExpressionFailed.as_str().to_owned(),
        message: message.to_owned(),
        retryable: false,
    }
}

fn terminal(run_id: &str) -> busbar_protocol::busbar::Problem {
    problem(Code::RunTerminal, format!("run {run_id} has ended already"))
}

async fn send<B: Bus>(bus: &B, reply: &str, body: Bytes) {
    if let Err(error) = bus.publish(reply, Headers::new(), body).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

async fn answer<B: Bus, M: prost::Message>(bus: &B, reply: &str, message: &M) {
    send(bus, reply, message.encode_to_vec().into()).await;
}

/// Says why a run that is not live here cannot be cancelled or held. Of a run that is live after all nothing is said: somebody else is
/// active by now, and will be asked.
async fn refuse_cancel<B: Bus, R: Records, C: Clock>(ports: Ports<B, R, C>, request: RunCancelRequest, reply: String) {
    let key = keys::run(&request.run_id);
    let Ok(mut stored) = ports.records.read(vec![key.clone()]).await else { return };
    let record = stored.pop().flatten().map(|stored| decode::<RunRecord>(&key, &stored.value));
    let refusal = match record {
        Some(Ok(run)) if request.tenant_id.is_empty() || run.tenant_id == request.tenant_id => match run.state() {
            RunState::Running | RunState::Paused => return,
            RunState::Unspecified | RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Timeout => {
                terminal(&request.run_id)
            }
        },
        Some(Err(error)) => problem(Code::Internal, error.to_string()),
        Some(Ok(_)) | None => problem(Code::RunNotFound, format!("no run {} is known", request.run_id)),
    };
    answer(&ports.bus, &reply, &RunCancelReply { answer: Some(run_cancel_reply::Answer::Rejected(refusal)) }).await;
}
