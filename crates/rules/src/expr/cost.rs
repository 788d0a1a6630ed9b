//! An upper bound of what an evaluation costs, worked out before it begins.
//!
//! The bound follows the expression from the inside out. Each part has a *cost*, and its value a *size*: the number of values in it,
//! a text counting one for each 32 bytes. Names have the sizes of the values for which they stand, and a path such as
//! `steps.map.output` that of what stands there. A comprehension costs its body once for each entry that its range can have. The
//! bound may be far above the truth, never below it.

use std::collections::HashMap;

use cel::Value as Cel;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::objects::KeyRef;

use super::{LIST_ENTRIES_MAX, Scope};

/// Bytes of text that count as one value.
const BYTES: u64 = 32;

/// An upper bound of what it costs to evaluate an expression.
pub(super) fn bound(expression: &IdedExpr, scope: &Scope) -> u64 {
    // The values of all names are made CEL's own before anything is evaluated, and the result is made ours.
    let names = scope.iter().map(|(_, value)| size(&value.0)).fold(0, u64::saturating_add);
    let whole = Walk { scope, variables: HashMap::new() }.walk(&expression.expr);
    names.saturating_add(whole.cost).saturating_add(whole.size)
}

/// The number of values in a value.
fn size(value: &Cel) -> u64 {
    match value {
        Cel::String(text) => 1 + text.len() as u64 / BYTES,
        Cel::List(entries) => entries.iter().map(size).fold(1, u64::saturating_add),
        Cel::Map(map) => map.map.values().map(|value| 1 + size(value)).fold(1, u64::saturating_add),
        _ => 1,
    }
}

/// What a part costs, and of what size its value is: in all, how many entries it can have, and how large one can be.
#[derive(Clone, Copy, Debug)]
struct Bound {
    cost: u64,
    size: u64,
    entries: u64,
    entry: u64,
}

impl Bound {
    /// A value about which nothing is known but its size.
    const fn of(cost: u64, size: u64) -> Self {
        Self { cost, size, entries: size, entry: size }
    }

    /// Naming a value copies nothing.
    fn of_value(value: &Cel) -> Self {
        let whole = Self::of(1, size(value));
        match value {
            Cel::List(entries) => {
                Self { entries: entries.len() as u64, entry: entries.iter().map(size).max().unwrap_or(0), ..whole }
            }
            _ => whole,
        }
    }

    /// Two parts of one thing.
    fn and(self, other: Self) -> Self {
        Self {
            cost: self.cost.saturating_add(other.cost),
            size: self.size.saturating_add(other.size),
            entries: self.entries.saturating_add(other.entries),
            entry: self.entry.max(other.entry),
        }
    }
}

struct Walk<'a> {
    scope: &'a Scope,
    /// Sizes of the variables of the comprehensions around.
    variables: HashMap<&'a str, u64>,
}

