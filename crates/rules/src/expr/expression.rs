//! Expressions: read once, evaluated often.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::{Context, Env, ExecutionError, Program};

use super::error::{ExprError, ExprErrorKind};
use super::value::{is_json, json_bytes};
use super::{COMPREHENSIONS_MAX, COST_MAX, EXPRESSION_BYTES_MAX, NAMES, Scope, VALUE_BYTES_MAX, Value, cost, functions};

/// The most brackets that one expression opens.
const BRACKETS_MAX: usize = 48;
/// The most operators and selections of one expression, each character of them counted.
const OPERATORS_MAX: usize = 256;

/// What an expression speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The names that it uses.
    pub names: BTreeSet<String>,
    /// Every X of `steps.X` and `steps["X"]`.
    pub steps: BTreeSet<String>,
    /// It uses `steps` in another way as well.
    pub all_steps: bool,
}

impl References {
    pub(super) fn extend(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        self.steps.extend(other.steps.iter().cloned());
        self.all_steps |= other.all_steps;
    }
}

/// An expression that was read.
#[derive(Clone)]
pub struct Expression {
    text: String,
    program: Arc<Program>,
    references: References,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`ExprError`] when it is none, is too long, or uses what does not exist.
    pub fn compile(text: &str) -> Result<Self, ExprError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let detail = format!("an expression has at most {EXPRESSION_BYTES_MAX} bytes, this one has {}", text.len());
            return Err(ExprError::new(ExprErrorKind::TooLarge, text, detail));
        }
        bounded(text).map_err(|detail| ExprError::new(ExprErrorKind::TooLarge, text, detail))?;
        let program = deep(|| environment().compile(text)).map_err(|errors| {
            let detail = errors.errors.first().map_or_else(|| errors.to_string(), |error| error.msg.clone());
            ExprError::new(ExprErrorKind::Syntax, text, detail)
        })?;
        let mut reading = Reading::default();
        let read = reading.read(&program.expression().expr);
        read.map_err(|(kind, detail)| ExprError::new(kind, text, detail))?;
        Ok(Self { text: text.to_owned(), references: reading.references, program: Arc::new(program) })
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// [`ExprError`] when that cannot be done with these values, or would cost too much.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, ExprError> {
        let fail = |kind, detail: String| ExprError::new(kind, &self.text, detail);
        let cost = self.cost(scope);
        if cost > COST_MAX {
            return Err(fail(ExprErrorKind::TooLarge, format!("it may cost {cost} steps, where {COST_MAX} are permitted")));
        }
        let mut context = Context::with_env(Arc::clone(environment()));
        functions::register(&mut context);
        for name in &self.references.names {
            let Some(value) = scope.get(name) else {
                return Err(fail(ExprErrorKind::UnknownName, format!("there is no `{name}` here")));
            };
            context.add_variable_from_value(name.as_str(), value.0.clone());
        }
        let value = deep(|| self.program.execute(&context)).map_err(|error| fail(ExprErrorKind::Evaluate, told(&error)))?;
        if !is_json(&value) {
            return Err(fail(ExprErrorKind::Evaluate, "it gives a value that JSON cannot hold".to_owned()));
        }
        if json_bytes(&value, VALUE_BYTES_MAX) > VALUE_BYTES_MAX {
            return Err(fail(ExprErrorKind::TooLarge, format!("it gives a value of more than {VALUE_BYTES_MAX} bytes")));
        }
        Ok(Value(value))
    }

    /// An upper bound of what it costs to evaluate it.
    #[must_use]
    pub fn cost(&self, scope: &Scope) -> u64 {
        cost::bound(self.program.expression(), scope)
    }

    /// What it speaks of.
    #[must_use]
    pub const fn references(&self) -> &References {
        &self.references
    }

    /// Itself, as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Bounds how deep the parts of an expression can stand inside one another, before a reader that calls itself gets to see it. All
/// brackets and operators count, in quotes as well: to tell those apart would take another reader.
fn bounded(text: &str) -> Result<(), String> {
    let brackets = text.matches(['(', '[', '{']).count();
    if brackets > BRACKETS_MAX {
        return Err(format!("it opens {brackets} brackets, where {BRACKETS_MAX} are permitted"));
    }
    let operators = text.matches(['.', '?', ':', '+', '-', '*', '/', '%', '!', '=', '<', '>', '&', '|']).count();
    if operators > OPERATORS_MAX {
        return Err(format!("it has {operators} operators, where {OPERATORS_MAX} are permitted"));
    }
    Ok(())
}

