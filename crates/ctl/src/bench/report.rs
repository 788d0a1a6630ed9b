//! What a benchmark found, in words and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_api::StatusView;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::Finish;
use super::plan::{Pace, Plan};
use super::tally::{Counts, Delivery, Tally};
use crate::failure::{Failure, hint_of};
use crate::render::{grouped, pairs, table};

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    settings: Settings,
    counts: Counts,
    /// Why jobs failed or were rejected, by code.
    codes: BTreeMap<String, u64>,
    /// From the first submission until the last end was seen.
    seconds: f64,
    /// Jobs that succeeded, in this time.
    jobs_per_second: f64,
    /// From when a job was, or should have been, sent until its end was seen; of those that succeeded.
    latency_ms: Latency,
    /// How late the latest call was sent; null unless there were times to keep.
    latest_send_ms: Option<f64>,
    delivery: Delivery,
    finish: Finished,
    /// Why it did not come to its end.
    detail: Option<String>,
}

/// On what it was found.
#[derive(Debug, Serialize)]
struct Settings {
    url: String,
    gateway_version: String,
    ctl_version: &'static str,
    workers: u32,
    capacity: u32,
    #[serde(flatten)]
    plan: Plan,
}

/// How it came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Finished {
    Done,
    Interrupted,
    Stalled,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    samples: u64,
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| millis(Duration::from_micros(histogram.value_at_quantile(quantile)));
        let (min, max) = (histogram.min(), histogram.max());
        Self {
            samples: histogram.len(),
            min: millis(Duration::from_micros(min)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: millis(Duration::from_micros(max)),
        }
    }
}

/// Milliseconds with three places: microseconds are as fine as they are kept.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    pub(super) fn new(plan: &Plan, url: &str, status: &StatusView, tally: &Tally, finish: Finish) -> Self {
        let seconds = tally.last_end().as_secs_f64();
        let counts = tally.counts().clone();
        let (finish, detail) = match finish {
            Finish::Done => (Finished::Done, None),
            Finish::Interrupted => (Finished::Interrupted, None),
            Finish::Stalled(why) => (Finished::Stalled, Some(why)),
            Finish::Broken(failure) => (Finished::Broken, Some(failure.to_string())),
        };
        let is_open = matches!(plan.pace, Pace::Open { .. });
        Self {
            settings: Settings {
                url: url.to_owned(),
                gateway_version: status.version.clone(),
                ctl_version: env!("CARGO_PKG_VERSION"),
                workers: status.workers.count,
                capacity: status.workers.capacity,
                plan: plan.clone(),
            },
            codes: tally.codes().clone(),
            jobs_per_second: per_second(counts.succeeded, seconds),
            seconds,
            latency_ms: Latency::of(tally.latency()),
            latest_send_ms: is_open.then(|| millis(tally.latest_send())),
            delivery: tally.delivery(),
            counts,
            finish,
            detail,
        }
    }

    /// A table for people.
    pub(super) fn words(&self) -> String {
        let Settings { url, gateway_version, workers, capacity, plan, .. } = &self.settings;
        let mut text = pairs([
            ("cell", format!("{url}, version {gateway_version}, {workers} workers with {capacity} slots")),
            ("jobs", format!("{} of {}, {} bytes of input each", grouped(plan.jobs.into()), plan.topic, plan.payload_bytes)),
            ("sent", pace(plan.pace)),
            ("", String::new()),
            ("throughput", format!("{:.0} jobs/s, in {:.2} s", self.jobs_per_second, self.seconds)),
        ]);
        let latency = &self.latency_ms;
        let cells = [latency.min, latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
        let row = std::iter::once("ms".to_owned()).chain(cells.map(|ms| format!("{ms:.2}"))).collect();
        text.push_str(&format!("\n{}\n\n", table(&["LATENCY", "MIN", "P50", "P90", "P99", "P99.9", "MAX"], [row])));
        text.push_str(&pairs(self.outcome()));
        text
    }

    fn outcome(&self) -> Vec<(&'static str, String)> {
        let (counts, delivery) = (&self.counts, &self.delivery);
        let some = |count: u64| if count > 0 { grouped(count) } else { String::new() };
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{code} {}", grouped(*count))).collect();
        let exact = match delivery.exact {
            true => format!("exact: {} accepted, each ended once after one attempt", grouped(counts.accepted)),
            false => format!(
                "NOT exact: {} accepted, {} lost, {} unfinished, {} ended again, {} further attempts",
                grouped(counts.accepted),
                delivery.lost,
                delivery.unfinished,
                delivery.ended_again,
                delivery.further_attempts
            ),
        };
        vec![
            ("succeeded", grouped(counts.succeeded)),
            ("failed", grouped(counts.failed)),
            ("rejected", grouped(counts.rejected)),
            ("told to wait", some(counts.told_to_wait)),
            ("unanswered", some(counts.unanswered)),
            ("cancelled", some(counts.cancelled)),
            ("reasons", codes.join(", ")),
            ("delivery", exact),
            ("latest send", self.latest_send_ms.map(|ms| format!("{ms:.1} ms late")).unwrap_or_default()),
        ]
    }

    /// Fails unless everything went as it should.
    pub(super) fn judge(&self) -> Result<(), Failure> {
        let told = match self.finish {
            Finished::Done => self.shortfall(),
            Finished::Interrupted => Some("interrupted".to_owned()),
            Finished::Stalled => Some(format!("nothing happened any more: {}", self.detail.as_deref().unwrap_or_default())),
            Finished::Broken => self.detail.clone(),
        };
        told.map_or(Ok(()), |told| Err(Failure::Failed(told)))
    }

    fn shortfall(&self) -> Option<String> {
        let Counts { accepted, succeeded, rejected, unanswered, .. } = self.counts;
        let delivery = &self.delivery;
        if delivery.lost + delivery.unfinished + delivery.ended_again > 0 {
            return Some("jobs were not delivered as they should be: see the table".to_owned());
        }
        let jobs = accepted + rejected + unanswered;
        if succeeded == jobs {
            return None;
        }
        let most = self.codes.iter().max_by_key(|(_, count)| **count).map(|(code, _)| code.as_str());
        let hint = most.map(|code| format!(": {code}: {}", hint_of(code).unwrap_or_default())).unwrap_or_default();
        Some(format!("{} of {jobs} jobs did not succeed{hint}", jobs - succeeded))
    }
}

