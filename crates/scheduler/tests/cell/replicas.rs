//! Jobs whose result several workers must come to.

use busbar_protocol::busbar::{Comparison, QuorumCredits, Replication, ReplicationTrust};
use busbar_protocol::keys;
use busbar_protocol::prost::Message as _;
use busbar_scheduler::core::cell::UnreadGroup;
use busbar_scheduler::core::job::ResultPlace;
use busbar_scheduler::core::quorum::compare;
use busbar_scheduler::core::quorum::credits::Credits;
use busbar_scheduler::core::quorum::draw::Secret;

use super::*;

const MOST: u32 = 3;
pub(super) const TWO: Replication =
    Replication { quorum: 2, replicas_max: MOST, compare: Comparison::Exact as i32, trust: None, verifier: String::new() };

/// Who gets a replica must not see in its name which it is: the name of the one that was made in this place.
pub(super) fn real(name: &str) -> String {
    let Some((job, place)) = name.split_once(".r") else { return name.to_owned() };
    let place: u32 = place.parse().expect("a number");
    format!("{job}.r{}", 1 + Secret::default().replica(&id(job), place - 1, MOST))
}

/// The place in which a replica was made.
fn shown(name: &str) -> String {
    let Some((job, _)) = name.split_once(".r") else { return name.to_owned() };
    let shown = (1..=MOST).map(|place| format!("{job}.r{place}"));
    shown.into_iter().find(|shown| real(shown) == name).unwrap_or_else(|| name.to_owned())
}

pub(super) fn replicated(job: &mut Job) {
    job.plan.replication = Some(TWO);
}

/// Two workers, and a job of which two must say the same.
pub(super) fn scene(workers: &[&str]) -> Scene {
    let mut scene = Scene::new(LimitsDocument::default());
    for worker in workers {
        scene.beat(worker, 4);
    }
    scene
}

impl Scene {
    /// Turns until nothing happens by itself; what was sent meanwhile, and to whom.
    pub(super) fn settle(&mut self) -> Vec<(String, String)> {
        let mut sent = Vec::new();
        for _ in 0..6 {
            for job in self.turn(1) {
                let worker = self.cell.job(&id(&job)).and_then(Job::hold).map(|hold| hold.worker_id.clone());
                sent.push((shown(&job), worker.unwrap_or_default()));
            }
        }
        sent
    }

    /// A replica's worker gives this result.
    pub(super) fn says(&mut self, name: &str, result: &str) {
        self.says_as(&real(name), result);
    }

    /// The same, by the replica's own name.
    fn says_as(&mut self, name: &str, result: &str) {
        let job = self.cell.job(&id(name)).expect("it is live");
        let place = ResultPlace {
            pointer: format!("redis://res:{name}:{}", job.attempt),
            compared: compare::digest(result.as_bytes(), Comparison::Exact).to_vec().into(),
            ..ResultPlace::default()
        };
        self.ends(name, Reported::Succeeded(Some(place)));
    }

    pub(super) fn stored(&self, name: &str) -> &Job {
        &self.store[&id(&real(name))].0
    }

    /// A scheduler takes over, and has read everything.
    pub(super) fn taken_over(&mut self, backwards: bool) {
        for group in self.take_over(backwards) {
            let found = verified::read_siblings(&self.store, &group);
            self.cell.replicas_read(&group.parent, found, at(self.now));
        }
    }

    /// A scheduler takes over: what is live is read again, in the order of the names or against it; the replicas of these jobs are to be read.
    pub(super) fn take_over(&mut self, backwards: bool) -> Vec<UnreadGroup> {
        let mut after = Self::new(LimitsDocument::default());
        after.cell.adopt_workers(self.cell.workers().clone());
        (after.now, after.beats) = (self.now, self.beats);
        let workers: Vec<String> = self.cell.workers().iter().map(|(worker, _)| worker.clone()).collect();
        workers.iter().for_each(|worker| after.beat(worker, 4));
        let mut live: Vec<_> = self.store.values().filter(|(job, _)| job.end().is_none()).cloned().collect();
        if backwards {
            live.reverse();
        }
        for (job, revision) in live {
            let class = Arc::new(Class { topic: job.topic.clone(), ..Class::default() });
            after.cell.insert(job, revision, class, at(after.now));
        }
        (self.cell, self.beats) = (after.cell, after.beats);
        self.cell.take_unread_groups()
    }
}

