//! Every subject of the bus, and the streams that capture some of them.

/// CAP: a submission straight onto the bus.
pub const SUBMIT: &str = "sys.job.submit";
/// CAP: what a worker says of an attempt that ended, and what we say of jobs that we ended ourselves.
pub const RESULT: &str = "sys.job.result";
/// CAP: progress of an attempt.
pub const PROGRESS: &str = "sys.job.progress";
/// CAP: cancellation, to every worker.
pub const CANCEL: &str = "sys.job.cancel";
/// CAP: dead letters.
pub const DEAD_LETTER: &str = "sys.job.dlq";
/// CAP: heartbeats of workers.
pub const HEARTBEAT: &str = "sys.heartbeat";
/// CAP: a worker announces itself.
pub const HANDSHAKE: &str = "sys.handshake";
/// CAP: a worker asks for a challenge, to prove that it holds an enrolled key.
pub const TRUST_CHALLENGE: &str = "sys.worker.handshake.challenge";
/// CAP: a worker answers its challenge.
pub const TRUST_AUTHENTICATE: &str = "sys.worker.handshake.authenticate";
/// CAP: alerts.
pub const ALERT: &str = "sys.alert";

/// Ours: submit many jobs; the reply is the acknowledgement.
pub const ADMIT: &str = "busbar.scheduler.admit";
/// Ours: cancel jobs.
pub const SCHEDULER_CANCEL: &str = "busbar.scheduler.cancel";
/// Ours: live jobs.
pub const SCHEDULER_LIST: &str = "busbar.scheduler.list";
/// Ours: workers, and the scheduler itself.
pub const SCHEDULER_WORKERS: &str = "busbar.scheduler.workers";
/// Ours: pause and resume pools, topics, tenants, keys, workers and runs.
pub const SCHEDULER_PAUSE: &str = "busbar.scheduler.pause";
/// Ours: let workers finish what they hold and give them nothing new.
pub const SCHEDULER_DRAIN: &str = "busbar.scheduler.drain";
/// Ours: try dead letters again.
pub const SCHEDULER_REDRIVE: &str = "busbar.scheduler.redrive";
/// Ours: enrol and revoke the keys of workers.
pub const SCHEDULER_ENROL: &str = "busbar.scheduler.enrol";
/// Ours: why a job is where it is.
pub const SCHEDULER_EXPLAIN: &str = "busbar.scheduler.explain";
/// Ours: the attempts that a native worker holds.
pub const BEAT: &str = "busbar.worker.beat";
/// Ours: how attempts of native workers ended, many in one message; the reply says that it is committed.
pub const REPORT: &str = "busbar.worker.report";
/// Ours: whoever becomes the active scheduler asks all native workers to beat soon.
pub const CALL: &str = "busbar.worker.call";
/// Ours: committed transitions in batches.
pub const JOB_EVENT: &str = "busbar.job.event";
/// Ours: save a workflow.
pub const ENGINE_DEFINE: &str = "busbar.engine.define";
/// Ours: take a workflow away.
pub const ENGINE_REMOVE: &str = "busbar.engine.remove";
/// Ours: start a run.
pub const ENGINE_START: &str = "busbar.engine.start";
/// Ours: cancel a run.
pub const ENGINE_CANCEL: &str = "busbar.engine.cancel";
/// Asks for a run to start nothing more for now.
pub const ENGINE_PAUSE: &str = "busbar.engine.pause";
/// Asks for a paused run to go on.
pub const ENGINE_RESUME: &str = "busbar.engine.resume";
/// Ours: the engine itself.
pub const ENGINE_STATUS: &str = "busbar.engine.status";
/// Everything that the engine is asked.
pub const ENGINE_QUESTIONS: [&str; 7] =
    [ENGINE_DEFINE, ENGINE_REMOVE, ENGINE_START, ENGINE_CANCEL, ENGINE_PAUSE, ENGINE_RESUME, ENGINE_STATUS];
