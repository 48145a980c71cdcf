//! Going on without the control store: only while *all* regions acknowledge the holder, each time that it would have renewed.
//!
//! A majority is not enough, because regions are not placed like the store's voters: the others could have a majority there and break the lease. Whoever
//! acknowledges promises not to challenge for as long as the lease lasts from then, so that all who could have promised not to. It is off by default: what
//! it buys is writing through the loss of the store alone, and any region that is away as well ends that.

use std::collections::BTreeSet;

use portolan_core::ids::RegionName;
use portolan_core::time::Moment;

use super::Incarnation;

/// One asking of all regions. A region has acknowledged when each of its gateways that may challenge has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What is to be acknowledged.
    pub incarnation: Incarnation,
    /// Which asking.
    pub number: u64,
    /// When it was sent.
    pub sent: Moment,
    /// Who has.
    pub acked: BTreeSet<RegionName>,
}
