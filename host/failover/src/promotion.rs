//! A promotion: one record, which whoever finds it brings to its end.
//!
//! Each step is one change of the record in the control store, made on the revision at which it was read. What a step does is asked for again until
//! it is said to be done, so that all of it is idempotent; what is said twice, or late, changes nothing. Before the lease has moved a promotion may be
//! given up; after that it only goes on.
//!
//! A planned switchover is the same record with one step more: the old primary stops, the candidate comes to the very last row, and the shard is
//! released, so that nothing is lost and nobody waits.

mod loss;

use portolan_core::ids::{Digest, RegionName, ShardName};
use portolan_core::log::Epoch;
use serde::{Deserialize, Serialize};

pub use self::loss::{Loss, Sealed};
use crate::defaults::{PAST_MAX, RAMP};
use crate::guards::Rule;

/// Why a shard gets another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its primary's region is down.
    Failover,
    /// Its region lost its lease, nobody took the shard, and the region is back.
    Reclaim,
    /// Somebody wants it elsewhere.
    Switchover,
}

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It was decided.
    Decided,
    /// The old primary has stopped and released the shard, and the candidate has all rows. Of switchovers alone.
    Drained,
    /// The candidate has the lease of the next epoch.
    Leased,
    /// All copies that answer take nothing of an earlier epoch any more, and the candidate has what they had more.
    Sealed,
    /// The epoch has begun in the candidate's database: its fence says so, and where earlier epochs are cut is written down.
    Fenced,
    /// It takes writes.
    Opened,
    /// All regions can know it.
    Published,
    /// Their gateways send writes there.
    Switched,
    /// The plan of DNS answers is made.
    Planned,
    /// Another region has seen by itself that it works. Traffic ramps up from here.
    Verified,
    /// All of it is done.
    Done,
    /// It was given up before the lease moved.
    Aborted,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The shard's next epoch is taken, in the control store.
    Acquire,
    /// A region that is back counts the rows of its log past those that the epoch after it began with.
    Count {
        /// The epoch that began without it.
        epoch: Epoch,
        /// Rows that it began with.
        cut_rows: u64,
    },
    /// The old primary stops writing under this epoch, and says how many rows there are once the candidate has them all. It begins only when few are
    /// missing, and what takes longer than [`crate::timers::Pace::handover`] is not said to be done: then the shard is taken back.
    Drain(Epoch),
    /// The epoch begins in the candidate's database.
    Fence(Epoch),
    /// The candidate's gateways take writes.
    Open(Epoch),
    /// The DNS plan is made.
    Plan,
    /// All regions are told.
    Publish(Epoch),
    /// This much of the traffic goes there, in percent.
    Ramp(u8),
    /// Other copies seal the epoch.
    Seal(Epoch),
    /// Gateways are waited for.
    Switch(Epoch),
    /// Another region looks.
    Verify(Epoch),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// It was given up.
    Aborted(String),
    /// The region that was lost is back, and has counted what it had past the cut of this promotion.
    Counted {
        /// Which promotion.
        number: u64,
        /// Rows.
        rows: u64,
    },
    /// The old primary has stopped: so many rows are in its log, and the candidate has them.
    Drained(u64),
    /// The epoch has begun.
    Fenced {
        /// Which one.
        epoch: Epoch,
        /// Rows of the old primary's log that it began with: what came after sealing was said to be done, and before it began, is not lost.
        rows: u64,
    },
    /// The lease of this epoch is the candidate's.
    Leased(Epoch),
    /// Writes are taken.
    Opened(Epoch),
    /// The plan has this number.
    Planned(u64),
    /// The news have this generation.
    Published(u64),
    /// So much of the traffic goes there.
    Ramped(u8),
    /// Copies have sealed.
    Sealed(Sealed),
    /// Gateways send writes there, except those of regions that did not answer.
    Switched(Vec<RegionName>),
    /// A region has seen it work.
    Verified(RegionName),
}

/// A promotion that moved a shard, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Which promotion of the shard.
    pub number: u64,
    /// Why.
    pub kind: Kind,
    /// Was it a policy's?
    pub automatic: bool,
    /// Where the shard was written.
    pub from: RegionName,
    /// Where it is since.
    pub to: RegionName,
    /// In which epoch.
    pub epoch: Epoch,
    /// Did that begin in the candidate's database?
    #[serde(default = "begun")]
    pub begun: bool,
    /// When the lease moved, in milliseconds since 1970.
    pub at_ms: u64,
    /// Rows that the candidate had when it began.
    pub cut_rows: Option<u64>,
    /// What was lost.
    pub loss: Option<Loss>,
}

