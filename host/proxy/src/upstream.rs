//! Connections to upstreams, owned by one data thread: made, kept, reused and bounded here.
//!
//! HTTP/1 connections are taken from the most recently used end, so that surplus ones grow old and close. HTTP/2 has one
//! connection an endpoint, and a second when the first is full.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_core::endpoint::EndpointCell;
use portolan_core::ids::RegionName;
use portolan_core::screen;
use portolan_core::time::Moment;
use portolan_core::topology::{Endpoint, Pool, Protocol, UpstreamTls};
use portolan_foundation::tls::{self, PeerIdentity};
use portolan_foundation::{clock, task};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::answers::{Answers, Turn};
use crate::body::Upload;
use crate::error::Error;
use crate::metrics::Shard;

/// Streams on one HTTP/2 connection before a second one is made; servers commonly allow 100 or more.
const STREAMS_PER_CONNECTION: usize = 96;
/// HTTP/2 connections of one thread to one endpoint.
const HTTP2_CONNECTIONS_MAX: usize = 4;
/// The largest head that an upstream may answer with, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Why an attempt got no response head.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Given back when the upstream surely saw nothing of it.
    pub(crate) unsent: Option<Box<Request<Upload>>>,
}

/// All upstream connections of one data thread.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// By the address of the endpoint's cell, which the entry keeps alive: cells are one to an endpoint.
    endpoints: RefCell<HashMap<usize, Rc<Connections>>>,
    identities: RefCell<HashMap<UpstreamKey, Arc<ClientConfig>>>,
    peer: Option<PeerIdentity>,
    shard: Arc<Shard>,
}

type UpstreamKey = (Option<RegionName>, Option<std::path::PathBuf>, Protocol);

#[derive(Debug)]
struct Connections {
    cell: Arc<EndpointCell>,
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Multiplexed>>,
    /// One at a time makes HTTP/2 connections, so that a burst does not make many.
    connecting: tokio::sync::Mutex<()>,
    permits: Arc<Semaphore>,
}

/// A connection of HTTP/1.
#[derive(Debug)]
struct Single {
    sender: http1::SendRequest<Upload>,
    turn: Turn,
}

impl Single {
    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.turn.is_spoiled()
    }
}

#[derive(Debug)]
struct Idle {
    single: Single,
    since: Moment,
}

#[derive(Clone, Debug)]
struct Multiplexed {
    /// Which of this node's identities it was made with, where it leads to another region.
    identity: Option<u64>,
    sender: http2::SendRequest<Upload>,
    streams: Rc<Cell<usize>>,
}

#[derive(Debug)]
enum Held {
    Http1 { single: Single, _permit: OwnedSemaphorePermit },
    Http2 { streams: Rc<Cell<usize>> },
}

/// A connection, or a stream of one, while a response comes over it.
#[derive(Debug)]
pub(crate) struct Lease {
    connections: Rc<Connections>,
    held: Option<Held>,
}

impl Lease {
    /// The exchange is complete: the connection can be used again.
    pub(crate) fn give_back(mut self) {
        if let Some(Held::Http1 { single, .. }) = self.held.take()
            && !single.is_over()
        {
            self.connections.idle.borrow_mut().push(Idle { single, since: clock::now() });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connections.cell.release();
        if let Some(Held::Http2 { streams }) = &self.held {
            streams.set(streams.get().saturating_sub(1));
        }
    }
}

/// Runs hyper's HTTP/2 tasks on the data thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(task::spawn_local("http2", future));
    }
}

impl Upstreams {
    pub(crate) fn new(peer: Option<PeerIdentity>, shard: Arc<Shard>) -> Self {
        Self { endpoints: RefCell::default(), identities: RefCell::default(), peer, shard }
    }

    /// Sends one request to one endpoint and waits for the head of its response.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, or resets the stream.
    pub(crate) async fn send(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        request: Request<Upload>,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let connections = self.connections(pool, endpoint);
        let exchange = async {
            match pool.protocol {
                Protocol::Http1 => self.send_http1(pool, endpoint, &connections, request).await,
                Protocol::Http2 => self.send_http2(pool, endpoint, &connections, request).await,
            }
        };
        match timeout(limit, exchange).await {
            Ok(sent) => sent,
            Err(_) => Err(Failure { error: Error::Timeout, unsent: None }),
        }
    }

    /// Closes what has been idle for too long. Called now and then by the thread's keeper.
    pub(crate) fn sweep(&self, now: Moment, idle_timeout: Duration) {
        self.endpoints.borrow_mut().retain(|_, connections| {
            let fresh = |idle: &Idle| !idle.single.is_over() && now.since(idle.since) < idle_timeout;
            connections.idle.borrow_mut().retain(fresh);
            connections.multiplexed.borrow_mut().retain(|one| !one.sender.is_closed());
            // The topology holds the cell as long as the endpoint is declared.
            let declared = Arc::strong_count(&connections.cell) > 1;
            declared || Rc::strong_count(connections) > 1
        });
    }

