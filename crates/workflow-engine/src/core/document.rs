//! A workflow as it is written: a closed document. What the types cannot say is checked in [`super::workflow`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The largest document, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// A rule that a document breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {rule}")]
pub struct Broken {
    /// The place in the document, for example `steps.map.items`.
    pub place: String,
    /// What must hold there.
    pub rule: String,
}

impl Broken {
    /// A rule that is broken at a place.
    pub(crate) fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

/// The document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// `busbar/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Workflow`.
    pub kind: String,
    /// Names the workflow.
    pub id: String,
    /// Its name for people.
    #[serde(default)]
    pub title: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of a run's input.
    pub input_schema: Option<Value>,
    /// How long a run may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The steps by name; each is read on its own, so that what is wrong in it can be placed.
    pub steps: BTreeMap<String, Value>,
    /// What a run gives back; without it a run has no output.
    pub output: Option<Value>,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepType {
    /// Submits one job.
    Job,
    /// Submits one job for each entry of a list.
    ForEach,
    /// Evaluates an expression to true or false.
    Condition,
    /// Makes a value of values.
    Transform,
}

/// One step. Which members a step may have depends on its type.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDocument {
    /// What it does.
    #[serde(rename = "type")]
    pub kind: StepType,
    /// Its name for people.
    #[serde(default)]
    pub title: String,
    /// The steps that come before.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// When enough of them have succeeded.
    #[serde(default)]
    pub join: Join,
    /// The step is skipped unless this expression is true.
    pub when: Option<String>,
    /// The run goes on where this step did not succeed.
    #[serde(default)]
    pub allow_failure: bool,

    /// Of jobs: the topic.
    pub topic: Option<String>,
    /// Of jobs: the input, with `${…}`.
    pub input: Option<Value>,
    /// Of jobs: their labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Of jobs: their priority.
    pub priority: Option<Priority>,
    /// Of jobs: capabilities that the worker must have.
    pub requires: Option<Vec<String>>,
    /// Of jobs: where they go.
    pub place: Option<PlaceDocument>,
    /// Of jobs: how long one may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Of jobs: what happens when one does not succeed.
    pub retries: Option<Retries>,
    /// Of jobs: whether the run keeps the result, or only says where it is.
    pub result: Option<ResultAs>,

    /// Of `for_each`: an expression that gives a list.
    pub items: Option<String>,
    /// Of `for_each`: how many jobs are out at once.
    pub max_parallel: Option<u32>,

    /// Of `condition`: the expression.
    pub condition: Option<String>,

    /// Of `transform`: the value, with `${…}`.
    pub value: Option<Value>,
}

/// Where the jobs of a step go, beside what their topic says. Texts may have `${…}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlaceDocument {
    /// Only this pool, among those of the topic; an empty text means any of them.
    pub pool: String,
    /// Labels that the worker must carry.
    pub labels: BTreeMap<String, String>,
    /// Workers that are avoided: one by its name, or a list of names.
    pub not_on: Value,
    /// The jobs wait for another worker, rather than go to one of those where nobody else is there.
    pub strict: bool,
}

/// When a step with several dependencies runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// When all have succeeded; it is skipped when one was skipped.
    #[default]
    All,
    /// When all are over and at least one has succeeded; it is skipped when none has.
    Any,
}

/// The priority of a step's jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// What nobody waits for.
    #[default]
    Batch,
    /// What somebody waits for.
    Interactive,
    /// What must go first.
    Critical,
}

/// What a step's output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultAs {
    /// The job's result.
    #[default]
    Value,
    /// `{"artifact", "bytes"}`: under which name other jobs find the result as an artifact, and how large it is.
    Artifact,
}

/// What happens when a job does not succeed: another one, after a pause that doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Jobs in all, the first included.
    pub max_attempts: u32,
    /// The first pause, in milliseconds.
    #[serde(default = "Retries::initial")]
    pub backoff_initial_ms: u64,
    /// The longest pause, in milliseconds.
    #[serde(default = "Retries::longest")]
    pub backoff_max_ms: u64,
}

impl Retries {
    const fn initial() -> u64 {
        1_000
    }

    const fn longest() -> u64 {
        60_000
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { max_attempts: 1, backoff_initial_ms: Self::initial(), backoff_max_ms: Self::longest() }
    }
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Broken`] says what is no such document.
    pub fn parse(json: &[u8]) -> Result<Self, Broken> {
        if json.len() > DOCUMENT_BYTES_MAX {
            let rule = format!("at most {DOCUMENT_BYTES_MAX} bytes are taken, this one has {}", json.len());
            return Err(Broken::new("the document", rule));
        }
        serde_json::from_slice(json).map_err(|error| Broken::new("the document", error.to_string()))
    }
}

impl StepDocument {
    /// Reads one step.
    pub(crate) fn parse(id: &str, value: &Value) -> Result<Self, Broken> {
        let place = format!("steps.{id}");
        let step: Self = Self::deserialize(value).map_err(|error| Broken::new(&place, error.to_string()))?;
        match step.foreign_members().first() {
            None => Ok(step),
            Some(member) => {
                Err(Broken::new(format!("{place}.{member}"), format!("a step of type {} has no such member", step.kind.name())))
            }
        }
    }

    /// Members that are there, but mean nothing for a step of this type.
    fn foreign_members(&self) -> Vec<&'static str> {
        let job = [
            ("topic", self.topic.is_some()),
            ("input", self.input.is_some()),
            ("labels", self.labels.is_some()),
            ("priority", self.priority.is_some()),
            ("requires", self.requires.is_some()),
            ("place", self.place.is_some()),
            ("timeout_ms", self.timeout_ms.is_some()),
            ("retries", self.retries.is_some()),
            ("result", self.result.is_some()),
        ];
        let for_each = [("items", self.items.is_some()), ("max_parallel", self.max_parallel.is_some())];
        let condition = [("condition", self.condition.is_some())];
        let transform = [("value", self.value.is_some())];
        let foreign: &[&[(&'static str, bool)]] = match self.kind {
            StepType::Job => &[&for_each, &condition, &transform],
            StepType::ForEach => &[&condition, &transform],
            StepType::Condition => &[&job, &for_each, &transform],
            StepType::Transform => &[&job, &for_each, &condition],
        };
        foreign.iter().copied().flatten().filter(|(_, there)| *there).map(|(member, _)| *member).collect()
    }
}

impl StepType {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::ForEach => "for_each",
            Self::Condition => "condition",
            Self::Transform => "transform",
        }
    }
}
