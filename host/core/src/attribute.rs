//! What a rule may look at in a request. The set is open: names may be added, never changed.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A named value of a request, as a policy declares it.
///
/// | text | value |
/// |---|---|
/// | `host` | authority's host, lower case, without port |
/// | `path` | path as received, without query |
/// | `query` | query without `?`; absent when there is none |
/// | `method` | method, upper case as received |
/// | `scheme` | `http` or `https`, of the downstream connection or of a trusted proxy before it |
/// | `tenant` | the tenant's name; absent when no tenant was recognised |
/// | `tenant.residency` | the residency class of the tenant; absent when it has none |
/// | `client.ip` | address of the client, after trusted proxies |
/// | `client.continent` | `AF`, `AN`, `AS`, `EU`, `NA`, `OC` or `SA`; absent when unknown |
/// | `client.country` | ISO 3166-1 alpha-2 code, upper case; absent when unknown |
/// | `client.region` | name of the portolan region nearest to the client; absent when unknown |
/// | `region` | name of the region that took the request in |
/// | `header:NAME` | first value of a header |
/// | `cookie:NAME` | value of a cookie (RFC 6265, section 5.4) |
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Attribute {
    /// `client.continent`
    ClientContinent,
    /// `client.country`
    ClientCountry,
    /// `client.ip`
    ClientIp,
    /// `client.region`
    ClientRegion,
    /// `cookie:NAME`; cookie names are case-sensitive.
    Cookie(Box<str>),
    /// `header:NAME`, kept in lower case.
    Header(Box<str>),
    /// `host`
    Host,
    /// `method`
    Method,
    /// `path`
    Path,
    /// `query`
    Query,
    /// `region`
    Region,
    /// `tenant.residency`
    Residency,
    /// `scheme`
    Scheme,
    /// `tenant`
    Tenant,
}

/// Why a text names no attribute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// The part after `header:` or `cookie:` is not a token (RFC 9110, section 5.6.2), or is over 128 bytes.
    #[error("`{0}` does not name a header or cookie: use an HTTP token of at most 128 bytes")]
    Token(String),
    /// This host does not know the name. A newer one may.
    #[error("attribute `{0}` is not known to this host")]
    Unknown(String),
}

const TOKEN_BYTES_MAX: usize = 128;

fn is_token(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(good)
}

impl Attribute {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`AttributeError`] for names that this host does not know and for names of headers that cannot exist.
    pub fn parse(text: &str) -> Result<Self, AttributeError> {
        let named = |name: &str| {
            if is_token(name) { Ok(()) } else { Err(AttributeError::Token(text.to_owned())) }
        };
        if let Some(name) = text.strip_prefix("header:") {
            named(name)?;
            return Ok(Self::Header(name.to_ascii_lowercase().into()));
        }
        if let Some(name) = text.strip_prefix("cookie:") {
            named(name)?;
            return Ok(Self::Cookie(name.into()));
        }
        Ok(match text {
            "client.continent" => Self::ClientContinent,
            "client.country" => Self::ClientCountry,
            "client.ip" => Self::ClientIp,
            "client.region" => Self::ClientRegion,
            "host" => Self::Host,
            "method" => Self::Method,
            "path" => Self::Path,
            "query" => Self::Query,
            "region" => Self::Region,
            "scheme" => Self::Scheme,
            "tenant" => Self::Tenant,
            "tenant.residency" => Self::Residency,
            _ => return Err(AttributeError::Unknown(text.to_owned())),
        })
    }
}

impl TryFrom<String> for Attribute {
    type Error = AttributeError;
    fn try_from(text: String) -> Result<Self, AttributeError> {
        Self::parse(&text)
    }
}

impl From<Attribute> for String {
    fn from(attribute: Attribute) -> Self {
        attribute.to_string()
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientContinent => f.write_str("client.continent"),
            Self::ClientCountry => f.write_str("client.country"),
            Self::ClientIp => f.write_str("client.ip"),
            Self::ClientRegion => f.write_str("client.region"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Host => f.write_str("host"),
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Query => f.write_str("query"),
            Self::Region => f.write_str("region"),
            Self::Residency => f.write_str("tenant.residency"),
            Self::Scheme => f.write_str("scheme"),
            Self::Tenant => f.write_str("tenant"),
        }
    }
}

impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a request holds under an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The request has no such value.
    Absent,
    /// There is a value, but it is not UTF-8. A rule never matches it; a declared one answers 400.
    Opaque,
    /// The value as text.
    Text(&'a str),
}

impl<'a> Value<'a> {
    /// The text, if there is one.
    #[must_use]
    pub const fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Opaque => None,
        }
    }
}

/// A request as rules see it. The proxy implements it over hyper's types, tests over a map.
pub trait Attributes {
    /// The value under one attribute. Called several times per request, so it must be cheap.
    fn value(&self, attribute: &Attribute) -> Value<'_>;

    /// The client's address, for `cidr` conditions; the same one that `client.ip` prints.
    fn client_ip(&self) -> IpAddr;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_goes_both_ways() {
        for text in [
            "client.continent",
            "client.country",
            "client.ip",
            "client.region",
            "cookie:Session",
            "header:x-canary",
            "host",
            "method",
            "path",
            "query",
            "region",
            "scheme",
            "tenant",
            "tenant.residency",
        ] {
            assert_eq!(Attribute::parse(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Attribute::parse("header:X-Canary"), Attribute::parse("header:x-canary"));
        for bad in [
            "",
            "Host",
            "header:",
            "header:a b",
            "cookie:a;b",
            "client",
            &format!("header:{}", "x".repeat(129)),
        ] {
            assert!(Attribute::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