/// Ours: committed changes of runs in batches.
pub const RUN_EVENT: &str = "busbar.run.event";
/// Ours: a document changed.
pub const CONFIG_CHANGED: &str = "busbar.config.changed";
/// Ours: publish a policy bundle.
pub const KERNEL_PUBLISH: &str = "busbar.kernel.publish";
/// Ours: the kernel decides under a new snapshot.
pub const KERNEL_SNAPSHOT: &str = "busbar.kernel.snapshot";

/// The queue group of everything that one scheduler of a cell must get.
pub const SCHEDULER_QUEUE: &str = "cordum-scheduler";

/// The queue group of everything that one workflow engine of a cell must get.
pub const ENGINE_QUEUE: &str = "busbar-workflow-engine";

/// What the scheduler calls itself in `sender_id`.
pub const SCHEDULER_SENDER: &str = "busbar-scheduler";
/// What the gateway calls itself in `sender_id`.
pub const GATEWAY_SENDER: &str = "busbar-gateway";

/// Where one worker gets its jobs.
#[must_use]
pub fn worker_jobs(worker_id: &str) -> String {
    format!("worker.{worker_id}.jobs")
}

/// Ours: where a native worker gets many jobs in one message, if its beats say so.
#[must_use]
pub fn worker_batches(worker_id: &str) -> String {
    format!("busbar.worker.jobs.{worker_id}")
}

/// Whether a worker id can stand in a subject as one token; one that cannot is reached through its topics only.
#[must_use]
pub fn is_addressable(worker_id: &str) -> bool {
    !worker_id.is_empty()
        && worker_id.len() <= crate::ids::ID_BYTES_MAX
        && worker_id.bytes().all(|b| b.is_ascii_graphic() && !b".*>".contains(&b))
}

/// Whether a topic is a plain subject below `job.`: tokens of letters, digits, `_` and `-`, no wildcard.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    topic.len() <= 255
        && topic.strip_prefix("job.").is_some_and(|rest| {
            rest.split('.')
                .all(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
        })
}

/// A JetStream stream of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Submissions from bus clients: a work queue for the scheduler.
    Submissions,
    /// Results from workers: a work queue for the scheduler.
    Results,
    /// Handshakes, kept for seven days because a worker sends its own only once.
    Handshakes,
    /// Copies of dead letters.
    DeadLetters,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Submissions, Self::Results, Self::Handshakes, Self::DeadLetters];

    /// Its name on the server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submissions => "BUSBAR_SUBMISSIONS",
            Self::Results => "BUSBAR_RESULTS",
            Self::Handshakes => "BUSBAR_HANDSHAKES",
            Self::DeadLetters => "BUSBAR_DEAD_LETTERS",
        }
    }

    /// The one subject that it captures.
    #[must_use]
    pub const fn subject(self) -> &'static str {
        match self {
            Self::Submissions => SUBMIT,
            Self::Results => RESULT,
            Self::Handshakes => HANDSHAKE,
            Self::DeadLetters => DEAD_LETTER,
        }
    }

    /// Whether a message leaves the stream when it is acknowledged.
    #[must_use]
    pub const fn is_work_queue(self) -> bool {
        match self {
            Self::Submissions | Self::Results => true,
            Self::Handshakes | Self::DeadLetters => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_plain_subjects_below_job() {
        for good in ["job.echo", "job.bpsw.main_odds", "job.a-b.C_9"] {
            assert!(is_topic(good), "{good}");
        }
        for bad in ["job", "job.", "job..a", "job.*", "job.>", "sys.job.submit", "job.a b", "job.ä"] {
            assert!(!is_topic(bad), "{bad}");
        }
    }

    #[test]
    fn worker_ids_that_are_no_single_token_are_not_addressable() {
        assert!(is_addressable("worker-1"));
        for bad in ["", "a.b", "a b", "*", ">"] {
            assert!(!is_addressable(bad), "{bad:?}");
        }
    }
}
