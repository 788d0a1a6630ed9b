//! `ctl wordcount`, the pack behind it, and the workers that count: files go in, a table comes out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Dev, DevOptions, Process, built, shipped_pack};

const SLOTS: u32 = 2;
const WORDS: [&str; 8] = ["and", "busbar", "compute", "distributed", "orchestrates", "trust", "verification", "with"];

fn ctl(dev: &Dev, arguments: &[&str]) -> Output {
    let mut command = Command::new(built("ctl"));
    command.args(["--url", &dev.endpoints.http, "--api-key", &dev.endpoints.api_key, "-o", "json", "wordcount"]);
    command.args(arguments).output().unwrap()
}

fn report(dev: &Dev, arguments: &[&str]) -> Value {
    let output = ctl(dev, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How often each word occurs, from the jobs that know.
fn counts(client: &Client, report: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for sum in report["sums"].as_array().unwrap() {
        let shard: Value = client
            .get(&format!("/api/v1/jobs/{}/result", sum["artifact"].as_str().unwrap().replace("[", "%5B").replace("]", "%5D")))
            .of(200);
        let counts: BTreeMap<String, u64> = serde_json::from_value(shard["counts"].clone()).unwrap();
        all.extend(counts);
    }
    all
}

/// More than one part, in a folder with all that a folder can hold; and how often each word occurs.
fn texts(folder: &Path) -> BTreeMap<String, u64> {
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    let words: Vec<String> = (0..400_000_u32).map(|n| format!("w{}é", n.wrapping_mul(2_654_435_761) % 30_000)).collect();
    fs::write(folder.join("deep/er/big.txt"), words.join(" ").to_uppercase()).unwrap();
    for n in 0..300 {
        fs::write(folder.join(format!("deep/{n}.md")), format!("small{n} Привет, don't")).unwrap();
    }
    fs::write(folder.join("empty.txt"), "").unwrap();
    fs::write(folder.join("image.bin"), b"\0words that do not count").unwrap();
    fs::write(folder.join(".hidden"), "hidden").unwrap();
    std::os::unix::fs::symlink("deep/er/big.txt", folder.join("link.txt")).unwrap();
    let mut expected = BTreeMap::from([("привет".to_owned(), 300), ("don't".to_owned(), 300)]);
    expected.extend((0..300).map(|n| (format!("small{n}"), 1)));
    for word in words {
        *expected.entry(word).or_default() += 1;
    }
    expected
}

#[test]
fn words_are_counted_the_same_by_every_worker() {
    let dev = Dev::start_with(DevOptions { packs: vec![shipped_pack("wordcount")], ..DevOptions::default() });
    let client = dev.client();
    let folder = tempfile::tempdir().unwrap();
    let expected = texts(folder.path());
    let path = folder.path().to_str().unwrap();

    let mut one = Process::worker(&dev, "one", SLOTS);
    the_demonstration_has_eight_words(&dev, &client);
    let first = report(&dev, &[path, "--top", "3"]);
    assert_eq!(first["files"], json!(302));
    assert_eq!(first["runs"].as_array().map(Vec::len), Some(2), "the second one builds on the first");
    assert_eq!((first["words"].as_u64(), first["distinct"].as_u64()), (Some(400_900), Some(expected.len() as u64)));
    assert_eq!(first["top"][0], json!({"word": "don't", "count": 300}));
    assert_eq!(first["top"][1], json!({"word": "привет", "count": 300}));
    assert_eq!(counts(&client, &first), expected);
    options_are_kept_to(&dev, folder.path());
    what_cannot_be_counted_is_told(&dev, path);

    // Another worker, the same bytes.
    assert!(one.end(Signal::TERM).success());
    let _two = Process::worker(&dev, "two", SLOTS);
    let second = report(&dev, &[path, "--top", "3"]);
    assert_eq!((&first["words"], &first["distinct"], &first["top"]), (&second["words"], &second["distinct"], &second["top"]));
    assert_ne!(first["runs"], second["runs"]);
    assert_eq!(bytes_of(&client, &first), bytes_of(&client, &second));
}

fn the_demonstration_has_eight_words(dev: &Dev, client: &Client) {
    let demo = report(dev, &["--demo"]);
    assert_eq!((&demo["words"], &demo["distinct"]), (&json!(3_200), &json!(8)));
    let top: Vec<Value> = WORDS.iter().map(|word| json!({"word": word, "count": 400})).collect();
    assert_eq!(demo["top"], json!(top));
    assert_eq!(counts(client, &demo), WORDS.map(|word| (word.to_owned(), 400)).into());
}

fn options_are_kept_to(dev: &Dev, folder: &Path) {
    let stop = folder.join(".stop");
    fs::write(&stop, "DON'T\n").unwrap();
    let pattern = folder.join("deep/{1,2}*.md");
    let arguments = [pattern.to_str().unwrap(), "--stop-words", stop.to_str().unwrap(), "--min-length", "7"];
    let report = report(dev, &arguments);
    // small10 to small19, small100 to small299: `привет` has six characters, and small1 and small2 too.
    assert_eq!((&report["files"], &report["words"], &report["distinct"]), (&json!(222), &json!(220), &json!(220)));
}

fn what_cannot_be_counted_is_told(dev: &Dev, folder: &str) {
    for (argument, told) in
        [("/none", "/none cannot be read"), ("/*.none", "nothing matches"), ("/empty.txt", "nothing to count")]
    {
        let output = ctl(dev, &[&format!("{folder}{argument}")]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(told), "{argument}: {stderr}");
    }
}

/// The results of all map jobs and reduce jobs of the report's runs, as they were written.
fn bytes_of(client: &Client, report: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for run in report["runs"].as_array().unwrap() {
        let run = run.as_str().unwrap();
        let view: Value = client.get(&format!("/api/v1/workflow-runs/{run}")).of(200);
        for step in ["map", "reduce"] {
            let found = view["steps"].as_array().unwrap().iter().find(|found| found["id"] == step).unwrap();
            for item in 0..found["items"]["total"].as_u64().unwrap() {
                let answer = client.get(&format!("/api/v1/jobs/{run}:{step}%5B{item}%5D@1/result"));
                assert_eq!(answer.status, 200, "{answer:?}");
                all.push(answer.body);
            }
        }
    }
    assert!(all.len() > 16, "several parts in each of two runs: {}", all.len());
    all
}
