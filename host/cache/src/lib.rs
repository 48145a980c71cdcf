//! The regional HTTP cache: what may be stored and given again, where it lies, and how it is taken back.
//!
//! Its core is pure: [`policy`](Rules), freshness, variants, preconditions and parts are functions of fields and times. Around it stand two
//! stores (memory, and a folder that outlives the process), questions that clients share, and the numbers by which purges hold.
//! It does no networking: the data plane asks it, and tells it what origins answered.

mod cache;
mod conditional;
mod config;
mod counters;
mod directives;
mod disk;
mod epochs;
mod fill;
mod flights;
mod journal;
mod live;
mod place;
mod policy;
mod range;
mod reply;
mod reuse;
mod status;
mod stored;
mod tags;
mod vary;

#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use config::{Config, DiskConfig};
pub use counters::Counts;
pub use epochs::{Epoch, Strength};
pub use policy::{Refusal, Rules};
pub use tags::Target;

/// What a lock holds. A thread that panicked with it left numbers and maps that are whole at every step.
pub(crate) fn locked<T>(lock: Result<T, std::sync::PoisonError<T>>) -> T {
    lock.unwrap_or_else(std::sync::PoisonError::into_inner)
}
