//! The control store as regions see it: which epoch of the shard is whose, and until when. One holds the lease at a time; a promotion waits until
//! the lease before it is over.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::RegionName;
use portolan_core::log::Epoch;

/// How long a lease lasts, in microseconds.
pub(super) const LEASE_US: u64 = 2_000_000;

/// Who may write the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) epoch: Epoch,
    /// It begins with the rows that are there.
    pub(super) partial: bool,
    pub(super) primary: RegionName,
}

#[derive(Debug)]
pub(super) struct Control {
    /// Regions that do not reach it.
    pub(super) away: BTreeSet<RegionName>,
    lease_until_us: u64,
    pub(super) meant: Meant,
    /// What regions saw last.
    seen: BTreeMap<RegionName, Meant>,
    /// Who is to be the primary next.
    pub(super) wanted: Option<RegionName>,
    /// With whatever it has.
    pub(super) wanted_partial: bool,
}

impl Control {
    pub(super) fn new(primary: RegionName) -> Self {
        let meant = Meant { epoch: Epoch(1), partial: false, primary };
        let (away, seen) = (BTreeSet::new(), BTreeMap::new());
        Self { away, lease_until_us: 0, meant, seen, wanted: None, wanted_partial: false }
    }

    /// Gives the lease to whom it is wanted for, once it is over.
    pub(super) fn turn(&mut self, now_us: u64) -> bool {
        if now_us < self.lease_until_us {
            return false;
        }
        let Some(primary) = self.wanted.take() else { return false };
        let partial = std::mem::take(&mut self.wanted_partial);
        self.meant = Meant { epoch: Epoch(self.meant.epoch.0 + 1), partial, primary };
        true
    }

    /// What a region knows: of long ago, if it does not reach this.
    pub(super) fn seen(&mut self, region: &RegionName) -> Option<Meant> {
        if !self.away.contains(region) {
            self.seen.insert(region.clone(), self.meant.clone());
        }
        self.seen.get(region).cloned()
    }

    /// The lease of an epoch goes on.
    pub(super) fn renew(&mut self, region: &RegionName, epoch: Epoch, now_us: u64) -> bool {
        let held = self.meant.primary == *region && self.meant.epoch == epoch && self.wanted.is_none();
        let renewed = held && !self.away.contains(region);
        if renewed {
            self.lease_until_us = now_us + LEASE_US;
        }
        renewed
    }

    /// The primary's history was cut: it needs another epoch.
    pub(super) fn rise(&mut self, region: &RegionName) {
        if self.meant.primary == *region && !self.away.contains(region) {
            self.meant.epoch = Epoch(self.meant.epoch.0 + 1);
        }
    }
}
