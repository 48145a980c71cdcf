//! Active health: probes endpoints of the local region and gateways of others, and writes what it finds into cells.
//!
//! What wakes it: time, and a new topology. What it reads: the running snapshot. What it writes: whether endpoints are up,
//! verdicts and latencies of regions. On failure of a probe: that is its result. Cells keep their state over reloads; a
//! new endpoint is believed to be up until its first probe says otherwise.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_core::backoff::jittered;
use portolan_core::facts::Verdict;
use portolan_core::health::Health;
use portolan_core::snapshot::Live;
use portolan_core::topology::{Endpoint, Pool, Probe, Protocol, Region, UpstreamTls};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::{self, PeerIdentity};
use portolan_foundation::{clock, random, task};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// How often the set of probed endpoints is compared with the topology.
const RECONCILE: Duration = Duration::from_millis(250);
/// While a state is about to change, probes come this many times faster (HAProxy's `fastinter`).
const FASTER: u32 = 4;
/// The path on the peer listener that answers whether a gateway is there. Any answer of HTTP will do: a grant is missing,
/// so it is a refusal.
pub(crate) const GATEWAY_PATH: &str = "/-/gateway";

/// The prober of one node.
#[derive(Debug)]
pub struct Prober {
    live: Arc<Live>,
    peer: Option<PeerIdentity>,
    changed: Arc<Notify>,
}

impl Prober {
    /// A prober over the running snapshot. `changed` is woken when a verdict or a shown latency of a region changed,
    /// because policies may have read it.
    #[must_use]
    pub const fn new(live: Arc<Live>, peer: Option<PeerIdentity>, changed: Arc<Notify>) -> Self {
        Self { live, peer, changed }
    }

    /// Probes until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let shared = Arc::new(self);
        // By the identity of the pool and endpoint as declared: a change of either starts a new loop.
        let mut running: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            let wanted = targets(&shared.live);
            running.retain(|key, stop| {
                let keep = wanted.contains_key(key);
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for (key, target) in wanted {
                running.entry(key).or_insert_with(|| {
                    let stop = CancellationToken::new();
                    task::spawn("probe", watch(Arc::clone(&shared), target, stop.clone()));
                    stop
                });
            }
            tokio::select! {
                () = shutdown.begun() => break,
                () = sleep(RECONCILE) => {}
            }
        }
        running.into_values().for_each(|stop| stop.cancel());
    }
}

/// One endpoint to probe.
struct Target {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    probe: Probe,
    /// The region that a gateway stands for, with all of its gateways.
    region: Option<Arc<Region>>,
}

fn targets(live: &Live) -> HashMap<String, Target> {
    let snapshot = live.load();
    let topology = &snapshot.topology;
    let mut targets = HashMap::new();
    for region in topology.regions.values() {
        let remote = region.name != topology.local;
        let gateways = region.gateways.iter().filter(|_| remote).map(|pool| (pool, true));
        let direct =
            region.pools.values().filter(|_| !remote || region.gateways.is_none()).map(|pool| (pool, false));
        for (pool, gateway) in gateways.chain(direct) {
            let Some(probe) = &pool.probe else { continue };
            for endpoint in &pool.endpoints {
                let key = format!(
                    "{} {} {} {:p} {:p} {:?} {:?}",
                    pool.region,
                    pool.name,
                    endpoint.authority,
                    Arc::as_ptr(&endpoint.cell),
                    Arc::as_ptr(&region.cell),
                    probe,
                    pool.protocol
                );
                let region = gateway.then(|| Arc::clone(region));
                let target = Target {
                    pool: Arc::clone(pool),
                    endpoint: Arc::clone(endpoint),
                    probe: probe.clone(),
                    region,
                };
                targets.insert(key, target);
            }
        }
    }
    targets
}

