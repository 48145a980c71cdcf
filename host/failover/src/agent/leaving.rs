//! A shard whose database is silent is left by its region, so that another can take it over although the region itself is well.
//!
//! The database cannot be asked to stop its writers. So the region says in the control store that it *leaves* the shard: from then on none of its
//! gateways renews what the database goes by, as soon as it sees that, and one that does not see it has no permission longer than a lease lasts. Who has seen it
//! for a lease's time and a drift gives the shard back, as if it had stopped in order, and whoever has a copy may begin.

use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::time::Moment;

use super::{Agent, Effect, Now, Word};
use crate::defaults::DECIDE;
use crate::lease::{self, Title};
use crate::store::{Key, Revision};

impl Agent {
    /// Leaves shards whose databases are silent, and gives back those that have been left for long enough.
    pub(super) fn leave(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Where a region may go on without the store, nobody can tell its gateways to stop by it.
        if now.moment < self.leave_at || self.setup.timers.lease.failsafe {
            return;
        }
        self.leave_at = now.moment.plus(DECIDE);
        let intents = self.intents.at(now.unix_ms);
        let rests = intents.freeze.is_some() || intents.maintenance.contains_key(&self.setup.own);
        let own: Vec<ShardName> =
            self.setup.shards.keys().filter(|shard| self.owns(shard)).cloned().collect();
        self.leaving.retain(|shard, _| own.contains(shard));
        for shard in own {
            let Some(owned) = self.table.ownership(&shard).cloned() else { continue };
            let at = self.table.revision(&Key::Ownership(shard.clone()));
            match owned.title {
                Title::Owned
                    if !rests && self.is_silent(&shard, now.moment) && self.has_heir(&shard, now) =>
                {
                    if let Some(change) =
                        lease::retitle(&self.table, &shard, &self.setup.own, owned.epoch, Title::Leaving)
                    {
                        self.change(&shard, change, now, effects);
                    }
                }
                Title::Leaving if self.is_silent(&shard, now.moment) => {
                    let since = self.seen_leaving(&shard, at, now.moment);
                    let lease = &self.setup.timers.lease;
                    if now.moment.since(since) < lease.ttl + lease.drift {
                        continue;
                    }
                    if let Some(change) = lease::release(&self.table, &shard, &self.setup.own, owned.epoch) {
                        self.change(&shard, change, now, effects);
                    }
                }
                _ => {}
            }
        }
    }

    fn owns(&self, shard: &ShardName) -> bool {
        self.table.ownership(shard).is_some_and(|owned| owned.primary == self.setup.own)
    }

    /// Since when this node has seen that a shard is being left.
    fn seen_leaving(&mut self, shard: &ShardName, at: Revision, now: Moment) -> Moment {
        let seen = self.leaving.entry(shard.clone()).or_insert((at, now));
        if seen.0 != at {
            *seen = (at, now);
        }
        seen.1
    }

    /// Is a shard's database silent, for this node and for all regions that follow it? Another gateway of the region may reach what this one does not.
    pub(super) fn is_silent(&self, shard: &ShardName, now: Moment) -> bool {
        let Some(configured) = self.setup.shards.get(shard) else { return false };
        let silence = self.setup.timers.pace.outage + self.setup.timers.probe.report_age;
        let word = |region: &RegionName| self.words.get(&(shard.clone(), region.clone()));
        // Its database has not said how it stands for so long. Of what was never heard, nothing follows.
        let own = word(&self.setup.own).is_some_and(|(_, at)| now.since(*at) >= silence);
        let heard = |region: &RegionName| {
            let silent = |(word, at): &(Word, Moment)| now.since(*at) + Duration::from_millis(word.silent_ms);
            word(region).is_some_and(|word| silent(word) < silence)
        };
        own && !configured.regions.iter().filter(|region| **region != self.setup.own).any(heard)
    }

    /// Is there a region that could take a shard over?
    fn has_heir(&self, shard: &ShardName, now: Now) -> bool {
        let picture = self.narrow(shard, now);
        picture.control
            && picture.shards.get(shard).is_some_and(|there| !picture.candidates(there).is_empty())
    }
}