/// A promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which one of the shard; rises by one.
    pub number: u64,
    /// The shard.
    pub shard: ShardName,
    /// Why.
    pub kind: Kind,
    /// Was it a policy's?
    pub automatic: bool,
    /// Where the shard was written.
    pub from: RegionName,
    /// Where it is to be.
    pub to: RegionName,
    /// The bundle that it was decided by.
    pub evidence: Digest,
    /// Rules that did not bar because glass was broken.
    pub overridden: Vec<Rule>,
    /// The epoch before.
    pub before: Epoch,
    /// The epoch, once it is acquired.
    pub epoch: Option<Epoch>,
    /// What has been done.
    pub step: Step,
    /// When it was decided, in milliseconds since 1970.
    pub decided_ms: u64,
    /// When the last step was done.
    pub stepped_ms: u64,
    /// Rows that the old primary is known to have had.
    pub head_rows: u64,
    /// How many rows it may have had that no other region had received; none where nothing bounds them.
    pub window_rows: Option<u64>,
    /// Regions whose gateways had not switched when it went on.
    pub lagging: Vec<RegionName>,
    /// The number of the DNS plan.
    pub plan: Option<u64>,
    /// Who has seen it work.
    pub verified_by: Option<RegionName>,
    /// How much of the traffic goes there, in percent.
    pub ramp: u8,
    /// Why it was given up.
    pub aborted: Option<String>,
    /// Promotions that moved the shard, this one among them, from the oldest on.
    pub past: Vec<Past>,
}

/// What is said of promotions that were written down before that was asked.
const fn begun() -> bool {
    true
}

/// Why a record does not go on as is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The lease has moved.
    #[error(
        "epoch {0} has begun to move, and a promotion only goes on from there: wait for it, then switch back"
    )]
    Moved(Epoch),
    /// It is not that far.
    #[error("the promotion has come to {at:?} and not to what was said to be done")]
    Order {
        /// What has been done.
        at: Step,
    },
    /// The candidate lacks rows of a primary that stopped in order.
    #[error(
        "a planned switchover loses nothing, and the candidate has {has} of {wanted} rows: it is asked again until it has all"
    )]
    Rows {
        /// Rows that it has.
        has: u64,
        /// Rows that there are.
        wanted: u64,
    },
    /// Somebody speaks of another epoch.
    #[error("this is about epoch {said}, and the promotion about epoch {meant}")]
    Stale {
        /// Which one was said.
        said: Epoch,
        /// Which one is meant.
        meant: Epoch,
    },
}

