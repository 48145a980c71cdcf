//! Serving: requests reach upstreams with what the gateway adds, and operators see what happened.

use bytes::Bytes;
use http::Request;
use portolan_tests::client::{self, Client};
use portolan_tests::node::Node;
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};

use crate::one_region;

#[tokio::test]
async fn a_bundled_policy_serves_and_everything_tells_so() {
    let upstream = Upstream::start("web").await;
    let more = "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n[log]\naccess = \"stdout\"\n\
                [policy]\nuse = \"nearest-region\"\nconfig = { pool = \"web\" }\n";
    let node = Node::start(&one_region(&[&upstream], more)).await;

    let answer = client::get(node.public(), "acme.apps.test", "/orders?x=1").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("portolan-policy"), "nearest-region");
    assert_eq!(answer.header("portolan-generation"), "1");
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&told["name"], &told["path"]), (&json!("web"), &json!("/orders")));
    assert_eq!(told["headers"]["portolan-tenant"], "acme");
    assert_eq!(told["headers"]["portolan-region"], "here");
    assert_eq!(told["headers"]["x-forwarded-proto"], "http");

    let status = node.status().await;
    assert_eq!(status["configuration"]["slots"][0]["running"]["policy"], "nearest-region");
    assert_eq!(status["regions"][0]["pools"][0]["endpoints"][0]["up"], true);

    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    for line in ["portolan_generation 1", "portolan_policy_plans_total 1", "portolan_task_panics_total 0"] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    let mut families: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let count = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), count, "each family comes once");
    assert_eq!(node.ask_plain("GET", "/ready", Value::Null).await.unwrap().status, 200);

    until("the access log's line", async || node.stdout().contains("\"tenant\":\"acme\"")).await;
    let stdout = node.stdout();
    let line: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&line["status"], &line["rule"]), (&json!(200), &json!("local")));
    assert!(line["policy"].as_str().unwrap().starts_with("nearest-region@"), "{line}");

    let question = json!({ "method": "GET", "url": "http://acme.apps.test/orders" });
    let explanation = node.ask("POST", "/api/v1/explain", question).await.unwrap();
    assert_eq!(explanation["outcome"], "forward to web in here");
    assert_eq!(explanation["tenant"], "acme");
}

#[tokio::test]
async fn the_metrics_listener_shows_metrics_and_nothing_else() {
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "").replace("[expose]", "metrics = \"127.0.0.1:0\"\n[expose]");
    let node = Node::start(&text).await;
    let log = node.log();
    let line = log.lines().find(|line| line.contains("metrics")).unwrap();
    let address = line.split("address=").nth(1).unwrap().trim().parse().unwrap();
    assert!(client::get(address, "x", "/metrics").await.unwrap().text().contains("portolan_requests"));
    assert_eq!(client::get(address, "x", "/ready").await.unwrap().status, 200);
    assert_eq!(client::get(address, "x", "/status").await.unwrap().status, 404);
}

#[tokio::test]
async fn without_a_policy_the_hosts_own_rule_serves() {
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "")).await;
    let answer = client::get(node.public(), "anything", "/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("portolan-region")), (200, "here"));
}

#[tokio::test]
async fn a_websocket_passes_both_ways_and_bytes_after_it_are_not_read_as_http() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "")).await;
    let mut stream = tokio::net::TcpStream::connect(node.public()).await.unwrap();
    let head = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: websocket"), "{answer}");
    for message in
        [&b"\x81\x05hello"[..], b"GET /smuggled HTTP/1.1\r\nHost : broken\r\n\r\n", &[0, 255, 13, 10]]
    {
        stream.write_all(message).await.unwrap();
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message);
    }
    drop(stream);
    until("the tunnel ends", async || node.status().await["connections"] == 0).await;
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_tenant_is_recognised_by_its_clients_certificate() {
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "").replace("[expose]", "public_tls = [\"127.0.0.1:0\"]\n[expose]")
        + "[[tls.certificate]]\ncert = \"server.pem\"\nkey = \"server.key\"\n[tls.clients]\nca = [\"clients.pem\"]\nrequired = true\n\
           [tenants]\nsources = [{ client_certificate = \"spiffe://test/tenant/\" }]\nunrecognised = \"refuse\"\n";
    let folder = portolan_tests::node::folder(&text);
    let server = rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    for (name, text) in [
        ("server.pem", server.cert.pem()),
        ("server.key", server.signing_key.serialize_pem()),
        ("clients.pem", authority_pem),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let node = Node::start_in(folder).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.cert.der().clone()).unwrap();
    let identity = |uri: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.der().clone(), rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let get = |identity| client::get_tls(node.listener(1), "gateway.test", roots.clone(), identity);

    let (_, answer) = get(Some(identity("spiffe://test/tenant/acme"))).await.unwrap();
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (&told["headers"]["portolan-tenant"], &told["headers"]["x-forwarded-proto"]),
        (&json!("acme"), &json!("https"))
    );
    let (_, answer) = get(Some(identity("spiffe://test/machine/7"))).await.unwrap();
    assert_eq!(answer.status, 404, "a certificate that names no tenant");
    assert!(get(None).await.is_err(), "a client without a certificate");
}

