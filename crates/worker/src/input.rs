//! Which artifacts an input names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

/// The identifiers in the members `artifact` (one text) and `artifacts` (a list of texts) of an input that is an object, each
/// once. Any other input, and any other kind of value there, names none: what an input must look like is its schema's affair.
pub(crate) fn artifact_ids(input: &[u8]) -> BTreeSet<String> {
    // Only the two members are looked into: an input can be large.
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(input).unwrap_or_default();
    let member = |name: &str| members.get(name).map_or("null", |value| value.get());
    let one = serde_json::from_str::<String>(member("artifact")).ok();
    let many = serde_json::from_str::<Vec<String>>(member("artifacts")).unwrap_or_default();
    one.into_iter().chain(many).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(input: &str) -> Vec<String> {
        artifact_ids(input.as_bytes()).into_iter().collect()
    }

    #[test]
    fn both_members_count_and_nothing_twice() {
        assert_eq!(ids(r#"{"artifact":"a","start":0}"#), ["a"]);
        assert_eq!(ids(r#"{"artifacts":["b","a","b"],"artifact":"c"}"#), ["a", "b", "c"]);
        assert_eq!(ids(r#"{"artifact":"a\u0062"}"#), ["ab"]);
    }

    #[test]
    fn everything_else_names_none() {
        for input in [
            "",
            "null",
            r#""artifact""#,
            r#"["a"]"#,
            "{",
            r#"{"artifact":null,"artifacts":{"a":1}}"#,
            r#"{"in":{"artifact":"a"}}"#,
        ] {
            assert!(ids(input).is_empty(), "{input}");
        }
    }
}
