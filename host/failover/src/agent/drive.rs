//! How promotions go on: what this node's region has to do of each, and what the control store is to be told of it.

use std::time::Duration;

use portolan_core::ids::{Digest, RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::{Agent, Effect, Noted, Now};
use crate::defaults::{DECISION_MAX, WORK_RETRY};
use crate::guards::{self, Move, Rule};
use crate::lease::{self, Title};
use crate::matrix::Verdict;
use crate::promotion::{Done, Kind, Record, Step, Work};
use crate::proposal::Origin;
use crate::store::{Key, Revision, Transaction, Value};

/// How long a switchover waits, in times of what it may keep writes waiting, before its old primary takes the shard back.
const HANDOVERS: u32 = 3;

impl Agent {
    /// Does what this region has to do of all promotions.
    pub(super) fn drive(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let seen = (self.table.last(), self.holder.incarnation());
        if self.active.0 != seen {
            self.active =
                (seen, self.setup.shards.keys().filter(|shard| self.is_active(shard)).cloned().collect());
        }
        self.note_records(now.moment);
        let shards = self.active.1.clone();
        for shard in shards.iter() {
            if let Some(change) = self.reclaim(shard, now) {
                self.change(shard, change, now, effects);
                continue;
            }
            let Some(record) = self.table.promotion(shard).cloned() else { continue };
            if let Some(change) = self.give_up(&record, now) {
                self.change(shard, change, now, effects);
                continue;
            }
            self.count(&record, now, effects);
            match record.work() {
                Some((by, Work::Acquire)) if *by == self.setup.own => {
                    if let Some(change) = self.acquire(&record, now) {
                        self.change(shard, change, now, effects);
                    }
                }
                Some((by, work)) if *by == self.setup.own && self.may_work(&record, &work, now) => {
                    self.work(&record, work, now, effects);
                }
                _ => {}
            }
        }
    }

    /// Is there anything for this region to do about a shard? Of ten thousand there is nothing, most of the time.
    fn is_active(&self, shard: &ShardName) -> bool {
        let own = &self.setup.own;
        let record = self.table.promotion(shard);
        let runs = record.is_some_and(|record| record.is_running() || record.uncounted(own).next().is_some());
        let mine = match self.table.ownership(shard) {
            None => true,
            Some(owned) => {
                let held = Some(owned.incarnation) == self.holder.incarnation();
                let hidden = record.is_some_and(|record| record.hides(owned.epoch));
                owned.primary == *own && (!held || owned.title != Title::Owned || hidden)
            }
        };
        runs || mine
    }

    fn revision(&self, shard: &ShardName) -> Revision {
        self.table.revision(&Key::Promotion(shard.clone()))
    }

    /// The record's next state, on the one that was seen.
    fn put(&self, record: Record) -> Transaction {
        let (key, at) = (Key::Promotion(record.shard.clone()), self.revision(&record.shard));
        Transaction::one(key, at, Value::Promotion(Box::new(record)))
    }

    fn fresh(
        &self,
        wanted: (&ShardName, Kind, &RegionName, &RegionName),
        evidence: Digest,
        now: Now,
    ) -> Record {
        let (shard, kind, from, to) = wanted;
        let before = self.table.promotion(shard);
        let picture = self.narrow(shard, now);
        let exact = self.setup.shards.get(shard).is_some_and(|shard| shard.exact);
        Record {
            number: before.map_or(0, |record| record.number).saturating_add(1),
            shard: shard.clone(),
            kind,
            automatic: true,
            from: from.clone(),
            to: to.clone(),
            evidence,
            overridden: Vec::new(),
            before: self.before(shard),
            epoch: None,
            step: Step::Decided,
            decided_ms: now.unix_ms,
            stepped_ms: now.unix_ms,
            head_rows: picture.shards.get(shard).filter(|_| exact).map_or(0, |shard| shard.head_rows),
            window_rows: self.setup.shards.get(shard).and_then(|shard| shard.max_loss.window_rows),
            lagging: Vec::new(),
            plan: None,
            verified_by: None,
            ramp: 0,
            aborted: None,
            past: before.map(|record| record.past.clone()).unwrap_or_default(),
        }
    }

    /// The last epoch of a shard: of one that has no owner yet, the one before that in which it is written already.
    fn before(&self, shard: &ShardName) -> Epoch {
        let begun = || self.setup.shards.get(shard).map_or(0, |shard| shard.begun.0.0);
        self.table.ownership(shard).map_or_else(|| Epoch(begun().saturating_sub(1)), |owned| owned.epoch)
    }

    /// Begins a promotion that was decided.
    pub(super) fn begin(&self, wanted: &Move, evidence: Digest, now: Now) -> Option<Transaction> {
        let owned = self.table.ownership(&wanted.shard)?;
        if owned.primary != wanted.from {
            return None;
        }
        let before = self.table.promotion(&wanted.shard).filter(|record| is_unfinished(record, owned.epoch));
        // Of a candidate that never began, what counts is what was lost before it.
        let from = before.map_or(&wanted.from, |record| &record.from);
        let record = self.fresh((&wanted.shard, wanted.kind, from, &wanted.to), evidence, now);
        let automatic = wanted.origin == Origin::Policy;
        Some(self.put(Record { automatic, overridden: wanted.overridden.clone(), ..record }))
    }

    /// Takes back what is this region's by right: a shard that nobody has had yet, or whose lease was lost while nobody took it, or that was given away and
    /// not taken. Nothing is lost by it, and nobody else could write.
    fn reclaim(&self, shard: &ShardName, now: Now) -> Option<Transaction> {
        let own = &self.setup.own;
        let held = self.holder.incarnation().filter(|_| self.holder.allows(now.moment))?;
        self.scanned?;
        let record = self.table.promotion(shard);
        let owned = self.table.ownership(shard);
        let wanted = match owned {
            None => self.setup.shards.get(shard).is_some_and(|shard| shard.begun.1 == *own),
            Some(owned) => {
                let hidden = record.is_some_and(|record| record.hides(owned.epoch));
                let void = owned.incarnation != held || owned.title != Title::Owned || hidden;
                // What was left goes on here once its database speaks again, unless another region has it by then.
                owned.primary == *own && void && !self.is_silent(shard, now.moment)
            }
        };
        let late = |record: &Record| self.is_late(record, now) && record.step == Step::Drained;
        if !wanted {
            return None;
        }
        let picture = self.narrow(shard, now);
        let others =
            record.is_some_and(|record| self.is_under_way(record, &picture, now.moment) && !late(record));
        if others || self.intents.drains.get(own).is_some_and(|word| word.holds(now.unix_ms)) {
            return None;
        }
        // What was lost with the region before is not told yet, where it was taken over from and nothing came of it.
        let (kind, from) =
            match record.filter(|record| owned.is_some_and(|owned| is_unfinished(record, owned.epoch))) {
                Some(record) => (Kind::Failover, record.from.clone()),
                None => (Kind::Reclaim, own.clone()),
            };
        self.take(self.fresh((shard, kind, &from, own), crate::evidence::NONE, now), None, now)
    }

    /// Has a switchover taken too long, by this node's own clock since it saw the step that it is at?
    fn is_late(&self, record: &Record, now: Now) -> bool {
        let handover = self.setup.timers.pace.handover.saturating_mul(HANDOVERS);
        record.kind == Kind::Switchover && self.stands_for(record, now.moment) > handover
    }

    /// For how long a record has stood where it stands, as far as this node has seen.
    pub(super) fn stands_for(&self, record: &Record, now: Moment) -> Duration {
        let same = |noted: &&Noted| noted.at == (record.number, record.step, record.ramp);
        self.noted.get(&record.shard).filter(same).map_or(Duration::ZERO, |noted| now.since(noted.since))
    }

    /// Notes since when records stand where they do.
    fn note_records(&mut self, now: Moment) {
        for shard in self.active.1.iter() {
            let Some(record) = self.table.promotion(shard) else { continue };
            let at = (record.number, record.step, record.ramp);
            if self.noted.get(shard).is_none_or(|noted| noted.at != at) {
                self.noted.insert(shard.clone(), Noted { at, since: now });
            }
        }
    }

    /// Gives up what has not moved the lease: a failover whose region is back, and a switchover that takes too long. The old primary has stopped for
    /// that one, perhaps, and begins an epoch of its own.
    fn give_up(&self, record: &Record, now: Now) -> Option<Transaction> {
        let own = &self.setup.own;
        if !record.is_running() || !record.may_abort() {
            return None;
        }
        if record.kind == Kind::Switchover
            && record.from == *own
            && record.step == Step::Decided
            && self.is_late(record, now)
        {
            let again = self.fresh((&record.shard, Kind::Reclaim, own, own), record.evidence, now);
            return self.take(again, None, now);
        }
        let back = record.kind == Kind::Failover && record.to == *own && self.is_back(record, now);
        let gone = record.kind == Kind::Switchover && record.to == *own && {
            let owned = self.table.ownership(&record.shard)?;
            record.step == Step::Decided && owned.is_void(self.table.lease(&owned.primary))
        };
        if !back && !gone {
            return None;
        }
        let why = if back {
            "the region is back before its lease was over"
        } else {
            "the region is gone before it could stop in order"
        };
        let next = record.after(&Done::Aborted(why.to_owned()), now.unix_ms).ok().flatten()?;
        Some(self.put(next))
    }

    fn is_back(&self, record: &Record, now: Now) -> bool {
        let Some(owned) = self.table.ownership(&record.shard) else { return false };
        if owned.epoch != record.before {
            return true;
        }
        if owned.is_void(self.table.lease(&owned.primary)) || self.is_lost(&owned.primary, now) {
            return false;
        }
        let verdict =
            self.setup.members.seat(&owned.primary).map(|seat| self.matrix.verdict(seat, now.moment));
        matches!(verdict, Some(Verdict::Healthy | Verdict::Suspect | Verdict::Partitioned | Verdict::Gray))
    }

    fn is_lost(&self, region: &RegionName, now: Now) -> bool {
        self.intents.at(now.unix_ms).lost.contains_key(region)
    }

    /// Acquires the next epoch, when the lease of whoever has the last is over. One transaction breaks that lease, takes the shard and notes it.
    fn acquire(&mut self, record: &Record, now: Now) -> Option<Transaction> {
        let owned = self.table.ownership(&record.shard)?;
        if owned.epoch != record.before {
            let why = Done::Aborted("the shard has another epoch meanwhile".to_owned());
            return Some(self.put(record.after(&why, now.unix_ms).ok().flatten()?));
        }
        let paced =
            record.automatic && record.kind == Kind::Failover && !record.overridden.contains(&Rule::AntiFlap);
        if paced {
            // Somebody may have frozen everything since it was decided, or another region failed.
            let picture = self.narrow(&record.shard, now);
            let worked_at = picture.intents.maintenance.contains_key(&owned.primary);
            // By a node that was away since then, perhaps, while the primary was not.
            let ago_ms = now.unix_ms.saturating_sub(record.decided_ms);
            let late = u128::from(ago_ms) > DECISION_MAX.as_millis();
            let fresh = if late {
                Err(format!("it was decided {ago_ms} ms ago, and much may be written since"))
            } else {
                Ok(())
            };
            let may = fresh
                .and_then(|()| guards::rate(&picture, &record.shard))
                .and_then(|()| guards::operator(&picture, Origin::Policy))
                .and_then(
                    |()| if worked_at { Err("somebody works at the region".to_owned()) } else { Ok(()) },
                );
            if let Err(why) = may {
                return Some(self.put(record.after(&Done::Aborted(why), now.unix_ms).ok().flatten()?));
            }
        }
        let free = owned.is_void(self.table.lease(&owned.primary)) || owned.primary == self.setup.own;
        if free {
            return self.take(record.clone(), None, now);
        }
        let (from, lost) = (owned.primary.clone(), self.is_lost(&owned.primary.clone(), now));
        let challenger = self.challengers.get_mut(&from)?;
        let wait = challenger.wait(now.moment);
        guards::no_takeover(&from, &wait, now.moment, lost).ok()?;
        let broken = challenger.take()?;
        Some(broken.and(self.take(record.clone(), Some(&from), now)?))
    }

    /// The shard's next epoch for this region, and the record that says so.
    fn take(&self, record: Record, broken: Option<&RegionName>, now: Now) -> Option<Transaction> {
        let incarnation = self.holder.incarnation().filter(|_| self.holder.allows(now.moment))?;
        let by = (&self.setup.own, incarnation, self.holder.revision()?);
        let (change, owned) =
            lease::acquire(&self.table, (&record.shard, self.before(&record.shard)), by, broken).ok()?;
        // Switchovers that are taken back have no step that leads here.
        let record =
            Record { step: if record.kind == Kind::Reclaim { Step::Decided } else { record.step }, ..record };
        let next = record.after(&Done::Leased(owned.epoch), now.unix_ms).ok().flatten()?;
        let change = change.and(self.put(next));
        let interval_ms = u64::try_from(self.setup.timers.pace.interval.as_millis()).unwrap_or(u64::MAX);
        let failed = (record.automatic && record.kind == Kind::Failover)
            .then(|| guards::failed(self.table.pace(), &record.from, now.unix_ms, interval_ms))
            .flatten();
        // Two that begin at once meet here: one of them looks at the rate again.
        Some(match failed {
            Some(failures) => change.and(Transaction::one(
                Key::Pace,
                self.table.revision(&Key::Pace),
                Value::Pace(failures),
            )),
            None => change,
        })
    }

    fn may_work(&self, record: &Record, work: &Work, now: Now) -> bool {
        let owned = self.table.ownership(&record.shard);
        if matches!(work, Work::Drain(_)) {
            return owned.is_some_and(|owned| owned.primary == self.setup.own) && !self.is_late(record, now);
        }
        let stands =
            owned.is_some_and(|owned| Some(owned.epoch) == record.epoch && owned.primary == self.setup.own);
        let lasts = self.holder.allows(now.moment)
            && owned.map(|owned| owned.incarnation) == self.holder.incarnation();
        let ramps = matches!(work, Work::Ramp(_)) && record.ramp > 0;
        let rested = !ramps || self.stands_for(record, now.moment) >= self.setup.timers.pace.ramp_step;
        stands && lasts && rested
    }

    fn work(&mut self, record: &Record, work: Work, now: Now, effects: &mut Vec<Effect>) {
        let step = (record.number, record.step, record.ramp);
        let asked =
            self.working.get(&record.shard).filter(|(number, at, ramp, _)| (*number, *at, *ramp) == step);
        if asked.is_some_and(|(.., since)| now.moment.since(*since) < WORK_RETRY) {
            return;
        }
        self.working.insert(record.shard.clone(), (step.0, step.1, step.2, now.moment));
        effects.push(Effect::Work(record.shard.clone(), record.number, work));
    }

    /// A region that was lost is back: what it had past the cut is counted, once.
    fn count(&mut self, record: &Record, now: Now, effects: &mut Vec<Effect>) {
        let Some(open) = record.uncounted(&self.setup.own).next() else { return };
        let (Some(cut_rows), number, epoch) = (open.cut_rows, open.number, open.epoch) else { return };
        let open_at = (number, Step::Aborted, 0);
        let asked =
            self.working.get(&record.shard).filter(|(number, at, ramp, _)| (*number, *at, *ramp) == open_at);
        let idle = !record.is_running() || record.to != self.setup.own;
        if idle && asked.is_none_or(|(.., since)| now.moment.since(*since) >= WORK_RETRY) {
            self.working.insert(record.shard.clone(), (number, Step::Aborted, 0, now.moment));
            effects.push(Effect::Work(record.shard.clone(), number, Work::Count { epoch, cut_rows }));
        }
    }

    /// Takes what was done.
    pub(super) fn worked(
        &mut self,
        shard: &ShardName,
        number: u64,
        done: &Done,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(record) = self.table.promotion(shard).cloned() else { return };
        let counted = matches!(done, Done::Counted { .. });
        if record.number != number && !counted {
            return;
        }
        let Ok(Some(next)) = record.after(done, now.unix_ms) else { return };
        let change = self.put(next);
        let change = match done {
            // The shard is given back by the same change.
            Done::Drained(_) => match lease::release(&self.table, shard, &self.setup.own, record.before) {
                Some(released) => released.and(change),
                None => return,
            },
            _ => change,
        };
        self.change(shard, change, now, effects);
    }
}

/// Did a failover take the epoch that is, and never begin it in a database?
fn is_unfinished(record: &Record, owned: Epoch) -> bool {
    record.kind == Kind::Failover && record.epoch == Some(owned) && record.step < Step::Fenced
}
