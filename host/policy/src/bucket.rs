//! A token bucket over time: of each span, a share may be used, and what was not used is kept up to a cap.

use std::time::{Duration, Instant};

/// Tokens are counted in billionths, so that slow rates and short times add up.
const SCALE: u128 = 1_000_000_000;

/// A bucket. What a token stands for is its owner's affair: a line, a plan, a nanosecond of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    cap: i128,
    /// Billionths of a token; below zero after a use that was larger than what was left.
    left: i128,
    /// Billionths of a token that come in a nanosecond.
    rate: i128,
    filled: Instant,
}

impl Bucket {
    /// A full one that gains `tokens` in each `span` and holds as many.
    pub(crate) fn full(span: Duration, tokens: u32, now: Instant) -> Self {
        Self::new(i128::from(tokens), span, i128::from(tokens), now)
    }

    /// A full one that gains one token in each `span` and holds `cap`.
    pub(crate) fn slow(span: Duration, cap: u32, now: Instant) -> Self {
        Self::new(1, span, i128::from(cap), now)
    }

    /// A full one of nanoseconds: `percent` of all time, as much as `window` gives.
    pub(crate) fn share(percent: u32, window: Duration, now: Instant) -> Self {
        let cap = window.as_nanos().saturating_mul(u128::from(percent)) / 100;
        Self::new(
            i128::from(percent),
            Duration::from_nanos(100),
            i128::try_from(cap).unwrap_or(i128::MAX),
            now,
        )
    }

    fn new(tokens: i128, span: Duration, cap: i128, now: Instant) -> Self {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        let span = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX).max(1);
        let cap = cap.saturating_mul(scale);
        Self { cap, left: cap, rate: tokens.saturating_mul(scale) / span, filled: now }
    }

    /// Is there anything left? Fills up first.
    pub(crate) fn has_some(&mut self, now: Instant) -> bool {
        let gone = now.saturating_duration_since(self.filled).as_nanos();
        let gained = i128::try_from(gone).unwrap_or(i128::MAX).saturating_mul(self.rate);
        self.left = self.left.saturating_add(gained).min(self.cap);
        self.filled = now;
        self.left > 0
    }

    /// Takes tokens that were used, more than are left if need be.
    pub(crate) fn spend(&mut self, tokens: u64) {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        self.left = self.left.saturating_sub(i128::from(tokens).saturating_mul(scale));
    }

    /// The part that is left, from 0 to 1000.
    pub(crate) fn left_permille(&self) -> u32 {
        if self.cap <= 0 {
            return 0;
        }
        u32::try_from((self.left.max(0) / (self.cap / 1000).max(1)).min(1000)).unwrap_or(0)
    }

    /// Takes one token if there is a whole one.
    pub(crate) fn take_one(&mut self, now: Instant) -> bool {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        self.has_some(now);
        let whole = self.left >= scale;
        if whole {
            self.left -= scale;
        }
        whole
    }

    /// How long until there is a whole token.
    pub(crate) fn wait(&self) -> Duration {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        let missing = (scale - self.left).max(0);
        Duration::from_nanos(u64::try_from(missing / self.rate.max(1) + 1).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_time_is_kept() {
        let start = Instant::now();
        let mut bucket = Bucket::share(25, Duration::from_millis(100), start);
        let mut now = start;
        let mut used = Duration::ZERO;
        // A guest that always wants a millisecond more, for ten seconds.
        while now - start < Duration::from_secs(10) {
            if bucket.has_some(now) {
                bucket.spend(1_000_000);
                used += Duration::from_millis(1);
            }
            now += Duration::from_millis(1);
        }
        let share = used.as_secs_f64() / 10.0;
        assert!((0.24..0.26).contains(&share), "{share}");
    }

    #[test]
    fn slow_tokens_come_one_by_one() {
        let start = Instant::now();
        let mut bucket = Bucket::slow(Duration::from_secs(1), 2, start);
        assert!(bucket.take_one(start) && bucket.take_one(start) && !bucket.take_one(start));
        let wait = bucket.wait();
        assert!(wait <= Duration::from_millis(1001) && wait > Duration::from_millis(999), "{wait:?}");
        assert!(bucket.take_one(start + wait));
        assert!(!bucket.take_one(start + wait));
    }
}
