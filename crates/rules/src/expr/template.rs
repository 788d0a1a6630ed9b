//! Templates: JSON in whose texts `${…}` stands for the value of an expression.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use cel::objects::{Key, Map};

use super::error::{ExprError, ExprErrorKind};
use super::expression::{Expression, References};
use super::value::json_bytes;
use super::{COST_MAX, Scope, VALUE_BYTES_MAX, Value};

/// How deep a template may nest lists and maps.
const DEPTH_MAX: usize = 32;
/// How many expressions a template may hold.
const EXPRESSIONS_MAX: usize = 256;

/// JSON with expressions in it. A text that is nothing but one `${…}` becomes the value itself; in a longer text the value is
/// written out, null as nothing, lists and maps as JSON. `$${` stands for `${`.
#[derive(Clone, Debug)]
pub struct Template {
    node: Node,
    references: References,
}

#[derive(Clone, Debug)]
enum Node {
    Plain(cel::Value),
    Value { place: String, expression: Expression },
    Text { place: String, parts: Vec<Part> },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Clone, Debug)]
enum Part {
    Plain(String),
    Expression(Expression),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`ExprError`] names the place of what is wrong.
    pub fn compile(json: &serde_json::Value) -> Result<Self, ExprError> {
        let mut reading = Reading::default();
        let node = reading.node(json, "", 0)?;
        Ok(Self { node, references: reading.references })
    }

    /// Makes the value.
    ///
    /// # Errors
    /// [`ExprError`] when an expression cannot be evaluated with these values, or all of it costs or gives too much.
    pub fn render(&self, scope: &Scope) -> Result<Value, ExprError> {
        let cost = self.cost(scope);
        if cost > COST_MAX {
            let detail = format!("it may cost {cost} steps, where {COST_MAX} are permitted");
            return Err(ExprError::new(ExprErrorKind::TooLarge, "the whole template", detail));
        }
        let value = self.node.render(scope)?;
        if json_bytes(&value, VALUE_BYTES_MAX) > VALUE_BYTES_MAX {
            let detail = format!("it gives a value of more than {VALUE_BYTES_MAX} bytes");
            return Err(ExprError::new(ExprErrorKind::TooLarge, "the whole template", detail));
        }
        Ok(Value(value))
    }

    /// An upper bound of what it costs to make the value.
    #[must_use]
    pub fn cost(&self, scope: &Scope) -> u64 {
        self.node.cost(scope)
    }

    /// What its expressions speak of.
    #[must_use]
    pub const fn references(&self) -> &References {
        &self.references
    }
}

impl Node {
    fn cost(&self, scope: &Scope) -> u64 {
        match self {
            Self::Plain(_) => 1,
            Self::Value { expression, .. } => expression.cost(scope),
            Self::Text { parts, .. } => {
                let costs = parts.iter().map(|part| match part {
                    Part::Plain(_) => 1,
                    Part::Expression(expression) => expression.cost(scope).saturating_mul(2),
                });
                costs.fold(1, u64::saturating_add)
            }
            Self::List(entries) => entries.iter().map(|entry| entry.cost(scope)).fold(1, u64::saturating_add),
            Self::Map(members) => members.iter().map(|(_, value)| value.cost(scope)).fold(1, u64::saturating_add),
        }
    }

    fn render(&self, scope: &Scope) -> Result<cel::Value, ExprError> {
        match self {
            Self::Plain(value) => Ok(value.clone()),
            Self::Value { place, expression } => Ok(expression.evaluate(scope).map_err(|error| error.at(place))?.0),
            Self::Text { place, parts } => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Plain(plain) => text.push_str(plain),
                        Part::Expression(expression) => {
                            let value = expression.evaluate(scope).map_err(|error| error.at(place))?;
                            write_out(&mut text, &value.to_json());
                        }
                    }
                }
                Ok(cel::Value::String(Arc::new(text)))
            }
            Self::List(entries) => {
                let entries: Result<Vec<cel::Value>, ExprError> = entries.iter().map(|entry| entry.render(scope)).collect();
                Ok(cel::Value::List(Arc::new(entries?)))
            }
            Self::Map(members) => {
                let members = members.iter().map(|(name, value)| Ok((Key::String(Arc::new(name.clone())), value.render(scope)?)));
                let members: HashMap<Key, cel::Value> = members.collect::<Result<_, ExprError>>()?;
                Ok(cel::Value::Map(Map { map: Arc::new(members) }))
            }
        }
    }
}

fn write_out(text: &mut String, value: &serde_json::Value) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::String(plain) => text.push_str(plain),
        other => {
            // Writing to a text does not fail.
            let _ = write!(text, "{other}");
        }
    }
}

#[derive(Default)]
struct Reading {
    references: References,
    expressions: usize,
}

impl Reading {
    fn node(&mut self, json: &serde_json::Value, place: &str, depth: usize) -> Result<Node, ExprError> {
        if depth > DEPTH_MAX {
            let detail = format!("lists and maps stand inside one another more than {DEPTH_MAX} deep");
            return Err(ExprError::new(ExprErrorKind::TooLarge, "", detail).at(place));
        }
        match json {
            serde_json::Value::String(text) => self.text(text, place),
            serde_json::Value::Array(entries) => {
                let nodes =
                    entries.iter().enumerate().map(|(index, entry)| self.node(entry, &format!("{place}/{index}"), depth + 1));
                Ok(Node::List(nodes.collect::<Result<_, _>>()?))
            }
            serde_json::Value::Object(members) => {
                let nodes = members.iter().map(|(name, value)| {
                    let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
                    Ok((name.clone(), self.node(value, &place, depth + 1)?))
                });
                Ok(Node::Map(nodes.collect::<Result<_, ExprError>>()?))
            }
            plain => Ok(Node::Plain(Value::from_json(plain).0)),
        }
    }

    fn text(&mut self, text: &str, place: &str) -> Result<Node, ExprError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at - 1]);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let inside = &rest[at + 2..];
            let Some(end) = end_of_expression(inside) else {
                return Err(ExprError::new(ExprErrorKind::Syntax, text, "a `${` has no `}`").at(place));
            };
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Expression(self.expression(&inside[..end], place)?));
            rest = &inside[end + 1..];
        }
        plain.push_str(rest);
        if parts.is_empty() {
            return Ok(Node::Plain(cel::Value::String(Arc::new(plain))));
        }
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        let place = place.to_owned();
        Ok(match parts.as_slice() {
            [Part::Expression(expression)] => Node::Value { place, expression: expression.clone() },
            _ => Node::Text { place, parts },
        })
    }

    fn expression(&mut self, text: &str, place: &str) -> Result<Expression, ExprError> {
        self.expressions += 1;
        if self.expressions > EXPRESSIONS_MAX {
            let detail = format!("there are more than {EXPRESSIONS_MAX} expressions");
            return Err(ExprError::new(ExprErrorKind::TooLarge, text, detail).at(place));
        }
        let expression = Expression::compile(text.trim()).map_err(|error| error.at(place))?;
        self.references.extend(expression.references());
        Ok(expression)
    }
}

/// Where the `}` stands that ends an expression: not one inside its texts or maps.
fn end_of_expression(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}
