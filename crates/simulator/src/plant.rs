//! Planted faults: mistakes that somebody could make in a scheduler or an engine, each of which a simulation must find.
//!
//! They live between the real shells and the models of their ports, so that no production code knows of them. What the shells are
//! told differs from what happened, or what happens differs from what they asked for.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// Changes of jobs are not fenced by the epoch.
    EpochUnguarded,
    /// A new job may overwrite one of the same name.
    JobOverwritten,
    /// A used idempotency key is no obstacle.
    KeyUsedTwice,
    /// A commit whose answer was lost is applied again.
    CommitRepeated,
    /// The end of a job is not written to the log.
    EndUnlogged,
    /// A job that has ended stays in the index of live jobs.
    LiveIndexLeft,
    /// A job that died leaves no dead letter.
    DeadLetterMissing,
    /// A dead letter is not told on the bus.
    DeadLetterUntold,
    /// The input of a live job may expire.
    InputNotKept,
    /// An output that comes with its result is written nowhere.
    OutputNotWritten,
    /// A dispatch takes along the input of another job.
    InputMistaken,
    /// The original of a redacted input goes along.
    RedactionUndone,
    /// The result of a CAP worker is not copied to where the record says that it is.
    ResultNotCopied,
    /// A submission is acknowledged before it is durable.
    AcknowledgedEarly,
    /// A submission leaves its stream before it is durable.
    SubmissionSettledEarly,
    /// A result leaves its stream before what follows from it is durable.
    ResultSettledEarly,
    /// A report is answered before what follows from it is durable.
    ReportAnsweredEarly,
    /// Commands go out before the commit from which they follow.
    SentBeforeCommit,
    /// A commit that the store did not answer is taken for done.
    CommitPresumed,
    /// A lease that was lost is believed to be held.
    LeaseKept,
    /// Taking over leaves out the last job of a page.
    TakeoverIncomplete,
    /// An attempt goes to two workers.
    DispatchDoubled,
    /// Workers are believed to take twice what they take.
    CapacityDoubled,
    /// A slot is free as soon as nobody waits for its attempt, whatever the worker still does.
    SlotFreedEarly,
    /// A result of an earlier attempt counts for the present one.
    ResultRelabelled,
    /// The relay goes on although nobody knows whether what it told has arrived.
    RelayUnproven,
    /// A cancellation is acknowledged and forgotten.
    CancelForgotten,
    /// Jobs get one attempt more than they may have.
    AttemptsRaised,
    /// A tenant gets one attempt at once more than it may have.
    TenantLimitRaised,
    /// A topic gets one attempt at once more than it may have.
    TopicLimitRaised,
    /// A concurrency key gets one attempt at once more than it may have.
    KeyLimitRaised,
    /// A tenant's jobs start faster than they may.
    TenantRateRaised,
    /// Jobs of a concurrency key start faster than they may.
    KeyRateRaised,
    /// A pause holds up something else than was named.
    PauseMistaken,
    /// A pause of a run is written down and forgotten.
    RunPauseForgotten,
    /// Jobs are sent although their time has not come.
    NotBeforeForgotten,
    /// Nobody knows which jobs belong to which.
    ChildrenSpared,
    /// A job may kill one worker more than its topic allows.
    CrashLimitRaised,
    /// One result counts where two must agree.
    QuorumLowered,
    /// Results count that nobody has checked.
    VerifierForgotten,
    /// A dead letter that was tried again may be tried again.
    RedrivenTwice,
    /// A dead letter that is thrown away stays.
    DiscardForgotten,
    /// A kernel that is away is taken for one that allows everything.
    DecisionPresumed,
    /// Changes of runs are not fenced by the epoch.
    EngineEpochUnguarded,
    /// A new run may overwrite one of the same name.
    RunOverwritten,
    /// The end of a run is not written to the log.
    RunEndUnlogged,
    /// A run that has ended stays in the index of live runs.
    LiveRunLeft,
}

