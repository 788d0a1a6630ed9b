//! Where the jobs of a step go: what a step's `place` says, as labels of its jobs.

use std::collections::BTreeMap;

use busbar_protocol::{ids, labels};
use busbar_rules::expr::{Scope, Template};
use serde_json::{Value, json};

use super::document::PlaceDocument;

/// The most workers that a job avoids.
const WORKERS_MAX: usize = 64;

/// Where jobs go.
#[derive(Debug)]
pub struct Place {
    /// `{"pool", "labels", "not_on"}`, with `${…}`.
    pub template: Template,
    /// The workers that are avoided are out of the question.
    strict: bool,
}

/// Why there is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// An expression cannot be evaluated.
    #[error(transparent)]
    Expression(#[from] busbar_rules::expr::ExprError),
    /// A member gives something else than it should.
    #[error("{member}: {rule}")]
    Wrong {
        /// The member.
        member: &'static str,
        /// What it must give.
        rule: &'static str,
    },
}

impl Place {
    /// What is to be compiled of a document.
    pub(super) fn value(document: &PlaceDocument) -> Value {
        json!({ "pool": document.pool, "labels": document.labels, "not_on": document.not_on })
    }

    pub(super) const fn of(strict: bool, template: Template) -> Self {
        Self { template, strict }
    }

    /// The labels that say so.
    ///
    /// # Errors
    /// [`NoPlace`] names what is wrong with the values that the expressions give.
    pub fn labels(&self, scope: &Scope) -> Result<BTreeMap<String, String>, NoPlace> {
        let value = self.template.render(scope)?.to_json();
        let text = |member, value: &Value| {
            let rule = "a text is wanted";
            value.as_str().map(str::to_owned).ok_or(NoPlace::Wrong { member, rule })
        };
        let mut told = BTreeMap::new();
        for (name, wanted) in value["labels"].as_object().into_iter().flatten() {
            told.insert(format!("{}{name}", labels::PLACEMENT_PREFIX), text("labels", wanted)?);
        }
        told.insert(labels::PREFERRED_POOL.to_owned(), text("pool", &value["pool"])?);
        let avoided = if self.strict { labels::EXCLUDED_WORKER_IDS } else { labels::AVOIDED_WORKER_IDS };
        told.insert(avoided.to_owned(), workers(&value["not_on"])?.join(","));
        told.retain(|name, value| !value.is_empty() || name.starts_with(labels::PLACEMENT_PREFIX));
        Ok(told)
    }
}

/// The workers that are avoided. Nobody is, where a job was done by none that is known.
fn workers(value: &Value) -> Result<Vec<&str>, NoPlace> {
    let wrong = |rule| NoPlace::Wrong { member: "not_on", rule };
    let named: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    };
    let mut ids = Vec::new();
    for value in named {
        match value {
            Value::Null => {}
            Value::String(id) if id.is_empty() => {}
            Value::String(id) if ids::check(id).is_ok() => ids.push(id.as_str()),
            _ => return Err(wrong("a worker's id is wanted, or a list of these")),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > WORKERS_MAX {
        return Err(wrong("more than 64 workers are named"));
    }
    Ok(ids)
}
