//! One node's part in failover, as a state machine: events go in, effects come out, and time is an argument.
//!
//! It ties the others together: probes and reports become the [`Matrix`], the control store's answers become leases and records, a policy's answers become
//! decisions behind the guards, and decisions become promotions. Whoever wires it carries effects out and says what came of them; everything that was
//! asked may be lost, late or said twice.
//!
//! Every region decides for itself, and a region carries out only what is its own: the candidate drives its promotion, the old primary its drain. Two that
//! decide differently meet in the control store, where one revision has one successor.

mod asking;
mod drive;
mod events;
mod leaving;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use self::asking::{Asked, Why};
pub use self::events::{Capacity, Effect, Event, Now, Setup, Shard, Word};
use crate::counter::{Outcome, Reason};
use crate::defaults::DECIDE;
use crate::evidence::Chain;
use crate::intent::Intents;
use crate::lease::{Challenger, Holder, Incarnation, Permit, Title};
use crate::matrix::{Matrix, Path, Report};
use crate::members::Seat;
use crate::picture::{Picture, Removal, Shift};
use crate::policies::{Fault, Seat as PolicySeat};
use crate::promotion::{Kind, Step};
use crate::proposal::Proposal;
use crate::store::{Revision, Table};

/// How often the node's own work is looked after.
pub const TICK: Duration = Duration::from_millis(100);

/// Where a record stands: its number, step and ramp, and since when that was seen.
#[derive(Clone, Copy, Debug)]
struct Noted {
    at: (u64, Step, u8),
    since: Moment,
}

/// A node's part in failover.
#[derive(Debug)]
pub struct Agent {
    setup: Setup,
    own: Seat,
    matrix: Matrix,
    holder: Holder,
    challengers: BTreeMap<RegionName, Challenger>,
    /// The store as it was last seen, with when that was asked.
    table: Table,
    scanned: Option<Moment>,
    /// Questions to the store, by their numbers.
    asked: BTreeMap<u64, Asked>,
    /// Shards whose entries are being changed.
    changing: BTreeSet<ShardName>,
    number: u64,
    words: BTreeMap<(ShardName, RegionName), (Word, Moment)>,
    intents: Intents,
    policy: PolicySeat,
    chain: Chain,
    shifts: BTreeMap<RegionName, Shift>,
    removals: Vec<Removal>,
    read_only: BTreeSet<ShardName>,
    /// Since when a region is down, and when it was last well.
    down_since: BTreeMap<RegionName, Moment>,
    well_at: BTreeMap<RegionName, Moment>,
    /// Steps that were asked for, and when.
    working: BTreeMap<ShardName, (u64, Step, u8, Moment)>,
    noted: BTreeMap<ShardName, Noted>,
    /// Shards that this region leaves: the entry that says so, and since when it was seen.
    leaving: BTreeMap<ShardName, (Revision, Moment)>,
    /// Shards about which there is something to do, by the state of the store and the lease for which that holds.
    active: ((Revision, Option<Incarnation>), Arc<[ShardName]>),
    told_barred: usize,
    planning: bool,
    ticked: Option<Moment>,
    scan_at: Moment,
    send_at: Moment,
    decide_at: Moment,
    leave_at: Moment,
}

/// A setup that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of the regions: add it to the configuration of all")]
pub struct Stranger(pub RegionName);

impl Agent {
    /// A node that knows nothing yet.
    ///
    /// # Errors
    /// [`Stranger`] when its region is none.
    pub fn new(setup: Setup) -> Result<Self, Stranger> {
        let own = setup.members.seat(&setup.own).ok_or_else(|| Stranger(setup.own.clone()))?;
        let others: BTreeSet<RegionName> =
            setup.members.names().iter().filter(|name| **name != setup.own).cloned().collect();
        let drift = setup.timers.lease.drift;
        let challenger =
            |name: &RegionName| (name.clone(), Challenger::new(setup.own.clone(), name.clone(), drift));
        Ok(Self {
            own,
            matrix: Matrix::new(setup.members.clone(), own, setup.timers.probe.clone(), setup.boot),
            challengers: others.iter().map(challenger).collect(),
            holder: Holder::new(setup.own.clone(), others, setup.timers.lease.clone()),
            table: Table::default(),
            scanned: None,
            asked: BTreeMap::new(),
            changing: BTreeSet::new(),
            number: 0,
            words: BTreeMap::new(),
            intents: Intents::default(),
            policy: PolicySeat::new(&setup.policy, setup.version),
            chain: Chain::default(),
            shifts: BTreeMap::new(),
            removals: Vec::new(),
            read_only: BTreeSet::new(),
            down_since: BTreeMap::new(),
            well_at: BTreeMap::new(),
            working: BTreeMap::new(),
            noted: BTreeMap::new(),
            leaving: BTreeMap::new(),
            active: ((Revision(0), None), setup.shards.keys().cloned().collect()),
            told_barred: 0,
            planning: false,
            ticked: None,
            scan_at: Moment(0),
            send_at: Moment(0),
            decide_at: Moment(0),
            leave_at: Moment(0),
            setup,
        })
    }

