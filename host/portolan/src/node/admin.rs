//! What a node tells and who may ask: everything on a Unix socket that only the node's user can open, `/metrics` and
//! `/ready` on an address of the operator's choice.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_control::Health;
use portolan_core::ids::TenantName;
use portolan_core::snapshot::Live;
use portolan_core::topology::{Pool, Region};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_foundation::tls::CertificateStore;
use portolan_policy::Engine;
use portolan_proxy::{Explanation, Handle, LiveSettings, Question};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::intent::{Control, Intent};
use super::reconcile::Report;
use super::status::{EndpointStatus, PoolStatus, RegionStatus, Status};

/// Questions are small.
const QUESTION_BYTES_MAX: usize = 256 * 1024;
/// Time for a question's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From one failed accept to the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Questions at the same time; more wait.
const CONNECTIONS_MAX: usize = 64;

/// What the admin listener looks at.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) begun: Instant,
    pub(crate) certificates: Option<Arc<CertificateStore>>,
    pub(crate) engine: Engine,
    pub(crate) intent: Intent,
    pub(crate) live: Arc<Live>,
    pub(crate) proxy: Handle,
    pub(crate) report: Report,
    pub(crate) settings: Arc<LiveSettings>,
    pub(crate) shutdown: Shutdown,
}

/// The body of a question to `/explain`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Explain {
    pub(crate) method: String,
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) tenant: Option<String>,
    pub(crate) near: Option<String>,
}

impl Admin {
    /// Answers on the Unix socket until the shutdown.
    pub(crate) async fn serve_unix(self, listener: tokio::net::UnixListener) {
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            tokio::select! {
                () = self.shutdown.begun() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let admin = self.clone();
                        task::spawn("admin", async move {
                            admin.connection(stream, true).await;
                            drop(place);
                        });
                    }
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }

    /// Answers metrics and readiness over TCP, also while the node drains.
    pub(crate) async fn serve_metrics(self, listener: tokio::net::TcpListener) {
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    task::spawn("metrics", async move {
                        admin.connection(stream, false).await;
                        drop(place);
                    });
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send, all: bool) {
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request, all).await) });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!("admin connection: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>, all: bool) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/metrics") => text("text/plain; version=0.0.4", StatusCode::OK, self.metrics()),
            (&Method::GET, "/ready") if self.shutdown.is_begun() => {
                text("text/plain", StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            (&Method::GET, "/ready") => text("text/plain", StatusCode::OK, "ready\n"),
            (&Method::GET, "/status") if all => json(StatusCode::OK, &self.status()),
            (&Method::POST, "/explain") if all => match self.explain(request).await {
                Ok(explanation) => json(StatusCode::OK, &explanation),
                Err(reason) => json(StatusCode::BAD_REQUEST, &serde_json::json!({ "error": reason })),
            },
            _ => text("text/plain", StatusCode::NOT_FOUND, "there are /metrics and /ready\n"),
        }
    }

    fn status(&self) -> serde_json::Value {
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
            draining: self.shutdown.is_begun(),
            listeners: self.proxy.addresses().iter().map(ToString::to_string).collect(),
            connections: self.proxy.connections(),
            task_panics: task::panics(),
            configuration: &report,
            control: self.intent.control(report.running),
            nodes: self.intent.nodes(),
            engine: self.engine.stats(),
            regions: topology
                .regions
                .values()
                .map(|region| region_status(region, region.name == topology.local))
                .collect(),
            certificates: certificates
                .map(|status| serde_json::json!({ "names": status.names, "not_after": status.not_after }))
                .collect(),
        };
        serde_json::to_value(status).unwrap_or_default()
    }

    async fn explain(&self, request: Request<Incoming>) -> Result<Explanation, String> {
        let body = Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("read the question: {error}"))?.to_bytes();
        let question: Explain =
            serde_json::from_slice(&body).map_err(|error| format!("read the question: {error}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &question.headers {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| format!("`{name}` is no name of a header"))?;
            let value = HeaderValue::try_from(value.as_str())
                .map_err(|_| format!("`{value}` is no value of a header"))?;
            headers.append(name, value);
        }
        let uri: Uri =
            question.url.parse().map_err(|error| format!("`{}` is no URL: {error}", question.url))?;
        let tenant = question.tenant.as_deref().map(TenantName::new).transpose();
        let question = Question {
            method: question.method.parse().map_err(|_| format!("`{}` is no method", question.method))?,
            uri,
            headers,
            client: question.client.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            tenant: tenant.map_err(|error| error.to_string())?,
            near: question.near,
        };
        let (live, trust) = (Arc::clone(&self.live), self.settings.trust());
        // A dynamic rule asks its policy, which may take its time.
        let thought = tokio::task::spawn_blocking(move || Explanation::of(&live.load(), &trust, question));
        thought.await.map_err(|_| "the host failed over this question; please report it".to_owned())?
    }

    fn metrics(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.proxy.metrics().render();
        let stats = self.engine.stats();
        let snapshot = self.live.load();
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = report.slots.iter().filter(|slot| slot.refused.is_some()).count();
        let problems = report.problems.len();
        let control = self.intent.control(report.running);
        drop(report);
        let rows: [(&str, &str, &str, u64); 18] = [
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
            ("policy_warm_instances", "gauge", "Warm instances.", stats.warm_instances),
            ("policy_warm_bytes", "gauge", "Bytes of their memories.", stats.warm_bytes),
            (
                "access_log_lines_dropped_total",
                "counter",
                "Lines that found no place.",
                self.settings.log_lines_dropped(),
            ),
        ];
        let connected = |control: &Control| control.health == Some(Health::Connected);
        let control = control.iter().flat_map(|control| {
            [
                ("control_running", "gauge", "Generation of the control store that runs.", control.running),
                ("control_wanted", "gauge", "Newest generation of the control store.", control.wanted),
                ("control_connected", "gauge", "Does the store answer?", u64::from(connected(control))),
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
        text
    }
}

/// Out of files or memory: more accepts fail until some connection ends, and asking without pause would take a processor.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection on the admin side");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn region_status(region: &Region, local: bool) -> RegionStatus {
    let pools = region.pools.values().chain(&region.gateways).filter(|pool| !pool.endpoints.is_empty());
    RegionStatus {
        name: region.name.to_string(),
        local,
        verdict: region.cell.verdict().as_str().to_owned(),
        latency_us: region.cell.latency_us(),
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

fn text(kind: &'static str, status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    text("application/json", status, serde_json::to_vec(value).unwrap_or_default())
}
