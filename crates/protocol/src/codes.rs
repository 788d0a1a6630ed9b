//! Error codes: one closed list, lower_snake, each with a page in `docs/errors/`.

macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Why something was refused, or did not succeed. The text form is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$meta])* $name,)* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status of a refusal with this code (RFC 9110).
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The page about this code: what it means and what to do.
            #[must_use]
            pub const fn page(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("../../../docs/errors/", $text, ".md")),)* }
            }
        }
    };
}

codes! {
    /// No topic document matches the topic of the submission.
    UnknownTopic = "unknown_topic", 422;
    /// The topic is not a plain subject below `job.`: tokens of letters, digits, `_` and `-`, joined by dots.
    TopicInvalid = "topic_invalid", 422;
    /// The body of the request is not the JSON object that the endpoint takes.
    BodyInvalid = "body_invalid", 400;
    /// A member of the request has a value that is not allowed.
    FieldInvalid = "field_invalid", 422;
    /// The input does not satisfy the JSON Schema of the topic.
    InputInvalid = "input_invalid", 422;
    /// The body, or the input of one job, is larger than is taken: 64 MiB a body, 1 MiB an input.
    PayloadTooLarge = "payload_too_large", 413;
    /// The submission sets an environment entry that begins with `BUSBAR_`.
    EnvReserved = "env_reserved", 422;
    /// The identifier does not begin with a letter or digit, holds other characters than letters, digits and `:._@-[]`, or is longer than 128.
    JobIdInvalid = "job_id_invalid", 422;
    /// A job with this identifier exists already, submitted by somebody else or with another content.
    JobDuplicate = "job_duplicate", 409;
    /// A message on the bus is not a CAP packet, or breaks a rule of the CAP envelope.
    PacketMalformed = "packet_malformed", 400;
    /// A packet names a protocol version other than 1.
    PacketVersion = "packet_version", 400;
    /// A CAP worker without a live session of the trust handshake spoke, and workers must have one.
    SessionRequired = "session_required", 401;
    /// A CAP packet is not signed, and must be.
    SignatureMissing = "signature_missing", 401;
    /// A CAP packet is signed by no enrolled key of its sender.
    SignatureInvalid = "signature_invalid", 401;
    /// A step of the trust handshake was refused.
    HandshakeRefused = "handshake_refused", 401;
    /// One message or call holds more items than are taken at once.
    BatchTooLarge = "batch_too_large", 413;
    /// No scheduler answered within five seconds.
    SchedulerUnavailable = "scheduler_unavailable", 503;
    /// The safety kernel did not answer, so nothing was decided.
    KernelUnavailable = "kernel_unavailable", 503;
    /// Redis did not answer in time.
    StoreUnavailable = "store_unavailable", 503;
    /// NATS did not answer in time.
    BusUnavailable = "bus_unavailable", 503;
    /// The gateway has no place for one more call of this kind, or is ending.
    GatewayBusy = "gateway_busy", 503;
    /// Redis is near its memory limit, so that no new work is taken.
    MemoryShort = "memory_short", 503;
    /// As many jobs wait as the cell, the tenant or the topic may have waiting.
    BacklogFull = "backlog_full", 429;
    /// Submissions come faster than the tenant or the topic may send them.
    RateExceeded = "rate_exceeded", 429;
    /// The concurrency key has no room, and its topic refuses jobs then.
    KeyBusy = "key_busy", 409;
    /// The idempotency key is taken, and the submission asked to be refused then.
    IdempotencyKeyUsed = "idempotency_key_used", 409;
    /// The job that the submission names as its parent was cancelled.
    ParentCancelled = "parent_cancelled", 409;
    /// The request carries no API key.
    Unauthenticated = "unauthenticated", 401;
    /// The API key is not known here.
    KeyUnknown = "key_unknown", 401;
    /// The key does not have the role that the call needs.
    Forbidden = "forbidden", 403;
    /// There is nothing at this path.
    NotFound = "not_found", 404;
    /// The path exists, but not for this method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// No job with this identifier is known, or it belongs to another tenant, or it has expired.
    JobNotFound = "job_not_found", 404;
    /// No artifact with this identifier is known, or it belongs to another tenant.
    ArtifactNotFound = "artifact_not_found", 404;
    /// The document was changed since the revision that the request names.
    RevisionChanged = "revision_changed", 412;
    /// The cursor was not made by this service.
    CursorInvalid = "cursor_invalid", 400;
    /// A message on the live stream is not one that a client may send.
    FrameInvalid = "frame_invalid", 400;
    /// As many clients follow the live stream as may at a time.
    StreamFull = "stream_full", 503;
    /// The job has ended already, so that the call has nothing to change.
    JobTerminal = "job_terminal", 409;
    /// The policy denies the job.
    SafetyDenied = "safety_denied", 403;
    /// The topic is served by no pool, or by none that satisfies what the job requires.
    NoPool = "no_pool", 422;
    /// The payload that the job points to is gone.
    PayloadMissing = "payload_missing", 410;
    /// A pointer is malformed, or leaves the names that belong to the job.
    PointerInvalid = "pointer_invalid", 422;
    /// The worker that held the attempt has vanished: no sign of life within its timeout, or it restarted.
    WorkerLost = "worker_lost", 500;
    /// The worker that held the attempt ended in good order without finishing it.
    WorkerLeft = "worker_left", 500;
    /// Too many workers died with this job in their hands; it is not tried again by itself.
    JobQuarantined = "job_quarantined", 500;
    /// Its replicas came to different results, or to none, and too few of them agree.
    QuorumNotReached = "quorum_not_reached", 500;
    /// The worker said that what the job needs takes nothing more for a while.
    RateLimited = "rate_limited", 429;
    /// The attempt reported nothing for longer than its topic allows.
    HeartbeatTimeout = "heartbeat_timeout", 504;
    /// The attempt was sent, but no worker accepted it.
    WorkerUnreachable = "worker_unreachable", 500;
    /// The job waited longer for a worker than its topic allows.
    ScheduleToStartTimeout = "schedule_to_start_timeout", 504;
    /// One attempt took longer than its topic allows.
    StartToCloseTimeout = "start_to_close_timeout", 504;
    /// The job did not end within its deadline, counted from admission.
    DeadlineExceeded = "deadline_exceeded", 504;
    /// The job was cancelled.
    Cancelled = "cancelled", 409;
    /// The job was cancelled in favour of a newer one with the same concurrency key.
    Superseded = "superseded", 409;
    /// No dead letter of this job is known, or it belongs to another tenant, or it has expired.
    DeadLetterNotFound = "dead_letter_not_found", 404;
    /// The dead letter was tried again already, as another job.
    DeadLetterRedriven = "dead_letter_redriven", 409;
    /// The worker said that the attempt failed and may be tried again.
    AttemptFailed = "attempt_failed", 500;
    /// The worker's handler reported an error.
    HandlerFailed = "handler_failed", 500;
    /// The result does not satisfy the JSON Schema of the topic.
    OutputInvalid = "output_invalid", 500;
    /// The result is larger than a result may be.
    ResultTooLarge = "result_too_large", 500;
    /// The wasm guest ended with an exit code other than 0 and 75.
    GuestExit = "guest_exit", 500;
    /// The wasm guest trapped: it did something that WebAssembly forbids, such as reading outside its memory or dividing by zero.
    GuestTrap = "guest_trap", 500;
    /// What the guest wrote to stdout is not one JSON value.
    GuestOutputInvalid = "guest_output_invalid", 500;
    /// The guest wanted more memory than its limit.
    LimitMemory = "limit_memory", 500;
    /// The guest used more CPU time than its limit.
    LimitCpu = "limit_cpu", 500;
    /// The guest ran longer than its limit.
    LimitWall = "limit_wall", 500;
    /// The guest wrote more output than its limit.
    LimitOutput = "limit_output", 500;
    /// The guest wanted larger tables than its limit.
    LimitTables = "limit_tables", 500;
    /// The guest's calls were nested deeper than the stack that the worker gives.
    LimitStack = "limit_stack", 500;
    /// The guest held more open files and folders than its limit.
    LimitHandles = "limit_handles", 500;
    /// The guest drew more random bytes than its limit.
    LimitRandom = "limit_random", 500;
    /// The guest ran more instructions than its limit.
    LimitFuel = "limit_fuel", 500;
    /// The module could not be compiled within the time or the size that the worker allows.
    LimitCompile = "limit_compile", 500;
    /// The guest imports functions that the limits of its job do not allow.
    ImportDenied = "import_denied", 500;
    /// The wasm module that the topic names is not in the blob store.
    ModuleMissing = "module_missing", 500;
    /// The wasm module cannot be compiled, or imports what guests may not have.
    ModuleInvalid = "module_invalid", 500;
    /// The bytes of the module are not those that its digest names.
    ModuleDigestMismatch = "module_digest_mismatch", 500;
    /// An artifact that the input names could not be read, or is not what its record says.
    ArtifactUnavailable = "artifact_unavailable", 500;
    /// The workflow document breaks a rule: the detail names the place and the rule.
    WorkflowInvalid = "workflow_invalid", 422;
    /// No workflow with this identifier, or not this version of it, is known to the tenant.
    WorkflowNotFound = "workflow_not_found", 404;
    /// The workflow cannot be taken away while runs of it are live.
    WorkflowInUse = "workflow_in_use", 409;
    /// No run with this identifier is known, or it belongs to another tenant, or it has expired.
    RunNotFound = "run_not_found", 404;
    /// The run has ended already, so that the call has nothing to change.
    RunTerminal = "run_terminal", 409;
    /// A run with this identifier, or for this idempotency key, exists already and is another one.
    RunDuplicate = "run_duplicate", 409;
    /// No workflow engine answered within five seconds.
    EngineUnavailable = "engine_unavailable", 503;
    /// The cell holds as many live runs as it is allowed to.
    RunsFull = "runs_full", 429;
    /// An expression of the workflow could not be evaluated with the values of this run.
    ExpressionFailed = "expression_failed", 500;
    /// The values that a run keeps for its expressions have become larger than a run may keep.
    RunTooLarge = "run_too_large", 500;
    /// A step of the run did not succeed; the detail names it.
    StepFailed = "step_failed", 500;
    /// The policy bundle does not validate.
    BundleInvalid = "bundle_invalid", 422;
    /// The pack does not validate.
    PackInvalid = "pack_invalid", 422;
    /// No pack with this identifier is installed.
    PackNotFound = "pack_not_found", 404;
    /// Another release of the pack is installed, or what it brings belongs to somebody else.
    PackConflict = "pack_conflict", 409;
    /// Live jobs belong to topics that would be taken away.
    PackInUse = "pack_in_use", 409;
    /// Another pack is being installed or taken away, or this one is not yet done.
    PackBusy = "pack_busy", 503;
    /// The configuration has an unknown key or a value that is not allowed.
    ConfigInvalid = "config_invalid", 400;
    /// NATS or Redis is too old or is set up so that acknowledged work could be lost.
    ServerUnsuitable = "server_unsuitable", 500;
    /// Something went wrong that is not the caller's fault and has no code of its own.
    Internal = "internal", 500;
}

impl Code {
    /// The code with this text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_its_page_is_about_it() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!(code.page().starts_with(&format!("# {code}\n")), "{code}");
            assert!(code.page().contains(&format!("status {}", code.http_status())), "{code}");
        }
        assert_eq!(Code::parse("no_such_code"), None);
    }
}
