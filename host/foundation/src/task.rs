//! Tasks with a name. A panic in one is an error that a human must see, never silence.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many tasks of this process have panicked.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs a future on the current runtime.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Supervised { name, future: Box::pin(future) })
}

/// Runs a future on the current thread's `LocalSet`.
pub fn spawn_local<F: Future + 'static>(name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F::Output: 'static,
{
    tokio::task::spawn_local(Supervised { name, future: Box::pin(future) })
}

/// Polls a future and turns its panic into a log line.
struct Supervised<F> {
    name: &'static str,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Supervised<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match std::panic::catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => {
                PANICS.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    task = this.name,
                    "task panicked; please report this with the lines before it"
                );
                Poll::Ready(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_only_its_task() {
        let before = panics();
        assert_eq!(spawn("good", async { 7 }).await.unwrap(), Some(7));
        assert_eq!(spawn("bad", async { panic!("on purpose") }).await.unwrap(), None::<()>);
        assert!(panics() > before);
    }
}
