//! What is kept of a resource: its variants, each with its fields, its content, and what decides about its use. One record has all
//! variants of a URL, so that none is forgotten when they are taken back.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::epochs::Epoch;
use crate::policy::Policy;
use crate::tags::Tag;
use crate::vary::Selecting;

/// Variants of one resource; the oldest goes for another one.
const VARIANTS_MAX: usize = 16;
/// What a record takes beside its fields and contents, in bytes.
const OVERHEAD_BYTES: u64 = 512;

/// The name of a resource: a hash of whose it is, how and where it is asked for, and of what the decision makes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) [u8; 32]);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The last purge before it was asked for.
    pub(crate) born: Epoch,
    pub(crate) content: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) policy: Policy,
    pub(crate) selecting: Selecting,
    pub(crate) status: u16,
    pub(crate) tags: Vec<Tag>,
    /// Fields that are not given again unasked.
    pub(crate) withheld: Vec<HeaderName>,
}

/// All variants of one resource, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resource {
    variants: Vec<Arc<Stored>>,
}

impl Resource {
    /// The newest response that answers a request with these fields.
    pub(crate) fn select(&self, request: &HeaderMap) -> Option<&Arc<Stored>> {
        self.variants.iter().find(|stored| stored.selecting.matches(request))
    }

    /// The same with one more, in the place of that which answered the same requests.
    pub(crate) fn with(&self, stored: Arc<Stored>) -> Self {
        let others = self.variants.iter().filter(|other| other.selecting != stored.selecting).cloned();
        Self { variants: std::iter::once(Arc::clone(&stored)).chain(others).take(VARIANTS_MAX).collect() }
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |stored: &Arc<Stored>| {
            let fields: usize =
                stored.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            OVERHEAD_BYTES
                + u64::try_from(fields + stored.content.len() + stored.tags.len() * 8).unwrap_or(u64::MAX)
        };
        self.variants.iter().map(of).sum::<u64>().max(1)
    }

    /// As it is written down.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let all: Vec<Wire<'_>> = self.variants.iter().map(|stored| Wire::of(stored)).collect();
        postcard::to_allocvec(&all).ok()
    }

    /// Reads what was written down; `None` where it is something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (all, rest): (Vec<Wire<'_>>, _) = postcard::take_from_bytes(bytes).ok()?;
        let variants: Option<Vec<_>> = all.into_iter().map(|wire| wire.stored().map(Arc::new)).collect();
        rest.is_empty().then_some(Self { variants: variants? })
    }
}

/// A response on disk.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    born: Epoch,
    #[serde(borrow)]
    content: &'a [u8],
    #[serde(borrow)]
    fields: Vec<(&'a str, &'a [u8])>,
    policy: Policy,
    selecting: Selecting,
    status: u16,
    tags: Vec<Tag>,
    #[serde(borrow)]
    withheld: Vec<&'a str>,
}

impl<'a> Wire<'a> {
    fn of(stored: &'a Stored) -> Self {
        Self {
            born: stored.born,
            content: &stored.content,
            fields: stored.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            policy: stored.policy.clone(),
            selecting: stored.selecting.clone(),
            status: stored.status,
            tags: stored.tags.clone(),
            withheld: stored.withheld.iter().map(HeaderName::as_str).collect(),
        }
    }

    fn stored(self) -> Option<Stored> {
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in self.fields {
            headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        Some(Stored {
            born: self.born,
            content: Bytes::copy_from_slice(self.content),
            headers,
            policy: self.policy,
            selecting: self.selecting,
            status: self.status,
            tags: self.tags,
            withheld: self.withheld.into_iter().filter_map(|name| HeaderName::try_from(name).ok()).collect(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A response that varies with `foo`, whose request had the value.
    pub(crate) fn variant(foo: &str, content: &'static str) -> Arc<Stored> {
        let (mut vary, mut request) = (HeaderMap::new(), HeaderMap::new());
        vary.insert("vary", HeaderValue::from_static("foo"));
        request.insert("foo", foo.parse().unwrap());
        Arc::new(Stored {
            born: Epoch(3),
            content: Bytes::from_static(content.as_bytes()),
            selecting: Selecting::of(&vary, &request).unwrap(),
            headers: vary,
            policy: Policy { lifetime_s: 60, ..Policy::default() },
            status: 200,
            tags: Vec::new(),
            withheld: Vec::new(),
        })
    }

    fn asking(foo: &str) -> HeaderMap {
        [("foo".parse().unwrap(), foo.parse().unwrap())].into_iter().collect::<HeaderMap>()
    }

    #[test]
    fn variants_stand_beside_each_other_and_replace_their_like() {
        let resource = Resource::default().with(variant("1", "one")).with(variant("2", "two"));
        let content =
            |resource: &Resource, foo| resource.select(&asking(foo)).map(|found| found.content.clone());
        assert_eq!(content(&resource, "1").unwrap(), "one");
        assert_eq!(content(&resource, "2").unwrap(), "two");
        assert_eq!(content(&resource, "3"), None);
        let resource = resource.with(variant("1", "uno"));
        assert_eq!(content(&resource, "1").unwrap(), "uno");
        assert_eq!(resource.variants.len(), 2);
        let many = (0..40).fold(resource, |all, number| all.with(variant(&number.to_string(), "x")));
        assert_eq!(many.variants.len(), VARIANTS_MAX);
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let resource = Resource::default().with(variant("1", "one")).with(variant("2", ""));
        let bytes = resource.encode().unwrap();
        assert_eq!(Resource::decode(&bytes), Some(resource));
        for cut in 0..bytes.len() {
            assert_eq!(Resource::decode(&bytes[..cut]), None, "{cut}");
        }
    }
}
