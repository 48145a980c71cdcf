//! The fence: who may write, and until when.
//!
//! The fence is a row in the shard's own database, so that it stops those who write without any gateway. Its deadline is
//! a time of the database's own clock, read *before* the lease was asked for: whatever the network does to the answer,
//! the fence closes before anybody else may take the lease. It is read again at commit, because a transaction may begin
//! in time and end late; the crate's documentation says where and for whom that look is missing.

use std::time::Duration;

use portolan_core::log::{Epoch, Placement};
use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

/// The fence as it stands in a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The lease that was last held here, or heard of.
    pub epoch: Epoch,
    /// Until when the primary's tables may be written here, in microseconds of the database's clock; 0 when the epoch is
    /// over here for good, or another's.
    pub deadline_us: u64,
    /// The region's membership incarnation, under which multi-writer tables are written; 0 when it is no member.
    pub member: u64,
}

/// Why a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The tenant has moved away.
    #[error("the tenant has moved to another shard")]
    Away,
    /// The database's history has been cut, and no epoch has begun since.
    #[error("this database goes on from an earlier state: a new epoch must begin before it is written")]
    Cut,
    /// The deadline has passed: the lease is another's, or nobody's.
    #[error("this database is not the shard's primary: its lease has run out")]
    Expired,
    /// The tenant's writes are held for a moment.
    #[error("the tenant's writes are held while it moves")]
    Held,
    /// A region that is no member writes no multi-writer tables.
    #[error("this region is not a member")]
    Member,
    /// The transaction began under another lease than it ends under.
    #[error("the lease has changed while the transaction ran")]
    Moved,
}

/// Why a fence is not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Epochs only rise.
    #[error("epoch {wanted} is not above epoch {there}, which this database knows")]
    Epoch {
        /// The one that it has.
        there: Epoch,
        /// The one that was to begin.
        wanted: Epoch,
    },
    /// Another lease has begun here.
    #[error("epoch {wanted} is over: this database is at epoch {there}")]
    Over {
        /// The one that it has.
        there: Epoch,
        /// The one that was to go on.
        wanted: Epoch,
    },
}

impl Fence {
    /// May the primary's tables be written now? `began` is the epoch that the transaction found first.
    ///
    /// # Errors
    /// [`Closed`] says why not.
    pub fn check(&self, began: Epoch, now_us: u64) -> Result<(), Closed> {
        if self.epoch != began {
            Err(Closed::Moved)
        } else if now_us >= self.deadline_us {
            Err(Closed::Expired)
        } else {
            Ok(())
        }
    }

    /// May multi-writer tables be written?
    ///
    /// # Errors
    /// [`Closed::Member`] when not.
    pub const fn check_member(&self) -> Result<(), Closed> {
        if self.member == 0 { Err(Closed::Member) } else { Ok(()) }
    }

    /// A new lease is held here.
    ///
    /// # Errors
    /// [`Refused::Epoch`] unless the epoch rises.
    pub fn begin(self, epoch: Epoch, deadline_us: u64) -> Result<Self, Refused> {
        if epoch <= self.epoch {
            return Err(Refused::Epoch { there: self.epoch, wanted: epoch });
        }
        Ok(Self { epoch, deadline_us, ..self })
    }

    /// The lease was renewed. An answer that comes late never takes time away again, and never opens what was closed.
    ///
    /// # Errors
    /// [`Refused::Over`] when the epoch is not this one, or was closed.
    pub fn extend(self, epoch: Epoch, deadline_us: u64) -> Result<Self, Refused> {
        if epoch != self.epoch || self.deadline_us == 0 {
            return Err(Refused::Over { there: self.epoch, wanted: epoch });
        }
        Ok(Self { deadline_us: self.deadline_us.max(deadline_us), ..self })
    }

    /// A later epoch is known, which is another's: nothing of an earlier one is written here any more.
    #[must_use]
    pub fn knows(self, epoch: Epoch) -> Self {
        if self.epoch >= epoch { self } else { Self { epoch, deadline_us: 0, ..self } }
    }

    /// Another region is to begin an epoch, and nothing of an earlier one is written here any more. The same again is no news.
    ///
    /// # Errors
    /// [`Refused::Epoch`] when a later epoch is known, or this one has begun here.
    pub fn seal(self, epoch: Epoch) -> Result<Self, Refused> {
        if self.epoch > epoch || self.epoch == epoch && self.deadline_us > 0 {
            return Err(Refused::Epoch { there: self.epoch, wanted: epoch });
        }
        Ok(self.knows(epoch))
    }

    /// The lease of this epoch is over here, at once.
    ///
    /// # Errors
    /// [`Refused::Over`] when a later epoch has begun: closing is not for that one.
    pub fn close(self, epoch: Epoch) -> Result<Self, Refused> {
        if epoch < self.epoch {
            return Err(Refused::Over { there: self.epoch, wanted: epoch });
        }
        Ok(Self { deadline_us: 0, ..self })
    }
}

/// A tenant as a shard's fence knows it. Tenants that have never been held or moved have no row: they are here, with
/// placement 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantState {
    /// How often it has been placed.
    pub placement: Placement,
    /// Before which placement all of it has been forgotten.
    pub forgotten: Placement,
    /// Its writes are held, by this move.
    pub hold: Option<String>,
    /// When the hold ends by itself, in microseconds of the database's clock; none once another decides when it ends.
    pub hold_until_us: Option<u64>,
    /// It lives on another shard.
    pub away: bool,
}

impl TenantState {
    /// May its rows be written now?
    ///
    /// # Errors
    /// [`Closed`] says why not.
    pub fn check(&self, now_us: u64) -> Result<(), Closed> {
        if self.away {
            Err(Closed::Away)
        } else if self.hold.is_some() && self.hold_until_us.is_none_or(|until| now_us < until) {
            Err(Closed::Held)
        } else {
            Ok(())
        }
    }
}

/// The lease as a gateway holds it, on its own monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which one.
    pub epoch: Epoch,
    /// Until when: counted from before the last renewal that was answered was sent.
    pub until: Moment,
}

/// What a gateway tells its client after a commit that the database took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Done,
    /// The lease ran out meanwhile: it may be written where nobody will look for it.
    Unknown,
}

impl Lease {
    /// A lease that was asked for at `sent` and granted for `ttl`, with a margin for clocks that run differently.
    #[must_use]
    pub fn granted(epoch: Epoch, sent: Moment, ttl: Duration, margin: Duration) -> Self {
        Self { epoch, until: sent.plus(ttl.saturating_sub(margin)) }
    }

    /// May a write begin, or a strong read be answered?
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        now < self.until
    }

    /// What to tell of a commit that the database took.
    #[must_use]
    pub fn outcome(&self, now: Moment) -> Outcome {
        if self.allows(now) { Outcome::Done } else { Outcome::Unknown }
    }
}
