//! What a job costs the servers: the calls that Redis counted, the messages that NATS counted, by job. Both count all the time, so that
//! asking before and after disturbs nothing.
//!
//! ```text
//!  INFO commandstats, INFO stats ─┐
//!                                 ├─ before, after ─► difference ─► divided by the jobs between
//!  GET /varz ─────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use busbar_servers::Stack;
use busbar_store::{Bare, StoreConfig};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Outcome;
use crate::document::Note;
use crate::figures::{Table, median, rounded};

/// What is left out of tables, though not of the JSON: less than one in a hundred jobs.
const TOLD_FROM: f64 = 0.01;

/// What the servers have counted since they began, or for one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Calls, by command. What a function calls counts, too.
    redis_calls: BTreeMap<String, f64>,
    /// Microseconds in Redis' one thread, by command; a function's time has that of what it calls in it.
    redis_us: BTreeMap<String, f64>,
    redis_bytes_in: f64,
    redis_bytes_out: f64,
    nats_messages_in: f64,
    nats_messages_out: f64,
    nats_bytes_in: f64,
    nats_bytes_out: f64,
}

/// What nats-server says of the messages that came in and that went out to somebody.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Messages {
    in_msgs: f64,
    out_msgs: f64,
    in_bytes: f64,
    out_bytes: f64,
}

/// Where both servers are asked.
pub(crate) struct Counters {
    redis: Bare,
    nats: String,
}

impl Counters {
    /// For servers of which the nats-server is monitored.
    pub(crate) async fn of(stack: &Stack) -> Outcome<Self> {
        let nats = stack.nats.monitoring_url().ok_or("the nats-server is not monitored")?;
        Ok(Self { redis: Bare::connect(&StoreConfig::new(stack.redis.url())).await?, nats })
    }

    /// What has been counted so far.
    pub(crate) async fn look(&self) -> Outcome<Counts> {
        let info = |section: &'static str| self.redis.call("INFO", vec![Bytes::from_static(section.as_bytes())]);
        let (commands, stats) = (text(info("commandstats").await?)?, text(info("stats").await?)?);
        let url = format!("{}/varz", self.nats);
        let nats = tokio::task::spawn_blocking(move || varz(&url)).await??;
        Ok(Counts::read(&commands, &stats, nats))
    }
}

fn text(answer: Vec<Option<Bytes>>) -> Outcome<String> {
    let bytes = answer.into_iter().next().flatten().ok_or("Redis says nothing of itself")?;
    Ok(String::from_utf8(bytes.into())?)
}

fn varz(url: &str) -> Outcome<Messages> {
    Ok(serde_json::from_str(&ureq::get(url).call()?.body_mut().read_to_string()?)?)
}

impl Counts {
    /// From the lines `cmdstat_get:calls=2,usec=9,…` and `total_net_input_bytes:123`.
    fn read(commands: &str, stats: &str, nats: Messages) -> Self {
        let mut counts = Self {
            nats_messages_in: nats.in_msgs,
            nats_messages_out: nats.out_msgs,
            nats_bytes_in: nats.in_bytes,
            nats_bytes_out: nats.out_bytes,
            ..Self::default()
        };
        for (command, rest) in commands.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':')) {
            let field =
                |name: &str| rest.split(',').find_map(|cell| cell.strip_prefix(name)?.strip_prefix('=')?.trim().parse().ok());
            counts.redis_calls.insert(command.to_owned(), field("calls").unwrap_or_default());
            counts.redis_us.insert(command.to_owned(), field("usec").unwrap_or_default());
        }
        let number = |name: &str| {
            stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok()).unwrap_or_default()
        };
        counts.redis_bytes_in = number("total_net_input_bytes");
        counts.redis_bytes_out = number("total_net_output_bytes");
        counts
    }

    /// What was counted since, for each of `jobs`. Commands that nobody has called since are left out.
    pub(crate) fn per_job(&self, before: &Self, jobs: usize) -> Self {
        let jobs = crate::jobs::per_second(jobs, 1.0).max(1.0);
        let mut each = Self::combined(&[before, self], |counts| rounded((counts[1] - counts[0]).max(0.0) / jobs));
        each.redis_calls.retain(|_, calls| *calls > 0.0);
        each.redis_us.retain(|_, micros| *micros > 0.0);
        each
    }

    /// The middle of each number over several runs.
    pub(crate) fn median(runs: &[&Self]) -> Self {
        Self::combined(runs, |numbers| rounded(median(numbers)))
    }

    /// Each number made of those of all; a command that one lacks counts as none there.
    fn combined(all: &[&Self], make: impl Fn(&[f64]) -> f64) -> Self {
        let one = |of: &dyn Fn(&Self) -> f64| make(&all.iter().map(|counts| of(counts)).collect::<Vec<f64>>());
        let commands: BTreeSet<&String> = all.iter().flat_map(|counts| counts.redis_calls.keys()).collect();
        let by_command = |of: fn(&Self) -> &BTreeMap<String, f64>| {
            let number = |name: &str| one(&|counts| of(counts).get(name).copied().unwrap_or_default());
            commands.iter().map(|name| ((*name).clone(), number(name))).collect()
        };
        Self {
            redis_calls: by_command(|counts| &counts.redis_calls),
            redis_us: by_command(|counts| &counts.redis_us),
            redis_bytes_in: one(&|counts| counts.redis_bytes_in),
            redis_bytes_out: one(&|counts| counts.redis_bytes_out),
            nats_messages_in: one(&|counts| counts.nats_messages_in),
            nats_messages_out: one(&|counts| counts.nats_messages_out),
            nats_bytes_in: one(&|counts| counts.nats_bytes_in),
            nats_bytes_out: one(&|counts| counts.nats_bytes_out),
        }
    }

    fn lines(&self) -> Vec<(String, f64)> {
        let calls = self.redis_calls.iter().map(|(command, calls)| (format!("Redis: {command} calls"), *calls));
        let micros = self.redis_us.iter().filter(|(command, _)| is_outermost(command));
        let micros = micros.map(|(command, micros)| (format!("Redis: µs in {command}"), *micros));
        let rest = [
            ("Redis: bytes in", self.redis_bytes_in),
            ("Redis: bytes out", self.redis_bytes_out),
            ("NATS: messages in", self.nats_messages_in),
            ("NATS: messages out", self.nats_messages_out),
            ("NATS: bytes in", self.nats_bytes_in),
            ("NATS: bytes out", self.nats_bytes_out),
        ];
        calls.chain(micros).chain(rest.map(|(name, value)| (name.to_owned(), value))).collect()
    }
}