pub(super) fn pair(job: &str, worker: &str) -> (String, String) {
    (job.to_owned(), worker.to_owned())
}

#[test]
fn two_that_agree_make_the_result() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", replicated);
    assert_eq!(scene.settle(), [pair("j.r1", "w"), pair("j.r2", "w2")]);
    assert_eq!(scene.state("j"), Some(JobState::Dispatched));
    scene.says("j.r1", "four");
    assert_eq!(scene.settle(), []);
    assert!(scene.stands("j").1.summary.contains("with w: said"), "{}", scene.stands("j").1.summary);
    scene.says("j.r2", "four");
    scene.settle();
    let job = scene.stored("j");
    let end = job.end().expect("it has ended");
    assert_eq!((job.state.tag(), end.decided_here), (JobState::Succeeded, true));
    assert_eq!(end.result.as_ref().map(|place| place.pointer.as_str()), Some("redis://res:j:1"));
    assert!(job.votes.iter().all(|vote| vote.agrees) && job.votes.len() == 2, "{:?}", job.votes);
    assert!(scene.cell.is_empty());
}

#[test]
fn replicas_have_the_room_that_their_jobs_have_found() {
    let mut scene = scene(&["w", "w2"]);
    ["w", "w2"].iter().for_each(|worker| scene.beat(worker, 1));
    for name in ["a", "b", "c"] {
        scene.job(name, "acme", replicated);
    }
    let mut done = 0;
    while done < 6 {
        let sent = scene.settle();
        assert_eq!(sent.len(), 2, "two workers of one slot each have room for two, {done} are done");
        sent.iter().for_each(|(replica, _)| scene.says(replica, "4"));
        done += sent.len();
    }
    scene.settle();
    assert!(["a", "b", "c"].iter().all(|name| scene.stored(name).state.tag() == JobState::Succeeded));
}

#[test]
fn a_liar_is_outvoted_and_named() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", replicated);
    scene.settle();
    scene.says("j.r1", "five");
    scene.says("j.r2", "four");
    assert_eq!(scene.settle(), [pair("j.r3", "w3")]);
    scene.says("j.r3", "four");
    scene.settle();
    let job = scene.stored("j");
    let agree: BTreeMap<&str, bool> = job.votes.iter().map(|vote| (vote.worker_id.as_str(), vote.agrees)).collect();
    assert_eq!((job.state.tag(), agree), (JobState::Succeeded, [("w", false), ("w2", true), ("w3", true)].into()));
}

#[test]
fn too_many_opinions_end_it() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", replicated);
    scene.settle();
    for (replica, result) in [("j.r1", "3"), ("j.r2", "4")] {
        scene.says(replica, result);
    }
    scene.settle();
    scene.says("j.r3", "5");
    scene.settle();
    let end = scene.stored("j").end().expect("it has ended");
    assert_eq!((scene.stored("j").state.tag(), end.code.as_str()), (JobState::Failed, "quorum_not_reached"));
    assert!(end.message.contains("3 different results"), "{}", end.message);
}

#[test]
fn replicas_of_a_job_never_meet() {
    // One worker has room for all of them, and yet gets one; so does one owner of several workers.
    let mut scene = scene(&["w"]);
    scene.job("j", "acme", replicated);
    assert_eq!(scene.settle(), [pair("j.r1", "w")]);
    let (gate, told) = scene.stands(&real("j.r2"));
    assert_eq!(gate, "worker", "{}", told.summary);
    scene.cell.set_owners([("w", "agent:x"), ("w2", "agent:x")].map(|(worker, owner)| (worker.into(), owner.into())).into());
    scene.beat("w2", 4);
    assert_eq!(scene.settle(), []);
    scene.beat("w3", 4);
    assert_eq!(scene.settle(), [pair("j.r2", "w3")]);
}

