//! The identity of a gateway on links between regions: mutual TLS 1.3, with domain, region and gateway in the certificate.
//!
//! Certificate, key and authorities are taken together or not at all, and count from the next handshake on. A connection that stands
//! ends when the certificate of its other end does, or when the authority behind that is believed no more ([`PeerIdentity::guard`]).

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_core::ids::RegionName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::spiffe::{GatewayId, validity_of};
use super::{Error, authorities, believe, chain, file_error, key, provider};
use crate::clock;

/// From one look at the end of a certificate to the next: clocks may be put right meanwhile.
const LOOK: Duration = Duration::from_mins(10);

/// The region that a certificate proves.
///
/// # Errors
/// [`Error::NoGateway`] when it names none, or a name that is none.
pub fn peer_region(certificate: &CertificateDer<'_>) -> Result<RegionName, Error> {
    GatewayId::of(certificate).map(|id| id.region().clone())
}

/// A node's own identity, and the authorities that it believes about others'. Clones share it.
#[derive(Clone, Debug)]
pub struct PeerIdentity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    loaded: watch::Sender<Arc<Loaded>>,
    origin: Origin,
    region: RegionName,
}

/// Where an identity comes from.
#[derive(Debug)]
enum Origin {
    /// Files that are read again.
    Files { ca: Vec<PathBuf>, cert: PathBuf, key: PathBuf },
    /// Somebody who offers the next before the last ends, at this socket.
    Offers(PathBuf),
}

/// An identity that somebody else than files has: who issues it offers another before it ends.
#[derive(Debug)]
pub struct Offer {
    /// Whom to believe about others.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The gateway's certificate and those between it and an authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// What is used until there is another.
#[derive(Debug)]
struct Loaded {
    clients: Arc<dyn ClientCertVerifier>,
    /// Why nobody will believe it, if so.
    flaw: Option<String>,
    id: GatewayId,
    own: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    /// How many own certificates there were before.
    serial: u64,
    validity: (i64, i64),
}

/// What is told of a node's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// How many authorities are believed.
    pub authorities: usize,
    /// Why nobody will believe it, if so.
    pub flaw: Option<String>,
    /// Whose it is.
    pub id: String,
    /// The second since 1970 after which it is not valid.
    pub not_after: i64,
    /// The second since 1970 before which it is not.
    pub not_before: i64,
}

impl PeerIdentity {
    /// Reads certificate, key and authorities, all PEM. One that is not valid now is taken all the same, so that the node serves its own
    /// region; [`Self::status`] says so.
    ///
    /// # Errors
    /// The file that is bad; or a certificate for another region than `region`.
    pub fn load(region: &RegionName, cert: &Path, key: &Path, ca: &[PathBuf]) -> Result<Self, Error> {
        let loaded = Loaded::read(region, cert, key, ca)?;
        let (ca, cert, key) = (ca.to_vec(), cert.to_owned(), key.to_owned());
        Ok(Self::new(region, loaded, Origin::Files { ca, cert, key }))
    }

    /// The first identity that is offered at a socket. [`Self::renew`] takes the next.
    ///
    /// # Errors
    /// As [`Self::load`] has them, with the socket in the files' place.
    pub fn offered(region: &RegionName, offer: Offer, socket: &Path) -> Result<Self, Error> {
        let loaded = Loaded::offered(region, offer, socket)?;
        Ok(Self::new(region, loaded, Origin::Offers(socket.to_owned())))
    }

    fn new(region: &RegionName, loaded: Loaded, origin: Origin) -> Self {
        if let Some(flaw) = &loaded.flaw {
            tracing::error!(
                "other regions will not believe this gateway: {}: {flaw}",
                origin.path().display()
            );
        }
        Self(Arc::new(Inner { loaded: watch::Sender::new(Arc::new(loaded)), origin, region: region.clone() }))
    }

    /// Reads all files again. What is offered comes by itself.
    ///
    /// # Errors
    /// The file that is bad, the certificate of another region, or one that nobody would believe now; then the old certificate stays. Whom
    /// this node believes is what the files say all the same.
    pub fn reload(&self) -> Result<(), Error> {
        let Origin::Files { ca, cert, key } = &self.0.origin else { return Ok(()) };
        self.take(Loaded::read(&self.0.region, cert, key, ca)?)
    }

