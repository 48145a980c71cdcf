//! Questions and answers about whether something changed: clients' preconditions, the cache's own questions to origins, and what a
//! 304 makes of what is stored (RFC 9111, section 4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};

use crate::directives::{joined, members, text};
use crate::policy::date_ms;

static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Does the client have the stored response already? (RFC 9110, section 13.2.2, steps 3 and 4; RFC 9111, section 4.3.2)
pub(crate) fn has_it(request: &HeaderMap, stored: &HeaderMap, responded_ms: u64) -> bool {
    if let Some(known) = joined(request, &IF_NONE_MATCH) {
        let tag = stored.get(ETAG).map(text);
        return members(&known).is_some_and(|known| {
            known.iter().map(|known| known.trim()).any(|known| {
                known == "*" || tag.as_deref().is_some_and(|tag| opaque(tag.trim()) == opaque(known))
            })
        });
    }
    let Some(since) = date_ms(request, &IF_MODIFIED_SINCE) else { return false };
    let changed = date_ms(stored, &LAST_MODIFIED).or_else(|| date_ms(stored, &DATE)).unwrap_or(responded_ms);
    changed <= since
}

/// The weak comparison looks at nothing else (RFC 9110, section 8.8.3.2).
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// May a part of the stored response be given? (RFC 9110, section 13.1.5)
pub(crate) fn range_applies(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE).map(text) else { return true };
    if condition.starts_with(['"', 'W']) {
        let tag = stored.get(ETAG).map(text);
        return tag.is_some_and(|tag| !tag.starts_with("W/") && tag == condition);
    }
    // A date is strong when the response was made a minute after the last change, or later (section 8.8.2.2).
    let changed = stored.get(LAST_MODIFIED).map(text).filter(|changed| *changed == condition);
    let times = (date_ms(stored, &LAST_MODIFIED), date_ms(stored, &DATE));
    changed.is_some()
        && matches!(times, (Some(changed), Some(date)) if date >= changed.saturating_add(60_000))
}

/// Makes a request ask whether the stored response still holds, in place of what its client asks. Without validators in the stored
/// one it asks for the whole.
pub(crate) fn ask(request: &mut HeaderMap, stored: &HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
    for (question, validator) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        if let Some(value) = stored.get(validator) {
            request.insert(question, value.clone());
        }
    }
}

/// The stored fields after a 304, or an answer to HEAD, that has these (RFC 9111, section 3.2): those that describe the stored content
/// stay as they are.
pub(crate) fn freshened(stored: &HeaderMap, news: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    let keeps = |name: &HeaderName| {
        [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG].contains(name)
            || [&CONTENT_MD5, &CONTENT_DIGEST].contains(&name)
    };
    for name in news.keys().filter(|name| !keeps(name)) {
        fields.remove(name);
        news.get_all(name).iter().for_each(|value| _ = fields.append(name, value.clone()));
    }
    // A stored age is that of the former answer.
    if !news.contains_key(http::header::AGE) {
        fields.remove(http::header::AGE);
    }
    fields
}

/// Does an answer to HEAD speak of the very content that is stored? (RFC 9111, section 4.3.5)
pub(crate) fn is_same(stored: &HeaderMap, head: &HeaderMap) -> bool {
    [ETAG, LAST_MODIFIED, CONTENT_LENGTH]
        .iter()
        .all(|name| head.get(name).is_none_or(|told| stored.get(name).is_none_or(|known| known == told)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:59:37 GMT";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        fields.iter().for_each(|(name, value)| _ = headers.append(*name, value.parse().unwrap()));
        headers
    }

    #[test]
    fn clients_are_told_that_nothing_changed() {
        let stored = headers(&[("etag", "W/\"a,b\""), ("last-modified", LONG_AGO)]);
        let has = |fields: &[(&'static str, &str)]| has_it(&headers(fields), &stored, 0);
        assert!(has(&[("if-none-match", "\"a,b\"")]));
        assert!(has(&[("if-none-match", "\"1\", W/\"a,b\", \"2\"")]));
        assert!(has(&[("if-none-match", "*")]));
        assert!(!has(&[("if-none-match", "\"a\"")]));
        assert!(
            !has(&[("if-none-match", "\"x\""), ("if-modified-since", LATER)]),
            "a tag comes before a date"
        );
        assert!(has(&[("if-modified-since", LATER)]));
        assert!(has(&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")]));
        assert!(!has(&[("if-modified-since", "yesterday")]));
        assert!(!has(&[]));
        let bytes = http::HeaderValue::from_bytes(b"\"\xfc\"").unwrap();
        let mut obscure = HeaderMap::new();
        obscure.insert("etag", bytes);
        assert!(!has_it(&headers(&[("if-none-match", "\"x\"")]), &obscure, 0));
    }

    #[test]
    fn without_last_modified_the_date_counts() {
        let stored = headers(&[("date", LONG_AGO)]);
        assert!(has_it(&headers(&[("if-modified-since", LATER)]), &stored, 0));
    }

    #[test]
    fn parts_need_strong_validators() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", LONG_AGO), ("date", LATER)]);
        let applies = |condition: &str| range_applies(&headers(&[("if-range", condition)]), &stored);
        assert!(applies("\"a\""));
        assert!(!applies("\"b\""));
        assert!(!applies("W/\"a\""));
        assert!(applies(LONG_AGO));
        assert!(!applies(LATER));
        assert!(!range_applies(&headers(&[("if-range", "W/\"a\"")]), &headers(&[("etag", "W/\"a\"")])));
    }

    #[test]
    fn a_question_has_the_stored_validators_alone() {
        let mut request = headers(&[("if-none-match", "\"client\""), ("range", "bytes=0-1"), ("abc", "1")]);
        ask(&mut request, &headers(&[("etag", "\"a\""), ("last-modified", LONG_AGO)]));
        let expected = headers(&[("abc", "1"), ("if-none-match", "\"a\""), ("if-modified-since", LONG_AGO)]);
        assert_eq!(request, expected);
    }

    #[test]
    fn section_3_2_news_replace_fields_but_not_those_of_the_content() {
        let stored =
            headers(&[("a", "1"), ("b", "1"), ("b", "2"), ("etag", "\"a\""), ("content-length", "5")]);
        let news = headers(&[("b", "3"), ("etag", "\"b\""), ("content-length", "9"), ("c", "4")]);
        let expected =
            headers(&[("a", "1"), ("b", "3"), ("c", "4"), ("etag", "\"a\""), ("content-length", "5")]);
        assert_eq!(freshened(&stored, &news), expected);
    }
}