#[test]
fn a_replica_that_is_lost_goes_to_somebody_else() {
    let mut scene = scene(&["w", "w2"]);
    scene.job("j", "acme", replicated);
    scene.settle();
    let lost = Event::AttemptOver { attempt: 1, code: Code::WorkerLeft, message: String::new(), unreached: false };
    scene.cell.apply(&id(&real("j.r1")), &lost, at(scene.now)).expect("it is out");
    scene.now += 100;
    // The other one's worker has room, and must not get it.
    assert_eq!(scene.settle(), [pair("j.r1", "w")]);
    scene.says("j.r1", "4");
    scene.says("j.r2", "4");
    scene.settle();
    assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded);
}

#[test]
fn one_whose_attempts_are_used_up_is_replaced() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", |job| {
        replicated(job);
        job.plan.max_attempts = 1;
    });
    scene.settle();
    let lost = Event::AttemptOver { attempt: 1, code: Code::WorkerLost, message: String::new(), unreached: false };
    scene.cell.apply(&id(&real("j.r1")), &lost, at(scene.now)).expect("it is out");
    let sent = scene.settle();
    assert_eq!(sent.iter().map(|(job, _)| job.as_str()).collect::<Vec<_>>(), ["j.r3"]);
    assert_eq!(scene.stored("j.r1").state.tag(), JobState::Failed);
}

#[test]
fn replicas_end_with_their_job() {
    let cancel = Event::CancelAsked { attempt: 0, reason: String::new(), requested_by: String::new(), code: Code::Cancelled };
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", replicated);
    scene.settle();
    scene.cell.apply(&id("j"), &cancel, at(scene.now)).expect("it is live");
    scene.settle();
    assert_eq!(scene.stored("j").state.tag(), JobState::Cancelled);
    assert!(["j.r1", "j.r2"].iter().all(|name| scene.stored(name).cancel.is_some()));
    // And with its result: whoever is still at work need not be.
    scene.job("k", "acme", replicated);
    scene.settle();
    scene.says("k.r1", "3");
    scene.says("k.r2", "4");
    scene.settle();
    scene.says("k.r3", "4");
    scene.settle();
    assert_eq!(scene.stored("k").state.tag(), JobState::Succeeded);
    assert!(scene.cell.job(&id("k")).is_none());
}

#[test]
fn a_takeover_finds_what_was_said() {
    for backwards in [false, true] {
        // Before the replicas are written, before they are sent, between the two results, and before the job has ended.
        for steps in 0..4 {
            let mut scene = scene(&["w", "w2"]);
            scene.job("j", "acme", replicated);
            let sent = if steps == 0 { scene.turn(1).iter().map(|job| pair(&shown(job), "")).collect() } else { scene.settle() };
            if steps >= 2 {
                scene.says("j.r1", "4");
                scene.turn(1);
            }
            if steps >= 3 {
                scene.says("j.r2", "4");
                scene.turn(1);
            }
            scene.taken_over(backwards);
            let sent: Vec<_> = sent.into_iter().chain(scene.settle()).collect();
            assert_eq!(sent.len(), 2, "backwards {backwards}, step {steps}: {sent:?}");
            for replica in ["j.r1", "j.r2"] {
                if scene.stored(replica).end().is_none() {
                    scene.says(replica, "4");
                }
            }
            scene.settle();
            assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded, "backwards {backwards}, step {steps}");
            assert!(scene.cell.is_empty());
        }
    }
}

#[test]
fn a_stranger_with_a_replicas_name_says_nothing() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", replicated);
    scene.turn(1);
    scene.store.remove(&id(&real("j.r1")));
    scene.store.remove(&id(&real("j.r2")));
    let stranger = scheduled(&real("j.r1"), "acme", at(scene.now), |_| {});
    scene.store.insert(stranger.id.clone(), (stranger, 1));
    scene.taken_over(false);
    let sent: Vec<String> = scene.settle().into_iter().map(|(job, _)| job).collect();
    assert_eq!(sent, ["j.r1", "j.r2", "j.r3"], "the stranger is a job of its own");
    scene.says("j.r2", "4");
    scene.says("j.r3", "4");
    scene.settle();
    assert_eq!(scene.stored("j").state.tag(), JobState::Succeeded);
}

