//! What a node tells: the admin API's view of it, and `/metrics` and `/ready` on an address of the operator's choice.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_admin::backend::{
    DecisionFilter, Node, Preview, PreviewOrder, Question as Asked, Tail, TailFilter, TenantSide, Untold,
};
use portolan_admin::{Code, Problem};
use portolan_control::Health;
use portolan_core::ids::TenantName;
use portolan_core::snapshot::Live;
use portolan_core::topology::{Pool, Region, Topology};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::{CertificateStore, PeerIdentity};
use portolan_foundation::{clock, task};
use portolan_policy::Engine;
use portolan_proxy::{Explanation, Handle, LiveSettings, Question, TapFilter};
use portolan_recorder::Recorder;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::contents::Contents;
use super::dns::Dns;
use super::failover::Failover;
use super::intent::{Control, Intent};
use super::moves::Moves;
use super::previews::Previews;
use super::reconcile::Report;
use super::recordings;
use super::rollouts::{self, Rollouts};
use super::shards::Shards;
use super::status::{EndpointStatus, PoolStatus, RegionStatus, Status};
use crate::placement::Placing;

/// Time for a question's head.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From one failed accept to the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Questions at the same time; more wait.
const CONNECTIONS_MAX: usize = 64;

/// What the admin listener looks at.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// Where the admin API listens on TCP.
    pub(crate) address: Option<std::net::SocketAddr>,
    pub(crate) begun: Instant,
    pub(crate) cache: Option<portolan_cache::Cache>,
    pub(crate) certificates: Option<Arc<CertificateStore>>,
    pub(crate) contents: Contents,
    pub(crate) dns: Dns,
    pub(crate) engine: Engine,
    pub(crate) failover: Failover,
    pub(crate) intent: Intent,
    /// Where the node listens: public, TLS, peer, replication.
    pub(crate) listeners: Vec<String>,
    pub(crate) live: Arc<Live>,
    pub(crate) moves: Moves,
    pub(crate) name: String,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) previews: Previews,
    pub(crate) proxy: Handle,
    pub(crate) recorder: Recorder,
    pub(crate) report: Report,
    pub(crate) rollouts: Rollouts,
    pub(crate) placing: Placing,
    pub(crate) shards: Shards,
    pub(crate) settings: Arc<LiveSettings>,
    pub(crate) shutdown: Shutdown,
    pub(crate) usage: super::usage::Shared,
}

