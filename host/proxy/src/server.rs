//! Data threads: listeners, connections, and their orderly end.
//!
//! One `current_thread` runtime with its own listening sockets per thread. A connection lives on one thread with all that
//! it needs, so that a request hands nothing over. Few long connections can still load threads unevenly: then a fresh
//! socket goes, once, to the thread that has least to do.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_core::recording::Record;
use portolan_core::retry::Budget;
use portolan_core::screen::Frames;
use portolan_core::snapshot::{Live, Reader, Snapshot};
use portolan_foundation::cache::Cache;
use portolan_foundation::seal::SealKey;
use portolan_foundation::shutdown::{Gate, Shutdown};
use portolan_foundation::{clock, net, task, tls};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Listener, ListenerKind, Previewing};
use crate::defaults;
use crate::frames::{self, Watched};
use crate::inbound::Downstream;
use crate::io::{Rewound, Screened, Spoken, Switch, detect};
use crate::metrics::{Metrics, Shard};
use crate::pipeline;
use crate::preamble;
use crate::service::Services;
use crate::settings::Held;
use crate::tap::{Tap, TapFilter, Taps};
use crate::tunnel;
use crate::upstream::{LocalExecutor, Upstreams};

/// Sockets on their way to another thread.
const HANDOVER_MAX: usize = 1_024;
/// How often a thread looks at its own CPU time and closes idle connections.
const KEEPER_INTERVAL: Duration = Duration::from_millis(100);
/// A thread this much busier than the mean, in percent, gives new connections away.
const SKEW_PERCENT: u64 = 125;

/// What waits in memory for one HTTP/2 client that reads slowly, for each of its streams.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Why the data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket or a file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A peer listener without an identity.
    #[error("a peer listener needs the node's own certificate: set peer.cert, peer.key and peer.ca")]
    NoIdentity,
    /// The identity's files.
    #[error("{0}")]
    Tls(#[from] tls::Error),
}

/// A data plane that holds its sockets and can be run.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    handle: Handle,
    live: Arc<Live>,
    /// For each thread, a socket for each listener.
    sockets: Vec<Vec<std::net::TcpListener>>,
    peer_tls: Option<Arc<rustls::ServerConfig>>,
}

/// What others may know of a running data plane.
#[derive(Clone, Debug)]
pub struct Handle {
    addresses: Arc<[SocketAddr]>,
    gate: Gate,
    metrics: Metrics,
    taps: Taps,
}

impl Handle {
    /// The addresses that are listened on, in the order of the configuration, with the ports that were found.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Begins to listen to requests as they end.
    #[must_use]
    pub fn listen(&self, filter: TapFilter) -> Tap {
        self.taps.listen(filter)
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.gate.count()
    }
}

impl Proxy {
    /// Binds every listener.
    ///
    /// # Errors
    /// [`StartError`] says which address, file or certificate is at fault.
    pub fn bind(config: Config, live: Arc<Live>) -> Result<Self, StartError> {
        let threads = config.threads.get();
        let mut sockets: Vec<Vec<std::net::TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let mut peer_tls = None;
        for listener in &config.listeners {
            let mut address = listener.address;
            for own in &mut sockets {
                let socket = net::listen(address)?;
                // With port 0 the first socket finds a port, and the others share it.
                address = socket.local_addr()?;
                own.push(socket);
            }
            addresses.push(address);
            if matches!(listener.kind, ListenerKind::Peer) {
                peer_tls = Some(config.peer.as_ref().ok_or(StartError::NoIdentity)?.server_config()?);
            }
        }
        let handle = Handle {
            addresses: addresses.into(),
            gate: Gate::default(),
            metrics: Metrics::new(threads),
            taps: Taps::default(),
        };
        Ok(Self { config: Arc::new(config), handle, live, sockets, peer_tls })
    }

