//! A content while it comes: one writer, many readers, each at its own place.
//!
//! As long as it may be kept, all of it stays, and whoever comes later reads from its beginning at the origin's pace. Once it is larger
//! than may be kept, what all have read goes, the writer waits for the slowest reader, and nobody new can join.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::locked;

/// Bytes that may wait for the slowest reader of a content that is not kept.
const WINDOW_BYTES: u64 = 1 << 20;

/// A content on its way in.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    end: Option<End>,
    /// The number of the first piece that is still here.
    first: usize,
    held_bytes: u64,
    is_partial: bool,
    pieces: VecDeque<Bytes>,
    /// The next piece of each reader.
    readers: HashMap<u64, usize>,
    readers_ever: u64,
    wakers: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Broken,
    Whole,
}

impl State {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn wait(&mut self, context: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            self.wakers.push(context.waker().clone());
        }
    }

    /// Lets go of what nobody will read.
    fn trim(&mut self) {
        let slowest = self.readers.values().min().copied();
        while self.is_partial && slowest.is_none_or(|slowest| self.first < slowest) {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.first += 1;
            self.held_bytes = self.held_bytes.saturating_sub(length(&piece));
        }
    }
}

impl Live {
    /// A reader from the beginning; `None` where that is gone. `length` is the content's, where it is known.
    pub(crate) fn reader(self: &Arc<Self>, length: Option<u64>) -> Option<Reader> {
        let mut state = locked(self.0.lock());
        if state.is_partial || state.end == Some(End::Broken) {
            return None;
        }
        state.readers_ever += 1;
        let number = state.readers_ever;
        state.readers.insert(number, 0);
        Some(Reader { left: length, live: Arc::clone(self), number })
    }

    /// Takes a piece and waits for room; `false` when nobody is there who would read or keep it. Keeps at most `bytes_max`.
    pub(crate) async fn push(&self, piece: Bytes, bytes_max: u64) -> bool {
        {
            let mut state = locked(self.0.lock());
            state.held_bytes += length(&piece);
            state.pieces.push_back(piece);
            state.is_partial |= state.held_bytes > bytes_max;
            state.trim();
            state.wake();
        }
        poll_fn(|context| {
            let mut state = locked(self.0.lock());
            if !state.is_partial {
                return Poll::Ready(true);
            }
            if state.readers.is_empty() {
                return Poll::Ready(false);
            }
            if state.held_bytes <= WINDOW_BYTES {
                return Poll::Ready(true);
            }
            state.wait(context);
            Poll::Pending
        })
        .await
    }

    /// All has come. The content, if it is all there.
    pub(crate) fn end(&self) -> Option<Bytes> {
        let mut state = locked(self.0.lock());
        state.end = Some(End::Whole);
        state.wake();
        if state.is_partial {
            return None;
        }
        if let (1, Some(only)) = (state.pieces.len(), state.pieces.front()) {
            return Some(only.clone());
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(state.held_bytes).unwrap_or(0));
        state.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        Some(whole.freeze())
    }

    /// Nothing more will come, unless all has.
    pub(crate) fn close(&self) {
        let mut state = locked(self.0.lock());
        state.end = state.end.or(Some(End::Broken));
        state.wake();
    }
}

fn length(piece: &Bytes) -> u64 {
    u64::try_from(piece.len()).unwrap_or(u64::MAX)
}

/// The content as one client reads it.
#[derive(Debug)]
pub(crate) struct Reader {
    left: Option<u64>,
    live: Arc<Live>,
    number: u64,
}

/// The origin broke off.
#[derive(Debug, thiserror::Error)]
#[error("the content broke off while it came")]
pub(crate) struct Broken;

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let mut state = locked(this.live.0.lock());
        let State { first, pieces, readers, .. } = &mut *state;
        let Some(next) = readers.get_mut(&this.number) else { return Poll::Ready(None) };
        if let Some(piece) = pieces.get(next.saturating_sub(*first)).cloned() {
            *next += 1;
            state.trim();
            if state.is_partial {
                state.wake();
            }
            this.left = this.left.map(|left| left.saturating_sub(length(&piece)));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(Broken))),
            None => {
                state.wait(context);
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = locked(self.live.0.lock());
        state.readers.remove(&self.number);
        state.trim();
        state.wake();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn all(reader: Reader) -> Result<Bytes, Broken> {
        reader.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn who_comes_late_reads_everything() {
        let live = Arc::new(Live::default());
        let early = live.reader(None).unwrap();
        assert!(live.push(Bytes::from_static(b"ab"), 100).await);
        let late = live.reader(Some(4)).unwrap();
        assert!(live.push(Bytes::from_static(b"cd"), 100).await);
        assert_eq!(live.end().unwrap(), "abcd");
        assert_eq!((all(early).await.unwrap(), all(late).await.unwrap()), ("abcd".into(), "abcd".into()));
        assert_eq!(all(live.reader(None).unwrap()).await.unwrap(), "abcd");
    }

    #[tokio::test]
    async fn readers_wait_and_learn_of_a_break() {
        let live = Arc::new(Live::default());
        let reader = live.reader(None).unwrap();
        let writer = async {
            tokio::task::yield_now().await;
            assert!(live.push(Bytes::from_static(b"a"), 100).await);
            tokio::task::yield_now().await;
            live.close();
        };
        let (read, ()) = tokio::join!(all(reader), writer);
        assert!(read.is_err());
        assert!(live.reader(None).is_none());
    }

    #[tokio::test]
    async fn what_is_too_large_passes_through_at_its_readers_pace() {
        let live = Arc::new(Live::default());
        let reader = live.reader(None).unwrap();
        let piece = || Bytes::from(vec![7; 64 * 1024]);
        let writer = async {
            for _ in 0..100 {
                assert!(live.push(piece(), 1_000).await);
                let held = locked(live.0.lock()).held_bytes;
                assert!(held <= WINDOW_BYTES, "{held} bytes wait");
            }
            assert_eq!(live.end(), None);
        };
        let (read, ()) = tokio::join!(all(reader), writer);
        assert_eq!(read.unwrap().len(), 100 * 64 * 1024);
        assert!(live.reader(None).is_none(), "its beginning is gone");
    }

    #[tokio::test]
    async fn nobody_fetches_what_nobody_reads_or_keeps() {
        let live = Arc::new(Live::default());
        drop(live.reader(None));
        assert!(live.push(Bytes::from_static(b"ab"), 4).await, "it may still be kept");
        assert!(!live.push(Bytes::from_static(b"cde"), 4).await);
    }
}
