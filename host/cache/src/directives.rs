//! Cache-Control and its kin, read strictly: directives of requests and of responses (RFC 9111, section 5.2), and the targeted
//! fields that stand before Cache-Control in a shared cache (RFC 9213).
//!
//! What cannot be read never makes a response live longer: of several values the smallest counts, and a broken one is 0.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// Lifetimes are capped here (RFC 9111, section 1.2.2: at least 2^31).
pub(crate) const SECONDS_MAX: u64 = 1 << 31;
/// Directives that are read of one field; what stands behind them is not, and forbids storing.
const DIRECTIVES_MAX: usize = 64;

/// The targeted field of gateways and CDNs (RFC 9213, section 3.1).
pub(crate) static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Its older cousin (W3C Edge Architecture, section 2), which origins behind other caches still send.
pub(crate) static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// What a response says about its storing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) immutable: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) must_revalidate: bool,
    pub(crate) must_understand: bool,
    /// Without names of fields: the whole response.
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    /// A targeted field was read in place of Cache-Control.
    pub(crate) targeted: bool,
    /// Fields that may not be given again without asking (`no-cache="…"`, `private="…"`).
    pub(crate) withheld: Vec<HeaderName>,
}

impl Response {
    /// Reads a response's fields: the first targeted one that is there and can be read, else Cache-Control.
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let targeted = [&CDN_CACHE_CONTROL, &SURROGATE_CONTROL].into_iter().find_map(|name| {
            let text = joined(headers, name)?;
            // An empty field says nothing, and one that is broken as a whole is ignored (RFC 9213, section 2.1).
            let directives = directives(&text)?;
            (!directives.is_empty()).then_some(directives)
        });
        let is_targeted = targeted.is_some();
        let own = || joined(headers, &CACHE_CONTROL).map(|text| directives(&text));
        let directives = match targeted {
            Some(directives) => directives,
            None => match own() {
                Some(Some(directives)) => directives,
                // What nobody can read may say `no-store`.
                Some(None) => return Self { no_store: true, ..Self::default() },
                None => return Self::default(),
            },
        };
        let mut read = Self { targeted: is_targeted, ..Self::default() };
        directives.iter().for_each(|directive| read.take(directive));
        read
    }

    fn take(&mut self, directive: &Directive) {
        let seconds = || Some(directive.seconds());
        match directive.name.as_str() {
            "immutable" => self.immutable = true,
            "max-age" => lower(&mut self.max_age, seconds()),
            "must-revalidate" => self.must_revalidate = true,
            "must-understand" => self.must_understand = true,
            "no-cache" => self.withhold(directive, |read| &mut read.no_cache),
            "no-store" => self.no_store = true,
            "private" => self.withhold(directive, |read| &mut read.private),
            "proxy-revalidate" => self.proxy_revalidate = true,
            "public" => self.public = true,
            "s-maxage" => lower(&mut self.s_maxage, seconds()),
            "stale-if-error" => lower(&mut self.stale_if_error, seconds()),
            "stale-while-revalidate" => lower(&mut self.stale_while_revalidate, seconds()),
            _ => {}
        }
    }

    /// The qualified form speaks of some fields, the other of the whole response.
    fn withhold(&mut self, directive: &Directive, whole: impl Fn(&mut Self) -> &mut bool) {
        let names = directive.value.as_deref().filter(|names| !names.is_empty());
        let Some(names) = names else { return *whole(self) = true };
        let names: Option<Vec<HeaderName>> =
            names.split(',').map(|name| HeaderName::try_from(name.trim()).ok()).collect();
        match names {
            Some(names) => self.withheld.extend(names),
            None => *whole(self) = true,
        }
    }
}

/// What a request asks of caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) max_age: Option<u64>,
    /// [`SECONDS_MAX`] where it names no limit.
    pub(crate) max_stale: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
}

impl Request {
    /// Reads a request's Cache-Control. Pragma counts for nothing, as deprecated (RFC 9111, section 5.4).
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        let Some(directives) = joined(headers, &CACHE_CONTROL).and_then(|text| directives(&text)) else {
            return read;
        };
        for directive in &directives {
            let seconds = || Some(directive.seconds());
            match directive.name.as_str() {
                "max-age" => lower(&mut read.max_age, seconds()),
                "max-stale" if directive.value.is_none() => lower(&mut read.max_stale, Some(SECONDS_MAX)),
                "max-stale" => lower(&mut read.max_stale, seconds()),
                "min-fresh" => read.min_fresh = read.min_fresh.max(seconds()),
                "no-cache" => read.no_cache = true,
                "no-store" => read.no_store = true,
                "only-if-cached" => read.only_if_cached = true,
                _ => {}
            }
        }
        read
    }
}

/// One directive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directive {
    /// In lower case.
    name: String,
    /// Without its quotes.
    value: Option<String>,
}

impl Directive {
    /// A number of seconds (RFC 9111, section 1.2.2): what is none is 0, and what is too large is cut.
    fn seconds(&self) -> u64 {
        self.value.as_deref().and_then(seconds).unwrap_or(0)
    }
}

/// Digits alone, cut at [`SECONDS_MAX`].
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

