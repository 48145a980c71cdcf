//! Fast random numbers for drawing, jitter and request ids. Not for secrets: whoever sees some can guess the next.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

use portolan_core::balance::splitmix;

thread_local! {
    // The standard library seeds each thread's hasher keys from the operating system, once.
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
}

/// From here on this thread draws what a seed says, for simulations: the same again whenever it is given again.
pub fn seed(seed: u64) {
    STATE.with(|state| state.set(seed));
}

/// 64 random bits.
#[must_use]
pub fn u64() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        splitmix(next)
    })
}
