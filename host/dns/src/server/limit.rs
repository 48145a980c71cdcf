//! Response rate limiting: a network is sent so many answers of one sort in a second over UDP, where anybody can write anybody's
//! address on a question. What is held back is now and then sent truncated, so that a real resolver comes by TCP.
//!
//! Networks are counted in a table of fixed size, by a keyed hash that nobody outside can aim with.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use portolan_core::time::Moment;

use crate::defaults::{LIMIT_CELLS, RESPONSES_BURST, RESPONSES_PER_SECOND, SLIP};
use crate::plan::Subnet;

/// How much of an address is a network.
const NETWORK_V4: u8 = 24;
/// And of IPv6.
const NETWORK_V6: u8 = 56;

/// How many answers of one sort a network is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a second, on and on.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Default for Rate {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { per_second: number(RESPONSES_PER_SECOND), burst: number(RESPONSES_BURST) }
    }
}

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    Nothing,
    Truncated,
    Whole,
}

/// What sort of answer it is. Names that are not there are one sort, because there are any number of them.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Sort<'a> {
    Denied(&'a [u8]),
    Given(&'a [u8]),
    Guarded,
    Wrong,
}

/// The counts of all networks.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst_us: u64,
    /// When each place has earned all that it was sent, in microseconds.
    cells: Box<[AtomicU64]>,
    each_us: u64,
    hasher: RandomState,
    held: AtomicU64,
}

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        let each_us = 1_000_000 / u64::from(rate.per_second.get());
        Self {
            burst_us: each_us.saturating_mul(u64::from(rate.burst.get())),
            cells: (0..LIMIT_CELLS).map(|_| AtomicU64::new(0)).collect(),
            each_us,
            hasher: RandomState::new(),
            held: AtomicU64::new(0),
        }
    }

    /// Asks for one answer, and counts it if it may be sent (the generic cell rate algorithm).
    pub(crate) fn ask(&self, from: IpAddr, sort: Sort<'_>, now: Moment) -> Allowance {
        let network = network(from);
        let hash = self.hasher.hash_one((network, sort));
        let index = usize::try_from(hash % LIMIT_CELLS as u64).unwrap_or(0);
        let Some(cell) = self.cells.get(index) else { return Allowance::Whole };
        let now_us = now.0;
        let count = |earned: u64| {
            let earned = earned.max(now_us);
            (earned - now_us < self.burst_us).then_some(earned + self.each_us)
        };
        if cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok() {
            return Allowance::Whole;
        }
        let held = self.held.fetch_add(1, Ordering::Relaxed);
        if held.is_multiple_of(SLIP) { Allowance::Truncated } else { Allowance::Nothing }
    }
}

/// The network of an address, as a limit counts it.
pub(crate) fn network(address: IpAddr) -> u128 {
    let host = Subnet::host(address);
    host.truncated(if host.is_v6 { NETWORK_V6 } else { NETWORK_V4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_held_back_and_its_neighbours_are_not() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let limiter = Limiter::new(Rate { per_second: number(10), burst: number(5) });
        let (one, other) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let ask = |from, ms: u64| limiter.ask(from, Sort::Given(b"a"), Moment(ms * 1_000));
        assert!((0..5).all(|_| ask(one, 1_000) == Allowance::Whole));
        let held: Vec<Allowance> = (0..4).map(|_| ask("192.0.2.200".parse().unwrap(), 1_000)).collect();
        let (truncated, nothing) = (Allowance::Truncated, Allowance::Nothing);
        assert_eq!(held, [truncated, nothing, truncated, nothing]);
        assert_eq!(ask(other, 1_000), Allowance::Whole);
        assert_eq!(limiter.ask(one, Sort::Given(b"b"), Moment(1_000_000)), Allowance::Whole);
        assert_eq!(ask(one, 1_100), Allowance::Whole);
        assert_ne!(ask(one, 1_100), Allowance::Whole);
        assert!((0..5).all(|_| ask(one, 60_000) == Allowance::Whole));
    }
}
