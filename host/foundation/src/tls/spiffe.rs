//! Whose a gateway's certificate is: one URI, `spiffe://DOMAIN/region/REGION/gateway/NAME`, as SPIFFE-ID and X509-SVID lay it down.

use std::fmt;

use portolan_core::ids::RegionName;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Error, uris_of};

/// Bytes of an identifier (SPIFFE-ID, section 2.3).
const BYTES_MAX: usize = 2_048;
/// Bytes of a trust domain (SPIFFE-ID, section 2.1).
const DOMAIN_BYTES_MAX: usize = 255;
/// What every identifier begins with.
const SCHEME: &str = "spiffe://";

/// A gateway of a region, within a trust domain. A certificate speaks for its own region alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayId {
    domain: String,
    gateway: String,
    region: RegionName,
}

impl GatewayId {
    /// The gateway of this name.
    ///
    /// # Errors
    /// [`Error::NoGateway`] when the domain or the name has other characters than SPIFFE allows, or is too long.
    pub fn new(domain: &str, region: &RegionName, gateway: &str) -> Result<Self, Error> {
        format!("{SCHEME}{domain}/region/{region}/gateway/{gateway}").parse()
    }

    /// Whose a certificate is.
    ///
    /// # Errors
    /// [`Error::NoGateway`] when it names none, several, or something else beside (X509-SVID, section 2: exactly one URI).
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        match uris_of(certificate).as_slice() {
            [uri] => uri.parse(),
            _ => Err(Error::NoGateway),
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The region for which it speaks.
    #[must_use]
    pub const fn region(&self) -> &RegionName {
        &self.region
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, gateway, region } = self;
        write!(f, "{SCHEME}{domain}/region/{region}/gateway/{gateway}")
    }
}

impl std::str::FromStr for GatewayId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= BYTES_MAX).ok_or(Error::NoGateway)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or(Error::NoGateway);
        let (domain, region_word, region) = (next()?, next()?, next()?);
        let (gateway_word, gateway) = (next()?, next()?);
        let over = parts.next().is_some();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let is_domain = (1..=DOMAIN_BYTES_MAX).contains(&domain.len()) && domain.bytes().all(plain);
        let is_segment = !gateway.is_empty()
            && ![".", ".."].contains(&gateway)
            && gateway.bytes().all(|byte| plain(byte) || byte.is_ascii_uppercase());
        if over || (region_word, gateway_word) != ("region", "gateway") || !is_domain || !is_segment {
            return Err(Error::NoGateway);
        }
        let region = RegionName::new(region).map_err(|_| Error::NoGateway)?;
        Ok(Self { domain: domain.to_owned(), gateway: gateway.to_owned(), region })
    }
}

/// From when to when a certificate is valid, in seconds since 1970 (RFC 5280, section 4.1.2.5).
///
/// # Errors
/// [`Error::NoGateway`] when it is no certificate.
pub fn validity_of(certificate: &CertificateDer<'_>) -> Result<(i64, i64), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::NoGateway)?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_names_domain_region_and_gateway() {
        let id: GatewayId = "spiffe://example.net/region/eu-west/gateway/a-1".parse().unwrap();
        assert_eq!((id.domain(), id.region().as_str()), ("example.net", "eu-west"));
        assert_eq!(id.to_string(), "spiffe://example.net/region/eu-west/gateway/a-1");
        assert_eq!(GatewayId::new("example.net", id.region(), "a-1").unwrap(), id);
        let long = format!("spiffe://{}/region/eu/gateway/a", "a".repeat(256));
        for wrong in [
            "",
            "https://example.net/region/eu/gateway/a",
            "spiffe:///region/eu/gateway/a",
            "spiffe://Example.net/region/eu/gateway/a",
            "spiffe://example.net:8443/region/eu/gateway/a",
            "spiffe://me@example.net/region/eu/gateway/a",
            "spiffe://example.net/region/eu",
            "spiffe://example.net/region/eu/gateway/",
            "spiffe://example.net/region/eu/gateway/..",
            "spiffe://example.net/region/eu/gateway/a/b",
            "spiffe://example.net/region/eu/gateway/a%2e",
            "spiffe://example.net/region/eu/gateway/a?b",
            "spiffe://example.net/region/EU!/gateway/a",
            "spiffe://example.net/regions/eu/gateway/a",
            &long,
        ] {
            assert!(wrong.parse::<GatewayId>().is_err(), "{wrong}");
        }
    }
}
