//! A request as it came in: what rules, tenants' sources and the log see of it.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{COOKIE, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method};
use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::ids::{PoolName, RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::screen::{self, Violation, check_host};
use portolan_core::tenant::Evidence;
use portolan_core::topology::Topology;

use crate::config::Trust;
use crate::error::Error;
use crate::io::Switch;
use crate::origin::Origin;

/// What a connection knows for all of its requests.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// URIs of the client's certificate.
    pub(crate) uris: Vec<String>,
    /// The region of the gateway on the other side, on the peer listener.
    pub(crate) peer: Option<RegionName>,
    /// Requests that the gateway, not the client, is to bring forward.
    pub(crate) busy: Rc<Cell<usize>>,
    /// For HTTP/1: how to answer its reader about upgrades.
    pub(crate) switch: Option<Arc<Switch>>,
}

/// A request that was found to be well-formed.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    pub(crate) method: Method,
    pub(crate) path: Box<str>,
    pub(crate) query: Option<Box<str>>,
    pub(crate) host: Box<str>,
    /// As it came, with its port.
    pub(crate) authority: Box<str>,
    pub(crate) secure: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) client: IpAddr,
    client_text: Box<str>,
    origin: Origin,
    pub(crate) local: RegionName,
    pub(crate) tenant: Option<TenantName>,
    pub(crate) residency: Option<ResidencyName>,
    /// Where the tenant's rows are, if it has any.
    pub(crate) home: Option<Home>,
    pub(crate) downstream: Rc<Downstream>,
    /// Did the request come from a proxy that is believed?
    pub(crate) trusted: bool,
}

/// The shard that has a tenant's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) epoch: Epoch,
    /// Where it is written.
    pub(crate) primary: RegionName,
    pub(crate) shard: ShardName,
}

impl Inbound {
    /// Finds out where the tenant's data must stay, and where they are.
    pub(crate) fn settle(&mut self, topology: &Topology) {
        let known = topology.tenants.of(self.tenant.as_ref());
        self.residency = known.and_then(|tenant| tenant.residency.clone());
        self.home = self.home_in(topology);
    }

    /// Where the tenant's rows are in this picture.
    pub(crate) fn home_in(&self, topology: &Topology) -> Option<Home> {
        let (_, shard) = topology.shard_of(self.tenant.as_ref()?)?;
        let (epoch, primary, shard) = (shard.epoch, shard.primary.clone(), shard.name.clone());
        Some(Home { epoch, primary, shard })
    }

    /// The region that a request which may change something must reach.
    pub(crate) fn written_at(&self) -> Option<&RegionName> {
        let safe = matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        self.home.as_ref().filter(|_| !safe).map(|home| &home.primary)
    }

    /// Where a request for a pool in a region goes: who changes a tenant's rows must stand where they are written, whatever a
    /// policy prefers, unless the pool's applications use no shard.
    pub(crate) fn stands_at<'r>(
        &'r self,
        topology: &Topology,
        region: &'r RegionName,
        pool: &PoolName,
    ) -> &'r RegionName {
        let stateless = |region: &RegionName| topology.pool(region, pool).is_some_and(|pool| pool.stateless);
        self.written_at().filter(|_| !stateless(region)).unwrap_or(region)
    }

    /// Checks what framing could not see, and finds out who the client is. Takes the headers out of `parts`.
    pub(crate) fn read(
        parts: &mut Parts,
        downstream: &Rc<Downstream>,
        trust: &Trust,
        limits: &screen::Limits,
        local: &RegionName,
    ) -> Result<Self, Error> {
        let mut headers = std::mem::take(&mut parts.headers);
        if parts.version == http::Version::HTTP_10 {
            // HTTP/1.0 switches to nothing (RFC 9110, section 7.8).
            headers.remove(UPGRADE);
        }
        if parts.version == http::Version::HTTP_2 {
            check(parts, &headers, limits).map_err(Error::Malformed)?;
        }
        let authority = authority(parts, &headers)?;
        let host = check_host(&authority).map_err(Error::Malformed)?.host.to_ascii_lowercase().into();
        let direct = downstream.address.ip().to_canonical();
        // A gateway of another region has told the whole way already; a proxy is believed where the operator says so.
        let trusted = downstream.peer.is_some() || trust.trusts(direct);
        let client = if trusted { forwarded_for(&headers, trust).unwrap_or(direct) } else { direct };
        let origin = Origin::read(trust, client, trusted.then_some(&headers));
        let forwarded_proto = || headers.get("x-forwarded-proto").is_some_and(|value| value == "https");
        Ok(Self {
            method: parts.method.clone(),
            path: parts.uri.path().into(),
            query: parts.uri.query().map(Into::into),
            host,
            authority: authority.into(),
            secure: downstream.tls && downstream.peer.is_none() || (trusted && forwarded_proto()),
            client,
            client_text: client.to_string().into(),
            origin,
            local: local.clone(),
            tenant: None,
            residency: None,
            home: None,
            downstream: Rc::clone(downstream),
            trusted,
            headers,
        })
    }

    /// Takes another region for the nearest, for `explain`.
    pub(crate) fn assume_near(&mut self, near: Option<String>) {
        self.origin.assume_near(near);
    }

    /// Does the client speak gRPC?
    pub(crate) fn is_grpc(&self) -> bool {
        let kind = self.headers.get(http::header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    }
}