impl Admin {
    /// Answers metrics and readiness over TCP, also while the node drains.
    pub(crate) async fn serve_metrics(self, listener: tokio::net::TcpListener) {
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    task::spawn("metrics", async move {
                        admin.connection(stream).await;
                        drop(place);
                    });
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request)) });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("metrics connection: {error}");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => text("text/plain; version=0.0.4", StatusCode::OK, self.counted()),
            (&Method::GET, "/ready") if self.shutdown.is_begun() => {
                text("text/plain", StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            (&Method::GET, "/ready") => match self.lacks() {
                Some(reason) => text("text/plain", StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
                None => text("text/plain", StatusCode::OK, "ready\n"),
            },
            _ => text("text/plain", StatusCode::NOT_FOUND, "there are /metrics and /ready\n"),
        }
    }

    /// What the node still fetches before others should count on it.
    fn lacks(&self) -> Option<String> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).waits_for.clone()
    }

    fn stands(&self) -> Value {
        let snapshot = self.live.load();
        let topology = &snapshot.topology;
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let certificates = self.certificates.iter().flat_map(|store| store.status());
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            region: topology.local.to_string(),
            generation: snapshot.generation.0,
            uptime_s: self.begun.elapsed().as_secs(),
            admin: self.address.map(|address| address.to_string()),
            draining: self.shutdown.is_begun(),
            listeners: self.listeners.clone(),
            connections: self.proxy.connections(),
            task_panics: task::panics(),
            configuration: &report,
            control: self.intent.control(report.running, report.applied_after_ms),
            nodes: self.intent.nodes(),
            rollouts: self.rollouts.status(&self.name),
            engine: self.engine.stats(),
            thread_shares: self.engine.thread_shares(),
            tenants: super::tenancy::standings(&self.engine),
            recordings: self.recorder.stats(),
            placement: self.placing.report(),
            shards: self.shards.reports(clock::now()),
            content: self.contents.report(),
            regions: topology
                .regions
                .values()
                .map(|region| region_status(topology, region, region.name == topology.local))
                .collect(),
            certificates: certificates
                .map(|status| serde_json::json!({ "names": status.names, "not_after": status.not_after }))
                .collect(),
            dns: self.dns.status(),
            identity: self.peer.as_ref().map(|peer| {
                let status = peer.status();
                serde_json::json!({
                    "authorities": status.authorities, "id": status.id, "not_before": status.not_before, "not_after": status.not_after, "problem": status.flaw,
                })
            }),
        };
        serde_json::to_value(status).unwrap_or_default()
    }

    fn counted(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.proxy.metrics().render();
        let stats = self.engine.stats();
        let snapshot = self.live.load();
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = report.slots.iter().filter(|slot| slot.refused.is_some()).count();
        let problems = report.problems.len();
        let control = self.intent.control(report.running, report.applied_after_ms);
        let glass = report.break_glass.clone();
        drop(report);
        let recorder = self.recorder.stats();
        let rows: [(&str, &str, &str, u64); 23] = [
            ("recordings_kept_total", "counter", "Decisions that were kept.", recorder.kept),
            (
                "recordings_dropped_total",
                "counter",
                "Decisions that found no place in the queue to be kept.",
                recorder.dropped,
            ),
            (
                "recordings_disk_failures_total",
                "counter",
                "Failures to write decisions to disk.",
                recorder.disk_failures,
            ),
            (
                "shadow_dropped_total",
                "counter",
                "Decisions that candidates in the shadow were not asked about.",
                recorder.shadow_dropped,
            ),
            ("generation", "gauge", "Number of the running generation.", snapshot.generation.0),
            ("configuration_problems", "gauge", "Problems of the configuration on disk.", problems as u64),
            ("policy_slots_refused", "gauge", "Slots whose wanted policy is refused.", refused as u64),
            ("policy_plans_total", "counter", "Calls of guests' plan.", stats.plans),
            ("policy_compiles_total", "counter", "Compilations of components.", stats.compiles),
            (
                "policy_cache_hits_total",
                "counter",
                "Components whose code came from the cache.",
                stats.cache_hits,
            ),
            (
                "policy_cache_rejects_total",
                "counter",
                "Cache entries that were damaged.",
                stats.cache_rejects,
            ),
            (
                "policy_refused_total",
                "counter",
                "Refusals of components, configurations and plans.",
                stats.refused,
            ),
            ("policy_traps_total", "counter", "Guests' calls that trapped.", stats.traps),
            (
                "policy_overruns_total",
                "counter",
                "Guests' calls past their fuel or deadline.",
                stats.overruns,
            ),
            ("policy_busy_total", "counter", "Questions that found no time or instance.", stats.busy),
            (
                "policy_out_of_range_total",
                "counter",
                "Answers that their rule does not have.",
                stats.out_of_range,
            ),
            ("policy_impure_total", "counter", "Deciders found to be no pure functions.", stats.impure),
            ("policy_evictions_total", "counter", "Warm instances that left for others.", stats.evictions),
            (
                "policy_log_lines_dropped_total",
                "counter",
                "Guests' log lines that were dropped.",
                stats.log_lines_dropped,
            ),
            (
                "policy_previews",
                "gauge",
                "Versions that are planned for requests with a signed word.",
                self.previews.count(),
            ),
            ("policy_warm_instances", "gauge", "Warm instances.", stats.warm_instances),
            ("policy_warm_bytes", "gauge", "Bytes of their memories.", stats.warm_bytes),
            (
                "access_log_lines_dropped_total",
                "counter",
                "Lines that found no place.",
                self.settings.log_lines_dropped(),
            ),
        ];
        super::tenancy::render(&self.engine, &glass, &mut text);
        let connected = |control: &Control| control.health == Some(Health::Connected);
        let control = control.iter().flat_map(|control| {
            [
                ("control_running", "gauge", "Generation of the control store that runs.", control.running),
                ("control_wanted", "gauge", "Newest generation of the control store.", control.wanted),
                ("control_connected", "gauge", "Does the store answer?", u64::from(connected(control))),
                (
                    "control_applied_after_ms",
                    "gauge",
                    "Milliseconds from when the running generation was written to when it took effect here.",
                    control.applied_after_ms.unwrap_or(0),
                ),
            ]
        });
        for (name, kind, help, value) in rows.into_iter().chain(control) {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "# HELP portolan_{name} {help}\n# TYPE portolan_{name} {kind}\nportolan_{name} {value}"
            )
            .ok();
        }
        rollouts::metrics(&mut text, &self.rollouts.status(&self.name));
        super::shards::metrics(&mut text, &self.shards.reports(clock::now()));
        self.shards.follower_metrics(&mut text);
        super::replication::metrics(&mut text, &self.shards.feeds());
        self.contents.metrics(&mut text);
        self.moves.metrics(&mut text);
        self.failover.metrics(&mut text);
        self.dns.metrics(&mut text);
        super::cache::metrics(&mut text, self.cache.as_ref());
        if let Some(peer) = &self.peer {
            let (name, until) = ("portolan_peer_certificate_not_after_seconds", peer.status().not_after);
            let help = "When this gateway's certificate for other regions ends, in seconds since 1970.";
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {until}\n"));
        }
        text
    }
}

