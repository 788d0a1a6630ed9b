//! JSON Schemas of inputs and outputs.
//!
//! Schemas come from packs, so they are treated as foreign: nothing is fetched from a network or a disk (references reach only
//! into the schema itself), patterns run on an engine whose time is linear in the text, and sizes are bounded.

use std::fmt;

use jsonschema::PatternOptions;
use serde_json::Value;

/// The longest schema, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// The largest compiled pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// The longest message about a violation, in characters: some repeat the offending value.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// A compiled schema.
#[derive(Clone)]
pub struct Schema {
    validator: jsonschema::Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("draft", &self.validator.draft()).finish_non_exhaustive()
    }
}

/// A schema that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON Schema that can be used: {detail}")]
pub struct SchemaError {
    /// What is wrong with it.
    pub detail: String,
}

/// A value that its schema does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", if instance_path.is_empty() { "the value" } else { instance_path })]
pub struct Violation {
    /// Where, as a JSON Pointer; empty for the whole value.
    pub instance_path: String,
    /// What is wrong there.
    pub message: String,
}

impl Schema {
    /// Compiles a schema; the draft is 2020-12 unless `$schema` names another one.
    ///
    /// # Errors
    /// [`SchemaError`] when it is too long, is no JSON, or is no schema by itself.
    pub fn compile(text: &str) -> Result<Self, SchemaError> {
        let error = |detail: String| SchemaError { detail: shorten(&detail) };
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(error(format!("{} bytes are more than the {SCHEMA_BYTES_MAX} that are taken", text.len())));
        }
        let schema: Value = serde_json::from_str(text).map_err(|cause| error(cause.to_string()))?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|cause| error(cause.to_string()))?;
        Ok(Self { validator })
    }

    /// Checks a JSON text.
    ///
    /// # Errors
    /// [`Violation`] names the first thing that is wrong, also where the text is no JSON at all.
    pub fn validate(&self, json: &[u8]) -> Result<(), Violation> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|cause| Violation { instance_path: String::new(), message: format!("not JSON: {cause}") })?;
        self.validate_value(&value)
    }

    /// Checks a value.
    ///
    /// # Errors
    /// [`Violation`] names the first thing that is wrong.
    pub fn validate_value(&self, value: &Value) -> Result<(), Violation> {
        self.validator.validate(value).map_err(|cause| Violation {
            instance_path: shorten(cause.instance_path().as_str()),
            message: shorten(&cause.to_string()),
        })
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: &str = r#"{
        "type": "object", "additionalProperties": false, "required": ["from"],
        "properties": { "from": { "type": "string", "pattern": "^[0-9]{1,20}$" }, "mode": { "enum": ["hunt", "census"] } }
    }"#;

    #[test]
    fn a_violation_says_where_and_what() {
        let schema = Schema::compile(RANGE).expect("a schema");
        assert_eq!(schema.validate(br#"{"from":"12","mode":"hunt"}"#), Ok(()));
        let violation = schema.validate(br#"{"from":"1x"}"#).expect_err("a violation");
        assert_eq!(violation.instance_path, "/from");
        let violation = schema.validate(br#"{"from":"1","extra":1}"#).expect_err("a violation");
        assert_eq!(violation.instance_path, "");
        assert!(violation.to_string().contains("extra"), "{violation}");
        assert!(schema.validate(b"{").expect_err("a violation").message.starts_with("not JSON"));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert!(Schema::compile("{").is_err());
        assert!(Schema::compile(r#"{"type":"nothing"}"#).is_err());
        assert!(Schema::compile(r#"{"pattern":"("}"#).is_err());
        assert!(Schema::compile(&" ".repeat(SCHEMA_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn nothing_is_fetched() {
        for reference in ["http://127.0.0.1:9/schema.json", "file:///etc/hostname", "other.json"] {
            assert!(Schema::compile(&format!(r#"{{"$ref":"{reference}"}}"#)).is_err(), "{reference}");
        }
        let inner = Schema::compile(r##"{"$ref":"#/$defs/n","$defs":{"n":{"type":"integer"}}}"##).expect("a schema");
        assert_eq!(inner.validate(b"1"), Ok(()));
        assert!(inner.validate(b"\"1\"").is_err());
    }

    #[test]
    fn messages_are_bounded() {
        let schema = Schema::compile(r#"{"type":"integer"}"#).expect("a schema");
        let long = format!("\"{}\"", "x".repeat(10_000));
        assert!(schema.validate(long.as_bytes()).expect_err("a violation").message.chars().count() <= 301);
    }
}
