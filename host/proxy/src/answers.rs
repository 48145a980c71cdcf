//! Connections to upstreams of HTTP/1: every byte of them passes the screen of responses before the HTTP library reads it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use http::{HeaderMap, Method, header};
use portolan_core::screen::{Asked, Limits, Responses};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::Shard;

const NOTHING: u8 = 0;
const HEAD: u8 = 1;
const PLAIN: u8 = 2;
const UPGRADE: u8 = 3;
const SPOILED: u8 = 4;

/// What the sender of requests and the reader of responses of one connection tell each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<AtomicU8>);

impl Turn {
    /// A request is about to be sent: one response may come.
    pub(crate) fn ask(&self, method: &Method, fields: &HeaderMap) {
        let asked = match *method {
            Method::HEAD => HEAD,
            _ if fields.contains_key(header::UPGRADE) => UPGRADE,
            _ => PLAIN,
        };
        _ = self.0.compare_exchange(NOTHING, asked, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Has the upstream sent what nobody asked for? Then nothing that comes over the connection can be believed.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.0.load(Ordering::Acquire) == SPOILED
    }

    fn take(&self) -> Option<Asked> {
        let asked = match self.0.load(Ordering::Acquire) {
            HEAD => Asked::Head,
            PLAIN => Asked::Plain,
            UPGRADE => Asked::Upgrade,
            _ => return None,
        };
        self.0.store(NOTHING, Ordering::Release);
        Some(asked)
    }

    fn spoil(&self) {
        self.0.store(SPOILED, Ordering::Release);
    }
}

/// A stream of responses behind the screen.
#[derive(Debug)]
pub(crate) struct Answers<S> {
    screen: Responses,
    shard: Arc<Shard>,
    stream: S,
    turn: Turn,
}

impl<S> Answers<S> {
    pub(crate) const fn new(stream: S, limits: Limits, turn: Turn, shard: Arc<Shard>) -> Self {
        Self { screen: Responses::new(limits), shard, stream, turn }
    }

    /// How many of the bytes may be believed.
    fn screen(&mut self, fresh: &[u8]) -> io::Result<usize> {
        if self.screen.is_idle()
            && let Some(asked) = self.turn.take()
        {
            self.screen.begin(asked);
        }
        let violation = match self.screen.push(fresh) {
            Ok(good) if good == fresh.len() => return Ok(good),
            Ok(good) => {
                self.turn.spoil();
                if good > 0 {
                    return Ok(good);
                }
                portolan_core::screen::Violation::Unasked
            }
            Err(violation) => violation,
        };
        self.turn.spoil();
        self.shard.refuse_answer(violation);
        Err(io::Error::new(io::ErrorKind::InvalidData, violation))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Answers<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.turn.is_spoiled() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let good = if fresh.is_empty() { Ok(0) } else { this.screen(fresh) };
        buffer.set_filled(before + *good.as_ref().unwrap_or(&0));
        Poll::Ready(good.map(drop))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answers<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
