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

/// As many bytes as their digits say; `None` for anything but two digits for each, all of them in lower case.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = half(pair[0])? << 4 | half(pair[1])?;
    }
    Some(bytes)
}

const fn half(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
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

    #[test]
    fn digits_read_back() {
        assert_eq!(decode("00019aff"), Some([0, 1, 0x9a, 0xff]));
        for bad in ["0", "000", "0g", "A0", "ä", "+1"] {
            assert_eq!(decode::<1>(bad), None, "{bad}");
        }
    }
}
