//! The data plane through real sockets: clients on one side, small upstreams on the other, a snapshot made by hand.

mod bounds;
mod http1;
mod http2;
mod preamble;
mod preview;
mod rollout;
mod service;
mod steering;
mod trailers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_core::decide::{Call, Decide, FailRule, Undecided};
use portolan_core::endpoint::{EndpointCell, RegionCell};
use portolan_core::ids::{Digest, Generation, PolicyName, PoolName, RegionName, ResidencyName, TenantName};
use portolan_core::lane::Lane;
use portolan_core::plan::{ConditionText, Draft, Limits as PlanLimits};
use portolan_core::recording::{Captured, Class, Part, Record, compare, evaluate};
use portolan_core::snapshot::{Live, Policies, Policy, Snapshot};
use portolan_core::table::Table;
use portolan_core::tenant::{Source, Tenant, Tenants, Unrecognised};
use portolan_core::topology::{BreakerLimits, Endpoint, Pool, Protocol, Region, Topology};
use portolan_foundation::seal::SealKey;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    Config, Handle, Listener, ListenerKind, LiveSettings, Previewing, Proxy, Services, Settings, Trust,
};

fn region(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

/// An upstream that says who it is and what it was sent, and does what the path asks for.
async fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let failures = Arc::new(AtomicUsize::new(0));
    task::spawn("upstream", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let failures = Arc::clone(&failures);
            let service = service_fn(move |request| play(name, Arc::clone(&failures), request));
            task::spawn("upstream-connection", async move {
                serve(stream, service).await;
            });
        }
    });
    address
}

/// Serves HTTP/1 with upgrades, or HTTP/2 where the preface says so.
async fn serve<S, F>(mut stream: TcpStream, service: S)
where
    S: hyper::service::Service<
            Request<Incoming>,
            Response = Response<Full<Bytes>>,
            Error = std::convert::Infallible,
            Future = F,
        > + Send
        + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, std::convert::Infallible>> + Send + 'static,
{
    match crate::io::detect(&mut stream).await.unwrap() {
        crate::io::Spoken::Http1(before) => {
            let io = TokioIo::new(crate::io::Rewound { before, stream });
            drop(
                hyper::server::conn::http1::Builder::new()
                    .max_headers(200)
                    .serve_connection(io, service)
                    .with_upgrades()
                    .await,
            );
        }
        crate::io::Spoken::Http2(before) => {
            let io = TokioIo::new(crate::io::Rewound { before, stream });
            drop(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await,
            );
        }
    }
}

