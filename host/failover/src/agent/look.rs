//! What a node makes of what it knows: the picture that policies see.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::{Agent, Now};
use crate::counter::State;
use crate::defaults::DECISION_MAX;
use crate::lease::Title;
use crate::matrix::{Path, Verdict, cell};
use crate::picture::{Limits, Picture, Region, Replica, Shard, Sight};
use crate::promotion::{Record, Step};

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Agent {
    /// Notes since when regions are down, and when they were well.
    pub(super) fn note_verdicts(&mut self, now: Moment) {
        let row = self.matrix.row(now);
        for (name, verdict) in self.setup.members.names().iter().zip(self.matrix.verdicts(now)) {
            match verdict {
                Verdict::Down { .. } => {
                    self.down_since.entry(name.clone()).or_insert(now);
                }
                _ => {
                    self.down_since.remove(name);
                }
            }
            if verdict == Verdict::Healthy {
                // Until the next look has failed, a region that has just died is believed to be well: it was when it answered last. Who writes its
                // shards is well while its databases answer, as it says itself, and sooner than those have failed often enough to be called down.
                let seat = self.setup.members.seat(name).filter(|seat| *seat != self.own);
                let answered = seat.map_or(0, |seat| {
                    let age = |path| cell(&row, seat, path).age_ms;
                    let view = self.matrix.view(seat, now);
                    let database = view.map(|(row, _)| cell(&row, seat, Path::Database));
                    let known = database.filter(|cell| cell.state != State::Unknown);
                    // What it said a while ago was so then, and is as old as it can be.
                    let said = self.matrix.made(seat).map_or(0, |made| now.since(made).as_millis());
                    let said = u32::try_from(said).unwrap_or(u32::MAX);
                    let database = known.map_or(0, |cell| cell.age_ms.saturating_add(said));
                    age(Path::Ingress).min(age(Path::Peer)).max(database)
                });
                let at = Moment(now.0.saturating_sub(u64::from(answered).saturating_mul(1_000)));
                let known = self.well_at.entry(name.clone()).or_insert(at);
                *known = (*known).max(at);
            }
        }
    }

    /// Is there anything to decide about?
    pub(super) fn is_uneasy(&self, now: Moment) -> bool {
        let sick = |verdict: &Verdict| matches!(verdict, Verdict::Down { .. } | Verdict::Gray);
        self.intents.is_active()
            || !self.shifts.is_empty()
            || !self.read_only.is_empty()
            || self.matrix.verdicts(now).iter().any(sick)
            || self.voids().next().is_some()
            || self.setup.failback && self.is_away_from_home()
    }

    fn is_away_from_home(&self) -> bool {
        let away = |(name, shard): (&ShardName, &super::Shard)| {
            self.table.ownership(name).is_some_and(|owned| owned.primary != shard.home)
        };
        self.setup.shards.iter().any(away)
    }

    /// The world as this node knows it.
    #[must_use]
    pub fn picture(&self, now: Now) -> Picture {
        Picture { sights: self.sights(now.moment), ..self.picture_of(self.setup.shards.iter(), now) }
    }

    /// The same, of one shard: all that is asked about one.
    pub(super) fn narrow(&self, shard: &ShardName, now: Now) -> Picture {
        self.picture_of(self.setup.shards.get_key_value(shard).into_iter(), now)
    }

    fn picture_of<'a>(
        &self,
        shards: impl Iterator<Item = (&'a ShardName, &'a super::Shard)>,
        now: Now,
    ) -> Picture {
        let intents = self.intents.at(now.unix_ms);
        let verdicts = self.matrix.verdicts(now.moment);
        let control =
            self.scanned.is_some_and(|scanned| now.moment.since(scanned) <= self.setup.timers.lease.renew);
        let regions: BTreeMap<RegionName, Region> =
            (self.setup.members.names().iter().zip(self.setup.members.seats()))
                .zip(verdicts)
                .map(|((name, seat), verdict)| (name.clone(), self.region(name, seat, verdict, now.moment)))
                .collect();
        let mut picture = Picture {
            now_ms: now.unix_ms,
            local: self.setup.own.clone(),
            control,
            regions,
            sights: Vec::new(),
            shards: BTreeMap::new(),
            failures: self.table.pace().to_vec(),
            shifts: self.shifts.clone(),
            removals: self.removals.clone(),
            intents,
            limits: Limits::of(&self.setup.timers, self.setup.failback),
        };
        picture.shards = shards
            .filter_map(|(name, shard)| Some((name.clone(), self.shard(name, shard, &picture, now.moment)?)))
            .collect();
        picture
    }

    /// What all regions that report see of each other.
    fn sights(&self, now: Moment) -> Vec<Sight> {
        let members = || self.setup.members.names().iter().zip(self.setup.members.seats());
        let mut sights = Vec::new();
        for (vantage, seat) in members() {
            let Some((row, _)) = self.matrix.view(seat, now) else { continue };
            for (region, seen) in members() {
                let states = Path::ALL.map(|path| (path, cell(&row, seen, path).state));
                let cells: BTreeMap<Path, State> =
                    states.into_iter().filter(|(_, state)| *state != State::Unknown).collect();
                if !cells.is_empty() {
                    sights.push(Sight { region: region.clone(), vantage: vantage.clone(), cells });
                }
            }
        }
        sights
    }

    fn region(&self, name: &RegionName, seat: crate::members::Seat, verdict: Verdict, now: Moment) -> Region {
        let view = self.matrix.view(seat, now);
        let answers = view.is_some_and(|(_, doubt)| doubt.is_none());
        let database = view.is_some_and(|(row, _)| cell(&row, seat, Path::Database).state != State::Down);
        let since = |at: &BTreeMap<RegionName, Moment>| at.get(name).map(|at| millis(now.since(*at)));
        let capacity = self.setup.capacities.get(name).copied().unwrap_or_default();
        Region {
            verdict,
            answers,
            database,
            down_ms: since(&self.down_since).filter(|_| verdict.is_down()).unwrap_or(0),
            well_ago_ms: since(&self.well_at),
            capacity: capacity.capacity,
            load: capacity.load,
        }
    }

    fn shard(&self, name: &ShardName, shard: &super::Shard, picture: &Picture, now: Moment) -> Option<Shard> {
        let owned = self.table.ownership(name)?;
        let record = self.table.promotion(name);
        let words = shard.regions.iter().filter_map(|region| {
            let (word, at) = self.words.get(&(name.clone(), region.clone()))?;
            Some((region, word, at))
        });
        let epoch = begun(record, owned.epoch);
        let head_rows = words
            .clone()
            .filter(|(_, word, _)| word.epoch == epoch)
            .map(|(_, word, _)| word.head_rows.max(word.rows))
            .max();
        let replica = |(region, word, at): (&RegionName, &super::Word, &Moment)| {
            let replica = Replica {
                epoch: word.epoch,
                position: word.position,
                rows: word.rows,
                behind_rows: word.head_rows.saturating_sub(word.rows),
                behind_bytes: word.behind_bytes,
                behind_ms: word.behind_ms,
                ago_ms: millis(now.since(*at)).saturating_add(word.silent_ms),
                whole: word.whole,
            };
            (region.clone(), replica)
        };
        Some(Shard {
            epoch,
            primary: owned.primary.clone(),
            void: owned.is_void(self.table.lease(&owned.primary)),
            home: shard.home.clone(),
            replicas: words.map(replica).collect(),
            allowed: shard.allowed.clone(),
            max_loss: shard.max_loss,
            head_rows: head_rows.unwrap_or(0),
            running: record
                .filter(|record| self.is_under_way(record, picture, now))
                .map(|record| record.kind),
            past: record.map(|record| record.past.clone()).unwrap_or_default(),
        })
    }

    /// Is a promotion under way that will go on? Not when its candidate has gone, or has lost the lease that it had.
    pub(super) fn is_under_way(&self, record: &Record, picture: &Picture, now: Moment) -> bool {
        if record.may_abort() && self.stands_for(record, now) > DECISION_MAX {
            return false;
        }
        let owned = self.table.ownership(&record.shard);
        let over = record.epoch.is_some_and(|epoch| {
            owned.is_none_or(|owned| {
                let kept = owned.epoch == epoch && owned.title == Title::Owned;
                !kept || owned.is_void(self.table.lease(&owned.primary))
            })
        });
        // What ramps up has all that it needs, and may fail again.
        record.step < Step::Verified && !over && !picture.is_gone(&record.to)
    }
}

/// The last epoch that copies can know: one that was acquired, and has not begun in a database, nobody knows.
fn begun(record: Option<&Record>, owned: Epoch) -> Epoch {
    record
        .filter(|record| record.epoch == Some(owned) && record.step < Step::Fenced)
        .map_or(owned, |record| record.before)
}
