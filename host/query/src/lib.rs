//! SQL across shards: a SELECT over all tables that shards declare, as if they were one database.
//!
//! DataFusion plans and runs a query; this crate gives it the shards as tables, and pushes to each what it can do exactly: conditions,
//! columns, the first rows of an order, parts of groups, joins of rows that lie together. `fragment` says what a shard is asked, as pure data;
//! `push` when that is exact; `source` reads it. Shards are read in read-only transactions, one for each statement: what
//! is written meanwhile is in some of them and not in others.
//!
//! A query runs in a process of its own ([`worker`]), with a hard limit of memory, so that it takes nothing down but itself. It knows
//! no configuration and no listener: who wires it up gives it addresses, tables, and whose rows may be seen.
//!
//! # What is not promised
//! Shards are not one snapshot. A tenant that is handed from one shard to another at that moment may be in neither or in both. A value that is not
//! of its column's type is an error where it is read, and may go unnoticed where a shard passes over it. Sums that leave their type are an
//! error where a shard adds up, and wrap where the engine does.

mod answer;
mod catalogue;
mod cost;
pub mod defaults;
mod engine;
mod error;
mod fragment;
mod kind;
mod limits;
mod push;
mod scan;
mod service;
mod source;
mod statement;
mod table;
pub mod worker;
mod world;

pub use answer::{Answer, Format, Head, write};
pub use engine::{Place, Query, Rows, run};
pub use error::Error;
pub use limits::Limits;
pub use push::Pushes;
pub use service::{Asked, Authenticate, Picture, QUERY_PATH, Service, Sources, Unauthentic};
pub use source::Address;
pub use statement::tenants;

#[cfg(test)]
mod tests;
