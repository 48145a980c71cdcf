//! Lines between processes: a socket that hands on to another, counts what passes, and can be slow, silent, broken or cut. It does not look
//! into what it carries.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portolan_foundation::task;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Pieces that are on their way in one direction of a connection.
const PIECES: usize = 64;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 * 1024;

/// A line. It is cut until it leads somewhere.
pub struct Line {
    /// Where it begins.
    pub address: SocketAddr,
    carried: Arc<AtomicU64>,
    to: watch::Sender<Option<SocketAddr>>,
    used: watch::Sender<Option<Instant>>,
    weathers: Arc<Weathers>,
}

/// How a line carries what comes from somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// In each direction, as much as there is when none is said.
    pub bytes_per_second: Option<NonZeroU32>,
    /// On the way, in each direction.
    pub delay: Duration,
    /// Whether anything comes through.
    pub passage: Passage,
}

/// Whether anything comes through a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// Nothing arrives, not even the end: it hangs. What was sent arrives when the line is open again, as TCP would have it.
    Hole,
    /// All does.
    #[default]
    Open,
    /// Connections that are there are reset, and those that are made.
    Reset,
}

/// The weather for each of those who use a line.
#[derive(Default)]
struct Weathers {
    by: Mutex<BTreeMap<String, watch::Sender<Weather>>>,
    /// Is it other than fair for anybody? Until then nobody has to be told from others, which costs more than all that a line carries.
    foul: watch::Sender<bool>,
}

impl Weathers {
    fn set(&self, who: &str, weather: Weather) {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.entry(who.to_owned()).or_default().send_replace(weather);
        let foul = by.values().any(|there| *there.borrow() != Weather::default());
        drop(by);
        self.foul.send_replace(foul);
    }

    fn of(&self, who: &str) -> watch::Receiver<Weather> {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        by.entry(who.to_owned()).or_default().subscribe()
    }

    /// The weather of who comes from an address, as soon as it is other than fair for anybody.
    async fn found(&self, who: &Arc<Who>, address: SocketAddr) -> watch::Receiver<Weather> {
        let mut foul = self.foul.subscribe();
        foul.wait_for(|foul| *foul).await.ok();
        let who = Arc::clone(who);
        self.of(&tokio::task::spawn_blocking(move || who(address)).await.unwrap_or_default())
    }
}

/// Says who uses a line, by the address that they come from.
type Who = dyn Fn(SocketAddr) -> String + Send + Sync;

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Line").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Line {
    /// A line that is the same for all who use it: to [`Self::weather`] they are nobody, `""`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn open() -> Self {
        Self::open_among(|_| String::new()).await
    }

    /// A line that has a weather of its own for each who uses it.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn open_among(who: impl Fn(SocketAddr) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let line = Self {
            address,
            carried: Arc::default(),
            to: watch::Sender::new(None),
            used: watch::Sender::new(None),
            weathers: Arc::default(),
        };
        let (count, leads, uses) = (Arc::clone(&line.carried), line.to.subscribe(), line.used.clone());
        task::spawn("line", take(listener, Arc::new(who), Arc::clone(&line.weathers), count, leads, uses));
        line
    }

    /// From here on it leads there; what leads elsewhere ends.
    pub fn leads_to(&self, address: SocketAddr) {
        self.used.send_replace(None);
        self.to.send_replace(Some(address));
    }

    /// Ends what passes, until it leads somewhere again; says where it led.
    pub fn cut(&self) -> Option<SocketAddr> {
        self.to.send_replace(None)
    }

    /// How it carries for one of those who use it, from here on.
    pub fn weather(&self, who: &str, weather: Weather) {
        self.weathers.set(who, weather);
    }

    /// When it was first used since it leads where it does: waits for that.
    ///
    /// # Panics
    /// Never: the line has its own end of it.
    pub async fn used(&self) -> Instant {
        let mut used = self.used.subscribe();
        let since = *used.wait_for(Option::is_some).await.expect("the line is there");
        since.expect("it was waited for")
    }

    /// Bytes that have passed, both ways.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

