//! Connections as the HTTP library reads them: every byte of HTTP/1 passes the framing screen first.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::metrics::Shard;
use bytes::{Buf as _, Bytes};
use http::StatusCode;
use portolan_core::screen::{Limits, Screen, Violation};
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
    /// Requests whose responses have ended.
    ended: AtomicU64,
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

    /// A response has ended.
    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    fn tell(&self, answer: u8) {
        self.answer.store(answer, Ordering::Release);
        self.wake();
    }

    fn wait(&self, context: &Context<'_>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
    }

    fn wake(&self) {
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

/// How long a refused client may take to read why, and how much of what it still sends is read meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// What ends a connection.
#[derive(Debug)]
struct Refused {
    discarded: usize,
    /// Until when the client may read its answer, once it has one.
    linger: Option<Pin<Box<Sleep>>>,
    violation: Violation,
    /// Is it the fault of a later request than those that are being answered?
    waits: bool,
}

/// A stream of HTTP/1 behind the screen.
#[derive(Debug)]
pub(crate) struct Screened<S> {
    /// When the head that is arriving must be whole.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The request, by its number, that the newest byte written answers.
    answering: u64,
    /// Has all that was written been flushed? Only then may the screen write an answer of its own.
    flushed: bool,
    head_timeout: Duration,
    /// What is wrong behind the requests that are being answered.
    refused: Option<Refused>,
    stream: S,
    screen: Screen,
    stuck: Stuck,
    switch: Arc<Switch>,
    shard: Arc<Shard>,
}

/// Ends a connection whose client does not read what is written for too long.
#[derive(Debug)]
struct Stuck {
    alarm: Option<Pin<Box<Sleep>>>,
    limit: Duration,
}

impl Stuck {
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.alarm = None;
            return written;
        }
        let limit = self.limit;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        alarm.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Screened<S> {
    /// `head_timeout` is the time from the first byte of a head to its last, `write_timeout` that for a client to read on.
    pub(crate) fn new(
        stream: S,
        limits: Limits,
        head_timeout: Duration,
        write_timeout: Duration,
        switch: Arc<Switch>,
        shard: Arc<Shard>,
    ) -> Self {
        let screen = Screen::new(limits);
        let stuck = Stuck { alarm: None, limit: write_timeout };
        Self {
            deadline: None,
            answering: 0,
            flushed: true,
            head_timeout,
            refused: None,
            stream,
            screen,
            stuck,
            switch,
            shard,
        }
    }

    /// Waits for the handler's word on an upgrade; until then nothing may be read.
    fn poll_switch(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.screen.awaits_upgrade() {
            return Poll::Ready(());
        }
        self.switch.wait(context);
        match self.switch.answer.swap(WAITING, Ordering::AcqRel) {
            ACCEPTED => self.screen.upgrade_accepted(),
            DECLINED => self.screen.upgrade_declined(),
            _ => return Poll::Pending,
        }
        Poll::Ready(())
    }
}

impl<S> Screened<S> {
    /// Keeps account of what is written. Nothing may follow a farewell.
    fn begin_write(&mut self) -> io::Result<()> {
        if self.refused.as_ref().is_some_and(|refused| refused.linger.is_some()) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let ended = self.switch.ended.load(Ordering::Relaxed);
        if ended < self.screen.requests() {
            self.answering = self.answering.max(ended + 1);
        }
        self.flushed = false;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Screened<S> {
    /// Ends a connection whose head does not come to its end.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        std::task::ready!(deadline.as_mut().poll(context));
        self.answer(context, StatusCode::REQUEST_TIMEOUT, "timeout", "the request's head took too long");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends a connection with what is wrong with it, after the responses to what came before.
    fn poll_refused(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let Some(mut refused) = self.refused.take() else { return Poll::Ready(io::ErrorKind::Other.into()) };
        let ended = self.poll_farewell(context, &mut refused);
        let error = io::Error::new(io::ErrorKind::InvalidData, refused.violation);
        self.refused = Some(refused);
        ended.map(|()| error)
    }

    fn poll_farewell(&mut self, context: &mut Context<'_>, refused: &mut Refused) -> Poll<()> {
        if refused.linger.is_none() {
            if !self.is_quiet() {
                // The response that is under way tells by its own end, or by that of the connection.
                self.switch.wait(context);
                return if refused.waits { Poll::Pending } else { Poll::Ready(()) };
            }
            let status = StatusCode::from_u16(refused.violation.status()).unwrap_or(StatusCode::BAD_REQUEST);
            self.answer(context, status, "malformed", &refused.violation.to_string());
            let _best_effort = Pin::new(&mut self.stream).poll_shutdown(context);
        }
        // Closed with bytes unread, the connection is reset, and the client may lose the answer (RFC 9112, section 9.6).
        let alarm = refused.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut waste = [0; 4_096];
        while refused.discarded < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    refused.discarded += buffer.filled().len()
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return alarm.as_mut().poll(context),
            }
        }
        Poll::Ready(())
    }

    /// May the screen answer? Only where no response is under way, nor will be: to a request that is whole, its handler answers.
    fn is_quiet(&self) -> bool {
        let (ended, requests) = (self.switch.ended.load(Ordering::Relaxed), self.screen.requests());
        let unanswered = self.screen.is_in_content() && ended + 1 == requests && self.answering < requests;
        self.flushed && (ended >= requests || unanswered)
    }

    /// Answers a refused head, where no response is under way that it would break into. One write, best effort: the
    /// connection is over in any case.
    fn answer(&mut self, context: &mut Context<'_>, status: StatusCode, kind: &str, detail: &str) {
        if self.is_quiet() {
            let bytes = crate::error::raw(status, kind, detail);
            let _best_effort = Pin::new(&mut self.stream).poll_write(context, &bytes);
            let _best_effort = Pin::new(&mut self.stream).poll_flush(context);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refused.is_some() {
            return this.poll_refused(context).map(Err);
        }
        std::task::ready!(this.poll_switch(context));
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Pending => return this.poll_deadline(context),
            Poll::Ready(result) => result?,
        }
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if let Err(violation) = this.screen.push(fresh) {
            // What stands before it is served first.
            let whole = this.screen.whole();
            buffer.set_filled(before + whole);
            this.shard.refuse(violation);
            this.deadline = None;
            let waits = whole > 0 || !this.screen.is_in_content();
            this.refused = Some(Refused { discarded: 0, linger: None, violation, waits });
            return if whole > 0 { Poll::Ready(Ok(())) } else { this.poll_refused(context).map(Err) };
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
        self.begin_write()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.stuck.watch(context, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        std::task::ready!(self.stuck.watch(context, flushed))?;
        self.flushed = true;
        if self.refused.is_some() {
            self.switch.wake();
        }
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin_write()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.stuck.watch(context, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
