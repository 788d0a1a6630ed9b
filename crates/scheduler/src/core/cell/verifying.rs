//! Results that are checked before they count.
//!
//! ```text
//!  <job>.r3  SUCCEEDED ──▶ <job>.v3, a job of the verifier's topic ──▶ proven: it is the job's result
//!                                                                 ├──▶ plausible: a voice, compared by the form that the verifier gave it
//!                                                                 ├──▶ wrong: no voice, and its owner is found wrong
//!                                                                 └──▶ no word: no voice, as if the replica were lost
//! ```
//!
//! What checks a result is a job like any other, submitted by the scheduler itself: policy, limits, retries and time limits are those of the
//! verifier's topic. What it says stands in its record, so that a takeover finds it by its name.

use busbar_protocol::busbar::Judgement;
use busbar_protocol::ids::JobId;

use super::super::job::{Job, Outcome};
use super::super::quorum::vote::Word;
use super::Cell;
use super::replicating::parent_of;

/// What is known of the check of a replica's result.
#[derive(Clone, Debug, Default)]
pub(super) enum Check {
    /// Nobody was asked.
    #[default]
    Unasked,
    /// Whoever was asked has not answered.
    Asked,
    /// The verifier's word.
    Done {
        judgement: Judgement,
        /// SHA-256 of the form in which the result is compared, where the verifier gave one.
        canonical: Option<[u8; 32]>,
    },
    /// It ended without a word: perhaps because of this result.
    Failed,
    /// It was not even begun, which is no replica's fault: no other one would fare better.
    Refused { why: String },
}

/// A result that must be checked.
#[derive(Clone, Debug)]
pub struct Unchecked {
    /// The job whose result it may become.
    pub parent: Job,
    /// The number of the replica that has it.
    pub replica: u32,
}

impl Check {
    /// What was found out by a job that checks.
    fn of(job: &Job) -> Self {
        match job.end() {
            None => Self::Asked,
            Some(end) if end.outcome == Outcome::Denied => Self::Refused { why: format!("{}: {}", end.code, end.message) },
            Some(end) => match end.result.as_ref().map(|place| (place.judgement, &place.compared)) {
                None | Some((Judgement::Unspecified, _)) => Self::Failed,
                Some((judgement, compared)) => Self::Done { judgement, canonical: <[u8; 32]>::try_from(&compared[..]).ok() },
            },
        }
    }

    /// What a result counts for, given its own digest.
    pub(super) fn word(&self, own: [u8; 32]) -> Word {
        match self {
            Self::Unasked | Self::Asked => Word::Awaited,
            Self::Failed | Self::Refused { .. } => Word::Lost,
            Self::Done { judgement, canonical } => match (judgement, canonical.unwrap_or(own)) {
                (Judgement::Proven, digest) => Word::Proven(digest),
                (Judgement::Plausible, digest) => Word::Said(digest),
                (Judgement::Wrong, _) => Word::Disproven(own),
                (Judgement::Unspecified, _) => Word::Lost,
            },
        }
    }
}

impl Cell {
    /// Results that must be checked.
    pub fn take_unchecked(&mut self) -> Vec<Unchecked> {
        let unchecked = std::mem::take(&mut self.replication.unchecked);
        let parent = |(id, replica)| self.job(&id).map(|job| Unchecked { parent: job.clone(), replica });
        unchecked.into_iter().filter_map(parent).collect()
    }

    /// Whether a job that checks the result of a replica is still waited for.
    #[must_use]
    pub fn awaits_check(&self, job: &Job) -> bool {
        parent_of(job).is_some_and(|parent| self.has_check_out(&parent, job.verifies))
    }

    /// Whether the result of a job's replica is waiting for a check.
    #[must_use]
    pub fn has_check_out(&self, parent: &JobId, replica: u32) -> bool {
        let group = self.replication.groups.get(parent);
        group.and_then(|group| group.replicas.get(&replica)).is_some_and(|replica| matches!(replica.check, Check::Asked))
    }

    /// A result cannot be checked, for a reason that holds for all of them.
    pub fn check_refused(&mut self, parent: &JobId, replica: u32, why: String) {
        if self.has_check_out(parent, replica) {
            self.know(parent, replica, Check::Refused { why });
        }
    }

    /// A job that checks a result has come, or its end is durable.
    pub(super) fn see_check(&mut self, job: &Job) {
        if let Some(parent) = parent_of(job) {
            self.know(&parent, job.verifies, Check::of(job));
        }
    }

    /// Under the name of what would check a replica's result stands something else.
    pub(super) fn see_stranger(&mut self, parent: &JobId, replica: u32) {
        self.know(parent, replica, Check::Refused { why: "another job has the name of the one that would check it".to_owned() });
    }

    fn know(&mut self, parent: &JobId, replica: u32, check: Check) {
        let Some(group) = self.replication.groups.get_mut(parent) else { return };
        let known = &mut group.replicas.entry(replica).or_default().check;
        // What has come to its end stays so: a record that was read before may be told after.
        if matches!(known, Check::Unasked | Check::Asked) {
            *known = check;
            self.replication.heard.insert(parent.clone());
        }
    }

    /// Has those results of a job checked that nobody was asked about.
    pub(super) fn ask_for_checks(&mut self, parent: &JobId) {
        let Some(group) = self.replication.groups.get_mut(parent).filter(|group| group.is_whole && group.is_checked) else {
            return;
        };
        for (number, replica) in &mut group.replicas {
            let has_result = replica.end.as_ref().is_some_and(|end| end.outcome == Outcome::Succeeded);
            if has_result && matches!(replica.check, Check::Unasked) {
                replica.check = Check::Asked;
                self.replication.unchecked.push((parent.clone(), *number));
            }
        }
    }
}