    /// Takes the next identity that is offered.
    ///
    /// # Errors
    /// As [`Self::reload`] has them.
    pub fn renew(&self, offer: Offer) -> Result<(), Error> {
        self.take(Loaded::offered(&self.0.region, offer, self.0.origin.path())?)
    }

    fn take(&self, mut next: Loaded) -> Result<(), Error> {
        let Inner { loaded, origin, .. } = &*self.0;
        let flaw = next.flaw.clone();
        loaded.send_if_modified(|now| {
            if flaw.is_some() {
                (next.own, next.id) = (Arc::clone(&now.own), now.id.clone());
                (next.validity, next.flaw) = (now.validity, now.flaw.clone());
            }
            next.serial = now.serial + u64::from(next.own.cert != now.own.cert);
            let changed = !now.is(&next);
            *now = Arc::new(next);
            changed
        });
        flaw.map_or(Ok(()), |flaw| Err(file_error(origin.path(), flaw)))
    }

    /// What is used now.
    #[must_use]
    pub fn status(&self) -> PeerStatus {
        let loaded = self.0.now();
        let (not_before, not_after) = loaded.validity;
        let ended = not_after < now().as_secs().cast_signed();
        let ended = ended.then(|| format!("its certificate has ended: {}", self.0.origin.help()));
        let (authorities, id) = (loaded.roots.len(), loaded.id.to_string());
        PeerStatus { authorities, flaw: loaded.flaw.clone().or(ended), id, not_after, not_before }
    }

    /// The folders to watch for changes.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let Origin::Files { ca, cert, key } = &self.0.origin else { return Vec::new() };
        let mut folders: Vec<PathBuf> =
            ca.iter().chain([cert, key]).filter_map(|file| file.parent()).map(Into::into).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The configuration of the peer listener.
    ///
    /// # Errors
    /// When rustls refuses TLS 1.3 alone.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Clients(Arc::clone(&self.0))))
            .with_cert_resolver(Arc::clone(&self.0) as _);
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
        let verifier = Servers { inner: Arc::clone(&self.0), region: region.clone() };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.0) as _);
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// How many certificates were shown before the present one. A connection that was made under another number is used for nothing new, so
    /// that nobody is cut off in the middle when those who signed the last are believed no more.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.0.loaded.borrow().serial
    }

    /// Waits until another certificate is shown than now.
    pub fn replaced(&self) -> impl Future<Output = ()> + use<> {
        let (mut loaded, serial) = (self.0.loaded.subscribe(), self.serial());
        async move {
            if loaded.wait_for(|loaded| loaded.serial != serial).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// A connection that ends when the certificate of its other end does, or is believed no more. `peer` is the chain that it showed.
    pub fn guard<S>(&self, stream: S, peer: Option<&[CertificateDer<'_>]>) -> Guarded<S> {
        let chain: Vec<CertificateDer<'static>> =
            peer.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        Guarded { over: Box::pin(over(self.0.loaded.subscribe(), chain)), stream }
    }
}

impl Inner {
    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.borrow())
    }
}

impl Origin {
    /// What has the certificate.
    fn path(&self) -> &Path {
        match self {
            Self::Files { cert, .. } => cert,
            Self::Offers(socket) => socket,
        }
    }

    /// How there comes to be another.
    const fn help(&self) -> &'static str {
        match self {
            Self::Files { .. } => "`portolan pki issue` makes another",
            Self::Offers(_) => "look whether the agent at the socket runs, and has an entry for this gateway",
        }
    }
}

impl Loaded {
    fn read(region: &RegionName, cert: &Path, key_file: &Path, ca: &[PathBuf]) -> Result<Self, Error> {
        let own = CertifiedKey::from_der(chain(cert)?, key(key_file)?, &provider()).map_err(|error| {
            file_error(key_file, format!("{error}; it must be the key of {}", cert.display()))
        })?;
        let help = "`portolan pki issue` makes another, and `ca` names the authorities that are believed";
        Self::of(region, (own, cert), authorities(ca)?, help)
    }

