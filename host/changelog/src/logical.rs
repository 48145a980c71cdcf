//! Records that come out of PostgreSQL's write-ahead log: a shard's second way of capture, for servers that are busy.
//!
//! Triggers do all that they do otherwise, the fence and the versions included, but *emit* each record as a message instead of putting it into
//! the log. Whoever has the shard open ships it ([`Store::ship`]): over one slot of logical decoding it gets whole transactions, in the
//! order of their commits, once they are on the primary's disk, and puts their records into the log. Positions are those that the triggers gave.
//! So all that stands on the log (followers, moves, tokens, erasure, backups) is the same, and a peer that is away holds the log, which has
//! bounds, and never the slot.
//!
//! What is committed is in the log a moment later. The *horizon*, up to which the log may be read, comes with the messages: each has the lowest
//! transaction that was open when it was emitted, and all that ended before then comes before it. Where the newest records still wait
//! for it, and now and then, the shipper emits a message that has nothing else ([`beat`](ship)). Whoever must know all that was
//! committed before a moment waits until what came after it has been shipped ([`Store::caught_up`]).
//!
//! One process ships at a time, because a slot has one reader; the others look whether it has gone. When the slot itself is lost, so are records:
//! the log gets another identity, and who follows it begins anew ([`slot`]).

pub(crate) mod pgoutput;
pub(crate) mod ship;
pub(crate) mod slot;
mod stream;
mod tls;

use serde::{Deserialize, Serialize};

/// How the changes of a database of PostgreSQL come into its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Triggers emit them, and they are shipped from the write-ahead log.
    Logical,
    /// Triggers write them into it: nothing is asked of the server.
    #[default]
    Triggers,
}
