//! The table of transitions, whole: every state against every event, printed and compared with the approved form.

#![expect(clippy::expect_used, reason = "tests")]

use std::fmt::Write as _;

use bytes::Bytes;

use busbar_protocol::busbar::{JobDecision, JobPlan, WorkerKind};
use busbar_protocol::cap::{DecisionType, JobPriority};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::{CancelWish, End, Hold, Job, Outcome, ResultPlace, Source, State};
use busbar_scheduler::core::transition::{Command, Event, Limits, Rejected, Report, Reported, Verdict, decide};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const PAST: Timestamp = Timestamp::from_millis(500_000);

fn job(state: State) -> Job {
    Job {
        id: JobId::parse("job").expect("a good id"),
        tenant_id: "default".to_owned(),
        trace_id: "trace".to_owned(),
        traceparent: String::new(),
        request: Bytes::new(),
        topic: "job.echo".to_owned(),
        priority: JobPriority::Batch,
        created: PAST,
        updated: PAST,
        attempt: 1,
        unreached: 0,
        crashes: 0,
        parent_job_id: String::new(),
        replica: 0,
        verifies: 0,
        votes: Vec::new(),
        redrive_of: String::new(),
        plan: plan(),
        decision: None,
        last_end: None,
        cancel: None,
        from_bus: false,
        state,
    }
}

fn plan() -> JobPlan {
    JobPlan { max_attempts: 3, backoff_initial_ms: 100, backoff_max_ms: 1000, ..JobPlan::default() }
}

fn hold() -> Hold {
    Hold { worker_id: "w".to_owned(), kind: WorkerKind::Native, incarnation: "i".to_owned(), since: PAST, heard: PAST }
}

fn running() -> State {
    State::Running { hold: hold(), started: PAST, percent: 0 }
}

/// Every state that differs for the table, by name.
fn jobs() -> Vec<(&'static str, Job)> {
    let wish =
        CancelWish { by: NOW.after_millis(1), reason: "why".to_owned(), requested_by: "me".to_owned(), code: Code::Cancelled };
    let overdue = CancelWish { by: PAST, ..wish.clone() };
    let end = End {
        outcome: Outcome::Succeeded,
        at: PAST,
        worker_id: "w".to_owned(),
        code: String::new(),
        message: String::new(),
        result: None,
        execution_ms: 1,
        decided_here: false,
    };
    let limited = |job: Job| Job { plan: JobPlan { start_to_close_ms: 1, schedule_to_start_ms: 1, ..job.plan.clone() }, ..job };
    let late = |job: Job| Job { plan: JobPlan { deadline_at_ms: PAST.millis(), ..job.plan.clone() }, ..job };
    let last = |job: Job| Job { attempt: 3, ..job };
    let scheduled = || job(State::Scheduled { since: PAST, not_before: PAST });
    let waiting = || job(State::Scheduled { since: PAST, not_before: NOW.after_millis(1) });
    let dispatched = || job(State::Dispatched { hold: hold() });
    vec![
        ("PENDING", job(State::Pending { not_before: PAST })),
        ("PENDING, deadline passed", late(job(State::Pending { not_before: PAST }))),
        ("APPROVAL_REQUIRED", job(State::ApprovalRequired { since: PAST })),
        ("APPROVAL_REQUIRED, deadline passed", late(job(State::ApprovalRequired { since: PAST }))),
        ("SCHEDULED", scheduled()),
        ("SCHEDULED, not yet", waiting()),
        ("SCHEDULED, too long", limited(scheduled())),
        ("DISPATCHED", dispatched()),
        ("DISPATCHED, too long", limited(dispatched())),
        ("DISPATCHED, last attempt", last(dispatched())),
        ("RUNNING", job(running())),
        ("RUNNING, deadline passed", late(job(running()))),
        ("RUNNING, last attempt too long", limited(last(job(running())))),
        ("RUNNING, silent for too long", Job { plan: JobPlan { heartbeat_timeout_ms: 1, ..plan() }, ..job(running()) }),
        ("RUNNING, two crashes of three", Job { crashes: 2, plan: JobPlan { crash_limit: 3, ..plan() }, ..job(running()) }),
        (
            "RUNNING, `busy` is final",
            Job { plan: JobPlan { non_retryable_codes: vec!["busy".into()], ..plan() }, ..job(running()) },
        ),
        ("RUNNING, being cancelled", Job { cancel: Some(wish), ..job(running()) }),
        ("RUNNING, cancellation overdue", Job { cancel: Some(overdue), ..job(running()) }),
        ("SUCCEEDED", job(State::Ended(end))),
    ]
}

fn verdict(decision: DecisionType) -> Event {
    Event::Decided(Verdict {
        decision: JobDecision { decision: decision.into(), reason: "rule".to_owned(), ..JobDecision::default() },
        redacted_request: (decision == DecisionType::Redact).then(|| Bytes::from_static(b"redacted")),
        run_ms_max: None,
        attempts_max: None,
        limits: None,
    })
}

fn report(attempt: Option<u32>, outcome: Reported) -> Event {
    Event::Reported(Report { attempt, worker_id: "w".to_owned(), outcome, execution_ms: 5 })
}

fn handed_back() -> Event {
    let outcome = Reported::Retryable { code: Code::WorkerLeft.to_string(), message: String::new(), timed_out: false };
    Event::Reported(Report { attempt: None, worker_id: "w".to_owned(), outcome, execution_ms: 0 })
}