async fn play(
    name: &'static str,
    failures: Arc<AtomicUsize>,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let mut response = Response::new(Full::default());
    match request.uri().path() {
        "/echo" => match request.into_body().collect().await {
            Ok(content) => *response.body_mut() = Full::new(content.to_bytes()),
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        },
        "/large" => *response.body_mut() = Full::new(Bytes::from(vec![b'x'; 8 << 20])),
        "/fail-once" if name == "eu" && failures.fetch_add(1, Ordering::Relaxed) == 0 => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE
        }
        "/fail" => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        // As a gateway refuses that knows of another writer.
        "/-/data/refused" => {
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            response.headers_mut().insert("portolan-refused", "stale".parse().unwrap());
        }
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            task::spawn("echo", async move {
                let Ok(upgraded) = upgrade.await else { return };
                let mut io = TokioIo::new(upgraded);
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = io.read(&mut buffer).await {
                    io.write_all(&buffer[..read]).await.unwrap();
                }
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
        }
        _ => {
            let fields: BTreeMap<String, String> = request
                .headers()
                .iter()
                .map(|(field, value)| {
                    (field.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect();
            let seen = serde_json::json!({ "name": name, "path": request.uri().path(), "fields": fields });
            *response.body_mut() = Full::new(seen.to_string().into());
            response.headers_mut().insert("portolan-secret", "x".parse().unwrap());
            response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        }
    }
    Ok(response)
}

fn pool(place: &str, addresses: &[SocketAddr], protocol: Protocol) -> Arc<Pool> {
    let endpoint = |address: &SocketAddr| {
        Arc::new(Endpoint {
            authority: address.to_string().into(),
            host: address.ip().to_string().into(),
            port: address.port(),
            cell: Arc::new(EndpointCell::new(true)),
        })
    };
    Arc::new(Pool {
        name: PoolName::new("app").unwrap(),
        region: region(place),
        endpoints: addresses.iter().map(endpoint).collect(),
        gate: Arc::default(),
        protocol,
        tls: None,
        probe: None,
        breaker: BreakerLimits {
            failures: 3,
            pause_min: Duration::from_secs(60),
            pause_max: Duration::from_secs(60),
        },
        connections_max: 64,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(30),
        response_timeout: Duration::from_secs(10),
        stateless: false,
        token: false,
    })
}

fn topology(pools: &[(&str, &[SocketAddr])], protocol: Protocol) -> Topology {
    let place = |(name, addresses): &(&str, &[SocketAddr])| {
        let pools = BTreeMap::from([(PoolName::new("app").unwrap(), pool(name, addresses, protocol))]);
        let entry =
            Region { name: region(name), gateways: None, pools, cell: Arc::new(RegionCell::default()) };
        (region(name), Arc::new(entry))
    };
    let eu = ResidencyName::new("eu").unwrap();
    let bound = Tenant { residency: Some(eu.clone()), ..Tenant::default() };
    let moon = Tenant { residency: Some(ResidencyName::new("moon").unwrap()), ..Tenant::default() };
    Topology {
        directory: Arc::new(portolan_core::directory::Directory::empty()),
        local: region("eu"),
        latency_us: BTreeMap::new(),
        regions: pools.iter().map(place).collect(),
        residencies: BTreeMap::from([(eu, BTreeSet::from([region("eu")]))]),
        seed: 1,
        steering: Arc::default(),
        steering_limits: steering::LIMITS,
        tenants: Tenants {
            barred: HashMap::from([(
                TenantName::new("gone").unwrap(),
                portolan_core::tenant::Barred::Suspended,
            )]),
            known: HashMap::from([
                (TenantName::new("bound").unwrap(), bound),
                (TenantName::new("moon").unwrap(), moon),
            ]),
            sources: vec![Source::Header { name: "x-tenant".into() }],
            unrecognised: Unrecognised::Anonymous,
            known_only: false,
        },
    }
}

/// The topology without breakers: for upstreams that answer badly on purpose, next to each other.
fn unbroken(mut topology: Topology) -> Topology {
    for region in topology.regions.values_mut() {
        for pool in Arc::get_mut(region).unwrap().pools.values_mut() {
            Arc::get_mut(pool).unwrap().breaker.failures = u32::MAX;
        }
    }
    topology
}

/// Answers dynamic rules by a script: what the first declared value says.
#[derive(Debug)]
struct Script;

impl Decide for Script {
    fn decide(&self, call: &Call<'_>) -> Result<u32, Undecided> {
        match call.values.first().copied().flatten() {
            None => Ok(0),
            Some("trap") => Err(Undecided::Trapped),
            Some(text) => text.parse().map_err(|_| Undecided::OutOfRange),
        }
    }
}

fn policy(topology: &Topology, write: impl FnOnce(&mut Draft)) -> Policies {
    Policies { operator: Some(lane(topology, FailRule::Previous, write)), tenants: Arc::default() }
}

fn lane(topology: &Topology, on_fail: FailRule, write: impl FnOnce(&mut Draft)) -> Arc<Lane> {
    let facts = Arc::new(topology.facts(0));
    let mut draft = Draft::new(Arc::clone(&facts), PlanLimits::default());
    write(&mut draft);
    let policy = Policy {
        config: "{}".into(),
        facts,
        name: PolicyName::new("test").unwrap(),
        digest: Digest([1; 32]),
        table: Table::compile(draft.finish().unwrap().0),
        decider: Arc::new(Script),
        on_fail,
    };
    Arc::new(Lane::stable(Arc::new(policy)))
}

/// Decides everything again that a gateway has decided, and keeps what differs.
#[derive(Debug, Default)]
struct Again {
    decisions: AtomicU64,
    different: Mutex<Vec<Captured>>,
}

impl Record for Again {
    fn is_on(&self) -> bool {
        true
    }
    fn samples(&self, _: u64) -> bool {
        true
    }
    fn keeps_failures(&self) -> bool {
        true
    }
    fn shadows(&self, _: u64) -> bool {
        true
    }
    fn take(&self, captured: Captured) {
        self.decisions.fetch_add(1, Ordering::Relaxed);
        let same = |part: &Part| {
            let again = evaluate(&part.policy, part.decision.slot.clone(), &captured.picture);
            again == part.decision && compare(&part.decision, &again) == Class::Same
        };
        if captured.outcome.status == 0 || !captured.parts.iter().all(same) {
            self.different.lock().unwrap().push(captured);
        }
    }
}

struct Gateway {
    again: Arc<Again>,
    address: SocketAddr,
    handle: Handle,
    live: Arc<Live>,
    offered: Arc<preview::Offered>,
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.begin();
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
        let different = self.again.different.lock().unwrap();
        assert!(different.is_empty() || std::thread::panicking(), "decided again, it differs: {different:?}");
    }
}

fn listener(proxy_protocol: bool) -> Listener {
    Listener { address: "127.0.0.1:0".parse().unwrap(), kind: ListenerKind::Public, proxy_protocol }
}

fn start(topology: Topology, policies: Policies, change: impl FnOnce(&mut Settings)) -> Gateway {
    start_with(topology, policies, Services::default(), change)
}

fn start_with(
    topology: Topology,
    policies: Policies,
    services: Services,
    change: impl FnOnce(&mut Settings),
) -> Gateway {
    let live = Live::new(Snapshot { generation: Generation(1), topology: Arc::new(topology), policies });
    let mut settings =
        Settings { drain_timeout: Duration::from_secs(5), expose_decision: true, ..Settings::default() };
    change(&mut settings);
    let again = Arc::new(Again::default());
    let offered = Arc::new(preview::Offered::default());
    let config = Config {
        cache: None,
        services,
        debug: Some(SealKey::new([5; 32])),
        previews: Some(Previewing {
            key: SealKey::new([6; 32]),
            policies: Arc::<preview::Offered>::clone(&offered),
        }),
        recorder: Arc::<Again>::clone(&again),
        listeners: [false, true].map(listener).to_vec(),
        peer: None,
        settings: LiveSettings::new(settings).unwrap(),
        threads: NonZeroUsize::new(2).unwrap(),
    };
    let proxy = Proxy::bind(config, Arc::clone(&live)).unwrap();
    let handle = proxy.handle();
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    let thread = std::thread::spawn(move || proxy.run(&signal).unwrap());
    Gateway { again, address: handle.addresses()[0], handle, live, offered, shutdown, thread: Some(thread) }
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn("client", async move { drop(connection.await) });
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path).header("host", "shop.example.com")
}

fn empty(builder: http::request::Builder) -> Request<Full<Bytes>> {
    builder.body(Full::default()).unwrap()
}

fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap_or_else(|_| panic!("{response:?}"))
}

