//! Questions that are no request's: each on a thread of its own, whose answer is taken as a whole or not at all.

use wasmtime::Store;

use crate::defaults::PLAN_THREAD_STACK_BYTES;
use crate::engine::Engine;
use crate::guest::{self, Failure, State};

/// Why a policy gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It said no, or wrote more than is read.
    #[error("its answer is no plan: {0}")]
    Garbage(String),
    /// Fuel, time or memory.
    #[error("it used up its time, fuel or memory: {0}")]
    Overrun(String),
    /// It broke.
    #[error("it trapped: {0}")]
    Trap(String),
    /// The host had nothing to ask it with: asked later, it may answer.
    #[error("it could not be asked: {0}")]
    Unavailable(String),
}

impl Engine {
    /// Asks on a thread of this name, and counts what went wrong. Blocks.
    pub(crate) fn aside<T: Send>(
        &self,
        name: &str,
        ask: impl FnOnce() -> Result<T, Unanswered> + Send,
    ) -> Result<T, Unanswered> {
        let asked = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .stack_size(PLAN_THREAD_STACK_BYTES)
                .spawn_scoped(scope, ask);
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(asked)) => asked,
                Ok(Err(_)) => {
                    Err(Unanswered::Unavailable("the host failed while the policy was asked".to_owned()))
                }
                Err(error) => Err(Unanswered::Unavailable(format!("start a thread to ask it: {error}"))),
            }
        });
        let counters = &self.inner().counters;
        match &asked {
            Ok(_) | Err(Unanswered::Garbage(_) | Unanswered::Unavailable(_)) => {}
            Err(Unanswered::Overrun(_)) => counters.overruns.add(1),
            Err(Unanswered::Trap(_)) => counters.traps.add(1),
        }
        asked
    }
}

/// What a call that ended with an error says.
pub(crate) fn broken(error: &wasmtime::Error, store: &Store<State>) -> Unanswered {
    let failure = guest::failure(error, Some(store));
    match store.data().limiter.denied() {
        // What it was refused it did not get along without.
        Some(denied) => Unanswered::Overrun(format!("it was refused {denied}: {}", failure.text())),
        None => unanswered(&failure),
    }
}

pub(crate) fn unanswered(failure: &Failure) -> Unanswered {
    match failure {
        Failure::Overrun(text) => Unanswered::Overrun(text.clone()),
        Failure::Full(text) => Unanswered::Unavailable(text.clone()),
        Failure::Trapped(text) => Unanswered::Trap(text.clone()),
    }
}
