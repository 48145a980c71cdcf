//! Whoever watches another region's lease, to break it once it is certain that nobody writes under it.

use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::time::Moment;

use super::{Entry, Incarnation, Standing};
use crate::store::{Key, Revision, Transaction, Value};

/// One region's look at another's lease.
#[derive(Clone, Debug)]
pub struct Challenger {
    by: RegionName,
    of: RegionName,
    drift: Duration,
    seen: Option<Seen>,
    /// When the holder was last acknowledged while the store was away.
    promised: Option<(Incarnation, Moment)>,
    last: Moment,
}

#[derive(Clone, Debug)]
struct Seen {
    revision: Revision,
    entry: Option<Entry>,
    /// When it was first seen like this.
    at: Moment,
    /// Does the store say so still, as far as is known?
    ttl: Duration,
}

/// May the lease be broken?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is not this region's to break.
    Barred(String),
    /// Nobody holds it.
    Free,
    /// It has not changed for long enough.
    Over,
    /// Nothing is known of it yet.
    Unseen,
    /// Not before this moment.
    Until(Moment),
}

impl Challenger {
    /// One that has seen nothing yet.
    #[must_use]
    pub const fn new(by: RegionName, of: RegionName, drift: Duration) -> Self {
        Self { by, of, drift, seen: None, promised: None, last: Moment(0) }
    }

    /// Looks at the lease as the store has it. What came late is no harm: it makes the wait longer.
    pub fn observe(&mut self, revision: Revision, entry: Option<&Entry>, now: Moment) {
        self.turn(now);
        if self.seen.as_ref().is_some_and(|seen| seen.revision >= revision && seen.entry.as_ref() == entry) {
            return;
        }
        if self.seen.as_ref().is_some_and(|seen| seen.revision > revision) {
            return;
        }
        let ttl = entry.map_or(Duration::ZERO, |entry| Duration::from_millis(entry.ttl_ms));
        // A lease that was made shorter: what its holder had before may last longer.
        let before =
            self.seen.as_ref().map_or(Duration::ZERO, |seen| seen.ttl.saturating_sub(now.since(seen.at)));
        let ttl = ttl.max(before);
        self.seen = Some(Seen { revision, entry: entry.cloned(), at: now, ttl });
    }

    /// Looks at the clock. One that goes back, or a gateway that starts, waits from the beginning.
    fn turn(&mut self, now: Moment) {
        if now < self.last {
            self.seen.iter_mut().for_each(|seen| seen.at = now);
            self.promised.iter_mut().for_each(|(_, at)| *at = now);
        }
        self.last = now;
    }

    /// May it be broken?
    pub fn wait(&mut self, now: Moment) -> Wait {
        self.turn(now);
        let Some(seen) = &self.seen else { return Wait::Unseen };
        let Some(entry) = seen.entry.as_ref().filter(|entry| entry.standing == Standing::Held) else {
            return Wait::Free;
        };
        if !entry.failsafe.is_empty() && !entry.failsafe.contains(&self.by) {
            let (of, by) = (&self.of, &self.by);
            return Wait::Barred(format!(
                "`{of}` may go on by acknowledgement of regions among which `{by}` is not: promote to one of those, or declare `{of}` lost"
            ));
        }
        let promised = self.promised.filter(|(incarnation, _)| *incarnation == entry.incarnation);
        let from = promised.map_or(seen.at, |(_, at)| seen.at.max(at));
        let over = from.plus(seen.ttl + self.drift);
        if now >= over { Wait::Over } else { Wait::Until(over) }
    }

    /// Acknowledges a holder while the store is away, and promises not to challenge it for as long as its lease lasts. Not where a later incarnation
    /// is known, or none that holds.
    pub fn acknowledge(&mut self, incarnation: Incarnation, now: Moment) -> bool {
        self.turn(now);
        let holds = self
            .seen
            .as_ref()
            .and_then(|seen| seen.entry.as_ref())
            .is_some_and(|entry| entry.holds(incarnation) && entry.failsafe.contains(&self.by));
        if holds {
            self.promised = Some((incarnation, now));
        }
        holds
    }

    /// Breaks the lease as it was seen. Nobody can have renewed it where the store takes this. Only where [`Self::wait`] says that it is over, or where
    /// a person has declared the region lost.
    #[must_use]
    pub fn take(&self) -> Option<Transaction> {
        let seen = self.seen.as_ref()?;
        let entry = seen.entry.clone().filter(|entry| entry.standing == Standing::Held)?;
        let broken = Entry { standing: Standing::Broken { by: self.by.clone() }, ..entry };
        Some(Transaction::one(Key::Lease(self.of.clone()), seen.revision, Value::Lease(broken)))
    }

    /// The lease as it was last seen.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.seen.as_ref()?.entry.as_ref()
    }
}
