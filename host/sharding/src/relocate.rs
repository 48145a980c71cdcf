//! Moves one tenant to another shard while it is written.
//!
//! The tenant's rows are copied and its records followed until little is left. Then its writes are held, at gateways and at
//! direct writers; the rest is taken over, what both sides have is known to be the same, row by row, the hold is sealed, and one transaction of the
//! control store ([`Switch`]) says where the tenant is. What it wrote at the source stays there for a while, read-only, so
//! that the move can be undone cheaply ([`Relocation::undo`]); then it is forgotten ([`Relocation::forget`]).
//!
//! # Crashes
//! The source's database has a note of the move with the step that it stands at ([`Step`]). Until the hold is sealed no switch
//! has been asked for, the hold ends by itself within [`MOVE_HOLD`](crate::defaults::MOVE_HOLD), and the move is taken back. From the seal on
//! the control store alone decides: it is asked to *close* the move, which settles for good whether it has switched, before
//! the tenant is let go on at either side. So a tenant is written in one place at most, whatever dies. A sealed hold has no end of its own,
//! because nobody may guess: whoever keeps the source's shard resumes the moves that are noted there
//! ([`Relocation::resume`]), and the control store must answer.
//!
//! Who resumes takes the move over: a mover that still lives finds its note changed, and stops.
//!
//! # Replicas
//! Where the target may lose only so much with its region ([`Seat::replicas`]), one of its replicas has received what came before the tenant
//! is held, and the rest before the hold is sealed: else the move is taken back. So a move never makes a tenant's rows less safe than the
//! target's limit says.
//!
//! # Placements
//! A move raises the tenant's placement by two. What it brings to the target is stamped with the one between, which is above all
//! that was forgotten there and below all that is written after the move. An attempt that failed bars its placement at the
//! target, so that nothing of it that is still on its way is taken in.
//!
//! # What is not moved
//! Rows have one text in each engine, and another in the other: both shards must be of one engine. Tables that all members write
//! are not held by a fence, so that a tenant with such tables does not move. Reference tables do not move. Nor does content, so that a
//! tenant that has some stays.

mod check;
mod compare;
mod model;
mod noted;
mod pace;
mod replicas;
mod run;
mod settle;
pub mod wanted;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use portolan_changelog::Store;
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::log::{Epoch, Identity, Placement, Position};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};

pub use model::{Effect, Step};
pub use noted::{Noted, abandoned, forget, noted};

/// A shard as a move needs it: the copy that is written, whose tables this process has declared.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The lease under which it is written.
    pub epoch: Epoch,
    /// Who must have received what a move brings before the move switches; none where that does not matter.
    pub replicas: Option<Replicas>,
    /// Of whose tenants it is.
    pub residency: Option<ResidencyName>,
    /// Its name.
    pub shard: ShardName,
    /// Its database.
    pub store: Store,
}

/// Regions that keep copies of a shard which may lose only so much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// How long a move waits for one of them, before it holds the tenant.
    pub patience: Duration,
    /// Which; one is enough.
    pub regions: BTreeSet<RegionName>,
}

/// Where a tenant stays, or is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The lease of the shard.
    pub epoch: Epoch,
    /// The tenant's placement.
    pub placement: Placement,
    /// The shard.
    pub shard: ShardName,
}

/// A move, as the control store is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Where the tenant is.
    pub from: Stay,
    /// Which move: no other has this name.
    pub id: String,
    /// Who moves.
    pub tenant: TenantName,
    /// Where it is to be.
    pub to: Stay,
}

/// Whether a move has switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// The tenant is at the target.
    Moved,
    /// It is where it was, and this move will never change that.
    Stays,
}

/// Where the control store says that a tenant is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its placement.
    pub placement: Placement,
    /// Its shard.
    pub shard: ShardName,
}

/// The control store has not said what became of a question: it may have done it, or may still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control store did not answer: {0}")]
pub struct SwitchError(pub String);

/// What the control store answers.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SwitchError>> + Send + 'a>>;

/// The control store's word on where tenants are. Each is one transaction.
pub trait Switch: fmt::Debug + Send + Sync {
    /// Unless this move has switched: makes sure that it never will, for example by a placement that its switch does not expect. A
    /// switch that is still on its way must fail after this.
    fn close<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched>;

    /// Puts the tenant where the move says, if it is at the source with the old placement and both shards have the epochs that are
    /// named; otherwise it stays.
    fn switch<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched>;

