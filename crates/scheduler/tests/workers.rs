//! Workers and their slots: what signs of life and silences mean.

#![expect(clippy::expect_used, reason = "tests")]

use std::time::Duration;

use busbar_protocol::busbar::{HeldAttempt, WorkerBeat, WorkerKind};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::flow::Charge;
use busbar_scheduler::core::holds::Holds;
use busbar_scheduler::core::job::Hold;
use busbar_scheduler::core::workers::{AttemptKey, Patience, Workers};

const T0: Timestamp = Timestamp::from_millis(1_000_000);

fn at(seconds: u64) -> Timestamp {
    T0.after(Duration::from_secs(seconds))
}

fn key(job: &str) -> AttemptKey {
    (JobId::parse(job).expect("a good id"), 1)
}

fn beat(incarnation: &str, sequence: u64, held: &[&str]) -> WorkerBeat {
    WorkerBeat {
        worker_id: "w".to_owned(),
        incarnation: incarnation.to_owned(),
        sequence,
        capacity: 4,
        held: held.iter().map(|job| HeldAttempt { job_id: (*job).to_owned(), attempt: 1, ..HeldAttempt::default() }).collect(),
        ..WorkerBeat::default()
    }
}

fn hold(kind: WorkerKind, incarnation: &str) -> Hold {
    Hold { worker_id: "w".to_owned(), kind, incarnation: incarnation.to_owned(), since: T0, heard: T0 }
}

/// A native worker that was sent one attempt.
fn native() -> Workers {
    let mut workers = Workers::default();
    workers.beat(&beat("start-1", 1, &[]), T0);
    workers.take(&hold(WorkerKind::Native, "start-1"), key("a"), charge(), T0);
    workers
}

/// The same, of one that had said that it rests for three seconds.
fn resting() -> Workers {
    let mut workers = Workers::default();
    workers.beat(&WorkerBeat { next_ms: 3_000, ..beat("start-1", 1, &[]) }, T0);
    workers
}

/// On whose account every attempt here is out.
fn charge() -> Charge {
    Charge { tenant: "acme".into(), topic: "job.a".into(), key: None }
}

fn slots(workers: &Workers) -> usize {
    workers.get("w").map_or(0, |worker| worker.out.len())
}

#[test]
fn a_beat_is_evidence_for_what_it_shows() {
    let mut workers = native();
    let heard = workers.beat(&beat("start-1", 2, &["a", "stranger"]), at(1));
    assert_eq!((heard.evidence, heard.unwanted, heard.lost), (vec![key("a")], vec![key("stranger")], vec![]));
    assert_eq!(slots(&workers), 2, "what it holds takes a slot, wanted or not");
}

#[test]
fn what_has_ended_takes_no_room_and_is_not_stopped() {
    let ended = |sequence, job: &str| {
        let mut beat = beat("start-1", sequence, &[job]);
        beat.held[0].ended = true;
        beat
    };
    let mut workers = native();
    let heard = workers.beat(&ended(2, "a"), at(1));
    assert_eq!((heard.evidence, heard.unwanted, slots(&workers)), (vec![key("a")], vec![], 1), "its result is not here yet");
    workers.free("w", &key("a"));
    let heard = workers.beat(&ended(3, "a"), at(2));
    assert_eq!((heard.evidence, heard.unwanted, slots(&workers)), (vec![], vec![], 0), "it is here");
    let heard = workers.beat(&ended(4, "stranger"), at(3));
    assert_eq!((heard.unwanted, slots(&workers)), (vec![], 0), "nothing is to be stopped");
    workers.take(&hold(WorkerKind::Native, "start-1"), key("b"), charge(), at(3));
    workers.abandon("w", &key("b"));
    assert_eq!(workers.beat(&ended(5, "b"), at(4)).unwanted, vec![]);
    workers.beat(&beat("start-1", 6, &[]), at(5));
    assert_eq!(slots(&workers), 0, "given up, shown, and not shown any more");
}

#[test]
fn a_restart_loses_its_attempts_at_once() {
    let mut workers = native();
    assert_eq!(workers.beat(&beat("start-2", 1, &[]), at(1)).lost, vec![key("a")]);
    assert_eq!(slots(&workers), 0);
}

#[test]
fn a_late_beat_of_an_earlier_start_or_number_is_ignored() {
    let mut workers = native();
    workers.beat(&beat("start-2", 5, &[]), at(1));
    workers.take(&hold(WorkerKind::Native, "start-2"), key("b"), charge(), at(1));
    assert!(workers.beat(&beat("start-1", 9, &["a"]), at(2)).unwanted.is_empty());
    assert!(workers.beat(&beat("start-2", 4, &["b"]), at(2)).evidence.is_empty());
    assert_eq!(slots(&workers), 1);
}