impl Record {
    /// Is there something left to be done?
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.step < Step::Done
    }

    /// May it be given up?
    #[must_use]
    pub fn may_abort(&self) -> bool {
        self.step < Step::Leased
    }

    /// Did it, given up itself, take the place of one that had taken an epoch and not begun it?
    #[must_use]
    pub fn hides(&self, owned: Epoch) -> bool {
        let last = self.past.last();
        self.step == Step::Aborted && last.is_some_and(|past| past.epoch == owned && !past.begun)
    }

    /// What is to be done next, and by which region; none when all is done.
    #[must_use]
    pub fn work(&self) -> Option<(&RegionName, Work)> {
        let to = &self.to;
        let epoch = self.epoch;
        let after = |work: fn(Epoch) -> Work| Some((to, work(epoch?)));
        match self.step {
            Step::Decided if self.kind == Kind::Switchover => Some((&self.from, Work::Drain(self.before))),
            Step::Decided | Step::Drained => Some((to, Work::Acquire)),
            Step::Leased => after(Work::Seal),
            Step::Sealed => after(Work::Fence),
            Step::Fenced => after(Work::Open),
            Step::Opened => after(Work::Publish),
            Step::Published => after(Work::Switch),
            Step::Switched => Some((to, Work::Plan)),
            Step::Planned => after(Work::Verify),
            Step::Verified => Some((to, Work::Ramp(next_ramp(self.ramp)))),
            Step::Done | Step::Aborted => None,
        }
    }

    /// The record after something was done; none when that is no news.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be.
    pub fn after(&self, done: &Done, now_ms: u64) -> Result<Option<Self>, Refused> {
        if let Done::Counted { number, rows } = done {
            return Ok(self.counted(*number, *rows));
        }
        if let Done::Aborted(why) = done {
            return self.abort(why, now_ms);
        }
        let (from, to) = self.between(done);
        if self.step >= to && !(to == Step::Verified && matches!(done, Done::Ramped(_))) || !self.is_running()
        {
            return Ok(None);
        }
        if self.step != from {
            return Err(Refused::Order { at: self.step });
        }
        let mut next = Self { step: to, stepped_ms: now_ms, ..self.clone() };
        match done {
            Done::Drained(rows) => next.head_rows = *rows,
            Done::Leased(epoch) => next.moved(*epoch, now_ms)?,
            Done::Sealed(sealed) => next.seal(sealed)?,
            Done::Fenced { epoch, rows } => {
                self.same(*epoch)?;
                next.began(*rows);
            }
            Done::Opened(epoch) => self.same(*epoch)?,
            Done::Planned(plan) => next.plan = Some(*plan),
            Done::Switched(lagging) => next.lagging.clone_from(lagging),
            Done::Verified(by) => next.verified_by = Some(by.clone()),
            Done::Ramped(percent) => {
                if *percent <= self.ramp {
                    return Ok(None);
                }
                next.ramp = (*percent).min(next_ramp(self.ramp));
                next.step = if next.ramp >= 100 { Step::Done } else { Step::Verified };
            }
            Done::Aborted(_) | Done::Counted { .. } | Done::Published(_) => {}
        }
        Ok(Some(next))
    }

    fn between(&self, done: &Done) -> (Step, Step) {
        let first = if self.kind == Kind::Switchover { Step::Drained } else { Step::Decided };
        match done {
            Done::Drained(_) => (Step::Decided, Step::Drained),
            Done::Leased(_) => (first, Step::Leased),
            Done::Sealed(_) => (Step::Leased, Step::Sealed),
            Done::Fenced { .. } => (Step::Sealed, Step::Fenced),
            Done::Opened(_) => (Step::Fenced, Step::Opened),
            Done::Published(_) => (Step::Opened, Step::Published),
            Done::Switched(_) => (Step::Published, Step::Switched),
            Done::Planned(_) => (Step::Switched, Step::Planned),
            Done::Verified(_) => (Step::Planned, Step::Verified),
            Done::Ramped(_) | Done::Aborted(_) | Done::Counted { .. } => (Step::Verified, Step::Verified),
        }
    }

    fn same(&self, said: Epoch) -> Result<(), Refused> {
        let meant = self.epoch.unwrap_or(self.before);
        if said == meant { Ok(()) } else { Err(Refused::Stale { said, meant }) }
    }

    fn abort(&self, why: &str, now_ms: u64) -> Result<Option<Self>, Refused> {
        if self.step == Step::Aborted {
            return Ok(None);
        }
        if !self.may_abort() {
            return Err(Refused::Moved(self.epoch.unwrap_or(self.before)));
        }
        let aborted = Some(why.to_owned());
        Ok(Some(Self { step: Step::Aborted, stepped_ms: now_ms, aborted, ..self.clone() }))
    }

    /// The lease has moved: from here on it is part of the shard's history.
    fn moved(&mut self, epoch: Epoch, now_ms: u64) -> Result<(), Refused> {
        if epoch <= self.before {
            return Err(Refused::Stale { said: epoch, meant: Epoch(self.before.0.saturating_add(1)) });
        }
        self.epoch = Some(epoch);
        let Self { number, kind, automatic, from, to, .. } = self.clone();
        self.past.push(Past {
            number,
            kind,
            automatic,
            from,
            to,
            epoch,
            begun: false,
            at_ms: now_ms,
            cut_rows: None,
            loss: None,
        });
        let old = self.past.len().saturating_sub(PAST_MAX);
        self.past.drain(..old);
        Ok(())
    }

    fn seal(&mut self, sealed: &Sealed) -> Result<(), Refused> {
        self.same(sealed.epoch)?;
        if self.kind == Kind::Switchover && sealed.rows < self.head_rows {
            return Err(Refused::Rows { has: sealed.rows, wanted: self.head_rows });
        }
        self.head_rows = self.head_rows.max(sealed.head_rows);
        let loss = Loss::estimate(self.head_rows, self.window_rows, sealed);
        let loss = if self.kind == Kind::Failover { loss } else { Loss::none() };
        let number = self.number;
        for past in self.past.iter_mut().filter(|past| past.number == number) {
            (past.cut_rows, past.loss) = (Some(sealed.rows), Some(loss.clone()));
        }
        Ok(())
    }

    fn began(&mut self, rows: u64) {
        let (number, head_rows) = (self.number, self.head_rows);
        for past in self.past.iter_mut().filter(|past| past.number == number) {
            past.cut_rows = Some(rows);
            past.begun = true;
            let open = past.loss.iter_mut().filter(|loss| loss.exact.is_none());
            open.for_each(|loss| loss.at_least = loss.at_least.min(head_rows.saturating_sub(rows)));
        }
    }

    fn counted(&self, number: u64, rows: u64) -> Option<Self> {
        let mut next = self.clone();
        let past = next.past.iter_mut().find(|past| past.number == number)?;
        let loss = past.loss.as_mut().filter(|loss| loss.exact.is_none())?;
        loss.exact = Some(rows);
        Some(next)
    }

    /// Promotions out of a region whose loss is not counted yet.
    pub fn uncounted<'a>(&'a self, region: &'a RegionName) -> impl Iterator<Item = &'a Past> {
        let open = |past: &&Past| past.loss.as_ref().is_some_and(|loss| loss.exact.is_none());
        self.past.iter().filter(move |past| past.from == *region).filter(open)
    }
}

fn next_ramp(percent: u8) -> u8 {
    RAMP.into_iter().find(|step| *step > percent).unwrap_or(100)
}

#[cfg(test)]
mod tests;