    /// Where a tenant is.
    fn where_is<'a>(&'a self, tenant: &'a TenantName) -> Answer<'a, Whereabouts>;
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Records were taken over while the tenant is written.
    CaughtUp {
        /// How many.
        records: u64,
    },
    /// All rows were compared while the tenant is written.
    Checked,
    /// Both sides have the same rows.
    Compared,
    /// Rows were copied.
    Copied {
        /// How many.
        rows: u64,
    },
    /// One of what settles a move was done.
    Did(Effect),
    /// The target has what was written before the hold.
    Drained,
    /// The tenant's writes are held.
    Held,
    /// The move is noted at both shards.
    Noted,
    /// A replica of the target has received what has come so far.
    Replicated,
    /// The hold has no end of its own any more.
    Sealed,
    /// The control store says that the tenant has moved.
    Switched,
}

/// Who looks on, and may stop a move.
pub trait Watch: Send + Sync {
    /// Something happened. A break ends the mover here, as if it had died: [`Relocation::resume`] goes on.
    fn event(&self, event: &Event) -> ControlFlow<()>;

    /// The name under which the move is noted, by which others tell whether its mover is still at work.
    fn mover(&self) -> String {
        String::new()
    }

    /// How many rows may be copied or compared in a second while the tenant is written, so that traffic is not starved; as many as
    /// there are when absent.
    fn rows_per_second(&self) -> Option<NonZeroU32> {
        None
    }

    /// The clock by which the hold is measured.
    fn now(&self) -> Moment {
        clock::now()
    }
}

/// One tenant's move from a shard to another.
#[derive(Clone, Copy)]
pub struct Relocation<'a> {
    /// Where it is.
    pub from: &'a Seat,
    /// The control store.
    pub switch: &'a dyn Switch,
    /// Who moves.
    pub tenant: &'a TenantName,
    /// Where it is to be.
    pub to: &'a Seat,
    /// Who looks on.
    pub watch: &'a dyn Watch,
}

/// What a move would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Where the tenant is, and under which placement.
    pub placement: Placement,
    /// The tenant's rows now.
    pub rows: u64,
}

/// What a move did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Bytes of the tenant's rows when they were compared before the hold.
    pub bytes: u64,
    /// Parts in which rows were copied.
    pub chunks: u64,
    /// Which move.
    pub moving: Moving,
    /// How long the tenant's writes were held: from before the hold until the control store had switched.
    pub pause: Duration,
    /// Parts of the log that were taken over.
    pub rounds: u64,
    /// The tenant's rows.
    pub rows: u64,
}

/// What became of a move that was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It is done: the tenant is at the target.
    Moved,
    /// None was under way.
    Nothing,
    /// It was taken back: the tenant is where it was.
    TakenBack,
}

/// Why a tenant was not moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was taken back: the tenant is where it was, and written there.
    #[error("the move was taken back, the tenant is where it was: {0}")]
    Aborted(String),
    /// Another has taken the move over.
    #[error("another mover has taken this move over: see what it says")]
    Overtaken,
    /// A shard's database.
    #[error(transparent)]
    Store(#[from] portolan_changelog::Error),
    /// Who looks on stopped it.
    #[error("stopped; resume the move")]
    Stopped,
    /// The control store, before anything was done.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// A move of this tenant has begun before.
    #[error("a move of the tenant between `{from}` and `{to}` has begun and is not over: resume it first")]
    Underway {
        /// From where.
        from: ShardName,
        /// To where.
        to: ShardName,
    },
    /// It cannot be moved so; nothing was done.
    #[error("the tenant cannot be moved: {0}")]
    Unfit(String),
    /// Nobody knows yet where the tenant is. It may be held until this is known.
    #[error("the move is not settled, and the tenant may be held until it is: {0}; resume it")]
    Unsettled(String),
}

/// What a mover notes of its move for whoever resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Detail {
    /// From where the target's log is followed when the move is undone; none before the hold is sealed.
    back: Option<Back>,
    /// Who moves it, by the name of whoever looks on.
    #[serde(default)]
    mover: String,
    moving: Moving,
    /// When the hold was sealed, in milliseconds since 1970; none before.
    #[serde(default)]
    sealed_ms: Option<u64>,
    /// This undoes a move: the target has the tenant's rows from before it.
    undoes: bool,
}

/// Where a log is followed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Back {
    identity: Identity,
    position: Position,
}

impl fmt::Debug for Relocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Relocation");
        debug.field("tenant", self.tenant).field("from", &self.from.shard).field("to", &self.to.shard);
        debug.finish_non_exhaustive()
    }
}

impl Relocation<'_> {
    fn tell(&self, event: Event) -> Result<(), Error> {
        match self.watch.event(&event) {
            ControlFlow::Break(()) => Err(Error::Stopped),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
