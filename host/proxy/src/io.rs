//! Connections as the HTTP library reads them: every byte of HTTP/1 passes the framing screen first.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::metrics::Shard;
use bytes::{Buf as _, Bytes};
use portolan_core::screen::{Limits, Screen};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How an HTTP/2 connection without TLS begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a cleartext connection turned out to speak, with the bytes that were read to find out.
#[derive(Debug)]
pub(crate) enum Spoken {
    Http1(Bytes),
    Http2(Bytes),
}

/// Reads as much as it takes to tell HTTP/2 from HTTP/1.
pub(crate) async fn detect<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Spoken> {
    let mut begun = Vec::with_capacity(4_096);
    loop {
        if stream.read_buf(&mut begun).await? == 0 {
            return Ok(Spoken::Http1(begun.into()));
        }
        let common = begun.len().min(PREFACE.len());
        if begun.get(..common) != PREFACE.get(..common) {
            return Ok(Spoken::Http1(begun.into()));
        }
        if begun.len() >= PREFACE.len() {
            return Ok(Spoken::Http2(begun.into()));
        }
    }
}

const WAITING: u8 = 0;
const ACCEPTED: u8 = 1;
const DECLINED: u8 = 2;

/// What the request handler and the reader of a connection tell each other.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    answer: AtomicU8,
    /// Requests handed to the handler whose responses have not ended.
    in_flight: AtomicU16,
    waker: Mutex<Option<Waker>>,
}

impl Switch {
    /// The upstream agreed to another protocol.
    pub(crate) fn accept(&self) {
        self.tell(ACCEPTED);
    }

    /// The protocol stays HTTP.
    pub(crate) fn decline(&self) {
        self.tell(DECLINED);
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn tell(&self, answer: u8) {
        self.answer.store(answer, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A stream with bytes put back before it.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    pub(crate) before: Bytes,
    pub(crate) stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let taken = self.before.len().min(buffer.remaining());
        buffer.put_slice(self.before.get(..taken).unwrap_or_default());
        self.before.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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

/// A stream of HTTP/1 behind the screen.
#[derive(Debug)]
pub(crate) struct Screened<S> {
    /// When the head that is arriving must be whole.
    deadline: Option<Pin<Box<Sleep>>>,
    head_timeout: Duration,
    stream: S,
    screen: Screen,
    switch: Arc<Switch>,
    shard: Arc<Shard>,
}

impl<S> Screened<S> {
    /// `head_timeout` is the time from the first byte of a head to its last.
    pub(crate) fn new(
        stream: S,
        limits: Limits,
        head_timeout: Duration,
        switch: Arc<Switch>,
        shard: Arc<Shard>,
    ) -> Self {
        Self { deadline: None, head_timeout, stream, screen: Screen::new(limits), switch, shard }
    }

    /// Waits for the handler's word on an upgrade; until then nothing may be read.
    fn poll_switch(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.screen.awaits_upgrade() {
            return Poll::Ready(());
        }
        *self.switch.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        match self.switch.answer.swap(WAITING, Ordering::AcqRel) {
            ACCEPTED => self.screen.upgrade_accepted(),
            DECLINED => self.screen.upgrade_declined(),
            _ => return Poll::Pending,
        }
        Poll::Ready(())
    }
}

impl<S: AsyncWrite + Unpin> Screened<S> {
    /// Ends a connection whose head does not come to its end.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        std::task::ready!(deadline.as_mut().poll(context));
        self.answer(
            context,
            http::StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the request's head took too long",
        );
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Answers a refused head, where no response is under way that it would break into. One write, best effort: the
    /// connection is over in any case.
    fn answer(&mut self, context: &mut Context<'_>, status: http::StatusCode, kind: &str, detail: &str) {
        if self.switch.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        let body = crate::error::problem(status.as_u16(), kind, detail, "-");
        let reason = status.canonical_reason().unwrap_or("Bad Request");
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            status.as_u16(),
            body.len()
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&body);
        let _best_effort = Pin::new(&mut self.stream).poll_write(context, &bytes);
        let _best_effort = Pin::new(&mut self.stream).poll_flush(context);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        std::task::ready!(this.poll_switch(context));
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Pending => return this.poll_deadline(context),
            Poll::Ready(result) => result?,
        }
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if let Err(violation) = this.screen.push(fresh) {
            buffer.set_filled(before);
            this.shard.refuse(violation);
            let status =
                http::StatusCode::from_u16(violation.status()).unwrap_or(http::StatusCode::BAD_REQUEST);
            this.answer(context, status, "malformed", &violation.to_string());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        if this.screen.is_in_head() {
            let limit = this.head_timeout;
            this.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        } else {
            this.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
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
