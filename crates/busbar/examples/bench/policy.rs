//! `bench policy`: decisions a second of the safety kernel, by itself and over gRPC in batches, with few rules and with many.
//!
//! ```text
//!  one snapshot ─► evaluate, again and again, on one core                                       pure
//!  the same rules, published ─► safety-kernel, a process of its own ◄─ CheckBatch, some at once  over gRPC
//! ```

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{BundleAction, BundleTier, PublishBundleReply, PublishBundleRequest};
use busbar_protocol::cap::{DecisionType, PolicyCheckRequest};
use busbar_protocol::ports::{Bus as _, Headers, Judge as _, Question};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_rpc::{KernelClient, KernelClientOptions};
use busbar_safety_kernel::core::bundle::{Source, Tier};
use busbar_safety_kernel::core::evaluate::evaluate;
use busbar_safety_kernel::core::snapshot::Snapshot;
use clap::Args;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use crate::apart::Apart;
use crate::dev::World;
use crate::document::Figure;
use crate::figures::Table;
use crate::jobs::per_second;
use crate::spread::Spread;
use crate::{Outcome, Report, machine, say};

const BUNDLE: &str = "bench";
const RULES: [usize; 2] = [10, 1_000];
/// As many as one call takes.
const BATCH: usize = 256;
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// How many requests the pure evaluation takes between two looks at the clock.
const STRETCH: usize = 64;

/// Decisions.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct PolicyArgs {
    /// For how many seconds each repetition decides.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many repetitions.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many calls are on their way at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    calls: u16,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// Decisions a second, by number of rules.
#[derive(Debug)]
struct Row {
    rules: usize,
    pure: Vec<f64>,
    grpc: Vec<f64>,
}

/// Measures.
pub(crate) async fn measure(args: &PolicyArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting servers and a kernel");
    let apart = Apart::start(temp.path()).await?;
    let world = apart.world().await?;
    // Longer than a scheduler waits: what is slow is to be measured, not given up.
    let options = KernelClientOptions { deadline: ASK_WITHIN, ..KernelClientOptions::default() };
    let client = KernelClient::new(apart.kernel_address(), options)?;
    let mut rows: Vec<Row> = RULES.map(|rules| Row { rules, pure: Vec::new(), grpc: Vec::new() }).into();
    for run in 1..=args.runs {
        for row in &mut rows {
            say(&format!("repetition {run} of {}: {} rules", args.runs, row.rules));
            row.pure.push(pure(row.rules, Duration::from_secs(args.seconds))?);
            publish(&world, row.rules).await?;
            row.grpc.push(over_grpc(&client, args).await?);
        }
    }
    Ok(report(args, &machine, &rows))
}

/// Rules for topics of their own, and one that allows what is asked.
fn content(rules: usize) -> String {
    let mut text = "version: \"1\"\nrules:\n".to_owned();
    for number in 1..rules {
        // Writing into a string can not fail.
        let _ = write!(
            text,
            "  - id: r{number}\n    match: {{topics: [\"job.bench.t{number}.*\"], tenants: [\"team-{number}\"]}}\n    decision: deny\n    reason: not here\n"
        );
    }
    text.push_str(
        "  - id: allowed\n    match: {topics: [\"job.bench.asked\"]}\n    decision: allow\n    reason: what is measured\n",
    );
    text
}