fn field<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn without_a_policy_the_local_pool_answers_and_headers_are_clean() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let request = get("/a?b=c")
        .header("x-tenant", "acme")
        .header("portolan-tenant", "forged")
        .header("portolan-grant", "v1;forged")
        .header("x-forwarded-for", "6.6.6.6")
        .header("connection", "x-private")
        .header("x-private", "secret")
        .header("te", "trailers, gzip");
    let response = send(gateway.address, empty(request)).await;
    assert_eq!(response.status(), 200);
    let seen = json(&response);
    assert_eq!(seen["name"], "eu");
    let fields = &seen["fields"];
    assert_eq!(fields["portolan-tenant"], "acme");
    assert_eq!(fields["portolan-region"], "eu");
    assert_eq!(fields["x-forwarded-for"], "127.0.0.1");
    assert_eq!(fields["x-forwarded-host"], "shop.example.com");
    assert_eq!(fields["te"], "trailers");
    assert_eq!(fields["via"], "1.1 portolan");
    assert_eq!(fields["cdn-loop"], "portolan");
    assert!(fields["traceparent"].as_str().unwrap().starts_with("00-"));
    for gone in ["x-private", "portolan-grant", "portolan-attempt"] {
        assert!(fields.get(gone).is_none(), "{gone} went upstream");
    }
    assert_eq!(field(&response, "portolan-generation"), Some("1"));
    assert_eq!(field(&response, "portolan-region"), Some("eu"));
    assert_eq!(field(&response, "x-request-id"), fields["x-request-id"].as_str());
    for gone in ["portolan-secret", "keep-alive"] {
        assert!(field(&response, gone).is_none(), "{gone} went downstream");
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_its_chain_kept() {
    let eu = upstream("eu").await;
    let trust = Trust { proxies: vec!["127.0.0.0/8".parse().unwrap()], ..Trust::default() };
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |settings| {
        settings.trust = trust
    });
    let request =
        get("/").header("x-forwarded-for", "6.6.6.6, 203.0.113.7").header("x-forwarded-proto", "https");
    let fields = json(&send(gateway.address, empty(request)).await)["fields"].clone();
    assert_eq!(fields["x-forwarded-for"], "6.6.6.6, 203.0.113.7, 127.0.0.1");
    assert_eq!(fields["x-forwarded-proto"], "https");
}

