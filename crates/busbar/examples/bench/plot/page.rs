//! From a result to Markdown: what was measured where and how, how to repeat it, and every figure.

use std::fmt::Write as _;

use serde_json::Value;

use crate::document::{Document, Figure};
use crate::machine;

/// Figures that can stand side by side: the same number about several things.
pub(crate) struct Chart<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) figures: Vec<&'a Figure>,
}

impl Chart<'_> {
    /// One bar alone says nothing.
    pub(crate) fn is_drawn(&self) -> bool {
        self.figures.len() > 1
    }
}

/// The charts of a result, in the order of its figures; within one, rates fall and all else rises.
pub(crate) fn charts(document: &Document) -> Vec<Chart<'_>> {
    let mut charts: Vec<Chart<'_>> = Vec::new();
    for figure in &document.figures {
        match charts.iter_mut().find(|chart| chart.name == figure.name && chart.unit == figure.unit) {
            Some(chart) => chart.figures.push(figure),
            None => charts.push(Chart { name: &figure.name, unit: &figure.unit, figures: vec![figure] }),
        }
    }
    for chart in &mut charts {
        chart.figures.sort_by(|a, b| a.median.total_cmp(&b.median));
        if chart.unit.ends_with("/s") {
            chart.figures.reverse();
        }
    }
    charts
}

/// What the picture of a chart is called.
pub(crate) fn picture(name: &str, number: usize) -> String {
    format!("{name}-{number}.svg")
}

/// As many places as matter.
pub(crate) fn number(value: f64) -> String {
    let places = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The line of a result in the index.
pub(crate) fn list_line(name: &str, document: &Document) -> String {
    let (at, commit) = (&document.taken_at, commit(document));
    format!("- [{name}]({name}.md): `{}` at {commit}, {at} ([raw]({name}.json))\n", command(document))
}

/// The whole page.
pub(crate) fn page(name: &str, document: &Document, charts: &[Chart<'_>]) -> String {
    let mut text = format!("# {name}\n\n`tools/bench plot` made this page of [{name}.json]({name}.json).\n\n");
    table(&mut text, &["", ""].map(String::from), &facts(document));
    let _ = write!(
        text,
        "\nTo repeat it, in a checkout of that commit and with nothing else at work:\n\n```sh\n{}\n```\n",
        command(document)
    );
    for (at, chart) in charts.iter().enumerate() {
        let _ = write!(text, "\n## {}, {}\n\n", chart.name, chart.unit);
        if chart.is_drawn() {
            let _ = write!(text, "![{}, {}]({})\n\n", chart.name, chart.unit, picture(name, at));
        }
        let lines: Vec<Vec<String>> = chart.figures.iter().map(|figure| figure_cells(figure)).collect();
        table(&mut text, &["", "minimum", "median", "maximum", "samples"].map(String::from), &lines);
    }
    for note in document.summary["notes"].as_array().into_iter().flatten() {
        let _ = write!(text, "\n## {}\n\n", words(&note["title"]));
        let cells = |value: &Value| value.as_array().into_iter().flatten().map(words).collect::<Vec<String>>();
        let lines: Vec<Vec<String>> = note["lines"].as_array().into_iter().flatten().map(cells).collect();
        table(&mut text, &cells(&note["head"]), &lines);
    }
    text
}

fn figure_cells(figure: &Figure) -> Vec<String> {
    let [min, median, max] = [figure.min, figure.median, figure.max].map(number);
    vec![figure.of.clone(), min, median, max, figure.samples.to_string()]
}

fn facts(document: &Document) -> Vec<Vec<String>> {
    let mut facts =
        vec![("taken", document.taken_at.clone()), ("commit", commit(document)), ("machine", machine::line(&document.machine))];
    if let Some(durability) = &document.durability {
        facts.push(("durability", durability.clone()));
    }
    if let Some(repetitions) = document.repetitions {
        facts.push(("repetitions", repetitions.to_string()));
    }
    if let Some(delivery) = &document.exact_delivery {
        let told = format!(
            "{} jobs, {} lost, {} counted more than once ({})",
            delivery.jobs, delivery.lost, delivery.repeated, delivery.checked
        );
        facts.push(("exact delivery", told));
    }
    facts.into_iter().map(|(name, what)| vec![name.to_owned(), what]).collect()
}

fn commit(document: &Document) -> String {
    document.commit.clone().unwrap_or_else(|| "an unknown commit".to_owned())
}

/// The command with every option that has a value, or is one that has none; or with the words that it was given, where those are kept.
fn command(document: &Document) -> String {
    let mut command = format!("tools/bench {}", document.bench);
    for word in document.settings[&document.bench].as_array().into_iter().flatten() {
        let _ = write!(command, " {}", words(word));
    }
    for (name, value) in document.settings[&document.bench].as_object().into_iter().flatten() {
        let value = match value {
            Value::Bool(true) => String::new(),
            Value::Bool(false) | Value::Null => continue,
            Value::Array(values) if values.is_empty() => continue,
            Value::Array(values) => format!(" {}", values.iter().map(words).collect::<Vec<String>>().join(",")),
            value => format!(" {}", words(value)),
        };
        let _ = write!(command, " --{}{value}", name.replace('_', "-"));
    }
    command
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn table(text: &mut String, head: &[String], lines: &[Vec<String>]) {
    let row = |cells: &[String]| format!("| {} |\n", cells.iter().map(|cell| in_cell(cell)).collect::<Vec<_>>().join(" | "));
    text.push_str(&row(head));
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    for line in lines {
        text.push_str(&row(line));
    }
}

fn in_cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
