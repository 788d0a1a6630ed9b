//! What a benchmark is going to do, decided before anything is sent: how many jobs, in which order of things, and whether to ask first.

use std::time::Duration;

use serde::Serialize;

/// More jobs than this are asked about first.
pub(super) const JOBS_UNASKED: u32 = 10_000;
/// So are more bytes of input.
pub(super) const BYTES_UNASKED: u64 = 64 * 1024 * 1024;
/// Jobs of one call of a bulk.
pub(super) const BULK_CALL: u32 = 1_000;

/// When jobs are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub(super) enum Pace {
    /// So many jobs are under way at once: the next one is sent when one has ended.
    Closed { concurrency: u16 },
    /// As fast as the cell takes them, in large calls, so many at once.
    Bulk { calls_at_once: u16 },
    /// At fixed times, whether the cell keeps up or not, over at most so many connections.
    Open { jobs_per_second: f64, connections: u16 },
}

/// What is going to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Plan {
    pub(super) topic: String,
    pub(super) jobs: u32,
    pub(super) payload_bytes: u32,
    #[serde(flatten)]
    pub(super) pace: Pace,
}

impl Pace {
    /// How many senders it takes.
    pub(super) const fn senders(self) -> u16 {
        match self {
            Self::Closed { concurrency } => concurrency,
            Self::Bulk { calls_at_once } => calls_at_once,
            Self::Open { connections, .. } => connections,
        }
    }

    /// How many jobs go into one call.
    pub(super) const fn per_call(self) -> u32 {
        match self {
            Self::Closed { .. } | Self::Open { .. } => 1,
            Self::Bulk { .. } => BULK_CALL,
        }
    }

    /// When the `number`-th job is to be sent, from the beginning; `None` where that follows from what happens.
    pub(super) fn due(self, number: u32) -> Option<Duration> {
        match self {
            Self::Closed { .. } | Self::Bulk { .. } => None,
            Self::Open { jobs_per_second, .. } => Some(Duration::from_secs_f64(f64::from(number) / jobs_per_second)),
        }
    }
}

impl Plan {
    /// The input of every job: a JSON text of so many bytes, quotes included.
    pub(super) fn input(&self) -> String {
        "x".repeat((self.payload_bytes as usize).saturating_sub(2))
    }

    /// What should be asked before it is done: a cell that others use would feel it.
    pub(super) fn question(&self, url: &str) -> Option<String> {
        let bytes = u64::from(self.jobs) * u64::from(self.payload_bytes);
        let is_large = self.jobs > JOBS_UNASKED || bytes > BYTES_UNASKED;
        is_large.then(|| format!("submit {} jobs with {bytes} bytes of input to {url}", self.jobs))
    }
}

/// Reads a rate of jobs: at least one in a thousand seconds.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let refuse = || "a number of jobs a second is wanted, from 0.001 to 1000000".to_owned();
    text.parse().ok().filter(|rate| (0.001..=1e6).contains(rate)).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: u32, payload_bytes: u32) -> Plan {
        Plan { topic: "job.echo".into(), jobs, payload_bytes, pace: Pace::Closed { concurrency: 4 } }
    }

    #[test]
    fn an_open_loop_sends_at_fixed_times() {
        let pace = Pace::Open { jobs_per_second: 200.0, connections: 8 };
        let times: Vec<_> = [0, 1, 200, 300].into_iter().filter_map(|number| pace.due(number)).collect();
        assert_eq!(times, [0, 5, 1_000, 1_500].map(Duration::from_millis));
        assert_eq!(Pace::Closed { concurrency: 1 }.due(7), None);
    }

    #[test]
    fn many_jobs_and_many_bytes_are_asked_about() {
        assert_eq!(plan(JOBS_UNASKED, 64).question("u"), None);
        assert!(plan(JOBS_UNASKED + 1, 64).question("u").is_some_and(|text| text.contains("10001 jobs")));
        assert!(plan(100, 1_000_000).question("u").is_some());
    }

    #[test]
    fn the_input_is_as_long_as_asked_for() {
        for bytes in [2, 3, 64] {
            assert_eq!(serde_json::to_vec(&plan(1, bytes).input()).expect("JSON").len(), bytes as usize);
        }
    }

    #[test]
    fn rates_are_bounded_numbers() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for bad in ["", "0", "-1", "NaN", "inf", "2e6", "10/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