    /// Permission to write a shard; none where this region has none. It may be kept until it ends: whatever the network does, nobody else writes before,
    /// unless a person declares this region lost.
    #[must_use]
    pub fn permit(&self, shard: &ShardName, now: Moment) -> Option<Permit> {
        let (until, held) = (self.holder.until()?, self.holder.incarnation()?);
        let lease = &self.setup.timers.lease;
        // Who writes a shard is as it was seen: one who does not look does not go on for longer than a lease. Without the store, regions may say so instead.
        let seen = self.scanned?.plus(lease.ttl.saturating_sub(lease.margin));
        let until = if lease.failsafe { until } else { until.min(seen) };
        let owned = self.table.ownership(shard)?;
        let own = owned.primary == self.setup.own && owned.incarnation == held && owned.title == Title::Owned;
        if !own || !self.holder.allows(now) || now >= until || self.read_only.contains(shard) {
            return None;
        }
        let record = self.table.promotion(shard).filter(|record| record.epoch == Some(owned.epoch));
        record
            .is_none_or(|record| record.step >= Step::Sealed)
            .then_some(Permit { epoch: owned.epoch, until })
    }

    /// May the region's gateways take a client's write now? Not while the epoch only begins in its database.
    #[must_use]
    pub fn takes_writes(&self, shard: &ShardName, now: Moment) -> Option<Permit> {
        let permit = self.permit(shard, now)?;
        let opening = self.table.promotion(shard).filter(|record| record.epoch == Some(permit.epoch));
        opening.is_none_or(|record| record.step >= Step::Opened).then_some(permit)
    }

    /// What is believed of regions.
    #[must_use]
    pub const fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// The store's entries, as they were last seen.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The region's lease, as this node holds it.
    #[must_use]
    pub const fn holder(&self) -> &Holder {
        &self.holder
    }

    /// What operators say now.
    #[must_use]
    pub fn intents(&self, now: Now) -> Intents {
        self.intents.at(now.unix_ms)
    }

    /// Shards of which it is known that nobody writes them: their lease is over, and no other has begun.
    pub fn voids(&self) -> impl Iterator<Item = &ShardName> {
        let is_void = |shard: &ShardName| {
            self.table.ownership(shard).is_some_and(|owned| owned.is_void(self.table.lease(&owned.primary)))
        };
        self.setup.shards.keys().filter(move |shard| is_void(shard))
    }

    /// Shards that are handed over in an orderly way just now, with the epoch that is over: their next writer is a moment away.
    pub fn changing(&self, now: Now) -> impl Iterator<Item = (&ShardName, Epoch)> {
        let limit = self.setup.timers.pace.handover;
        self.setup.shards.keys().filter_map(move |shard| {
            let record = self.table.promotion(shard)?;
            let begins = record.kind == Kind::Switchover
                && record.is_running()
                && (Step::Drained..Step::Opened).contains(&record.step);
            (begins && self.stands_for(record, now.moment) <= limit).then_some((shard, record.before))
        })
    }

    /// The traffic plan.
    #[must_use]
    pub const fn shifts(&self) -> &BTreeMap<RegionName, Shift> {
        &self.shifts
    }

