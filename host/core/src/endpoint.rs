//! What is observed of endpoints and regions: small lock-free cells that outlive generations.
//!
//! A cell is created once for an identity and handed to every topology that names it, so that a reload never resets
//! health, breakers or load. All time comes in as [`Moment`].

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::breaker::{Admission, Breaker};
use crate::facts::Verdict;
use crate::steering::ramped;
use crate::time::Moment;
use crate::topology::BreakerLimits;

/// After so long without news, a peak has decayed to 1/e of its height above the present.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken to need before anything was measured: little enough that a new one is tried soon, and
/// one attempt under way already makes it stand behind a measured fast one.
const UNKNOWN_ROUND_TRIP_US: f64 = 1_000.0;
/// Differences below this say nothing about distance: scheduling alone causes them.
const LATENCY_NOISE_US: u32 = 2_000;
/// What a failure counts as, so that a server that fails fast does not look like the fastest.
const FAILURE_ROUND_TRIP_US: f64 = 5_000_000.0;

/// What is observed of one endpoint, by all threads of a node.
#[derive(Debug)]
pub struct EndpointCell {
    breaker: Breaker,
    in_flight: AtomicU32,
    up: AtomicBool,
    /// The peak-EWMA of round trip times in microseconds, as the bits of an `f64`; 0 before the first measurement.
    average: AtomicU64,
    /// When `average` was last moved, in microseconds.
    moved: AtomicU64,
}

/// What became of one attempt, as the breaker and the balancer count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Connection or stream failed, the time was over, or the upstream answered 502, 503 or 504.
    Failure,
    /// Nothing can be said of the endpoint: the client went away.
    Neutral,
    /// A response head that is not 502, 503 or 504 came after this time.
    Success(Duration),
}

/// A place taken by [`EndpointCell::start`].
#[derive(Debug)]
#[must_use = "give the place back with EndpointCell::finish"]
pub struct Attempt {
    probe: bool,
}

impl EndpointCell {
    /// A cell without load. `up` says what to believe before the first probe.
    #[must_use]
    pub fn new(up: bool) -> Self {
        Self {
            breaker: Breaker::default(),
            in_flight: AtomicU32::new(0),
            up: AtomicBool::new(up),
            average: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        }
    }

    /// Does the prober call it up?
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The prober's verdict changed.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// May a request be sent now: up, and the breaker closed or willing to admit its single probe? Takes nothing.
    #[must_use]
    pub fn is_eligible(&self, now: Moment) -> bool {
        self.is_up() && self.admits(now)
    }

    /// Does the breaker admit a request, whatever the prober says? Takes nothing.
    #[must_use]
    pub fn admits(&self, now: Moment) -> bool {
        self.breaker.admits(now)
    }

    /// Takes a place for one attempt. `None` when the breaker admits nobody: another thread has just taken its probe.
    /// The caller gives the place back exactly once, with [`EndpointCell::finish`].
    pub fn start(&self, now: Moment) -> Option<Attempt> {
        let probe = match self.breaker.admit(now) {
            Admission::Closed => false,
            Admission::Probe => true,
            Admission::Refused => return None,
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Attempt { probe })
    }

    /// Ends an attempt: moves breaker and average. `true` when this opened the breaker.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the place is given back, so that it cannot be given twice"
    )]
    pub fn finish(&self, attempt: Attempt, outcome: Outcome, limits: &BreakerLimits, now: Moment) -> bool {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Outcome::Failure => {
                self.observe(FAILURE_ROUND_TRIP_US, now);
                self.breaker.fail(attempt.probe, limits, now)
            }
            Outcome::Neutral => {
                self.breaker.abandon(attempt.probe);
                false
            }
            Outcome::Success(took) => {
                self.observe(micros(took), now);
                self.breaker.succeed(attempt.probe);
                false
            }
        }
    }

    /// Counts something that goes on after its attempt was finished: a response's content, a tunnel.
    pub fn hold(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends what [`EndpointCell::hold`] began.
    pub fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Attempts under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The load that the balancer compares: the decayed peak-EWMA times (attempts under way + 1).
    #[must_use]
    pub fn load(&self, now: Moment) -> f64 {
        let average = match self.average.load(Ordering::Relaxed) {
            0 => UNKNOWN_ROUND_TRIP_US,
            bits => f64::from_bits(bits) * self.decay(now).max(0.01),
        };
        average.max(1.0) * (f64::from(self.in_flight()) + 1.0)
    }

    /// Is the breaker open, or half open?
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.breaker.is_open()
    }

    /// A peak counts at once; what lies below pulls the average down by its share of the time that passed. Two threads
    /// may overwrite each other's sample: one sample more or less does not change an average.
    fn observe(&self, sample_us: f64, now: Moment) {
        let old = match self.average.load(Ordering::Relaxed) {
            0 => sample_us,
            bits => f64::from_bits(bits),
        };
        let keep = self.decay(now);
        let new = if sample_us > old { sample_us } else { old * keep + sample_us * (1.0 - keep) };
        self.average.store(new.max(1.0).to_bits(), Ordering::Relaxed);
        self.moved.store(now.0, Ordering::Relaxed);
    }

    fn decay(&self, now: Moment) -> f64 {
        let idle = now.since(Moment(self.moved.load(Ordering::Relaxed)));
        (-idle.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a request are far below 2^52")]
fn micros(span: Duration) -> f64 {
    span.as_micros() as f64
}

/// What is observed of one region.
#[derive(Debug, Default)]
pub struct RegionCell {
    /// When it took requests again after it had not, in microseconds; 0 for never.
    recovered_at: AtomicU64,
    verdict: AtomicU8,
    /// Smoothed round-trip time in microseconds; 0 before the first measurement.
    smooth_us: AtomicU32,
    /// The rounded value that facts carry.
    shown_us: AtomicU32,
}

impl RegionCell {
    /// The present verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::from_code(self.verdict.load(Ordering::Relaxed))
    }

    /// Changes the verdict; `true` when it was another. One that takes requests again begins a ramp.
    pub fn set_verdict(&self, verdict: Verdict, now: Moment) -> bool {
        let before = Verdict::from_code(self.verdict.swap(verdict as u8, Ordering::Relaxed));
        if verdict.takes_requests() && !before.takes_requests() {
            self.recovered_at.store(now.0.max(1), Ordering::Relaxed);
        }
        before != verdict
    }

    /// How much of its traffic the region is to have by what probes say, in percent: none while it is down, a ramp after that.
    #[must_use]
    pub fn share(&self, ramp: Duration, now: Moment) -> u32 {
        if !self.verdict().takes_requests() {
            return 0;
        }
        ramped(self.recovered_at.load(Ordering::Relaxed), ramp, now)
    }

    /// The measured round-trip time from here in microseconds, rounded to a quarter of an octave so that jitter does
    /// not cause plans; `None` before the first measurement.
    #[must_use]
    pub fn latency_us(&self) -> Option<u32> {
        Some(self.shown_us.load(Ordering::Relaxed)).filter(|&shown| shown > 0)
    }

    /// Adds a measurement, from one prober; `true` when the rounded value changed. It changes only once the smoothed
    /// value has left it by more than a fifth, and by more than what processors and queues cause on a single machine.
    pub fn observe_latency(&self, round_trip: Duration) -> bool {
        let sample = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX).max(1);
        let smooth = match self.smooth_us.load(Ordering::Relaxed) {
            0 => sample,
            old => (u64::from(old) * 7 + u64::from(sample)).div_ceil(8).try_into().unwrap_or(u32::MAX),
        };
        self.smooth_us.store(smooth, Ordering::Relaxed);
        let shown = self.shown_us.load(Ordering::Relaxed);
        if shown > 0 && smooth.abs_diff(shown) <= (shown / 5).max(LATENCY_NOISE_US) {
            return false;
        }
        let next = round_to_quarter_octave(smooth);
        self.shown_us.swap(next, Ordering::Relaxed) != next
    }
}

