//! The commit of a turn, and what those are told whose submissions were in it.

use std::time::Instant;

use busbar_protocol::busbar::{AdmitReply, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Answer, Bus, Clock, CommitClass, Judge, Records, Unit, Write, commit_all};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use super::{Left, Term};
use crate::admission::{self, Fate, Verdict};
use crate::core::cell::Delivered;
use crate::core::commit::Demand;
use crate::input::{Admit, Origin};
use crate::intake::{self, Prepared};
use crate::tasks;

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

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    /// Commits the turn: new jobs and changes of old ones, both in flight at once.
    pub(super) async fn commit(&mut self, now: Timestamp) -> Result<(), Left> {
        let mut admits = std::mem::take(&mut self.admits);
        let (plans, units) = self.plan_admissions(&mut admits, now);
        let births = self.cell.take_births();
        let (ids, mut advances): (Vec<JobId>, Vec<Unit>) = self.cell.take_units().into_iter().unzip();
        advances.extend(self.cell.take_holds_unit());
        advances.extend(self.cell.take_credits_unit(now));
        advances.extend(births.iter().map(|birth| birth.unit.clone()));
        if units.is_empty() && advances.is_empty() {
            let fates = plans.into_iter().filter_map(|plan| if let Plan::Refused(fate) = plan { Some(fate) } else { None });
            self.answer_admits(admits, fates.collect());
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
        for Delivered { job, class, .. } in births {
            self.cell.insert(job, 1, class, now);
        }
        for id in &ids {
            self.cell.committed(id, now);
        }
        let fates = self.take_in(&admits, plans, &admitted.map_err(|_| Left::Reload)?, now)?;
        self.answer_admits(admits, fates);
        self.relay_wake.notify_one();
        Ok(())
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
        if job.verifies > 0
            && !JobId::parse(job.parent_job_id.clone()).is_ok_and(|parent| self.cell.has_check_out(&parent, job.verifies))
        {
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
                    self.cell.insert(prepared.job.clone(), 1, prepared.class.clone(), now);
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
    fn answer_admits(&mut self, admits: Vec<Admit>, fates: Vec<Fate>) {
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
                    self.replies.push((reply, AdmitReply { answers, problem: None }.encode_to_vec()));
                }
                Origin::Queue { deliveries } => {
                    let settled = deliveries.into_iter().zip(&answers).map(|(delivery, answer)| (delivery, answer.settlement()));
                    self.settle.extend(settled);
                }
                // A task that has gone has nobody to tell either.
                Origin::Task { done } => drop(done.send(answers)),
            }
        }
    }
}
