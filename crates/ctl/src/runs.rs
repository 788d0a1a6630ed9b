//! Starting runs and following them to their ends over the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use busbar_api::{RunChange, RunState, RunView, StartReply, StreamFilter, StreamItem};
use serde::de::DeserializeOwned;

use crate::client::{Client, encode};
use crate::failure::{Failure, ended_badly};
use crate::progress::Progress;
use crate::stream::Stream;

/// When nothing is heard of any run for so long, we give up.
const PATIENCE: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(100);

/// A run that is to be started.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its workflow.
    pub(crate) workflow: &'static str,
    /// Its input.
    pub(crate) input: serde_json::Value,
}

/// Starts the runs and returns them at their end, in the same order.
///
/// # Errors
/// The first run that is refused or does not succeed, with its reason.
pub(crate) fn run_all(client: &Client, title: &'static str, wanted: &[Wanted]) -> Result<Vec<RunView>, Failure> {
    run_and_hear(client, title, wanted, |_| String::new())
}

/// The same; what `hear` makes of each change is shown beside how far they are.
///
/// # Errors
/// As for [`run_all`].
pub(crate) fn run_and_hear(
    client: &Client,
    title: &'static str,
    wanted: &[Wanted],
    hear: impl FnMut(&RunChange) -> String,
) -> Result<Vec<RunView>, Failure> {
    let mut runs = Vec::with_capacity(wanted.len());
    for Wanted { workflow, input } in wanted {
        let reply: StartReply = client.post(&format!("/api/v1/workflows/{}/runs", encode(workflow)), input)?;
        runs.push(reply.run_id);
    }
    follow(client, title, &runs, hear)?;
    runs.iter().map(|run| ended(client, run)).collect()
}

/// Follows runs until all of them have ended.
fn follow(
    client: &Client,
    title: &'static str,
    runs: &[String],
    mut hear: impl FnMut(&RunChange) -> String,
) -> Result<(), Failure> {
    let kinds = ["run", "step"].map(str::to_owned).into();
    let mut stream = Stream::open(client, StreamFilter { run: runs.to_vec(), kind: kinds, ..StreamFilter::default() })?;
    let mut live: BTreeSet<String> = runs.iter().cloned().collect();
    let mut parts = Parts::default();
    let mut progress = Progress::begin(title, "parts");
    let mut heard = Instant::now();
    while !live.is_empty() {
        let frame = stream.next(TICK)?;
        match frame.map(|frame| frame.item()).transpose().map_err(std::io::Error::from)? {
            Some(StreamItem::Run(change)) => {
                heard = Instant::now();
                parts.take(&change);
                progress.note(hear(&change));
                if change.state.is_terminal() {
                    live.remove(&change.run_id);
                }
            }
            // What the snapshot did not show has ended before we looked, or between two looks.
            Some(StreamItem::SnapshotEnd(_)) => forget_ended(client, &mut live)?,
            Some(_) => {}
            None if heard.elapsed() > PATIENCE => {
                let told = live.first().map_or("", String::as_str);
                return Err(Failure::Failed(format!("nothing has been heard for {PATIENCE:?}: see `ctl run show {told}`")));
            }
            None => {}
        }
        let (done, total) = parts.sum();
        progress.show(done, total);
    }
    progress.end();
    Ok(())
}

fn forget_ended(client: &Client, live: &mut BTreeSet<String>) -> Result<(), Failure> {
    for run in live.clone() {
        if view(client, &run)?.state.is_terminal() {
            live.remove(&run);
        }
    }
    Ok(())
}

/// How far the `for_each` steps are: done and in all, by run and step.
#[derive(Debug, Default)]
struct Parts {
    by_step: BTreeMap<(String, String), (u32, u32)>,
}

impl Parts {
    fn take(&mut self, change: &RunChange) {
        for step in &change.changes {
            if let Some(items) = step.items {
                let key = (change.run_id.clone(), step.step.clone());
                self.by_step.insert(key, (items.succeeded + items.failed, items.total));
            }
        }
    }

    fn sum(&self) -> (u64, u64) {
        self.by_step.values().fold((0, 0), |(done, total), (own, of)| (done + u64::from(*own), total + u64::from(*of)))
    }
}

fn view(client: &Client, run_id: &str) -> Result<RunView, Failure> {
    client.get(&format!("/api/v1/workflow-runs/{}", encode(run_id)))
}

/// A run at its end.
fn ended(client: &Client, run_id: &str) -> Result<RunView, Failure> {
    let run = view(client, run_id)?;
    if run.state == RunState::Succeeded {
        return Ok(run);
    }
    let (code, message) = run.error.as_ref().map_or(("", ""), |error| (&error.code, &error.message));
    Err(ended_badly(&format!("the run {run_id} of {}", run.workflow_id), run.state, code, message))
}

/// What a run gave back, also where its view does not carry it.
pub(crate) fn output<T: DeserializeOwned>(client: &Client, run: &RunView) -> Result<T, Failure> {
    let path = format!("/api/v1/workflow-runs/{}/output", encode(&run.run_id));
    let text = match &run.output {
        Some(output) => output.get().as_bytes().to_vec(),
        None => client.get_bytes(&path)?,
    };
    serde_json::from_slice(&text).map_err(|error| Failure::Unreadable { path, detail: error.to_string() })
}

/// From the start to the end, by the control plane's clock.
pub(crate) fn elapsed(run: &RunView) -> Duration {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let (from, to) = (time(&run.created_at), run.ended_at.as_deref().and_then(time));
    from.zip(to).and_then(|(from, to)| Duration::try_from(to.duration_since(from)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use busbar_api::StreamFrame;

    use super::*;

    fn change(text: &str) -> RunChange {
        let frame = format!(
            r#"{{"subject":"busbar.run.event","event":{{"run_id":"r","workflow_id":"w","state":"RUNNING","at":"","error":null,
            "trace_id":"","changes":[{text}]}}}}"#
        );
        let frame: StreamFrame = serde_json::from_str(&frame).expect("a frame");
        match frame.item().expect("an item") {
            StreamItem::Run(change) => change,
            other => panic!("no change of a run: {other:?}"),
        }
    }

    #[test]
    fn parts_are_those_of_all_steps() {
        let mut parts = Parts::default();
        let step = |id: &str, succeeded: u32, total: u32| {
            format!(
                r#"{{"step":"{id}","item":null,"state":"RUNNING","attempt":0,"job_id":null,"error":null,
                "items":{{"total":{total},"succeeded":{succeeded},"failed":0,"running":0}}}}"#
            )
        };
        parts.take(&change(&format!("{},{}", step("map", 1, 9), step("reduce", 0, 2))));
        parts.take(&change(&step("map", 4, 9)));
        assert_eq!(parts.sum(), (4, 11));
    }
}
