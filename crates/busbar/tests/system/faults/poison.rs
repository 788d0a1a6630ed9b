//! A job that kills whoever touches it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use busbar_api::{JobState, JobView};
use busbar_protocol::busbar;
use busbar_protocol::busbar::DeadLetter;
use busbar_protocol::keys;
use busbar_protocol::prost::Message as _;
use serde_json::json;

use super::rest;
use crate::support::{Breaker, Dev, DevOptions, Executions, Truth, WORK, chaos_pack, until};

const SLOTS: u32 = 4;
/// What the topic of the pack says.
const CRASH_LIMIT: u32 = 3;

#[test]
fn a_job_that_kills_its_workers_is_quarantined() {
    let dev = Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() });
    let file = dev.temp().join("executions");
    let start = |id: &str| Breaker::start(&dev.endpoints, dev.temp(), id, SLOTS, &file, &[]);
    let (over, deaths) = (AtomicBool::new(false), AtomicU32::new(0));
    let client = dev.client();
    let (poison, others) = thread::scope(|scope| {
        let _over = Over(&over);
        // Workers that come again when they die, as they do under any supervisor.
        for id in ["one", "two"] {
            let (start, over, deaths) = (&start, &over, &deaths);
            scope.spawn(move || {
                let mut worker = start(id);
                let is_over = || over.load(Ordering::Relaxed);
                loop {
                    until("the worker dies, or it is over", || (is_over() || worker.ended().is_some()).then_some(()));
                    if is_over() {
                        return;
                    }
                    deaths.fetch_add(1, Ordering::Relaxed);
                    worker = start(id);
                }
            });
        }
        ["one", "two"].iter().for_each(|id| client.until_online(id, SLOTS));
        let others = client.submit_all((0..60).map(|n| (WORK, json!({"ms": 20 + n}))));
        let poison = client.submit("job.chaos.poison", &json!({"ms": 0, "dies": true}));
        let more = client.submit_all((0..60).map(|n| (WORK, json!({"ms": 20 + n}))));
        let others = [others, more].concat();
        client.wait(&poison);
        others.iter().for_each(|id| assert_eq!(client.wait(id).state, JobState::Succeeded));
        (poison, others)
    });
    assert_eq!(deaths.load(Ordering::Relaxed), CRASH_LIMIT, "so many workers were lost");
    assert_eq!(Executions::read(&file).starts[&poison], CRASH_LIMIT);

    let view: JobView = client.get(&format!("/api/v1/jobs/{poison}")).of(200);
    assert_eq!((view.state, view.error_code.as_deref()), (JobState::Failed, Some("job_quarantined")), "{view:?}");
    let truth = Truth::connect(&dev.endpoints.redis);
    let letter = until("the dead letter", || truth.record(&keys::dead_letter(&poison)));
    let letter = DeadLetter::decode(letter).unwrap();
    assert_eq!((letter.reason_code.as_str(), letter.crashes), ("job_quarantined", CRASH_LIMIT), "{letter:?}");

    let acknowledged = [vec![poison.clone()], others].concat();
    for (id, states) in rest(&client, &truth, &acknowledged) {
        let expected = if id == poison { busbar::JobState::Failed } else { busbar::JobState::Succeeded };
        assert_eq!(states, [expected], "{id}");
    }
}

/// Says that it is over, also when the test fails: the threads wait for it.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
