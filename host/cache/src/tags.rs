//! Names by which responses are taken back: those that the origin gives, and those that every response has by where it is.

use http::header::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use crate::directives::{joined, members};

/// Tags that an origin may give one response. One that has more could not be taken back by all of them, and is not stored.
const TAGS_MAX: usize = 128;
/// Bytes of one tag.
const TAG_BYTES_MAX: usize = 1_024;
/// Folders of a path by which it can be taken back.
const PREFIXES_MAX: usize = 16;

static SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
static CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
static CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
static CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// What is taken back, within one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Target {
    /// All that the origin gave a group, within a site (RFC 9875).
    Group {
        /// The site, as [`Target::Site`].
        site: String,
        /// The group's name.
        name: String,
    },
    /// All whose path lies in a folder, which is written with a slash at its end.
    Prefix {
        /// The site, as [`Target::Site`].
        site: String,
        /// The folder's path.
        path: String,
    },
    /// All of a site: a host, with its port if it has one.
    Site(String),
    /// All that the origin gave a tag (`Surrogate-Key`, `Cache-Tag`).
    Tag(String),
    /// All of the tenant.
    Tenant,
    /// All variants of one URL.
    Url {
        /// The site, as [`Target::Site`].
        site: String,
        /// Path and query, as requests have them.
        path: String,
    },
}

/// A target as a number that entries carry: the head of a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Tag(pub(crate) u64);

impl Target {
    /// The number; `None` for all of the tenant, which no entry names.
    pub(crate) fn tag(&self) -> Option<Tag> {
        Some(match self {
            Self::Group { site, name } => Tag::of("group", &[&site.to_ascii_lowercase(), name]),
            Self::Prefix { site, path } => Tag::of("prefix", &[&site.to_ascii_lowercase(), path]),
            Self::Site(site) => Tag::of("site", &[&site.to_ascii_lowercase()]),
            Self::Tag(tag) => Tag::of("tag", &[tag]),
            Self::Tenant => return None,
            Self::Url { site, path } => Tag::of("url", &[&site.to_ascii_lowercase(), path]),
        })
    }
}

impl Tag {
    fn of(kind: &str, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("portolan cache tag v1");
        for part in [kind].iter().chain(parts) {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut head = [0; 8];
        hasher.finalize_xof().fill(&mut head);
        Self(u64::from_le_bytes(head))
    }
}

/// The tags of a response at a place; `None` where there are more than are kept, or longer ones.
pub(crate) fn of_response(headers: &HeaderMap, site: &str, target: &str) -> Option<Vec<Tag>> {
    let path = target.split('?').next().unwrap_or(target);
    let mut all = vec![Tag::of("site", &[site]), Tag::of("url", &[site, target])];
    let folders = path.match_indices('/').map(|(place, _)| place).take(PREFIXES_MAX);
    all.extend(
        folders.filter_map(|place| path.get(..=place)).map(|folder| Tag::of("prefix", &[site, folder])),
    );
    let implied = all.len();
    let keys = joined(headers, &SURROGATE_KEY).unwrap_or_default();
    let tags = joined(headers, &CACHE_TAG).unwrap_or_default();
    let named = keys.split([' ', ',', '\t']).chain(tags.split(',').map(str::trim));
    for name in named.filter(|name| !name.is_empty()) {
        all.push(Tag::of("tag", &[Some(name).filter(|name| name.len() <= TAG_BYTES_MAX)?]));
    }
    all.extend(strings(headers, &CACHE_GROUPS).iter().map(|name| Tag::of("group", &[site, name])));
    let fits = all.len() - implied <= TAGS_MAX;
    all.sort_unstable();
    all.dedup();
    fits.then_some(all)
}

/// The groups that an answer to an unsafe request takes back (RFC 9875, section 3).
pub(crate) fn groups_taken_back(headers: &HeaderMap) -> Vec<String> {
    strings(headers, &CACHE_GROUP_INVALIDATION)
}

/// A list of strings (RFC 9651, section 3.3.3); empty where it is none as a whole.
fn strings(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let Some(text) = joined(headers, name) else { return Vec::new() };
    let string = |member: &&str| {
        let bare = member.trim().strip_prefix('"')?.strip_suffix('"')?;
        Some(bare.replace("\\\"", "\"").replace("\\\\", "\\"))
    };
    let all = members(&text).and_then(|all| all.iter().take(TAGS_MAX).map(string).collect());
    all.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        fields.iter().for_each(|(name, value)| _ = headers.append(*name, value.parse().unwrap()));
        headers
    }

    #[test]
    fn a_response_has_the_tags_of_its_place_and_its_own() {
        let fields = [("surrogate-key", "a b"), ("cache-tag", "c,d e"), ("cache-groups", "\"g\", \"h, i\"")];
        let tags = of_response(&headers(&fields), "a.example:80", "/x/y/z?q=/w/").unwrap();
        let site = || "A.example:80".to_owned();
        let has = |target: Target| tags.contains(&target.tag().unwrap());
        for tag in ["a", "b", "c", "d e"] {
            assert!(has(Target::Tag(tag.into())), "{tag}");
        }
        for name in ["g", "h, i"] {
            assert!(has(Target::Group { site: site(), name: name.into() }), "{name}");
        }
        for path in ["/", "/x/", "/x/y/"] {
            assert!(has(Target::Prefix { site: site(), path: path.into() }), "{path}");
        }
        assert!(has(Target::Site(site())));
        assert!(has(Target::Url { site: site(), path: "/x/y/z?q=/w/".into() }));
        assert!(!has(Target::Url { site: site(), path: "/x/y/z".into() }));
        assert!(!has(Target::Prefix { site: site(), path: "/x/y/z?q=/w/".into() }));
        assert!(!has(Target::Tag("e".into())));
    }

    #[test]
    fn what_could_not_be_taken_back_is_told() {
        let many = vec!["t"; TAGS_MAX + 1].join(" ");
        assert!(of_response(&headers(&[("surrogate-key", &many)]), "a", "/").is_none());
        let long = "t".repeat(TAG_BYTES_MAX + 1);
        assert!(of_response(&headers(&[("cache-tag", &long)]), "a", "/").is_none());
        assert!(of_response(&headers(&[("cache-groups", "not a string")]), "a", "/").is_some());
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(Tag::of("url", &["a", "bc"]), Tag::of("url", &["ab", "c"]));
    }
}
