//! One look at another region, by each of the ways that lead to it: the link between gateways, and the public way in, as clients go. Who looks, how
//! often, and what follows is somebody else's.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_core::ids::RegionName;
use portolan_foundation::tls::{self, PeerIdentity};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::probe::{GATEWAY_PATH, race};

/// Why a region was not reached by one way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// Somebody answers who cannot prove who it is.
    #[error("it does not prove who it is: {0}")]
    Identity(String),
    /// There is no connection.
    #[error("no connection: {0}")]
    Refused(String),
    /// It answers that it does not serve.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The connection broke, or what answers speaks another language.
    #[error("no answer: {0}")]
    Broken(String),
}

/// Looks over the link between gateways, at one of a region's, `host:port`.
///
/// # Errors
/// [`Unreached`].
///
/// # Cancel safety
/// Nothing is left behind: whoever waits no longer drops it.
pub async fn gateway(identity: &PeerIdentity, region: &RegionName, address: &str) -> Result<(), Unreached> {
    let config = identity.client_config(region).map_err(|error| Unreached::Identity(error.to_string()))?;
    let stream = connect(address).await?;
    // Not looked at: whoever answers proves the region.
    let stream = secure(config, "gateway.invalid", stream).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(format!("http://{address}{GATEWAY_PATH}"))
        .header(header::USER_AGENT, "portolan-probe")
        .body(Empty::<Bytes>::new())
        .map_err(broken)?;
    let asked = async { sender.send_request(request).await.map(|response| response.status()) };
    let status = race(asked, connection).await.map_err(broken)?;
    // A refusal is an answer: what is missing is a grant.
    if status.as_u16() < 500 { Ok(()) } else { Err(Unreached::Status(status)) }
}

/// Looks at the public way in, `http://HOST[:PORT]/PATH` or `https://…`. Authorities are the system's unless a file names them. What answers may
/// say anything but that it does not serve: a gateway whose application is broken is there.
///
/// # Errors
/// [`Unreached`].
///
/// # Cancel safety
/// Nothing is left behind.
pub async fn ingress(uri: &Uri, authorities: Option<&Path>) -> Result<(), Unreached> {
    let secured = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let stream = connect(&address).await?;
    if secured {
        let config = tls::upstream_config(authorities, b"http/1.1").map_err(broken)?;
        return request(uri, secure(config, host, stream).await?).await;
    }
    request(uri, stream).await
}

async fn connect(address: &str) -> Result<TcpStream, Unreached> {
    TcpStream::connect(address).await.map_err(|error| Unreached::Refused(error.to_string()))
}

async fn secure(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Unreached> {
    let name = ServerName::try_from(host.to_owned()).map_err(broken)?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        // What rustls says lies within what the socket says.
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(why)) => Unreached::Identity(format!("{why:?}")),
            Some(rustls::Error::AlertReceived(alert)) => Unreached::Identity(format!("{alert:?}")),
            _ => Unreached::Broken(error.to_string()),
        }
    })
}

async fn request<S>(uri: &Uri, stream: S) -> Result<(), Unreached>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "portolan-probe")
        .body(Empty::<Bytes>::new())
        .map_err(broken)?;
    let asked = async { sender.send_request(request).await.map(|response| response.status()) };
    let status = race(asked, connection).await.map_err(broken)?;
    let away = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    if away.contains(&status) { Err(Unreached::Status(status)) } else { Ok(()) }
}

fn broken(error: impl Error) -> Unreached {
    Unreached::Broken(Told(&error).to_string())
}

/// An error with what it came from.
struct Told<'e>(&'e dyn Error);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(source) => write!(f, ": {}", Told(source)),
            None => Ok(()),
        }
    }
}
