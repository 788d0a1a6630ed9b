//! `ctl status`: the state of the stack.

use busbar_api::StatusView;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Output, pairs};

pub(crate) fn run(client: &Client, output: &Output) -> Result<(), Failure> {
    let status: StatusView = client.get("/api/v1/status")?;
    output.show(&status, || words(client.url(), &status))
}

fn words(url: &str, status: &StatusView) -> String {
    let yes = |holds: bool, good: &str, bad: &str| if holds { good.to_owned() } else { bad.to_owned() };
    let store = status.store.error.as_ref().map_or_else(|| "answers".to_owned(), |error| format!("DOES NOT ANSWER: {error}"));
    let mut lines = vec![
        ("gateway", format!("{url}, version {}, up {} s", status.version, status.uptime_seconds)),
        (
            "bus",
            format!("{}, connections made: {}", yes(status.bus.connected, "connected", "NOT CONNECTED"), status.bus.connections),
        ),
        ("store", store),
    ];
    match &status.scheduler {
        None => lines.push(("scheduler", "NONE ANSWERS".to_owned())),
        Some(scheduler) => {
            let live: Vec<String> = scheduler.live.iter().map(|(state, jobs)| format!("{state} {jobs}")).collect();
            lines.push(("scheduler", format!("{}, epoch {}, since {}", scheduler.owner, scheduler.epoch, scheduler.started_at)));
            lines.push(("live jobs", if live.is_empty() { "none".to_owned() } else { live.join(", ") }));
            lines.push(("policy", scheduler.snapshot.clone()));
        }
    }
    let workers = &status.workers;
    lines.push(("workers", format!("{}, busy {} of {}", workers.count, workers.in_flight, workers.capacity)));
    pairs(lines)
}
