//! The wordcount guest beside the same program built for this machine: what the sandbox costs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use busbar_sandbox::{Artifact, Limits, Sandbox, Task};
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::{Outcome, load, median, row};

/// What one job of `wordcount.count` counts at most.
const BYTES: usize = 16 << 20;
/// Different words that the text draws from, the lower ones far more often.
const VOCABULARY: f64 = 200_000.0;
const SYLLABLES: [&str; 16] = ["ba", "ko", "ri", "te", "mu", "sha", "lo", "né", "zu", "pi", "да", "ва", "o", "en", "str", "ing"];

/// Both in turn, so that what disturbs the machine disturbs both. Their outputs must be the same bytes.
pub(crate) fn measure(sandbox: &Sandbox, packs: &Path, native: &Path, runs: usize) -> Outcome<Value> {
    let module = load(sandbox, &fs::read(packs.join("wordcount/wordcount.wasm"))?)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("text");
    fs::write(&path, text())?;
    let input = json!({ "artifact": "text", "start": 0, "end": BYTES }).to_string();
    // As the pack's topics have them.
    let limits = Limits { memory_bytes: 1 << 30, output_bytes: 64 << 20, ..Limits::default() };
    println!("wordcount: the words of {} MiB, by UAX #29", BYTES >> 20);
    let (mut ours, mut theirs, mut found) = (Vec::new(), Vec::new(), Value::Null);
    for _ in 0..runs {
        let artifacts = vec![Artifact { id: "text".to_owned(), path: path.clone() }];
        let output = sandbox.run(&module, Task { artifacts, limits, ..Task::new(input.clone()) })?;
        ours.push(rate(output.usage.cpu.as_secs_f64()));
        let (stdout, seconds) = natively(native, folder.path(), &input)?;
        if stdout != output.stdout {
            return Err("the native program and the guest do not write the same bytes".into());
        }
        theirs.push(rate(seconds));
        found = serde_json::from_slice(&stdout)?;
    }
    let mut mine = row("  sandboxed guest", "MiB/s", &ours);
    let native = row("  the same program, native", "MiB/s", &theirs);
    let share = median(&ours) / median(&theirs);
    println!("{:<58} {share:>14.2}", "    the guest's rate to this one's");
    mine["ours_to_theirs"] = json!(share);
    Ok(json!({ "title": "wordcount", "words": found["words"], "distinct": found["distinct"], "rows": [mine, native] }))
}

fn rate(seconds: f64) -> f64 {
    f64::from(u32::try_from(BYTES >> 20).unwrap_or(u32::MAX)) / seconds
}

/// What the native program puts out, and the processor time that it took.
fn natively(program: &Path, folder: &Path, input: &str) -> Outcome<(Vec<u8>, f64)> {
    let stdin = folder.join("input.json");
    fs::write(&stdin, input)?;
    let before = children_seconds()?;
    let output = Command::new(program).arg(folder).stdin(fs::File::open(stdin)?).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", program.display(), output.status).into());
    }
    Ok((output.stdout, children_seconds()? - before))
}

/// Processor time of all children that have ended: `cutime` and `cstime` of proc(5), in hundredths of seconds.
fn children_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).ok_or("/proc/self/stat");
    Ok(f64::from(ticks(13)? + ticks(14)?) / 100.0)
}

/// Sentences of made-up words, the same in each run: by Zipf's law, a tenth of them not ASCII.
fn text() -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(29);
    let mut text = String::with_capacity(BYTES + 64);
    while text.len() < BYTES {
        let rank = VOCABULARY.powf(random.random::<f64>());
        // Below the size of the vocabulary, which fits.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 200,000")]
        let rank = rank as u32;
        push_word(&mut text, rank);
        text.push_str(match rank % 11 {
            0 => ", ",
            1 => ".\n",
            _ => " ",
        });
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(BYTES);
    bytes
}

fn push_word(text: &mut String, mut rank: u32) {
    if rank.is_multiple_of(7) {
        text.push('T');
    }
    while rank > 0 {
        text.push_str(SYLLABLES[(rank % 16) as usize]);
        rank /= 16;
    }
}