    /// Takes an event. Gives what is to be done.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => self.tick(now, &mut effects),
            Event::Probed(region, path, outcome) => {
                if let Some(seat) = self.setup.members.seat(&region) {
                    self.matrix.observe(seat, path, outcome, now.moment);
                }
            }
            Event::Suspected(region, path) => {
                if let Some(seat) = self.setup.members.seat(&region) {
                    self.matrix.suspect(seat, path, now.moment);
                }
            }
            Event::Changed => {
                self.scan_at = now.moment;
                self.scan(now, &mut effects);
            }
            Event::Heard(report, words) => self.hear(*report, words),
            Event::Word(word) => {
                self.words.insert((word.shard.clone(), self.setup.own.clone()), (word, now.moment));
            }
            Event::Intents(intents) => {
                self.intents = intents;
                self.decide_at = now.moment;
            }
            Event::Stored(number, answer) => self.stored(number, answer, now, &mut effects),
            Event::Planned(picture, answer) => self.planned(*picture, answer, now, &mut effects),
            Event::Worked(shard, number, done) => self.worked(&shard, number, &done, now, &mut effects),
            Event::AskedToAcknowledge { region, incarnation, number } => {
                let challenger = self.challengers.get_mut(&region);
                let yes =
                    challenger.is_some_and(|challenger| challenger.acknowledge(incarnation, now.moment));
                effects.push(Effect::Acknowledge { region, number, yes });
            }
            Event::Acknowledged { region, number, yes: true } => {
                self.holder.acknowledged(&region, number, now.moment);
            }
            Event::Acknowledged { yes: false, .. } => self.holder.refused(),
        }
        effects
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let moment = now.moment;
        let since = self.ticked.replace(moment).map_or(Duration::ZERO, |before| moment.since(before));
        self.matrix.late(since.saturating_sub(TICK), moment);
        if let Some((number, request)) = self.holder.tick(moment) {
            self.ask(Why::Lease(number), request, now, effects);
        }
        let timeout = self.setup.timers.lease.rpc_timeout;
        let late = |(number, asked): (&u64, &Asked)| (moment.since(asked.sent) >= timeout).then_some(*number);
        let gone: Vec<u64> = self.asked.iter().filter_map(late).collect();
        let gone: Vec<Asked> = gone.into_iter().filter_map(|number| self.forget(number)).collect();
        if gone.iter().any(|asked| asked.why == Why::Scan) {
            self.matrix.observe(self.own, Path::Control, Outcome::Failed(Reason::Timeout), moment);
        }
        self.scan(now, effects);
        let away = self.scanned.is_none_or(|scanned| moment.since(scanned) > self.setup.timers.lease.renew);
        if away && let Some(round) = self.holder.ask_all(moment) {
            effects.push(Effect::AskAll(round));
        }
        if moment >= self.send_at {
            self.send_at = moment.plus(self.setup.timers.probe.exchange);
            self.note_verdicts(moment);
            let report = self.matrix.report(moment);
            effects.push(Effect::Send(Box::new(report), self.own_words(moment)));
        }
        self.drive(now, effects);
        self.leave(now, effects);
        if moment >= self.decide_at && !self.planning {
            self.decide_at = moment.plus(DECIDE);
            if self.is_uneasy(moment) {
                self.planning = true;
                effects.push(Effect::Plan(Box::new(self.picture(now))));
            }
        }
    }

    fn hear(&mut self, report: Report, words: Vec<Word>) {
        let vantage = report.vantage;
        if !self.matrix.hear(report) {
            return;
        }
        // As old as it can be: made after the report that it names had been sent.
        let (Some(made), Some(name)) = (self.matrix.made(vantage), self.setup.members.name(vantage).cloned())
        else {
            return;
        };
        for word in words.into_iter().filter(|word| self.setup.shards.contains_key(&word.shard)) {
            let well = word.well.as_ref().filter(|(region, _)| self.setup.members.seat(region).is_some());
            if let Some((region, ago_ms)) = well {
                let at = Moment(made.0.saturating_sub(ago_ms.saturating_mul(1_000)));
                let known = self.well_at.entry(region.clone()).or_insert(at);
                *known = at.max(*known);
            }
            self.words.insert((word.shard.clone(), name.clone()), (word, made));
        }
    }

    fn own_words(&self, now: Moment) -> Vec<Word> {
        let own = |((_, region), (word, at)): (&(ShardName, RegionName), &(Word, Moment))| {
            // What was said a while ago was so then.
            let age = u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
            let silent_ms = word.silent_ms.saturating_add(age);
            let primary = self.table.ownership(&word.shard).map(|owned| &owned.primary);
            let well = primary.and_then(|primary| {
                let ago = now.since(*self.well_at.get(primary)?).as_millis();
                Some((primary.clone(), u64::try_from(ago).unwrap_or(u64::MAX)))
            });
            (*region == self.setup.own).then(|| Word { silent_ms, well, ..word.clone() })
        };
        self.words.iter().filter_map(own).collect()
    }

    /// Shards that nobody is to write, as was decided last.
    #[must_use]
    pub const fn read_only(&self) -> &BTreeSet<ShardName> {
        &self.read_only
    }

    fn planned(
        &mut self,
        picture: Picture,
        answer: Result<(Vec<Proposal>, u64), Fault>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.planning = false;
        let (proposals, author) = self.policy.answer(answer, &picture);
        let decision = crate::guards::judge(&picture, &proposals);
        let barred = decision.barred.len();
        if !decision.is_change(&picture) && decision.read_only == self.read_only && barred == self.told_barred
        {
            return;
        }
        self.told_barred = barred;
        let traffic = decision.shifts != self.shifts;
        self.shifts.clone_from(&decision.shifts);
        self.removals.extend(decision.removals.iter().cloned());
        let window = picture.limits.removal_window_ms;
        self.removals.retain(|removal| now.unix_ms.saturating_sub(removal.at_ms) < window);
        let read_only = decision.read_only != self.read_only;
        self.read_only.clone_from(&decision.read_only);
        // A decision whose evidence cannot be kept is not made.
        let Ok((bundle, digest)) = self.chain.add(picture, (proposals, author), decision) else { return };
        for wanted in &bundle.decision.moves {
            if wanted.to == self.setup.own
                && let Some(change) = self.begin(wanted, digest, now)
            {
                self.change(&wanted.shard, change, now, effects);
            }
        }
        effects.push(Effect::Evidence(Box::new(bundle)));
        if traffic {
            effects.push(Effect::Traffic(self.shifts.clone()));
        }
        if read_only {
            effects.push(Effect::ReadOnly(self.read_only.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