#[test]
fn a_scheduler_that_took_over_knows_from_the_record_which_start_had_the_attempt() {
    let mut workers = Workers::default();
    workers.take(&hold(WorkerKind::Native, "start-1"), key("a"), charge(), T0);
    workers.take(&hold(WorkerKind::Native, "start-2"), key("b"), charge(), T0);
    let heard = workers.beat(&beat("start-2", 7, &["b"]), at(1));
    assert_eq!((heard.lost, heard.evidence), (vec![key("a")], vec![key("b")]));
}

#[test]
fn a_slot_outlives_the_job_until_the_worker_says_otherwise() {
    let mut workers = native();
    workers.beat(&beat("start-1", 2, &["a"]), at(1));
    workers.abandon("w", &key("a"));
    assert_eq!(workers.beat(&beat("start-1", 3, &["a"]), at(2)).unwanted, vec![key("a")]);
    assert_eq!(slots(&workers), 1);
    workers.beat(&beat("start-1", 4, &[]), at(3));
    assert_eq!(slots(&workers), 0);
}

#[test]
fn an_attempt_that_is_not_shown_is_sent_again_and_at_last_given_up() {
    let mut workers = native();
    let patience = Patience::default();
    let mut sends = 1;
    for second in 1..60 {
        workers.beat(&beat("start-1", 1 + second, &[]), at(second));
        let silence = workers.silence(&patience, T0, at(second));
        sends += u32::try_from(silence.resend.len()).expect("few");
        if !silence.unreachable.is_empty() {
            assert_eq!((sends, slots(&workers)), (patience.sends, 0));
            return;
        }
    }
    panic!("it was sent {sends} times and never given up");
}

#[test]
fn a_worker_that_falls_silent_is_lost_unless_nobody_could_hear() {
    let patience = Patience::default();
    let mut deaf = native();
    assert!(deaf.silence(&patience, at(60), at(61)).lost.is_empty(), "the bus was away until second 60");
    let mut workers = native();
    let lost = workers.silence(&patience, T0, at(6)).lost;
    assert_eq!(lost, vec![(key("a"), "w".to_owned())]);
    assert_eq!(workers.view(&patience, &Holds::default(), at(6))[0].status, "lost");
}

#[test]
fn the_last_beat_of_a_worker_that_leaves_frees_everything() {
    let mut workers = native();
    let last = WorkerBeat { leaving: true, ..beat("start-1", 2, &[]) };
    assert_eq!(workers.beat(&last, at(1)).lost, vec![]);
    let early = workers.silence(&Patience::default(), T0, at(2));
    assert!(early.left.is_empty(), "its last result may still be on its way");
    let silence = workers.silence(&Patience::default(), T0, at(4));
    assert_eq!((silence.left, silence.lost), (vec![(key("a"), "w".to_owned())], vec![]), "it did not die");
    assert_eq!(workers.take_released(), vec![charge()]);
    assert_eq!(workers.view(&Patience::default(), &Holds::default(), at(1))[0].status, "lost");
}

fn handshake(workers: &mut Workers, second: u64) -> Vec<AttemptKey> {
    let shake = Handshake { component_id: "w".to_owned(), ready_topics: vec!["job.a".to_owned()], ..Handshake::default() };
    workers.handshake(&shake, at(second), at(second)).lost
}

fn heartbeat(workers: &mut Workers, active_jobs: i32, second: u64) {
    let beat = Heartbeat { worker_id: "w".to_owned(), max_parallel_jobs: 2, active_jobs, ..Heartbeat::default() };
    workers.heartbeat(&beat, at(second));
}

#[test]
fn an_announced_worker_restarts_with_a_new_handshake() {
    let mut workers = Workers::default();
    handshake(&mut workers, 0);
    workers.take(&hold(WorkerKind::Announced, ""), key("a"), charge(), at(1));
    assert_eq!(handshake(&mut workers, 2), vec![key("a")]);
    assert_eq!(slots(&workers), 0);
}

#[test]
fn an_announced_worker_is_given_nothing_after_the_bus_was_away_until_it_is_heard() {
    let mut workers = Workers::default();
    handshake(&mut workers, 0);
    heartbeat(&mut workers, 0, 1);
    let is_fresh = |workers: &Workers, second: u64| workers.get("w").is_some_and(|worker| worker.is_fresh(at(second)));
    assert!(is_fresh(&workers, 2));
    workers.bus_returned();
    assert!(!is_fresh(&workers, 3) && workers.get("w").is_some_and(|worker| !worker.lost));
    let _ = workers.take_room_came();
    heartbeat(&mut workers, 0, 4);
    assert!(is_fresh(&workers, 4) && workers.take_room_came(), "there is room again");
}

