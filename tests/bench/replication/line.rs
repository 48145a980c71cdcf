//! The link between regions: a socket that hands on to another, counts what passes, and can be cut. It does not look into what it carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use portolan_foundation::task;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A link. It is cut until it leads somewhere.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    carried: Arc<AtomicU64>,
    to: watch::Sender<Option<SocketAddr>>,
    used: watch::Sender<Option<Instant>>,
}

impl Line {
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let carried = Arc::<AtomicU64>::default();
        let (to, used) = (watch::Sender::new(None), watch::Sender::new(None));
        let (count, leads, uses) = (Arc::clone(&carried), to.subscribe(), used.clone());
        task::spawn("line", async move {
            while let Ok((from, _)) = listener.accept().await {
                // Whoever comes while it is cut is not answered.
                let to = *leads.borrow();
                if let Some(to) = to {
                    uses.send_if_modified(|used| used.is_none() && used.replace(Instant::now()).is_none());
                    task::spawn("line in use", join(from, to, leads.clone(), Arc::clone(&count)));
                }
            }
        });
        Self { address, carried, to, used }
    }

    pub(crate) fn leads_to(&self, address: SocketAddr) {
        self.used.send_replace(None);
        self.to.send_replace(Some(address));
    }

    /// Ends what passes, until it leads somewhere again; says where it led.
    pub(crate) fn cut(&self) -> Option<SocketAddr> {
        self.to.send_replace(None)
    }

    /// When it was first used since it leads where it does: waits for that.
    pub(crate) async fn used(&self) -> Instant {
        let mut used = self.used.subscribe();
        let since = *used.wait_for(Option::is_some).await.unwrap();
        since.unwrap()
    }

    /// Bytes that have passed, both ways.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

async fn join(
    from: TcpStream,
    to: SocketAddr,
    mut leads: watch::Receiver<Option<SocketAddr>>,
    count: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    for stream in [&from, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (from, server) = (from.into_split(), server.into_split());
    tokio::select! {
        _ = async { tokio::join!(carry(from.0, server.1, &count), carry(server.0, from.1, &count)) } => {}
        _ = leads.wait_for(|leads| *leads != Some(to)) => {}
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}