async fn take(
    listener: TcpListener,
    who: Arc<Who>,
    weathers: Arc<Weathers>,
    count: Arc<AtomicU64>,
    leads: watch::Receiver<Option<SocketAddr>>,
    uses: watch::Sender<Option<Instant>>,
) {
    while let Ok((from, address)) = listener.accept().await {
        // Whoever comes while it is cut is not answered.
        let Some(to) = *leads.borrow() else { continue };
        uses.send_if_modified(|used| used.is_none() && used.replace(Instant::now()).is_none());
        let (who, weathers) = (Arc::clone(&who), Arc::clone(&weathers));
        let (count, leads) = (Arc::clone(&count), leads.clone());
        task::spawn("line in use", async move {
            let weather = watch::Sender::new(Weather::default());
            let is_foul = *weathers.foul.borrow();
            let known = if is_foul { Some(weathers.found(&who, address).await) } else { None };
            if let Some(there) = &known {
                weather.send_replace(*there.borrow());
            }
            let carried = join(from, to, leads, weather.subscribe(), &count);
            let changed = async {
                let mut there = match known {
                    Some(there) => there,
                    None => weathers.found(&who, address).await,
                };
                loop {
                    weather.send_replace(*there.borrow_and_update());
                    if there.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            tokio::select! {
                () = carried => {}
                () = changed => {}
            }
        });
    }
}

async fn join(
    mut from: TcpStream,
    to: SocketAddr,
    mut leads: watch::Receiver<Option<SocketAddr>>,
    mut weather: watch::Receiver<Weather>,
    count: &AtomicU64,
) {
    let through = through(&mut from, to, weather.clone(), count);
    let is_reset = tokio::select! {
        () = through => false,
        _ = leads.wait_for(|leads| *leads != Some(to)) => false,
        _ = weather.wait_for(|weather| weather.passage == Passage::Reset) => true,
    };
    if is_reset {
        from.set_zero_linger().ok();
    }
}

async fn through(
    from: &mut TcpStream,
    to: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    count: &AtomicU64,
) {
    opens(&mut weather).await;
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    for stream in [&*from, &server] {
        stream.set_nodelay(true).ok();
    }
    let (from, server) = (from.split(), server.split());
    let back = carry(server.0, from.1, weather.clone(), count);
    tokio::join!(carry(from.0, server.1, weather, count), back);
}

/// Waits until something comes through.
async fn opens(weather: &mut watch::Receiver<Weather>) {
    weather.wait_for(|weather| weather.passage != Passage::Hole).await.ok();
}

/// Carries one direction. Reading goes on while what was read is on its way.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    count: &AtomicU64,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let reading = async move {
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            let Ok(1..) = from.read_buf(&mut buffer).await else { return };
            if sender.send((Instant::now(), buffer.freeze())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((came, piece)) = receiver.recv().await {
            let Weather { bytes_per_second, delay, .. } = *weather.borrow();
            if !delay.is_zero() {
                tokio::time::sleep_until(came + delay).await;
            }
            if let Some(rate) = bytes_per_second {
                tokio::time::sleep(Duration::from_secs(piece.len() as u64) / rate.get()).await;
            }
            opens(&mut weather).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        opens(&mut weather).await;
        let _gone = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// The sockets of some processes, by their own ends, each with whose it is: all at once, because the kernel lists all to tell of one.
#[must_use]
pub fn sockets(of: &[u32]) -> BTreeMap<SocketAddr, u32> {
    let mut owners = BTreeMap::new();
    for pid in of {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let files = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        for file in files.filter_map(|file| file.to_str().map(str::to_owned)) {
            if let Some(socket) = file.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                owners.insert(socket.to_owned(), *pid);
            }
        }
    }
    let listed = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // As the kernel lists it: the address in the machine's own order of bytes.
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
        let port = u16::from_str_radix(port, 16).ok()?;
        Some((SocketAddr::from((ip, port)), *owners.get(*fields.get(9)?)?))
    };
    listed.lines().filter_map(socket).collect()
}
