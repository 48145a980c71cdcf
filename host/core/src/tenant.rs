//! Who a request belongs to. The operator lists the sources in order; the first one that names a tenant decides.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bounds::Bounds;
use crate::ids::{PolicyName, RegionName, ResidencyName, TenantName};

/// The tenants of the platform and the ways to recognise them.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    /// The tenants that nobody serves, whether they have anything of their own or not.
    pub barred: HashMap<TenantName, Barred>,
    /// The tenants that have something of their own: a residency, a policy. Others need no entry.
    pub known: HashMap<TenantName, Tenant>,
    /// Where to look, in this order.
    pub sources: Vec<Source>,
    /// What to do with a request that names no tenant, or one that is not in `known` when `known_only`.
    pub unrecognised: Unrecognised,
    /// Are names outside `known` refused, too?
    pub known_only: bool,
}

/// What one tenant has of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// What its policy may choose.
    pub bounds: Arc<Bounds>,
    /// The region that it works in, for the rules of placement that have one.
    pub location: Option<RegionName>,
    /// The residency class that bounds where its requests may go.
    pub residency: Option<ResidencyName>,
    /// The policy in its routing slot.
    pub policy: Option<PolicyName>,
}

/// Why a tenant is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// What it had is being taken away, or is gone. Its name is never another's.
    Erased,
    /// The operator suspended it; what it has stays.
    Suspended,
}

/// One way to recognise a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The last segment of a URI in the subject alternative names of the client's certificate that begins with this
    /// prefix.
    ClientCertificate {
        /// For example `spiffe://example.com/tenant/`.
        uri_prefix: Box<str>,
    },
    /// The value of a header field.
    Header {
        /// Lower-case field name.
        name: Box<str>,
    },
    /// The label before a host suffix: `acme` in `acme.apps.example.com` for the suffix `.apps.example.com`.
    HostSuffix {
        /// Begins with a dot, lower case.
        suffix: Box<str>,
    },
    /// The path segment after a prefix: `acme` in `/t/acme/orders` for the prefix `/t/`.
    PathPrefix {
        /// Begins and ends with `/`.
        prefix: Box<str>,
    },
}

/// What happens to a request without a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unrecognised {
    /// It is served without one.
    #[default]
    Anonymous,
    /// It is answered 404, so that nobody learns which tenants exist.
    Refuse,
}

/// The parts of a request that can name a tenant.
pub trait Evidence {
    /// The host of the authority, lower case, without port.
    fn host(&self) -> &str;
    /// The path.
    fn path(&self) -> &str;
    /// The only value of a header field; `None` when it is absent, repeated or not UTF-8.
    fn header(&self, name: &str) -> Option<&str>;
    /// The URIs in the client certificate's subject alternative names; empty without one.
    fn certificate_uris(&self) -> &[String];
}

/// Why a request belongs to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No source named one and [`Unrecognised::Refuse`] holds, or the name is not a known tenant's.
    #[error("the request names no tenant of this platform")]
    Tenant,
}

impl Tenants {
    /// The tenant of a request, or none where anonymous requests are served.
    ///
    /// # Errors
    /// [`Unknown::Tenant`] when the operator's rule refuses the request.
    pub fn recognise(&self, request: &impl Evidence) -> Result<Option<TenantName>, Unknown> {
        let named = self.sources.iter().find_map(|source| source.name_in(request));
        let refused = || match self.unrecognised {
            Unrecognised::Anonymous => Ok(None),
            Unrecognised::Refuse => Err(Unknown::Tenant),
        };
        let Some(text) = named else { return refused() };
        // A name that breaks the rule cannot be a tenant's, so it is no name at all, never an error of its own.
        let Ok(name) = TenantName::new(text) else { return Err(Unknown::Tenant) };
        if self.known_only && !self.known.contains_key(&name) {
            return Err(Unknown::Tenant);
        }
        Ok(Some(name))
    }

    /// The tenant that the client's certificate names, where certificates name tenants.
    #[must_use]
    pub fn certified(&self, request: &impl Evidence) -> Option<TenantName> {
        let mut sources =
            self.sources.iter().filter(|source| matches!(source, Source::ClientCertificate { .. }));
        let name = TenantName::new(sources.find_map(|source| source.name_in(request))?).ok()?;
        (!self.known_only || self.known.contains_key(&name)).then_some(name)
    }

