//! The identity of a region on the peer link: mutual TLS 1.3, with the region in the certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_core::ids::RegionName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use super::{Error, authorities, chain, file_error, key, provider, uris_of};

/// What a certificate's URI begins with; the region's name follows.
const URI_PREFIX: &str = "portolan://region/";

/// The region that a certificate proves.
///
/// # Errors
/// [`Error::NoRegion`] when it names none, or a name that is none.
pub fn peer_region(certificate: &CertificateDer<'_>) -> Result<RegionName, Error> {
    let uris = uris_of(certificate);
    let mut names = uris.iter().filter_map(|uri| RegionName::new(uri.strip_prefix(URI_PREFIX)?).ok());
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(Error::NoRegion),
    }
}

/// A node's own identity, and the authority that it believes about others'.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    roots: Arc<RootCertStore>,
    own: Arc<Own>,
}

#[derive(Debug)]
struct Own {
    cert: PathBuf,
    key: PathBuf,
    loaded: ArcSwap<CertifiedKey>,
    region: RegionName,
}

impl PeerIdentity {
    /// Reads certificate, key and authorities, all PEM.
    ///
    /// # Errors
    /// The file that is bad; or a certificate for another region than `region`.
    pub fn load(region: &RegionName, cert: &Path, key: &Path, ca: &[PathBuf]) -> Result<Self, Error> {
        let loaded = ArcSwap::from_pointee(certified(region, cert, key)?);
        let own = Own { cert: cert.into(), key: key.into(), loaded, region: region.clone() };
        Ok(Self { roots: Arc::new(authorities(ca)?), own: Arc::new(own) })
    }

    /// Reads certificate and key again.
    ///
    /// # Errors
    /// The file that is bad, or the certificate of another region; then the old identity stays.
    pub fn reload(&self) -> Result<(), Error> {
        let Own { cert, key, loaded, region } = &*self.own;
        loaded.store(Arc::new(certified(region, cert, key)?));
        Ok(())
    }

    /// The configuration of the peer listener.
    ///
    /// # Errors
    /// When the authorities cannot verify anybody.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
            .build()
            .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.own) as _);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again would bring the trust of its beginning along.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// The configuration for connections to the gateways of `region`: whoever answers must prove that region.
    ///
    /// # Errors
    /// When rustls refuses TLS 1.3 alone.
    pub fn client_config(&self, region: &RegionName) -> Result<Arc<ClientConfig>, Error> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let verifier = RegionVerifier { region: region.clone(), roots: Arc::clone(&self.roots), algorithms };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.own) as _);
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// Reads a chain with its key; the certificate must be this region's.
fn certified(region: &RegionName, cert: &Path, key_file: &Path) -> Result<CertifiedKey, Error> {
    let loaded = CertifiedKey::from_der(chain(cert)?, key(key_file)?, &provider()).map_err(|error| {
        file_error(key_file, format!("{error}; it must be the key of {}", cert.display()))
    })?;
    let named = peer_region(loaded.end_entity_cert()?).map_err(|error| file_error(cert, error))?;
    if named == *region {
        return Ok(loaded);
    }
    Err(file_error(cert, format!("is the certificate of region {named}, but this node is in {region}")))
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.loaded.load_full())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.loaded.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts a server that the authority vouches for as a gateway of the region. DNS names play no part: addresses of
/// gateways may be anything.
#[derive(Debug)]
struct RegionVerifier {
    region: RegionName,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for RegionVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        match peer_region(end_entity) {
            Ok(region) if region == self.region => Ok(ServerCertVerified::assertion()),
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    struct Authority(Issuer<'static, KeyPair>, String);

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority(Issuer::new(params, key), pem)
    }

    fn name(text: &str) -> RegionName {
        RegionName::new(text).unwrap()
    }

    fn issue(authority: &Authority, folder: &Path, region: &str) -> Result<PeerIdentity, Error> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("portolan://region/{region}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        let cert = params.signed_by(&key, &authority.0).unwrap();
        std::fs::write(folder.join("c"), cert.pem()).unwrap();
        std::fs::write(folder.join("k"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("ca"), &authority.1).unwrap();
        PeerIdentity::load(&name(region), &folder.join("c"), &folder.join("k"), &[folder.join("ca")])
    }

    async fn talk(server: &PeerIdentity, client: &PeerIdentity, expect: &str) -> Result<RegionName, String> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = TlsAcceptor::from(server.server_config().unwrap());
        let connector = TlsConnector::from(client.client_config(&name(expect)).unwrap());
        let serve = async {
            let mut stream = acceptor.accept(far).await.map_err(|error| error.to_string())?;
            let region =
                peer_region(stream.get_ref().1.peer_certificates().unwrap().first().unwrap()).unwrap();
            stream.write_all(b"x").await.map_err(|error| error.to_string())?;
            Ok(region)
        };
        let ask = async {
            let host = ServerName::try_from("gateway.invalid").unwrap();
            let mut stream = connector.connect(host, near).await.map_err(|error| error.to_string())?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await.map_err(|error| error.to_string())
        };
        let (served, asked) = tokio::join!(serve, ask);
        asked?;
        served
    }

    #[tokio::test]
    async fn both_sides_prove_their_region_to_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let ours = authority();
        let west = issue(&ours, folder.path(), "eu-west").unwrap();
        let east = issue(&ours, folder.path(), "us-east").unwrap();
        assert_eq!(talk(&east, &west, "us-east").await, Ok(name("eu-west")));
        assert!(talk(&east, &west, "ap-south").await.is_err());
        let stranger = issue(&authority(), folder.path(), "us-east").unwrap();
        assert!(talk(&stranger, &west, "us-east").await.is_err());
        assert!(talk(&east, &stranger, "us-east").await.is_err());
    }

    #[test]
    fn an_identity_of_another_region_is_refused_at_load() {
        let folder = tempfile::tempdir().unwrap();
        issue(&authority(), folder.path(), "eu-west").unwrap();
        let [cert, key, ca] = ["c", "k", "ca"].map(|file| folder.path().join(file));
        let error = PeerIdentity::load(&name("us-east"), &cert, &key, &[ca]).unwrap_err().to_string();
        assert!(error.contains("is the certificate of region eu-west"), "{error}");
    }
}
