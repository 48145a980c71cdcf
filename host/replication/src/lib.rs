//! Replication between regions: each region that has a copy of a shard follows the log of the region that writes it.
//!
//! A *feed* is one shard's way from a source region to a follower's. The follower opens a link (one stream of HTTP/2 over TLS 1.3, both
//! ends proving their regions), says how far it has come, and is sent what comes next, as much as it gives room for. It alone knows
//! where it is: that is in the copy's own database, and moves in the transaction that applies a batch. So nothing that breaks
//! in between costs more than asking again.
//!
//! Every region that has a copy follows the logs of all others that have one, so that whoever becomes the primary is followed already.
//! A copy that is empty, or whose source is another log than the one it followed, begins with the primary's rows as they are: in pages, each
//! of which is all that there is between two keys, so that what the source does not have goes, and is kept as a loser unless the source took
//! it away.
//!
//! Whoever is to begin an epoch has all other copies seal it ([`gather`]), takes what they have more, and writes down where every log is
//! cut. What a copy took past that is kept as stranded, and its rows become what the new primary has before they are read again.
//!
//! # What is not promised
//! A copy is behind its source by as much as its report says. A link that is lost tells nothing about the source's region: whether that has
//! failed is not decided here.

mod audit;
mod credit;
pub mod defaults;
mod ends;
mod follower;
mod gateway;
mod heard;
pub mod link;
mod report;
mod seal;
pub mod source;
mod sweeping;
mod wall;
pub mod wire;
mod words;

pub use audit::{Audited, Comparison, Failed, Told, Wanted};
pub use credit::Lane;
pub use ends::{Log, Replica};
pub use follower::{Connect, Feed};
pub use gateway::{Feeds, Followed, Gateways, Sources, listen};
pub use report::{Cell, FeedReport, State};
pub use seal::{Admit, gather};
pub use sweeping::{Sweeping, Swept};
pub use wall::{NoWall, Wall, refusal};
pub use wire::{Refused, What};
pub use words::{Answering, Answers, Asker, Silent};

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
