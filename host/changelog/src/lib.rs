//! The change log and the fence of a shard: what tenant moves, replication and cache invalidation rest on.
//!
//! A shard is one database, a file of SQLite or a database of PostgreSQL, with the operator's tables ([`Store::declare`])
//! and portolan's own. Triggers write a [`Record`] in the transaction that changes a row, also for applications that know
//! no gateway, and refuse it when the shard's primary is elsewhere. What all of it means is in [`model`], as pure functions.
//!
//! # Following a log
//! Who begins to follow reads [`Store::identity`] and [`Store::settled`], copies [`Store::rows`] with [`Store::merge`], and
//! calls [`Store::follow`] with that position. Then [`Store::read`] at the source gives a [`Batch`] after [`Progress::received`], and
//! [`Store::apply`] at the follower takes it: once, whole transactions, in any order between sources. Only another
//! identity ([`Applied::Other`]) means to begin anew. A token of a client is fulfilled when [`Progress::applied`] has
//! reached its position.
//!
//! A region's copy does that with [`Store::begin_copy`] and [`Store::copy`], which also take away what its source does not have, and then
//! follows the logs of all other regions that have the shard ([`Store::apply_under`]).
//!
//! # Ending an epoch
//! Whoever is to begin the next has all other copies sealed ([`Store::seal_epoch`]), takes what one of them has more ([`Store::tail`]), and
//! begins ([`Store::begin_epoch`]). What it had of others' logs counts; what lies past that is stranded wherever it surfaces, kept,
//! and taken out of the rows ([`Store::learn`], [`Store::mend`]).
//!
//! # Busy servers
//! A database of PostgreSQL whose [`PostgresConfig::capture`] is [`Capture::Logical`] needs somebody who calls [`Store::ship`] all the time:
//! its records come out of the write-ahead log. [`Store::slot`] says how much the server keeps for that.
//!
//! # Keeping the log short
//! Who follows calls [`Store::begin_peer`] at the source with the position that it read, *before* it copies rows, and
//! [`Store::peer_acknowledges`] from then on. [`Store::trim`] takes away what all peers have applied, and the places of those that are
//! too far behind: [`Error::Trimmed`] and [`PeerRefused::NeedsSnapshot`] mean to begin anew. Tombstones go in rounds: [`Store::begin_round`],
//! [`Store::mark`], the other members' [`Store::report`]s into a [`Sweep`], then [`Store::sweep`]. Who copies rows does not sweep.
//!
//! # Comparing copies
//! Both sides' [`Store::digests`] are joined and compared ([`portolan_core::audit`]), then [`Store::bucket_rows`] of buckets that differ. What still
//! differs once the replica has applied what the source had written is a fault: [`Store::begin_repair`] at the side that is wrong,
//! [`Store::records_named`] at the other, [`Store::repair`], and [`Store::withdraw`] for rows that the other knows nothing of. Replicas of another engine are not compared.
//!
//! # Holding the lease
//! Read [`Store::clock`], ask for the lease or its renewal, and when it is granted call [`Store::begin_epoch`] or
//! [`Store::extend`] with that reading plus the lease's time less a margin. [`Store::demote`] ends it. A gateway writes with
//! [`Store::write`] under its [`Lease`], and a commit after which the lease has run out is [`Error::Unknown`].
//!
//! # Conflicts
//! Tables that members write have a rule ([`ConflictRule`](portolan_core::tenant_table::ConflictRule)). What is lost without having been known to what stays is read with
//! [`Store::conflicts`], by page, and written back with [`Store::restore`]. Changes that a database does not take wait ([`Store::parked`]), each
//! with its kind, until [`Store::retry_parked`] or a newer version of their row. A table's rule is changed when all regions have heard of all
//! writes before it: rows that it finds count as written once.
//!
//! # Moving a tenant
//! Note the move at both ([`Store::note_move`]) and place the tenant away at the target, so that nobody writes it there. Read
//! [`Store::settled`], copy [`Store::tenant_rows`] with [`Store::take_in`], follow [`Store::tenant_records`]. [`Store::hold`]
//! it, take in the rest, compare, [`Store::seal`] the hold, and have the directory changed. [`Store::place`] it there and away
//! here, then [`Store::forget`] it here.
//!
//! # Keeping copies, and erasing
//! [`Store::snapshot`] is one state, in pages; a backup is that state and what [`Store::read`] gives after [`Head::position`], and putting
//! it somewhere else is following it. [`Store::erase`] takes a tenant out of rows, log and all that is kept beside them, and
//! [`Store::compact`] has the database write over what was there.
//!
//! # Content
//! Items of tenants' content, their versions and where their bytes are: [`content`]. None of it is captured; it moves by its own log.
//!
//! # Migrating
//! [`Store::maintenance`] is the owner's connection for changes of the tenants' schema ([`Purpose::Schema`]), which change no row of a
//! captured table and leave none without its triggers, and for backfills ([`Purpose::Rows`]), which are writers as others.
//! [`Store::declare`] comes after them, and may be repeated: rows that were there before are adopted page by page, and until the
//! last has a version nobody copies rows or forgets a tenant. [`Inspection`] looks at a database before any of it.
//!
//! # What is not promised
//! Who owns the tables or the file can do anything. The deadline is looked at with each statement, and on PostgreSQL at commit. A
//! writer that makes all constraints immediate escapes the look at commit, and on SQLite there is none: what such a writer
//! wrote in time it may commit late. Demotion waits for it or ends it, but when every gateway is dead nobody demotes, and its commit
//! may come after another region's lease has begun. SQLite has no roles: reads must name their tenant. Its direct writers must set `recursive_triggers`, or are refused. Rows and records that a file-system copy
//! brought back are noticed by a [`Witness`](portolan_core::log::Witness) alone. At followers, the operator's own triggers run as
//! everywhere (on PostgreSQL they may ask for `current_setting('portolan.applying', true)`), and a reference that cascades
//! takes a follower's own rows along: declare none on multi-writer tables. A database's clock that is set back keeps the
//! fence open for as long; one that is set forward closes it early.

