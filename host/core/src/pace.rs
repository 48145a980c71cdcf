//! A rate that lanes share by weight: who may have how many bytes when.
//!
//! Weighted fair queueing (Demers, Keshav and Shenker, "Analysis and simulation of a fair queueing algorithm", 1989) over pieces of one size: each piece is
//! given to the lane whose virtual time is the lowest, and moves that on by the piece over the lane's weight. A lane that owes nothing saves
//! nothing up.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::time::Moment;

/// Bytes that are given at once, so that no lane waits long behind another.
const PIECE_BYTES: u64 = 16 * 1024;
/// How much of the rate may be saved up while nobody wants it.
const BURST: Duration = Duration::from_millis(250);
/// Parts of a virtual byte, so that weights divide it.
const SCALE: u128 = 1 << 20;

/// Names a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u64);

/// A rate, and those who share it.
#[derive(Clone, Debug)]
pub struct Pace {
    bytes_per_second: NonZeroU64,
    /// Bytes that may be given now.
    room: u64,
    /// Up to when the room has been counted.
    counted: Moment,
    lanes: BTreeMap<LaneId, Lane>,
    next: u64,
    /// The virtual time of the last piece.
    reached: u128,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    /// Bytes that it may have and has not been told of.
    given: u64,
    owed: u64,
    virtual_time: u128,
    weight: NonZeroU32,
}

impl Pace {
    /// A rate that nobody shares yet.
    #[must_use]
    pub const fn new(bytes_per_second: NonZeroU64, now: Moment) -> Self {
        Self { bytes_per_second, room: 0, counted: now, lanes: BTreeMap::new(), next: 0, reached: 0 }
    }

    /// Bytes a second, of all lanes together.
    #[must_use]
    pub const fn rate(&self) -> NonZeroU64 {
        self.bytes_per_second
    }

    /// Another lane.
    pub fn enter(&mut self, weight: NonZeroU32) -> LaneId {
        let id = LaneId(self.next);
        self.next += 1;
        self.lanes.insert(id, Lane { given: 0, owed: 0, virtual_time: self.reached, weight });
        id
    }

    /// A lane ends; what it is owed is owed no longer.
    pub fn leave(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
    }

    /// A lane wants so many bytes more, when it is its turn.
    pub fn want(&mut self, lane: LaneId, bytes: u64) {
        let reached = self.reached;
        let Some(lane) = self.lanes.get_mut(&lane) else { return };
        if lane.owed == 0 {
            lane.virtual_time = lane.virtual_time.max(reached);
        }
        lane.owed = lane.owed.saturating_add(bytes);
    }

    /// What a lane may have of what it wants by now, beyond what it has been given before.
    pub fn take(&mut self, lane: LaneId, now: Moment) -> u64 {
        self.count(now);
        self.deal();
        self.lanes.get_mut(&lane).map_or(0, |lane| std::mem::take(&mut lane.given))
    }

    /// Does a lane still want some?
    #[must_use]
    pub fn owes(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.owed > 0 || lane.given > 0)
    }

    fn count(&mut self, now: Moment) {
        let rate = u128::from(self.bytes_per_second.get());
        let bytes = now.since(self.counted).as_micros().saturating_mul(rate) / 1_000_000;
        if bytes == 0 {
            // What is less than a byte is counted with what comes.
            return;
        }
        self.counted = now;
        let burst = rate.saturating_mul(BURST.as_micros()) / 1_000_000;
        let most = u64::try_from(burst).unwrap_or(u64::MAX).max(PIECE_BYTES);
        self.room = self.room.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)).min(most);
    }

    fn deal(&mut self) {
        while self.room > 0 {
            let wanting = self.lanes.values_mut().filter(|lane| lane.owed > 0);
            let Some(lane) = wanting.min_by_key(|lane| lane.virtual_time) else { return };
            let bytes = lane.owed.min(PIECE_BYTES);
            // A piece is given whole: in small ones the lightest lane would always be the next.
            if bytes > self.room {
                return;
            }
            self.room -= bytes;
            self.reached = lane.virtual_time;
            lane.owed -= bytes;
            lane.given = lane.given.saturating_add(bytes);
            lane.virtual_time += u128::from(bytes) * SCALE / u128::from(lane.weight.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(rate: u64) -> (Pace, Moment) {
        let now = Moment(1_000_000);
        (Pace::new(NonZeroU64::new(rate).unwrap(), now), now)
    }

    fn weight(weight: u32) -> NonZeroU32 {
        NonZeroU32::new(weight).unwrap()
    }

    #[test]
    fn one_lane_gets_the_rate_and_no_more() {
        let (mut pace, start) = pace(1_000_000);
        let lane = pace.enter(weight(10));
        pace.want(lane, 100_000_000);
        let mut all = 0;
        for step in 1..=100_u32 {
            all += pace.take(lane, start.plus(Duration::from_millis(50) * step));
        }
        assert!((4_900_000..=5_000_000).contains(&all), "{all} in five seconds");
    }

    #[test]
    fn lanes_share_by_weight_and_a_quiet_one_costs_the_others_nothing() {
        let (mut pace, start) = pace(1_000_000);
        let (heavy, light, quiet) =
            (pace.enter(weight(30)), pace.enter(weight(10)), pace.enter(weight(1000)));
        for lane in [heavy, light] {
            pace.want(lane, 100_000_000);
        }
        let (mut of_heavy, mut of_light) = (0, 0);
        for step in 1..=200_u32 {
            let now = start.plus(Duration::from_millis(20) * step);
            of_heavy += pace.take(heavy, now);
            of_light += pace.take(light, now);
        }
        let ratio = of_heavy as f64 / of_light as f64;
        assert!((2.9..=3.1).contains(&ratio), "{of_heavy} to {of_light}");
        assert!(of_heavy + of_light > 3_900_000);
        // Whoever comes late has saved nothing up: it gets its share from here on, and does not make up for the time before.
        pace.want(quiet, 100_000);
        let got = pace.take(quiet, start.plus(Duration::from_millis(4_100)));
        assert!(got <= 100_000 && got > 0, "{got}");
        assert_eq!(pace.take(quiet, start.plus(Duration::from_millis(4_100))), 0);
    }

    #[test]
    fn what_nobody_wants_is_saved_up_for_a_moment_alone() {
        let (mut pace, start) = pace(1_000_000);
        let lane = pace.enter(weight(1));
        assert_eq!(pace.take(lane, start.plus(60 * SECOND)), 0);
        pace.want(lane, 10_000_000);
        let got = pace.take(lane, start.plus(60 * SECOND));
        assert!(got <= 250_000, "{got}");
        // A rate that is less than a piece a burst still moves.
        let (mut slow, start) = self::pace(1_000);
        let lane = slow.enter(weight(1));
        slow.want(lane, 16 * 1024);
        let all: u64 = (1..=40).map(|second| slow.take(lane, start.plus(SECOND * second))).sum();
        assert_eq!(all, 16 * 1024);
    }

    #[test]
    fn a_lane_that_ends_owes_nothing() {
        let (mut pace, start) = pace(1_000_000);
        let lane = pace.enter(weight(1));
        pace.want(lane, 5_000_000);
        assert!(pace.owes(lane));
        pace.leave(lane);
        assert!(!pace.owes(lane));
        assert_eq!(pace.take(lane, start.plus(SECOND)), 0);
    }
}
