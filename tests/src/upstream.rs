//! An application behind the gateway: says who it is and what it was sent, and does what the path asks for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

/// A running application.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
    stop: Shutdown,
}

impl Upstream {
    /// Starts one that speaks HTTP/1.1.
    pub async fn start(name: &str) -> Self {
        Self::spawn(name, false, "127.0.0.1:0".parse().expect("an address")).await
    }

    /// Starts one that speaks HTTP/2 in cleartext.
    pub async fn start_h2(name: &str) -> Self {
        Self::spawn(name, true, "127.0.0.1:0".parse().expect("an address")).await
    }

    /// Starts one on a certain address, again.
    pub async fn start_at(name: &str, address: SocketAddr) -> Self {
        Self::spawn(name, false, address).await
    }

    /// How many requests it has seen.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Ends at once: its listener and all its connections.
    pub fn kill(&self) {
        self.stop.begin();
    }

    async fn spawn(name: &str, h2: bool, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port for an upstream");
        let address = listener.local_addr().expect("the upstream's address");
        let (requests, stop) = (Arc::new(AtomicU64::new(0)), Shutdown::new());
        let upstream = Self { address, requests: Arc::clone(&requests), stop: stop.clone() };
        let name: Arc<str> = name.into();
        task::spawn("upstream", async move {
            loop {
                let stream = tokio::select! {
                    () = stop.begun() => return,
                    accepted = listener.accept() => accepted.expect("an upstream's connection").0,
                };
                stream.set_nodelay(true).expect("an upstream's connection");
                let (name, requests, stop) = (Arc::clone(&name), Arc::clone(&requests), stop.clone());
                task::spawn("upstream-connection", async move {
                    let service = service_fn(|request| {
                        let before = requests.fetch_add(1, Ordering::Relaxed);
                        let name = Arc::clone(&name);
                        async move { Ok::<_, Infallible>(play(&name, before, request).await) }
                    });
                    let io = TokioIo::new(stream);
                    let serve = async {
                        if h2 {
                            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            http.serve_connection(io, service).await.ok();
                        } else {
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(io, service)
                                .with_upgrades()
                                .await
                                .ok();
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        () = stop.begun() => {}
                    }
                });
            }
        });
        upstream
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the path asks for: `/count` says how many bytes were sent, `/bytes/N` sends so many, `/trickle/N` sends so many
/// pieces slowly, `/grpc` answers with trailers, `/upgrade` echoes in another protocol; anything else is told back as JSON, below `/cacheable/` for
/// caches to keep, with its name for a tag, and below `/cacheable/lines/N/` N times the number of requests before.
async fn play(name: &str, before: u64, mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
    if path == "/count" {
        let mut body = request.into_body();
        let mut count = 0_u64;
        while let Some(Ok(frame)) = body.frame().await {
            count += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        return Response::new(whole(count.to_string()));
    }
    if let Some(bytes) = number("/bytes/") {
        return Response::new(pieces(bytes.div_ceil(PIECE), None, bytes));
    }
    if let Some(count) = number("/trickle/") {
        return Response::new(pieces(count, Some(std::time::Duration::from_millis(20)), u64::MAX));
    }
    if path == "/upgrade" {
        return upgrade(&mut request);
    }
    if path == "/grpc" {
        let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::new(sent).with_trailers(std::future::ready(Some(Ok(trailers))));
        let mut response = Response::new(body.boxed());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        return response;
    }
    let lines = path.strip_prefix("/cacheable/lines/").and_then(|rest| rest.split('/').next()?.parse().ok());
    if let Some(lines) = lines {
        let lines = format!("{before}\n").repeat(lines);
        let mut response = Response::new(whole(lines));
        response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
        return response;
    }
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let told = serde_json::json!({ "name": name, "method": request.method().as_str(), "path": path, "headers": headers });
    let mut response = Response::new(whole(told.to_string()));
    if path.starts_with("/cacheable/") {
        let fields = response.headers_mut();
        fields.insert("cache-control", HeaderValue::from_static("max-age=60"));
        fields.extend(
            HeaderValue::try_from(name)
                .ok()
                .map(|name| (http::header::HeaderName::from_static("surrogate-key"), name)),
        );
    }
    response
}

/// Agrees to the protocol that the request asks for, and then says back whatever it hears.
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let protocol =
        request.headers().get("upgrade").cloned().unwrap_or_else(|| HeaderValue::from_static("none"));
    let upgraded = hyper::upgrade::on(request);
    task::spawn("upstream-echo", async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut reader, &mut writer).await.ok();
        }
    });
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", protocol);
    response
}

const PIECE: u64 = 64 * 1024;

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}

/// A content that comes piece by piece.
struct Pieces(tokio::sync::mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

fn pieces(count: u64, pause: Option<std::time::Duration>, bytes: u64) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    task::spawn("upstream-pieces", async move {
        let piece = Bytes::from(vec![b'x'; PIECE as usize]);
        let mut left = bytes;
        for _ in 0..count {
            let size = left.min(if pause.is_some() { 100 } else { PIECE });
            left -= size;
            if sender.send(Frame::data(piece.slice(..size as usize))).await.is_err() {
                return;
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
    });
    Pieces(receiver).boxed()
}