fn lower(known: &mut Option<u64>, told: Option<u64>) {
    *known = match (*known, told) {
        (Some(known), Some(told)) => Some(known.min(told)),
        (known, told) => known.or(told),
    };
}

/// All lines of a field as one list.
pub(crate) fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<String> = headers.get_all(name).iter().map(text).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// A field's bytes as characters, one for each (ISO 8859-1), so that different bytes stay different.
pub(crate) fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

/// The members of a list of directives; `None` where a quoted string does not end or there are too many. Parameters behind `;`,
/// which targeted fields may have, say nothing.
fn directives(text: &str) -> Option<Vec<Directive>> {
    let mut all = Vec::new();
    for member in members(text)? {
        let bare = member.trim_matches([' ', '\t']);
        if bare.is_empty() {
            continue;
        }
        if all.len() == DIRECTIVES_MAX {
            return None;
        }
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value))),
            None => (bare.split(';').next().unwrap_or(bare), None),
        };
        all.push(Directive { name: name.to_ascii_lowercase(), value });
    }
    Some(all)
}

/// A token or the content of a quoted string, without parameters.
fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else {
        return value.split(';').next().unwrap_or(value).trim_end().to_owned();
    };
    let mut content = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => content.extend(characters.next()),
            other => content.push(other),
        }
    }
    content
}

/// Splits a list at the commas that stand in no quoted string (RFC 9110, section 5.6.1); `None` where one does not end.
pub(crate) fn members(text: &str) -> Option<Vec<&str>> {
    let (mut all, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                all.push(text.get(start..place)?);
                start = place + 1;
            }
            _ => {}
        }
    }
    all.push(text.get(start..)?);
    (!quoted).then_some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(lines: &[(&'static str, &str)]) -> Response {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Response::read(&headers)
    }

    fn max_age(text: &str) -> Option<u64> {
        response(&[("cache-control", text)]).max_age
    }

    #[test]
    fn numbers_are_strict_and_the_smallest_counts() {
        let cases = [
            ("max-age=3600", Some(3600)),
            ("MaX-aGe=\"3600\"", Some(3600)),
            ("max-age=003600", Some(3600)),
            ("max-age='3600'", Some(0)),
            ("max-age=-1", Some(0)),
            ("max-age=3600.0", Some(0)),
            ("max-age= 3600", Some(0)),
            ("max-age =3600", None),
            ("max-age", Some(0)),
            ("max-age=99999999999999999999999", Some(SECONDS_MAX)),
            ("max-age=1800, max-age=1", Some(1)),
            ("extension=\"max-age=3600\", max-age=1", Some(1)),
            ("x=\"a\\\"b, max-age=9\", max-age=2", Some(2)),
        ];
        for (text, expected) in cases {
            assert_eq!(max_age(text), expected, "{text}");
        }
        let lines = [("cache-control", "max-age=1800"), ("cache-control", "max-age=1")];
        assert_eq!(response(&lines).max_age, Some(1));
    }

    #[test]
    fn what_cannot_be_read_is_not_stored() {
        assert!(response(&[("cache-control", "max-age=60, a=\"b")]).no_store);
        let many = vec!["a"; DIRECTIVES_MAX + 1].join(",");
        assert!(response(&[("cache-control", &many)]).no_store);
    }

    #[test]
    fn targeted_fields_stand_in_for_cache_control() {
        let read = response(&[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]);
        assert!(read.targeted && !read.no_store && read.max_age == Some(60));
        let read = response(&[("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")]);
        assert!(read.no_store);
        let read = response(&[("cache-control", "max-age=60"), ("cdn-cache-control", "a=\"b")]);
        assert!(!read.targeted && read.max_age == Some(60));
        let read = response(&[("surrogate-control", "max-age=60;portolan, no-cache;x")]);
        assert!(read.targeted && read.no_cache && read.max_age == Some(60));
    }

    #[test]
    fn qualified_forms_withhold_fields_alone() {
        let read = response(&[("cache-control", "no-cache=\"a, set-cookie\", private=\"b\"")]);
        let names: Vec<&str> = read.withheld.iter().map(HeaderName::as_str).collect();
        assert_eq!(names, ["a", "set-cookie", "b"]);
        assert!(!read.no_cache && !read.private);
        assert!(response(&[("cache-control", "private=\"a b\"")]).private, "what names no field means all");
    }

    #[test]
    fn requests_ask() {
        let mut headers = HeaderMap::new();
        headers.append("cache-control", "max-age=5, max-stale, min-fresh=3, no-store".parse().unwrap());
        headers.append("cache-control", "only-if-cached, no-cache".parse().unwrap());
        let read = Request::read(&headers);
        let expected = Request {
            max_age: Some(5),
            max_stale: Some(SECONDS_MAX),
            min_fresh: Some(3),
            no_cache: true,
            no_store: true,
            only_if_cached: true,
        };
        assert_eq!(read, expected);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_store_is_never_lost(text in "[ -~]{0,80}") {
            let read = response(&[("cache-control", &text), ("cache-control", "no-store")]);
            prop_assert!(read.no_store || text.contains('"'));
        }

        #[test]
        fn joined_members_are_the_text(text in "[a-z=,\" \\\\]{0,40}") {
            if let Some(all) = members(&text) {
                prop_assert_eq!(all.join(","), text);
            }
        }
    }
}
