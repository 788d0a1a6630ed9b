//! Jobs whose results are checked before they count.

use busbar_protocol::busbar::{Judgement, Replication};
use busbar_scheduler::core::cell::{Siblings, Unchecked, UnreadGroup, replica_id, verification_id};

use super::replicas::{TWO, pair, real, scene};
use super::*;

/// So many must agree, and each result is checked.
fn checked(quorum: u32) -> impl FnOnce(&mut Job) {
    move |job: &mut Job| job.plan.replication = Some(Replication { quorum, verifier: "job.check".to_owned(), ..TWO })
}

/// What checks the result of the replica that was made in this place.
fn check(replica: &str) -> String {
    real(replica).replace(".r", ".v")
}

impl Scene {
    /// What is to be checked is submitted; the names of the replicas whose results these are.
    fn submits_checks(&mut self) -> Vec<String> {
        let unchecked = self.cell.take_unchecked();
        let submit = |of: &Unchecked| {
            let (parent, replica) = (&of.parent.id, of.replica);
            assert!(self.cell.has_check_out(parent, replica));
            let name = verification_id(parent, replica).expect("a good name").to_string();
            self.job(&name, "acme", |job| {
                job.topic = "job.check".to_owned();
                job.parent_job_id = parent.to_string();
                job.verifies = replica;
                job.plan.max_attempts = 1;
            });
            name.replace(".v", ".r")
        };
        unchecked.iter().map(submit).collect()
    }

    /// Turns until nothing happens by itself, checks included; the checks that were sent, with their workers.
    fn checks(&mut self) -> Vec<(String, String)> {
        let sent = self.settle();
        self.submits_checks();
        sent.into_iter().chain(self.settle()).filter(|(job, _)| job.contains(".v")).collect()
    }

    /// Whoever checks a replica's result says this, and in which form it is to be compared.
    fn judges(&mut self, replica: &str, judgement: Judgement, canonical: &str) {
        let name = check(replica);
        let compared = if canonical.is_empty() { Vec::new() } else { digest(canonical).to_vec() };
        let pointer = format!("redis://res:{name}:1");
        let place = ResultPlace { pointer, judgement, compared: compared.into(), ..ResultPlace::default() };
        self.ends(&name, Reported::Succeeded(Some(place)));
        self.settle();
    }

    fn votes(&self, job: &str) -> BTreeMap<String, (bool, Judgement)> {
        let votes = self.stored(job).votes.iter();
        votes.map(|vote| (vote.worker_id.clone(), (vote.agrees, vote.judgement()))).collect()
    }
}

fn digest(canonical: &str) -> [u8; 32] {
    busbar_scheduler::core::quorum::compare::digest(canonical.as_bytes(), busbar_protocol::busbar::Comparison::Exact)
}

#[test]
fn a_proof_is_enough_and_is_checked_by_somebody_else() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", checked(2));
    assert_eq!(scene.settle(), [pair("j.r1", "w"), pair("j.r2", "w2")]);
    scene.says("j.r1", "7 · 11");
    assert_eq!(scene.checks(), [(check("j.r1"), "w2".to_owned())], "not by whoever has said it");
    assert!(scene.stands("j").1.summary.contains("its result is being checked"), "{}", scene.stands("j").1.summary);
    assert_eq!(scene.state("j"), Some(JobState::Dispatched), "it does not count before");
    scene.judges("j.r1", Judgement::Proven, "");
    let end = scene.stored("j").end().expect("it has ended");
    assert_eq!(end.result.as_ref().map(|place| place.pointer.as_str()), Some("redis://res:j:1"));
    assert_eq!(scene.votes("j")["w"], (true, Judgement::Proven));
    assert!(scene.stored("j.r2").cancel.is_some(), "the other one need not go on");
}

#[test]
fn what_is_wrong_counts_for_nothing() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", checked(1));
    assert_eq!(scene.settle(), [pair("j.r1", "w")]);
    scene.says("j.r1", "6");
    scene.checks();
    scene.judges("j.r1", Judgement::Wrong, "");
    let second: Vec<String> = scene.settle().into_iter().map(|(job, _)| job).collect();
    assert_eq!(second, Vec::<String>::new(), "it was sent at once");
    let worker = scene.cell.job(&id(&real("j.r2"))).and_then(Job::hold).map(|hold| hold.worker_id.clone()).expect("it is out");
    assert_ne!(worker, "w");
    scene.says("j.r2", "7");
    scene.checks();
    scene.judges("j.r2", Judgement::Plausible, "");
    assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded);
    assert_eq!(scene.votes("j"), [("w".to_owned(), (false, Judgement::Wrong)), (worker, (true, Judgement::Unspecified))].into());
}

#[test]
fn results_are_compared_in_the_form_that_the_verifier_gives_them() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", checked(2));
    scene.settle();
    for (replica, result) in [("j.r1", "7 · 11"), ("j.r2", "11 · 7")] {
        scene.says(replica, result);
        scene.checks();
        scene.judges(replica, Judgement::Plausible, "7,11");
    }
    assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded);
    assert!(scene.stored("j").votes.iter().all(|vote| vote.agrees && vote.compared_sha256 == digest("7,11")[..]));
}

