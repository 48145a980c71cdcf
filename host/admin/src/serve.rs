//! The listeners: connections, with who is at their other end, to the router.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{task, tls};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service as _;

use crate::api::Api;
use crate::authentic::Peer;
use crate::defaults::{
    ACCEPT_PAUSE, ANSWER_BYTES_MAX, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HEAD_BYTES_MAX, HEADER_TIMEOUT,
};
use crate::guard;
use crate::openapi::{PATH, routes};
use crate::problem::{Code, Problem};

/// Whose processes are let in over the Unix socket without a token: the node's own user, and root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The number of the node's user.
    pub owner: u32,
}

/// All routes behind the guard. Clones are the same.
#[derive(Clone, Debug)]
pub struct Router(axum::Router);

impl Router {
    /// The routes of an API.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self(router(api))
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> axum::Router {
        self.0.clone()
    }

    /// Asks from within the process, and gives the whole answer: for a command where no node runs.
    ///
    /// # Errors
    /// When the answer does not end, or is too large.
    pub async fn ask(&self, peer: Peer, request: Request<Bytes>) -> Result<Response<Bytes>, Problem> {
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(peer);
        let answered: Result<Response<Body>, Infallible> = self.0.clone().call(request).await;
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Problem::internal(format!("read an answer: {error}")))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

fn router(api: Api) -> axum::Router {
    let (router, description) = routes().finish();
    let description = Bytes::from(description.to_json().unwrap_or_default());
    let node = Arc::clone(&api.backends().node);
    let ready = move || {
        let is_ready = node.is_ready();
        async move {
            if is_ready {
                (StatusCode::OK, "ready\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
        }
    };
    let described = move || {
        let description = description.clone();
        async move { ([(CONTENT_TYPE, "application/json")], description) }
    };
    router
        .route(PATH, axum::routing::get(described))
        .route("/ready", axum::routing::get(ready))
        .fallback(|| async {
            Problem::not_found(format!("such path: {PATH} describes those that are there")).into_response()
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                Code::MethodNotAllowed,
                "this path has no such method: `Allow` names those that it has",
            )
            .into_response()
        })
        .layer(axum::middleware::from_fn_with_state(api.clone(), guard::pass))
        .with_state(api)
}

/// Answers on a Unix socket until the shutdown.
pub async fn serve_unix(router: Router, listener: UnixListener, admission: Admission, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // Both are cancel-safe.
        let accepted = tokio::select! {
            () = shutdown.begun() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let user = stream.peer_cred().map(|credentials| credentials.uid()).ok();
                let own = user.is_some_and(|user| user == admission.owner || user == 0);
                let peer = Peer::Unix { own, user: user.map_or_else(|| "unknown".to_owned(), user_name) };
                spawn(router.clone(), stream, peer, place);
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Answers over TCP until the shutdown, with TLS where there is a configuration for it.
pub async fn serve_tcp(
    router: Router,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    shutdown: Shutdown,
) {
    let Ok(local) = listener.local_addr() else { return };
    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // Both are cancel-safe.
        let accepted = tokio::select! {
            () = shutdown.begun() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Some(acceptor) = acceptor.clone() else {
            spawn(router.clone(), stream, Peer::Tcp { local, names: Vec::new() }, place);
            continue;
        };
        let router = router.clone();
        task::spawn("admin-handshake", async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let names = certificates.and_then(|chain| chain.first()).map(tls::names_of);
                    let peer = Peer::Tcp { local, names: names.unwrap_or_default() };
                    connection(router, stream, peer).await;
                }
                Ok(Err(error)) => tracing::debug!("admin handshake: {error}"),
                Err(_) => tracing::debug!("admin handshake: not done in time"),
            }
            drop(place);
        });
    }
}

fn spawn(
    router: Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    place: OwnedSemaphorePermit,
) {
    task::spawn("admin", async move {
        connection(router, stream, peer).await;
        drop(place);
    });
}

async fn connection(router: Router, stream: impl AsyncRead + AsyncWrite + Unpin + Send, peer: Peer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut router, peer) = (router.0.clone(), peer.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let answered: Result<Response<Body>, Infallible> = router.call(request).await;
            answered
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("admin connection: {error}");
    }
}

/// Out of files or memory: more accepts fail until some connection ends, and asking without pause would take a processor.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection on the admin side");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// What a user of this machine is called, with its number.
fn user_name(number: u32) -> String {
    const FILE: &str = "/etc/passwd";
    // Files of users are short; one that is not is not read.
    let short = std::fs::metadata(FILE).is_ok_and(|meta| meta.size() < 1024 * 1024);
    let text = if short { std::fs::read_to_string(FILE).unwrap_or_default() } else { String::new() };
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    format!("{} (uid {number})", name.as_deref().unwrap_or("unknown"))
}