    fn connections(&self, pool: &Pool, endpoint: &Endpoint) -> Rc<Connections> {
        let key = Arc::as_ptr(&endpoint.cell) as usize;
        let make = || {
            Rc::new(Connections {
                cell: Arc::clone(&endpoint.cell),
                idle: RefCell::default(),
                multiplexed: RefCell::default(),
                connecting: tokio::sync::Mutex::new(()),
                permits: Arc::new(Semaphore::new(pool.connections_max.max(1) as usize)),
            })
        };
        Rc::clone(self.endpoints.borrow_mut().entry(key).or_insert_with(make))
    }

    async fn send_http1(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        connections: &Rc<Connections>,
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let waited = timeout(pool.connect_timeout, Arc::clone(&connections.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = waited else {
            return Err(Failure { error: Error::NoEndpoint, unsent: Some(Box::new(request)) });
        };
        let mut permit = Some(permit);
        loop {
            let (mut single, reused) = match connections.reuse(pool.idle_timeout).await {
                Some(single) => (single, true),
                None => match self.connect_http1(pool, endpoint).await {
                    Ok(single) => (single, false),
                    Err(error) => return Err(Failure { error, unsent: Some(Box::new(request)) }),
                },
            };
            single.turn.ask(request.method(), request.headers());
            match single.sender.try_send_request(request).await {
                Ok(response) => {
                    let Some(permit) = permit.take() else {
                        return Err(Failure { error: Error::Connect, unsent: None });
                    };
                    connections.cell.hold();
                    let held = Some(Held::Http1 { single, _permit: permit });
                    return Ok((response, Lease { connections: Rc::clone(connections), held }));
                }
                Err(mut failed) => match failed.take_message() {
                    // A kept connection that the upstream closed meanwhile: nothing was sent, the next one may live.
                    Some(unsent) if reused => request = unsent,
                    unsent => {
                        return Err(Failure {
                            error: broke(&failed.into_error()),
                            unsent: unsent.map(Box::new),
                        });
                    }
                },
            }
        }
    }

    async fn send_http2(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        connections: &Rc<Connections>,
        mut request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        for _ in 0..2 {
            let mut one = match self.multiplexed(pool, endpoint, connections).await {
                Ok(one) => one,
                Err(error) => return Err(Failure { error, unsent: Some(Box::new(request)) }),
            };
            one.streams.set(one.streams.get() + 1);
            connections.cell.hold();
            let held = Some(Held::Http2 { streams: Rc::clone(&one.streams) });
            let lease = Lease { connections: Rc::clone(connections), held };
            match one.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure { error: broke(&failed.into_error()), unsent: None }),
                },
            }
        }
        Err(Failure { error: Error::Connect, unsent: Some(Box::new(request)) })
    }

    async fn multiplexed(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        connections: &Connections,
    ) -> Result<Multiplexed, Error> {
        let identity = self.linked(pool).map(PeerIdentity::serial);
        if let Some(one) = connections.roomiest(identity) {
            return Ok(one);
        }
        let _connecting = connections.connecting.lock().await;
        // Another request may have made one while this one waited.
        if let Some(one) = connections.roomiest(identity) {
            return Ok(one);
        }
        let one = self.connect_http2(pool, endpoint).await?;
        connections.multiplexed.borrow_mut().push(one.clone());
        Ok(one)
    }

    async fn connect_http1(&self, pool: &Pool, endpoint: &Endpoint) -> Result<Single, Error> {
        let shard = &self.shard;
        let connect = async {
            let stream = tcp(endpoint).await?;
            match self.identity(pool)? {
                None => handshake_http1(stream, shard).await,
                Some(config) => {
                    let stream = secure(config, pool, endpoint, stream).await?;
                    match self.linked(pool) {
                        None => handshake_http1(stream, shard).await,
                        Some(identity) => {
                            let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
                            handshake_http1(identity.guard(stream, chain.as_deref()), shard).await
                        }
                    }
                }
            }
        };
        let single = timeout(pool.connect_timeout, connect).await.map_err(|_| Error::Connect)??;
        self.shard.upstream_connections.add(1);
        Ok(single)
    }

    async fn connect_http2(&self, pool: &Pool, endpoint: &Endpoint) -> Result<Multiplexed, Error> {
        let identity = self.linked(pool).map(PeerIdentity::serial);
        let connect = async {
            let stream = tcp(endpoint).await?;
            match self.identity(pool)? {
                None => handshake_http2(stream).await,
                Some(config) => {
                    let stream = secure(config, pool, endpoint, stream).await?;
                    match self.linked(pool) {
                        None => handshake_http2(stream).await,
                        Some(identity) => {
                            let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
                            handshake_http2(identity.guard(stream, chain.as_deref())).await
                        }
                    }
                }
            }
        };
        let sender = timeout(pool.connect_timeout, connect).await.map_err(|_| Error::Connect)??;
        self.shard.upstream_connections.add(1);
        Ok(Multiplexed { identity, sender, streams: Rc::default() })
    }

    /// Who this node says that it is, where a pool is another region's gateways.
    fn linked(&self, pool: &Pool) -> Option<&PeerIdentity> {
        self.peer.as_ref().filter(|_| pool.tls == Some(UpstreamTls::Peer))
    }

    /// The TLS configuration for a pool, made once for each thread.
    fn identity(&self, pool: &Pool) -> Result<Option<Arc<ClientConfig>>, Error> {
        let key = match &pool.tls {
            None => return Ok(None),
            Some(UpstreamTls::Peer) => (Some(pool.region.clone()), None, pool.protocol),
            Some(UpstreamTls::Server { ca_file, .. }) => {
                (None, ca_file.as_deref().map(Into::into), pool.protocol)
            }
        };
        if let Some(config) = self.identities.borrow().get(&key) {
            return Ok(Some(Arc::clone(config)));
        }
        let alpn: &[u8] = match pool.protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        let made = match (&key.0, &self.peer) {
            (Some(region), Some(peer)) => peer.client_config(region),
            (Some(_), None) => return Err(Error::Connect),
            (None, _) => tls::upstream_config(key.1.as_deref(), alpn),
        };
        let config = made.map_err(|error| {
            tracing::error!(pool = %pool.name, region = %pool.region, %error, "cannot make TLS connections to the pool");
            Error::Connect
        })?;
        self.identities.borrow_mut().insert(key, Arc::clone(&config));
        Ok(Some(config))
    }
}

