//! Expressions and templates of workflows: CEL over JSON values, at a bounded cost.
//!
//! ```text
//! "size(input.items) > 3" ── compile ─▶ Expression ── evaluate(&Scope) ─▶ Value
//! {"n": "${item.n}"} ─────── compile ─▶ Template ──── render(&Scope) ───▶ Value
//! ```
//!
//! The `cel` crate reads and evaluates. What is ours is the boundary around it: which names there are, how long a text may be, and
//! an upper bound of the cost, worked out from the expression and the sizes of the values that it names *before* it is evaluated,
//! since users write expressions and one loop evaluates those of everybody. There is no time and no randomness: the same scope
//! gives the same value.

mod cost;
mod error;
mod expression;
mod functions;
mod template;
mod value;

use std::collections::BTreeMap;

pub use error::{ExprError, ExprErrorKind};
pub use expression::{Expression, References};
pub use template::Template;
pub use value::Value;

/// The names that an expression may use.
pub const NAMES: &[&str] = &["input", "ctx", "steps", "item", "index"];

/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

/// How many comprehensions (`map`, `filter`, `all` …) may stand inside one another.
pub const COMPREHENSIONS_MAX: usize = 2;

/// The most that one evaluation may cost. A step is about one operation on a small value, or 32 bytes of text.
pub const COST_MAX: u64 = 5_000_000;

/// The largest value that an expression or a template may give, in bytes of its JSON.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The longest list that a function makes.
pub const LIST_ENTRIES_MAX: usize = 10_000;

/// Names and what they stand for.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    values: BTreeMap<String, Value>,
}

impl Scope {
    /// A scope without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The scope with one name more.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.set(name, value);
        self
    }

    /// Gives a name its value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// What a name stands for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.values.iter()
    }
}
