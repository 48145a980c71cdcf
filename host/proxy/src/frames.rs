//! Connections of HTTP/2 clients: an account of their frames is kept, and who floods or takes nothing is let go.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_core::screen::Frames;
use portolan_foundation::clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::metrics::Shard;

/// A stream of HTTP/2 with its account.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    frames: Rc<RefCell<Frames>>,
    shard: Arc<Shard>,
    stream: S,
}

impl<S> Watched<S> {
    pub(crate) const fn new(stream: S, frames: Rc<RefCell<Frames>>, shard: Arc<Shard>) -> Self {
        Self { frames, shard, stream }
    }
}

/// Waits until the client has let `limit` pass without taking anything of responses that wait for it. Looks four times in that
/// time; `busy` counts the streams that wait for the gateway instead.
///
/// # Cancel safety
/// Nothing is lost with it.
pub(crate) async fn stalled(frames: &RefCell<Frames>, busy: &Cell<usize>, limit: Duration) {
    loop {
        sleep(limit / 4).await;
        let frames = frames.borrow();
        if !frames.is_trusted() && frames.open() > busy.get() && frames.still(clock::now()) > limit {
            return;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let mut frames = this.frames.borrow_mut();
        if let Err(violation) = frames.receive(fresh, clock::now()) {
            this.shard.refuse(violation);
            // One write, best effort: the connection is over in any case.
            if let Some(goodbye) = frames.goodbye(violation) {
                let _best_effort = Pin::new(&mut this.stream).poll_write(context, &goodbye);
                let _best_effort = Pin::new(&mut this.stream).poll_flush(context);
            }
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.frames.borrow_mut().send(bytes.get(..written).unwrap_or_default(), clock::now());
        Poll::Ready(Ok(written))
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
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        let (mut left, now) = (written, clock::now());
        let mut frames = self.frames.borrow_mut();
        for slice in slices {
            let part = left.min(slice.len());
            frames.send(slice.get(..part).unwrap_or_default(), now);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
