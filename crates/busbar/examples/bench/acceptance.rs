//! How fast submissions are taken over HTTP while no job runs, beside bare requests and replies of the bus.
//!
//! ```text
//!  topic paused ─► large calls, four at once ─► all acknowledged, each on disk as the durability says ─► topic resumed ─► all run
//! ```
//!
//! Taken while jobs run, acceptance is no faster than they are: both share the processors. So it is measured apart as well.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::document::Note;
use crate::figures::{median, rounded};
use crate::follower::Follower;
use crate::http::{self, Http};
use crate::jobs::per_second;
use crate::{Outcome, say};

/// A client that has much to submit does not wait for each answer.
const CALLS_AT_ONCE: usize = 4;
const WITHIN: Duration = Duration::from_secs(120);

/// Jobs a second that are taken while nothing runs. Every one of them must run, and succeed, afterwards.
pub(crate) async fn measure(http: &Http, follower: &Follower, jobs: usize) -> Outcome<f64> {
    say(&format!("{jobs} jobs taken over HTTP while nothing runs"));
    follower.begin();
    http.pause_echo(true).await?;
    // What a client takes to make its calls is its own.
    let bodies = http::bodies(jobs);
    let started = Instant::now();
    let taken = http.submit_made(bodies, CALLS_AT_ONCE).await;
    let seconds = started.elapsed().as_secs_f64();
    http.pause_echo(false).await?;
    taken?;
    follower.ends(jobs, WITHIN).await?;
    Ok(per_second(jobs, seconds))
}

/// What was taken while nothing ran, and while everything that was taken ran, beside the requests that the bus alone carries.
pub(crate) fn summary(alone: &[f64], running: &[f64], requests: &[f64]) -> Value {
    let (alone, running, carried) = (median(alone), median(running), median(requests));
    let ratio = |rate: f64| rounded(rate / carried.max(1.0));
    json!({
        "bus_requests_per_second": rounded(carried),
        "while_nothing_runs": { "jobs_per_second": rounded(alone), "ratio": ratio(alone) },
        "while_they_run": { "jobs_per_second": rounded(running), "ratio": ratio(running) },
    })
}

/// The same for the page that is made of a result.
pub(crate) fn note(summary: &Value) -> Note {
    let number = |value: &Value, places: usize| format!("{:.places$}", value.as_f64().unwrap_or_default());
    let taken = |name: &str, of: &Value| vec![name.to_owned(), number(&of["jobs_per_second"], 0), number(&of["ratio"], 2)];
    let lines = vec![
        taken("while nothing runs", &summary["while_nothing_runs"]),
        taken("while they run", &summary["while_they_run"]),
        vec!["requests of the bus alone".to_owned(), number(&summary["bus_requests_per_second"], 0), "1".to_owned()],
    ];
    Note::new("Taken over HTTP", &["", "a second", "beside the bus' requests"], lines)
}

/// The same for people.
pub(crate) fn line(summary: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let taken = |when: &str| {
        let of = &summary[when];
        format!("{:.0} jobs/s ({:.2})", number(&of["jobs_per_second"]), number(&of["ratio"]))
    };
    format!(
        "HTTP takes {} while nothing runs, {} while they run; the bus alone carries {:.0} requests/s (1)",
        taken("while_nothing_runs"),
        taken("while_they_run"),
        number(&summary["bus_requests_per_second"]),
    )
}
