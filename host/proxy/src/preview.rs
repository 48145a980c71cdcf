//! Requests that bring a word for a version that no slot runs: whose word is believed, and what the response tells of it.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use portolan_core::lane::Slot;
use portolan_core::preview::{Preview, Unready};
use portolan_core::snapshot::Policy;

use crate::error::{Error, Word};
use crate::headers;
use crate::inbound::Inbound;
use crate::server::Worker;

/// What words in `portolan-preview` are signed for.
pub const PREVIEW_USE: &str = "preview";
/// The request header with a signed word, and the response header with what came of it.
static PREVIEW: HeaderName = HeaderName::from_static("portolan-preview");
/// What tells caches of some makers more than `Cache-Control` does.
const CACHE_FIELDS: [&str; 3] = ["cdn-cache-control", "expires", "surrogate-control"];

/// A version that decides one request.
#[derive(Clone, Debug)]
pub(crate) struct Previewed {
    pub(crate) policy: Arc<Policy>,
    pub(crate) wanted: Preview,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its answer was given.
    Answered,
    /// An earlier slot had the answer.
    NotAsked,
    /// It left the request to others.
    Passed,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotAsked => "not-asked",
            Self::Passed => "passed",
        }
    }
}

impl Previewed {
    /// Does it decide in this slot?
    pub(crate) fn is_in(&self, of_tenant: bool) -> bool {
        matches!(self.wanted.slot, Slot::Tenant(_)) == of_tenant
    }

    /// Tells the client which version it was and what it did. No cache is to give one request's answer to another.
    pub(crate) fn tell(&self, part: Part, fields: &mut HeaderMap) {
        let Preview { plugin, version, .. } = &self.wanted;
        let text = format!("{plugin}@{version}; slot={}; {}", self.wanted.slot_name(), part.as_str());
        headers::insert(fields, &PREVIEW, &text);
        for name in CACHE_FIELDS {
            fields.remove(name);
        }
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    }
}

/// Takes the word off a request, so that no policy and no upstream sees it, and finds what it names.
///
/// # Errors
/// When the word does not hold, or the version cannot decide here now.
pub(crate) fn take(worker: &Worker, inbound: &mut Inbound, now_ms: u64) -> Result<Option<Previewed>, Error> {
    // Most requests have none: nothing but a look-up is spent on them.
    if !inbound.headers.contains_key(&PREVIEW) {
        return Ok(None);
    }
    let words: Vec<HeaderValue> = inbound.headers.get_all(&PREVIEW).iter().cloned().collect();
    inbound.headers.remove(&PREVIEW);
    let [word] = words.as_slice() else { return Err(Error::Preview(Word::Several)) };
    let Some(previews) = &worker.previews else { return Err(Error::Preview(Word::Bad)) };
    let sealed = word.to_str().ok().and_then(|word| previews.key.unseal(word, PREVIEW_USE, now_ms));
    let sealed = sealed.ok_or(Error::Preview(Word::Bad))?;
    let wanted: Preview = sealed.about.parse().map_err(|_| Error::Preview(Word::Bad))?;
    let own = inbound.tenant.as_ref();
    let is_own = |tenant: &str| own.is_some_and(|own| own.as_str() == tenant);
    let fits = sealed.tenant.as_deref().is_none_or(is_own)
        && wanted.slot.tenant().is_none_or(|tenant| own == Some(tenant));
    if !fits {
        return Err(Error::Preview(Word::OtherTenant));
    }
    match previews.policies.find(&wanted) {
        Ok(policy) => Ok(Some(Previewed { policy, wanted })),
        Err(Unready::Gone) => Err(Error::Preview(Word::Gone)),
        Err(Unready::Refused) => Err(Error::Preview(Word::Refused)),
        Err(Unready::Soon) => Err(Error::PreviewSoon),
    }
}