#[tokio::test]
async fn rules_choose_edit_rewrite_redirect_and_answer() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    let when = |attribute: &str, test: &str, value: &str| ConditionText {
        attribute: attribute.into(),
        test: test.into(),
        value: value.into(),
    };
    let policies = policy(&topology, |draft| {
        let far = draft.forward("us", "app").unwrap().0;
        draft.set_answer(far, "header.set:x-added", "yes").unwrap();
        draft.set_answer(far, "response.header.set:x-back", "too").unwrap();
        draft.set_answer(far, "path.rewrite", "/old=>/new").unwrap();
        let near = draft.forward("eu", "app").unwrap().0;
        let moved = draft.redirect(308, "https://{host}/there{query}").unwrap().0;
        let stop = draft.respond(403, "text/plain", "no").unwrap().0;
        draft.split(&[when("path", "prefix", "/old")], &[(far, 1)], &[]).unwrap();
        draft.split(&[when("path", "is", "/moved")], &[(moved, 1)], &[]).unwrap();
        draft.split(&[when("cookie:blocked", "present", "")], &[(stop, 1)], &[]).unwrap();
        draft.dynamic(&[when("path", "is", "/ask")], &["header:x-choice".into()], &[near, far]).unwrap();
    });
    let gateway = start(topology, policies, |_| {});
    let old = send(gateway.address, empty(get("/old/x"))).await;
    let seen = json(&old);
    assert_eq!(
        (&seen["name"], &seen["path"], &seen["fields"]["x-added"]),
        (&"us".into(), &"/new/x".into(), &"yes".into())
    );
    assert_eq!(field(&old, "x-back"), Some("too"));
    assert_eq!(field(&old, "portolan-policy"), Some("test"));
    let moved = send(gateway.address, empty(get("/moved?q=1"))).await;
    assert_eq!(
        (moved.status().as_u16(), field(&moved, "location")),
        (308, Some("https://shop.example.com/there?q=1"))
    );
    let blocked = send(gateway.address, empty(get("/").header("cookie", "a=b; blocked=1"))).await;
    assert_eq!((blocked.status().as_u16(), &blocked.body()[..]), (403, &b"no"[..]));
    for (choice, expected) in [("1", "us"), ("0", "eu"), ("trap", "eu"), ("9", "eu")] {
        let seen = json(&send(gateway.address, empty(get("/ask").header("x-choice", choice))).await);
        assert_eq!(seen["name"], expected, "choice {choice}");
    }
    let opaque = send(gateway.address, empty(get("/ask").header("x-choice", &b"\xff"[..]))).await;
    assert_eq!(opaque.status(), 400);
    assert_eq!(
        json(&send(gateway.address, empty(get("/else"))).await)["name"],
        "eu",
        "no rule: the host's own"
    );
    assert!(gateway.handle.metrics().render().contains("portolan_undecided_total{reason=\"trapped\"} 1"));
    assert!(gateway.again.decisions.load(Ordering::Relaxed) > 3, "each was decided again when it was taken");
}