#[async_trait]
impl Node for Admin {
    fn status(&self) -> Result<Value, Problem> {
        Ok(self.stands())
    }

    fn metrics(&self) -> Result<String, Problem> {
        Ok(self.counted())
    }

    fn is_ready(&self) -> bool {
        !self.shutdown.is_begun()
    }

    fn nodes(&self) -> Result<Vec<Value>, Problem> {
        let nodes = self.intent.nodes().into_iter().map(serde_json::to_value);
        nodes.collect::<Result<_, _>>().map_err(Problem::internal)
    }

    fn shards(&self) -> Result<Vec<Value>, Problem> {
        Ok(self.shards.list(&self.live.load().topology))
    }

    fn place(&self, tenant: &TenantName) -> Result<Option<Value>, Problem> {
        Ok(super::shards::place(&self.live.load().topology, tenant))
    }

    async fn explain(&self, asked: Asked) -> Result<Value, Problem> {
        let question = question(asked)?;
        let (live, trust) = (Arc::clone(&self.live), self.settings.trust());
        // A dynamic rule asks its policy, which may take its time.
        let thought =
            tokio::task::spawn_blocking(move || Explanation::of(&live.load(), &trust, question)).await;
        let thought = thought.map_err(|error| Problem::internal(format!("explain a request: {error}")))?;
        let explanation = thought.map_err(Problem::invalid)?;
        serde_json::to_value(explanation).map_err(Problem::internal)
    }

    fn tenant(&self, tenant: &TenantName, side: TenantSide) -> Result<Option<Value>, Problem> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        super::tenancy::side(&self.engine, &report.slots, tenant, side).map_err(Problem::internal)
    }

    async fn usage(&self, since_ms: u64, by_hour: bool) -> Result<Vec<Value>, Problem> {
        let meter = Arc::clone(&self.usage);
        let rows = tokio::task::spawn_blocking(move || {
            meter.lock().unwrap_or_else(PoisonError::into_inner).export(since_ms, by_hour)
        });
        let rows = rows.await.map_err(|error| Problem::internal(format!("read the usage: {error}")))?;
        let rows = rows.map_err(|error| Problem::internal(format!("read the usage: {error}")))?;
        rows.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(Problem::internal)
    }

    async fn decisions(&self, wanted: DecisionFilter) -> Result<Vec<Value>, Problem> {
        recordings::decisions(&self.recorder, wanted)
    }

    async fn decision(&self, id: String, tenant: Option<TenantName>) -> Result<Value, Problem> {
        let (recorder, live) = (self.recorder.clone(), Arc::clone(&self.live));
        // The disk may have to be read, and policies are asked.
        let found =
            tokio::task::spawn_blocking(move || recordings::decision(&recorder, &live, &id, tenant.as_ref()));
        let found =
            found.await.map_err(|error| Problem::internal(format!("look for a decision: {error}")))?;
        found.map_err(|error| Problem::new(Code::NotFound, format!("{error:#}")))
    }

    async fn preview(&self, order: PreviewOrder) -> Result<Preview, Problem> {
        self.previews.order(order).await
    }

    fn recordings(&self) -> Result<Value, Problem> {
        let segments = self.recorder.segments();
        Ok(serde_json::json!({ "stats": self.recorder.stats(), "segments": segments }))
    }

    fn tail(&self, filter: TailFilter) -> Result<Tail, Problem> {
        let TailFilter { tenant, status, method, policy, path, permille } = filter;
        let tap = self.proxy.listen(TapFilter { tenant, status, method, policy, path, permille });
        Ok(Tail { lines: tap.lines, place: Box::new(tap.place), untold: Arc::new(Counts(tap.untold)) })
    }
}