fn pace(pace: Pace) -> String {
    match pace {
        Pace::Closed { concurrency } => format!("one by one, {concurrency} under way at once"),
        Pace::Bulk { calls_at_once } => format!("in calls of {}, {calls_at_once} at once", super::plan::BULK_CALL),
        Pace::Open { jobs_per_second, connections } => {
            format!("{jobs_per_second} a second at fixed times, over at most {connections} connections")
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^52")]
fn per_second(jobs: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { (jobs as f64 / seconds * 1e3).round() / 1e3 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use busbar_api::{BusStatus, JobState, StoreStatus, WorkerTotals};

    use super::*;
    use crate::bench::tally::End;

    fn status() -> StatusView {
        StatusView {
            time: String::new(),
            version: "1.2.3".into(),
            uptime_seconds: 1,
            bus: BusStatus { connected: true, connections: 1 },
            store: StoreStatus { ok: true, error: None },
            scheduler: None,
            workers: WorkerTotals { count: 2, capacity: 8, in_flight: 0 },
        }
    }

    fn report(state: JobState, finish: Finish) -> Report {
        let pace = Pace::Open { jobs_per_second: 10.0, connections: 2 };
        let plan = Plan { topic: "job.echo".into(), jobs: 1, payload_bytes: 64, pace };
        let mut tally = Tally::new();
        let call = tally.begin(Duration::ZERO, Duration::from_millis(7));
        tally.accepted(["a".to_owned()], Duration::ZERO, Duration::from_millis(8));
        tally.over(call);
        tally.end("a", End { state, attempts: 1, code: None, at: Duration::from_millis(500) });
        Report::new(&plan, "http://cell", &status(), &tally, finish)
    }

    #[test]
    fn the_table_and_the_json_have_what_was_measured() {
        let report = report(JobState::Succeeded, Finish::Done);
        let words = report.words();
        for part in ["2 jobs/s, in 0.50 s", "P99.9", "exact: 1 accepted", "7.0 ms late", "2 workers with 8 slots"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["settings"]["mode"], "open");
        assert_eq!(json["latency_ms"]["samples"], 1);
        assert_eq!(json["delivery"]["exact"], true);
        assert!(report.judge().is_ok());
    }

    #[test]
    fn what_did_not_go_well_is_a_failure() {
        let told = report(JobState::Failed, Finish::Done).judge().expect_err("failed").to_string();
        assert!(told.starts_with("1 of 1 jobs did not succeed: FAILED"), "{told}");
        for finish in [Finish::Interrupted, Finish::Stalled("job a: waits".into())] {
            assert!(report(JobState::Succeeded, finish).judge().is_err());
        }
    }
}