#[test]
fn a_result_on_which_the_verifier_breaks_is_as_good_as_lost() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", checked(1));
    scene.settle();
    scene.says("j.r1", "a bomb");
    scene.checks();
    scene.ends(&check("j.r1"), Reported::Failed { code: "guest_trap".into(), message: String::new() });
    scene.settle();
    assert!(scene.store.values().all(|(job, _)| !job.is_part() || job.end().is_none_or(|end| end.code != "quorum_not_reached")));
    assert!(scene.cell.job(&id(&real("j.r2"))).is_some_and(|job| job.hold().is_some()), "somebody else is asked");
}

#[test]
fn where_nothing_can_be_checked_the_job_says_so_at_once() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", checked(2));
    scene.settle();
    scene.says("j.r1", "7");
    scene.settle();
    let replica = scene.cell.take_unchecked().pop().expect("one").replica;
    scene.cell.check_refused(&id("j"), replica, "unknown_topic: no topic document matches job.check".to_owned());
    scene.settle();
    let end = scene.stored("j").end().expect("it has ended");
    assert_eq!(end.code, "quorum_not_reached");
    assert_eq!(end.message, "results cannot be checked: unknown_topic: no topic document matches job.check");
    assert!(!scene.cell.has_check_out(&id("j"), replica), "what comes late is not wanted");
}

#[test]
fn a_takeover_finds_what_was_checked() {
    for backwards in [false, true] {
        // Before the check is submitted, while it waits, while it is out, and when it has spoken.
        for steps in 0..4 {
            let mut scene = scene(&["w", "w2"]);
            scene.job("j", "acme", checked(1));
            scene.settle();
            scene.says("j.r1", "7");
            scene.settle();
            if steps >= 1 {
                assert_eq!(scene.submits_checks(), [real("j.r1")]);
            }
            if steps >= 2 {
                scene.turn(1);
            }
            if steps >= 3 {
                let place =
                    ResultPlace { pointer: "redis://res:x".into(), judgement: Judgement::Plausible, ..ResultPlace::default() };
                scene.ends(&check("j.r1"), Reported::Succeeded(Some(place)));
                // Durable, but the job's own end is not.
                for (_, unit) in scene.cell.take_units() {
                    scene.write(&unit);
                }
            }
            scene.taken_over(backwards);
            scene.settle();
            let asked = scene.submits_checks();
            assert_eq!(asked.len(), usize::from(steps == 0), "backwards {backwards}, step {steps}");
            scene.settle();
            if steps < 3 {
                scene.judges("j.r1", Judgement::Plausible, "");
            }
            assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded, "backwards {backwards}, step {steps}");
            assert!(scene.cell.is_empty());
        }
    }
}

#[test]
fn a_check_that_ends_while_it_is_read_has_ended() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", checked(1));
    scene.settle();
    scene.says("j.r1", "7");
    scene.checks();
    let unread = scene.take_over(false);
    let read = unread.iter().map(|group| read_siblings(&scene.store, group)).collect::<Vec<_>>();
    scene.judges("j.r1", Judgement::Plausible, "");
    for (group, read) in unread.iter().zip(read) {
        scene.cell.replicas_read(&group.parent, read, at(scene.now));
    }
    scene.settle();
    assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded);
}

#[test]
fn a_stranger_with_a_checks_name_is_not_believed() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", checked(1));
    scene.settle();
    scene.says("j.r1", "7");
    scene.settle();
    let stranger = scheduled(&check("j.r1"), "acme", at(scene.now), |_| {});
    scene.store.insert(stranger.id.clone(), (stranger, 1));
    scene.taken_over(false);
    scene.settle();
    let end = scene.stored("j").end().expect("it has ended");
    assert!(end.message.contains("another job has the name"), "{}", end.message);
}

/// What a takeover reads of a job whose results are checked.
pub(super) fn read_siblings(store: &BTreeMap<JobId, (Job, u64)>, group: &UnreadGroup) -> Siblings {
    let read = |named: fn(&JobId, u32) -> Option<JobId>| {
        let found = |number: u32| Some((number, store.get(&named(&group.parent, number)?).map(|(job, _)| job.clone())));
        (1..=group.replicas_max).filter_map(found).filter(|(_, job)| job.is_some()).collect()
    };
    let checks = if group.is_checked { read(verification_id) } else { Vec::new() };
    Siblings { replicas: read(replica_id), checks }
}

#[test]
fn what_would_check_a_result_is_not_needed_where_the_end_of_its_parent_is_on_its_way() {
    let mut scene = scene(&["w", "w2"]);
    let late = scene.now + 60_000;
    scene.job("j", "acme", |job| {
        checked(2)(job);
        job.plan.deadline_at_ms = late;
    });
    scene.settle();
    scene.says("j.r1", "7 · 11");
    scene.cell.apply(&id("j"), &Event::Tick, at(late)).expect("its time is over");
    // It is read after that, and before the end is durable.
    let name = check("j.r1");
    scene.job(&name, "acme", |job| {
        job.parent_job_id = "j".to_owned();
        job.verifies = name.rsplit_once(".v").and_then(|(_, number)| number.parse().ok()).expect("a number");
    });
    scene.now = late;
    scene.settle();
    assert_eq!((scene.state("j"), scene.state(&name)), (None, None));
    assert_eq!(scene.stored(&name).state.tag(), JobState::Cancelled);
}
