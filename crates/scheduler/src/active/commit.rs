//! The flush of what was taken in and decided, and what those are told whose submissions were in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use busbar_protocol::busbar::{AdmitReply, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Answer, Answers, Bus, Clock, CommitClass, Commits, Judge, Records, StoreError, UNITS_MAX, Unit, appended,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use super::{DEAF, Effects, Left, PLACEMENTS_MAX, Term};
use crate::admission::{self, Fate, Verdict};
use crate::core::cell::Delivered;
use crate::core::commit::Demand;
use crate::core::fact::Fact;
use crate::input::{Admit, Origin};
use crate::intake::{self, Prepared};
use crate::receipts::Receipt;
use crate::tasks;

/// What is to become of a submission that is in order.
enum Plan {
    /// Its unit is sent.
    Unit {
        /// What the guards of the unit mean.
        demands: Vec<Demand>,
        /// It has a worker already.
        ahead: bool,
        /// It counts as one that is on its way.
        coming: bool,
    },
    /// It is refused before that.
    Refused(Fate),
}

/// What the store said of changes, of those who are born by them, and of submissions.
type Outcome = [Result<Answers, StoreError>; 3];

/// So many flushes may be under way, so that the store has the next one when it is done with one.
const FLIGHTS_MAX: usize = 2;
/// A flush takes no more messages of submissions once it has so many of them: while the store works on two calls, the next two are made.
const SUBMISSIONS_MAX: usize = 2 * UNITS_MAX;

/// The flushes that are under way, in the order in which they left. They land in the same order.
pub(super) struct Flights<'a, R, C> {
    commits: Commits<'a, R, C, 3>,
    loads: VecDeque<Load>,
    /// What comes next waits until one has landed.
    held: bool,
}

/// A flush that has come back.
pub(super) struct Landed {
    outcome: Outcome,
    load: Load,
}

/// What a flush carries, and what follows from it.
struct Load {
    admits: Vec<Admit>,
    plans: Vec<Plan>,
    /// Whose submissions are in it.
    names: BTreeSet<JobId>,
    births: Vec<Delivered>,
    changed: Vec<JobId>,
    /// What each unit appends to the log of jobs, in the order of the answers.
    appends: Vec<Vec<Bytes>>,
    facts: Vec<Fact>,
    /// When the results arrived from which it follows.
    received: BTreeMap<JobId, Instant>,
    effects: Effects,
    /// It changes what no job keeps apart, so that nothing follows it before it has landed.
    is_alone: bool,
    launched: Timestamp,
    begun: Instant,
}

