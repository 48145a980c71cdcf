//! The control store: all intent, as a log of changes that every node follows.
//!
//! Each change is one entry and makes one generation; generations have no gaps, and each entry names the digest of the one
//! before, so that the log is the audit trail as well. An engine (SQLite, etcd) does one thing: add entry N+1 if nobody
//! else has. All else, what objects are, who manages them, what conflicts, is decided here, the same over every engine.
//!
//! Beside the log are *registers*, for what changes often and is nobody's intent: leases, and who writes what.
//!
//! A node that loses the store goes on with what it last saw, which is on its own disk.

mod change;
mod components;
pub mod defaults;
mod engine;
mod error;
mod etcd;
mod object;
mod register;
mod saved;
mod sqlite;
mod state;
mod store;

pub use change::{Change, Draft, Edit, Expect, Wish};
pub use components::{Components, Missing, S3Config, Shared, Swept, bucket};
pub use engine::{Engine, EtcdConfig};
pub use error::{Away, Conflict, Damaged, Error};
pub use object::{Body, Key, KeyError, Manager, Object};
pub use register::{Register, RegisterNews, Registers, Swap};
pub use state::State;
pub use store::{Committed, Health, NodeReport, RolloutReport, Store, Verified};

#[cfg(test)]
mod tests;
