//! Jobs that do nothing: what the path from submission to result costs.

use busbar_api::SubmitRequest;

use super::Findings;
use super::collect::{elapsed, run_all};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{grouped, line};

/// Returns the id of one of the jobs.
pub(super) fn run(client: &Client, jobs: u32, findings: &mut Findings) -> Result<String, Failure> {
    let inputs: Vec<serde_json::Value> = (0..jobs).map(|n| serde_json::json!({ "n": n })).collect();
    let requests: Result<Vec<_>, _> = inputs.iter().map(|input| SubmitRequest::new("job.echo", input)).collect();
    let views = run_all(client, "echo", "job.echo", &requests.map_err(std::io::Error::from)?)?;
    for (view, input) in views.iter().zip(&inputs) {
        let result = view.result.as_ref().map(|result| result.get()).unwrap_or_default();
        if serde_json::from_str::<serde_json::Value>(result).ok().as_ref() != Some(input) {
            findings.push(format!("the echo job {} was given {input} and gave back {result:?}", view.id));
        }
    }
    let seconds = elapsed(views.iter()).as_secs_f64().max(0.001);
    let rate = f64::from(jobs) / seconds;
    let told = grouped(u64::from(jobs));
    line(&format!("  {told} jobs in {seconds:.2} s, from the first admission to the last end: {rate:.0} jobs/s"))?;
    Ok(views.first().map(|view| view.id.clone()).unwrap_or_default())
}
