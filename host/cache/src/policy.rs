//! May a response be stored, for how long is it fresh, and how old was it when it came? (RFC 9111, sections 3, 4.2.1 to 4.2.3)
//!
//! A response is read once; what is kept of it is a few numbers, so that a hit parses nothing.

use http::header::{AGE, AUTHORIZATION, COOKIE, DATE, EXPIRES, HeaderMap, LAST_MODIFIED, SET_COOKIE};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::directives::{Response, SECONDS_MAX, joined, seconds};

/// What the operator lets the cache do where origins say nothing, or do not know better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Store answers with Set-Cookie, and answers to requests with Cookie, without the origin's explicit word that they are for all.
    pub cookies: bool,
    /// Share of the time since Last-Modified that a response without any lifetime is fresh, in percent; 0 for never.
    pub heuristic_percent: u64,
    /// The longest lifetime by that rule, in seconds.
    pub heuristic_max_s: u64,
    /// The longest lifetime of errors (status 400 and above), in seconds.
    pub negative_max_s: u64,
    /// How long a stale response stands in for an origin that fails, where it says nothing of that itself, in seconds.
    pub stale_if_error_s: u64,
}

/// When a response was asked for, and when it came, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) requested_ms: u64,
    pub(crate) responded_ms: u64,
}

/// What is kept of a response's words about its storing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// It does not change while it is fresh (RFC 8246).
    pub(crate) immutable: bool,
    /// Its age when it came, in seconds (`corrected_initial_age`).
    pub(crate) initial_age_s: u64,
    /// How long it is fresh, in seconds.
    pub(crate) lifetime_s: u64,
    /// Once stale it may be given by nobody who has not asked.
    pub(crate) must_revalidate: bool,
    /// Every use is preceded by a question.
    pub(crate) no_cache: bool,
    pub(crate) responded_ms: u64,
    pub(crate) stale_if_error_s: u64,
    pub(crate) stale_while_revalidate_s: u64,
}

impl Policy {
    /// Its age now, in seconds (RFC 9111, section 4.2.3).
    pub(crate) const fn age_s(&self, now_ms: u64) -> u64 {
        self.initial_age_s.saturating_add(now_ms.saturating_sub(self.responded_ms) / 1_000)
    }
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request has Authorization, and the response does not allow storing it all the same (RFC 9111, section 3.5).
    Authorization,
    /// It gives or answers cookies, and does not say that it is for all.
    Cookies,
    /// It has neither a lifetime nor a validator.
    NoLifetime,
    /// The method, or the status, is none that is stored.
    NotCacheable,
    /// The origin or the client forbids it.
    NoStore,
    /// It is larger than may be, or broke off.
    TooLarge,
    /// It has more tags, or longer ones, than can be kept.
    TooManyTags,
    /// It varies with what no key has.
    VariesAll,
}

/// What is stored of a response, or why it is not. `headers` are those of the response, without what belongs to the connection.
pub(crate) fn judge(
    rules: &Rules,
    asked: (&Method, &HeaderMap),
    status: StatusCode,
    headers: &HeaderMap,
    times: Times,
) -> Result<Policy, Refusal> {
    let said = Response::read(headers);
    let (method, request) = asked;
    if !matches!(*method, Method::GET | Method::POST) || !is_final(status) {
        return Err(Refusal::NotCacheable);
    }
    // RFC 9111, section 5.2.2.3: who does not know the status must not store; who does may ignore `no-store`, and need not.
    if said.must_understand && !is_understood(status) || said.no_store || said.private {
        return Err(Refusal::NoStore);
    }
    let for_all = said.public || said.s_maxage.is_some() || said.targeted;
    if request.contains_key(AUTHORIZATION) && !(for_all || said.must_revalidate) {
        return Err(Refusal::Authorization);
    }
    let has_cookies = request.contains_key(COOKIE) || headers.contains_key(SET_COOKIE);
    if has_cookies && !rules.cookies && !for_all {
        return Err(Refusal::Cookies);
    }
    let explicit = explicit_lifetime(&said, headers, times);
    let has_validator = headers.contains_key(http::header::ETAG) || headers.contains_key(LAST_MODIFIED);
    let is_error = status.is_client_error() || status.is_server_error();
    let lifetime = match explicit {
        Some(lifetime) => lifetime,
        None if said.public || is_heuristically_cacheable(status) => {
            heuristic_lifetime(rules, headers, times).unwrap_or(0)
        }
        None if said.no_cache && has_validator => 0,
        None => return Err(Refusal::NoLifetime),
    };
    let lifetime = if is_error { lifetime.min(rules.negative_max_s) } else { lifetime };
    if lifetime == 0 && (!has_validator || *method == Method::POST) && said.stale_while_revalidate.is_none() {
        return Err(Refusal::NoLifetime);
    }
    // RFC 9111, section 5.2.2.10: `s-maxage` has the meaning of `proxy-revalidate`.
    let must_revalidate = said.must_revalidate || said.proxy_revalidate || said.s_maxage.is_some();
    Ok(Policy {
        immutable: said.immutable,
        initial_age_s: initial_age(headers, times, lifetime),
        lifetime_s: lifetime,
        must_revalidate,
        no_cache: said.no_cache,
        responded_ms: times.responded_ms,
        stale_if_error_s: said.stale_if_error.unwrap_or(rules.stale_if_error_s),
        stale_while_revalidate_s: said.stale_while_revalidate.unwrap_or(0),
    })
}

