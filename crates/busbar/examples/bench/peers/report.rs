//! From turns to figures and a table.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::manifest::Peers;
use super::turn::Turn;
use super::{Failed, PeersArgs};
use crate::Report;
use crate::document::{Delivery, Figure, Note};
use crate::figures::{Table, median, percentile, rounded};
use crate::machine;

const OURS: &str = "Busbar";
const CHECKED: &str = "peers: what workers wrote down at each execution; Busbar: committed ends and attempts";

/// What came out for one contestant with one setting.
struct Row<'a> {
    of: &'a str,
    setting: &'a str,
    turns: Vec<&'a Turn>,
}

impl Row<'_> {
    fn samples(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(|turn| of(turn)).collect()
    }

    fn rate(&self) -> f64 {
        median(&self.samples(|turn| turn.jobs_per_second))
    }

    fn idle(&self, percent: usize) -> f64 {
        median(&self.samples(|turn| idle(turn, percent)))
    }

    fn exact(&self) -> bool {
        self.turns.iter().all(|turn| turn.delivery.lost == 0 && turn.delivery.repeated == 0)
    }

    fn figures(&self, of: &str, kind: &str) -> Vec<Figure> {
        let figure = |name: &str, unit, samples: Vec<f64>| Figure::of(of, &format!("{name}{kind}"), unit, &samples);
        vec![
            figure("jobs in bulk", "jobs/s", self.samples(|turn| turn.jobs_per_second)),
            figure("processor time in bulk", "µs/job", self.samples(|turn| turn.cpu_us_per_job)),
            figure("submit to result when idle, p50", "ms", self.samples(|turn| idle(turn, 50))),
            figure("submit to result when idle, p99", "ms", self.samples(|turn| idle(turn, 99))),
        ]
    }
}

/// A percentile of one turn's latencies.
pub(super) fn idle(turn: &Turn, percent: usize) -> f64 {
    percentile(&turn.idle_ms, percent)
}

/// In the order in which they first took part.
fn rows(turns: &[Turn]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for turn in turns {
        match rows.iter_mut().find(|row| row.of == turn.of && row.setting == turn.setting) {
            Some(row) => row.turns.push(turn),
            None => rows.push(Row { of: &turn.of, setting: &turn.setting, turns: vec![turn] }),
        }
    }
    rows
}

/// The best setting of each contestant: the one with the highest rate, and the one with the shortest latency.
fn best<'a, 'b>(rows: &'b [Row<'a>]) -> BTreeMap<&'a str, [&'b Row<'a>; 2]> {
    let mut best: BTreeMap<&str, [&Row<'_>; 2]> = BTreeMap::new();
    // Settings that were left after the first round have fewer samples, and do not count any more.
    let turns = |name: &str| rows.iter().filter(|row| row.of == name).map(|row| row.turns.len()).max();
    for row in rows.iter().filter(|row| Some(row.turns.len()) == turns(row.of)) {
        let [fastest, soonest] = best.entry(row.of).or_insert([row, row]);
        if row.rate() > fastest.rate() {
            *fastest = row;
        }
        if row.idle(50) < soonest.idle(50) {
            *soonest = row;
        }
    }
    best
}

pub(super) fn report(
    args: &PeersArgs,
    machine: &Value,
    peers: &Peers,
    told: &[Value],
    turns: &[Turn],
    failed: &[Failed],
) -> Report {
    let rows = rows(turns);
    let best = best(&rows);
    let mut figures: Vec<Figure> = Vec::new();
    for [fastest, soonest] in best.values() {
        let wanted = |figure: &Figure, idle: bool| figure.name.contains("idle") == idle;
        figures.extend(fastest.figures(fastest.of, ", best setting").into_iter().filter(|figure| wanted(figure, false)));
        figures.extend(soonest.figures(soonest.of, ", best setting").into_iter().filter(|figure| wanted(figure, true)));
    }
    figures.extend(rows.iter().flat_map(|row| row.figures(&format!("{}: {}", row.of, row.setting), ", every setting")));
    let counts: BTreeMap<&str, Value> = best
        .iter()
        .map(|(name, [fastest, soonest])| (*name, json!({ "bulk": fastest.setting, "idle": soonest.setting })))
        .collect();
    let ratios = ratios(&best);
    let summary = json!({
        "bench": "peers",
        "machine": machine,
        "durability": args.durability.name(),
        "repetitions": args.rounds,
        "exact_delivery": Delivery::sum(CHECKED, turns.iter().map(|turn| &turn.delivery)),
        "figures": figures,
        "settings": told,
        "notes": notes(peers, told, turns, failed, &ratios),
        "best": counts,
        "busbar_beside": ratios,
        "skipped": peers.skipped,
        "failed": failed,
    });
    Report { table: table(args, &summary, &rows, &best), raw: json!({ "turns": turns }), summary }
}

