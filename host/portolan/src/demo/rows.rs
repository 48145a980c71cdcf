//! The demo's tenant with rows of its own: clients in every region write them through the gateways while the tenant moves from
//! one shard to another, and afterwards each row that was acknowledged must be there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, HOME, MOVED, REGIONS};
use super::load::Board;
use super::report::Outcome;

/// From one row of a writer to its next.
const PACE: Duration = Duration::from_millis(20);
/// From a write that is held to the same one again.
const HELD_PAUSE: Duration = Duration::from_millis(10);
/// How long a write may take, the hold of a move included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// Rows of one page.
const PAGE: usize = 500;
/// A page of notes has some ten thousand bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Rows {
    acknowledged: Arc<Mutex<Vec<u64>>>,
    home: SocketAddr,
    stop: CancellationToken,
    token: String,
    writers: Vec<tokio::task::JoinHandle<Option<()>>>,
}

impl Rows {
    /// Starts a writer at each region's gateway, whose rows are numbered from one on. What the board is told keeps or breaks a promise; without one, writers go on whatever becomes of a row.
    ///
    /// # Errors
    /// When the tenant's application gets no token.
    pub(crate) async fn start(
        cluster: &Cluster,
        board: Option<&Board>,
        first: u64,
        end: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let name = format!("notes-{first}");
        let create = ["token", "create", &name, "--role", "tenant-app", "--tenant", MOVED];
        let token = cluster.command(&create).await?.trim().to_owned();
        let (acknowledged, next, stop) = (Arc::default(), Arc::new(AtomicU64::new(first)), end.child_token());
        let entry = |region: &str| cluster.entries(region).into_iter().next().map(|(_, address)| address);
        let mut writers = Vec::new();
        for region in REGIONS {
            let writer = Writer {
                acknowledged: Arc::clone(&acknowledged),
                address: entry(region).context("find a region's gateway")?,
                board: board.cloned(),
                next: Arc::clone(&next),
                token: token.clone(),
            };
            writers.push(task::spawn("demo-writer", writer.run(stop.clone())));
        }
        let home = entry(REGIONS[2]).context("find a region's gateway")?;
        Ok(Self { acknowledged, home, stop, token, writers })
    }

    /// Stops the writers, and reads back what they wrote. Gives how many rows were acknowledged, and how many of those are not there.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) async fn finish(self) -> anyhow::Result<(usize, usize)> {
        self.stop.cancel();
        for writer in self.writers {
            // A writer that panicked has been reported.
            writer.await.ok();
        }
        let mut wrote =
            std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner));
        wrote.sort_unstable();
        let mut there = Vec::new();
        let mut connection = connect(self.home).await?;
        loop {
            let after = there.last().copied().unwrap_or(0);
            let path = format!("/-/data/notes?select=id&id=gt.{after}&order=id&limit={PAGE}");
            let (status, page) = ask(&mut connection, &self.token, Method::GET, &path, Bytes::new()).await?;
            let rows = page.as_array().filter(|_| status == StatusCode::OK);
            let rows = rows.with_context(|| format!("read the rows back: {page}"))?;
            there.extend(rows.iter().filter_map(|row| row.get("id").and_then(Value::as_u64)));
            if rows.len() < PAGE {
                break;
            }
        }
        let missing = wrote.iter().filter(|id| there.binary_search(id).is_err());
        Ok((wrote.len(), missing.count()))
    }
}

/// Moves the tenant to the other shard. Gives for how long its writes were held.
///
/// # Errors
/// When it stays where it is, with the reason.
pub(crate) async fn relocate(cluster: &Cluster, to: &str) -> anyhow::Result<Duration> {
    let told = cluster.command(&["shard", "move", MOVED, "--to", to, "--json"]).await?;
    let told: Value = serde_json::from_str(&told).context("read what the move says")?;
    let pause =
        told.get("pause_ms").and_then(Value::as_f64).map(|pause| Duration::from_secs_f64(pause / 1e3));
    pause.with_context(|| format!("read the move's pause: {told}"))
}

struct Writer {
    acknowledged: Arc<Mutex<Vec<u64>>>,
    address: SocketAddr,
    board: Option<Board>,
    next: Arc<AtomicU64>,
    token: String,
}

impl Writer {
    async fn run(self, stop: CancellationToken) {
        let mut connection = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PACE) => {}
            }
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            let written = tokio::time::timeout(WRITE_TIMEOUT, self.write(&mut connection, id)).await;
            let outcome = match written {
                Ok(Ok(())) => {
                    self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                    Outcome::Good { region: HOME.to_owned(), generation: None, retries: 0, reentered: false }
                }
                Ok(Err(error)) => Outcome::Failed(format!("write a row: {error:#}")),
                Err(_) => Outcome::Failed(format!("no row written within {WRITE_TIMEOUT:?}")),
            };
            if matches!(outcome, Outcome::Failed(_)) {
                connection = None;
            }
            if let Some(board) = &self.board {
                board.add(outcome, begun.elapsed());
            }
        }
    }

    /// Writes one row; what a move holds is sent again until it is taken, as any client of the API does.
    async fn write(&self, connection: &mut Option<Connection>, id: u64) -> anyhow::Result<()> {
        let note = Bytes::from(json!({ "id": id, "text": "written while it moves" }).to_string());
        loop {
            let open = match connection.take() {
                Some(open) => open,
                None => connect(self.address).await?,
            };
            let open = connection.insert(open);
            let (status, told) = ask(open, &self.token, Method::POST, "/-/data/notes", note.clone()).await?;
            match status {
                StatusCode::CREATED => return Ok(()),
                StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(HELD_PAUSE).await,
                _ => bail!("{status}: {told}"),
            }
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await.context("connect to a gateway")?;
    stream.set_nodelay(true).context("send at once")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("start HTTP/1.1")?;
    task::spawn("demo-connection", async move { connection.await.ok() });
    Ok(sender)
}

async fn ask(
    connection: &mut Connection,
    token: &str,
    method: Method,
    path: &str,
    content: Bytes,
) -> anyhow::Result<(StatusCode, Value)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", format!("{MOVED}.demo.localhost"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(content))
        .context("make a request")?;
    connection.ready().await.context("keep a connection")?;
    let response = connection.send_request(request).await.context("send a request")?;
    let status = response.status();
    let content = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let content = content.map_err(|error| anyhow::anyhow!("read an answer: {error}"))?.to_bytes();
    Ok((status, serde_json::from_slice(&content).unwrap_or(Value::Null)))
}