/// RFC 9111, section 4.2.1. Several Expires, or one that is no date, lie in the past (section 5.3).
fn explicit_lifetime(said: &Response, headers: &HeaderMap, times: Times) -> Option<u64> {
    if let Some(lifetime) = said.s_maxage.or(said.max_age) {
        return Some(lifetime);
    }
    if said.targeted || !headers.contains_key(EXPIRES) {
        return None;
    }
    let date = date_ms(headers, &DATE).unwrap_or(times.responded_ms);
    let expires = date_ms(headers, &EXPIRES).unwrap_or(0);
    Some((expires.saturating_sub(date) / 1_000).min(SECONDS_MAX))
}

/// RFC 9111, section 4.2.2.
fn heuristic_lifetime(rules: &Rules, headers: &HeaderMap, times: Times) -> Option<u64> {
    let date = date_ms(headers, &DATE).unwrap_or(times.responded_ms);
    let unchanged_s = date.checked_sub(date_ms(headers, &LAST_MODIFIED)?)? / 1_000;
    Some((unchanged_s.saturating_mul(rules.heuristic_percent) / 100).min(rules.heuristic_max_s))
}

/// RFC 9111, section 4.2.3. Where Age is not one number, nobody knows how old the response is: then it counts as stale (section 4.2).
fn initial_age(headers: &HeaderMap, times: Times, lifetime: u64) -> u64 {
    let apparent = date_ms(headers, &DATE).map_or(0, |date| times.responded_ms.saturating_sub(date) / 1_000);
    let delay = times.responded_ms.saturating_sub(times.requested_ms) / 1_000;
    let told = match joined(headers, &AGE) {
        None => 0,
        Some(text) => seconds(text.trim()).unwrap_or_else(|| lifetime.max(1)),
    };
    apparent.max(told.saturating_add(delay))
}

/// A date that stands alone (RFC 9110, section 5.6.7), in milliseconds since 1970.
pub(crate) fn date_ms(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    parse_date_ms(line.to_str().ok()?)
}

pub(crate) fn parse_date_ms(text: &str) -> Option<u64> {
    httpdate::parse_http_date(text).ok().map(portolan_foundation::clock::to_unix_ms)
}

/// Is it a response of its own, whole, and no answer to a precondition?
fn is_final(status: StatusCode) -> bool {
    status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304 | 412 | 416)
}

