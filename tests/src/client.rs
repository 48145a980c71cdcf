//! Clients: one HTTP/1.1 or HTTP/2 connection each, over TCP or TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_foundation::task;
use tokio::net::TcpStream;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its content.
    pub body: Bytes,
    /// Its trailer fields.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header field as text; empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Reads a response to its end.
    ///
    /// # Errors
    /// When the content breaks off.
    pub async fn read(response: http::Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.context("read the answer")?;
        let trailers = collected.trailers().cloned();
        Ok(Self { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    /// Connects; `host` is what the Host field says.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr, host: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("send at once")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("start HTTP/1.1")?;
        task::spawn("client", async move { connection.await.ok() });
        Ok(Self { sender, host: host.to_owned() })
    }

    /// Speaks to another host from now on, over the same connection.
    pub fn host(&mut self, host: &str) {
        host.clone_into(&mut self.host);
    }

    /// GETs a path.
    ///
    /// # Errors
    /// When the connection or the answer breaks off.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::get(path), Bytes::new()).await
    }

    /// Sends a request; Host is added.
    ///
    /// # Errors
    /// When the connection or the answer breaks off.
    pub async fn send(&mut self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        let request =
            request.header("host", &self.host).body(Full::new(body)).context("write the request")?;
        self.sender.ready().await.context("wait for the connection")?;
        Answer::read(self.sender.send_request(request).await.context("send the request")?).await
    }
}

/// GETs a path over a new connection.
///
/// # Errors
/// When nobody listens, or the answer breaks off.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    Client::connect(address, host).await?.get(path).await
}

/// An HTTP/2 connection in cleartext, by prior knowledge.
///
/// # Errors
/// When nobody listens or the handshake fails.
pub async fn h2(address: SocketAddr) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("send at once")?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.context("start HTTP/2")?;
    task::spawn("client", async move { connection.await.ok() });
    Ok(sender)
}

/// A client's certificate with its key, both DER.
pub type Identity = (rustls::pki_types::CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>);

/// The certificate that a TLS listener shows for a name, and its answer to a GET. `identity` is shown to the listener.
///
/// # Errors
/// When the handshake fails: the certificate must be signed by one of `roots`.
pub async fn get_tls(
    address: SocketAddr,
    name: &str,
    roots: rustls::RootCertStore,
    identity: Option<Identity>,
) -> anyhow::Result<(Vec<u8>, Answer)> {
    get_tls_at(address, name, "/", roots, identity).await
}

/// The same at a path.
///
/// # Errors
/// As [`get_tls`].
pub async fn get_tls_at(
    address: SocketAddr,
    name: &str,
    path: &str,
    roots: rustls::RootCertStore,
    identity: Option<Identity>,
) -> anyhow::Result<(Vec<u8>, Answer)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key)?,
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let server = rustls::pki_types::ServerName::try_from(name.to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    task::spawn("client", async move { connection.await.ok() });
    let request = Request::get(path).header("host", name).body(Full::<Bytes>::default())?;
    Ok((certificate, Answer::read(sender.send_request(request).await?).await?))
}