#[tokio::test]
async fn only_a_signed_word_is_told_the_decisions_id() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let word = |key: u8| SealKey::new([key; 32]).seal(crate::DEBUG_USE, None, u64::MAX);
    for (word, told) in [(word(5), true), (word(6), false), ("nonsense".to_owned(), false)] {
        let answer = send(gateway.address, empty(get("/").header("portolan-debug", &word))).await;
        assert_eq!(answer.headers().contains_key("portolan-decision"), told, "{word}");
        assert!(json(&answer)["fields"].get("portolan-debug").is_none(), "the upstream never sees it");
    }
}

#[tokio::test]
async fn residency_holds_whatever_the_policy_says() {
    let (eu, us) = (upstream("eu").await, upstream("us").await);
    let topology = topology(&[("eu", &[eu]), ("us", &[us])], Protocol::Http1);
    let policies = policy(&topology, |draft| {
        let far = draft.forward("us", "app").unwrap().0;
        let near = draft.forward("eu", "app").unwrap().0;
        draft.split(&[], &[(far, 1)], &[near]).unwrap();
    });
    let gateway = start(topology, policies, |_| {});
    let ask = |tenant: &str| send(gateway.address, empty(get("/").header("x-tenant", tenant)));
    assert_eq!(json(&ask("free").await)["name"], "us");
    assert_eq!(json(&ask("bound").await)["name"], "eu");
    let nowhere = ask("moon").await;
    assert_eq!(nowhere.status(), 451);
    assert_eq!(field(&nowhere, "content-type"), Some("application/problem+json"));
    assert_eq!(json(&nowhere)["type"], "urn:portolan:problem:no-allowed-region");
    let suspended = ask("gone").await;
    assert_eq!(suspended.status(), 403);
    assert_eq!(json(&suspended)["type"], "urn:portolan:problem:suspended");
}

#[tokio::test]
async fn a_dead_endpoint_is_retried_elsewhere() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let alive = upstream("alive").await;
    let topology = topology(&[("eu", &[dead, alive])], Protocol::Http1);
    let cells: Vec<_> =
        topology.pool(&region("eu"), &PoolName::new("app").unwrap()).unwrap().endpoints.clone();
    let gateway = start(topology, Policies::default(), |_| {});
    for _ in 0..40 {
        let response = send(gateway.address, empty(get("/"))).await;
        assert_eq!(response.status(), 200, "{response:?}");
        let attempt = json(&response)["fields"]["portolan-attempt"].as_str().unwrap_or("1").to_owned();
        assert_eq!(field(&response, "portolan-attempts").unwrap_or("1"), attempt, "a retry is announced");
    }
    assert!(!cells[1].cell.is_broken());
    assert_eq!(cells[0].cell.in_flight() + cells[1].cell.in_flight(), 0);
}

#[tokio::test]
async fn failures_in_a_row_open_the_breaker() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = start(topology(&[("eu", &[dead])], Protocol::Http1), Policies::default(), |_| {});
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(send(gateway.address, empty(get("/"))).await.status().as_u16());
    }
    assert_eq!(statuses, [502, 502, 502, 503, 503]);
    assert!(gateway.handle.metrics().render().contains("portolan_breakers_opened_total 1"));
}

#[tokio::test]
async fn failures_of_upstreams_are_repeated_only_where_that_is_safe() {
    // One server behind two endpoints: whichever is drawn first meets the failure.
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu, eu])], Protocol::Http1), Policies::default(), |_| {});
    let post = Request::post("/fail").header("host", "a").body(Full::from("x")).unwrap();
    assert_eq!(send(gateway.address, post).await.status(), 503);
    assert_eq!(gateway.handle.metrics().retries(), 0, "a POST is not repeated");
    assert_eq!(send(gateway.address, empty(get("/fail-once"))).await.status(), 200);
    assert!(gateway.handle.metrics().retries() > 0);
    let put = Request::put("/echo").header("host", "a").body(Full::from("kept")).unwrap();
    assert_eq!(&send(gateway.address, put).await.body()[..], b"kept");
}

