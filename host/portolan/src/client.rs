//! The command line as a client of the admin API: over a node's socket, over TCP with a token, or, where no node runs in the
//! folder, over the same routes within this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portolan_admin::backend::{
    AuditOrder, Audits, Backends, Conflicts, Failovers, MoveOrder, Moves, Node, Ordered, PurgeOrder, Purged,
    Purges, Question, SaidWord, Tail, TailFilter, TenantSide, WantedConflicts,
};
use portolan_admin::plugins::NoPlugins;
use portolan_admin::{Api, Code, Events, Page, Peer, Problem, Progress, Router, Settings};
use portolan_control::Store;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_foundation::{task, tls};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use crate::cli::Target;
use crate::node::changes::{Changes, Intended};
use crate::node::plugins::Versions;
use crate::node::{self, SOCKET};
use crate::placement::Placing;
use crate::rollout::act::Place;
use crate::rollout::backend::Orders;
use crate::{config, environment, shown};

/// Status reports of nodes with very many slots are large.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of one frame of a stream.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Items of one page of a list.
const PAGE_ITEMS: usize = 500;
/// Items of a whole list: more than one installation has of anything.
const LISTED_MAX: usize = 1_000_000;
/// Time for an answer: a change compiles and plans what it names before it is made.
const TIMEOUT: Duration = Duration::from_secs(200);

/// A way to the API, with what runs it.
#[derive(Debug)]
pub(crate) struct Client {
    /// What the folder says of itself, for a node that runs there and was started before a store was named.
    local: Option<(PathBuf, config::Local)>,
    runtime: Runtime,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// No node runs in the folder: the same routes over its configuration.
    Here(Router),
    /// A node of this machine.
    Socket(PathBuf, Option<String>),
    /// A node anywhere.
    Url(Uri, Option<String>, Arc<rustls::ClientConfig>),
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// One frame of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) data: String,
    pub(crate) event: String,
    pub(crate) id: Option<String>,
}

