//! In which form results are compared: as they are, or as JSON.

use std::collections::BTreeMap;

use busbar_protocol::busbar::Comparison;
use busbar_protocol::pointers::Sha256Hex;
use serde_json::value::RawValue;

use super::super::job::ResultPlace;

/// How deep JSON may be nested to be compared as such.
const DEPTH_MAX: usize = 64;

/// SHA-256 of a result in the form in which it is compared.
#[must_use]
pub fn digest(result: &[u8], how: Comparison) -> [u8; 32] {
    let canonical = match how {
        Comparison::Json => canonical_json(result),
        Comparison::Exact | Comparison::Unspecified => None,
    };
    sha256(canonical.as_deref().unwrap_or(result))
}

/// The digest by which a result that was looked at is compared; that of nothing, where there is none.
#[must_use]
pub fn digest_of(result: Option<&ResultPlace>) -> [u8; 32] {
    let compared = result.and_then(|place| <[u8; 32]>::try_from(&place.compared[..]).ok());
    compared.unwrap_or_else(|| sha256(b""))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = Sha256Hex::of(bytes).to_bytes();
    digest[..].try_into().expect("a digest has 32 bytes")
}

/// JSON without white space, its members in order, each text written in one way; none, if it is no JSON. Numbers stay as they were
/// written: whoever reads them as binary fractions would take different ones for the same.
fn canonical_json(bytes: &[u8]) -> Option<Vec<u8>> {
    let raw: &RawValue = serde_json::from_slice(bytes).ok()?;
    let mut canonical = Vec::with_capacity(bytes.len());
    write_canonical(raw.get(), DEPTH_MAX, &mut canonical)?;
    Some(canonical)
}

fn write_canonical(text: &str, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match text.as_bytes().first()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            out.push(b'{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, &name).ok()?;
                out.push(b':');
                write_canonical(value.get(), depth, out)?;
            }
            out.push(b'}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push(b'[');
            for (index, value) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(value.get(), depth, out)?;
            }
            out.push(b']');
        }
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            serde_json::to_writer(&mut *out, &text).ok()?;
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str, how: Comparison) -> bool {
        digest(one.as_bytes(), how) == digest(other.as_bytes(), how)
    }

    #[test]
    fn as_json_only_the_meaning_counts() {
        let json = |one, other| same(one, other, Comparison::Json);
        assert!(json(r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [true, null],\n \"a\":1}"));
        assert!(json(r#"{"x":{"q":"é","p":0}}"#, r#"{"x":{"p":0,"q":"\u00e9"}}"#));
        assert!(!json(r#"[1,2]"#, r#"[2,1]"#), "the order of items counts");
        assert!(!json("18446744073709551617", "18446744073709551618"), "they are the same number to a binary fraction");
        assert!(!json(r#"{"a":1}"#, r#"{"a":"1"}"#));
        assert!(!same(r#"{"a":1}"#, r#"{ "a":1}"#, Comparison::Exact));
    }

    #[test]
    fn what_is_no_json_is_compared_byte_by_byte() {
        assert!(same("plain", "plain", Comparison::Json));
        assert!(!same("plain", "plain ", Comparison::Json));
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(!same(&deep("1"), &deep(" 1"), Comparison::Json));
        assert_eq!(digest(b"", Comparison::Json), digest_of(None));
    }
}
