//! What the system tells of itself: one trace from the client to the guest, log lines that name their job, metrics of every
//! role, and that alerts and dashboard speak of metrics which exist.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use busbar_api::{JobState, JobView};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::support::{Client, Collector, Dev, DevOptions, Span, empty, guest, guest_pack, tree, until};

const CLIENT_SPAN: &str = "b7ad6b7169203331";
const CLIENT_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector that runs for as long as this lives.
struct Collecting {
    spans: Collector,
    endpoint: String,
    _running: (oneshot::Sender<()>, Runtime),
}

fn collect() -> Collecting {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spans = Collector::default();
    let (address, stop) = runtime.block_on(spans.serve(([127, 0, 0, 1], 0).into())).unwrap();
    Collecting { spans, endpoint: format!("http://{address}"), _running: (stop, runtime) }
}

/// A stack with a guest that succeeds and one that fails, its own worker included.
struct Watched {
    dev: Dev,
    collecting: Collecting,
    worker: Client,
    _temp: tempfile::TempDir,
}

fn watched() -> Watched {
    let temp = tempfile::tempdir().unwrap();
    let guests = [("good", empty(), json!({})), ("bad", guest("unreachable", ""), json!({}))];
    let pack = guest_pack(temp.path(), guests);
    let collecting = collect();
    let health = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collecting.endpoint.clone()),
        ("WORKER_HEALTH_LISTEN", health.to_string()),
        ("WORKER_LOG", "info,busbar_sdk=debug,worker=debug".to_owned()),
    ];
    let dev = Dev::start_with(DevOptions {
        args: ["--log-format", "json", "--log", "info,busbar_scheduler=debug"].map(str::to_owned).to_vec(),
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        workers: 1,
        packs: vec![pack],
        ..DevOptions::default()
    });
    Watched { dev, collecting, worker: Client::new(&format!("http://{health}"), None), _temp: temp }
}

fn one<'a>(spans: &'a [Span], service: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.service == service && span.name == name).collect();
    assert_eq!(found.len(), 1, "{service} {name} in\n{}", tree(spans));
    found[0]
}

#[test]
fn a_job_is_one_trace_and_its_log_lines_name_it() {
    let Watched { dev, collecting, worker, _temp } = watched();
    let client = dev.client();
    let traceparent = format!("00-{CLIENT_TRACE}-{CLIENT_SPAN}-01");
    let body = json!({"topic": "job.guests.good", "input": null});
    let reply: Value = client.post_with("/api/v1/jobs", &body, ("traceparent", &traceparent)).of(202);
    let job = reply["job_id"].as_str().unwrap().to_owned();
    assert_eq!(reply["trace_id"], CLIENT_TRACE);
    assert_eq!(client.wait(&job).state, JobState::Succeeded);

    let spans = until("the whole trace", || {
        let spans = collecting.spans.find(|span| span.trace == CLIENT_TRACE);
        let whole = ["job", "finish", "guest", "run", "dispatch", "check", "admit", "POST /api/v1/jobs"];
        whole.iter().all(|name| spans.iter().any(|span| span.name == *name)).then_some(spans)
    });
    let gateway = one(&spans, "busbar-gateway", "POST /api/v1/jobs");
    let admit = one(&spans, "busbar-scheduler", "admit");
    let check = one(&spans, "busbar-safety-kernel", "check");
    let whole = one(&spans, "busbar-scheduler", "job");
    let dispatch = one(&spans, "busbar-scheduler", "dispatch");
    let run = one(&spans, "busbar-worker", "run");
    let guest = one(&spans, "busbar-worker", "guest");
    let finish = one(&spans, "busbar-scheduler", "finish");
    let chain = [
        (gateway, CLIENT_SPAN),
        (admit, &gateway.id),
        (check, &admit.id),
        (whole, &admit.id),
        (dispatch, &whole.id),
        (run, &dispatch.id),
        (guest, &run.id),
        (finish, &whole.id),
    ];
    for (span, parent) in chain {
        assert_eq!(span.parent, parent, "{} in\n{}", span.name, tree(&spans));
        assert!(span.started <= span.ended && span.error.is_none(), "{span:?}");
    }
    let ordered = [gateway, admit, check, run, guest, finish];
    assert!(ordered.windows(2).all(|pair| pair[0].started <= pair[1].started), "{}", tree(&spans));
    for span in &chain[1..] {
        assert_eq!(span.0.attributes["busbar.job_id"], job, "{:?}", span.0);
    }
    assert!(guest.attributes["busbar.module"].starts_with("sha256:"), "{guest:?}");
    assert!(guest.attributes.contains_key("busbar.cpu_ms_max") && guest.attributes.contains_key("busbar.memory_bytes"));

    batches_have_a_trace_for_each_job(&client, &collecting);
    lines_name_their_job(&dev, &job);
    every_name_exists(&client, &worker);
}

