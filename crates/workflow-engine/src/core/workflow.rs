//! A workflow that has been checked: its steps in an order in which they can run, its expressions compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::cap::JobPriority;
use busbar_protocol::subjects;
use busbar_rules::Schema;
use busbar_rules::expr::{ExprError, Expression, References, Template};
use serde_json::Value;

use super::document::{Broken, Document, Join, PlaceDocument, Priority, ResultAs, Retries, StepDocument, StepType};
use super::place::Place;

/// The most steps of a workflow.
pub const STEPS_MAX: usize = 256;
/// The most jobs that one `for_each` step has out at once.
pub const PARALLEL_MAX: u32 = 256;
const PARALLEL_DEFAULT: u32 = 16;
/// The most entries that a `for_each` step goes over.
pub const ITEMS_MAX: usize = 10_000;
const ATTEMPTS_MAX: u32 = 100;
const LABELS_MAX: usize = 40;
const LABEL_BYTES_MAX: usize = 256;
const REQUIRES_MAX: usize = 32;
/// A year: longer durations are a mistake in the unit.
const DURATION_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
const ID_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 4096;

/// A workflow that can run.
#[derive(Debug)]
pub struct Workflow {
    /// Names it.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// What it is for.
    pub description: String,
    /// How long a run may take.
    pub timeout: Option<Duration>,
    /// What a run's input must satisfy.
    pub input_schema: Option<Schema>,
    /// Its steps; each comes after those on which it depends.
    pub steps: Vec<Step>,
    /// What a run gives back.
    pub output: Option<Template>,
}

/// A step.
#[derive(Debug)]
pub struct Step {
    /// Names it within the workflow.
    pub id: String,
    /// The places of the steps on which it depends.
    pub depends_on: Vec<usize>,
    /// When enough of them have succeeded.
    pub join: Join,
    /// It is skipped unless this is true.
    pub when: Option<Expression>,
    /// The run goes on where it did not succeed.
    pub allow_failure: bool,
    /// What it does.
    pub work: Work,
}

/// What a step does.
#[derive(Debug)]
pub enum Work {
    /// Submits one job.
    Job(JobPlan),
    /// Submits one job for each entry of a list.
    ForEach {
        /// Gives the list.
        items: Expression,
        /// How many jobs are out at once.
        max_parallel: u32,
        /// The jobs.
        job: JobPlan,
    },
    /// Evaluates an expression to true or false.
    Condition(Expression),
    /// Makes a value of values.
    Transform(Template),
}

/// What a step's jobs have in common.
#[derive(Debug)]
pub struct JobPlan {
    /// Their topic, with `${…}`.
    pub topic: Template,
    /// Their input.
    pub input: Template,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their priority.
    pub priority: JobPriority,
    /// Capabilities that the worker must have.
    pub requires: Vec<String>,
    /// Where they go.
    pub place: Option<Place>,
    /// How long one may take.
    pub timeout: Option<Duration>,
    /// What happens when one does not succeed.
    pub retries: Retries,
    /// What the run keeps of their results.
    pub result: ResultAs,
}

impl Workflow {
    /// Checks a document (JSON) and compiles it.
    ///
    /// # Errors
    /// [`Broken`] names the first rule that does not hold, and where.
    pub fn compile(json: &[u8]) -> Result<Self, Broken> {
        let document = Document::parse(json)?;
        demand(document.api_version == "busbar/v1", "apiVersion", || "must be busbar/v1".to_owned())?;
        demand(document.kind == "Workflow", "kind", || "must be Workflow".to_owned())?;
        demand(is_workflow_id(&document.id), "id", || {
            format!("must be 1 to {ID_BYTES_MAX} lower-case letters, digits, `.`, `_` and `-`, a letter or digit first")
        })?;
        demand(document.title.len() <= TEXT_BYTES_MAX, "title", || format!("at most {TEXT_BYTES_MAX} bytes"))?;
        demand(document.description.len() <= TEXT_BYTES_MAX, "description", || format!("at most {TEXT_BYTES_MAX} bytes"))?;
        let steps = document.steps.iter().map(|(id, value)| Ok((id.clone(), StepDocument::parse(id, value)?)));
        let steps: BTreeMap<String, StepDocument> = steps.collect::<Result<_, Broken>>()?;
        let order = order(&steps)?;
        let places: BTreeMap<&str, usize> = order.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let mut before: Vec<BTreeSet<&str>> = Vec::with_capacity(order.len());
        let mut compiled = Vec::with_capacity(order.len());
        for id in &order {
            let step = &steps[*id];
            let depends_on: Vec<usize> = step.depends_on.iter().map(|name| places[name.as_str()]).collect();
            let mut all: BTreeSet<&str> = step.depends_on.iter().map(String::as_str).collect();
            all.extend(depends_on.iter().flat_map(|place| before[*place].iter().copied()));
            compiled.push(compile_step(id, step, depends_on, &all)?);
            before.push(all);
        }
        let everything: BTreeSet<&str> = order.iter().copied().collect();
        let seen = Seen { steps: &everything, item: false };
        Ok(Self {
            timeout: duration("timeout_ms", document.timeout_ms)?,
            input_schema: schema(document.input_schema.as_ref())?,
            output: document.output.as_ref().map(|value| template("output", value, &seen)).transpose()?,
            id: document.id,
            title: document.title,
            description: document.description,
            steps: compiled,
        })
    }