    /// Does a path name another tenant than this one? Only where paths name tenants at all.
    #[must_use]
    pub fn is_anothers(&self, path: &str, tenant: Option<&TenantName>) -> bool {
        self.sources.iter().any(|source| {
            let Source::PathPrefix { .. } = source else { return false };
            source.segment(path).is_some_and(|named| tenant.is_none_or(|own| own.as_str() != named))
        })
    }

    /// Why the tenant is not served, if it is not.
    #[must_use]
    pub fn barred(&self, name: Option<&TenantName>) -> Option<Barred> {
        self.barred.get(name?).copied()
    }

    /// What the tenant has of its own.
    #[must_use]
    pub fn of(&self, name: Option<&TenantName>) -> Option<&Tenant> {
        self.known.get(name?)
    }
}

impl Source {
    fn name_in<'a>(&self, request: &'a impl Evidence) -> Option<&'a str> {
        match self {
            Self::ClientCertificate { uri_prefix } => {
                let mut found =
                    request.certificate_uris().iter().filter_map(|uri| uri.strip_prefix(&**uri_prefix));
                found.next().filter(|rest| !rest.is_empty() && !rest.contains('/'))
            }
            Self::Header { name } => request.header(name),
            Self::HostSuffix { suffix } => request
                .host()
                .strip_suffix(&**suffix)
                .filter(|label| !label.is_empty() && !label.contains('.')),
            Self::PathPrefix { .. } => self.segment(request.path()),
        }
    }

    /// The path's segment that names a tenant.
    fn segment<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Self::PathPrefix { prefix } = self else { return None };
        path.strip_prefix(&**prefix)?.split('/').next().filter(|segment| !segment.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request {
        host: &'static str,
        path: &'static str,
        header: Option<&'static str>,
        uris: Vec<String>,
    }

    impl Evidence for Request {
        fn host(&self) -> &str {
            self.host
        }
        fn path(&self) -> &str {
            self.path
        }
        fn header(&self, name: &str) -> Option<&str> {
            self.header.filter(|_| name == "x-tenant")
        }
        fn certificate_uris(&self) -> &[String] {
            &self.uris
        }
    }

    fn tenants() -> Tenants {
        Tenants {
            sources: vec![
                Source::ClientCertificate { uri_prefix: "spiffe://p/tenant/".into() },
                Source::HostSuffix { suffix: ".apps.example.com".into() },
                Source::Header { name: "x-tenant".into() },
                Source::PathPrefix { prefix: "/t/".into() },
            ],
            ..Tenants::default()
        }
    }

    fn check(request: Request, expected: Option<&str>) {
        let found = tenants().recognise(&request).unwrap();
        assert_eq!(found.as_ref().map(TenantName::as_str), expected);
    }

    const PLAIN: Request = Request { host: "example.com", path: "/", header: None, uris: Vec::new() };

    #[test]
    fn each_source_names_a_tenant_and_the_first_one_wins() {
        check(PLAIN, None);
        check(Request { host: "acme.apps.example.com", ..PLAIN }, Some("acme"));
        check(Request { host: "a.b.apps.example.com", ..PLAIN }, None);
        check(Request { header: Some("blue"), ..PLAIN }, Some("blue"));
        check(Request { path: "/t/green/orders", ..PLAIN }, Some("green"));
        check(Request { path: "/t/", ..PLAIN }, None);
        check(
            Request { uris: vec!["spiffe://p/tenant/red".into()], header: Some("blue"), ..PLAIN },
            Some("red"),
        );
        check(Request { uris: vec!["spiffe://p/tenant/a/b".into()], ..PLAIN }, None);
    }

    #[test]
    fn a_name_that_is_no_name_is_refused_rather_than_served_anonymously() {
        let request = Request { header: Some("../etc"), ..PLAIN };
        assert_eq!(tenants().recognise(&request), Err(Unknown::Tenant));
    }

    #[test]
    fn strangers_are_refused_where_the_operator_says_so() {
        let mut tenants = tenants();
        tenants.unrecognised = Unrecognised::Refuse;
        assert_eq!(tenants.recognise(&PLAIN), Err(Unknown::Tenant));
        tenants.known_only = true;
        assert_eq!(tenants.recognise(&Request { header: Some("blue"), ..PLAIN }), Err(Unknown::Tenant));
        tenants.known.insert(TenantName::new("blue").unwrap(), Tenant::default());
        assert!(tenants.recognise(&Request { header: Some("blue"), ..PLAIN }).is_ok());
    }
}
