//! What workers say, and what their silence means.

use std::sync::Arc;

use busbar_protocol::busbar::WorkerBeat;
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use super::super::roll::Listed;
use super::super::transition::{Command, Event, Rejected, Report, Reported};
use super::super::trust::Bindings;
use super::super::workers::{AttemptKey, Heard, Silence};
use super::placing::{Alarm, REST};
use super::{Cell, LISTEN_EVERY, Order, SWEEP_EVERY};

impl Cell {
    /// A worker has said how an attempt ended. `attempt` is the one that it means, where that is known.
    ///
    /// # Errors
    /// [`Rejected`] says why the job does not change. The slot is free all the same.
    pub fn report(&mut self, id: &JobId, report: &Report, now: Timestamp) -> Result<(), Rejected> {
        if let Some(attempt) = report.attempt {
            self.workers.free(&report.worker_id, &(id.clone(), attempt));
        }
        let charge = self.jobs.get(id).map(|entry| entry.charge.clone());
        let worker_id = self.job(id).and_then(super::Job::hold).map(|hold| hold.worker_id.clone());
        self.apply(id, &Event::Reported(report.clone()), now)?;
        let (Some(charge), Some(worker_id)) = (charge, worker_id) else { return Ok(()) };
        match &report.outcome {
            Reported::RateLimited { message } => self.slow_down(&charge, &worker_id, message, now),
            Reported::Succeeded(_) | Reported::Failed { .. } => {
                if let Ok(millis) = u64::try_from(report.execution_ms) {
                    self.flow.took(&charge.topic, millis);
                }
            }
            Reported::Retryable { .. } | Reported::Cancelled => {}
        }
        Ok(())
    }

    /// A native worker's beat.
    pub fn beat(&mut self, beat: &WorkerBeat, now: Timestamp) {
        let heard = self.workers.beat(beat, now);
        self.hear(&beat.worker_id, heard, now);
    }