impl Plant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::EpochUnguarded,
        Self::JobOverwritten,
        Self::KeyUsedTwice,
        Self::CommitRepeated,
        Self::EndUnlogged,
        Self::LiveIndexLeft,
        Self::DeadLetterMissing,
        Self::DeadLetterUntold,
        Self::InputNotKept,
        Self::OutputNotWritten,
        Self::InputMistaken,
        Self::RedactionUndone,
        Self::ResultNotCopied,
        Self::AcknowledgedEarly,
        Self::SubmissionSettledEarly,
        Self::ResultSettledEarly,
        Self::ReportAnsweredEarly,
        Self::SentBeforeCommit,
        Self::CommitPresumed,
        Self::LeaseKept,
        Self::TakeoverIncomplete,
        Self::DispatchDoubled,
        Self::CapacityDoubled,
        Self::SlotFreedEarly,
        Self::ResultRelabelled,
        Self::RelayUnproven,
        Self::CancelForgotten,
        Self::AttemptsRaised,
        Self::TenantLimitRaised,
        Self::TopicLimitRaised,
        Self::KeyLimitRaised,
        Self::TenantRateRaised,
        Self::KeyRateRaised,
        Self::PauseMistaken,
        Self::RunPauseForgotten,
        Self::NotBeforeForgotten,
        Self::ChildrenSpared,
        Self::CrashLimitRaised,
        Self::QuorumLowered,
        Self::VerifierForgotten,
        Self::RedrivenTwice,
        Self::DiscardForgotten,
        Self::DecisionPresumed,
        Self::EngineEpochUnguarded,
        Self::RunOverwritten,
        Self::RunEndUnlogged,
        Self::LiveRunLeft,
    ];

    /// What it is called on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EpochUnguarded => "epoch-unguarded",
            Self::JobOverwritten => "job-overwritten",
            Self::KeyUsedTwice => "key-used-twice",
            Self::CommitRepeated => "commit-repeated",
            Self::EndUnlogged => "end-unlogged",
            Self::LiveIndexLeft => "live-index-left",
            Self::DeadLetterMissing => "dead-letter-missing",
            Self::DeadLetterUntold => "dead-letter-untold",
            Self::InputNotKept => "input-not-kept",
            Self::OutputNotWritten => "output-not-written",
            Self::InputMistaken => "input-mistaken",
            Self::RedactionUndone => "redaction-undone",
            Self::ResultNotCopied => "result-not-copied",
            Self::AcknowledgedEarly => "acknowledged-early",
            Self::SubmissionSettledEarly => "submission-settled-early",
            Self::ResultSettledEarly => "result-settled-early",
            Self::ReportAnsweredEarly => "report-answered-early",
            Self::SentBeforeCommit => "sent-before-commit",
            Self::CommitPresumed => "commit-presumed",
            Self::LeaseKept => "lease-kept",
            Self::TakeoverIncomplete => "takeover-incomplete",
            Self::DispatchDoubled => "dispatch-doubled",
            Self::CapacityDoubled => "capacity-doubled",
            Self::SlotFreedEarly => "slot-freed-early",
            Self::ResultRelabelled => "result-relabelled",
            Self::RelayUnproven => "relay-unproven",
            Self::CancelForgotten => "cancel-forgotten",
            Self::AttemptsRaised => "attempts-raised",
            Self::TenantLimitRaised => "tenant-limit-raised",
            Self::TopicLimitRaised => "topic-limit-raised",
            Self::KeyLimitRaised => "key-limit-raised",
            Self::TenantRateRaised => "tenant-rate-raised",
            Self::KeyRateRaised => "key-rate-raised",
            Self::PauseMistaken => "pause-mistaken",
            Self::RunPauseForgotten => "run-pause-forgotten",
            Self::NotBeforeForgotten => "not-before-forgotten",
            Self::ChildrenSpared => "children-spared",
            Self::CrashLimitRaised => "crash-limit-raised",
            Self::QuorumLowered => "quorum-lowered",
            Self::VerifierForgotten => "verifier-forgotten",
            Self::RedrivenTwice => "redriven-twice",
            Self::DiscardForgotten => "discard-forgotten",
            Self::DecisionPresumed => "decision-presumed",
            Self::EngineEpochUnguarded => "engine-epoch-unguarded",
            Self::RunOverwritten => "run-overwritten",
            Self::RunEndUnlogged => "run-end-unlogged",
            Self::LiveRunLeft => "live-run-left",
        }
    }

    /// Whether it is a mistake of the workflow engine, not of the scheduler.
    #[must_use]
    pub const fn is_of_engine(self) -> bool {
        matches!(self, Self::EngineEpochUnguarded | Self::RunOverwritten | Self::RunEndUnlogged | Self::LiveRunLeft)
    }

    /// The one of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|plant| plant.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        assert_eq!(names.len(), Plant::ALL.len());
        assert!(Plant::ALL.iter().all(|plant| Plant::parse(plant.name()) == Some(*plant)));
    }
}
