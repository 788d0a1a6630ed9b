//! The flush of what was taken in and decided, and what those are told whose submissions were in it.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use busbar_protocol::busbar::{AdmitReply, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Answer, Bus, Clock, CommitClass, Judge, Records, StoreError, Unit, Write, commit_all};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use super::{DEAF, Effects, Left, Term};
use crate::admission::{self, Fate, Verdict};
use crate::core::cell::Delivered;
use crate::core::commit::Demand;
use crate::core::fact::Fact;
use crate::input::{Admit, Origin};
use crate::intake::{self, Prepared};
use crate::{Ports, tasks};

/// What is to become of a submission that is in order.
enum Plan {
    /// Its unit is sent.
    Unit {
        /// What the guards of the unit mean.
        demands: Vec<Demand>,
    },
    /// It is refused before that.
    Refused(Fate),
}

/// What the store said of new jobs, and of everything else.
type Outcome = (Result<Vec<Option<Answer>>, StoreError>, Result<Vec<Option<Answer>>, StoreError>);

/// A flush that is under way.
pub(super) struct Flight<'a> {
    pub(super) outcome: BoxFuture<'a, Outcome>,
    load: Load,
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
    births: Vec<Delivered>,
    changed: Vec<JobId>,
    log_entries: usize,
    facts: Vec<Fact>,
    /// When the results arrived from which it follows.
    received: BTreeMap<JobId, Instant>,
    effects: Effects,
    launched: Timestamp,
    begun: Instant,
}

impl Flight<'_> {
    pub(super) fn landed(self, outcome: Outcome) -> Landed {
        Landed { outcome, load: self.load }
    }

    /// Waits until the store has done with it, whatever it says.
    pub(super) async fn over(self) {
        drop(self.outcome.await);
    }
}

impl<'a, B: Bus, R: Records, C: Clock, J: Judge> Term<'a, B, R, C, J> {
    /// Sends what was decided to the store, new jobs and changes of old ones at once. Where nothing is to be committed, returns what may
    /// be told now: the flush before has landed, so that nothing is undone which this could be made of.
    pub(super) fn launch(&mut self, now: Timestamp) -> Option<Effects> {
        self.taken = 0;
        let mut admits = std::mem::take(&mut self.admits);
        let (plans, units) = self.plan_admissions(&mut admits, now);
        let births = self.cell.take_births();
        let (changed, mut advances): (Vec<JobId>, Vec<Unit>) = self.cell.take_units().into_iter().unzip();
        advances.extend(self.cell.take_holds_unit());
        advances.extend(self.cell.take_credits_unit(now));
        advances.extend(births.iter().map(|birth| birth.unit.clone()));
        let mut effects = std::mem::take(&mut self.effects);
        effects.orders = self.cell.take_orders();
        if units.is_empty() && advances.is_empty() {
            let fates = plans.into_iter().filter_map(|plan| if let Plan::Refused(fate) = plan { Some(fate) } else { None });
            self.answer_admits(admits, fates.collect(), &mut effects);
            return Some(effects);
        }
        let is_logged = |unit: &&Unit| matches!(unit.writes.last(), Some(Write::Append { .. }));
        let log_entries = units.iter().chain(&advances).filter(is_logged).count();
        let (facts, received) = (self.cell.take_facts(), self.observer.take_received());
        let (ports, begun): (&'a Ports<B, R, C, J>, _) = (self.ports, Instant::now());
        let mut outcome = async move {
            tokio::join!(
                commit_all(&ports.records, &ports.clock, CommitClass::Admit, units),
                commit_all(&ports.records, &ports.clock, CommitClass::Advance, advances)
            )
        }
        .boxed();
        // It is on its way from now on, whatever the loop does meanwhile.
        if let Some(over) = (&mut outcome).now_or_never() {
            outcome = std::future::ready(over).boxed();
        }
        let load = Load { admits, plans, births, changed, log_entries, facts, received, effects, launched: now, begun };
        self.flight = Some(Flight { outcome, load });
        None
    }

    /// A flush has come back: what it said is durable. Returns what may be told now.
    pub(super) fn land(&mut self, landed: Landed) -> Result<Effects, Left> {
        let Landed { outcome: (admitted, advanced), load } = landed;
        let Load { admits, plans, births, changed, log_entries, facts, received, mut effects, launched, begun } = load;
        let now = self.ports.clock.now();
        if now.since(launched) > DEAF {
            self.heard_since = now;
        }
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
        self.observer.tell(facts, &received, &self.cell, now);
        for Delivered { job, class, .. } in births {
            self.cell.insert_new(job, class, now);
        }
        for id in &changed {
            self.cell.committed(id, now);
        }
        let fates = self.take_in(&admits, plans, &admitted.map_err(|_| Left::Reload)?, now)?;
        self.answer_admits(admits, fates, &mut effects);
        self.relay_wake.notify_one();
        Ok(effects)
    }

    /// One plan for each submission that is in order, and the units of those that are tried, both in order.
    fn plan_admissions(&mut self, admits: &mut [Admit], now: Timestamp) -> (Vec<Plan>, Vec<Unit>) {
        let mut plans = Vec::new();
        let mut units = Vec::new();
        let mut room = self.config.live_jobs_max.saturating_sub(self.cell.len());
        for Admit { outcomes, .. } in admits {
            for prepared in outcomes.iter_mut().flatten() {
                // What is live already is a repetition, and its unit will say so: it costs its tenant nothing.
                let repeats = self.cell.is_live(&prepared.job.id);
                let judged = if prepared.birth.refused || repeats { Ok(()) } else { self.judge(prepared, room, now) };
                match judged {
                    Ok(()) => {}
                    // On the bare bus nobody is there to be told, so it is told as a job that has ended, if not taken later.
                    Err(problem) if prepared.job.from_bus && problem.retry_after_ms == 0 => intake::refuse(prepared, &problem),
                    Err(problem) => {
                        plans.push(Plan::Refused(Fate::Refused(problem)));
                        continue;
                    }
                }
                room = room.saturating_sub(usize::from(!prepared.birth.refused));
                let (unit, demands) = self.cell.admission(&prepared.job, &prepared.passed, &prepared.birth);
                units.push(unit);
                plans.push(Plan::Unit { demands });
            }
        }
        (plans, units)
    }

    /// Whether a submission may become a job, as far as memory knows.
    fn judge(&mut self, prepared: &Prepared, room: usize, now: Timestamp) -> Result<(), Problem> {
        let job = &prepared.job;
        if room == 0 {
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
            let demands = match plan {
                Plan::Refused(fate) => {
                    fates.push(fate);
                    continue;
                }
                Plan::Unit { demands } => demands,
            };
            let fate = admission::fate(answers.next().and_then(Option::as_ref), &demands);
            match fate {
                Fate::NotOwner => return Err(Left::Replaced),
                Fate::Admitted => {
                    self.cell.insert_new(prepared.job.clone(), prepared.class.clone(), now);
                    if let Some(input) = prepared.birth.input.as_ref().filter(|input| input.len() <= self.config.inline_bytes_max)
                    {
                        self.cell.keep_input(&prepared.job.id, input.clone());
                    }
                }
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
                    self.observer.answered(job.as_ref(), &verdict, received);
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
                    let settled = deliveries.into_iter().zip(&answers).map(|(delivery, answer)| (delivery, answer.settlement()));
                    effects.settle.extend(settled);
                }
                // A task that has gone has nobody to tell either.
                Origin::Task { done } => drop(done.send(answers)),
            }
        }
    }
}