    /// What others may know of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until the shutdown begins, then lets what is in flight end. Blocks; start it on a thread of its own.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn run(self, shutdown: &Shutdown) -> io::Result<()> {
        let Self { config, handle, live, sockets, peer_tls } = self;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            sockets.iter().map(|_| mpsc::channel(HANDOVER_MAX)).unzip();
        let mut threads = Vec::new();
        for (number, (sockets, handed)) in sockets.into_iter().zip(receivers).enumerate() {
            let start = Start {
                config: Arc::clone(&config),
                live: Arc::clone(&live),
                metrics: handle.metrics.clone(),
                gate: handle.gate.clone(),
                taps: handle.taps.clone(),
                number,
                peer_tls: peer_tls.clone(),
                shutdown: shutdown.clone(),
                others: senders.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let name = format!("data-{number}");
            let serve = move || LocalSet::new().block_on(&runtime, start.run(sockets, handed));
            threads.push(std::thread::Builder::new().name(name).spawn(serve)?);
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data thread panicked; its connections are lost, please report this");
            }
        }
        Ok(())
    }
}

/// A socket with the place of its listener in the configuration.
type Handed = (std::net::TcpStream, SocketAddr, usize);

struct Start {
    config: Arc<Config>,
    live: Arc<Live>,
    metrics: Metrics,
    gate: Gate,
    number: usize,
    peer_tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: Shutdown,
    taps: Taps,
    others: Vec<mpsc::Sender<Handed>>,
}

/// What everything on one data thread shares.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) budget: RefCell<Budget>,
    pub(crate) debug: Option<SealKey>,
    pub(crate) gate: Gate,
    pub(crate) previews: Option<Previewing>,
    pub(crate) recorder: Arc<dyn Record>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) shutdown: Shutdown,
    pub(crate) taps: Taps,
    pub(crate) upstreams: Upstreams,
    config: Arc<Config>,
    metrics: Metrics,
    number: usize,
    others: Vec<mpsc::Sender<Handed>>,
    peer_tls: Option<Arc<rustls::ServerConfig>>,
    reader: RefCell<Reader>,
    settings: RefCell<Held>,
}

impl Start {
    async fn run(self, sockets: Vec<std::net::TcpListener>, mut handed: mpsc::Receiver<Handed>) {
        let Self { config, live, metrics, gate, number, peer_tls, shutdown, taps, others } = self;
        let shard = metrics.shards.get(number).cloned().unwrap_or_default();
        let worker = Rc::new(Worker {
            budget: RefCell::default(),
            debug: config.debug,
            previews: config.previews.clone(),
            recorder: Arc::clone(&config.recorder),
            upstreams: Upstreams::new(config.peer.clone(), Arc::clone(&shard)),
            gate,
            shard,
            shutdown: shutdown.clone(),
            taps,
            settings: RefCell::new(config.settings.hold()),
            config,
            metrics,
            number,
            others,
            peer_tls,
            reader: RefCell::new(live.reader()),
        });
        let keeper = task::spawn_local("keeper", keep(Rc::clone(&worker)));
        let accept = |(listener, socket)| {
            let worker = Rc::clone(&worker);
            task::spawn_local("accept", async move { worker.accept(socket, listener).await })
        };
        let accepting: Vec<_> = sockets.into_iter().enumerate().map(accept).collect();
        loop {
            tokio::select! {
                () = shutdown.begun() => break,
                // A closed channel cannot be: this thread holds a sender itself.
                Some((stream, address, listener)) = handed.recv() => {
                    worker.take_over(stream, address, listener);
                }
            }
        }
        for listener in accepting {
            _ = listener.await;
        }
        // From here on the other threads keep their connections.
        handed.close();
        while let Some((stream, address, listener)) = handed.recv().await {
            worker.take_over(stream, address, listener);
        }
        worker.refresh();
        let limit = worker.applied().settings.drain_timeout;
        if let Err(inside) = worker.gate.wait_empty(limit).await {
            tracing::warn!(?inside, ?limit, "connections did not end within the drain time and are closed");
        }
        keeper.abort();
    }
}