fn batches_have_a_trace_for_each_job(client: &Client, collecting: &Collecting) {
    let jobs = client.submit_all([("job.guests.good", json!(null)), ("job.guests.bad", json!(null))]);
    let traces: BTreeSet<String> = jobs
        .iter()
        .map(|job| {
            let view: JobView = client.wait(job);
            until("its spans", || {
                let whole = collecting.spans.find(|span| span.name == "job" && span.attributes["busbar.job_id"] == *job);
                whole.into_iter().find(|span| span.trace == view.trace_id)
            })
        })
        .map(|span| {
            let spans = until("its beginning", || {
                let spans = collecting.spans.find(|other| other.trace == span.trace);
                spans.iter().any(|span| span.name == "submit" && span.parent.is_empty()).then_some(spans)
            });
            assert_eq!(one(&spans, "busbar-gateway", "submit").service, "busbar-gateway");
            assert_eq!(span.error.is_some(), span.attributes["busbar.topic"] == "job.guests.bad", "{span:?}");
            span.trace
        })
        .collect();
    assert_eq!(traces.len(), 2, "jobs that share nothing but their way share no trace");
}

fn lines_name_their_job(dev: &Dev, job: &str) {
    let worker_log = dev.data_dir().join("workers/dev-worker-1/worker.log");
    let of_job = |text: &str| -> Vec<Value> {
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["job_id"] == *job).collect()
    };
    let scheduler = until("the scheduler's lines", || Some(of_job(&dev.said())).filter(|lines| !lines.is_empty()));
    let worker = until("the worker's lines", || {
        let lines = of_job(&fs::read_to_string(&worker_log).ok()?);
        lines.iter().any(|line| line["message"] == "a guest has succeeded").then_some(lines)
    });
    for (role, lines) in [("scheduler", scheduler), ("worker", worker)] {
        for line in lines {
            assert_eq!((&line["trace_id"], &line["tenant_id"]), (&json!(CLIENT_TRACE), &json!("default")), "{line}");
            assert_eq!(line["role"], role, "{line}");
            assert!(line["version"].is_string() && line["timestamp"].is_string(), "{line}");
        }
    }
}

/// The names of all series that an endpoint serves, and of the histograms that they are parts of.
fn served(client: &Client) -> BTreeSet<String> {
    let answer = client.get("/metrics");
    assert_eq!(answer.status, 200);
    let series = answer.body.lines().filter(|line| !line.starts_with('#'));
    let names = series.map(|line| line.split(['{', ' ']).next().unwrap_or_default());
    names.flat_map(|name| [name, name.trim_end_matches("_bucket")]).map(str::to_owned).collect()
}

/// Every name of ours that a text speaks of.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("busbar_")).map(str::to_owned).collect()
}

fn every_name_exists(client: &Client, worker: &Client) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let alerts = fs::read_to_string(deploy.join("alerts.yml")).unwrap();
    let dashboard = fs::read_to_string(deploy.join("grafana/busbar.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let spoken = named(&alerts).union(&named(&dashboard.to_string())).cloned().collect::<BTreeSet<_>>();
    assert!(spoken.len() > 20, "{spoken:?}");
    client.get("/api/v1/jobs/nobody").problem(404, "job_not_found");
    // Some gauges appear with the first look of their role.
    let all = until("the gauges", || {
        let all: BTreeSet<String> = served(client).union(&served(worker)).cloned().collect();
        let looked = ["busbar_scheduler_slots", "busbar_scheduler_waiting", "busbar_scheduler_stream_fill_percent"];
        looked.iter().all(|name| all.contains(*name)).then_some(all)
    });
    let missing: Vec<&String> = spoken.difference(&all).collect();
    assert!(missing.is_empty(), "alerts or dashboard speak of what nobody serves: {missing:?}");
    assert_eq!(worker.get("/readyz").status, 200);
    assert_eq!(worker.get("/healthz").status, 200);
}