/// RFC 9110, section 15.1, without 206, which is not stored.
const fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The statuses that RFC 9110 and its registry define, as far as a cache has to know what they mean.
const fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=208 | 226 | 300..=308 | 400..=417 | 421..=431 | 451 | 500..=511)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'static str, &'a str)];

    /// 1994-11-06T08:49:37Z.
    const THEN: u64 = 784_111_777_000;
    const DATE_THEN: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    fn rules() -> Rules {
        Rules {
            cookies: false,
            heuristic_percent: 10,
            heuristic_max_s: 86_400,
            negative_max_s: 86_400,
            stale_if_error_s: 0,
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        fields.iter().for_each(|(name, value)| _ = headers.append(*name, value.parse().unwrap()));
        headers
    }

    fn judged(
        request: &[(&'static str, &str)],
        status: u16,
        fields: &[(&'static str, &str)],
    ) -> Result<Policy, Refusal> {
        let times = Times { requested_ms: THEN, responded_ms: THEN };
        let status = StatusCode::from_u16(status).unwrap();
        judge(&rules(), (&Method::GET, &headers(request)), status, &headers(fields), times)
    }

    #[test]
    fn section_3_says_what_is_stored() {
        let life =
            |status: u16, fields: Fields<'_>| judged(&[], status, fields).map(|policy| policy.lifetime_s);
        let fresh = ("cache-control", "max-age=60");
        assert_eq!(life(200, &[fresh]), Ok(60));
        assert_eq!(life(299, &[fresh]), Ok(60));
        assert_eq!(life(200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]), Ok(0));
        assert_eq!(life(200, &[]), Err(Refusal::NoLifetime));
        for (status, control, expected) in [
            (200, "max-age=0", Refusal::NoLifetime),
            (200, "private, max-age=60", Refusal::NoStore),
            (200, "max-age=60, no-store", Refusal::NoStore),
            (599, "max-age=60, must-understand", Refusal::NoStore),
            (206, "max-age=60", Refusal::NotCacheable),
            (304, "max-age=60", Refusal::NotCacheable),
        ] {
            assert_eq!(life(status, &[("cache-control", control)]), Err(expected), "{status} {control}");
        }
    }

    #[test]
    fn section_3_5_what_was_authorised_is_not_shared_unasked() {
        let asked = [("authorization", "x")];
        let stored = |control: &str| judged(&asked, 200, &[("cache-control", control)]).is_ok();
        assert!(!stored("max-age=60"));
        assert!(stored("max-age=60, public"));
        assert!(stored("max-age=60, must-revalidate"));
        assert!(stored("s-maxage=60"));
    }

    #[test]
    fn cookies_are_nobody_elses() {
        let fresh = ("cache-control", "max-age=60");
        assert_eq!(judged(&[], 200, &[fresh, ("set-cookie", "a=b")]), Err(Refusal::Cookies));
        assert_eq!(judged(&[("cookie", "a=b")], 200, &[fresh]), Err(Refusal::Cookies));
        assert!(judged(&[("cookie", "a=b")], 200, &[("cache-control", "s-maxage=60")]).is_ok());
        let open = Rules { cookies: true, ..rules() };
        let times = Times { requested_ms: THEN, responded_ms: THEN };
        let fields = headers(&[fresh, ("set-cookie", "a=b")]);
        assert!(judge(&open, (&Method::GET, &HeaderMap::new()), StatusCode::OK, &fields, times).is_ok());
    }

    #[test]
    fn section_4_2_1_lifetimes() {
        let life = |fields: &[(&'static str, &str)]| judged(&[], 200, fields).map(|policy| policy.lifetime_s);
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(life(&[DATE_THEN, expires]), Ok(60));
        assert_eq!(life(&[DATE_THEN, ("expires", "0")]), Err(Refusal::NoLifetime));
        assert_eq!(life(&[DATE_THEN, expires, expires]), Err(Refusal::NoLifetime));
        assert_eq!(life(&[DATE_THEN, expires, ("cache-control", "max-age=5")]), Ok(5));
        assert_eq!(life(&[DATE_THEN, ("cache-control", "max-age=5, s-maxage=7")]), Ok(7));
        let error = judged(&[], 404, &[("cache-control", "max-age=9999999")]).unwrap();
        assert_eq!(error.lifetime_s, rules().negative_max_s);
    }

    #[test]
    fn section_4_2_2_heuristics_need_a_status_that_allows_them() {
        let modified = ("last-modified", "Sat, 05 Nov 1994 08:49:37 GMT");
        let life = |status, more: &[(&'static str, &str)]| {
            let fields: Vec<_> = [DATE_THEN, modified].into_iter().chain(more.iter().copied()).collect();
            judged(&[], status, &fields).map(|policy| policy.lifetime_s)
        };
        assert_eq!(life(200, &[]), Ok(8_640));
        assert_eq!(life(404, &[]), Ok(8_640));
        assert_eq!(life(201, &[]), Err(Refusal::NoLifetime));
        assert_eq!(life(599, &[("cache-control", "public")]), Ok(8_640));
    }

    #[test]
    fn section_4_2_3_age() {
        let age = |fields: &[(&'static str, &str)], now: u64| {
            let fields: Vec<_> =
                [("cache-control", "max-age=3600")].into_iter().chain(fields.iter().copied()).collect();
            judged(&[], 200, &fields).unwrap().age_s(THEN + now)
        };
        assert_eq!(age(&[], 1_999), 1);
        assert_eq!(age(&[DATE_THEN, ("age", "30")], 2_000), 32);
        assert_eq!(age(&[("date", "Sun, 06 Nov 1994 08:48:37 GMT")], 0), 60);
        for broken in ["abc", "-1", "7200.0", "7200;a=b", "0, 0", "7200,0"] {
            assert!(age(&[DATE_THEN, ("age", broken)], 0) >= 3_600, "{broken}");
        }
    }

    proptest::proptest! {
        /// A naive model of section 4.2: what is fresh by the policy is fresh by arithmetic on the three numbers.
        #[test]
        fn freshness_is_arithmetic(max_age in 1_u64..10_000, age in 0_u64..10_000, delay in 0_u64..50, later in 0_u64..20_000) {
            let fields = headers(&[("cache-control", &format!("max-age={max_age}")), ("age", &age.to_string())]);
            let times = Times { requested_ms: THEN, responded_ms: THEN + delay * 1_000 };
            let policy = judge(&rules(), (&Method::GET, &HeaderMap::new()), StatusCode::OK, &fields, times).unwrap();
            let now = times.responded_ms + later * 1_000;
            proptest::prop_assert_eq!(policy.age_s(now) < policy.lifetime_s, age + delay + later < max_age);
        }
    }
}
