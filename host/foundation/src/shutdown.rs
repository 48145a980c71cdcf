//! The end: one signal that everything waits for, and a gate that knows who has not left yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The signal to finish. Clones are the same signal.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A signal that has not been given.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal. Giving it twice is the same.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Was it given?
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// A signal that follows this one, and can be given alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}

#[derive(Debug, Default)]
struct Inside {
    names: Mutex<BTreeMap<&'static str, usize>>,
    left: Notify,
}

/// Counts who is inside, by name.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Inside>);

/// A place inside; dropping it leaves.
#[derive(Debug)]
#[must_use = "whoever holds the guard is inside"]
pub struct Guard {
    gate: Gate,
    name: &'static str,
}

impl Gate {
    /// Goes in.
    pub fn enter(&self, name: &'static str) -> Guard {
        *self.names().entry(name).or_default() += 1;
        Guard { gate: self.clone(), name }
    }

    /// How many are inside.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names().values().sum()
    }

    /// Waits until all have left.
    ///
    /// # Errors
    /// Who is still inside after `limit`, by name with their number.
    pub async fn wait_empty(&self, limit: Duration) -> Result<(), BTreeMap<&'static str, usize>> {
        let empty = async {
            loop {
                let left = self.0.left.notified();
                if self.count() == 0 {
                    return;
                }
                left.await;
            }
        };
        tokio::time::timeout(limit, empty).await.map_err(|_| self.names().clone())
    }

    fn names(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut names = self.gate.names();
        if let Some(count) = names.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.name);
            }
        }
        drop(names);
        self.gate.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_gate_names_who_is_still_inside() {
        let gate = Gate::default();
        let slow = gate.enter("upload");
        drop(gate.enter("download"));
        let inside = gate.wait_empty(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(inside, BTreeMap::from([("upload", 1)]));
        let waiting = tokio::time::timeout(Duration::from_secs(60), gate.wait_empty(Duration::from_secs(30)));
        let leave = async { drop(slow) };
        let (waited, ()) = tokio::join!(waiting, leave);
        assert_eq!(waited.unwrap(), Ok(()));
    }
}