impl Connections {
    /// The most recently used connection that still lives.
    async fn reuse(&self, idle_timeout: Duration) -> Option<Single> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.single.is_over() || clock::now().since(idle.since) > idle_timeout {
                continue;
            }
            if idle.single.sender.ready().await.is_ok() {
                return Some(idle.single);
            }
        }
    }

    /// The connection with the fewest streams, unless all are full and there may be one more. Those of an identity that was replaced end with
    /// what is under way.
    fn roomiest(&self, identity: Option<u64>) -> Option<Multiplexed> {
        let mut all = self.multiplexed.borrow_mut();
        all.retain(|one| one.identity == identity && !one.sender.is_closed());
        let least = all.iter().min_by_key(|one| one.streams.get())?;
        let full = least.streams.get() >= STREAMS_PER_CONNECTION && all.len() < HTTP2_CONNECTIONS_MAX;
        (!full).then(|| least.clone())
    }
}

fn broke(error: &hyper::Error) -> Error {
    use std::error::Error as _;
    let stall = error.source().and_then(|source| source.downcast_ref::<crate::body::Stall>());
    match stall {
        Some(crate::body::Stall::Large) => Error::BodyTooLarge,
        Some(crate::body::Stall::Broken | crate::body::Stall::Silent) => Error::BodyBroken,
        None => Error::UpstreamBroke,
    }
}

async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(|_| Error::Connect)?;
    stream.set_nodelay(true).map_err(|_| Error::Connect)?;
    Ok(stream)
}

async fn secure(
    config: Arc<ClientConfig>,
    pool: &Pool,
    endpoint: &Endpoint,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let name = match &pool.tls {
        Some(UpstreamTls::Server { server_name: Some(name), .. }) => name.as_ref(),
        _ => endpoint.host.as_ref(),
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Connect)?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        tracing::debug!(endpoint = %endpoint.authority, %error, "TLS handshake failed");
        Error::Connect
    })
}

async fn handshake_http1<S>(stream: S, shard: &Arc<Shard>) -> Result<Single, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = screen::Limits { head_bytes_max: HEAD_BYTES_MAX, ..screen::Limits::default() };
    let turn = Turn::default();
    let stream = Answers::new(stream, limits, turn.clone(), Arc::clone(shard));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Error::Connect)?;
    // A connection's error reaches the exchange that it breaks; without one there is nobody to tell.
    task::spawn_local("upstream-http1", async move { drop(connection.with_upgrades().await) });
    Ok(Single { sender, turn })
}

async fn handshake_http2<S>(stream: S) -> Result<http2::SendRequest<Upload>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .max_header_list_size(64 * 1024);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Error::Connect)?;
    task::spawn_local("upstream-http2", async move { drop(connection.await) });
    Ok(sender)
}
