//! Datagrams. Each socket has a task of its own and one buffer for what it reads and what it writes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, net, task};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::respond::{Outcome, Transport, respond};
use super::{Shared, transfer};
use crate::defaults::DATAGRAMS_AT_ONCE;
use crate::wire::{Reply, code};

/// The longest question that is read. What is longer is cut, and malformed by that.
const QUESTION_BYTES: usize = 4_096;
/// What the kernel holds while a task is busy: some thousand questions.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// How often a free port is looked for that is free for both.
const PORT_TRIES: usize = 20;

/// A listener for TCP and sockets for UDP on one address. A port that is to be chosen is the same for both.
pub(super) fn both(address: SocketAddr, workers: usize) -> io::Result<(TcpListener, Vec<Arc<UdpSocket>>)> {
    let open = || {
        let listener = TcpListener::from_std(net::listen(address)?)?;
        let actual = listener.local_addr()?;
        let sockets: io::Result<Vec<_>> = (0..workers).map(|_| bind(actual).map(Arc::new)).collect();
        Ok((listener, sockets?))
    };
    let mut opened = open();
    for _ in 1..PORT_TRIES {
        match &opened {
            Err(error) if address.port() == 0 && error_is_taken(error) => opened = open(),
            _ => break,
        }
    }
    opened
}

fn error_is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // The kernel gives less where its own limit is lower.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers on a socket until the end. Should the task that does so panic, another takes its place: one packet must not silence a
/// server.
pub(super) async fn keep(socket: Arc<UdpSocket>, shared: Arc<Shared>, end: Shutdown) {
    while !end.is_begun() {
        let serving = serve(Arc::clone(&socket), Arc::clone(&shared), end.clone());
        if matches!(task::spawn("answer datagrams", serving).await, Ok(Some(()))) {
            return;
        }
    }
}

async fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>, end: Shutdown) {
    let mut question = vec![0; QUESTION_BYTES];
    let mut answer = Vec::with_capacity(QUESTION_BYTES);
    loop {
        // Both are cancel-safe: readiness that was not used is there again.
        tokio::select! {
            ready = socket.readable() => if ready.is_err() { return },
            () = end.begun() => return,
        }
        let mut is_more = true;
        for _ in 0..DATAGRAMS_AT_ONCE {
            match socket.try_recv_from(&mut question) {
                Ok((length, from)) => {
                    let packet = question.get(..length).unwrap_or_default();
                    one(&socket, &shared, packet, from, &mut answer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_more = false;
                    break;
                }
                // Somebody to whom we wrote is not there; that is said on this socket.
                Err(error) => tracing::debug!(%error, "receive a datagram"),
            }
        }
        if is_more {
            tokio::task::yield_now().await;
        }
    }
}

fn one(socket: &UdpSocket, shared: &Shared, packet: &[u8], from: SocketAddr, answer: &mut Vec<u8>) {
    // Nobody listens on port 0: it was made up.
    if from.port() == 0 {
        return;
    }
    let send = |answer: &[u8]| {
        // What the kernel has no room for is asked for again.
        if let Err(error) = socket.try_send_to(answer, from) {
            tracing::debug!(%error, "send a datagram");
        }
    };
    let served = shared.served.load();
    let Some(served) = served.as_deref() else {
        if not_yet(packet, answer) {
            send(answer);
        }
        return;
    };
    match respond(shared.around(served), packet, from.ip(), Transport::Udp, answer) {
        Outcome::Dropped => {}
        Outcome::Ready => send(answer),
        Outcome::Guarded => {
            let now_s = clock::unix_ms() / 1_000;
            let around = shared.around(served);
            let answers =
                transfer::respond(around, &shared.secondaries, packet, from.ip(), Transport::Udp, now_s);
            answers.iter().for_each(|answer| send(answer));
        }
    }
}

/// Without a plan nothing is known: another server is to be asked.
pub(super) fn not_yet(packet: &[u8], answer: &mut Vec<u8>) -> bool {
    match crate::wire::Question::read(packet) {
        Ok(question) => {
            Reply::new(answer, &question, usize::MAX, 0).finish(code::SERVER, None);
            true
        }
        Err(_) => false,
    }
}