    /// An announced worker's heartbeat.
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Timestamp) {
        self.workers.heartbeat(beat, now);
    }

    /// A worker's announcement.
    pub fn handshake(&mut self, shake: &Handshake, sent: Timestamp, now: Timestamp) {
        let heard = self.workers.handshake(shake, sent, now);
        self.hear(&shake.component_id, heard, now);
    }

    /// These workers get jobs of one tenant alone, signed for them. Whether the jobs that are here were sorted for that: with the first
    /// such worker, and without the last, they must be read again.
    #[must_use]
    pub fn bind(&mut self, bindings: Bindings) -> bool {
        let sorted = self.bindings.is_empty() == bindings.is_empty();
        if self.bindings != bindings {
            self.bindings = bindings;
            self.open_everything();
        }
        sorted || self.live.values().all(|count| *count == 0)
    }

    /// The tenant that a worker is bound to, if it is.
    #[must_use]
    pub fn tenant_of(&self, worker_id: &str) -> Option<&str> {
        self.bindings.get(worker_id).map(String::as_str)
    }

    /// An announced worker is not believed any more: what it holds is lost at once, and it gets nothing before it is believed again.
    pub fn distrust(&mut self, worker_id: &str, now: Timestamp) {
        let lost = self.workers.lose(worker_id);
        self.attempts_over(lost, Code::WorkerLost, || format!("the key of worker {worker_id} was revoked"), now);
    }

    /// Nobody heard a dispatch: the attempt did not happen. Of a queue group, the topic rests a little; a worker is given nothing
    /// more before it is heard again.
    pub fn nobody_there(&mut self, id: &JobId, attempt: u32, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let worker_id = entry.job.hold().map(|hold| hold.worker_id.clone()).unwrap_or_default();
        let message = if worker_id.is_empty() {
            let topic = Arc::clone(&entry.charge.topic);
            let until = now.after(REST);
            self.resting.insert(Arc::clone(&topic), until);
            self.alarms.insert((until, Alarm::Rested(topic)));
            "nobody listens on the topic".to_owned()
        } else if self.workers.never_came(&worker_id, &(id.clone(), attempt)) {
            format!("worker {worker_id} does not listen any more")
        } else {
            return;
        };
        let event = Event::AttemptOver { attempt, code: Code::WorkerUnreachable, message, unreached: true };
        let _ = self.apply(id, &event, now);
    }

    /// Nobody heard a message of several attempts.
    pub fn nobody_took(&mut self, worker_id: &str, attempts: &[AttemptKey], now: Timestamp) {
        self.workers.hears_no_batches(worker_id);
        attempts.iter().for_each(|(id, attempt)| self.nobody_there(id, *attempt, now));
    }

    /// The bus was away and is there again; workers that only hear it may not be.
    pub fn bus_returned(&mut self) {
        self.workers.bus_returned();
    }

    /// Lets time pass: timers of jobs, gates that open by themselves, silence of workers. `heard_since` is when the bus could last
    /// be heard.
    pub fn pass_time(&mut self, heard_since: Timestamp, now: Timestamp) {
        while let Some(((at, seat), ())) = self.timers.first().filter(|((at, _), ())| *at <= now) {
            self.timers.remove((at, seat));
            let id = match self.roll.at(seat) {
                Some(Listed::Whole(id)) => id.clone(),
                Some(Listed::Shelved(_)) => {
                    self.wanted.insert(seat);
                    continue;
                }
                None => continue,
            };
            if let Some(entry) = self.jobs.get_mut(&id) {
                entry.timer = None;
            }
            if self.apply(&id, &Event::Tick, now).is_err() {
                self.write_running(&id, now);
                self.reindex(&id, now);
            }
        }
        self.ring(now);
        self.judge_replicas(now);
        self.supersede(now);
        self.cancel_children(now);
        // Looking at every worker in every turn would cost more than the turn; nobody's patience is that short.
        if now.since(self.listened) >= LISTEN_EVERY || now < self.listened {
            self.listened = now;
            let silence = self.workers.silence(&self.settings.patience, heard_since, now);
            self.notice(silence, now);
        }
        if now.since(self.swept) >= SWEEP_EVERY {
            self.sweep(now);
        }
    }

    /// Ends jobs in favour of newer ones of their key.
    fn supersede(&mut self, now: Timestamp) {
        for (older, newer) in std::mem::take(&mut self.superseded) {
            let event = Event::CancelAsked {
                attempt: 0,
                reason: format!("the job {newer} came with the same concurrency key"),
                requested_by: subjects::SCHEDULER_SENDER.to_owned(),
                code: Code::Superseded,
            };
            let _ = self.apply(&older, &event, now);
        }
    }

    /// Forgets what need not be remembered.
    fn sweep(&mut self, now: Timestamp) {
        self.swept = now;
        self.flow.sweep(now);
        self.family.sweep(now);
        self.lines.retain(|line| Arc::strong_count(line) > 1);
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    fn hear(&mut self, worker_id: &str, heard: Heard, now: Timestamp) {
        let died = || format!("worker {worker_id} restarted");
        self.attempts_over(heard.lost, Code::WorkerLost, died, now);
        let left = || format!("worker {worker_id} left");
        self.attempts_over(heard.left, Code::WorkerLeft, left, now);
        for (id, attempt) in heard.evidence {
            let _ = self.apply(&id, &Event::Evidence { attempt, percent: None }, now);
        }
        for (id, attempt) in heard.unwanted {
            let command = Command::Stop {
                attempt,
                reason: "the attempt is over".to_owned(),
                requested_by: subjects::SCHEDULER_SENDER.to_owned(),
            };
            self.orders.push(Order { job: id, command, worker_id: worker_id.to_owned() });
        }
    }

    fn attempts_over(&mut self, attempts: Vec<AttemptKey>, code: Code, message: impl Fn() -> String, now: Timestamp) {
        for (id, attempt) in attempts {
            let _ = self.apply(&id, &Event::AttemptOver { attempt, code, message: message(), unreached: false }, now);
        }
    }

    fn notice(&mut self, silence: Silence, now: Timestamp) {
        let ends = [
            (silence.lost, Code::WorkerLost, "was not heard any more"),
            (silence.forgotten, Code::WorkerLost, "says that it executes nothing"),
            (silence.left, Code::WorkerLeft, "left"),
            (silence.unreachable, Code::WorkerUnreachable, "never took the attempt"),
        ];
        for (attempts, code, why) in ends {
            for (attempt, worker_id) in attempts {
                self.attempts_over(vec![attempt], code, || format!("worker {worker_id} {why}"), now);
            }
        }
        for ((id, attempt), worker_id) in silence.resend {
            self.orders.push(Order { job: id, command: Command::Dispatch { attempt }, worker_id });
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{JobDecision, TopicDocument};
    use busbar_rules::topics::TopicTable;

    use super::super::{Beginning, Settings, State};
    use super::*;
    use crate::core::job::Job;
    use crate::core::line::Class;

    const TENANTS: u32 = 5_000;

    fn job_of(tenant: u32, now: Timestamp) -> Job {
        let id = JobId::parse(format!("j{tenant}")).expect("a good id");
        Job {
            tenant_id: format!("tenant-{tenant}"),
            topic: "job.a".to_owned(),
            created: now,
            updated: now,
            decision: Some(JobDecision::default()),
            ..Job::new(id, State::Scheduled { since: now, not_before: now })
        }
    }

    /// Places, ends what was placed, and takes it out of the cell; how many these were.
    fn turn(cell: &mut Cell, now: Timestamp) -> usize {
        cell.place(512, now);
        let commit = |cell: &mut Cell| {
            for (id, _) in cell.take_units() {
                cell.committed(&id, now);
            }
        };
        commit(cell);
        let orders = cell.take_orders();
        for order in &orders {
            let Command::Dispatch { attempt } = order.command else { continue };
            let (worker_id, outcome) = (order.worker_id.clone(), Reported::Succeeded(None));
            let report = Report { attempt: Some(attempt), worker_id, outcome, execution_ms: 1 };
            cell.report(&order.job, &report, now).expect("it counts");
        }
        commit(cell);
        orders.len()
    }

    #[test]
    fn of_very_many_tiny_tenants_nothing_stays() {
        let mut now = Timestamp::from_millis(1_000_000);
        let document = TopicDocument { topic: "job.>".to_owned(), pools: vec!["p".to_owned()], ..TopicDocument::default() };
        let topics = TopicTable::new([document]).expect("a good document");
        let mut cell = Cell::new(Settings::default(), Beginning { topics, now, ..Beginning::default() });
        let (worker_id, incarnation) = ("w".to_owned(), "i".to_owned());
        let beat = WorkerBeat { worker_id, incarnation, pool: "p".to_owned(), capacity: 100, ..WorkerBeat::default() };
        cell.beat(&beat, now);
        let class = Arc::new(Class { topic: "job.a".to_owned(), ..Class::default() });
        for tenant in 0..TENANTS {
            cell.insert(job_of(tenant, now), 1, Arc::clone(&class), now);
        }
        let mut done = 0;
        while done < TENANTS as usize {
            let placed = turn(&mut cell, now);
            assert!(placed > 0, "{done} of {TENANTS} went");
            done += placed;
        }
        // One tenant goes on, and with it the market, which looks through its tenants the less often the more there are.
        for _ in 0..20 {
            now = now.after(SWEEP_EVERY);
            cell.beat(&WorkerBeat { sequence: now.millis(), ..beat.clone() }, now);
            for number in 0..TENANTS / 10 {
                cell.insert(
                    Job { id: JobId::parse(format!("k{number}")).expect("a good id"), ..job_of(0, now) },
                    1,
                    Arc::clone(&class),
                    now,
                );
            }
            while turn(&mut cell, now) > 0 {}
            cell.pass_time(now, now);
        }
        assert!(cell.is_empty());
        assert!(cell.names.len() <= 4 && cell.lines.len() <= 1, "{} names, {} lines", cell.names.len(), cell.lines.len());
    }
}