#[tokio::test]
async fn contents_stream_both_ways_and_large_ones_are_bounded() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |settings| {
        settings.limits.body_bytes_max = Some(4 << 20);
    });
    let large = Bytes::from(vec![b'y'; 3 << 20]);
    let post = Request::post("/echo").header("host", "a").body(Full::new(large.clone())).unwrap();
    assert_eq!(send(gateway.address, post).await.body(), &large);
    assert_eq!(send(gateway.address, empty(get("/large"))).await.body().len(), 8 << 20);
    let post =
        Request::post("/echo").header("host", "a").body(Full::<Bytes>::from(vec![b'y'; 5 << 20])).unwrap();
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn("client", async move { drop(connection.await) });
    if let Ok(response) = sender.send_request(post).await {
        assert_eq!(response.status(), 413);
    }
}

#[tokio::test]
async fn ambiguous_framing_is_answered_and_closed() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    for (raw, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\nHost: a\n\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "405"),
    ] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(raw.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "the connection stays open after {raw:?}");
        assert_eq!(answer.get(9..12), Some(status), "{raw:?} got {answer:?}");
    }
    assert!(gateway.handle.metrics().refused() >= 8);
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = vec![0; 1_024];
    let mut head = String::new();
    while !head.contains("\r\n\r\n") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed after {head:?}");
        head.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: echo"), "{head}");
    stream.write_all(b"not\nHTTP\0at all").await.unwrap();
    let mut back = [0; 15];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"not\nHTTP\0at all");
}

#[tokio::test]
async fn http2_passes_on_both_sides() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http2), Policies::default(), |_| {});
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    task::spawn("client", async move { drop(connection.await) });
    let mut answers = Vec::new();
    for number in 0..20 {
        let mut sender = sender.clone();
        let uri = format!("http://shop.example.com/{number}");
        answers.push(task::spawn("request", async move {
            let response =
                sender.send_request(Request::get(uri).body(Full::<Bytes>::default()).unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        }));
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let seen: serde_json::Value = serde_json::from_slice(&answer.await.unwrap().unwrap()).unwrap();
        assert_eq!(seen["path"], format!("/{number}"));
    }
    let mut sender = sender;
    let clash =
        Request::get("http://shop.example.com/").header("host", "other").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(clash).await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_request_keeps_its_generation_and_the_next_one_has_the_new() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    for generation in 2..30 {
        let running = gateway.live.load();
        let (topology, policies) = (Arc::clone(&running.topology), running.policies.clone());
        gateway.live.swap(Snapshot { generation: Generation(generation), topology, policies });
        let response = send(gateway.address, empty(get("/"))).await;
        assert_eq!(field(&response, "portolan-generation"), Some(generation.to_string().as_str()));
    }
}

#[tokio::test]
async fn loops_end() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let request = get("/").header("cdn-loop", "portolan, other; a=b").header("cdn-loop", "portolan,portolan");
    assert_eq!(send(gateway.address, empty(request)).await.status(), 508);
}

#[tokio::test]
async fn what_is_in_flight_ends_before_the_gateway_does() {
    let eu = upstream("eu").await;
    let mut gateway = start(topology(&[("eu", &[eu])], Protocol::Http1), Policies::default(), |_| {});
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    while gateway.handle.connections() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.shutdown.begin();
    stream.write_all(b"world").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("helloworld"), "{answer}");
    gateway.thread.take().unwrap().join().unwrap();
    assert!(TcpStream::connect(gateway.address).await.is_err());
}

#[tokio::test]
async fn eight_long_connections_spread_evenly_over_the_threads() {
    let eu = upstream("eu").await;
    let gateway = start(topology(&[("eu", &[eu])], Protocol::Http2), Policies::default(), |_| {});
    let mut held = Vec::new();
    for _ in 0..8 {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        task::spawn("client", async move { drop(connection.await) });
        let request = Request::get("http://a/").body(Full::<Bytes>::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        held.push(sender);
    }
    let open = gateway.handle.metrics().connections_open();
    assert!(open.iter().all(|&count| (3..=5).contains(&count)), "{open:?}");
}
