//! What a load balancer says of a connection before its client is heard: reads PROXY headers from sockets, nothing behind them.

use std::io;
use std::net::SocketAddr;

use portolan_core::proxy_protocol::{self, HEADER_BYTES_MAX, Origin, Violation};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Why nobody can be believed to be there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection ended within its PROXY header")]
    Ended,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Violation(#[from] Violation),
}

/// Takes the header off, and gives the address of the client, where the sender names one. Bytes are looked at before they are
/// taken, so that those of the client stay for whoever speaks with it.
pub(crate) async fn take(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Error> {
    let mut bytes = Vec::with_capacity(256);
    let mut seen = Box::new([0; HEADER_BYTES_MAX]);
    loop {
        let count = stream.peek(&mut *seen).await?;
        if count == 0 {
            return Err(Error::Ended);
        }
        let before = bytes.len();
        bytes.extend_from_slice(seen.get(..count).unwrap_or_default());
        let read = proxy_protocol::read(&bytes)?;
        // Of a header that is not whole, all that came is its own.
        let taken = read.map_or(count, |(_, length)| length.saturating_sub(before));
        stream.read_exact(seen.get_mut(..taken).unwrap_or_default()).await?;
        match read {
            Some((Origin::Client(address), _)) => return Ok(Some(address)),
            Some((Origin::Sender, _)) => return Ok(None),
            None => {}
        }
    }
}
