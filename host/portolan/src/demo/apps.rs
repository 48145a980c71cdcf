//! The demo's tenant applications: small HTTP servers that say where they are and what headers they were given.
//!
//! One process serves both applications of a region, so that killing a region takes its applications with it.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use tokio::net::TcpListener;

/// What an application answers with, as JSON.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Answer {
    /// The region that it runs in, as it was started.
    pub(crate) region: String,
    /// Its name.
    pub(crate) app: String,
    /// The tenant that the gateway named.
    pub(crate) tenant: Option<String>,
    /// The region that the gateway named.
    pub(crate) gateway_region: Option<String>,
    /// The request's id.
    pub(crate) request_id: Option<String>,
    /// Which attempt of the gateway this was; 1 when it did not say.
    pub(crate) attempt: u64,
    /// The path as it arrived.
    pub(crate) path: String,
}

/// Serves the applications of one region until the process ends. `apps` are names with the addresses to listen on.
///
/// # Errors
/// When an address cannot be bound.
pub(crate) async fn serve(region: &str, apps: &[(String, SocketAddr)]) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for (app, address) in apps {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("listen on {address} for app {app}"))?;
        tasks.spawn(accept(listener, region.to_owned(), app.clone()));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: TcpListener, region: String, app: String) {
    loop {
        // A failed accept (too many files) passes; the loop yields to the runtime at the next await in any case.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Answers are single small writes, and a demo's latency should be its gateway's.
        drop(stream.set_nodelay(true));
        let (region, app) = (region.clone(), app.clone());
        task::spawn("demo-app", async move {
            let service = service_fn(move |request| {
                let answer = answer(&region, &app, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A connection's end is the client's business.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

fn answer(region: &str, app: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let answer = Answer {
        region: region.to_owned(),
        app: app.to_owned(),
        tenant: header("portolan-tenant"),
        gateway_region: header("portolan-region"),
        request_id: header("x-request-id"),
        attempt: header("portolan-attempt").and_then(|text| text.parse().ok()).unwrap_or(1),
        path: request.uri().path().to_owned(),
    };
    let mut response = Response::new(Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap_or_default())));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
