//! Percent-encoding of paths and queries (RFC 3986; in queries `+` is a space, as forms write it).

use std::fmt::Write as _;

/// The text that is meant, or nothing when it is none: a broken escape, or bytes that are not UTF-8.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The text with everything escaped that could mean something else.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_escapes_are_no_text() {
        for bad in ["%", "%2", "%zz", "%ff", "a%C3"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
        assert_eq!(decode("a+%2B%C3%A9", true).as_deref(), Some("a +é"));
        assert_eq!(decode("a+b", false).as_deref(), Some("a+b"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,30}") {
            prop_assert_eq!(decode(&encode(&text), true), Some(text));
        }
    }
}
