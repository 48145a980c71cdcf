//! Contents on their way: what a request carries upstream and what a response carries downstream.
//!
//! Enums instead of boxes, so that a frame passes through without an allocation. Back-pressure is the reader's: nothing
//! here reads ahead.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use portolan_foundation::endpoint::Body as Service;

use crate::error::Error;
use crate::headers;
use crate::metrics::{Received, Ticket};
use crate::upstream::Lease;

/// A content that breaks off when nothing moves for a while.
#[derive(Debug)]
pub(crate) struct Patient {
    incoming: Incoming,
    patience: Duration,
    /// Made when the first piece has to be waited for, then moved on.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(incoming: Incoming, patience: Duration) -> Self {
        Self { incoming, patience, alarm: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Stall>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(mut frame) => {
                if let Some(Ok(frame)) = &mut frame {
                    frame.trailers_mut().into_iter().for_each(headers::clean_trailers);
                }
                self.alarm = self.alarm.take().filter(|_| matches!(frame, Some(Ok(_)))).map(|mut alarm| {
                    alarm.as_mut().reset(Instant::now() + self.patience);
                    alarm
                });
                Poll::Ready(frame.map(|frame| frame.map_err(|_| Stall::Broken)))
            }
            Poll::Pending => {
                let patience = self.patience;
                let alarm =
                    self.alarm.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
                alarm.as_mut().poll(context).map(|()| Some(Err(Stall::Silent)))
            }
        }
    }
}

use std::future::Future as _;

/// Why a content ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stall {
    #[error("the content broke off")]
    Broken,
    #[error("the content is larger than allowed")]
    Large,
    #[error("nothing of the content came for too long")]
    Silent,
}

/// What a request carries upstream.
#[derive(Debug)]
pub(crate) enum Upload {
    Empty,
    Full(Option<Bytes>),
    Stream {
        body: Patient,
        /// Bytes that may still come.
        left: u64,
        /// Bytes that have come.
        passed: Arc<AtomicU64>,
    },
}

impl Upload {
    /// The same content once more, where it can be had twice.
    pub(crate) fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream { .. } => None,
        }
    }

    /// How its bytes are counted.
    pub(crate) fn received(&self) -> Received {
        match self {
            Self::Empty => Received::Nothing,
            Self::Full(bytes) => Received::Whole(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { passed, .. } => Received::Streamed(Arc::clone(passed)),
        }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Stall;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stall>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { body, left, passed } => {
                let frame = std::task::ready!(body.poll(context));
                if let Some(Ok(frame)) = &frame {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    // One writer: the thread that reads the content.
                    passed.store(passed.load(Ordering::Relaxed) + length, Ordering::Relaxed);
                    match left.checked_sub(length) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(Stall::Large))),
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream { body, .. } => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream { body, .. } => body.incoming.size_hint(),
        }
    }
}

#[derive(Debug)]
enum Content {
    Empty,
    Full(Option<Bytes>),
    Service(Service),
    Upstream { body: Patient, lease: Option<Lease> },
}

/// What a response carries downstream. Its end, however it comes, closes the request's books.
#[derive(Debug)]
pub(crate) struct Body {
    busy: Option<Busy>,
    content: Content,
    ticket: Option<Ticket>,
}

/// Counts a request among those of its connection that the gateway is to bring forward, while it is.
#[derive(Debug)]
pub(crate) struct Busy {
    all: Rc<Cell<usize>>,
    counts: bool,
}

impl Busy {
    pub(crate) fn begin(all: &Rc<Cell<usize>>) -> Self {
        let mut busy = Self { all: Rc::clone(all), counts: false };
        busy.set(true);
        busy
    }

    /// Is it the gateway's turn? Otherwise the client is to take what there is.
    fn set(&mut self, counts: bool) {
        match (self.counts, counts) {
            (false, true) => self.all.set(self.all.get() + 1),
            (true, false) => self.all.set(self.all.get().saturating_sub(1)),
            _ => {}
        }
        self.counts = counts;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl Body {
    pub(crate) const fn empty() -> Self {
        Self { busy: None, content: Content::Empty, ticket: None }
    }

    pub(crate) const fn full(bytes: Bytes) -> Self {
        Self { busy: None, content: Content::Full(Some(bytes)), ticket: None }
    }

    /// What a service of the gateway answers.
    pub(crate) fn service(body: Service) -> Self {
        Self { busy: None, content: Content::Service(body), ticket: None }
    }

    /// An upstream's content. The lease of its connection goes back when the content has ended well, and is dropped,
    /// which closes the connection, when it has not.
    pub(crate) fn upstream(incoming: Incoming, lease: Lease, patience: Duration) -> Self {
        if incoming.is_end_stream() {
            lease.give_back();
            return Self::empty();
        }
        Self {
            busy: None,
            content: Content::Upstream { body: Patient::new(incoming, patience), lease: Some(lease) },
            ticket: None,
        }
    }

    /// What tells whose turn it is.
    pub(crate) fn with_busy(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    /// The books to close with the last byte.
    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Stall;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Stall>>> {
        let this = self.get_mut();
        this.busy.iter_mut().for_each(|busy| busy.set(true));
        let frame = match &mut this.content {
            Content::Empty => None,
            Content::Full(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Service(body) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(context));
                frame.map(|frame| frame.map_err(|_| Stall::Broken))
            }
            Content::Upstream { body, lease } => {
                let frame = std::task::ready!(body.poll(context));
                // Nothing follows trailers, and who got them asks for no more.
                let last = |frame: &Frame<Bytes>| frame.is_trailers() || body.incoming.is_end_stream();
                if frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(last)) {
                    lease.take().into_iter().for_each(Lease::give_back);
                }
                frame
            }
        };
        this.busy.iter_mut().for_each(|busy| busy.set(false));
        if let Some(ticket) = &mut this.ticket {
            match &frame {
                Some(Ok(frame)) => ticket.sent(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(_)) => ticket.broke(Error::UpstreamBroke),
                None => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_none(),
            Content::Service(body) => body.is_end_stream(),
            Content::Upstream { body, .. } => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Service(body) => body.size_hint(),
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Upstream { body, .. } => body.incoming.size_hint(),
        }
    }
}