/// The nearest of 1, 1.25, 1.5, 1.75 times a power of two, from below.
fn round_to_quarter_octave(value: u32) -> u32 {
    let top = 31_u32.saturating_sub(value.leading_zeros());
    match top {
        0 | 1 => value.max(1),
        _ => value & (0b111 << (top - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BreakerLimits =
        BreakerLimits { failures: 2, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(8) };

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn a_peak_counts_at_once_and_decays() {
        let cell = EndpointCell::new(true);
        let run = |millis: u64, now| {
            let attempt = cell.start(now).unwrap();
            cell.finish(attempt, Outcome::Success(Duration::from_millis(millis)), &LIMITS, now);
        };
        run(2, at(1));
        let calm = cell.load(at(1));
        run(200, at(1));
        assert!(cell.load(at(1)) > calm * 50.0);
        run(2, at(11));
        let later = cell.load(at(11));
        assert!(later < 80_000.0 && later > 2_000.0, "{later}");
        let held = cell.start(at(11)).unwrap();
        assert!(cell.load(at(11)) > later * 1.9);
        cell.finish(held, Outcome::Neutral, &LIMITS, at(11));
        assert_eq!(cell.in_flight(), 0);
    }

    #[test]
    fn eligibility_is_health_and_breaker() {
        let cell = EndpointCell::new(false);
        assert!(!cell.is_eligible(at(0)));
        cell.set_up(true);
        assert!(cell.is_eligible(at(0)));
        for opened in [false, true] {
            let attempt = cell.start(at(0)).unwrap();
            assert_eq!(cell.finish(attempt, Outcome::Failure, &LIMITS, at(0)), opened);
        }
        assert!(cell.is_broken() && !cell.is_eligible(at(0)) && cell.start(at(0)).is_none());
        assert!(cell.is_eligible(at(1)));
        let probe = cell.start(at(1)).unwrap();
        assert!(!cell.is_eligible(at(1)), "one probe at a time");
        cell.finish(probe, Outcome::Success(Duration::from_millis(1)), &LIMITS, at(1));
        assert!(cell.is_eligible(at(1)) && !cell.is_broken());
    }

    #[test]
    fn jitter_does_not_move_the_shown_latency() {
        let cell = RegionCell::default();
        assert_eq!(cell.latency_us(), None);
        assert!(cell.observe_latency(Duration::from_micros(80_000)));
        let shown = cell.latency_us().unwrap();
        assert!(shown <= 80_000 && shown > 60_000, "{shown}");
        for jitter in [78_000, 84_000, 75_000, 86_000, 80_500] {
            assert!(!cell.observe_latency(Duration::from_micros(jitter)), "{jitter}");
        }
        assert!((0..100).filter(|_| cell.observe_latency(Duration::from_micros(200_000))).count() > 0);
        assert!(cell.latency_us().unwrap() > 100_000);
    }

    #[test]
    fn verdicts_tell_when_they_change() {
        let cell = RegionCell::default();
        assert_eq!(cell.verdict(), Verdict::Unknown);
        assert!(cell.set_verdict(Verdict::Down, at(1)));
        assert!(!cell.set_verdict(Verdict::Down, at(2)));
        assert!(!cell.verdict().takes_requests());
        let ramp = Duration::from_secs(10);
        assert_eq!(cell.share(ramp, at(2)), 0);
        assert!(cell.set_verdict(Verdict::Healthy, at(3)));
        assert_eq!([3, 8, 13].map(|now| cell.share(ramp, at(now))), [5, 52, 100]);
    }
}