/// What the screen checks of HTTP/1 and the HTTP library does not of HTTP/2: limits, methods, the bytes of the path.
fn check(parts: &Parts, headers: &HeaderMap, limits: &screen::Limits) -> Result<(), Violation> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Violation::Method);
    }
    let target = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    if target.len() > limits.target_bytes_max {
        return Err(Violation::TargetSize);
    }
    let asterisk = parts.method == Method::OPTIONS && target == "*";
    if !target.starts_with('/') && !asterisk {
        return Err(Violation::Target);
    }
    screen::check_path(target.as_bytes())?;
    if headers.len() > limits.fields_max {
        return Err(Violation::HeadSize);
    }
    // RFC 9113, section 8.2.1.
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded =
        |value: &http::HeaderValue| space(value.as_bytes().first()) || space(value.as_bytes().last());
    if headers.values().any(padded) {
        return Err(Violation::Field);
    }
    headers.get_all(EXPECT).iter().try_for_each(|value| screen::check_expectation(value.as_bytes()))
}

/// The authority: of the target where it has one, else of Host. HTTP/2 may carry both, and then they must agree (RFC
/// 9113, section 8.3.1); for HTTP/1 the screen has seen to that.
fn authority(parts: &Parts, headers: &HeaderMap) -> Result<String, Error> {
    let wrong = Error::Malformed(Violation::Host);
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let host = host.map(|value| value.to_str().map_err(|_| wrong)).transpose()?;
    if second.is_some() {
        return Err(wrong);
    }
    match (parts.uri.authority(), host) {
        (Some(authority), None) => Ok(authority.as_str().to_owned()),
        (Some(authority), Some(host)) if authority.as_str().eq_ignore_ascii_case(host) => Ok(host.to_owned()),
        (Some(_), Some(_)) => Err(wrong),
        (None, Some(host)) => Ok(host.to_owned()),
        // HTTP/1.0 knows no Host.
        (None, None) if parts.version == http::Version::HTTP_10 => Ok("unknown".to_owned()),
        (None, None) => Err(wrong),
    }
}

/// The last address of X-Forwarded-For that is not a trusted proxy's own: whatever stands before it, the client may
/// have written itself.
fn forwarded_for(headers: &HeaderMap, trust: &Trust) -> Option<IpAddr> {
    let lines = headers.get_all("x-forwarded-for");
    let texts: Vec<&str> =
        lines.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).collect();
    let mut last = None;
    for text in texts.into_iter().rev() {
        let address: IpAddr = text.trim().parse().ok()?;
        last = Some(address);
        if !trust.trusts(address) {
            break;
        }
    }
    last
}

fn text(value: &http::HeaderValue) -> Value<'_> {
    std::str::from_utf8(value.as_bytes()).map_or(Value::Opaque, Value::Text)
}

impl Attributes for Inbound {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match attribute {
            Attribute::ClientContinent => self.origin.continent().map_or(Value::Absent, Value::Text),
            Attribute::ClientCountry => self.origin.country().map_or(Value::Absent, Value::Text),
            Attribute::ClientIp => Value::Text(&self.client_text),
            Attribute::ClientRegion => self.origin.near().map_or(Value::Absent, Value::Text),
            Attribute::Cookie(name) => cookie(&self.headers, name),
            Attribute::Header(name) => self.headers.get(&**name).map_or(Value::Absent, text),
            Attribute::Host => Value::Text(&self.host),
            Attribute::Method => Value::Text(self.method.as_str()),
            Attribute::Path => Value::Text(&self.path),
            Attribute::Query => self.query.as_deref().map_or(Value::Absent, Value::Text),
            Attribute::Region => Value::Text(self.local.as_str()),
            Attribute::Residency => {
                self.residency.as_ref().map_or(Value::Absent, |class| Value::Text(class.as_str()))
            }
            Attribute::Scheme => Value::Text(if self.secure { "https" } else { "http" }),
            Attribute::Tenant => {
                self.tenant.as_ref().map_or(Value::Absent, |tenant| Value::Text(tenant.as_str()))
            }
        }
    }

    fn client_ip(&self) -> IpAddr {
        self.client
    }
}

/// A cookie's value; the first one of that name (RFC 6265, section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Value<'a> {
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|&byte| byte == b';') {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = value {
                return std::str::from_utf8(value).map_or(Value::Opaque, Value::Text);
            }
        }
    }
    Value::Absent
}

impl Evidence for Inbound {
    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        match (all.next(), all.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    fn certificate_uris(&self) -> &[String] {
        &self.downstream.uris
    }
}