#[test]
fn a_handshake_that_was_kept_from_earlier_neither_kills_nor_revives() {
    let mut workers = Workers::default();
    let shake = Handshake { component_id: "w".to_owned(), ready_topics: vec!["job.a".to_owned()], ..Handshake::default() };
    workers.handshake(&shake, T0, at(3600));
    assert_eq!(workers.view(&Patience::default(), &Holds::default(), at(3600))[0].status, "lost");
    heartbeat(&mut workers, 0, 3601);
    workers.take(&hold(WorkerKind::Announced, ""), key("a"), charge(), at(3602));
    assert!(workers.handshake(&shake, T0, at(3603)).lost.is_empty());
    assert_eq!(slots(&workers), 1);
}

#[test]
fn an_announced_worker_gives_back_what_was_given_up_once_its_heartbeats_show_room() {
    let mut workers = Workers::default();
    handshake(&mut workers, 0);
    heartbeat(&mut workers, 0, 1);
    workers.take(&hold(WorkerKind::Announced, ""), key("a"), charge(), at(1));
    workers.abandon("w", &key("a"));
    heartbeat(&mut workers, 1, 30);
    assert_eq!(slots(&workers), 1, "it says that it is busy");
    heartbeat(&mut workers, 0, 40);
    assert_eq!(slots(&workers), 0);
}

/// Heartbeats every ten seconds, from one to another, of a worker that executes nothing; what it has lost by then.
fn rest(workers: &mut Workers, from: u64, to: u64, heard_since: u64) -> Vec<AttemptKey> {
    let mut forgotten = Vec::new();
    for second in (from..=to).step_by(10) {
        heartbeat(workers, 0, second);
        forgotten.extend(workers.silence(&Patience::default(), at(heard_since), at(second)).forgotten);
    }
    forgotten.into_iter().map(|(key, _)| key).collect()
}

/// An announced worker that was given an attempt after a second.
fn announced() -> Workers {
    let mut workers = Workers::default();
    handshake(&mut workers, 0);
    heartbeat(&mut workers, 0, 1);
    workers.take(&hold(WorkerKind::Announced, ""), key("a"), charge(), at(1));
    workers
}

#[test]
fn an_announced_worker_that_executes_nothing_has_lost_what_it_was_given() {
    let mut workers = announced();
    heartbeat(&mut workers, 1, 10);
    assert_eq!(rest(&mut workers, 20, 50, 0), vec![], "its result may be on its way");
    workers.take(&hold(WorkerKind::Announced, ""), key("b"), charge(), at(51));
    assert_eq!(rest(&mut workers, 60, 80, 0), vec![key("a")]);
    assert_eq!((slots(&workers), workers.take_released()), (1, vec![charge()]));
    heartbeat(&mut workers, 1, 85);
    assert_eq!(rest(&mut workers, 90, 120, 0), vec![], "it had it five seconds ago");
    assert_eq!(rest(&mut workers, 130, 150, 125), vec![], "what was said before nobody could be heard is no proof");
    assert_eq!(rest(&mut workers, 160, 160, 125), vec![key("b")]);
}

#[test]
fn an_announced_worker_that_may_not_count_has_lost_only_what_may_never_have_left() {
    let mut workers = announced();
    workers.take(&hold(WorkerKind::Announced, ""), key("b"), charge(), at(1));
    workers.doubt("w", &key("b"));
    assert_eq!(rest(&mut workers, 10, 600, 0), vec![key("b")]);
    heartbeat(&mut workers, 1, 605);
    handshake(&mut workers, 606);
    workers.take(&hold(WorkerKind::Announced, ""), key("c"), charge(), at(607));
    assert_eq!(rest(&mut workers, 610, 700, 0), vec![], "another program may bear its name");
}

#[test]
fn an_id_that_two_living_processes_answer_to_is_shared_until_one_is_gone() {
    let mut workers = native();
    workers.beat(&beat("start-2", 1, &[]), at(1));
    for second in 2..=5 {
        workers.beat(&beat("start-1", 10 + second, &[]), at(second));
        workers.beat(&beat("start-2", second, &[]), at(second));
    }
    assert!(workers.get("w").expect("it is known").shared);
    let view = workers.view(&Patience::default(), &Holds::default(), at(5));
    assert_eq!((view[0].status.as_str(), view[0].shared), ("blocked", true));
    for second in 6..=12 {
        workers.beat(&beat("start-2", second, &[]), at(second));
        workers.silence(&Patience::default(), T0, at(second));
    }
    assert!(!workers.get("w").expect("it is known").shared, "the other one was not heard any more");
}