impl<'a> Walk<'a> {
    fn walk(&mut self, expression: &'a Expr) -> Bound {
        if let Some(value) = self.find(expression) {
            return Bound::of_value(value);
        }
        match expression {
            Expr::Unspecified => Bound::of(1, 1),
            Expr::Literal(literal) => Bound::of(1, literal_size(literal)),
            Expr::Ident(name) => {
                let size = self.variables.get(name.as_str()).copied().unwrap_or(1);
                Bound::of(1, size)
            }
            Expr::Select(select) => {
                let of = self.walk(&select.operand.expr);
                Bound::of(of.cost.saturating_add(1), if select.test { 1 } else { of.size })
            }
            Expr::List(list) => {
                let parts: Vec<Bound> = list.elements.iter().map(|element| self.walk(&element.expr)).collect();
                let whole = sum(parts.iter().copied());
                let entry = parts.iter().map(|part| part.size).max().unwrap_or(0);
                Bound { entries: parts.len() as u64, entry, ..whole }
            }
            Expr::Map(map) => self.members(map.entries.iter().map(|entry| &entry.expr)),
            Expr::Struct(made) => self.members(made.entries.iter().map(|entry| &entry.expr)),
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let parts: Vec<Bound> = call.args.iter().map(|part| self.walk(&part.expr)).collect();
                let cost = parts.iter().fold(1, |cost, part| part.cost.saturating_add(cost));
                let size = parts.first().map_or(1, |of| of.entry);
                Bound::of(cost, size)
            }
            Expr::Call(call) if call.func_name == "zip" => self.pairs(call),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn members(&mut self, entries: impl Iterator<Item = &'a EntryExpr>) -> Bound {
        let mut whole = Bound::of(1, 1);
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => whole = whole.and(self.walk(&field.value.expr)),
                EntryExpr::MapEntry(entry) => {
                    whole = whole.and(self.walk(&entry.key.expr)).and(self.walk(&entry.value.expr));
                }
            }
        }
        whole
    }

    /// Pairs have an entry of each list, so that what is gone through afterwards is bounded by the entries, and not by all of them.
    fn pairs(&mut self, call: &'a CallExpr) -> Bound {
        let parts: Vec<Bound> = call.args.iter().map(|part| self.walk(&part.expr)).collect();
        let entries = parts.iter().map(|part| part.entries).max().unwrap_or(0);
        let entry = parts.iter().fold(1, |size: u64, part| size.saturating_add(part.entry));
        let whole = sum(parts.into_iter());
        let size = whole.size.saturating_add(entries);
        Bound { cost: whole.cost.saturating_add(size), size, entries, entry }
    }

    fn call(&mut self, call: &'a CallExpr) -> Bound {
        let parts = sum(call.target.as_deref().into_iter().chain(&call.args).map(|part| self.walk(&part.expr)));
        let read = parts.cost.saturating_add(parts.size);
        match call.func_name.as_str() {
            // A pattern is tried at each place of a text.
            "matches" => Bound::of(read.saturating_add(parts.size.saturating_mul(parts.size).saturating_mul(BYTES)), 1),
            "range" => Bound { entry: 1, ..Bound::of(parts.cost + LIST_ENTRIES_MAX as u64, LIST_ENTRIES_MAX as u64) },
            // What stands around the parts is at most as much as the parts.
            "json" | "string" | "chunks" | "groupsByBytes" => Bound::of(read.saturating_mul(2), parts.size.saturating_mul(2)),
            "size" | "contains" | "startsWith" | "endsWith" | "sum" => Bound::of(read, 1),
            name if is_judgement(name) => Bound::of(read, 1),
            operators::ADD | operators::CONDITIONAL => Bound { cost: read, ..parts },
            _ => Bound::of(read, parts.size),
        }
    }

    fn comprehension(&mut self, comprehension: &'a ComprehensionExpr) -> Bound {
        let range = self.walk(&comprehension.iter_range.expr);
        let start = self.walk(&comprehension.accu_init.expr);
        let mut variables = vec![(comprehension.iter_var.as_str(), range.entry)];
        variables.extend(comprehension.iter_var2.as_deref().map(|variable| (variable, range.entry)));
        // What is gathered counts by what each round adds to it.
        variables.push((comprehension.accu_var.as_str(), 0));
        let hidden: Vec<(&str, Option<u64>)> =
            variables.into_iter().map(|(variable, size)| (variable, self.variables.insert(variable, size))).collect();
        let condition = self.walk(&comprehension.loop_cond.expr);
        let step = self.walk(&comprehension.loop_step.expr);
        for (variable, before) in hidden.into_iter().rev() {
            match before {
                Some(size) => self.variables.insert(variable, size),
                None => self.variables.remove(variable),
            };
        }
        // What a round gives is copied to what is gathered.
        let round = condition.cost.saturating_add(step.cost).saturating_add(step.size).saturating_add(1);
        let cost = range.cost.saturating_add(start.cost).saturating_add(range.entries.saturating_mul(round));
        let size = start.size.saturating_add(range.entries.saturating_mul(step.size));
        Bound { cost, size, entries: range.entries, entry: step.size }
    }

    /// The value at the end of a path of names, if one stands there.
    fn find(&self, expression: &'a Expr) -> Option<&'a Cel> {
        match expression {
            Expr::Ident(name) if !self.variables.contains_key(name.as_str()) => self.scope.get(name).map(|value| &value.0),
            Expr::Select(select) if !select.test => match self.find(&select.operand.expr)? {
                Cel::Map(map) => map.get(&KeyRef::String(&select.field)),
                _ => None,
            },
            _ => None,
        }
    }
}

fn sum(parts: impl Iterator<Item = Bound>) -> Bound {
    parts.fold(Bound { cost: 1, size: 1, entries: 0, entry: 0 }, Bound::and)
}

fn literal_size(literal: &LiteralValue) -> u64 {
    match literal {
        LiteralValue::String(text) => 1 + text.inner().len() as u64 / BYTES,
        LiteralValue::Bytes(bytes) => 1 + bytes.inner().len() as u64 / BYTES,
        LiteralValue::Boolean(_)
        | LiteralValue::Double(_)
        | LiteralValue::Int(_)
        | LiteralValue::Null
        | LiteralValue::UInt(_) => 1,
    }
}

/// Whether an operator gives true or false.
fn is_judgement(name: &str) -> bool {
    [
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::GREATER,
        operators::GREATER_EQUALS,
        operators::LESS,
        operators::LESS_EQUALS,
        operators::LOGICAL_AND,
        operators::LOGICAL_OR,
        operators::LOGICAL_NOT,
        operators::NOT_STRICTLY_FALSE,
        operators::IN,
    ]
    .contains(&name)
}