#[test]
fn a_key_counts_the_job_and_not_its_replicas() {
    let one = KeyLimits { concurrency_max: 1, ..KeyLimits::default() };
    let mut scene = Scene::new(topic(FlowLimits::default(), one));
    scene.beat("w2", 4);
    for name in ["a", "b"] {
        scene.job(name, "acme", |job| {
            replicated(job);
            keyed(job);
        });
    }
    let sent: Vec<String> = scene.settle().into_iter().map(|(job, _)| job).collect();
    assert_eq!(sent, ["a.r1", "a.r2"]);
    assert_eq!(scene.stands("b").0, "key");
    scene.says("a.r1", "4");
    scene.says("a.r2", "4");
    let sent: Vec<String> = scene.settle().into_iter().map(|(job, _)| job).collect();
    assert_eq!(sent, ["b.r1", "b.r2"]);
}

#[test]
fn a_failure_that_two_tell_is_the_jobs() {
    let mut scene = scene(&["w", "w2", "w3"]);
    scene.job("j", "acme", replicated);
    scene.settle();
    for replica in ["j.r1", "j.r2"] {
        scene.ends(&real(replica), Reported::Failed { code: "bad_input".into(), message: "no number".into() });
    }
    scene.settle();
    let end = scene.stored("j").end().expect("it has ended");
    assert_eq!((end.code.as_str(), end.message.as_str()), ("bad_input", "no number"));
}

/// One wrong result of a hundred may be accepted, and every job is as good as another to be audited: none is.
const TRUST: ReplicationTrust =
    ReplicationTrust { wrong_per_billion: 10_000_000, liars_per_million: 100_000, audited_per_million: 1 };

#[test]
fn owners_that_have_agreed_often_enough_are_believed_alone_and_liars_get_nothing_more() {
    let names = ["w", "w2", "w3", "w4", "liar"];
    let mut scene = scene(&names);
    let mut credits = QuorumCredits::default();
    let mut replicas_of = Vec::new();
    for number in 0..40 {
        let job = format!("j{number}");
        scene.job(&job, "acme", |job| job.plan.replication = Some(Replication { replicas_max: 9, trust: Some(TRUST), ..TWO }));
        for _ in 0..8 {
            names.iter().for_each(|worker| scene.beat(worker, 4));
            scene.turn(200);
            credits = scene.cell.take_credits_unit(at(scene.now)).map_or(credits, |unit| kept(&unit));
            let out: Vec<(String, String)> = scene.store.values().filter_map(|(job, _)| held(job)).collect();
            for (replica, worker) in out {
                // Every lie is another one.
                let result = if worker == "liar" { format!("{replica} is a lie") } else { "4".to_owned() };
                scene.says_as(&replica, &result);
            }
        }
        let ended = scene.stored(&job);
        assert_eq!(ended.state.tag(), JobState::Succeeded, "{job}");
        assert!(ended.votes.iter().all(|vote| vote.agrees == (vote.worker_id != "liar")), "{:?}", ended.votes);
        replicas_of.push(ended.votes.len());
    }
    assert!(replicas_of[0] >= 3, "newcomers need each other: {replicas_of:?}");
    assert!(replicas_of[35..].iter().all(|replicas| *replicas == 1), "afterwards one is enough: {replicas_of:?}");
    let known: BTreeMap<&str, (u64, u32)> =
        credits.topics["job.a"].owners.iter().map(|owner| (owner.owner.as_str(), (owner.agreed, owner.wrong))).collect();
    assert!(known["liar"].1 >= 2 && names[..4].iter().all(|name| known[name].1 == 0), "{known:?}");
    let last: Vec<&str> = scene
        .store
        .values()
        .filter(|(job, _)| job.replica > 0)
        .filter_map(|(job, _)| job.end())
        .map(|end| end.worker_id.as_str())
        .collect();
    assert_eq!(last.iter().filter(|worker| **worker == "liar").count(), 2, "whoever was found wrong twice is barred");
    // Whoever takes over knows as much.
    assert_eq!(Credits::from_record(credits.clone()).to_record(), credits);
}

/// A job that a worker has, with its worker.
fn held(job: &Job) -> Option<(String, String)> {
    job.hold().map(|hold| (job.id.to_string(), hold.worker_id.clone()))
}

/// What a unit keeps of owners.
fn kept(unit: &Unit) -> QuorumCredits {
    let Some(Write::Put { key, value, .. }) = unit.writes.first() else { panic!("it is written") };
    assert_eq!(key, keys::QUORUM_CREDITS);
    QuorumCredits::decode(value.clone()).expect("a good record")
}
