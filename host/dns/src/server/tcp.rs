//! Connections. There are so many at once, and so many of one network; each has a time to say something.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::respond::{Outcome, Transport, respond};
use super::{Shared, limit, transfer, udp};
use crate::defaults::{
    CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK, IDLE, QUESTIONS_PER_CONNECTION, WRITE_TIMEOUT,
};

/// How long nothing is accepted after the machine had nothing left to accept with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that are to be taken within one time limit.
const PIECE_BYTES: usize = 64 * 1024;

/// Who is connected.
#[derive(Debug, Default)]
struct Connected {
    all: usize,
    networks: HashMap<u128, usize>,
}

/// A place among those who are connected; dropping it leaves.
#[derive(Debug)]
struct Place {
    connected: Arc<Mutex<Connected>>,
    network: u128,
}

impl Place {
    fn take(connected: &Arc<Mutex<Connected>>, from: IpAddr) -> Option<Self> {
        let network = limit::network(from);
        let mut inside = connected.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = inside.networks.get(&network).copied().unwrap_or(0);
        if inside.all >= CONNECTIONS_MAX || of_network >= CONNECTIONS_PER_NETWORK {
            return None;
        }
        inside.all += 1;
        inside.networks.insert(network, of_network + 1);
        drop(inside);
        Some(Self { connected: Arc::clone(connected), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        inside.all = inside.all.saturating_sub(1);
        let left = inside.networks.get(&self.network).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            inside.networks.remove(&self.network);
        } else {
            inside.networks.insert(self.network, left);
        }
    }
}

/// Accepts until the end.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, end: Shutdown) {
    let connected = Arc::default();
    loop {
        // Both are cancel-safe.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.begun() => return,
        };
        match accepted {
            Ok((stream, from)) => match Place::take(&connected, from.ip()) {
                Some(place) => {
                    let serving = connection(stream, from, Arc::clone(&shared), end.clone(), place);
                    drop(task::spawn("answer a connection", serving));
                }
                None => shared.counters.connections_refused.add(),
            },
            Err(error) => {
                tracing::warn!(%error, "accept a DNS connection; if this repeats, raise the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared>,
    end: Shutdown,
    place: Place,
) {
    let (mut question, mut answer, mut framed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..QUESTIONS_PER_CONNECTION {
        let read = tokio::select! {
            read = timeout(IDLE, message(&mut stream, &mut question)) => read,
            () = end.begun() => break,
        };
        if !matches!(read, Ok(Ok(()))) {
            break;
        }
        framed.clear();
        if !reply(&shared, &question, from.ip(), &mut answer, &mut framed) {
            break;
        }
        if !write(&mut stream, &framed).await {
            break;
        }
    }
    drop(place);
}

/// Writes as long as something is taken in time; a zone may take longer as a whole.
async fn write(stream: &mut TcpStream, framed: &[u8]) -> bool {
    for piece in framed.chunks(PIECE_BYTES) {
        if !matches!(timeout(WRITE_TIMEOUT, stream.write_all(piece)).await, Ok(Ok(()))) {
            return false;
        }
    }
    true
}

/// Reads a message with its length before it.
async fn message(stream: &mut TcpStream, question: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    question.resize(usize::from(length), 0);
    stream.read_exact(question).await?;
    Ok(())
}

/// Answers a message; `false` when there is nothing to say to it, and so no more to hear.
fn reply(shared: &Shared, question: &[u8], from: IpAddr, answer: &mut Vec<u8>, framed: &mut Vec<u8>) -> bool {
    let mut frame = |answer: &[u8]| {
        let Ok(length) = u16::try_from(answer.len()) else { return false };
        framed.extend(length.to_be_bytes());
        framed.extend_from_slice(answer);
        true
    };
    let served = shared.served.load();
    let Some(served) = served.as_deref() else {
        return udp::not_yet(question, answer) && frame(answer);
    };
    match respond(shared.around(served), question, from, Transport::Tcp, answer) {
        Outcome::Dropped => false,
        Outcome::Ready => frame(answer),
        Outcome::Guarded => {
            let now_s = clock::unix_ms() / 1_000;
            let around = shared.around(served);
            let answers =
                transfer::respond(around, &shared.secondaries, question, from, Transport::Tcp, now_s);
            !answers.is_empty() && answers.iter().all(|answer| frame(answer))
        }
    }
}
