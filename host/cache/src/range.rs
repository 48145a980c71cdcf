//! Parts of a stored content (RFC 9110, section 14): which bytes, and the answer's form when there are several.

use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderMap, RANGE};

/// Parts that one answer may have; who asks for more gets the whole (RFC 9110, section 14.2).
const RANGES_MAX: usize = 16;

/// What of a content is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Several parts, in the order in which they are asked for.
    Many(Vec<Range<u64>>),
    One(Range<u64>),
    /// Nothing that the content has.
    Unsatisfiable,
    Whole,
}

/// Reads Range against a content of `length` bytes. What is malformed, in another unit, or asks for more bytes than there are, is as if
/// it were not there.
pub(crate) fn wanted(request: &HeaderMap, length: u64) -> Wanted {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Wanted::Whole };
    let specifiers = line.to_str().ok().and_then(|text| {
        let (unit, set) = text.split_once('=')?;
        unit.eq_ignore_ascii_case("bytes").then_some(set)
    });
    let Some(specifiers) = specifiers else { return Wanted::Whole };
    let mut all = Vec::new();
    for (count, specifier) in specifiers.split(',').map(str::trim).filter(|one| !one.is_empty()).enumerate() {
        let Some(range) = range(specifier, length).filter(|_| count < RANGES_MAX) else {
            return Wanted::Whole;
        };
        all.extend(Some(range).filter(|range| !range.is_empty()));
    }
    let bytes: u64 = all.iter().map(|range| range.end - range.start).sum();
    match all.as_slice() {
        [] => Wanted::Unsatisfiable,
        [one] => Wanted::One(one.clone()),
        // Overlapping parts would make an answer larger than the content.
        _ if bytes > length => Wanted::Whole,
        _ => Wanted::Many(all),
    }
}

/// One specifier; empty where the content has nothing of it, `None` where it is malformed.
fn range(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        return Some(length.saturating_sub(number(last)?)..length);
    }
    let first = number(first)?;
    let end = if last.is_empty() { length } else { number(last)?.saturating_add(1).min(length) };
    if !last.is_empty() && number(last)? < first {
        return None;
    }
    Some(first.min(end)..end)
}

/// `Content-Range` of a part.
pub(crate) fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1))
}

/// Some bytes of a content, shared with it.
pub(crate) fn slice(content: &Bytes, range: &Range<u64>) -> Bytes {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
    content.slice(place(range.start)..place(range.end).max(place(range.start)))
}

/// The content of an answer with several parts (RFC 9110, section 14.6). The boundary must be such as no content has.
pub(crate) fn multipart(
    content: &Bytes,
    ranges: &[Range<u64>],
    kind: Option<&[u8]>,
    boundary: &str,
) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for range in ranges {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(kind) = kind {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(kind);
            head.extend_from_slice(b"\r\n");
        }
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        head.extend_from_slice(format!("Content-Range: {}\r\n\r\n", content_range(range, length)).as_bytes());
        pieces.push(head.into());
        pieces.push(slice(content, range));
    }
    pieces.push(format!("\r\n--{boundary}--\r\n").into_bytes().into());
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str, length: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, text.parse().unwrap());
        wanted(&headers, length)
    }

    #[test]
    fn parts_are_read() {
        let cases = [
            ("bytes=0-1", Wanted::One(0..2)),
            ("bytes=1-", Wanted::One(1..10)),
            ("bytes=-1", Wanted::One(9..10)),
            ("bytes=-99", Wanted::One(0..10)),
            ("bytes=5-99", Wanted::One(5..10)),
            ("BYTES=0-0,-2", Wanted::Many(vec![0..1, 8..10])),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=3-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=0-9,0-9", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text, 10), expected, "{text}");
        }
        assert_eq!(of(&format!("bytes={}", vec!["0-0"; RANGES_MAX + 1].join(",")), 100), Wanted::Whole);
        assert_eq!(of("bytes=0-", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn several_parts_have_a_form() {
        let pieces = multipart(&Bytes::from_static(b"0123456789"), &[0..1, 8..10], Some(b"text/plain"), "B");
        let text: Vec<u8> = pieces.concat();
        let expected = "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-0/10\r\n\r\n0\
                        \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--B--\r\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    proptest! {
        /// A naive model: every byte of the content, asked one after the other.
        #[test]
        fn a_range_has_the_bytes_that_a_model_has(first in 0_u64..30, last in 0_u64..30, length in 0_u64..20) {
            let inside: Vec<u64> = (0..length).filter(|at| (first..=last).contains(at)).collect();
            let found = match of(&format!("bytes={first}-{last}"), length) {
                Wanted::One(range) => range.collect(),
                Wanted::Unsatisfiable => Vec::new(),
                Wanted::Whole => { prop_assert!(last < first); return Ok(()) }
                Wanted::Many(_) => unreachable!(),
            };
            prop_assert_eq!(found, inside);
        }

        #[test]
        fn no_text_makes_an_answer_larger_than_the_content(text in "bytes=[0-9,-]{0,40}", length in 0_u64..100) {
            if let Wanted::Many(all) = of(&text, length) {
                prop_assert!(all.iter().map(|range| range.end - range.start).sum::<u64>() <= length);
                prop_assert!(all.iter().all(|range| range.end <= length));
            }
        }
    }
}
