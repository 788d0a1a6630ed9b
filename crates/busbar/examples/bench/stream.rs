//! `bench stream`: how many changes reach how many dashboards, how late, and what one that reads nothing costs the others.
//!
//! ```text
//!  jobs ─► busbar dev ─► WebSocket /api/v1/stream ─► 1, 10, 100 dashboards
//!                                                └─► 10 dashboards, and one that never reads
//! ```
//!
//! The delay of a change is from the time of its commit, which it carries, until a dashboard has its frame: the clocks are one machine's, and
//! commits tell milliseconds. Dashboards live in one process with everything that feeds them, so that many of them are a load of their own.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use busbar_sdk::Submission;
use clap::Args;
use futures::StreamExt as _;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::dev::Dev;
use crate::document::{Delivery, Figure, Note};
use crate::figures::Table;
use crate::http::{ECHO, input};
use crate::jobs::per_second;
use crate::spread::Spread;
use crate::ways::percentiles;
use crate::{Outcome, Report, machine, say};

const WITHIN: Duration = Duration::from_secs(300);
/// Each dashboard looks at the time of one change in so many: reading all of them would be most of the load.
const SAMPLE_EVERY: usize = 256;
const WARM_UP: usize = 1_000;

/// Dashboards.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct StreamArgs {
    /// How many jobs one run submits.
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
    /// How many runs of each number of dashboards.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many jobs the worker takes at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// Who looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Audience {
    dashboards: usize,
    /// Connected, and reads nothing.
    asleep: usize,
}

const AUDIENCES: [Audience; 4] = [
    Audience { dashboards: 1, asleep: 0 },
    Audience { dashboards: 10, asleep: 0 },
    Audience { dashboards: 10, asleep: 1 },
    Audience { dashboards: 100, asleep: 0 },
];

/// One run.
#[derive(Debug, Serialize)]
struct Run {
    audience: Audience,
    /// Frames that all dashboards together got, while changes came.
    events: usize,
    events_per_second: f64,
    jobs_per_second: f64,
    delays_ms: Vec<f64>,
}

/// What one dashboard saw.
#[derive(Debug, Default)]
struct View {
    events: usize,
    delays_ms: Vec<f64>,
}

type Socket = WebSocketStream<TcpStream>;

/// Measures.
pub(crate) async fn measure(args: &StreamArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting busbar dev with a worker");
    let dev = Dev::start(temp.path(), 1, args.slots).await?;
    run(&dev, AUDIENCES[0], WARM_UP).await?;
    let mut runs = Vec::new();
    for round in 0..usize::from(args.runs) {
        for turn in 0..AUDIENCES.len() {
            let audience = AUDIENCES[(round + turn) % AUDIENCES.len()];
            say(&format!("round {} of {}: {}, {} jobs", round + 1, args.runs, words(audience), args.jobs));
            runs.push(run(&dev, audience, args.jobs).await?);
        }
    }
    dev.stop().await?;
    Ok(report(args, &machine, &runs))
}

fn words(audience: Audience) -> String {
    match audience {
        Audience { dashboards: 1, asleep: 0 } => "1 dashboard".to_owned(),
        Audience { dashboards, asleep: 0 } => format!("{dashboards} dashboards"),
        Audience { dashboards, asleep } => format!("{dashboards} dashboards, {asleep} that reads nothing"),
    }
}

