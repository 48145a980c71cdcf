//! An agent of SPIFFE's Workload API, as far as gateways ask one (SPIFFE Workload API, section 5.2.1: `FetchX509SVID`): it offers what lies in a folder, and
//! offers it again when it is told that there is something else.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_foundation::task;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An agent. It ends with this.
#[derive(Debug)]
pub struct Agent {
    news: watch::Sender<()>,
    serving: JoinHandle<Option<()>>,
}

impl Agent {
    /// Offers the identity of a region's gateway out of a folder that `portolan pki issue` has filled, at a socket.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn start(certs: PathBuf, region: &str, socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let news = watch::Sender::new(());
        let (told, region) = (news.subscribe(), region.to_owned());
        let serving = task::spawn("agent", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (certs, region, told) = (certs.clone(), region.clone(), told.clone());
                task::spawn("agent-connection", async move {
                    let answer = service_fn(move |request| {
                        let answered = answer(&request, &certs, &region, told.clone());
                        async move { Ok::<_, Infallible>(answered) }
                    });
                    drop(
                        http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), answer)
                            .await,
                    );
                });
            }
        });
        Self { news, serving }
    }

    /// There is another identity in the folder.
    pub fn offer(&self) {
        self.news.send_replace(());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(
    request: &Request<Incoming>,
    certs: &Path,
    region: &str,
    told: watch::Receiver<()>,
) -> Response<Body> {
    let refused = |code: &str| {
        let mut response = Response::new(Full::default().boxed_unsync());
        response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        response.headers_mut().insert("grpc-status", code.parse().expect("a value"));
        response
    };
    // Whoever does not say so may be somebody whom a page has made ask (section 6 of the SPIFFE Workload Endpoint).
    if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return refused("3");
    }
    if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
        return refused("12");
    }
    let (certs, region) = (certs.to_owned(), region.to_owned());
    let first = stream::once(std::future::ready(message(&offered(&certs, &region))));
    let next = stream::unfold(told, move |mut told| {
        let (certs, region) = (certs.clone(), region.clone());
        async move {
            told.changed().await.ok()?;
            Some((message(&offered(&certs, &region)), told))
        }
    });
    let frames = first.chain(next).map(|bytes| Ok(Frame::data(bytes)));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = frames.chain(stream::once(std::future::ready(Ok(Frame::trailers(trailers)))));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    response
}

/// `X509SVIDResponse`, with one identity.
fn offered(certs: &Path, region: &str) -> Vec<u8> {
    let file = |name: &str| certs.join(name);
    let der = |path: PathBuf| -> Vec<u8> {
        let all = CertificateDer::pem_file_iter(path).expect("a file");
        all.flat_map(|one| one.expect("a certificate").to_vec()).collect()
    };
    let chain = der(file(&format!("{region}.crt")));
    let key = PrivateKeyDer::from_pem_file(file(&format!("{region}.key"))).expect("a key");
    let id = id_of(&file(&format!("{region}.crt")));
    let svid = [
        field(1, id.as_bytes()),
        field(2, &chain),
        field(3, key.secret_der()),
        field(4, &der(file("ca.crt"))),
    ];
    field(1, &svid.concat())
}

fn id_of(cert: &Path) -> String {
    let leaf = CertificateDer::from_pem_file(cert).expect("a certificate");
    portolan_foundation::tls::uris_of(&leaf).pop().expect("a name")
}

/// A length-delimited field of Protocol Buffers.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(bytes);
    field
}

/// A message of gRPC, not compressed.
fn message(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).expect("a small message");
    [&[0][..], &length.to_be_bytes(), bytes].concat().into()
}
