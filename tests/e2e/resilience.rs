//! Resilience: upstreams die, nodes drain, certificates change, clients are slow, contents are large.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_tests::client::{self, Client};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::one_region;

/// Asks until told to stop; gives the number of answers, all of which must be good.
async fn load(address: SocketAddr, stop: Shutdown) -> u64 {
    let mut client = Client::connect(address, "a").await.unwrap();
    let mut count = 0;
    while !stop.is_begun() {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        count += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    count
}

#[tokio::test]
async fn an_upstream_killed_under_load_costs_no_request() {
    let (one, two) = (Upstream::start("one").await, Upstream::start("two").await);
    let node = Node::start(&one_region(&[&one, &two], "")).await;
    let stop = Shutdown::new();
    let loads: Vec<_> = (0..4).map(|_| task::spawn("load", load(node.public(), stop.clone()))).collect();
    until("load on both", async || one.requests() > 100 && two.requests() > 100).await;
    one.kill();
    let before = two.requests();
    until("the other takes over", async || two.requests() > before + 300).await;
    stop.begin();
    for load in loads {
        assert!(load.await.unwrap().is_some(), "no request failed");
    }
}

#[tokio::test]
async fn a_drain_lets_what_is_in_flight_end_and_takes_nothing_new() {
    let upstream = Upstream::start("web").await;
    let mut node = Node::start(&one_region(&[&upstream], "[limits]\ndrain = \"20s\"\n")).await;
    let address = node.public();
    let mut idle = Client::connect(address, "a").await.unwrap();
    idle.get("/").await.unwrap();
    // A response of some seconds that has begun.
    let slow = task::spawn("slow", async move { client::get(address, "a", "/trickle/100").await });
    until("the slow request has arrived", async || upstream.requests() == 2).await;
    node.signal(Signal::TERM);
    until("the node takes nothing new", async || TcpStream::connect(address).await.is_err()).await;
    let answer = slow.await.unwrap().unwrap().unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.body.len()),
        (200, 100 * 100),
        "what was in flight came whole"
    );
    assert_eq!(node.ended().await, 0, "{}", node.log());
    assert!(idle.get("/").await.is_err(), "idle connections were closed");
    assert!(!node.folder().join(".portolan/admin.sock").exists(), "the socket is gone");
}

/// A rolling restart: clients of a node that drains go on at another. What the first one took comes whole; what it did
/// not take, it never began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_breaks_no_answer() {
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "[limits]\ndrain = \"20s\"\n");
    let (mut first, second) = (Node::start(&text).await, Node::start(&text).await);
    let addresses = [first.public(), second.public()];
    let slow = task::spawn("slow", {
        let requests = (0..16).map(move |_| client::get(addresses[0], "a", "/trickle/50"));
        futures_util::future::join_all(requests)
    });
    until("the slow requests have arrived", async || upstream.requests() == 16).await;
    let stop = Shutdown::new();
    let moved = Arc::new(AtomicUsize::new(0));
    let kept = (0..8).map(|_| moving(addresses, false, Arc::clone(&moved), stop.clone()));
    let fresh = (0..8).map(|_| moving(addresses, true, Arc::clone(&moved), stop.clone()));
    let loads: Vec<_> = kept.chain(fresh).map(|load| task::spawn("load", load)).collect();
    until("load", async || upstream.requests() > 1_000).await;
    first.signal(Signal::TERM);
    for answer in slow.await.unwrap().unwrap() {
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 50 * 100), "it came whole");
    }
    until("all clients have moved", async || moved.load(Ordering::Relaxed) == 16).await;
    assert_eq!(first.ended().await, 0, "{}", first.log());
    stop.begin();
    for load in loads {
        load.await.unwrap().expect("no answer broke");
    }
}