#[tokio::test]
async fn an_upstream_of_http_1_0_is_answered_for_in_http_1_1() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    portolan_foundation::task::spawn("old-upstream", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4_096];
            let _count = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold").await.unwrap();
        }
    });
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "").replace(&upstream.address.to_string(), &address.to_string());
    let node = Node::start(&text).await;
    let mut stream = tokio::net::TcpStream::connect(node.public()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("old"), "{answer}");
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let upstream = Upstream::start_h2("grpc").await;
    let node = Node::start(&one_region(&[&upstream], "protocol = \"http2\"\n")).await;
    let mut sender = client::h2(node.public()).await.unwrap();
    let request = Request::post(format!("http://{}/grpc", node.public()))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(http_body_util::Full::new(Bytes::from_static(b"\0\0\0\0\x05hello")))
        .unwrap();
    let answer = client::Answer::read(sender.send_request(request).await.unwrap()).await.unwrap();
    assert_eq!(answer.body, Bytes::from_static(b"\0\0\0\0\x05hello"));
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_never_reaches_an_upstream() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "")).await;
    let attacks: [(&str, &[u8]); 12] = [
        (
            "length and chunks",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        ("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd"),
        ("a signed length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd"),
        ("hidden chunks", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n"),
        ("bare line feeds", b"GET / HTTP/1.1\nHost: a\n\n"),
        ("a folded line", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        ("a broken chunk", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfoo\r\n"),
        ("a NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
    ];
    for (name, attack) in attacks {
        let mut stream = tokio::net::TcpStream::connect(node.public()).await.unwrap();
        // What follows must not be taken for a second request.
        let mut bytes = attack.to_vec();
        bytes.extend(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        stream.read_to_end(&mut answer).await.ok();
        let text = String::from_utf8_lossy(&answer);
        let status: u16 = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        assert!(matches!(status, 400 | 501), "{name}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{name}: one answer and the end: {text}");
        assert!(text.contains("application/problem+json"), "{name}: {text}");
    }
    let mut client = Client::connect(node.public(), "a").await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    assert_eq!(upstream.requests(), 1, "nothing of all that reached the upstream");
}

/// Eight gRPC connections, all with the same work: however the kernel deals them out, no thread has much more to do than
/// another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_grpc_connections_are_spread_over_the_threads() {
    const CONNECTIONS: usize = 8;
    const REQUESTS: usize = 1_500;
    let upstream = Upstream::start_h2("grpc").await;
    let node = Node::start(&one_region(&[&upstream], "protocol = \"http2\"\n")).await;
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        senders.push(client::h2(node.public()).await.unwrap());
    }
    // A client's handshake is over before its connection was accepted.
    until("all connections are open", async || {
        per_thread(&node, "portolan_connections_open").await.iter().sum::<f64>() == CONNECTIONS as f64
    })
    .await;
    let before = per_thread(&node, "portolan_thread_cpu_seconds_total").await;
    let uri = format!("http://{}/grpc", node.public());
    let clients: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            let uri = uri.clone();
            portolan_foundation::task::spawn("grpc-client", async move {
                for _ in 0..REQUESTS {
                    let body = http_body_util::Full::new(Bytes::from_static(b"\0\0\0\0\x05hello"));
                    let request = Request::post(&uri).header("te", "trailers").body(body).unwrap();
                    client::Answer::read(sender.send_request(request).await.unwrap()).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap().expect("no client panics");
    }
    // The threads' own counters are a tenth of a second late.
    until("the threads have counted", async || {
        let used = per_thread(&node, "portolan_thread_cpu_seconds_total").await;
        let used: Vec<f64> = used.iter().zip(&before).map(|(after, before)| after - before).collect();
        let mean = used.iter().sum::<f64>() / used.len() as f64;
        mean > 0.05 && used.iter().all(|own| *own <= mean * 1.25)
    })
    .await;
}

/// The values of a metric that has one line for each data thread.
async fn per_thread(node: &Node, name: &str) -> Vec<f64> {
    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}
