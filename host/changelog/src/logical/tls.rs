//! TLS with a server of PostgreSQL over a connection of replication, which asks of it what other connections of the same address do.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

/// How the two ends prove who they are.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    /// Certificates (PEM, or the path of a file) of authorities beside the public ones.
    pub(super) ca: Option<String>,
    /// The client's certificate and key, likewise.
    pub(super) own: Option<(String, String)>,
    pub(super) asks: Asks,
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asks {
    /// That it encrypts.
    #[default]
    Encryption,
    /// A certificate of a known authority.
    Authority,
    /// A certificate of a known authority, for the name of the address.
    Name,
}

/// What connects so.
///
/// # Errors
/// What is wrong with files or certificates.
pub(super) fn connector(proofs: &Proofs) -> Result<TlsConnector, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in proofs.ca.iter().map(|ca| certificates(ca)).collect::<Result<Vec<_>, _>>()?.concat() {
        roots.add(certificate).map_err(|error| format!("an authority's certificate: {error}"))?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match proofs.asks {
        Asks::Name => verifier,
        asks => Arc::new(Lenient { asks, provider: Arc::clone(&provider), verifier }),
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &proofs.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key =
                PrivateKeyDer::from_pem_slice(&pem(key)?).map_err(|error| format!("the key: {error}"))?;
            let built = builder.with_client_auth_cert(certificates(certificate)?, key);
            built.map_err(|error| format!("the client's certificate: {error}"))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(&pem(text)?).collect::<Result<Vec<_>, _>>();
    read.map_err(|error| format!("certificates: {error}"))
}

/// What is written there, or in the file that is named.
fn pem(text: &str) -> Result<Vec<u8>, String> {
    if text.starts_with("-----BEGIN") {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(text).map_err(|error| format!("read {text}: {error}"))
}

/// Asks less than a certificate for the server's name, as the operator says.
#[derive(Debug)]
struct Lenient {
    asks: Asks,
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.verifier.verify_server_cert(end, between, name, ocsp, now) {
            _ if self.asks == Asks::Encryption => Ok(ServerCertVerified::assertion()),
            // The name is looked at last, once the authority is known.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
