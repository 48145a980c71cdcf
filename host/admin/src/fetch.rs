//! Fetches a small document over HTTP, within limits of size and time; redirects are not followed.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Gets a document.
///
/// # Errors
/// What went wrong, in words.
pub(crate) async fn get(uri: &Uri, tls: &Arc<ClientConfig>, bytes_max: usize) -> Result<Bytes, String> {
    let host = uri.host().ok_or("the URL names no host")?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| format!("connect: {error}"))?;
    if secure {
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(uri, stream, bytes_max).await
    } else {
        exchange(uri, stream, bytes_max).await
    }
}

async fn exchange(
    uri: &Uri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    bytes_max: usize,
) -> Result<Bytes, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = task::spawn("admin-fetch", async move { connection.await.ok() });
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let request = Request::get(target)
        .header("host", authority)
        .header("accept", "application/json")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let content = Limited::new(response.into_body(), bytes_max).collect().await;
    connection.abort();
    content.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}