/// Every event that differs for the table, by name.
fn events() -> Vec<(&'static str, Event)> {
    let retry = || Reported::Retryable { code: "busy".to_owned(), message: "later".to_owned(), timed_out: false };
    let over = |attempt, unreached| Event::AttemptOver { attempt, code: Code::WorkerLost, message: "gone".to_owned(), unreached };
    let placed = Event::Placed { worker_id: "w".to_owned(), kind: WorkerKind::Native, incarnation: "i".to_owned() };
    vec![
        ("decided ALLOW", verdict(DecisionType::Allow)),
        ("decided DENY", verdict(DecisionType::Deny)),
        ("decided QUARANTINE", verdict(DecisionType::Quarantine)),
        ("decided REQUIRE_HUMAN", verdict(DecisionType::RequireHuman)),
        ("decided THROTTLE", verdict(DecisionType::Throttle)),
        ("decided REDACT", verdict(DecisionType::Redact)),
        ("decided nothing known", verdict(DecisionType::Unspecified)),
        ("placed", placed),
        ("evidence", Event::Evidence { attempt: 1, percent: Some(10) }),
        ("evidence of attempt 9", Event::Evidence { attempt: 9, percent: None }),
        ("result SUCCEEDED", report(None, Reported::Succeeded(None))),
        ("result SUCCEEDED of attempt 9", report(Some(9), Reported::Succeeded(None))),
        ("result FAILED", report(None, Reported::Failed { code: "bad".to_owned(), message: "no".to_owned() })),
        ("result FAILED_RETRYABLE", report(None, retry())),
        ("handed back by one that leaves", handed_back()),
        ("result rate_limited", report(None, Reported::RateLimited { message: "later".to_owned() })),
        ("result CANCELLED", report(None, Reported::Cancelled)),
        ("attempt lost", over(1, false)),
        ("attempt 3 lost", over(3, false)),
        ("attempt reached nobody", over(1, true)),
        (
            "cancel asked",
            Event::CancelAsked { attempt: 0, reason: "why".to_owned(), requested_by: "me".to_owned(), code: Code::Cancelled },
        ),
        ("impossible", Event::Impossible { code: Code::NoPool, message: "no".to_owned() }),
        ("tick", Event::Tick),
    ]
}

fn outcome(job: &Job, event: &Event) -> String {
    match decide(job, event, &Limits::default(), NOW) {
        Err(Rejected::Terminal) => "terminal".to_owned(),
        Err(Rejected::StaleAttempt) => "stale".to_owned(),
        Err(Rejected::WrongState) => "rejected".to_owned(),
        Err(Rejected::Unchanged) => "unchanged".to_owned(),
        Ok(change) => {
            let name = change.next.state.tag().short_name();
            let mut text = name.to_owned();
            if let Some(end) = change.next.end().filter(|end| !end.code.is_empty()) {
                let _ = write!(text, " ({})", end.code);
            }
            if change.next.attempt != job.attempt {
                let _ = write!(text, " attempt {}", change.next.attempt);
            }
            for command in &change.commands {
                text.push_str(match command {
                    Command::Dispatch { .. } => " +dispatch",
                    Command::Stop { .. } => " +stop",
                });
            }
            text
        }
    }
}

#[test]
fn the_whole_table() {
    let mut table = String::new();
    for (state, job) in jobs() {
        let _ = writeln!(table, "{state}");
        for (event, what) in events() {
            let _ = writeln!(table, "    {event:<30} {}", outcome(&job, &what));
        }
    }
    insta::assert_snapshot!("transitions", table);
}

#[test]
fn nothing_leaves_an_end() {
    let ended = jobs().into_iter().find(|(name, _)| *name == "SUCCEEDED").expect("it is listed").1;
    for (name, event) in events() {
        assert_eq!(decide(&ended, &event, &Limits::default(), NOW), Err(Rejected::Terminal), "{name}");
    }
}

#[test]
fn a_wish_that_names_an_attempt_means_it_only_while_it_is_out() {
    let out = Job { attempt: 2, ..job(running()) };
    assert!(out.is_meant(0) && out.is_meant(2));
    assert!(!out.is_meant(1) && !out.is_meant(3));
    let between = Job { attempt: 2, ..job(State::Scheduled { since: PAST, not_before: PAST }) };
    assert!(between.is_meant(0));
    assert!(!between.is_meant(2), "that attempt is over");
    let cancel = Event::CancelAsked { attempt: 1, reason: String::new(), requested_by: String::new(), code: Code::Cancelled };
    assert_eq!(decide(&out, &cancel, &Limits::default(), NOW).err(), Some(Rejected::StaleAttempt));
}

#[test]
fn a_result_that_is_copied_stands_under_the_name_of_the_attempt_that_it_ends() {
    let seen =
        ResultPlace { pointer: "redis://res:j:1".to_owned(), source: Source::Key("res:j".to_owned()), ..ResultPlace::default() };
    let out = Job { attempt: 2, ..job(running()) };
    let own = format!("redis://res:{}:2", out.id);
    assert_eq!(seen.clone().of_attempt(&out.id, 2).pointer, own);
    let uncopied = ResultPlace { source: Source::There, ..seen };
    assert_eq!(uncopied.clone().of_attempt(&out.id, 2), uncopied);
}

#[test]
fn every_job_survives_its_packed_form() {
    for (name, job) in jobs() {
        assert_eq!(Job::decode(&job.encode()).as_ref(), Ok(&job), "{name}");
    }
}

#[test]
fn backoff_grows_to_its_bound_and_spreads() {
    let mut last = std::time::Duration::ZERO;
    for attempt in 1..=4 {
        let pause = Job { attempt, ..job(running()) }.backoff();
        assert!(pause > last, "attempt {attempt}: {pause:?}");
        last = pause;
    }
    for attempt in [1, 5, 30, u32::MAX] {
        let pause = Job { attempt, ..job(running()) }.backoff();
        assert!(pause <= std::time::Duration::from_secs(1), "attempt {attempt}: {pause:?}");
    }
}
