//! Hunts of the pack `bpsw` on real workers: they survive pauses and deaths, findings are judged again elsewhere, and claims need proofs.

use serde_json::{Value, json};

use crate::support::{Client, Dev, DevOptions, Process, built, shipped_pack, until};

/// Odd composites below this that pass the strong base-2 test: 46 (Pomerance, Selfridge and Wagstaff 1980).
const CENSUS_TO: u64 = 1_000_000;
/// Many more than are out at once, so that a pause comes in the middle.
const PARTS: u64 = 400;
const SECOND: &str = "test.second";

struct Scene {
    dev: Dev,
    workers: [Process; 2],
}

impl Scene {
    fn begin() -> Self {
        let dev = Dev::start_with(DevOptions { packs: vec![shipped_pack("bpsw")], ..DevOptions::default() });
        let workers = workers(&dev);
        Self { dev, workers }
    }

    fn client(&self) -> Client {
        self.dev.client()
    }

    /// Scheduler, engine, gateway, kernel, servers and workers die at once, and come back.
    fn kill_everything(&mut self) {
        self.dev.kill9();
        self.workers.iter_mut().for_each(Process::kill9);
        self.dev.restart();
        self.workers = workers(&self.dev);
    }
}

fn workers(dev: &Dev) -> [Process; 2] {
    ["one", "two"].map(|id| Process::worker(dev, id, 1))
}

fn begin(client: &Client, workflow: &str, input: &Value) -> String {
    let started: Value = client.post(&format!("/api/v1/workflows/{workflow}/runs"), input).of(202);
    started["run_id"].as_str().expect("a run").to_owned()
}

fn view(client: &Client, run: &str) -> Option<Value> {
    client.try_get(&format!("/api/v1/workflow-runs/{run}")).ok().map(|answer| answer.of(200))
}

/// What a run gives back.
fn output(client: &Client, run: &str) -> Value {
    let view =
        until("the run has ended", || view(client, run).filter(|view| view["state"] != "RUNNING" && view["state"] != "PAUSED"));
    assert_eq!(view["state"], "SUCCEEDED", "{view}");
    view["output"].clone()
}

/// How many parts are done, and how many are out.
fn parts(view: &Value) -> (u64, u64) {
    let steps = view["steps"].as_array().expect("steps");
    let search = steps.iter().find(|step| step["id"] == "search").expect("the search");
    (search["items"]["succeeded"].as_u64().unwrap_or(0), search["items"]["running"].as_u64().unwrap_or(0))
}

/// The names of live jobs in a state: there are no more than are out at once.
fn jobs(client: &Client, state: &str) -> Vec<String> {
    let page: Value = client.get(&format!("/api/v1/jobs?limit=100&state={state}")).of(200);
    let items = page["items"].as_array().expect("a page").iter();
    items.map(|job| job["id"].as_str().expect("a name").to_owned()).collect()
}

/// Whether a job waits because its run is paused.
fn is_held(client: &Client, job: &str, run: &str) -> bool {
    let path = format!("/api/v1/jobs/{}/explain", job.replace('[', "%5B").replace(']', "%5D"));
    let told: Value = client.get(&path).of(200);
    told["summary"].as_str().expect("a sentence").contains(&format!("run {run} is paused"))
}

fn hold(client: &Client, run: &str, verb: &str) -> Value {
    let reply: Value = client.post_raw(&format!("/api/v1/workflow-runs/{run}/{verb}"), b"").of(200);
    reply["state"].clone()
}

/// Whether an odd number passes the strong test to base 2.
fn passes_base_two(n: u64) -> bool {
    let power = |mut exponent: u64| {
        let (mut base, mut result) = (2_u64, 1_u64);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result * base % n;
            }
            base = base * base % n;
            exponent >>= 1;
        }
        result
    };
    let twos = (n - 1).trailing_zeros();
    let odd = (n - 1) >> twos;
    power(odd) == 1 || (0..twos).any(|k| power(odd << k) == n - 1)
}