impl Client {
    /// The way that the command line names.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn open(target: &Target) -> anyhow::Result<Self> {
        let runtime = node::control_runtime()?;
        let token = target.token.clone();
        if let Some(url) = &target.api {
            let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
            let good = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
            anyhow::ensure!(good, "`{url}` is no address of an API: write `https://HOST:PORT`");
            let tls = tls::upstream_config(target.api_ca.as_deref(), b"http/1.1").context("use TLS")?;
            return Ok(Self { local: None, runtime, way: Way::Url(uri, token, tls) });
        }
        let path = &target.file.config;
        if let Some(socket) = &target.socket {
            return Ok(Self { local: None, runtime, way: Way::Socket(socket.clone(), token) });
        }
        let local = shown(config::local(path, environment()));
        let local = local.context("name the node's socket with --socket, or mend the configuration")?;
        let socket = local.state.join(SOCKET);
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(Self { local: Some((path.clone(), local)), runtime, way: Way::Socket(socket, token) });
        }
        let way = Way::Here(runtime.block_on(here(path, &local, socket))?);
        Ok(Self { local: None, runtime, way })
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// When nobody answers, or with a [`Problem`].
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(&self.ask(Method::GET, path, &[], None)?)
    }

    /// All pages of a list.
    ///
    /// # Errors
    /// When nobody answers, or with a [`Problem`]; when the list has no end.
    pub(crate) fn all<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let mut all = Vec::new();
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut place = String::new();
        loop {
            let Page { items, next } = self.get(&format!("{path}{separator}limit={PAGE_ITEMS}{place}"))?;
            all.extend(items);
            let Some(cursor) = next else { return Ok(all) };
            anyhow::ensure!(
                all.len() < LISTED_MAX,
                "the list has more than {LISTED_MAX} items: ask for fewer"
            );
            place = format!("&cursor={}", encode(&cursor));
        }
    }

    /// Sends, and reads the answer.
    ///
    /// # Errors
    /// When nobody answers, or with a [`Problem`].
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("write the question")?;
        read(&self.ask(Method::POST, path, &[("content-type", "application/json")], Some(body))?)
    }

    /// Sends a request as it is; gives an answer that is a success.
    ///
    /// # Errors
    /// When nobody answers, or with a [`Problem`].
    pub(crate) fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(ACCEPT, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::from(body.unwrap_or_default())).context("write the question")?;
        let answer = self.runtime.block_on(async {
            let exchange = self.exchange_or_here(request);
            let waited = tokio::time::timeout(TIMEOUT, exchange).await;
            waited.with_context(|| format!("no answer within {TIMEOUT:?}"))?
        })?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.problem()) }
    }

    /// Lets some time pass between two questions.
    pub(crate) fn pause(&self, time: Duration) {
        // A sleep is made within the runtime that wakes it.
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Listens to a stream; what is told of each frame says whether to go on.
    ///
    /// # Errors
    /// When nobody answers, or with a [`Problem`].
    pub(crate) fn listen(
        &self,
        path: &str,
        last: Option<&str>,
        mut told: impl FnMut(Frame) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut request = Request::get(path).header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Bytes::new()).context("write the question")?;
        self.runtime.block_on(async {
            let response = match &self.way {
                Way::Here(router) => {
                    let response = router.ask(own_peer(), request).await?;
                    return Err(Answer::of(response).problem());
                }
                Way::Socket(..) | Way::Url(..) => self.open_exchange(request).await?,
            };
            if !response.status().is_success() {
                return Err(whole(response).await?.problem());
            }
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(piece) = body.frame().await {
                let piece = piece.context("read the stream")?;
                text.extend_from_slice(piece.data_ref().map_or(&[], |data| data));
                anyhow::ensure!(text.len() <= FRAME_BYTES_MAX, "a frame of the stream does not end");
                while let Some(frame) = next_frame(&mut text) {
                    if !told(frame)? {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// Asks; when the node has no store because its file named none when it was started, the store that is named now counts.
    async fn exchange_or_here(&self, request: Request<Bytes>) -> anyhow::Result<Answer> {
        let again = request.clone();
        let answer = self.exchange(request).await?;
        let no_store =
            || serde_json::from_slice::<Problem>(&answer.body).is_ok_and(|told| told.code == Code::NoStore);
        match (&self.local, &self.way) {
            (Some((path, local)), Way::Socket(socket, _))
                if !answer.status.is_success() && local.control.is_some() && no_store() =>
            {
                let router = here(path, local, socket.clone()).await?;
                Ok(Answer::of(router.ask(own_peer(), again).await?))
            }
            _ => Ok(answer),
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> anyhow::Result<Answer> {
        match &self.way {
            Way::Here(router) => Ok(Answer::of(router.ask(own_peer(), request).await?)),
            Way::Socket(..) | Way::Url(..) => whole(self.open_exchange(request).await?).await,
        }
    }

    async fn open_exchange(&self, request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
        match &self.way {
            Way::Here(_) => bail!("there is no connection to open"),
            Way::Socket(socket, token) => {
                let stream = connect(socket).await?;
                send(stream, request, "localhost", token.as_deref()).await
            }
            Way::Url(uri, token, tls) => {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let secure = uri.scheme_str() == Some("https");
                let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
                let stream = TcpStream::connect((host, port)).await;
                let stream =
                    stream.with_context(|| format!("ask the node at {uri}: does it listen there?"))?;
                let authority = uri.authority().map_or("", http::uri::Authority::as_str);
                if secure {
                    let name = ServerName::try_from(host.to_owned()).context("the URL's host")?;
                    let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
                    let stream = connector.connect(name, stream).await;
                    let stream = stream
                        .with_context(|| format!("trust the node at {uri}: --api-ca names its authority"))?;
                    return send(stream, request, authority, token.as_deref()).await;
                }
                send(stream, request, authority, token.as_deref()).await
            }
        }
    }
}

impl Answer {
    fn of(response: Response<Bytes>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, body }
    }

    /// Its JSON.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("read the node's answer")
    }

    fn problem(&self) -> anyhow::Error {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem.into(),
            Err(_) => anyhow!("the node answers {}: is it a portolan of this version?", self.status),
        }
    }
}

/// Asks a node's socket from within a runtime.
///
/// # Errors
/// When nobody answers, or with a [`Problem`].
pub(crate) async fn ask_socket(socket: &Path, path: &str) -> anyhow::Result<Value> {
    let request = Request::get(path).body(Bytes::new()).context("write the question")?;
    let stream = connect(socket).await?;
    let answer = whole(send(stream, request, "localhost", None).await?).await?;
    if answer.status.is_success() { answer.json() } else { Err(answer.problem()) }
}

/// A text as a part of a URL.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let part = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(part).collect()
}

fn read<T: DeserializeOwned>(answer: &Answer) -> anyhow::Result<T> {
    serde_json::from_slice(&answer.body).context("read the node's answer")
}

fn asks_for_node(socket: &Path) -> String {
    format!(
        "ask the node at {}: is it running? `portolan serve` starts it, --socket names another, --api one elsewhere",
        socket.display()
    )
}

async fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket).await.with_context(|| asks_for_node(socket))
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
    authority: &str,
    token: Option<&str>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak with the node")?;
    task::spawn("api-client", async move { connection.await.ok() });
    let mut request = request.map(Full::new);
    let headers = request.headers_mut();
    headers.insert(HOST, authority.try_into().context("the node's name")?);
    if let Some(token) = token {
        let mut value = http::HeaderValue::try_from(format!("Bearer {token}")).context("the token")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    sender.send_request(request).await.context("ask the node")
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow!("read the node's answer: {error}"))?.to_bytes();
    Ok(Answer { status: parts.status, body })
}

/// Takes the first whole frame off a text; comments are passed over.
fn next_frame(text: &mut Vec<u8>) -> Option<Frame> {
    loop {
        let end = text.windows(2).position(|pair| pair == b"\n\n")?;
        let rest = text.split_off(end + 2);
        let whole = std::mem::replace(text, rest);
        let mut frame = Frame::default();
        for line in String::from_utf8_lossy(&whole).lines() {
            match line.split_once(": ") {
                Some(("data", data)) => frame.data.push_str(data),
                Some(("event", event)) => event.clone_into(&mut frame.event),
                Some(("id", id)) => frame.id = Some(id.to_owned()),
                _ => {}
            }
        }
        if !frame.event.is_empty() {
            return Some(frame);
        }
    }
}

/// The API over what a folder says, without a node.
async fn here(path: &Path, local: &config::Local, socket: PathBuf) -> anyhow::Result<Router> {
    let intended = match &local.control {
        None => Intended::Files,
        // A change is never based on what this machine last saw.
        Some(engine) => Intended::Following(Store::open(engine.clone(), None).await?),
    };
    let place = Place { environment: environment(), path: path.to_owned() };
    let rollouts = Arc::new(Orders::new(intended.clone(), place));
    let plugins = match &intended {
        Intended::Following(store) => Versions::here(store.clone(), path, local)?,
        _ => Arc::new(NoPlugins),
    };
    let placing = Placing::new(None, tokio::runtime::Handle::current());
    let changes = Changes::new(intended, None, placing, None, path.to_owned(), environment());
    let node = Arc::new(Nobody { socket });
    let (audits, conflicts, failovers) = (Arc::clone(&node), Arc::clone(&node), Arc::clone(&node));
    let (intent, moves, purges) = (Arc::new(changes), Arc::clone(&node), Arc::clone(&node));
    let backends = Backends { audits, conflicts, failovers, intent, moves, node, plugins, purges, rollouts };
    Ok(Router::new(Api::new(backends, Events::default(), Settings::default())))
}

fn own_peer() -> Peer {
    Peer::Unix { own: true, user: user() }
}

/// Who works at this command line.
pub(crate) fn user() -> String {
    let name =
        |variable: &str| environment().into_iter().find(|(name, _)| name == variable).map(|(_, value)| value);
    let user = name("SUDO_USER").or_else(|| name("USER")).or_else(|| name("LOGNAME"));
    let uid = rustix::process::getuid().as_raw();
    format!("{} (uid {uid})", user.as_deref().unwrap_or("unknown"))
}

/// No node.
#[derive(Debug)]
struct Nobody {
    socket: PathBuf,
}

impl Nobody {
    fn problem(&self) -> Problem {
        Problem::new(Code::Unavailable, asks_for_node(&self.socket))
    }
}

#[async_trait]
impl Node for Nobody {
    fn status(&self) -> Result<Value, Problem> {
        Err(self.problem())
    }

    fn metrics(&self) -> Result<String, Problem> {
        Err(self.problem())
    }

    fn is_ready(&self) -> bool {
        false
    }

    fn nodes(&self) -> Result<Vec<Value>, Problem> {
        Err(self.problem())
    }

    fn shards(&self) -> Result<Vec<Value>, Problem> {
        Err(self.problem())
    }

    fn place(&self, _: &TenantName) -> Result<Option<Value>, Problem> {
        Err(self.problem())
    }

    async fn explain(&self, _: Question) -> Result<Value, Problem> {
        Err(self.problem())
    }

    fn tenant(&self, _: &TenantName, _: TenantSide) -> Result<Option<Value>, Problem> {
        Err(self.problem())
    }

    async fn usage(&self, _: u64, _: bool) -> Result<Vec<Value>, Problem> {
        Err(self.problem())
    }

    fn tail(&self, _: TailFilter) -> Result<Tail, Problem> {
        Err(self.problem())
    }
}

#[async_trait]
impl Purges for Nobody {
    async fn purge(&self, _: PurgeOrder) -> Result<Purged, Problem> {
        Err(self.problem())
    }
}

#[async_trait]
impl Audits for Nobody {
    async fn audit(&self, _: AuditOrder) -> Result<Box<dyn FnOnce(Progress) + Send>, Problem> {
        Err(self.problem())
    }
}

#[async_trait]
impl Conflicts for Nobody {
    async fn conflicts(&self, _: WantedConflicts) -> Result<Vec<Value>, Problem> {
        Err(self.problem())
    }

    async fn conflict(&self, _: &ShardName, _: &str) -> Result<Option<Value>, Problem> {
        Err(self.problem())
    }

    async fn restore(&self, _: &ShardName, _: &str) -> Result<Value, Problem> {
        Err(self.problem())
    }
}

#[async_trait]
impl Failovers for Nobody {
    fn status(&self) -> Result<Value, Problem> {
        Err(self.problem())
    }

    fn forecast(&self, _: Option<RegionName>) -> Result<Value, Problem> {
        Err(self.problem())
    }

    async fn say(&self, _: SaidWord) -> Result<Value, Problem> {
        Err(self.problem())
    }
}

#[async_trait]
impl Moves for Nobody {
    async fn order(&self, _: MoveOrder) -> Result<Ordered, Problem> {
        Err(self.problem())
    }

    async fn moves(&self) -> Result<Vec<Value>, Problem> {
        Err(self.problem())
    }

    async fn tenants_on(
        &self,
        _: &ShardName,
        _: Option<&TenantName>,
        _: usize,
    ) -> Result<Vec<TenantName>, Problem> {
        Err(self.problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_off_one_by_one() {
        let mut text = b": alive\n\nid: 1\nevent: a\ndata: {}\n\nevent: b\nda".to_vec();
        let first = Frame { data: "{}".to_owned(), event: "a".to_owned(), id: Some("1".to_owned()) };
        assert_eq!(next_frame(&mut text), Some(first));
        assert_eq!(next_frame(&mut text), None);
        text.extend_from_slice(b"ta: {\"x\":\": \"}\n\n");
        let second = Frame { data: "{\"x\":\": \"}".to_owned(), event: "b".to_owned(), id: None };
        assert_eq!(next_frame(&mut text), Some(second));
    }
}