#[test]
fn what_a_worker_claims_is_believed_within_reason() {
    let mut workers = Workers::default();
    let absurd = Heartbeat { worker_id: "w".to_owned(), max_parallel_jobs: -3, cpu_load: f32::NAN, ..Heartbeat::default() };
    workers.heartbeat(&absurd, T0);
    let worker = workers.get("w").expect("it is known");
    assert_eq!((worker.capacity, worker.cpu_load), (1, 0.0));
    let beat = WorkerBeat { capacity: u32::MAX, cpu_load: -1e9, ..beat("i", 1, &[]) };
    workers.beat(&beat, T0);
    let worker = workers.get("w").expect("it is known");
    assert_eq!((worker.capacity, worker.cpu_load), (busbar_scheduler::core::workers::CAPACITY_MAX, 0.0));
}

#[test]
fn one_that_rests_is_waited_for_as_long_as_it_said_and_is_given_nothing_when_it_is_late() {
    let mut workers = resting();
    let mut lost_after = |seconds| {
        workers.silence(&Patience::default(), T0, at(seconds));
        workers.get("w").is_none_or(|worker| worker.lost)
    };
    assert!(!lost_after(6) && !lost_after(10) && lost_after(11));
    let workers = resting();
    let is_fresh = |seconds| workers.get("w").is_some_and(|worker| worker.is_fresh(at(seconds)));
    assert!(is_fresh(5) && !is_fresh(6));
}

#[test]
fn one_that_rests_shows_at_once_what_it_is_given_or_is_sent_it_again_and_then_lost() {
    let mut workers = resting();
    workers.take(&hold(WorkerKind::Native, "start-1"), key("a"), charge(), at(2));
    let mut silence = |millis: u64| workers.silence(&Patience::default(), T0, T0.after(Duration::from_millis(millis)));
    assert!(silence(3_000).resend.is_empty());
    assert_eq!(silence(3_100).resend.len(), 1, "it would have said something if it had come");
    assert_eq!(silence(4_200).resend.len(), 1);
    assert!(silence(6_900).lost.is_empty());
    assert_eq!(silence(7_100).lost.len(), 1, "five seconds after it was given it");

    let mut workers = resting();
    workers.take(&hold(WorkerKind::Native, "start-1"), key("a"), charge(), at(2));
    workers.abandon("w", &key("a"));
    let silence = workers.silence(&Patience::default(), T0, at(8));
    assert!(silence.lost.is_empty() && !workers.get("w").expect("it rests").lost, "nobody waits for that one");
    workers.beat(&beat("start-1", 2, &[]), at(9));
    workers.silence(&Patience::default(), T0, at(9));
    assert_eq!(slots(&workers), 0, "it never came");
}

#[test]
fn a_worker_that_is_not_heard_to_listen_for_batches_gets_none_until_it_starts_anew() {
    let mut workers = resting();
    let say = |workers: &mut Workers, start: &str, sequence, takes_batches| {
        workers.beat(&WorkerBeat { takes_batches, ..beat(start, sequence, &[]) }, at(1));
    };
    let takes = |workers: &Workers, start: &str| workers.takes_batches(&hold(WorkerKind::Native, start));
    assert!(!takes(&workers, "start-1"), "it has not said so");
    say(&mut workers, "start-1", 2, true);
    assert!(takes(&workers, "start-1") && !takes(&workers, "start-0"));
    workers.hears_no_batches("w");
    say(&mut workers, "start-1", 3, true);
    assert!(!takes(&workers, "start-1"));
    say(&mut workers, "start-2", 1, true);
    assert!(takes(&workers, "start-2"));
    say(&mut workers, "start-2", 2, false);
    assert!(!takes(&workers, "start-2"));
}

#[test]
fn what_nobody_heard_never_came_and_its_worker_is_given_nothing_before_it_is_heard() {
    let mut workers = resting();
    let is_fresh = |workers: &Workers| workers.get("w").is_some_and(|worker| worker.is_fresh(at(1)));
    workers.take(&hold(WorkerKind::Native, "start-1"), key("a"), charge(), at(1));
    assert!(is_fresh(&workers));
    assert!(workers.never_came("w", &key("a")));
    assert_eq!((slots(&workers), workers.take_released().len(), is_fresh(&workers)), (0, 1, false));
    workers.beat(&beat("start-1", 2, &[]), at(1));
    assert!(is_fresh(&workers) && workers.take_room_came());

    workers.take(&hold(WorkerKind::Native, "start-1"), key("b"), charge(), at(1));
    workers.beat(&beat("start-1", 3, &["b"]), at(1));
    assert!(!workers.never_came("w", &key("b")), "it has it, and was away for a moment when it was sent again");
}