/// Commands that clients send: the time of all others is a part of a function's.
fn is_outermost(command: &str) -> bool {
    ["fcall", "mget", "set", "xrange", "ping"].contains(&command)
}

/// The budgets of several ways side by side: a line for each number, its name first.
fn lines(of: &[(&str, Counts)]) -> Vec<Vec<String>> {
    let names: BTreeSet<String> = of.iter().flat_map(|(_, budget)| budget.lines()).map(|(name, _)| name).collect();
    let mut lines = Vec::new();
    for name in names {
        let cells: Vec<f64> = of.iter().map(|(_, budget)| value_of(budget, &name)).collect();
        if cells.iter().any(|cell| *cell >= TOLD_FROM) {
            lines.push(std::iter::once(name).chain(cells.iter().map(|cell| format!("{cell:.2}"))).collect());
        }
    }
    lines
}

fn head<'a>(of: &[(&'a str, Counts)]) -> Vec<&'a str> {
    std::iter::once("a job").chain(of.iter().map(|(way, _)| *way)).collect()
}

/// For people.
pub(crate) fn table(of: &[(&str, Counts)]) -> String {
    let mut table = Table::with_head(&head(of));
    lines(of).into_iter().for_each(|line| table.line(line));
    table.show()
}

/// The same for the page that is made of a result.
pub(crate) fn note(of: &[(&str, Counts)]) -> Note {
    Note::new("What a job costs the servers, as they count it", &head(of), lines(of))
}

fn value_of(budget: &Counts, name: &str) -> f64 {
    budget.lines().into_iter().find(|(other, _)| other == name).map_or(0.0, |(_, value)| value)
}

/// The same for programs.
pub(crate) fn summary(of: &[(&str, Counts)]) -> Value {
    json!(of.iter().map(|(way, budget)| (*way, budget)).collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMANDS: &str = "# Commandstats\r\ncmdstat_fcall:calls=10,usec=500,usec_per_call=50.00,rejected_calls=0,failed_calls=0\r\n\
                            cmdstat_client|setname:calls=1,usec=2,usec_per_call=2.00\r\n";
    const STATS: &str = "# Stats\r\ntotal_net_input_bytes:4000\r\ntotal_net_output_bytes:100\r\n";

    #[test]
    fn what_was_counted_between_is_told_by_job() {
        let messages = |count| Messages { in_msgs: count, out_msgs: 2.0 * count, in_bytes: 0.0, out_bytes: 0.0 };
        let before = Counts::read(COMMANDS, STATS, messages(1.0));
        let after = Counts::read(&COMMANDS.replace("calls=10,usec=500", "calls=30,usec=900"), STATS, messages(5.0));
        let budget = after.per_job(&before, 4);
        assert_eq!(budget.redis_calls, BTreeMap::from([("fcall".to_owned(), 5.0)]));
        assert_eq!(budget.redis_us, BTreeMap::from([("fcall".to_owned(), 100.0)]));
        assert_eq!((budget.redis_bytes_in, budget.nats_messages_in, budget.nats_messages_out), (0.0, 1.0, 2.0));
    }

    #[test]
    fn what_costs_next_to_nothing_is_in_no_table() {
        let calls = BTreeMap::from([("set".to_owned(), 1.0), ("config|get".to_owned(), 0.001)]);
        let note = note(&[("busbar_sdk", Counts { redis_calls: calls, ..Counts::default() })]);
        assert_eq!(note.head, ["a job", "busbar_sdk"]);
        assert_eq!(note.lines, [["Redis: set calls", "1.00"]]);
    }

    #[test]
    fn medians_are_taken_by_number_and_commands_that_a_run_lacks_count_as_none() {
        let with = |calls: &[(&str, f64)], bytes| Counts {
            redis_calls: calls.iter().map(|(name, calls)| ((*name).to_owned(), *calls)).collect(),
            redis_bytes_in: bytes,
            ..Counts::default()
        };
        let runs = [with(&[("get", 1.0)], 9.0), with(&[("get", 3.0), ("set", 5.0)], 1.0), with(&[("get", 2.0)], 4.0)];
        let middle = Counts::median(&runs.iter().collect::<Vec<_>>());
        assert_eq!(middle.redis_calls, BTreeMap::from([("get".to_owned(), 2.0), ("set".to_owned(), 0.0)]));
        assert!((middle.redis_bytes_in - 4.0).abs() < 1e-9);
    }
}