    /// The place of a step.
    #[must_use]
    pub fn place_of(&self, step_id: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.id == step_id)
    }
}

/// What an expression at some place may speak of.
struct Seen<'a> {
    steps: &'a BTreeSet<&'a str>,
    item: bool,
}

fn compile_step(id: &str, step: &StepDocument, depends_on: Vec<usize>, before: &BTreeSet<&str>) -> Result<Step, Broken> {
    let place = |member: &str| format!("steps.{id}.{member}");
    let outside = Seen { steps: before, item: false };
    let required = |member: &str, text: &Option<String>| {
        let text =
            text.clone().ok_or_else(|| Broken::new(place(member), format!("a step of type {} needs it", step.kind.name())))?;
        expression(&place(member), &text, &outside)
    };
    let work = match step.kind {
        StepType::Job => Work::Job(job_plan(id, step, &outside)?),
        StepType::ForEach => {
            let max_parallel = step.max_parallel.unwrap_or(PARALLEL_DEFAULT);
            demand((1..=PARALLEL_MAX).contains(&max_parallel), &place("max_parallel"), || {
                format!("must be 1 to {PARALLEL_MAX}")
            })?;
            let job = job_plan(id, step, &Seen { steps: before, item: true })?;
            Work::ForEach { items: required("items", &step.items)?, max_parallel, job }
        }
        StepType::Condition => Work::Condition(required("condition", &step.condition)?),
        StepType::Transform => {
            let value = step.value.as_ref().ok_or_else(|| Broken::new(place("value"), "a step of type transform needs it"))?;
            Work::Transform(template(&place("value"), value, &outside)?)
        }
    };
    Ok(Step {
        id: id.to_owned(),
        depends_on,
        join: step.join,
        when: step.when.as_ref().map(|text| expression(&place("when"), text, &outside)).transpose()?,
        allow_failure: step.allow_failure,
        work,
    })
}

fn job_plan(id: &str, step: &StepDocument, seen: &Seen<'_>) -> Result<JobPlan, Broken> {
    let place = |member: &str| format!("steps.{id}.{member}");
    let topic = step.topic.clone().unwrap_or_default();
    let topic_good = topic.starts_with("job.") && (topic.contains("${") || subjects::is_topic(&topic));
    demand(topic_good, &place("topic"), || {
        "must begin with `job.` and be tokens of letters, digits, `_` and `-`, joined by dots".to_owned()
    })?;
    let labels = step.labels.clone().unwrap_or_default();
    let labels_good = labels.len() <= LABELS_MAX
        && labels.iter().all(|(key, value)| (1..=LABEL_BYTES_MAX).contains(&key.len()) && value.len() <= LABEL_BYTES_MAX);
    demand(labels_good, &place("labels"), || {
        format!("at most {LABELS_MAX}, names and values of at most {LABEL_BYTES_MAX} bytes")
    })?;
    demand(!labels.keys().any(|key| key.starts_with("approval_")), &place("labels"), || {
        "`approval_…` is set by the control plane only".to_owned()
    })?;
    let requires = step.requires.clone().unwrap_or_default();
    demand(requires.len() <= REQUIRES_MAX, &place("requires"), || format!("at most {REQUIRES_MAX}"))?;
    let retries = step.retries.unwrap_or_default();
    demand((1..=ATTEMPTS_MAX).contains(&retries.max_attempts), &place("retries.max_attempts"), || {
        format!("must be 1 to {ATTEMPTS_MAX}")
    })?;
    demand(
        retries.backoff_initial_ms <= retries.backoff_max_ms && retries.backoff_max_ms <= DURATION_MS_MAX,
        &place("retries"),
        || format!("backoff_initial_ms must be at most backoff_max_ms, and that at most {DURATION_MS_MAX}"),
    )?;
    let whole = Value::String(if seen.item { "${item}" } else { "${input}" }.to_owned());
    Ok(JobPlan {
        topic: template(&place("topic"), &Value::String(topic), seen)?,
        input: template(&place("input"), step.input.as_ref().unwrap_or(&whole), seen)?,
        labels,
        priority: match step.priority.unwrap_or_default() {
            Priority::Batch => JobPriority::Batch,
            Priority::Interactive => JobPriority::Interactive,
            Priority::Critical => JobPriority::Critical,
        },
        requires,
        place: step.place.as_ref().map(|wanted| compile_place(&place("place"), wanted, seen)).transpose()?,
        timeout: duration(&place("timeout_ms"), step.timeout_ms)?,
        retries,
        result: step.result.unwrap_or_default(),
    })
}

fn compile_place(place: &str, wanted: &PlaceDocument, seen: &Seen<'_>) -> Result<Place, Broken> {
    Ok(Place::of(wanted.strict, template(place, &Place::value(wanted), seen)?))
}

