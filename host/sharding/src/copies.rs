//! Reading this region's copy of a shard that another region writes: when it is fresh enough for who asks.

use std::fmt;
use std::time::Duration;

use portolan_core::ids::ShardName;
use portolan_core::log::{Epoch, Position};

use crate::route::Consistency;

/// How fresh copies are, as replication knows it.
pub trait Copies: fmt::Debug + Send + Sync {
    /// How a copy stands; none while it may not be read, because it is not followed or its rows are still coming.
    fn freshness(&self, shard: &ShardName) -> Option<Freshness>;
}

/// How fresh a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// What it has of the primary's log; none while nothing is known of it.
    pub applied: Option<Position>,
    /// How old what it shows may be.
    pub behind: Duration,
}

impl Freshness {
    /// Is it fresh enough, while the shard is written under an epoch? What of a token's time only the primary can judge, the primary is
    /// asked for: of an epoch that is over something may be lost, which a copy may still show.
    pub(crate) fn serves(&self, shard: &ShardName, epoch: Epoch, wanted: &Consistency) -> bool {
        match wanted {
            Consistency::Primary => false,
            Consistency::Local => true,
            Consistency::MaxStaleness(seconds) => self.behind <= Duration::from_secs(*seconds),
            Consistency::AtLeast(token) => token.position(shard.as_str()).is_none_or(|wanted| {
                let applied =
                    self.applied.filter(|applied| applied.epoch == wanted.epoch && wanted.epoch >= epoch);
                applied.is_some_and(|applied| applied >= wanted)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_serves_whom_it_is_fresh_enough_for() {
        let shard = ShardName::new("s1").unwrap();
        let copy =
            |applied: Option<Position>, millis| Freshness { applied, behind: Duration::from_millis(millis) };
        let at_least = |token: &str| Consistency::AtLeast(token.parse().unwrap());
        let applied = Some(Position::new(3, 50, 7));
        for (copy, wanted, serves) in [
            (copy(applied, 10), Consistency::Primary, false),
            (copy(None, 90_000), Consistency::Local, true),
            (copy(applied, 2_000), Consistency::MaxStaleness(2), true),
            (copy(applied, 2_001), Consistency::MaxStaleness(2), false),
            (copy(applied, 0), at_least("v1;s1=3.50.7"), true),
            (copy(applied, 0), at_least("v1;s1=3.50.8"), false),
            (copy(None, 0), at_least("v1;s1=3.1.1"), false),
            // Of an earlier lease, some of which may have been lost.
            (copy(applied, 0), at_least("v1;s1=2.1.1"), false),
            (copy(Some(Position::new(2, 50, 7)), 0), at_least("v1;s1=2.1.1"), false),
            // The lease is so new that this node has not heard of it.
            (copy(Some(Position::new(4, 50, 7)), 0), at_least("v1;s1=4.1.1"), true),
            (copy(None, 0), at_least("v1;s2=3.1.1"), true),
        ] {
            assert_eq!(copy.serves(&shard, Epoch(3), &wanted), serves, "{copy:?} {wanted:?}");
        }
    }
}