/// Wakes ten times a second. Takes over changed settings, samples the thread's CPU time for the balance of connections, and closes idle upstream
/// connections once a second.
async fn keep(worker: Rc<Worker>) {
    let mut ticks = interval(KEEPER_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut cpu_before, mut then) = (thread_cpu_us(), clock::now());
    for round in 0_u64.. {
        ticks.tick().await;
        worker.refresh();
        let (cpu, now) = (thread_cpu_us(), clock::now());
        let passed = u64::try_from(now.since(then).as_micros()).unwrap_or(u64::MAX).max(1);
        let permille = cpu.saturating_sub(cpu_before).saturating_mul(1_000) / passed;
        // Half of the former value keeps one quiet tenth of a second from looking like rest.
        let smooth = u64::midpoint(worker.shard.cpu_permille.load(Ordering::Relaxed), permille);
        worker.shard.cpu_permille.store(smooth, Ordering::Relaxed);
        worker.shard.cpu_us.store(cpu, Ordering::Relaxed);
        (cpu_before, then) = (cpu, now);
        if round.is_multiple_of(10) {
            worker.upstreams.sweep(now, defaults::IDLE_TIMEOUT);
        }
    }
}

fn thread_cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

impl Worker {
    /// The running snapshot, held.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.reader.borrow_mut().load())
    }

    /// Who keeps answers of upstreams.
    pub(crate) fn cache(&self) -> Option<Arc<dyn Cache>> {
        self.config.cache.clone()
    }

    /// The services of the gateway itself.
    pub(crate) fn services(&self) -> &Services {
        &self.config.services
    }

    /// The settings that this thread has, held.
    pub(crate) fn applied(&self) -> Held {
        Rc::clone(&self.settings.borrow())
    }

    fn refresh(&self) {
        let live = &self.config.settings;
        let mut held = self.settings.borrow_mut();
        if !live.is_current(&held) {
            *held = live.hold();
        }
    }

    async fn accept(self: Rc<Self>, socket: std::net::TcpListener, listener: usize) {
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "cannot listen"),
        };
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.begun() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.place(stream, address, listener),
                Err(error) => {
                    // Out of files or memory: more accepts fail until some connection ends.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(KEEPER_INTERVAL).await;
                }
            }
        }
        // Clients whose connection the kernel has made already would be reset with the listener.
        while let Some(Ok((stream, address))) = socket.accept().now_or_never() {
            self.start(stream, address, listener);
        }
    }

    /// Keeps a fresh connection, or gives it to the thread with the least to do.
    fn place(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, listener: usize) {
        let Some(target) = self.lighter() else { return self.start(stream, address, listener) };
        let Some(sender) = self.others.get(target) else { return self.start(stream, address, listener) };
        let Some(other) = self.metrics.shards.get(target) else {
            return self.start(stream, address, listener);
        };
        // On its way it counts already: the next one is not to follow it for want of news.
        other.connections_coming.fetch_add(1, Ordering::Relaxed);
        match stream.into_std() {
            Ok(stream) => match sender.try_send((stream, address, listener)) {
                Ok(()) => self.shard.handed_over.add(1),
                Err(
                    mpsc::error::TrySendError::Full((stream, ..))
                    | mpsc::error::TrySendError::Closed((stream, ..)),
                ) => {
                    other.connections_coming.fetch_sub(1, Ordering::Relaxed);
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.start(stream, address, listener);
                    }
                }
            },
            Err(error) => {
                other.connections_coming.fetch_sub(1, Ordering::Relaxed);
                tracing::debug!(%error, "a socket was lost between threads");
            }
        }
    }

    /// A thread that should rather take the next connection: by CPU time where this one is well above the mean, by open
    /// connections where CPU times say nothing yet.
    fn lighter(&self) -> Option<usize> {
        let shards = &self.metrics.shards;
        let count = shards.len() as u64;
        if count < 2 {
            return None;
        }
        let cpu = |shard: &Shard| shard.cpu_permille.load(Ordering::Relaxed);
        let open = |shard: &Shard| {
            let coming = shard.connections_coming.load(Ordering::Relaxed);
            u64::try_from(shard.connections_open.load(Ordering::Relaxed) + coming).unwrap_or(0)
        };
        let all = || shards.iter().enumerate();
        let busy: u64 = shards.iter().map(|shard| cpu(shard)).sum();
        let total: u64 = shards.iter().map(|shard| open(shard)).sum();
        let mine = open(&self.shard);
        // Below a tenth of the threads' time, shares of it are noise.
        if busy > 100 * count && cpu(&self.shard) * count * 100 > busy * SKEW_PERCENT {
            let lightest = all().min_by_key(|(_, shard)| (cpu(shard), open(shard)));
            // Times are of the past, and a connection that rests now may work later: a light thread takes more of them than
            // this one, but at most a quarter of all.
            let more = (total / 4).max(1);
            let target = lightest.filter(|(at, shard)| *at != self.number && open(shard) <= mine + more);
            if let Some((at, _)) = target {
                return Some(at);
            }
        }
        let (least, least_open) = all().map(|(at, shard)| (at, open(shard))).min_by_key(|(_, open)| *open)?;
        let skewed = (mine + 1) * count * 100 >= (total + 1) * SKEW_PERCENT;
        (mine > least_open && skewed).then_some(least)
    }

    /// Takes a connection that another thread hands over.
    fn take_over(self: &Rc<Self>, stream: std::net::TcpStream, address: SocketAddr, listener: usize) {
        if let Ok(stream) = TcpStream::from_std(stream) {
            self.start(stream, address, listener);
        }
        self.shard.connections_coming.fetch_sub(1, Ordering::Relaxed);
    }

    fn start(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, listener: usize) {
        let open = self.shard.connections_open.load(Ordering::Relaxed);
        if usize::try_from(open).unwrap_or(0) >= self.applied().settings.limits.connections_max {
            // Closed at once: an answer would cost what is not there.
            return tracing::warn!(%address, "too many connections; raise limits.connections or add nodes");
        }
        self.shard.connections.add(1);
        self.shard.connections_open.fetch_add(1, Ordering::Relaxed);
        let worker = Rc::clone(self);
        let guard = worker.gate.enter("connection");
        task::spawn_local("connection", async move {
            worker.connection(stream, address, listener).await;
            worker.shard.connections_open.fetch_sub(1, Ordering::Relaxed);
            drop(guard);
        });
    }

    /// Who is on the other side of a connection, as the load balancer in front of a listener says where it is to say so. `None`
    /// for whoever may not say it, or does not.
    async fn origin(
        &self,
        stream: &mut TcpStream,
        address: SocketAddr,
        listener: &Listener,
    ) -> Option<SocketAddr> {
        if !listener.proxy_protocol {
            return Some(address);
        }
        let applied = self.applied();
        if !applied.settings.trust.trusts(address.ip().to_canonical()) {
            tracing::warn!(%address, "a connection without a trusted proxy was turned away; trust.proxies names those in front of the listener");
            return None;
        }
        match timeout(applied.settings.limits.header_timeout, preamble::take(stream)).await {
            Ok(Ok(client)) => Some(client.unwrap_or(address)),
            // A load balancer that only looks whether the port is open.
            Ok(Err(preamble::Error::Ended)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(%address, %error, "a proxy's connection was turned away; let it send the PROXY protocol, or take the listener out of listen.proxy_protocol");
                None
            }
        }
    }

    async fn connection(self: &Rc<Self>, mut stream: TcpStream, address: SocketAddr, listener: usize) {
        _ = stream.set_nodelay(true);
        let Some(listener) = self.config.listeners.get(listener) else { return };
        let Some(address) = self.origin(&mut stream, address, listener).await else { return };
        let mut downstream = Downstream {
            address,
            busy: Rc::default(),
            tls: false,
            uris: Vec::new(),
            peer: None,
            switch: None,
        };
        let acceptor = match &listener.kind {
            ListenerKind::Public => {
                let limit = self.applied().settings.limits.header_timeout;
                return match timeout(limit, detect(&mut stream)).await {
                    Ok(Ok(Spoken::Http1(before))) => self.http1(Rewound { before, stream }, downstream).await,
                    Ok(Ok(Spoken::Http2(before))) => self.http2(Rewound { before, stream }, downstream).await,
                    // Nothing was sent, or not soon enough.
                    Ok(Err(_)) | Err(_) => {}
                };
            }
            ListenerKind::PublicTls(config) => TlsAcceptor::from(Arc::clone(config)),
            ListenerKind::Peer => match &self.peer_tls {
                Some(config) => TlsAcceptor::from(Arc::clone(config)),
                None => return,
            },
        };
        let accepted = timeout(self.applied().settings.limits.header_timeout, acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
            Err(_) => return,
        };
        downstream.tls = true;
        let session = stream.get_ref().1;
        let leaf: Option<&CertificateDer<'_>> = session.peer_certificates().and_then(<[_]>::first);
        let http2 = session.alpn_protocol() == Some(b"h2");
        if let (ListenerKind::Peer, Some(identity)) = (&listener.kind, &self.config.peer) {
            downstream.peer = match leaf.map(tls::peer_region) {
                Some(Ok(region)) => Some(region),
                _ => {
                    return tracing::warn!(%address, "a gateway without a region in its certificate was turned away");
                }
            };
            let chain = session.peer_certificates().map(<[_]>::to_vec);
            let stream = identity.guard(stream, chain.as_deref());
            return if http2 {
                self.http2(stream, downstream).await
            } else {
                self.http1(stream, downstream).await
            };
        }
        downstream.uris = leaf.map(tls::uris_of).unwrap_or_default();
        if http2 { self.http2(stream, downstream).await } else { self.http1(stream, downstream).await }
    }

    async fn http1<S>(self: &Rc<Self>, stream: S, mut downstream: Downstream)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = self.applied().settings.limits;
        let switch = Arc::new(Switch::default());
        downstream.switch = Some(Arc::clone(&switch));
        let downstream = Rc::new(downstream);
        let (head, write) = (limits.header_timeout, limits.body_idle_timeout);
        let stream = Screened::new(stream, limits.screen, head, write, switch, Arc::clone(&self.shard));
        let service = service_fn(|mut request| {
            tunnel::prepare(&mut request);
            let (worker, downstream) = (Rc::clone(self), Rc::clone(&downstream));
            async move { Ok::<_, Infallible>(pipeline::handle(worker, downstream, request).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout)
            .max_headers(limits.screen.fields_max + 1)
            .max_buf_size(limits.screen.head_bytes_max.max(8 * 1024))
            .auto_date_header(true)
            // With it the library's write buffer has no limit, and a client that does not read costs all memory.
            .pipeline_flush(false)
            .half_close(false);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        // In order: what has already arrived is read before a shutdown is obeyed.
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(address = %downstream.address, %error, "connection ended early");
        }
    }

    async fn http2<S>(self: &Rc<Self>, stream: S, downstream: Downstream)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let limits = self.applied().settings.limits;
        let downstream = Rc::new(downstream);
        let service = service_fn(|request| {
            let (worker, downstream) = (Rc::clone(self), Rc::clone(&downstream));
            async move { Ok::<_, Infallible>(pipeline::handle(worker, downstream, request).await) }
        });
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(defaults::STREAMS_MAX)
            .max_pending_accept_reset_streams(64)
            .max_local_error_reset_streams(256)
            .max_header_list_size(u32::try_from(limits.screen.head_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(limits.idle_timeout / 2)
            .keep_alive_timeout(Duration::from_secs(20));
        let account = if downstream.peer.is_some() { Frames::trusted } else { Frames::new };
        let frames = Rc::new(RefCell::new(account(clock::now())));
        let stream = Watched::new(stream, Rc::clone(&frames), Arc::clone(&self.shard));
        let identity = self.config.peer.as_ref().filter(|_| downstream.peer.is_some());
        let replaced = async {
            match identity {
                Some(identity) => identity.replaced().await,
                None => std::future::pending().await,
            }
        };
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        // In order: what has already arrived is read before a shutdown is obeyed.
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = frames::stalled(&frames, &downstream.busy, limits.body_idle_timeout) => {
                return tracing::debug!(address = %downstream.address, "the client does not take its responses");
            }
            () = self.shutdown.begun() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            // The other region makes another connection, by the identity that is there now.
            () = replaced => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(address = %downstream.address, %error, "connection ended early");
        }
    }
}
