//! A gateway that renews its region's lease, and knows until when it may write.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::failsafe::Round;
use super::{Entry, Incarnation, Standing};
use crate::store::{Answer, Key, Request, Revision, Table, Transaction, Value};
use crate::timers::Lease;

/// A gateway's hold on its region's lease. `now` is of a clock that goes on while the machine is suspended.
#[derive(Clone, Debug)]
pub struct Holder {
    region: RegionName,
    /// The other regions, all of which must acknowledge where the failsafe rule holds.
    others: BTreeSet<RegionName>,
    timers: Lease,
    /// The entry as it was last seen or made.
    known: Option<(Revision, Option<Entry>)>,
    /// The incarnation under which it was renewed.
    held: Option<Incarnation>,
    /// How long the lease lasts that was acknowledged last.
    ttl: Duration,
    until: Option<Moment>,
    asked: Option<Asked>,
    next: Moment,
    last: Moment,
    number: u64,
    round: Option<Round>,
    /// Is the region to hold it at all?
    wanted: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    number: u64,
    sent: Moment,
    /// The entry that was to be made; none for a look.
    entry: Option<Entry>,
}

/// Permission to write a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Under which epoch.
    pub epoch: Epoch,
    /// Until when.
    pub until: Moment,
}

impl Permit {
    /// May a write begin?
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        now < self.until
    }

    /// The deadline for the fence in the shard's database, by that database's clock, which was read *before* `now`; none once the permission is
    /// over. Whatever the network does to what is sent, the database stops no later than the gateway.
    #[must_use]
    pub fn deadline_us(&self, reading_us: u64, now: Moment) -> Option<u64> {
        let left = self.until.since(now);
        (!left.is_zero())
            .then(|| reading_us.saturating_add(u64::try_from(left.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Holder {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(region: RegionName, others: BTreeSet<RegionName>, timers: Lease) -> Self {
        Self {
            region,
            others,
            timers,
            known: None,
            held: None,
            ttl: Duration::ZERO,
            until: None,
            asked: None,
            next: Moment(0),
            last: Moment(0),
            number: 0,
            round: None,
            wanted: true,
        }
    }

    /// Until when this gateway may write: what each write path compares the present with. None while it may not.
    #[must_use]
    pub const fn until(&self) -> Option<Moment> {
        self.until
    }

    /// May it write now?
    #[must_use]
    pub fn allows(&self, now: Moment) -> bool {
        now >= self.last && self.until.is_some_and(|until| now < until)
    }

    /// Under which incarnation it holds the lease, or held it last.
    #[must_use]
    pub const fn incarnation(&self) -> Option<Incarnation> {
        self.held
    }

    /// The revision at which the lease is held, for transactions that rest on it.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.held?;
        self.known.as_ref().map(|(revision, _)| *revision)
    }

    /// Gives the lease back: the region stops writing first, and says so then. The databases' fences must have been closed.
    pub fn release(&mut self) -> Option<(u64, Request)> {
        self.wanted = false;
        self.until = None;
        let (revision, entry) = self.known.clone()?;
        let entry = Entry { standing: Standing::Released, ..entry? };
        self.held.take()?;
        Some(self.ask(self.last, Some((revision, entry))))
    }

    /// What is to be asked of the store now.
    pub fn tick(&mut self, now: Moment) -> Option<(u64, Request)> {
        if now < self.last {
            // A clock that goes back says nothing of how much time is left.
            (self.until, self.round, self.asked, self.next) = (None, None, None, now);
        }
        self.last = now;
        if self.asked.as_ref().is_some_and(|asked| now.since(asked.sent) >= self.timers.rpc_timeout) {
            self.asked = None;
            // Whether it was done, nobody knows.
            self.known = None;
        }
        if self.asked.is_some() || now < self.next || !self.wanted {
            return None;
        }
        let change = self.known.clone().and_then(|(revision, entry)| Some((revision, self.change(entry)?)));
        Some(self.ask(now, change))
    }

    /// The entry that goes on from what is known.
    fn change(&self, entry: Option<Entry>) -> Option<Entry> {
        let ttl_ms = u64::try_from(self.timers.ttl.as_millis()).unwrap_or(u64::MAX);
        let failsafe = if self.timers.failsafe { self.others.clone() } else { BTreeSet::new() };
        let next = match entry {
            Some(entry) if entry.standing == Standing::Held => {
                Entry { renewals: entry.renewals.saturating_add(1), ttl_ms, failsafe, ..entry }
            }
            before => {
                let incarnation = before.map_or(0, |entry| entry.incarnation.0);
                let incarnation = Incarnation(incarnation.checked_add(1)?);
                Entry { incarnation, renewals: 0, ttl_ms, standing: Standing::Held, failsafe }
            }
        };
        Some(next)
    }

    fn ask(&mut self, now: Moment, change: Option<(Revision, Entry)>) -> (u64, Request) {
        self.number += 1;
        let entry = change.as_ref().map(|(_, entry)| entry.clone());
        if let (Some(entry), Some(until)) = (&entry, self.until) {
            // A shorter lease holds from the moment at which it may have been made: whoever sees it waits no longer than it says.
            let shorter = now.plus(self.time(entry));
            if Duration::from_millis(entry.ttl_ms) < self.known_ttl() {
                self.until = Some(until.min(shorter));
            }
        }
        self.asked = Some(Asked { number: self.number, sent: now, entry });
        let key = || Key::Lease(self.region.clone());
        let request = match change {
            Some((revision, entry)) => {
                Request::Commit(Transaction::one(key(), revision, Value::Lease(entry)))
            }
            None => Request::Scan,
        };
        (self.number, request)
    }

    fn known_ttl(&self) -> Duration {
        let entry = self.known.as_ref().and_then(|(_, entry)| entry.as_ref());
        entry.map_or(Duration::ZERO, |entry| Duration::from_millis(entry.ttl_ms))
    }

    /// How long an entry lets its holder write.
    fn time(&self, entry: &Entry) -> Duration {
        Duration::from_millis(entry.ttl_ms).saturating_sub(self.timers.margin)
    }

    /// Takes the store's answer. One to another question than the last is let go: what it would have allowed is asked for again.
    pub fn answered(&mut self, number: u64, answer: &Answer, now: Moment) {
        let Some(asked) = self.asked.take_if(|asked| asked.number == number) else { return };
        match (answer, asked.entry) {
            (Answer::Committed(revision), Some(entry)) => {
                if entry.standing == Standing::Held {
                    let until = asked.sent.plus(self.time(&entry));
                    let same = self.held == Some(entry.incarnation);
                    self.until = Some(self.until.filter(|_| same).map_or(until, |before| before.max(until)));
                    (self.held, self.round) = (Some(entry.incarnation), None);
                    self.ttl = Duration::from_millis(entry.ttl_ms);
                }
                self.known = Some((*revision, Some(entry)));
                self.next = asked.sent.plus(self.timers.renew);
            }
            (Answer::Entries(table), None) => self.see(table, now),
            (Answer::Conflict, _) => {
                // Another gateway of the region has renewed it, or another region has broken it.
                (self.known, self.next) = (None, now);
            }
            _ => {
                self.known = None;
                self.next = now.plus(self.timers.renew / 4);
            }
        }
    }

    /// Looks at the store's entries, which somebody else may have asked for.
    pub fn see(&mut self, table: &Table, now: Moment) {
        let key = Key::Lease(self.region.clone());
        let (revision, entry) = (table.revision(&key), table.lease(&self.region).cloned());
        let newer = self.known.as_ref().is_none_or(|(known, _)| revision > *known);
        if !newer || self.asked.as_ref().is_some_and(|asked| asked.entry.is_some()) {
            return;
        }
        if let Some(held) = self.held
            && !entry.as_ref().is_some_and(|entry| entry.holds(held))
        {
            (self.held, self.until, self.round) = (None, None, None);
        }
        self.known = Some((revision, entry));
        self.next = self.next.min(now);
    }

    /// Another time for the lease, of a new configuration: it holds from the next renewal.
    pub fn retime(&mut self, timers: Lease) {
        self.timers = timers;
    }

    /// Begins to ask all regions whether they acknowledge the holder, where the failsafe rule lets it go on without the store.
    pub fn ask_all(&mut self, now: Moment) -> Option<Round> {
        let due = self.round.as_ref().is_none_or(|round| now.since(round.sent) >= self.timers.renew);
        if !self.timers.failsafe || !due || !self.allows(now) {
            return None;
        }
        let incarnation = self.held?;
        let number = self.number.checked_add(1)?;
        self.number = number;
        let round = Round { incarnation, number, sent: now, acked: BTreeSet::new() };
        self.round = Some(round.clone());
        Some(round)
    }

    /// A region has acknowledged. When all have, of one round, that is a renewal from the moment at which the round was sent.
    pub fn acknowledged(&mut self, region: &RegionName, number: u64, now: Moment) {
        // Whoever acknowledges waits for what the store says that it lasts.
        let (others, time) = (&self.others, self.ttl.saturating_sub(self.timers.margin));
        let Some(round) = self.round.as_mut().filter(|round| round.number == number) else { return };
        if Some(round.incarnation) != self.held || now < round.sent {
            return;
        }
        round.acked.insert(region.clone());
        if others.iter().all(|other| round.acked.contains(other))
            && self.until.is_some_and(|until| now < until)
        {
            let until = round.sent.plus(time);
            self.until = self.until.map(|before| before.max(until));
        }
    }

    /// A region refuses: it knows better, and the store will tell.
    pub fn refused(&mut self) {
        self.round = None;
    }
}
