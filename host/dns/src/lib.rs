//! DNS: which addresses clients are told. It optimises where they go; whether a region may write is never decided by it.
//!
//! A [`plan::Plan`] says what every managed name has, which regions take part and how one is chosen; [`plan::answer`] is a pure function
//! of it, the client and the time. Two shells carry plans out. [`server`] answers questions itself, for ever, from the last plan that it was
//! given. [`push`] writes a plan into servers that an operator has, each change under the condition that the one before is there, so
//! that a writer who is late changes nothing.
//!
//! # What is not promised
//! Resolvers keep answers for as long as they were told, and some longer. Weights hold over many clients, not for each. A plan's
//! number is minted elsewhere: here only the order is kept.

pub mod defaults;
mod error;
pub mod name;
pub mod plan;
pub mod push;
pub mod server;
pub mod sign;
#[cfg(test)]
mod testing;
mod tsig;
mod wire;

pub use error::Error;
pub use tsig::{SharedKey, SharedKeyError};
