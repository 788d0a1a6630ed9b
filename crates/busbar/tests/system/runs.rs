//! Runs survive the death of everything: servers, roles and workers at once.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Client, Dev, Executions, SLEEP, Sleeper, freeze, until};

const SLOTS: u32 = 8;
const ITEMS: usize = 240;
const WORKER: &str = "sleeper-1";

/// Many short sleeps, and a long one that tells how many they were.
fn workflow() -> Value {
    json!({
        "apiVersion": "busbar/v1", "kind": "Workflow", "id": "sleeps",
        "steps": {
            "map": {"type": "for_each", "items": "input", "topic": SLEEP, "input": {"ms": "${item}"}, "max_parallel": 32},
            "sum": {"type": "transform", "depends_on": ["map"], "value": "${sum(steps.map.output.map(slept, slept.slept))}"},
            "reduce": {"type": "job", "depends_on": ["sum"], "topic": SLEEP, "input": {"ms": 3000}}
        },
        "output": {"slept": "${steps.sum.output + steps.reduce.output.slept}", "items": "${size(steps.map.output)}"}
    })
}

struct Scene {
    dev: Dev,
    sleeper: Sleeper,
    run: String,
}

impl Scene {
    fn begin() -> Self {
        let dev = Dev::start();
        let sleeper = Sleeper::start(&dev, WORKER, SLOTS, &dev.temp().join("executions"));
        let client = dev.client();
        let _: Value = client.post("/api/v1/workflows", &workflow()).of(201);
        let input: Vec<u64> = (0..ITEMS as u64).map(|n| 10 + n % 20).collect();
        let started: Value = client.post("/api/v1/workflows/sleeps/runs", &json!(input)).of(202);
        let run = started["run_id"].as_str().expect("a run").to_owned();
        Self { dev, sleeper, run }
    }

    fn view(&self) -> Option<Value> {
        view(&self.dev.client(), &self.run)
    }

    /// Waits until the run is where the test wants it.
    fn wait_for(&self, what: &str, is_there: impl Fn(&Value) -> bool) {
        until(what, || self.view().filter(&is_there));
    }

    /// The worker has been frozen, so that it begins nothing of what it has at hand while the rest dies.
    fn kill_everything(&mut self) {
        self.dev.kill9();
        self.sleeper.kill9();
        self.dev.restart();
        self.sleeper = Sleeper::start(&self.dev, WORKER, SLOTS, &self.file());
    }

    fn file(&self) -> std::path::PathBuf {
        self.dev.temp().join("executions")
    }

    /// The run ends as if nothing had happened. Returns how often each job was executed.
    fn check(&self) -> Executions {
        self.wait_for("the run has ended", |view| view["state"] != "RUNNING");
        let view = self.view().expect("the gateway answers");
        assert_eq!(view["state"], "SUCCEEDED", "{view}");
        let slept: u64 = (0..ITEMS as u64).map(|n| 10 + n % 20).sum::<u64>() + 3000;
        assert_eq!(view["output"], json!({"slept": slept, "items": ITEMS}), "{view}");
        Executions::read(Path::new(&self.file()))
    }
}

fn view(client: &Client, run: &str) -> Option<Value> {
    client.try_get(&format!("/api/v1/workflow-runs/{run}")).ok().map(|answer| answer.of(200))
}

fn step<'a>(view: &'a Value, id: &str) -> &'a Value {
    let steps = view["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["id"] == id).expect("the step")
}

/// How many items are done, as far as the run knows.
fn done(view: &Value) -> u64 {
    step(view, "map")["items"]["succeeded"].as_u64().unwrap_or(0)
}

#[test]
fn a_run_survives_the_death_of_everything_between_map_and_reduce() {
    let mut scene = Scene::begin();
    scene.wait_for("the map is done and the reduce is not", |view| step(view, "reduce")["state"] == "RUNNING");
    let before = scene.view().expect("the gateway answers");
    assert_eq!(step(&before, "map")["state"], "SUCCEEDED");
    freeze(scene.sleeper.pid());
    scene.kill_everything();
    let executions = scene.check();
    let again: Vec<&String> =
        executions.starts.iter().filter(|(job, starts)| job.contains(":map[") && **starts > 1).map(|(job, _)| job).collect();
    assert!(again.is_empty(), "jobs of a step that had ended were executed again: {again:?}");
    assert_eq!(executions.starts.keys().filter(|job| job.contains(":map[")).count(), ITEMS);
}

#[test]
fn a_run_survives_the_death_of_everything_in_the_middle_of_its_items() {
    let mut scene = Scene::begin();
    scene.wait_for("a part of the items is done", |view| done(view) >= 20);
    let ended = scene.sleeper.freeze_full(SLOTS, &scene.file(), || Some(done(&scene.view()?)));
    assert!((20..200).contains(&ended), "{ended} items had ended");
    scene.kill_everything();
    let executions = scene.check();
    // One for each item, one for the reduce, and again what was held when everything died.
    let extra = executions.count() - u32::try_from(ITEMS).unwrap() - 1;
    assert!(extra <= SLOTS, "{extra} extra executions; {SLOTS} were held");
}