/// What a listener was not told, as the admin API sees it.
#[derive(Debug)]
struct Counts(Arc<portolan_proxy::Untold>);

impl Untold for Counts {
    fn sampled(&self) -> u64 {
        self.0.sampled()
    }

    fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

/// The question in the data plane's words.
pub(crate) fn question(asked: Asked) -> Result<Question, Problem> {
    let at = |pointer: &str, detail: String| Problem::invalid(&*detail).at(pointer, detail.clone());
    let mut headers = HeaderMap::new();
    for (place, (name, value)) in asked.headers.iter().enumerate() {
        let pointer = format!("/headers/{place}");
        let read = HeaderName::try_from(name.as_str());
        let name = read.map_err(|_| at(&pointer, format!("`{name}` is no name of a header")))?;
        let read = HeaderValue::try_from(value.as_str());
        let value = read.map_err(|_| at(&pointer, format!("`{value}` is no value of a header")))?;
        headers.append(name, value);
    }
    let uri = asked.url.parse::<Uri>();
    let method = asked.method.parse();
    let tenant = asked.tenant.as_deref().map(TenantName::new).transpose();
    Ok(Question {
        method: method.map_err(|_| at("/method", format!("`{}` is no method", asked.method)))?,
        uri: uri.map_err(|error| at("/url", format!("`{}` is no URL: {error}", asked.url)))?,
        headers,
        client: asked.client.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        tenant: tenant.map_err(|error| at("/tenant", error.to_string()))?,
        near: asked.near,
    })
}

/// Out of files or memory: more accepts fail until some connection ends, and asking without pause would take a processor.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection for metrics");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn region_status(topology: &Topology, region: &Region, local: bool) -> RegionStatus {
    let traffic = topology.steering.load();
    let here = if local { 100 } else { region.cell.share(topology.steering_limits.ramp, clock::now()) };
    let broken = region.pools.values().chain(&region.gateways).filter(|pool| pool.gate.is_open());
    let pools = region.pools.values().chain(&region.gateways).filter(|pool| !pool.endpoints.is_empty());
    RegionStatus {
        name: region.name.to_string(),
        local,
        verdict: region.cell.verdict().as_str().to_owned(),
        latency_us: region.cell.latency_us(),
        share_percent: traffic.share(&region.name) * here / 100,
        moved_to: traffic.target(&region.name).map(ToString::to_string),
        broken: broken.map(|pool| pool.name.to_string()).collect(),
        pools: pools.map(|pool| pool_status(pool)).collect(),
    }
}

fn pool_status(pool: &Pool) -> PoolStatus {
    let endpoints = pool.endpoints.iter().map(|endpoint| EndpointStatus {
        address: endpoint.authority.to_string(),
        up: endpoint.cell.is_up(),
        broken: endpoint.cell.is_broken(),
        in_flight: endpoint.cell.in_flight(),
    });
    PoolStatus { name: pool.name.to_string(), endpoints: endpoints.collect() }
}

pub(super) fn text(kind: &'static str, status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
