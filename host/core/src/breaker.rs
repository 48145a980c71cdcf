//! The circuit breaker of one endpoint: consecutive failures open it, one probe at a time closes it.
//!
//! Closed → open after `failures` in a row; open → half open when its pause is over; half open admits exactly one
//! attempt, whose success closes the breaker and whose failure opens it again for twice as long. Unbounded half-open
//! traffic is a known cause of outages, hence the single probe.
//!
//! Lock-free: the state is one packed word, so that two threads can never both believe that they took the probe.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::time::Moment;
use crate::topology::BreakerLimits;

/// How often the pause may double; the product is capped by [`BreakerLimits::pause_max`] anyway.
const DOUBLINGS_MAX: u32 = 16;

/// What a breaker says to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go ahead.
    Closed,
    /// Go ahead as the single probe.
    Probe,
    /// Stay away.
    Refused,
}

/// A breaker. `Default` is closed.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures in a row while closed.
    failures: AtomicU32,
    /// 0 while closed; otherwise the end of the pause in microseconds, shifted by one, with the lowest bit set while
    /// the probe is out.
    open_until: AtomicU64,
    /// How often in a row the breaker has opened: the exponent of the pause.
    openings: AtomicU32,
}

impl Breaker {
    /// Would an attempt be admitted? Takes nothing.
    #[must_use]
    pub fn admits(&self, now: Moment) -> bool {
        let word = self.open_until.load(Ordering::Acquire);
        word == 0 || (word & 1 == 0 && now.0 >= word >> 1)
    }

    /// Is it open or half open?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until.load(Ordering::Acquire) != 0
    }

    /// When its pause ends, if it is open or half open.
    #[must_use]
    pub fn pause_ends(&self) -> Option<Moment> {
        let word = self.open_until.load(Ordering::Acquire);
        (word != 0).then_some(Moment(word >> 1))
    }

    /// Asks for admission; [`Admission::Probe`] takes the probe, which [`Breaker::succeed`], [`Breaker::fail`] or
    /// [`Breaker::abandon`] must give back.
    #[must_use]
    pub fn admit(&self, now: Moment) -> Admission {
        let word = self.open_until.load(Ordering::Acquire);
        if word == 0 {
            return Admission::Closed;
        }
        if word & 1 == 1 || now.0 < word >> 1 {
            return Admission::Refused;
        }
        // Of all threads that see the pause over, the exchange lets exactly one set the bit.
        match self.open_until.compare_exchange(word, word | 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Admission::Probe,
            Err(_) => Admission::Refused,
        }
    }

    /// An attempt went well. Attempts that began before the breaker opened say nothing about the present.
    pub fn succeed(&self, probe: bool) {
        self.failures.store(0, Ordering::Relaxed);
        if probe {
            self.openings.store(0, Ordering::Relaxed);
            self.open_until.store(0, Ordering::Release);
        }
    }

    /// An attempt failed. `true` when this opened the breaker.
    pub fn fail(&self, probe: bool, limits: &BreakerLimits, now: Moment) -> bool {
        if limits.failures == 0 {
            self.abandon(probe);
            return false;
        }
        if probe {
            self.open(limits, now);
            return true;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < limits.failures || self.is_open() {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.open(limits, now);
        true
    }

    /// The probe ended without telling anything: the next attempt may take it.
    pub fn abandon(&self, probe: bool) {
        if probe {
            self.open_until.fetch_and(!1, Ordering::AcqRel);
        }
    }

    fn open(&self, limits: &BreakerLimits, now: Moment) {
        let exponent = self.openings.fetch_add(1, Ordering::Relaxed).min(DOUBLINGS_MAX);
        let pause = limits.pause_min.saturating_mul(1 << exponent).min(limits.pause_max);
        // The end lies after zero, so that an open breaker is never taken for a closed one.
        let end = now.plus(pause).0.clamp(1, u64::MAX >> 1);
        self.open_until.store(end << 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    const LIMITS: BreakerLimits =
        BreakerLimits { failures: 3, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(4) };

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            assert!(!breaker.fail(false, &LIMITS, at(0)));
        }
        breaker.succeed(false);
        for _ in 0..2 {
            assert!(!breaker.fail(false, &LIMITS, at(0)));
        }
        assert_eq!(breaker.admit(at(0)), Admission::Closed);
        assert!(breaker.fail(false, &LIMITS, at(0)));
        assert_eq!(breaker.admit(at(0)), Admission::Refused);
    }

    #[test]
    fn one_probe_decides_and_the_pause_doubles_up_to_its_cap() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| _ = breaker.fail(false, &LIMITS, at(0)));
        let mut now = 0;
        for pause in [1, 2, 4, 4, 4] {
            assert_eq!(breaker.admit(Moment(at(now + pause).0 - 1)), Admission::Refused);
            now += pause;
            assert_eq!(breaker.admit(at(now)), Admission::Probe);
            assert_eq!(breaker.admit(at(now)), Admission::Refused, "a second probe got out");
            breaker.fail(true, &LIMITS, at(now));
        }
        assert_eq!(breaker.admit(at(now + 4)), Admission::Probe);
        breaker.succeed(true);
        assert_eq!(breaker.admit(at(now + 4)), Admission::Closed);
        (0..3).for_each(|_| _ = breaker.fail(false, &LIMITS, at(now)));
        assert_eq!(
            breaker.admit(at(now + 1)),
            Admission::Probe,
            "a closed breaker starts from the short pause"
        );
        breaker.abandon(true);
        assert_eq!(breaker.admit(at(now + 1)), Admission::Probe);
    }

    #[test]
    fn zero_failures_keep_it_closed_for_ever() {
        let breaker = Breaker::default();
        let limits = BreakerLimits { failures: 0, ..LIMITS };
        (0..1_000).for_each(|_| _ = breaker.fail(false, &limits, at(0)));
        assert_eq!(breaker.admit(at(0)), Admission::Closed);
    }

    #[test]
    fn of_many_threads_one_gets_the_probe() {
        for round in 0..200 {
            let breaker = Breaker::default();
            (0..3).for_each(|_| _ = breaker.fail(false, &LIMITS, at(0)));
            let probes = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        if breaker.admit(at(1)) == Admission::Probe {
                            probes.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(probes.into_inner(), 1, "round {round}");
        }
    }
}