/// One endpoint's loop.
async fn watch(prober: Arc<Prober>, target: Target, stop: CancellationToken) {
    let mut health = Health::default();
    loop {
        let begun = clock::now();
        let asked = timeout(target.probe.timeout, ask(&prober, &target)).await;
        let took = clock::now().since(begun);
        let good = matches!(asked, Ok(Ok(())));
        if let Some(verdict) = health.observe(good, &target.probe) {
            report(&prober, &target, verdict, asked.unwrap_or_else(|_| Err("no answer in time".to_owned())));
        }
        if let Some(region) = target.region.as_ref().filter(|_| good)
            && region.cell.observe_latency(took)
        {
            prober.changed.notify_one();
        }
        let interval =
            if health.in_transition() { target.probe.interval / FASTER } else { target.probe.interval };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(jittered(interval, random::u64())) => {}
        }
    }
}

fn report(prober: &Prober, target: &Target, verdict: Verdict, result: Result<(), String>) {
    let up = verdict != Verdict::Down;
    let (endpoint, pool, region) = (&target.endpoint.authority, &target.pool.name, &target.pool.region);
    if target.endpoint.cell.is_up() != up {
        match &result {
            Ok(()) => tracing::info!(%endpoint, %pool, %region, "endpoint is up"),
            Err(reason) => tracing::warn!(%endpoint, %pool, %region, reason, "endpoint is down"),
        }
    }
    target.endpoint.cell.set_up(up);
    let Some(region) = &target.region else { return };
    // A region is as well as its best gateway.
    let gateways = region.gateways.iter().flat_map(|pool| &pool.endpoints);
    let any_up = gateways.clone().any(|endpoint| endpoint.cell.is_up());
    let alone = gateways.count() < 2;
    let verdict = match (any_up, verdict) {
        (false, _) => Verdict::Down,
        (true, Verdict::Suspect) if alone => Verdict::Suspect,
        (true, _) => Verdict::Healthy,
    };
    if region.cell.set_verdict(verdict, clock::now()) {
        tracing::info!(region = %region.name, verdict = verdict.as_str(), "the region's verdict changed");
        prober.changed.notify_one();
    }
}

async fn ask(prober: &Prober, target: &Target) -> Result<(), String> {
    let endpoint = &target.endpoint;
    let stream =
        TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(|error| error.to_string())?;
    let alpn: &[u8] = if target.pool.protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
    let config = match &target.pool.tls {
        None => return exchange(target, stream).await,
        Some(UpstreamTls::Peer) => {
            prober.peer.as_ref().ok_or("this node has no peer identity")?.client_config(&target.pool.region)
        }
        Some(UpstreamTls::Server { ca_file, .. }) => tls::upstream_config(ca_file.as_deref(), alpn),
    };
    let config = config.map_err(|error| error.to_string())?;
    let name = match &target.pool.tls {
        Some(UpstreamTls::Server { server_name: Some(name), .. }) => name.to_string(),
        _ => endpoint.host.to_string(),
    };
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(target, stream).await
}

async fn exchange<S>(target: &Target, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let path = if target.region.is_some() { GATEWAY_PATH } else { &target.probe.path };
    let builder = Request::get(path).header("user-agent", "portolan-probe");
    let body = Empty::<bytes::Bytes>::new();
    let status = match target.pool.protocol {
        Protocol::Http1 => {
            let request =
                builder.header("host", &*target.endpoint.authority).body(body).map_err(|e| e.to_string())?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
            let asked = async { sender.send_request(request).await.map(|response| response.status()) };
            race(asked, connection).await.map_err(text)?
        }
        Protocol::Http2 => {
            let uri = format!("http://{}{path}", target.endpoint.authority);
            let request = builder.uri(uri).body(body).map_err(|error| error.to_string())?;
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.map_err(text)?;
            let asked = async { sender.send_request(request).await.map(|response| response.status()) };
            race(asked, connection).await.map_err(text)?
        }
    };
    let good = if target.region.is_some() { status.as_u16() < 500 } else { status.is_success() };
    if good && status != StatusCode::SERVICE_UNAVAILABLE { Ok(()) } else { Err(format!("answered {status}")) }
}

/// Drives a connection until its one question is answered.
pub(crate) async fn race<T>(
    asked: impl Future<Output = Result<T, hyper::Error>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<T, hyper::Error> {
    let mut asked = std::pin::pin!(asked);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = asked.as_mut() => answer,
        ended = connection.as_mut() => {
            ended?;
            asked.await
        }
    }
}
