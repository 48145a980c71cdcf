//! Trailers in both directions and protocols, as gRPC needs them.

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Version};
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;

type Frames = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn frames(content: &'static str, trailers: HeaderMap) -> Frames {
    let content = Frame::data(Bytes::from(content));
    StreamBody::new(futures_util::stream::iter(vec![Ok(content), Ok(Frame::trailers(trailers))]))
}

fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// An upstream of HTTP/2 that answers with the content and trailers of the request, and some that are no trailers.
async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    task::spawn("upstream", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                if request.uri().path() == "/only" {
                    let mut response = Response::new(frames("", HeaderMap::new()));
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
                    return Ok::<_, Infallible>(response);
                }
                let asks = request.headers().get("te").cloned();
                let whole = request.into_body().collect().await.unwrap();
                let mut back = whole.trailers().cloned().unwrap_or_default();
                back.insert("grpc-status", HeaderValue::from_static("0"));
                back.insert("content-length", HeaderValue::from_static("7"));
                back.insert("portolan-tenant", HeaderValue::from_static("forged"));
                asks.into_iter().for_each(|te| _ = back.insert("asked", te));
                Ok(Response::new(frames("content", back)))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            task::spawn("upstream-connection", async move { drop(connection.await) });
        }
    });
    address
}

async fn ask(address: SocketAddr, path: &str, sent: HeaderMap) -> (Response<()>, Bytes, HeaderMap) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    task::spawn("client", async move { drop(connection.await) });
    let request = Request::post(format!("http://shop.example.com{path}"))
        .version(Version::HTTP_2)
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(frames("question", sent))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole.trailers().cloned().unwrap_or_default();
    (Response::from_parts(head, ()), whole.to_bytes(), trailers)
}

#[tokio::test]
async fn trailers_pass_over_http2_both_ways() {
    let pools = topology(&[("eu", &[mirror().await])], Protocol::Http2);
    let gateway = start(pools, Policies::default(), |_| {});
    let sent = trailers(&[("checksum", "abc"), ("portolan-shard", "forged"), ("host", "evil.example")]);
    let (head, content, back) = ask(gateway.address, "/", sent).await;
    assert_eq!((head.status(), content), (StatusCode::OK, Bytes::from("content")));
    assert_eq!(back, trailers(&[("checksum", "abc"), ("grpc-status", "0"), ("asked", "trailers")]));
}

#[tokio::test]
async fn an_answer_without_content_keeps_its_status() {
    let pools = topology(&[("eu", &[mirror().await])], Protocol::Http2);
    let gateway = start(pools, Policies::default(), |_| {});
    let (head, content, _) = ask(gateway.address, "/only", HeaderMap::new()).await;
    assert_eq!((head.headers()["grpc-status"].as_bytes(), content.len()), (b"5".as_slice(), 0));
}

/// An upstream of HTTP/1 that answers every connection with the same bytes, once the request is whole; gives what it was sent.
async fn raw(
    answer: &'static str,
    end: &'static str,
) -> (SocketAddr, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    task::spawn("upstream", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) && stream.read_buf(&mut seen).await.unwrap() > 0 {}
        tell.send(String::from_utf8_lossy(&seen).to_lowercase()).unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream.read_buf(&mut seen).await);
    });
    (address, told)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: checksum\r\n\r\n\
    7\r\ncontent\r\n0\r\nchecksum: abc\r\n\r\n";

#[tokio::test]
async fn trailers_pass_over_http1_both_ways_where_they_are_announced() {
    let (upstream, told) = raw(CHUNKED, "checksum: abc\r\n\r\n").await;
    let gateway = start(topology(&[("eu", &[upstream])], Protocol::Http1), Policies::default(), |_| {});
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE, close\r\n\
        Transfer-Encoding: chunked\r\nTrailer: checksum\r\n\r\n8\r\nquestion\r\n0\r\nchecksum: abc\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n0\r\nchecksum: abc\r\n\r\n"), "{answer}");
    let seen = told.await.unwrap();
    for field in ["te: trailers\r\n", "connection: te\r\n", "trailer: checksum\r\n"] {
        assert!(seen.contains(field), "{field} in {seen}");
    }
}

#[tokio::test]
async fn trailers_of_http1_reach_clients_of_http2() {
    let (upstream, _told) = raw(CHUNKED, "0\r\n\r\n").await;
    let gateway = start(topology(&[("eu", &[upstream])], Protocol::Http1), Policies::default(), |_| {});
    let (_, content, back) = ask(gateway.address, "/", HeaderMap::new()).await;
    assert_eq!((content, back), (Bytes::from("content"), trailers(&[("checksum", "abc")])));
}
