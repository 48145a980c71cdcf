//! What the cache did, in `Cache-Status` (RFC 9211) and as a metric.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::{Policy, Refusal};

static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// The cache's name (RFC 9211, section 2).
const NAME: &str = "portolan";

/// Why a request went on to its origin (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// It is not for reading.
    Method,
    /// The client would not have what is stored.
    Request,
    Stale,
    UriMiss,
    VaryMiss,
}

impl Forward {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// The answer of another client's question.
    Collapsed(Forward),
    /// The origin's answer; with its status where the client gets something else.
    Forwarded { refused: Option<Refusal>, status: Option<u16>, stored: bool, why: Forward },
    /// With the seconds that it stays fresh, fewer than none where it is stale.
    Hit(i64),
    /// The cache's own refusal to ask.
    NotAsked,
    /// What is stored, in place of an origin that failed.
    StoodIn,
}

impl Done {
    /// A hit of a response at a time.
    pub(crate) fn hit(policy: &Policy, now_ms: u64) -> Self {
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        Self::Hit(signed(policy.lifetime_s).saturating_sub(signed(policy.age_s(now_ms))))
    }

    /// Adds it to a response's fields, behind what caches before have said.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let said = match self {
            Self::Collapsed(why) => format!("{NAME}; fwd={}; collapsed", why.as_str()),
            Self::Forwarded { refused, status, stored, why } => {
                let status = status.map(|status| format!("; fwd-status={status}")).unwrap_or_default();
                let stored = if stored { "; stored" } else { "" };
                let detail = refused.map(|why| format!("; detail={}", why.as_str())).unwrap_or_default();
                format!("{NAME}; fwd={}{status}{stored}{detail}", why.as_str())
            }
            Self::Hit(ttl) => format!("{NAME}; hit; ttl={ttl}"),
            Self::NotAsked => format!("{NAME}; fwd=miss; detail=only-if-cached"),
            Self::StoodIn => format!("{NAME}; hit; detail=stale-if-error"),
        };
        if let Ok(said) = HeaderValue::try_from(said) {
            headers.append(&CACHE_STATUS, said);
        }
    }
}

impl Refusal {
    /// A word for `Cache-Status` and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Cookies => "cookies",
            Self::NoLifetime => "no-lifetime",
            Self::NotCacheable => "not-cacheable",
            Self::NoStore => "no-store",
            Self::TooLarge => "too-large",
            Self::TooManyTags => "too-many-tags",
            Self::VariesAll => "varies-all",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_behind_what_others_did() {
        let mut headers = HeaderMap::new();
        headers.insert(&CACHE_STATUS, HeaderValue::from_static("origin; hit"));
        let policy = Policy { lifetime_s: 10, ..Policy::default() };
        Done::hit(&policy, 12_000).tell(&mut headers);
        let forwarded =
            Done::Forwarded { refused: None, status: Some(304), stored: true, why: Forward::Stale };
        forwarded.tell(&mut headers);
        let said: Vec<&str> =
            headers.get_all(&CACHE_STATUS).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(
            said,
            ["origin; hit", "portolan; hit; ttl=-2", "portolan; fwd=stale; fwd-status=304; stored"]
        );
    }
}