/// What a reader must know beside the figures, as tables.
fn notes(peers: &Peers, told: &[Value], turns: &[Turn], failed: &[Failed], ratios: &BTreeMap<&str, [f64; 2]>) -> Vec<Note> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ratios = ratios.iter().map(|(name, [bulk, idle])| vec![(*name).to_owned(), bulk.to_string(), idle.to_string()]);
    let settings = told.iter().map(|told| [&told["of"], &told["setting"]["name"], &told["setting"]["says"]].map(text).to_vec());
    let versions: BTreeMap<&str, &str> = turns.iter().map(|turn| (turn.of.as_str(), turn.versions.as_str())).collect();
    let result =
        |name: &str| peers.there.iter().find(|peer| peer.manifest.name == name).map(|peer| peer.manifest.result.as_str());
    let own = "the end of the job on the bus, and its result from the store";
    let versions = versions.iter().map(|(name, says)| [*name, *says, result(name).unwrap_or(own)].map(str::to_owned).to_vec());
    let failed: Vec<Vec<String>> = failed
        .iter()
        .map(|failed| vec![failed.of.clone(), format!("round {}: {}: {}", failed.round, failed.setting, failed.why)])
        .chain(peers.skipped.iter().map(|(name, why)| vec![name.clone(), format!("skipped: {why}")]))
        .collect();
    let head = ["Busbar beside", "jobs a second in bulk, times", "latency when idle, p50, times"];
    let mut notes = vec![
        Note::new("Ratios of the medians, best settings", &head, ratios.collect()),
        Note::new("Settings", &["", "setting", "which is"], settings.collect()),
        Note::new("Versions", &["", "version", "how a result reaches the client"], versions.collect()),
    ];
    if !failed.is_empty() {
        notes.push(Note::new("What could not be measured", &["", "why"], failed));
    }
    notes
}

/// Ours beside each peer, best settings: how many times its jobs a second, and how many times its idle latency.
fn ratios<'a>(best: &BTreeMap<&'a str, [&Row<'_>; 2]>) -> BTreeMap<&'a str, [f64; 2]> {
    let Some([our_fastest, our_soonest]) = best.get(OURS) else { return BTreeMap::new() };
    let beside = |[fastest, soonest]: &[&Row<'_>; 2]| {
        [our_fastest.rate() / fastest.rate(), our_soonest.idle(50) / soonest.idle(50)].map(rounded)
    };
    best.iter().filter(|(name, _)| **name != OURS).map(|(name, rows)| (*name, beside(rows))).collect()
}

fn table(args: &PeersArgs, summary: &Value, rows: &[Row<'_>], best: &BTreeMap<&str, [&Row<'_>; 2]>) -> String {
    let mut table = Table::with_head(&["", "jobs/s", "min", "max", "µs/job", "idle p50 ms", "p99 ms", "turns", "exact"]);
    for row in rows {
        let rates = row.samples(|turn| turn.jobs_per_second);
        let counts = best[row.of].iter().any(|best| best.setting == row.setting);
        table.line([
            format!("{}{}: {}", if counts { "* " } else { "  " }, row.of, row.setting),
            format!("{:.0}", row.rate()),
            format!("{:.0}", percentile(&rates, 0)),
            format!("{:.0}", percentile(&rates, 100)),
            format!("{:.0}", median(&row.samples(|turn| turn.cpu_us_per_job))),
            format!("{:.2}", row.idle(50)),
            format!("{:.2}", row.idle(99)),
            row.turns.len().to_string(),
            if row.exact() { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    format!(
        "{}\ndurability {}; echo jobs, medians; * is the best setting of each, for bulk or when idle\n\n{}\n{}",
        machine::line(&summary["machine"]),
        args.durability.name(),
        table.show(),
        ratio_table(&summary["busbar_beside"])
    )
}

fn ratio_table(ratios: &Value) -> String {
    let mut table = Table::with_head(&["Busbar beside", "jobs/s, times", "idle p50, times"]);
    for (name, ratios) in ratios.as_object().into_iter().flatten() {
        table.line([name.clone(), ratios[0].to_string(), ratios[1].to_string()]);
    }
    table.show()
}