/// The steps, each after those on which it depends; by name where that leaves a choice.
fn order(steps: &BTreeMap<String, StepDocument>) -> Result<Vec<&str>, Broken> {
    demand((1..=STEPS_MAX).contains(&steps.len()), "steps", || format!("must be 1 to {STEPS_MAX}, not {}", steps.len()))?;
    for (id, step) in steps {
        check_names(id, step, steps)?;
    }
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> =
        steps.iter().map(|(id, step)| (id.as_str(), step.depends_on.iter().map(String::as_str).collect())).collect();
    let mut order = Vec::with_capacity(steps.len());
    while !waiting.is_empty() {
        let ready: Vec<&str> = waiting.iter().filter(|(_, before)| before.is_empty()).map(|(id, _)| *id).collect();
        if ready.is_empty() {
            return Err(Broken::new(format!("steps.{}.depends_on", cycle(&waiting)[0]), told(&cycle(&waiting))));
        }
        for id in &ready {
            waiting.remove(id);
        }
        for before in waiting.values_mut() {
            ready.iter().for_each(|id| {
                before.remove(id);
            });
        }
        order.extend(ready);
    }
    Ok(order)
}

fn check_names(id: &str, step: &StepDocument, steps: &BTreeMap<String, StepDocument>) -> Result<(), Broken> {
    let place = format!("steps.{id}");
    let head = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let good = head && id.len() <= ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let usable = good && Expression::compile(&format!("steps.{id}")).is_ok();
    demand(usable, &place, || {
        format!(
            "a step's name must be 1 to {ID_BYTES_MAX} letters, digits and `_`, no digit first, and no word that CEL reserves"
        )
    })?;
    let mut named = BTreeSet::new();
    for before in &step.depends_on {
        demand(steps.contains_key(before), &format!("{place}.depends_on"), || format!("there is no step {before:?}"))?;
        demand(named.insert(before), &format!("{place}.depends_on"), || format!("{before:?} stands there twice"))?;
    }
    Ok(())
}

/// One of the cycles among steps of which each waits for another.
fn cycle<'a>(waiting: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<&'a str> {
    let mut path: Vec<&str> = Vec::new();
    let mut at = waiting.keys().next().copied();
    while let Some(id) = at {
        if let Some(start) = path.iter().position(|seen| *seen == id) {
            return path.split_off(start);
        }
        path.push(id);
        at = waiting[id].iter().find(|before| waiting.contains_key(*before)).copied();
    }
    path
}

fn told(cycle: &[&str]) -> String {
    let mut path: Vec<&str> = cycle.to_vec();
    path.extend(cycle.first());
    format!("these steps wait for one another: {}", path.join(" → "))
}

fn expression(place: &str, text: &str, seen: &Seen<'_>) -> Result<Expression, Broken> {
    let compiled = Expression::compile(text).map_err(|error| misplaced(place, &error))?;
    check_references(place, compiled.references(), seen)?;
    Ok(compiled)
}

fn template(place: &str, value: &Value, seen: &Seen<'_>) -> Result<Template, Broken> {
    let compiled = Template::compile(value).map_err(|error| misplaced(place, &error))?;
    check_references(place, compiled.references(), seen)?;
    Ok(compiled)
}

fn misplaced(place: &str, error: &ExprError) -> Broken {
    let place = format!("{place}{}", error.place.replace('/', "."));
    Broken::new(place, format!("`{}`: {}", error.text, error.detail))
}

fn check_references(place: &str, references: &References, seen: &Seen<'_>) -> Result<(), Broken> {
    demand(!references.all_steps, place, || "`steps` must be followed by the name of a step, as in steps.map".to_owned())?;
    for step in &references.steps {
        demand(seen.steps.contains(step.as_str()), place, || {
            format!("speaks of the step {step:?}, which does not come before it: name it in depends_on")
        })?;
    }
    for name in ["item", "index"] {
        demand(seen.item || !references.names.contains(name), place, || {
            format!("`{name}` is there only in the jobs of a for_each step")
        })?;
    }
    Ok(())
}

fn schema(value: Option<&Value>) -> Result<Option<Schema>, Broken> {
    let compiled = value.map(|value| Schema::compile(&value.to_string()));
    compiled.transpose().map_err(|error| Broken::new("input_schema", error.to_string()))
}

fn duration(place: &str, ms: Option<u64>) -> Result<Option<Duration>, Broken> {
    demand(ms.is_none_or(|ms| (1..=DURATION_MS_MAX).contains(&ms)), place, || {
        format!("must be 1 to {DURATION_MS_MAX} milliseconds")
    })?;
    Ok(ms.map(Duration::from_millis))
}

fn demand(holds: bool, place: &str, rule: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken::new(place, rule())) }
}

/// Whether a text can name a workflow. A pack's workflows begin with the pack's id and a dot.
#[must_use]
pub fn is_workflow_id(text: &str) -> bool {
    let head = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    head && text.len() <= ID_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}
