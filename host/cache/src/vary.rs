//! Which stored response answers a request: the fields that Vary names, in a form in which requests that mean the same are the
//! same (RFC 9111, section 4.1).

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_LANGUAGE, HeaderMap, HeaderName, VARY};
use serde::{Deserialize, Serialize};

/// Fields that one response may vary with; more make a key that nobody meets again.
const FIELDS_MAX: usize = 16;

/// The values of the fields that a response varies with, as its request had them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Selecting {
    /// By name, in the order of names; `None` where the request had no such field.
    fields: Vec<(String, Option<String>)>,
    /// The language of the response, in lower case, where it varies with Accept-Language.
    language: Option<String>,
}

impl Selecting {
    /// Reads Vary of a response against its request; `None` where it matches no other (`*`, or what cannot be read).
    pub(crate) fn of(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let mut names = Vec::new();
        for line in response.get_all(VARY) {
            for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                names.push(HeaderName::try_from(name).ok().filter(|_| name != "*")?);
            }
        }
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        if names.len() > FIELDS_MAX {
            return None;
        }
        let by_language = names.contains(&ACCEPT_LANGUAGE);
        let language = response.get(CONTENT_LANGUAGE).filter(|_| by_language);
        let language = language.and_then(|value| value.to_str().ok()).map(str::to_ascii_lowercase);
        let fields = names.iter().map(|name| (name.as_str().to_owned(), normalised(request, name))).collect();
        Some(Self { fields, language })
    }

    /// Does the response answer a request with these fields?
    pub(crate) fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|(name, stored)| {
            let Ok(name) = HeaderName::try_from(name.as_str()) else { return false };
            normalised(request, &name) == *stored || name == ACCEPT_LANGUAGE && self.is_preferred(request)
        })
    }

    /// Is its language the one that the request likes best? Then no other response could answer better.
    fn is_preferred(&self, request: &HeaderMap) -> bool {
        let (Some(language), Some(text)) = (&self.language, list(request, &ACCEPT_LANGUAGE)) else {
            return false;
        };
        let mut best: Vec<(&str, u32)> = text.split(',').map(weighed).collect();
        best.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        match best.as_slice() {
            [(first, weight), (_, second), ..] => first == language && weight > second,
            [(first, weight)] => first == language && *weight > 0,
            [] => false,
        }
    }
}

/// All lines of a field in one, without spaces around commas; where order, case and spaces mean nothing, without those too.
fn normalised(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = list(headers, name)?;
    if ![ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name) {
        return Some(text);
    }
    let mut members: Vec<&str> = text.split(',').filter(|member| !member.is_empty()).collect();
    members.sort_unstable();
    members.dedup();
    Some(members.join(","))
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<String> = headers
        .get_all(name)
        .iter()
        .map(|line| {
            // Bytes that are no text are kept apart from all that is.
            let text = line.to_str().map_or_else(|_| format!("{:?}", line.as_bytes()), str::to_owned);
            text.split(',').map(str::trim).collect::<Vec<_>>().join(",")
        })
        .collect();
    if lines.is_empty() {
        return None;
    }
    let text = lines.join(",");
    let folds = [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name);
    Some(if folds { text.to_ascii_lowercase().replace([' ', '\t'], "") } else { text })
}

/// A member of Accept-Language and its weight in thousandths (RFC 9110, section 12.4.2).
fn weighed(member: &str) -> (&str, u32) {
    let (range, weight) = member.split_once(";q=").unwrap_or((member, "1"));
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let thousandths = format!("{fraction:0<3}").get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (range, whole.parse::<u32>().unwrap_or(0).min(1) * 1_000 + thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        fields.iter().for_each(|(name, value)| _ = headers.append(*name, value.parse().unwrap()));
        headers
    }

    fn matches(
        vary: &[(&'static str, &str)],
        stored: &[(&'static str, &str)],
        asked: &[(&'static str, &str)],
    ) -> bool {
        Selecting::of(&headers(vary), &headers(stored)).is_some_and(|key| key.matches(&headers(asked)))
    }

    #[test]
    fn named_fields_select() {
        let vary = [("vary", "Foo, bar")];
        assert!(matches(&vary, &[("foo", "1"), ("bar", "a")], &[("bar", "a"), ("foo", "1"), ("other", "x")]));
        assert!(!matches(&vary, &[("foo", "1"), ("bar", "a")], &[("foo", "1")]));
        assert!(!matches(&vary, &[("foo", "1")], &[("foo", "1"), ("bar", "a")]));
        assert!(matches(&vary, &[("foo", "1")], &[("foo", "1")]));
    }

    #[test]
    fn a_star_anywhere_matches_nothing() {
        for vary in ["*", "*, *", ", *", "foo, *", "*, foo", "a b"] {
            assert!(Selecting::of(&headers(&[("vary", vary)]), &headers(&[])).is_none(), "{vary}");
        }
        let lines = headers(&[("vary", ""), ("vary", "*")]);
        assert!(Selecting::of(&lines, &headers(&[])).is_none());
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        let vary = [("vary", "foo, accept-language")];
        assert!(matches(&vary, &[("foo", "1, 2")], &[("foo", "1"), ("foo", " 2")]));
        assert!(matches(&vary, &[("accept-language", "en, de")], &[("accept-language", " dE ,  eN")]));
        assert!(!matches(&vary, &[("accept-language", "en")], &[("accept-language", "de")]));
        assert!(!matches(&vary, &[("foo", "a b")], &[("foo", "ab")]), "spaces within a value are its own");
    }

    #[test]
    fn the_language_liked_best_answers() {
        let vary = [("vary", "accept-language"), ("content-language", "de")];
        let stored = [("accept-language", "en, de")];
        assert!(matches(&vary, &stored, &[("accept-language", "fr;q=0.5, de;q=1.0")]));
        assert!(!matches(&vary, &stored, &[("accept-language", "fr;q=0.9, de;q=0.8")]));
        assert!(!matches(&vary, &stored, &[("accept-language", "fr, de")]), "both are liked alike");
    }
}