fn is_prime(n: u64) -> bool {
    (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[test]
fn a_census_survives_a_pause_and_the_death_of_everything() {
    let mut scene = Scene::begin();
    let client = scene.client();
    let input = json!({"from": "3", "to": CENSUS_TO.to_string(), "mode": "census", "chunk": CENSUS_TO / PARTS});
    let run = begin(&client, "bpsw.search", &input);
    until("some parts are done", || view(&client, &run).filter(|view| parts(view).0 >= 3));
    assert_eq!(hold(&client, &run, "pause"), "PAUSED");
    let still = until("no worker has any of it, and what waits is held", || {
        let (sent, runs, waits) = (jobs(&client, "DISPATCHED"), jobs(&client, "RUNNING"), jobs(&client, "SCHEDULED"));
        let out = waits.len() as u64;
        let view = view(&client, &run).filter(|view| sent.is_empty() && runs.is_empty() && parts(view).1 == out)?;
        is_held(&client, waits.first()?, &run).then_some(view)
    });
    assert!(parts(&still).0 < PARTS, "{still}");

    // A pause outlives everybody.
    scene.kill_everything();
    let client = scene.client();
    let after = until("the gateway answers", || view(&client, &run));
    assert_eq!((&after["state"], parts(&after)), (&json!("PAUSED"), parts(&still)));
    let waits = until("the scheduler answers", || Some(jobs(&client, "SCHEDULED")).filter(|jobs| !jobs.is_empty()));
    assert!(is_held(&client, &waits[0], &run) && waits.len() as u64 == parts(&still).1, "{waits:?}");
    assert_eq!(hold(&client, &run, "resume"), "RUNNING");
    until("it goes on", || view(&client, &run).filter(|view| parts(view).0 > parts(&still).0));
    scene.kill_everything();

    let client = scene.client();
    let found = output(&client, &run);
    let counted = (&found["checked"], &found["primes"], &found["spsp2"], &found["slpsp"]);
    assert_eq!(counted, (&json!(499_999), &json!(78_497), &json!(46), &json!(58)), "{found}");
    assert_eq!((&found["counterexamples"], &found["opinions"]), (&json!([]), &json!(0)));
    every_strong_pseudoprime_is_judged_again_elsewhere(&client);
    claims_need_proofs(&client);
}

/// Nothing that passes both halves is known, so the second opinion is shown on what passes the first: the Lucas half rejects all.
fn every_strong_pseudoprime_is_judged_again_elsewhere(client: &Client) {
    let numbers: Vec<String> =
        (3..CENSUS_TO).step_by(2).filter(|n| passes_base_two(*n) && !is_prime(*n)).map(|n| n.to_string()).collect();
    assert_eq!(numbers.len(), 46);
    let judged = json!({"task_type": "judge", "numbers": ["${item}"]});
    let document = json!({
        "apiVersion": "busbar/v1", "kind": "Workflow", "id": SECOND,
        "steps": {
            "first": {"type": "for_each", "items": "input", "topic": "job.bpsw.judge", "input": judged},
            "second": {"type": "for_each", "depends_on": ["first"], "items": "input", "topic": "job.bpsw.judge", "input": judged,
                "place": {"not_on": "${steps.first.worker[index]}"}}
        },
        "output": {"first": "${steps.first.worker}", "second": "${steps.second.worker}",
            "opinions": "${steps.first.output + steps.second.output}"}
    });
    let _: Value = client.post("/api/v1/workflows", &document).of(201);
    let found = output(client, &begin(client, SECOND, &json!(numbers)));
    let opinions = found["opinions"].as_array().expect("opinions");
    assert_eq!(opinions.len(), 92);
    for opinion in opinions {
        let judged = &opinion["judgements"][0];
        let told = (&judged["base_two"], &judged["lucas"], &judged["verdict"]);
        assert_eq!(told, (&json!(true), &json!(false), &json!("composite")), "{judged}");
    }
    let ids = |name: &str| found[name].as_array().expect("workers").clone();
    for (first, second) in ids("first").iter().zip(ids("second")) {
        assert!(first.is_string() && second.is_string() && *first != second, "{first} and {second}");
    }
}

fn claims_need_proofs(client: &Client) {
    let claim = |claim: Value| json!({"task_type": "verify", "claims": [claim]});
    let bare = json!({"topic": "job.bpsw.verify", "input": claim(json!({"n": "2047"}))});
    client.post("/api/v1/jobs", &bare).problem(422, "input_invalid");
    let poor = claim(json!({"n": "2047", "certificate": {"kind": "factors", "factors": ["23", "89"]}}));
    let verified = client.result(&client.submit("job.bpsw.verify", &poor));
    assert_eq!(verified["confirmed"], json!([]));
    assert_eq!(verified["refused"][0]["reason"], "it fails the strong Lucas test");
}

#[test]
fn constructions_run_on_real_workers_and_chunks_are_sized_by_time() {
    let scene = Scene::begin();
    let client = scene.client();
    let hunt = |arguments: &[&str]| -> Value {
        let mut command = std::process::Command::new(built("ctl"));
        command.args([
            "--url",
            &scene.dev.endpoints.http,
            "--api-key",
            &scene.dev.endpoints.api_key,
            "-o",
            "json",
            "hunt",
            "bpsw",
        ]);
        let output = command.args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    // All subsets of the pack's own primes: 3 and 83 suit.
    let primes = hunt(&["--kind", "pomerance_modular"]);
    assert_eq!((&primes["checked"], &primes["suiting_primes"]), (&json!(32), &json!(["3", "83"])));
    // 3 divides N; of 83 alone no product can be made.
    let runs: Value = client.get("/api/v1/workflow-runs?workflow_id=bpsw.search&limit=1").of(200);
    let earlier = runs["items"][0]["run_id"].as_str().expect("a run");
    let products = hunt(&["--kind", "pomerance_modular", "--phase", "products", "--primes-of", earlier]);
    let told = (&products["checked"], &products["calibration"], &products["suiting_primes"], &products["counterexamples"]);
    assert_eq!(told, (&json!(2), &json!(true), &json!([]), &json!([])), "{products}");

    // Carmichael numbers, none of which passes the Lucas half.
    let carmichaels = hunt(&["--kind", "lambda_plus_one", "--to", "99", "--chunk", "50"]);
    assert_eq!((&carmichaels["parts"], &carmichaels["checked"]), (&json!(2), &json!(100)));
    let counters = carmichaels["counters"].as_array().expect("counters");
    assert!(counters.iter().all(|part| part["lucas_pass"] == 0), "{carmichaels}");

    // A range that is measured first; whatever the pace, all of it is searched once.
    let measured = hunt(&["--from", "1000000000000000001", "--to", "1000000000010000000", "--chunk-seconds", "1"]);
    assert_eq!((&measured["checked"], &measured["kind"]), (&json!(5_000_000), &json!("main_odds")), "{measured}");
}
