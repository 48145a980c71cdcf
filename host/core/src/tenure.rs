//! Who writes a shard, and what may come after that.
//!
//! A shard's epoch names one writer: a region, and the database in which that region has the shard. Whoever comes after
//! needs a later epoch, because everything that tells an old writer from a new one (the fence, positions in the log,
//! versions of rows, grants between regions) tells them apart by the epoch alone.

use crate::ids::RegionName;
use crate::log::Epoch;

/// A shard's writer, as the store of intent says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The number of the lease.
    pub epoch: Epoch,
    /// The region that writes.
    pub primary: RegionName,
    /// The database in which it does: where it is, without whoever reaches it by which password.
    pub store: String,
}

/// Why one tenure may not come after another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAfter {
    /// Epochs only rise.
    #[error("epoch {after} would come after epoch {before}, and epochs only rise", after = .after.0, before = .before.0)]
    Falls {
        /// The epoch that is.
        before: Epoch,
        /// The one that would be.
        after: Epoch,
    },
    /// Two regions would write under one epoch.
    #[error("`{after}` would write under epoch {epoch}, which is `{before}`'s", epoch = .epoch.0)]
    Primary {
        /// The region that writes.
        before: RegionName,
        /// The one that would.
        after: RegionName,
        /// The epoch of both.
        epoch: Epoch,
    },
    /// One region would write two databases under one epoch.
    #[error("epoch {epoch} was begun in another database", epoch = .0.0)]
    Store(Epoch),
}

impl Tenure {
    /// May this tenure come after another?
    ///
    /// # Errors
    /// [`NotAfter`] when the epoch falls, or stays and means another writer.
    pub fn may_follow(&self, before: &Self) -> Result<(), NotAfter> {
        let epoch = self.epoch;
        if epoch > before.epoch || self == before {
            return Ok(());
        }
        if epoch < before.epoch {
            return Err(NotAfter::Falls { before: before.epoch, after: epoch });
        }
        if self.primary != before.primary {
            let (before, after) = (before.primary.clone(), self.primary.clone());
            return Err(NotAfter::Primary { before, after, epoch });
        }
        Err(NotAfter::Store(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_tenure() -> impl Strategy<Value = Tenure> {
        (1..4_u64, 0..2_u8, 0..2_u8).prop_map(|(epoch, primary, store)| Tenure {
            epoch: Epoch(epoch),
            primary: RegionName::new(["eu", "us"][usize::from(primary)]).expect("a name"),
            store: format!("database {store}"),
        })
    }

    proptest! {
        /// However a shard's tenure changes step by step, an epoch never means two writers.
        #[test]
        fn an_epoch_has_one_writer(wanted in prop::collection::vec(any_tenure(), 1..40)) {
            let mut history: Vec<Tenure> = Vec::new();
            for next in wanted {
                if history.last().is_none_or(|before| next.may_follow(before).is_ok()) {
                    history.push(next);
                }
            }
            for one in &history {
                for other in &history {
                    prop_assert!(one.epoch != other.epoch || one == other);
                }
            }
        }

        #[test]
        fn what_does_not_change_may_stay_and_a_later_epoch_may_always_come(one in any_tenure(), other in any_tenure()) {
            prop_assert!(one.may_follow(&one).is_ok());
            prop_assert_eq!(other.may_follow(&one).is_ok(), other.epoch > one.epoch || other == one);
        }
    }
}
