//! TLS: certificates of listeners chosen by name, identities of regions, and the configurations built from them.
//!
//! Everything uses one explicit cryptographic provider (aws-lc-rs), never a process-wide default. Files are read again by
//! `reload`, which keeps the old ones whenever the new ones are not wholly good.

mod peer;
mod spiffe;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use peer::{Guarded, Offer, PeerIdentity, PeerStatus, peer_region};
pub use spiffe::{GatewayId, validity_of};
pub use store::{CertificateFiles, CertificateStatus, CertificateStore};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Where Debian and its kin keep the authorities of the public web.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What can be wrong with certificates, keys and authorities.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or holds nothing usable.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// A certificate names no gateway.
    #[error(
        "the certificate names no gateway: it needs one URI among its names, spiffe://DOMAIN/region/REGION/gateway/NAME"
    )]
    NoGateway,
    /// rustls refused a configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

fn file_error(path: &Path, reason: impl ToString) -> Error {
    Error::File { path: path.to_owned(), reason: reason.to_string() }
}

/// Which clients must show a certificate on a public listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None are asked.
    #[default]
    Off,
    /// Asked; those without one are served too.
    Optional(Vec<PathBuf>),
    /// Asked; those without one are refused.
    Required(Vec<PathBuf>),
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The configuration of a public TLS listener: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
///
/// # Errors
/// When an authority's file is bad.
pub fn server_config(
    store: &Arc<CertificateStore>,
    clients: &ClientAuth,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = |files: &[PathBuf], optional: bool| {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(files)?), provider());
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))
    };
    let builder = match clients {
        ClientAuth::Off => builder.with_no_client_auth(),
        ClientAuth::Optional(files) => builder.with_client_cert_verifier(verifier(files, true)?),
        ClientAuth::Required(files) => builder.with_client_cert_verifier(verifier(files, false)?),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(store) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The configuration for TLS to an upstream that proves a DNS name. Without a file, the system's authorities count.
///
/// # Errors
/// When the authorities' file is bad.
pub fn upstream_config(ca_file: Option<&Path>, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let file = ca_file.map_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES), Path::to_owned);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities(&[file])?)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// The URIs among a certificate's subject alternative names (RFC 5280, section 4.2.1.6).
#[must_use]
pub fn uris_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    alternative_names(certificate, |name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// The URIs, host names and mail addresses among a certificate's subject alternative names, as `uri:`, `dns:` and `email:` and the
/// name, so that none is taken for another.
#[must_use]
pub fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    alternative_names(certificate, |name| match name {
        GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::URI(uri) => Some(format!("uri:{uri}")),
        _ => None,
    })
}

fn alternative_names(
    certificate: &CertificateDer<'_>,
    take: impl Fn(&GeneralName<'_>) -> Option<String>,
) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    names.value.general_names.iter().filter_map(take).collect()
}

pub(crate) fn authorities(files: &[PathBuf]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for path in files {
        believe(&mut roots, chain(path)?, path)?;
    }
    Ok(roots)
}

/// Believes authorities that came from a file.
pub(crate) fn believe(
    roots: &mut RootCertStore,
    authorities: Vec<CertificateDer<'static>>,
    path: &Path,
) -> Result<(), Error> {
    match roots.add_parsable_certificates(authorities) {
        (0, _) => Err(file_error(path, "holds no authority that can be used")),
        _ => Ok(()),
    }
}

pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates
        .map_err(|error| file_error(path, format!("{error}; a PEM file of certificates is needed")))?;
    if certificates.is_empty() {
        return Err(file_error(path, "holds no certificate; a PEM file of certificates is needed"));
    }
    Ok(certificates)
}

pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| file_error(path, format!("{error}; a PEM file with a private key is needed")))
}