/// Uploads and downloads until told to stop, with a connection each or with one kept; goes on at the second address once
/// the first takes nothing more.
async fn moving(addresses: [SocketAddr; 2], fresh: bool, moved: Arc<AtomicUsize>, stop: Shutdown) {
    let mut at = 0;
    let mut client: Option<Client> = None;
    for number in 0_usize.. {
        if stop.is_begun() {
            return;
        }
        let asked = async {
            let mut own = match client.take().filter(|_| !fresh) {
                Some(client) => client,
                None => Client::connect(addresses[at], "a").await?,
            };
            let body = Bytes::from(vec![b'u'; number % 3 * 10_000]);
            let answer = own.send(Request::post("/count"), body).await?;
            anyhow::Ok((own, answer))
        };
        match asked.await {
            Ok((own, answer)) => {
                assert_eq!((answer.status.as_u16(), answer.text()), (200, (number % 3 * 10_000).to_string()));
                client = Some(own);
            }
            Err(error) => {
                assert_ne!(error.to_string(), "read the answer", "an answer broke off");
                if at == 0 && TcpStream::connect(addresses[0]).await.is_err() {
                    at = 1;
                    moved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_is_read_again_when_its_file_changes() {
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&format!(
        "{}[[tls.certificate]]\ncert = \"certs/a.pem\"\nkey = \"certs/a.key\"\n",
        one_region(&[&upstream], "").replace("[expose]", "public_tls = [\"127.0.0.1:0\"]\n[expose]")
    ));
    std::fs::create_dir(folder.path().join("certs")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let certificates: Vec<_> = (0..2)
        .map(|_| rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap())
        .collect();
    for certificate in &certificates {
        roots.add(certificate.cert.der().clone()).unwrap();
    }
    let write = |folder: &std::path::Path, number: usize| {
        let certificate: &rcgen::CertifiedKey<rcgen::KeyPair> = &certificates[number];
        std::fs::write(folder.join("certs/a.key"), certificate.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("certs/a.pem"), certificate.cert.pem()).unwrap();
    };
    write(folder.path(), 0);
    let node = Node::start_in(folder).await;
    let address = node.listener(1);
    let (shown, answer) = client::get_tls(address, "gateway.test", roots.clone(), None).await.unwrap();
    assert_eq!((answer.status.as_u16(), &*shown), (200, certificates[0].cert.der().as_ref()));
    write(node.folder(), 1);
    until("the new certificate", async || {
        let (shown, _) = client::get_tls(address, "gateway.test", roots.clone(), None).await.unwrap();
        shown == certificates[1].cert.der().as_ref()
    })
    .await;
    // A broken one changes nothing, and is told.
    std::fs::write(node.folder().join("certs/a.pem"), "nonsense").unwrap();
    until("the problem", async || {
        node.status().await["configuration"]["problems"].to_string().contains("a.pem")
    })
    .await;
    client::get_tls(address, "gateway.test", roots, None).await.unwrap();
    // Nor does it keep a change of the configuration from taking effect, once.
    let generation = node.generation().await;
    node.write("conf.d/later.toml", "[tenant.later]\n");
    let generation = node.after(generation).await;
    node.signal(Signal::HUP);
    node.write("conf.d/last.toml", "[tenant.last]\n");
    assert_eq!(node.after(generation).await, generation + 1, "only what changed makes a generation");
}

#[tokio::test]
async fn a_slow_client_is_sent_away_and_holds_nobody_up() {
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "[limits]\nheader = \"300ms\"\n")).await;
    let mut slow = TcpStream::connect(node.public()).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.unwrap();
    let mut client = Client::connect(node.public(), "a").await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    let mut answer = Vec::new();
    let read = tokio::time::timeout(portolan_tests::PATIENCE, slow.read_to_end(&mut answer)).await;
    read.expect("the slow client is sent away").ok();
}

/// A gigabyte up and a gigabyte down, with a reader that is slow to begin: the gateway keeps none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_passes_in_bounded_memory() {
    const BYTES: u64 = 1 << 30;
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "")).await;
    client::get(node.public(), "a", "/").await.unwrap();
    let before = node.resident_bytes();

    let stream = TcpStream::connect(node.public()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn("client", async move { connection.await.ok() });
    let request = Request::get(format!("/bytes/{BYTES}")).header("host", "a");
    let response =
        sender.send_request(request.body(http_body_util::Full::<Bytes>::default()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    let mut peak = 0;
    let mut count = 0;
    tokio::time::sleep(Duration::from_millis(500)).await;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap_or_default();
        if count >> 26 != (count + data.len() as u64) >> 26 {
            peak = peak.max(node.resident_bytes());
        }
        count += data.len() as u64;
    }
    assert_eq!(count, BYTES);
    assert!(peak.saturating_sub(before) < 64 << 20, "{peak} bytes of memory, {before} before");

    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    let head =
        format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'u'; 1 << 20];
    let mut peak = 0;
    for sent in 0..(BYTES >> 20) {
        stream.write_all(&piece).await.unwrap();
        if sent % 64 == 0 {
            peak = peak.max(node.resident_bytes());
        }
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&BYTES.to_string()) || answer.contains(&BYTES.to_string()), "{answer}");
    assert!(peak.saturating_sub(before) < 64 << 20, "{peak} bytes of memory, {before} before");
}
