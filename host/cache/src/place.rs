//! Where a resource is: whose, at which site, under which path and query, and by which decision. Nothing that makes answers differ may
//! be missing here, or one client would get, or give, another's.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap};
use portolan_core::ids::TenantName;
use portolan_foundation::cache::Asked;

use crate::epochs::Scope;
use crate::stored::Key;
use crate::tags::{Tag, Target};

/// The place of a request's resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Key,
    pub(crate) scope: Scope,
    /// Host and port in lower case.
    pub(crate) site: String,
    /// Path and query, byte for byte: two spellings of a path are two resources, as they may be to the origin.
    pub(crate) target: String,
    pub(crate) url: Tag,
}

impl Place {
    pub(crate) fn of(asked: &Asked<'_>) -> Self {
        let (scope, site) = (scope(asked.tenant), asked.authority.to_ascii_lowercase());
        let mut hasher = blake3::Hasher::new_derive_key("portolan cache key v1");
        // A tenant's name is never empty.
        let tenant = asked.tenant.map_or("", |tenant| tenant.as_str());
        let scheme = if asked.secure { "https" } else { "http" };
        for part in [tenant, scheme, &site, asked.target, asked.pool.as_str()] {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&asked.edits.to_le_bytes());
        let key = Key(*hasher.finalize().as_bytes());
        let url = url(&site, asked.target);
        Self { key, scope, site, target: asked.target.to_owned(), url }
    }

    /// Path and query of what a field such as Location names, if it is at the same site (RFC 9111, section 4.4).
    pub(crate) fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next().unwrap_or(reference);
        let path = self.target.split('?').next().unwrap_or_default();
        if let Some((scheme, rest)) = reference.split_once("://").filter(|(scheme, _)| !scheme.contains('/'))
        {
            return self.at_site(rest, if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" });
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return self.at_site(rest, ":443");
        }
        if reference.is_empty() {
            return Some(self.target.clone());
        }
        if reference.starts_with('?') {
            return Some(format!("{path}{reference}"));
        }
        if reference.starts_with('/') {
            return Some(reference.to_owned());
        }
        let folder = path.rfind('/').and_then(|place| path.get(..=place)).unwrap_or("/");
        Some(without_dots(&format!("{folder}{reference}")))
    }

    fn at_site(&self, rest: &str, port: &str) -> Option<String> {
        let (site, path) =
            rest.find('/').and_then(|place| rest.split_at_checked(place)).unwrap_or((rest, "/"));
        let bare = |site: &str| site.to_ascii_lowercase().trim_end_matches(port).to_owned();
        (bare(site) == bare(&self.site)).then(|| path.to_owned())
    }

    /// What the resource is called where it is known that nothing is stored of it: apart for requests with credentials, whose answers are
    /// refused more often.
    pub(crate) fn predictor(&self, request: &HeaderMap) -> Key {
        let Key([first, rest @ ..]) = self.key;
        let has_credentials = request.contains_key(AUTHORIZATION) || request.contains_key(COOKIE);
        let mut key = [first ^ u8::from(has_credentials); 32];
        key.iter_mut().skip(1).zip(rest).for_each(|(place, byte)| *place = byte);
        Key(key)
    }

    /// The tag of another URL of the site.
    pub(crate) fn beside(&self, target: &str) -> Tag {
        url(&self.site, target)
    }
}

/// Whose entries they are.
pub(crate) fn scope(tenant: Option<&TenantName>) -> Scope {
    let mut head = [0; 8];
    let mut hasher = blake3::Hasher::new_derive_key("portolan cache scope v1");
    let name = tenant.map_or("", |tenant| tenant.as_str());
    hasher.update(name.as_bytes()).finalize_xof().fill(&mut head);
    Scope(u64::from_le_bytes(head))
}

fn url(site: &str, target: &str) -> Tag {
    let url = Target::Url { site: site.to_owned(), path: target.to_owned() };
    // Only a whole tenant has no tag.
    url.tag().unwrap_or(Tag(0))
}

/// RFC 3986, section 5.2.4, of a path with its query.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => _ = kept.pop(),
            other => kept.push(other),
        }
    }
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use portolan_core::ids::PoolName;

    use super::*;

    fn place(
        tenant: Option<&str>,
        secure: bool,
        authority: &str,
        target: &str,
        pool: &str,
        edits: u64,
    ) -> Place {
        let tenant = tenant.map(|name| TenantName::new(name).unwrap());
        let pool = PoolName::new(pool).unwrap();
        Place::of(&Asked {
            authority,
            edits,
            has_content: false,
            headers: &HeaderMap::new(),
            method: &Method::GET,
            pool: &pool,
            secure,
            target,
            tenant: tenant.as_ref(),
        })
    }

    #[test]
    fn whatever_makes_answers_differ_makes_keys_differ() {
        let base = place(Some("acme"), false, "a.example", "/x?y", "app", 1);
        let others = [
            place(None, false, "a.example", "/x?y", "app", 1),
            place(Some("other"), false, "a.example", "/x?y", "app", 1),
            place(Some("acme"), true, "a.example", "/x?y", "app", 1),
            place(Some("acme"), false, "a.example:8080", "/x?y", "app", 1),
            place(Some("acme"), false, "a.example", "/x?y=", "app", 1),
            place(Some("acme"), false, "a.example", "/%78?y", "app", 1),
            place(Some("acme"), false, "a.example", "/x?y", "other", 1),
            place(Some("acme"), false, "a.example", "/x?y", "app", 2),
        ];
        assert!(others.iter().all(|other| other.key != base.key));
        assert_eq!(place(Some("acme"), false, "A.Example", "/x?y", "app", 1).key, base.key);
    }

    #[test]
    fn references_are_resolved_at_the_same_site_alone() {
        let at = place(None, false, "a.example:80", "/d/e?q", "app", 0);
        let cases = [
            ("", Some("/d/e?q")),
            ("/x", Some("/x")),
            ("x", Some("/d/x")),
            ("../x?y", Some("/x?y")),
            ("?y", Some("/d/e?y")),
            ("x#part", Some("/d/x")),
            ("http://a.example/x", Some("/x")),
            ("HTTP://A.example:80", Some("/")),
            ("http://b.example/x", None),
            ("//b.example/x", None),
        ];
        for (reference, expected) in cases {
            assert_eq!(at.resolve(reference).as_deref(), expected, "{reference}");
        }
    }
}