impl<'a, R: Records, C: Clock> Flights<'a, R, C> {
    pub(super) fn new(records: &'a R, clock: &'a C) -> Self {
        Self { commits: Commits::new(records, clock), loads: VecDeque::new(), held: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.loads.is_empty()
    }

    /// The first of them, as soon as it has landed; `None` where none is under way.
    pub(super) async fn next(&mut self) -> Option<Landed> {
        let outcome = self.commits.next().await?;
        let landed = self.loads.pop_front().map(|load| Landed { outcome, load });
        self.held = self.loads.iter().any(|load| load.is_alone);
        landed
    }

    /// Waits until the store has done with all of them, whatever it says.
    pub(super) async fn over(mut self) {
        while self.commits.next().await.is_some() {}
    }

    /// What may be told once everything is durable that is under way; it comes back where nothing is.
    fn tell_with_last(&mut self, effects: Effects) -> Option<Effects> {
        let Some(last) = self.loads.back_mut() else { return Some(effects) };
        last.effects.append(effects);
        None
    }

    /// Whether a submission of this name is under way.
    fn has_submitted(&self, id: &JobId) -> bool {
        self.loads.iter().any(|load| load.names.contains(id))
    }

    /// Whether one more may leave behind those that are there.
    fn may_be_followed(&self) -> bool {
        !self.held && self.loads.len() < FLIGHTS_MAX
    }

    fn add(&mut self, parts: [Vec<Unit>; 3], load: Load) {
        let [changes, born, submitted] = parts;
        // Who is part of something comes after it, and new jobs after what has freed their slots.
        self.commits.add([(CommitClass::Advance, changes), (CommitClass::Advance, born), (CommitClass::Admit, submitted)]);
        self.held |= load.is_alone;
        self.loads.push_back(load);
    }
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    /// Sends what was decided to the store, new jobs and changes of old ones at once, if it may leave now. Where nothing is to be committed,
    /// returns what may be told now.
    pub(super) fn launch(&mut self, now: Timestamp) -> Option<Effects> {
        if !self.flights.is_empty() {
            if !self.may_follow() {
                return None;
            }
            if self.cell.has_changed_again() {
                self.flights.held = true;
                return None;
            }
        }
        let mut admits = self.take_admits();
        self.taken = self.admits.len();
        let mut names = BTreeSet::new();
        let (plans, units) = self.plan_admissions(&mut admits, &mut names, now);
        let births = self.cell.take_births();
        let (changed, mut advances): (Vec<JobId>, Vec<Unit>) = self.cell.take_units().into_iter().unzip();
        let documents = [self.cell.take_holds_unit(), self.cell.take_credits_unit(now)];
        let is_alone = !births.is_empty() || documents.iter().any(Option::is_some);
        advances.extend(documents.into_iter().flatten());
        let born: Vec<Unit> = births.iter().map(|birth| birth.unit.clone()).collect();
        let mut effects = std::mem::take(&mut self.effects);
        effects.orders = self.cell.take_orders();
        if units.is_empty() && advances.is_empty() && born.is_empty() {
            let fates = plans.into_iter().filter_map(|plan| if let Plan::Refused(fate) = plan { Some(fate) } else { None });
            self.answer_admits(admits, fates.collect(), &mut effects);
            return self.flights.tell_with_last(effects);
        }
        let appends = advances.iter().chain(&born).chain(&units).map(|unit| appended(unit, keys::LOG_JOBS)).collect();
        let (facts, received) = (self.cell.take_facts(), self.observer.take_received());
        let load = Load {
            admits,
            plans,
            names,
            births,
            changed,
            appends,
            facts,
            received,
            effects,
            is_alone,
            launched: now,
            begun: Instant::now(),
        };
        self.flights.add([advances, born, units], load);
        None
    }

    /// Whether a flush may leave behind the one that is under way, and has enough to carry.
    pub(super) fn may_follow(&self) -> bool {
        let submitted = || self.admits.iter().map(|admit| admit.outcomes.len()).sum::<usize>();
        self.flights.may_be_followed() && self.cell.changes() + submitted() >= self.config.follows_from
    }

    /// What the next flush takes of what was submitted.
    fn take_admits(&mut self) -> Vec<Admit> {
        let mut submissions = 0;
        let fits = |admit: &&Admit| {
            let has_room = submissions < SUBMISSIONS_MAX;
            submissions += admit.outcomes.len();
            has_room
        };
        let taken = self.admits.iter().take_while(fits).count();
        self.admits.drain(..taken).collect()
    }

    /// A flush has come back: what it said is durable. Returns what may be told now.
    pub(super) fn land(&mut self, landed: Landed) -> Result<Effects, Left> {
        let Landed { outcome: [advanced, born, admitted], load } = landed;
        let Load { admits, plans, births, changed, appends, facts, received, mut effects, launched, begun, .. } = load;
        let now = self.ports.clock.now();
        if now.since(launched) > DEAF {
            self.heard_since = now;
        }
        let certain = |answers: Result<Answers, StoreError>| answers.map_err(|_| Left::Reload);
        let (advanced, born, admitted) = (certain(advanced)?, certain(born)?, certain(admitted)?);
        self.observer.committed(begun.elapsed(), appends.iter().flatten().count());
        self.tail.committed(appends, advanced.iter().chain(&born).chain(&admitted));
        for answer in advanced.into_iter().chain(born) {
            match answer {
                Some(Answer::Applied { .. } | Answer::Already) => {}
                // The only guard that can fail while we are who we believe to be is the epoch's.
                Some(Answer::Conflict { guard } | Answer::GuardFailed { guard }) => {
                    return Err(if guard == 0 { Left::Replaced } else { Left::Reload });
                }
                None => return Err(Left::Reload),
            }
        }
        let fates = self.take_in(&admits, plans, &admitted, now)?;
        self.observer.tell(facts, &received, &self.cell, now);
        for Delivered { job, class, .. } in births {
            self.cell.insert_new(job, class, now);
        }
        for id in &changed {
            self.cell.committed(id, now);
        }
        self.answer_admits(admits, fates, &mut effects);
        Ok(effects)
    }

    /// One plan for each submission that is in order, and the units of those that are tried, both in order. Those for which there is a
    /// worker at once go to it with their first commit.
    /// The names of all of them come to `names`.
    fn plan_admissions(&mut self, admits: &mut [Admit], names: &mut BTreeSet<JobId>, now: Timestamp) -> (Vec<Plan>, Vec<Unit>) {
        if admits.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let mut plans = Vec::new();
        let mut free = self.cell.free_slots(now);
        for Admit { outcomes, .. } in &mut *admits {
            for prepared in outcomes.iter_mut().flatten() {
                // What is live already is a repetition, and its unit will say so: it costs its tenant nothing.
                let repeats = self.cell.is_live(&prepared.job.id);
                let mut coming = !prepared.birth.refused && !repeats;
                let judged = if coming { self.judge(prepared, now) } else { Ok(()) };
                match judged {
                    Ok(()) => {}
                    // On the bare bus nobody is there to be told, so it is told as a job that has ended, if not taken later.
                    Err(problem) if prepared.job.from_bus && problem.retry_after_ms == 0 => {
                        intake::refuse(prepared, &problem);
                        coming = false;
                    }
                    Err(problem) => {
                        self.refusals.remember(&prepared.job.id, &problem, now);
                        plans.push(Plan::Refused(Fate::Refused(problem)));
                        continue;
                    }
                }
                // Of one that comes twice at once, the store takes the first.
                let is_first = names.insert(prepared.job.id.clone()) && !self.flights.has_submitted(&prepared.job.id);
                let ahead = free > 0 && is_first && self.cell.insert_ahead(&prepared.job, prepared.class.clone(), now);
                free -= usize::from(ahead);
                plans.push(Plan::Unit { demands: Vec::new(), ahead, coming });
            }
        }
        if plans.iter().any(|plan| matches!(plan, Plan::Unit { ahead: true, .. })) {
            self.cell.place(PLACEMENTS_MAX, now);
        }
        let mut units = Vec::new();
        for (prepared, plan) in admits.iter().flat_map(|admit| &admit.outcomes).flatten().zip(&mut plans) {
            let Plan::Unit { demands, ahead, .. } = plan else { continue };
            let Prepared { job, passed, birth, .. } = prepared;
            let with_worker = if *ahead { self.cell.birth_ahead(&job.id, passed, birth, now) } else { None };
            *ahead = with_worker.is_some();
            let (unit, meaning) = with_worker.unwrap_or_else(|| self.cell.admission(job, passed, birth));
            *demands = meaning;
            units.push(unit);
        }
        (plans, units)
    }

    /// Whether a submission may become a job, as far as memory knows.
    fn judge(&mut self, prepared: &Prepared, now: Timestamp) -> Result<(), Problem> {
        let job = &prepared.job;
        if let Some(problem) = self.refusals.of(&job.id, now) {
            return Err(problem);
        }
        if self.cell.len() + self.cell.coming() >= self.config.live_jobs_max {
            return Err(intake::problem(Code::BacklogFull, "the cell holds as many live jobs as it may"));
        }
        if let Some(problem) = &prepared.against {
            return Err(problem.clone());
        }
        if !job.parent_job_id.is_empty() && self.cell.is_cancelled(&job.parent_job_id) {
            return Err(intake::parent_cancelled(&job.parent_job_id));
        }
        if job.verifies > 0 && !self.cell.awaits_check(job) {
            return Err(intake::parent_ended(&job.parent_job_id));
        }
        self.cell.admit(job, now).map_err(|refusal| admission::refused(&refusal))
    }

    /// Takes the new jobs into the cell; what became of each submission.
    fn take_in(
        &mut self,
        admits: &[Admit],
        plans: Vec<Plan>,
        answers: &[Option<Answer>],
        now: Timestamp,
    ) -> Result<Vec<Fate>, Left> {
        let mut answers = answers.iter();
        let mut fates = Vec::with_capacity(plans.len());
        let submissions = admits.iter().flat_map(|admit| &admit.outcomes).flatten();
        for (prepared, plan) in submissions.zip(plans) {
            let (demands, ahead, coming) = match plan {
                Plan::Refused(fate) => {
                    fates.push(fate);
                    continue;
                }
                Plan::Unit { demands, ahead, coming } => (demands, ahead, coming),
            };
            if coming && !ahead {
                self.cell.came(&prepared.job);
            }
            let fate = admission::fate(answers.next().and_then(Option::as_ref), &demands);
            match fate {
                Fate::NotOwner => return Err(Left::Replaced),
                Fate::Admitted => {
                    if ahead {
                        self.cell.born(&prepared.job.id);
                    } else {
                        self.cell.insert_new(Arc::clone(&prepared.job), prepared.class.clone(), now);
                    }
                    if let Some(input) = prepared.birth.input.as_ref().filter(|input| input.len() <= self.config.inline_bytes_max)
                    {
                        self.cell.keep_input(&prepared.job.id, input.clone());
                    }
                }
                _ if ahead => self.cell.withdraw(&prepared.job.id, now),
                _ => {}
            }
            fates.push(fate);
        }
        Ok(fates)
    }

    /// Answers submissions; there is a fate for each that was in order, in the same order.
    fn answer_admits(&mut self, admits: Vec<Admit>, fates: Vec<Fate>, effects: &mut Effects) {
        let mut fates = fates.into_iter();
        for Admit { outcomes, origin, received } in admits {
            let answers: Vec<Verdict> = outcomes
                .into_iter()
                .map(|outcome| {
                    let (job, verdict) = match outcome {
                        Err(problem) => (None, Verdict::rejected(problem)),
                        Ok(prepared) => {
                            let fate = fates.next().unwrap_or(Fate::MemoryShort);
                            let verdict = admission::verdict(&prepared, fate);
                            (Some(prepared.job), verdict)
                        }
                    };
                    self.observer.answered(job.as_deref(), &verdict, received);
                    verdict
                })
                .collect();
            self.observer.instruments().meters.answered(received.elapsed());
            let doubtful = answers.iter().any(|verdict| matches!(verdict, Verdict::Doubtful(_)));
            match origin {
                Origin::Asked { reply } if doubtful => {
                    self.tasks.spawn(tasks::resolve_duplicates(self.ports.clone(), answers, reply, self.inputs.clone()));
                }
                Origin::Asked { reply } => {
                    let answers = answers.into_iter().map(Verdict::certain).collect();
                    effects.replies.push((reply, AdmitReply { answers, problem: None }.encode_to_vec()));
                }
                Origin::Queue { deliveries } => {
                    let receipts = deliveries.into_iter().map(Receipt::Stream);
                    let settled = receipts.zip(&answers).map(|(receipt, answer)| (receipt, answer.settlement()));
                    effects.settle.extend(settled);
                }
                // A task that has gone has nobody to tell either.
                Origin::Task { done } => drop(done.send(answers)),
            }
        }
    }
}
