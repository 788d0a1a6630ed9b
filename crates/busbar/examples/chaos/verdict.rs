//! The verdict: what the load was told, what the log told and what the workers wrote down, side by side.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::faults::Counts;
use crate::ledger::Lists;
use crate::watch::{Jobs, Told};

/// What the workers wrote down: how often each job was started, and attempts that were started more than once.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    starts: BTreeMap<String, u64>,
    attempts: BTreeMap<(String, String), u64>,
}

impl Executions {
    /// Reads lines `<job> <attempt> start|end`; the last one may be cut off by a kill.
    pub(crate) fn read(text: &str) -> Self {
        let mut executions = Self::default();
        for line in text.lines() {
            if let [job, attempt, "start"] = line.split(' ').collect::<Vec<_>>()[..] {
                *executions.starts.entry(job.to_owned()).or_default() += 1;
                *executions.attempts.entry((job.to_owned(), attempt.to_owned())).or_default() += 1;
            }
        }
        executions
    }
}

/// What is left when everything rests. Displayed as a table.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) seed: u64,
    pub(crate) submitted: u64,
    pub(crate) acknowledged: u64,
    refused: BTreeMap<String, u64>,
    cancels: u64,
    ended: BTreeMap<String, u64>,
    /// Acknowledged jobs of which the log knows nothing.
    pub(crate) lost: Vec<String>,
    /// Jobs that ended more than once, and keys that stand for more than one job.
    pub(crate) duplicated: Vec<String>,
    /// Jobs without an end.
    pub(crate) stuck: Vec<String>,
    /// Slots that are taken though nothing is under way.
    pub(crate) slots_taken: u64,
    /// 1 if some of the log was not told on the bus.
    pub(crate) untold: u64,
    executions: u64,
    /// Executions beyond the first and those that failed because they were told to.
    extra: u64,
    /// Jobs that succeeded and were never executed.
    unexecuted: u64,
    /// Attempts that native workers executed more than once.
    repeated: u64,
    faults: Counts,
}

impl Verdict {
    pub(crate) fn new(seed: u64, lists: &Lists, jobs: &Jobs, executions: &Executions, faults: Counts) -> Self {
        let forgets = |id: &String| lists.acknowledged.get(id).is_some_and(|job| job.forgets);
        let mut verdict = Self {
            seed,
            submitted: lists.submitted,
            acknowledged: lists.acknowledged.len() as u64,
            refused: lists.refused.clone(),
            cancels: lists.cancels,
            executions: executions.starts.values().sum(),
            repeated: executions.attempts.iter().filter(|((id, _), count)| **count > 1 && !forgets(id)).count() as u64,
            lost: lists.acknowledged.keys().filter(|id| !jobs.contains_key(*id)).cloned().collect(),
            faults,
            ..Self::default()
        };
        for (id, told) in jobs {
            verdict.count(id, told, executions);
        }
        for (id, starts) in &executions.starts {
            let told_to_fail = lists.acknowledged.get(id).map_or(0, |job| u64::from(job.fails));
            verdict.extra += starts.saturating_sub(1 + told_to_fail);
        }
        let many = lists.keys.iter().filter(|(_, jobs)| jobs.len() > 1);
        verdict.duplicated.extend(many.map(|(key, jobs)| format!("key {key}: {jobs:?}")));
        verdict
    }

    fn count(&mut self, id: &str, told: &Told, executions: &Executions) {
        match told.ends[..] {
            [] => self.stuck.push(id.to_owned()),
            [end] => {
                let name = match told.error_code.as_str() {
                    "" => end.short_name().to_owned(),
                    code => format!("{} {code}", end.short_name()),
                };
                *self.ended.entry(name).or_default() += 1;
                if end == busbar_protocol::busbar::JobState::Succeeded && !executions.starts.contains_key(id) {
                    self.unexecuted += 1;
                }
            }
            _ => self.duplicated.push(format!("{id}: {:?}", told.ends)),
        }
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty()
            && self.duplicated.is_empty()
            && self.stuck.is_empty()
            && self.slots_taken == 0
            && self.untold == 0
            && self.unexecuted == 0
            && self.repeated == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<44}{value:>10}");
        row("seed", &self.seed)?;
        row("submitted", &self.submitted)?;
        row("acknowledged", &self.acknowledged)?;
        for (code, count) in &self.refused {
            row(&format!("refused {code}"), count)?;
        }
        row("cancellations asked", &self.cancels)?;
        for (end, count) in &self.ended {
            row(&format!("ended {end}"), count)?;
        }
        for ((kind, of), count) in &self.faults {
            row(&format!("faults: {kind} {of}"), count)?;
        }
        row("executions", &self.executions)?;
        row("extra executions", &self.extra)?;
        row("repeated by native workers (must be 0)", &self.repeated)?;
        row("succeeded without an execution (must be 0)", &self.unexecuted)?;
        row("slots still taken (must be 0)", &self.slots_taken)?;
        row("log not told on the bus (must be 0)", &self.untold)?;
        row("lost (must be 0)", &self.lost.len())?;
        row("duplicated (must be 0)", &self.duplicated.len())?;
        row("stuck (must be 0)", &self.stuck.len())?;
        let mut names = String::new();
        for (what, ids) in [("lost", &self.lost), ("duplicated", &self.duplicated), ("stuck", &self.stuck)] {
            for id in ids.iter().take(20) {
                writeln!(names, "{what}: {id}")?;
            }
        }
        f.write_str(&names)
    }
}