fn request(number: usize) -> PolicyCheckRequest {
    PolicyCheckRequest {
        job_id: format!("00000000-0000-7000-8000-{number:012}"),
        topic: "job.bench.asked".to_owned(),
        tenant: "default".to_owned(),
        principal_id: "bench".to_owned(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..PolicyCheckRequest::default()
    }
}

/// Decisions a second on one core, without anything around.
fn pure(rules: usize, within: Duration) -> Outcome<f64> {
    let source = Source { tier: Tier::Core, id: BUNDLE.to_owned(), content: content(rules), topics: Vec::new() };
    let snapshot = Snapshot::compile([source])?;
    let requests: Vec<_> = (0..STRETCH).map(request).collect();
    let started = Instant::now();
    let mut decided = 0;
    while started.elapsed() < within {
        for request in &requests {
            black_box(evaluate(&snapshot, black_box(request)));
        }
        decided += STRETCH;
    }
    Ok(per_second(decided, started.elapsed().as_secs_f64()))
}

/// Replaces the rules of the kernel, which decides under them once it has answered.
async fn publish(world: &World, rules: usize) -> Outcome<()> {
    let request = PublishBundleRequest {
        bundle_id: BUNDLE.to_owned(),
        tier: BundleTier::Core.into(),
        content: content(rules),
        topics: Vec::new(),
        action: BundleAction::Publish.into(),
    };
    let body = request.encode_to_vec().into();
    let answer = world.bus.request(subjects::KERNEL_PUBLISH, Headers::new(), body, ASK_WITHIN).await?;
    match PublishBundleReply::decode(answer.payload)?.problem {
        None => Ok(()),
        Some(problem) => Err(format!("the rules are refused: {}: {}", problem.code, problem.detail).into()),
    }
}

/// Decisions a second over gRPC. Every one must be the one that the rules say.
async fn over_grpc(client: &KernelClient, args: &PolicyArgs) -> Outcome<f64> {
    let questions: Vec<Question> =
        (0..BATCH).map(|number| Question { request: request(number), ..Question::default() }).collect();
    let started = Instant::now();
    let within = Duration::from_secs(args.seconds);
    let calls = stream::iter(0_u64..)
        .take_while(|_| std::future::ready(started.elapsed() < within))
        .map(|_| check(client, questions.clone()));
    let decided: usize = calls
        .buffer_unordered(args.calls.into())
        .try_fold(0, |sum, count| async move { Ok::<_, crate::Failure>(sum + count) })
        .await?;
    Ok(per_second(decided, started.elapsed().as_secs_f64()))
}

async fn check(client: &KernelClient, questions: Vec<Question>) -> Outcome<usize> {
    let reply = client.check(questions).await?;
    let allowed = reply.responses.iter().filter(|response| response.decision() == DecisionType::Allow).count();
    if allowed == BATCH { Ok(BATCH) } else { Err(format!("{allowed} of {BATCH} were allowed").into()) }
}

fn report(args: &PolicyArgs, machine: &Value, rows: &[Row]) -> Report {
    let spread = |samples: &[f64]| Spread::of(samples.iter().copied());
    let of_row =
        |row: &Row| json!({ "rules": row.rules, "pure_per_second": spread(&row.pure), "grpc_per_second": spread(&row.grpc) });
    let figures: Vec<Figure> = rows
        .iter()
        .flat_map(|row| {
            let of = format!("{} rules", row.rules);
            [("pure, one core", &row.pure), ("over gRPC", &row.grpc)]
                .map(|(name, samples)| Figure::of(&of, name, "decisions/s", samples))
        })
        .collect();
    let summary = json!({
        "durability": "safe", "repetitions": args.runs, "figures": figures,
        "bench": "policy", "machine": machine, "runs": args.runs, "seconds": args.seconds,
        "batch": BATCH, "calls_at_once": args.calls, "rows": rows.iter().map(of_row).collect::<Vec<_>>(),
    });
    let raw: Vec<Value> = rows.iter().map(|row| json!({ "rules": row.rules, "pure": row.pure, "grpc": row.grpc })).collect();
    let mut table = Table::with_head(&["decisions a second", "pure, one core", "over gRPC"]);
    for row in rows {
        table.line([format!("{} rules", row.rules), spread(&row.pure).words(0), spread(&row.grpc).words(0)]);
    }
    let text = format!(
        "{}\nmin / median / max of {} repetitions of {} s; over gRPC in calls of {BATCH}, {} at once, and each decision was right\n\n{}",
        machine::line(machine),
        args.runs,
        args.seconds,
        args.calls,
        table.show()
    );
    Report { table: text, raw: raw.into(), summary }
}