    fn offered(region: &RegionName, offer: Offer, socket: &Path) -> Result<Self, Error> {
        let Offer { authorities, chain, key } = offer;
        let own = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| file_error(socket, format!("what is offered cannot be used: {error}")))?;
        let mut roots = RootCertStore::empty();
        believe(&mut roots, authorities, socket)?;
        let help = "look at the agent's entry for this gateway, and at the bundle of its trust domain";
        Self::of(region, (own, socket), roots, help)
    }

    fn of(
        region: &RegionName,
        (own, cert): (CertifiedKey, &Path),
        roots: RootCertStore,
        help: &str,
    ) -> Result<Self, Error> {
        let leaf = own.end_entity_cert()?;
        let id = GatewayId::of(leaf).map_err(|error| file_error(cert, error))?;
        if id.region() != region {
            let why = format!("is the certificate of region {}, but this node is in {region}", id.region());
            return Err(file_error(cert, why));
        }
        let (roots, validity) = (Arc::new(roots), validity_of(leaf)?);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?;
        let (first, rest) = own.cert.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let as_client = clients.verify_client_cert(first, rest, now()).map(drop);
        let flaw = verify(&own.cert, &roots, now()).and(as_client).err();
        let flaw = flaw.map(|error| format!("{error}: {help}"));
        Ok(Self { clients, flaw, id, own: Arc::new(own), roots, serial: 0, validity })
    }

    fn is(&self, other: &Self) -> bool {
        self.own.cert == other.own.cert && self.roots.roots == other.roots.roots && self.flaw == other.flaw
    }

    /// Does an authority vouch for the other end, whichever side it is?
    fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let as_client = |(leaf, rest): (&CertificateDer<'_>, &[CertificateDer<'_>])| {
            self.clients.verify_client_cert(leaf, rest, now()).is_ok()
        };
        verify(chain, &self.roots, now()).is_ok() || chain.split_first().is_some_and(as_client)
    }

    /// Is the other end a gateway of the same domain?
    fn knows(&self, certificate: &CertificateDer<'_>) -> Result<GatewayId, rustls::Error> {
        let other = GatewayId::of(certificate).ok().filter(|id| id.domain() == self.id.domain());
        other.ok_or(rustls::Error::InvalidCertificate(CertificateError::NotValidForName))
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock::unix_ms()))
}

/// Does an authority vouch for a chain?
fn verify(chain: &[CertificateDer<'_>], roots: &RootCertStore, now: UnixTime) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf)?,
        roots,
        intermediates,
        now,
        algorithms,
    )
}

/// Waits until a chain is not to be believed any more.
async fn over(mut loaded: watch::Receiver<Arc<Loaded>>, chain: Vec<CertificateDer<'static>>) {
    loop {
        let believed = Arc::clone(&loaded.borrow_and_update());
        if !believed.believes(&chain) {
            return;
        }
        let validity = chain.first().and_then(|leaf| validity_of(leaf).ok());
        let left = validity.map_or(0, |(_, end)| end.saturating_sub(now().as_secs().cast_signed()));
        let left = Duration::from_secs(left.max(0).unsigned_abs().saturating_add(1)).min(LOOK);
        tokio::select! {
            // Cancel-safe: a change that was not seen is still marked. Whoever is gone changes nothing any more.
            changed = loaded.changed() => if changed.is_err() { tokio::time::sleep(left).await },
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// A connection to another region, as [`PeerIdentity::guard`] says.
pub struct Guarded<S> {
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    stream: S,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guarded").field(&self.stream).finish()
    }
}

impl<S> Guarded<S> {
    fn poll_over(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        match self.over.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // It is asked once more when the connection is closed.
                self.over = Box::pin(std::future::ready(()));
                Err(std::io::Error::new(
                    std::io::ErrorKind::ConnectionAborted,
                    "the certificate of the other end is not believed any more",
                ))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.poll_over(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.poll_over(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.poll_over(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now().own))
    }
}

impl ResolvesClientCert for Inner {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.now().own))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts gateways of the domain that an authority vouches for.
#[derive(Debug)]
struct Clients(Arc<Inner>);

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever asks has one certificate: nothing is to be chosen.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let loaded = self.0.now();
        let verified = loaded.clients.verify_client_cert(end_entity, intermediates, now)?;
        loaded.knows(end_entity).map(|_| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts a server that an authority vouches for as a gateway of the region. DNS names play no part: addresses of
/// gateways may be anything.
#[derive(Debug)]
struct Servers {
    inner: Arc<Inner>,
    region: RegionName,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let loaded = self.inner.now();
        let chain = [std::slice::from_ref(end_entity), intermediates].concat();
        verify(&chain, &loaded.roots, now)?;
        match loaded.knows(end_entity)? {
            id if *id.region() == self.region => Ok(ServerCertVerified::assertion()),
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