mod adopt;
mod apply;
mod audit;
pub mod content;
mod copying;
mod database;
pub mod defaults;
mod duty;
mod erase;
mod error;
mod external;
mod inspect;
mod ledger;
mod lineage;
mod logical;
mod login;
mod maintain;
mod marks;
pub mod model;
mod moving;
mod parked;
mod peers;
mod postgres;
mod read;
mod receipts;
mod rejection;
mod resolving;
mod snapshot;
mod sqlite;
mod store;
mod sweep;
mod table;
mod transaction;
mod trim;

pub use apply::{Applied, Counts};
pub use audit::{BucketPage, DigestPage, Repair, Scope};
pub use copying::Copying;
pub use database::{Dialect, Row, Value};
pub use duty::Duty;
pub use erase::Erased;
pub use error::Error;
pub use external::{External, Lookout, Seen};
pub use inspect::Inspection;
pub use ledger::{Conflicts, Cursor, Lost};
pub use lineage::{Gathered, Learned, Sealed};
pub use logical::Capture;
pub use logical::slot::Slot;
pub use login::{Access, Passwords, Tls, reader};
pub use maintain::{Maintenance, Purpose};
pub use model::fence::{Closed, Fence, Lease, Outcome, Refused, TenantState};
pub use model::kind::ConflictKind;
pub use model::lineage::{Cut, Forked, Lineage, Reached, Term};
pub use model::peer::{Peer, PeerRefused};
pub use model::progress::Progress;
pub use model::record::{BadBatch, Batch, Change, Record, RowChange, RowId};
pub use model::retention::Retention;
pub use model::sweep::{Known, Mark, Member, Report, Sweep, Through};
pub use moving::{Drained, MoveNote, Passage, Reach, Side, Stamp};
pub use parked::Parked;
pub use peers::Follower;
pub use postgres::PostgresConfig;
pub use read::{Horizon, Limits};
pub use receipts::{Received, Wakes, Watching};
pub use rejection::{Rejection, Rule};
pub use resolving::Dispute;
pub use snapshot::{Head, RowPage, Snapshot};
pub use store::{Engine, Standing, Store};
pub use sweep::{Round, Swept};
pub use transaction::Transaction;
pub use trim::Trimmed;

#[cfg(test)]
mod tests;
