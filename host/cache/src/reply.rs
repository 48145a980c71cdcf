//! What a client gets of a stored response: the whole, a part, parts, or the word that it has it already (RFC 9111, section 4; RFC 9110,
//! sections 13 to 15).

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::{Method, StatusCode};

use crate::conditional::{has_it, range_applies};
use crate::range::{Wanted, content_range, multipart, slice, wanted};
use crate::stored::Stored;

/// An answer, without whatever carries its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) content: Vec<Bytes>,
    pub(crate) headers: HeaderMap,
    pub(crate) status: StatusCode,
}

/// The answer of a stored response to a request, at a time. `boundary` divides parts, if there are several: such as no content has it.
pub(crate) fn reply(
    stored: &Stored,
    (method, request): (&Method, &HeaderMap),
    now_ms: u64,
    boundary: &str,
) -> Reply {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    let headers = fields(stored, now_ms);
    let length = u64::try_from(stored.content.len()).unwrap_or(u64::MAX);
    let mut reply = Reply { content: Vec::new(), headers, status };
    if status == StatusCode::OK && has_it(request, &stored.headers, stored.policy.responded_ms) {
        reply.status = StatusCode::NOT_MODIFIED;
        // RFC 9110, section 15.4.5: fields of the content are left out.
        for name in [CONTENT_LENGTH, CONTENT_TYPE, http::header::CONTENT_ENCODING, CONTENT_RANGE] {
            reply.headers.remove(name);
        }
        return reply;
    }
    let parts = status == StatusCode::OK && *method == Method::GET && range_applies(request, &stored.headers);
    let wanted = if parts { wanted(request, length) } else { Wanted::Whole };
    match wanted {
        Wanted::Whole => {
            set(&mut reply.headers, &CONTENT_LENGTH, &length.to_string());
            if *method != Method::HEAD {
                reply.content.push(stored.content.clone());
            }
            if status == StatusCode::NO_CONTENT {
                reply.headers.remove(CONTENT_LENGTH);
            }
        }
        Wanted::One(range) => {
            reply.status = StatusCode::PARTIAL_CONTENT;
            set(&mut reply.headers, &CONTENT_RANGE, &content_range(&range, length));
            set(&mut reply.headers, &CONTENT_LENGTH, &(range.end - range.start).to_string());
            reply.content.push(slice(&stored.content, &range));
        }
        Wanted::Many(ranges) => {
            reply.status = StatusCode::PARTIAL_CONTENT;
            let kind = stored.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            reply.content = multipart(&stored.content, &ranges, kind, boundary);
            let bytes: usize = reply.content.iter().map(Bytes::len).sum();
            set(&mut reply.headers, &CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
            set(&mut reply.headers, &CONTENT_LENGTH, &bytes.to_string());
            reply.headers.remove(CONTENT_RANGE);
        }
        Wanted::Unsatisfiable => {
            reply.status = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut reply.headers, &CONTENT_RANGE, &format!("bytes */{length}"));
            set(&mut reply.headers, &CONTENT_LENGTH, "0");
        }
    }
    reply
}

/// The stored fields as they are given: with the age, and without those that are not given unasked.
pub(crate) fn fields(stored: &Stored, now_ms: u64) -> HeaderMap {
    let mut headers = stored.headers.clone();
    stored.withheld.iter().for_each(|name| _ = headers.remove(name));
    set(&mut headers, &AGE, &stored.policy.age_s(now_ms).to_string());
    if stored.status == 200 && !headers.contains_key(ACCEPT_RANGES) {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    headers
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::variant;

    fn stored() -> Stored {
        let mut stored = (*variant("1", "0123456789")).clone();
        stored.headers.insert("etag", HeaderValue::from_static("\"a\""));
        stored.headers.insert("content-type", HeaderValue::from_static("text/plain"));
        stored
    }

    fn asked(method: &Method, fields: &[(&'static str, &str)]) -> Reply {
        let mut request = HeaderMap::new();
        fields.iter().for_each(|(name, value)| _ = request.append(*name, value.parse().unwrap()));
        reply(&stored(), (method, &request), 5_000, "B")
    }

    fn text(reply: &Reply) -> String {
        String::from_utf8(reply.content.concat()).unwrap()
    }

    #[test]
    fn the_whole_has_an_age() {
        let whole = asked(&Method::GET, &[]);
        assert_eq!((whole.status.as_u16(), text(&whole).as_str()), (200, "0123456789"));
        assert_eq!(whole.headers["age"], "5");
        assert_eq!(whole.headers["content-length"], "10");
    }

    #[test]
    fn head_has_the_fields_alone() {
        let head = asked(&Method::HEAD, &[("range", "bytes=0-1")]);
        assert_eq!((head.status.as_u16(), text(&head).as_str()), (200, ""));
        assert_eq!(head.headers["content-length"], "10");
    }

    #[test]
    fn parts_are_given() {
        let part = asked(&Method::GET, &[("range", "bytes=2-3")]);
        assert_eq!((part.status.as_u16(), text(&part).as_str()), (206, "23"));
        assert_eq!(part.headers["content-range"], "bytes 2-3/10");
        let whole = asked(&Method::GET, &[("range", "bytes=2-3"), ("if-range", "\"b\"")]);
        assert_eq!((whole.status.as_u16(), text(&whole).as_str()), (200, "0123456789"));
        let parts = asked(&Method::GET, &[("range", "bytes=0-0,9-9")]);
        assert_eq!(parts.headers["content-type"], "multipart/byteranges; boundary=B");
        assert_eq!(parts.headers["content-length"], text(&parts).len().to_string());
        let none = asked(&Method::GET, &[("range", "bytes=10-")]);
        assert_eq!((none.status.as_u16(), text(&none).as_str()), (416, ""));
        assert_eq!(none.headers["content-range"], "bytes */10");
    }

    #[test]
    fn who_has_it_is_told_so() {
        let same = asked(&Method::GET, &[("if-none-match", "\"a\""), ("range", "bytes=0-1")]);
        assert_eq!((same.status.as_u16(), text(&same).as_str()), (304, ""));
        assert_eq!(same.headers["etag"], "\"a\"");
        assert!(!same.headers.contains_key("content-length"));
    }

    #[test]
    fn withheld_fields_are_not_given() {
        let mut stored = stored();
        stored.headers.insert("secret", HeaderValue::from_static("x"));
        stored.withheld.push(HeaderName::from_static("secret"));
        let given = reply(&stored, (&Method::GET, &HeaderMap::new()), 0, "B");
        assert!(!given.headers.contains_key("secret"));
    }
}
