//! The rules that keep two regions from writing one shard. Nobody overrides them but by declaring a region lost.

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::{Move, Ruling};
use crate::lease::{Permit, Wait};
use crate::picture::{Picture, Shard};

/// Rule 1: One answer moves a shard to one region, and none moves while it is being moved. The epoch is the host's ([`crate::lease::mint`]): no proposal
/// has a place to write one.
///
/// # Errors
/// Why not.
pub fn one_writer(name: &ShardName, shard: &Shard, to: &RegionName, moves: &[Move]) -> Ruling {
    if let Some(there) = moves.iter().find(|there| there.shard == *name) {
        return Err(format!(
            "shard `{name}` goes to `{}` by the same answer: two regions never write it",
            there.to
        ));
    }
    if shard.running.is_some() {
        return Err(format!(
            "shard `{name}` is being moved already: wait until that has ended, `portolan failover status` shows how far it is"
        ));
    }
    if shard.primary == *to && !shard.void {
        return Err(format!("`{to}` writes shard `{name}` already"));
    }
    Ok(())
}

/// Rule 2: Whoever has no lease that lasts writes nothing. Each write path asks this, by one comparison; no policy and no network is asked.
///
/// # Errors
/// Why not.
pub fn no_write_without_lease(permit: Option<Permit>, epoch: Epoch, now: Moment) -> Ruling {
    match permit {
        Some(permit) if permit.epoch != epoch => {
            Err(format!("epoch {epoch} is over: epoch {} is this region's", permit.epoch))
        }
        Some(permit) if permit.allows(now) => Ok(()),
        Some(permit) => Err(format!(
            "the lease of epoch {} has run out: it is renewed, or another region takes over",
            permit.epoch
        )),
        None => Err("this region has no lease on the shard: writes go to its primary".to_owned()),
    }
}

/// Rule 3: Nobody takes over before the lease is over by proof: it was broken or given back, or has not changed for its time and a drift, by the challenger's
/// own clock. A person who declares the region lost stands for that proof.
///
/// # Errors
/// Why not.
pub fn no_takeover(of: &RegionName, wait: &Wait, now: Moment, lost: bool) -> Ruling {
    match wait {
        _ if lost => Ok(()),
        Wait::Free | Wait::Over => Ok(()),
        Wait::Barred(why) => Err(why.clone()),
        Wait::Unseen => {
            Err(format!("the lease of `{of}` was not seen yet: the control store has to answer first"))
        }
        Wait::Until(until) => {
            Err(format!("`{of}` may write for another {:?}, and is waited for", until.since(now)))
        }
    }
}

/// Rule 4: Nothing is acquired without the control store's majority. The store refuses it anyhow; here nobody begins.
///
/// # Errors
/// Why not.
pub fn majority(picture: &Picture) -> Ruling {
    if picture.control {
        return Ok(());
    }
    Err(format!(
        "`{}` does not reach a majority of the control store: it changes nothing until it does, and regions that do decide",
        picture.local
    ))
}
