//! How fast a follower lets its source go on: what it has done with is given back as room to send, at a pace where one is set.
//!
//! What has been received and applied is said at once all the same: the source's writers may wait for that.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::pace::{LaneId, Pace};
use portolan_foundation::clock;

use crate::defaults::{CREDIT_BYTES, CREDIT_BYTES_MIN, PACE_TICK};

/// A rate that the feeds of one source share.
pub(crate) type Shared = Arc<Mutex<Pace>>;

/// One feed's part of a pace; none where it is as fast as it can.
#[derive(Debug)]
pub(crate) struct Credit(Option<(Shared, NonZeroU32)>);

/// One link's part, or one answer's, which ends with it.
#[derive(Debug)]
pub struct Lane(Option<(Shared, LaneId)>);

impl Credit {
    pub(crate) const fn new(paced: Option<(Shared, NonZeroU32)>) -> Self {
        Self(paced)
    }

    /// Room to send that a link begins with: a second of the rate.
    pub(crate) fn first_bytes(&self) -> u64 {
        let rate = self.0.as_ref().map(|(pace, _)| locked(pace).rate().get());
        rate.map_or(CREDIT_BYTES, |rate| rate.clamp(CREDIT_BYTES_MIN, CREDIT_BYTES))
    }

    /// A lane for a link, with a part of this feed's weight.
    pub(crate) fn lane(&self, part: u32) -> Lane {
        Lane(self.0.as_ref().map(|(pace, weight)| {
            let weight = NonZeroU32::new(weight.get() / part).unwrap_or(NonZeroU32::MIN);
            let id = locked(pace).enter(weight);
            (Arc::clone(pace), id)
        }))
    }
}

impl Lane {
    /// So many bytes have come. Waits until their turn is over, so that whoever asks for one answer after another keeps to the pace.
    ///
    /// # Cancel safety
    /// What is left of them is owed no longer once this lane goes.
    pub async fn pass(&self, bytes: u64) {
        let mut passed = self.done(bytes);
        while passed < bytes {
            tokio::time::sleep(PACE_TICK).await;
            passed = passed.saturating_add(self.done(0));
        }
    }

    /// So many bytes have been done with. Gives how many of those, and of earlier ones, may be sent anew by now.
    pub(crate) fn done(&self, bytes: u64) -> u64 {
        let Some((pace, id)) = &self.0 else { return bytes };
        let mut pace = locked(pace);
        pace.want(*id, bytes);
        pace.take(*id, clock::now())
    }

    /// Is there room that has not been given back yet?
    pub(crate) fn owes(&self) -> bool {
        self.0.as_ref().is_some_and(|(pace, id)| locked(pace).owes(*id))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some((pace, id)) = &self.0 {
            locked(pace).leave(*id);
        }
    }
}

fn locked(pace: &Shared) -> std::sync::MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}
