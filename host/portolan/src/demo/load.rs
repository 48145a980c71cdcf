//! The demo's clients: real HTTP/1.1 connections that check every answer against what was promised.
//!
//! A client behaves as a browser with one address per region: it keeps a connection to its home region's gateway, and
//! where that does not answer at all it brings the request to the next address. It never repeats a request that a
//! gateway answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portolan_foundation::{random, task};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::apps::Answer;
use super::report::{Outcome, Tally};

/// How long a client waits for one answer. Gateways give up on a dead region long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An application's answer has some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Who sends requests: one client connection of one tenant, at home in one region.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The addresses of all regions' gateways, the client's own region first.
    pub(crate) entries: Vec<(String, SocketAddr)>,
    /// The host name that says which tenant it is.
    pub(crate) host: String,
    /// The tenant's name.
    pub(crate) tenant: String,
    /// The application that its requests are for.
    pub(crate) app: String,
    /// From one request to the next.
    pub(crate) pace: Duration,
}

/// What answers are right at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    /// For a policy by name and the region whose gateway took the request in, the regions that may answer. A policy
    /// that is not listed must not decide.
    pub(crate) regions: BTreeMap<(String, String), BTreeSet<String>>,
    /// The regions that bound a tenant, whatever the policy.
    pub(crate) bounds: BTreeMap<String, BTreeSet<String>>,
}

impl Promise {
    fn allows(&self, policy: &str, entry: &str, tenant: &str, region: &str) -> bool {
        let by_policy =
            self.regions.get(&(policy.to_owned(), entry.to_owned())).is_some_and(|all| all.contains(region));
        match self.bounds.get(tenant) {
            // A bounded tenant is sent elsewhere than the policy's first choice, but never out of its bounds.
            Some(bound) => bound.contains(region) && self.names(policy),
            None => by_policy,
        }
    }

    fn names(&self, policy: &str) -> bool {
        self.regions.keys().any(|(name, _)| name == policy)
    }
}

/// What the clients share with the demo's director.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    promise: Arc<ArcSwap<Promise>>,
    tally: Arc<Mutex<Tally>>,
}

impl Board {
    /// A board without promises: every answer would be wrong.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { promise: Arc::default(), tally: Arc::new(Mutex::new(Tally::new()?)) })
    }

    /// Changes what is right. Answers under way may be right by the old promise or the new one.
    pub(crate) fn promise(&self, promise: Promise) {
        self.promise.store(Arc::new(promise));
    }

    /// Starts a fresh tally and gives back the old one.
    pub(crate) fn turn(&self) -> anyhow::Result<Tally> {
        let fresh = Tally::new()?;
        Ok(std::mem::replace(&mut *self.lock(), fresh))
    }

    /// Looks at the running tally.
    pub(crate) fn look<T>(&self, see: impl FnOnce(&Tally) -> T) -> T {
        see(&self.lock())
    }

    /// Counts one request.
    pub(crate) fn add(&self, outcome: Outcome, took: Duration) {
        self.lock().add(outcome, took);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends requests until told to stop.
pub(crate) async fn run(client: Client, board: Board, stop: CancellationToken) {
    let mut ticks = interval(client.pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections: Vec<Option<SendRequest<Empty<Bytes>>>> =
        client.entries.iter().map(|_| None).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let begun = Instant::now();
        let before = board.promise.load_full();
        let outcome = match timeout(ANSWER_TIMEOUT, ask(&client, &mut connections)).await {
            Ok(Ok(seen)) => judge(&client, &seen, &before, &board.promise.load()),
            Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
            Err(_) => {
                connections.iter_mut().for_each(|connection| *connection = None);
                Outcome::Failed(format!("no answer within {ANSWER_TIMEOUT:?}"))
            }
        };
        board.lock().add(outcome, begun.elapsed());
    }
}

struct Seen {
    entry: String,
    reentered: bool,
    request_id: String,
    head: http::response::Parts,
    body: Bytes,
}

async fn ask(client: &Client, connections: &mut [Option<SendRequest<Empty<Bytes>>>]) -> anyhow::Result<Seen> {
    let request_id = format!("demo-{:016x}", random::u64());
    let mut last = anyhow!("no address to try");
    for (index, ((region, address), connection)) in
        client.entries.iter().zip(connections.iter_mut()).enumerate()
    {
        match exchange(client, *address, connection, &request_id).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                return Ok(Seen { entry: region.clone(), reentered: index > 0, request_id, head, body });
            }
            Err(error) => {
                *connection = None;
                last = error.context(format!("ask the gateway of {region}"));
            }
        }
    }
    Err(last)
}

async fn exchange(
    client: &Client,
    address: SocketAddr,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
    request_id: &str,
) -> anyhow::Result<Response<Bytes>> {
    let mut kept = connection.take();
    if let Some(sender) = &mut kept
        && sender.ready().await.is_err()
    {
        kept = None;
    }
    let usable = match kept {
        Some(sender) => sender,
        None => connect(address).await?,
    };
    let sender = connection.insert(usable);
    let request = Request::get("/orders")
        .header(http::header::HOST, &client.host)
        .header("x-request-id", request_id)
        .body(Empty::new())
        .context("build the request")?;
    let response = sender.send_request(request).await.context("send the request")?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("read the answer: {error}"))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("start HTTP/1.1")?;
    // The connection's own error reaches the sender too.
    task::spawn("demo-client", async move { drop(connection.await) });
    Ok(sender)
}

fn judge(client: &Client, seen: &Seen, before: &Promise, after: &Promise) -> Outcome {
    match verify(client, seen, before, after) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome::Failed(format!("{reason:#}")),
    }
}

fn verify(client: &Client, seen: &Seen, before: &Promise, after: &Promise) -> anyhow::Result<Outcome> {
    let header = |name: &str| seen.head.headers.get(name).and_then(|value| value.to_str().ok());
    if !seen.head.status.is_success() {
        bail!("status {} for {} at {}", seen.head.status, client.tenant, seen.entry);
    }
    let policy = header("portolan-policy").context("no portolan-policy in the response")?;
    let generation = header("portolan-generation")
        .and_then(|text| text.parse().ok())
        .context("no portolan-generation in the response")?;
    let answer: Answer = serde_json::from_slice(&seen.body).context("read the answer's JSON")?;
    if answer.app != client.app || answer.path != "/orders" {
        bail!("wrong body: app {} and path {}", answer.app, answer.path);
    }
    if answer.tenant.as_deref() != Some(&client.tenant) {
        bail!("wrong tenant: {:?} instead of {}", answer.tenant, client.tenant);
    }
    if answer.request_id.as_deref() != Some(&seen.request_id) {
        bail!("answer of another request");
    }
    let announced = header("portolan-attempts").and_then(|text| text.parse().ok()).unwrap_or(1);
    if answer.attempt != announced {
        bail!("unannounced retry: attempt {} of {announced}", answer.attempt);
    }
    let fits = |promise: &Promise| promise.allows(policy, &seen.entry, &client.tenant, &answer.region);
    if !fits(before) && !fits(after) {
        bail!("wrong region: {} for {} at {} under {policy}", answer.region, client.tenant, seen.entry);
    }
    let retries = announced.saturating_sub(1);
    Ok(Outcome::Good {
        region: answer.region,
        generation: Some(generation),
        retries,
        reentered: seen.reentered,
    })
}