/// Runs jobs while the audience looks on. Every dashboard must see the end of every job, once.
async fn run(dev: &Dev, audience: Audience, jobs: usize) -> Outcome<Run> {
    let mut asleep = Vec::new();
    for _ in 0..audience.asleep {
        asleep.push(connect(dev).await?);
    }
    let mut watching = JoinSet::new();
    for number in 0..audience.dashboards {
        let socket = connect(dev).await?;
        watching.spawn(async move {
            let seen = timeout(WITHIN, watch(socket, jobs, number)).await;
            seen.unwrap_or_else(|_| Err("a dashboard waits in vain".into()))
        });
    }
    let client = dev.endpoints.client().await?;
    let submissions = (0..jobs).map(|number| Submission::new(ECHO, &input(number))).collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    client.submit_many(submissions).await.into_iter().try_for_each(|answer| answer.map(drop))?;
    let mut all = View::default();
    while let Some(view) = watching.join_next().await {
        let view = view??;
        all.events += view.events;
        all.delays_ms.extend(view.delays_ms);
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(asleep);
    let (events_per_second, jobs_per_second) = (per_second(all.events, seconds), per_second(jobs, seconds));
    Ok(Run { audience, events: all.events, events_per_second, jobs_per_second, delays_ms: all.delays_ms })
}

/// A dashboard that has had its first frame: from then on nothing is missed.
async fn connect(dev: &Dev) -> Outcome<Socket> {
    let address = dev.endpoints.http.strip_prefix("http://").ok_or("an odd address of the gateway")?;
    let mut request = format!("ws://{address}/api/v1/stream?kind=job&snapshot=false").into_client_request()?;
    request.headers_mut().insert("x-api-key", dev.endpoints.api_key.parse()?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, TcpStream::connect(address).await?).await?;
    socket.next().await.ok_or("the stream ended at once")??;
    Ok(socket)
}

/// Reads until so many jobs have ended.
async fn watch(mut socket: Socket, jobs: usize, number: usize) -> Outcome<View> {
    let (mut view, mut ended) = (View::default(), HashSet::new());
    while ended.len() < jobs {
        let Message::Text(text) = socket.next().await.ok_or("the stream ended")?? else { continue };
        let text = text.as_str();
        if !text.contains("\"event\":") {
            continue;
        }
        if (view.events + number).is_multiple_of(SAMPLE_EVERY) {
            view.delays_ms.push(delay_ms(text)?);
        }
        view.events += 1;
        if text.contains("\"state\":\"FAILED\"") {
            return Err(format!("a job has failed: {text}").into());
        }
        if text.contains("\"state\":\"SUCCEEDED\"") && !ended.insert(job_id(text)?.to_owned()) {
            return Err(format!("an end was told twice: {text}").into());
        }
    }
    Ok(view)
}

/// The job of a frame, found without reading all of it: the dashboards are not what is measured.
fn job_id(text: &str) -> Outcome<&str> {
    let (_, rest) = text.split_once("\"job_id\":\"").ok_or("a change without a job")?;
    Ok(rest.split_once('"').ok_or("half a frame")?.0)
}

/// How long ago the change of a frame was committed.
fn delay_ms(text: &str) -> Outcome<f64> {
    let frame: Value = serde_json::from_str(text)?;
    let at: Timestamp = frame["event"]["at"].as_str().ok_or("a change without a time")?.parse()?;
    Ok(Timestamp::now().duration_since(at).as_secs_f64() * 1e3)
}

fn report(args: &StreamArgs, machine: &Value, runs: &[Run]) -> Report {
    let rows: Vec<(Audience, Value)> = AUDIENCES.into_iter().map(|audience| (audience, summary_of(runs, audience))).collect();
    let figures: Vec<Figure> = AUDIENCES.into_iter().flat_map(|audience| figures_of(runs, audience)).collect();
    let delays = AUDIENCES.map(|audience| (words(audience), delays_of(runs, audience)));
    let ends: usize = runs.iter().map(|run| run.audience.dashboards * args.jobs).sum();
    let summary = json!({
        "durability": "safe", "repetitions": args.runs, "figures": figures,
        // An end that does not come, or comes twice, ends the measurement.
        "exact_delivery": Delivery::counted("ends of jobs at each dashboard", ends, 0, 0),
        "notes": [Note::of_latencies("From commit to dashboard", delays)],
        "bench": "stream", "machine": machine, "jobs": args.jobs, "runs": args.runs, "slots": args.slots,
        "audiences": rows.iter().map(|(_, row)| row).collect::<Vec<_>>(),
    });
    let mut table = Table::with_head(&["", "events/s to all", "jobs/s meanwhile", "delay p50 ms", "p99 ms"]);
    for (audience, row) in &rows {
        let spread = |name: &str| Spread::read(&row[name]).words(0);
        let delay = |name: &str| format!("{:.0}", row["delay_ms"][name].as_f64().unwrap_or_default());
        table.line([words(*audience), spread("events_per_second"), spread("jobs_per_second"), delay("p50"), delay("p99")]);
    }
    let text = format!(
        "{}\n{} echo jobs in a bulk, min / median / max of {} runs in turn; each dashboard saw each end once; delays from commit to dashboard\n\n{}",
        machine::line(machine),
        args.jobs,
        args.runs,
        table.show()
    );
    Report { table: text, raw: json!({ "runs": runs }), summary }
}

fn figures_of(runs: &[Run], audience: Audience) -> [Figure; 3] {
    let of = words(audience);
    let rates = |rate: fn(&Run) -> f64| runs.iter().filter(|run| run.audience == audience).map(rate).collect::<Vec<f64>>();
    [
        Figure::of(&of, "events to all together", "events/s", &rates(|run| run.events_per_second)),
        Figure::of(&of, "jobs meanwhile", "jobs/s", &rates(|run| run.jobs_per_second)),
        Figure::of(&of, "from commit to dashboard", "ms", &delays_of(runs, audience)),
    ]
}

fn delays_of(runs: &[Run], audience: Audience) -> Vec<f64> {
    runs.iter().filter(|run| run.audience == audience).flat_map(|run| run.delays_ms.iter().copied()).collect()
}

fn summary_of(runs: &[Run], audience: Audience) -> Value {
    let of = |figure: fn(&Run) -> f64| Spread::of(runs.iter().filter(|run| run.audience == audience).map(figure));
    json!({
        "audience": audience,
        "events_per_second": of(|run| run.events_per_second),
        "jobs_per_second": of(|run| run.jobs_per_second),
        "delay_ms": percentiles(&delays_of(runs, audience)),
    })
}
