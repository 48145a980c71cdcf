//! What may be used over time: tokens that come at a rate, and shares of a thread.

use std::time::{Duration, Instant};

/// Tokens are counted in billionths, so that slow rates and short times add up.
const SCALE: u128 = 1_000_000_000;

/// A bucket. What a token stands for is its owner's affair: a line, a plan.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    cap: i128,
    /// Billionths of a token.
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

    /// A full one that gains `per_minute` tokens in each minute and holds `cap`.
    pub(crate) fn paced(per_minute: u32, cap: u32, now: Instant) -> Self {
        Self::new(i128::from(per_minute), Duration::from_secs(60), i128::from(cap), now)
    }

    fn new(tokens: i128, span: Duration, cap: i128, now: Instant) -> Self {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        let span = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX).max(1);
        let cap = cap.saturating_mul(scale);
        Self { cap, left: cap, rate: tokens.saturating_mul(scale) / span, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.filled).as_nanos();
        let gained = i128::try_from(gone).unwrap_or(i128::MAX).saturating_mul(self.rate);
        self.left = self.left.saturating_add(gained).min(self.cap);
        self.filled = now;
    }

    /// Takes one token if there is a whole one.
    pub(crate) fn take_one(&mut self, now: Instant) -> bool {
        let scale = i128::try_from(SCALE).unwrap_or(1);
        self.fill(now);
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

/// A share of a thread's time. What was not used is kept for a while, and what was used beyond is owed.
///
/// Asked on each call of a guest, hence small numbers: nanoseconds, good for 292 years.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    cap: i64,
    filled: Instant,
    left: i64,
    percent: i64,
}

impl Share {
    /// A full one: `percent` of all time, and as much at once as `window` gives.
    pub(crate) fn new(percent: u32, window: Duration, now: Instant) -> Self {
        let percent = i64::from(percent);
        let cap = nanoseconds(window).saturating_mul(percent) / 100;
        Self { cap, filled: now, left: cap, percent }
    }

    /// Is more left than so many thousandths of the window's share?
    pub(crate) fn has_more_than(&mut self, permille: u16, now: Instant) -> bool {
        let floor = self.cap / 1_000 * i64::from(permille);
        if self.left > floor {
            // What time has brought is counted when it is needed: the cap holds then as well.
            return true;
        }
        let gained =
            nanoseconds(now.saturating_duration_since(self.filled)).saturating_mul(self.percent) / 100;
        self.left = self.left.saturating_add(gained).min(self.cap);
        self.filled = now;
        self.left > floor
    }

    /// Takes time that was used.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(nanoseconds(time));
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_time_is_kept() {
        let start = Instant::now();
        let mut share = Share::new(25, Duration::from_millis(100), start);
        let mut now = start;
        let mut used = Duration::ZERO;
        // A guest that always wants a millisecond more, for ten seconds.
        while now - start < Duration::from_secs(10) {
            if share.has_more_than(0, now) {
                share.spend(Duration::from_millis(1));
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