/// Runs what calls itself as deep as the bounds permit: the reader takes up to 150 KB of stack for a bracket when it is not
/// optimised.
fn deep<T>(run: impl FnOnce() -> T) -> T {
    const STACK: usize = 32 << 20;
    stacker::maybe_grow(STACK / 2, STACK, run)
}

/// CEL's standard functions and macros.
fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| Arc::new(Env::stdlib()))
}

fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => format!("there is no member {name:?}"),
        other => other.to_string(),
    }
}

type Wrong = (ExprErrorKind, String);

/// Finds what an expression speaks of, and what it must not do.
#[derive(Default)]
struct Reading {
    references: References,
    /// Variables of the comprehensions around.
    variables: Vec<String>,
    comprehensions: usize,
}

impl Reading {
    fn read(&mut self, expression: &Expr) -> Result<(), Wrong> {
        match expression {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) if self.is_steps(&select.operand.expr) => self.step(&select.field),
            Expr::Select(select) => self.read(&select.operand.expr),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.read(&element.expr)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(made) => Err((ExprErrorKind::Syntax, format!("there are no messages here, such as {}", made.type_name))),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn name(&mut self, name: &str) -> Result<(), Wrong> {
        if self.variables.iter().any(|variable| variable == name) {
            return Ok(());
        }
        if !NAMES.contains(&name) {
            let known = NAMES.join(", ");
            return Err((ExprErrorKind::UnknownName, format!("there is no `{name}`; there are {known}")));
        }
        self.references.all_steps |= name == "steps";
        self.references.names.insert(name.to_owned());
        Ok(())
    }

    fn is_steps(&self, expression: &Expr) -> bool {
        matches!(expression, Expr::Ident(name) if name == "steps") && !self.variables.iter().any(|variable| variable == "steps")
    }

    fn step(&mut self, id: &str) -> Result<(), Wrong> {
        self.references.names.insert("steps".to_owned());
        self.references.steps.insert(id.to_owned());
        Ok(())
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), Wrong> {
        match entry {
            EntryExpr::StructField(field) => self.read(&field.value.expr),
            EntryExpr::MapEntry(entry) => {
                self.read(&entry.key.expr)?;
                self.read(&entry.value.expr)
            }
        }
    }

    fn call(&mut self, call: &CallExpr) -> Result<(), Wrong> {
        if let (operators::INDEX, [of, index]) = (call.func_name.as_str(), call.args.as_slice())
            && self.is_steps(&of.expr)
            && let Expr::Literal(LiteralValue::String(id)) = &index.expr
        {
            return self.step(id.inner());
        }
        // Operators have names that no function can have.
        let is_word = call.func_name.bytes().all(|b| b.is_ascii_alphanumeric());
        if is_word && !functions::FUNCTIONS.contains(&call.func_name.as_str()) {
            let known = functions::FUNCTIONS.join(", ");
            return Err((ExprErrorKind::UnknownName, format!("there is no function `{}`; there are {known}", call.func_name)));
        }
        call.target.as_deref().into_iter().chain(&call.args).try_for_each(|part| self.read(&part.expr))
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<(), Wrong> {
        self.read(&comprehension.iter_range.expr)?;
        self.read(&comprehension.accu_init.expr)?;
        self.comprehensions += 1;
        if self.comprehensions > COMPREHENSIONS_MAX {
            let detail = format!("comprehensions stand inside one another more than {COMPREHENSIONS_MAX} deep");
            return Err((ExprErrorKind::TooLarge, detail));
        }
        let before = self.variables.len();
        self.variables.push(comprehension.iter_var.clone());
        self.variables.extend(comprehension.iter_var2.clone());
        self.variables.push(comprehension.accu_var.clone());
        self.read(&comprehension.loop_cond.expr)?;
        self.read(&comprehension.loop_step.expr)?;
        self.read(&comprehension.result.expr)?;
        self.variables.truncate(before);
        self.comprehensions -= 1;
        Ok(())
    }
}
