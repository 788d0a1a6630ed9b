//! Bytes as hexadecimal digits in lower case, two a byte.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The digits of some bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    append(&mut text, bytes);
    text
}

/// Puts the digits of some bytes behind a text.
pub fn append(text: &mut String, bytes: &[u8]) {
    text.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(DIGITS[usize::from(half)])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits_in_lower_case() {
        assert_eq!(encode(&[0, 1, 0x9a, 0xff]), "00019aff");
        let mut text = "k:".to_owned();
        append(&mut text, b"");
        append(&mut text, b"~");
        assert_eq!(text, "k:7e");
    }
}
