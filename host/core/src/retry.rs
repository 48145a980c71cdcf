//! The retry budget: retries may add at most a fifth to the load, plus a small reserve so that quiet routes can retry
//! at all. Without a budget, retries multiply an overload.

use std::time::Duration;

use crate::time::Moment;

/// The share of requests that may be retried, in percent.
const SHARE_PERCENT: u64 = 20;
/// Retries per window that need no requests behind them.
const RESERVE: u64 = 3;
/// Requests count towards the budget for this long.
const WINDOW: Duration = Duration::from_secs(10);
const BUCKETS: usize = 10;

/// The budget of one data thread.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Requests and retries by second of the window.
    buckets: [(u64, u64); BUCKETS],
    /// The second that the newest bucket stands for.
    second: u64,
}

impl Budget {
    /// Counts a request.
    pub fn deposit(&mut self, now: Moment) {
        self.turn(now).0 += 1;
    }

    /// Takes a retry out of the budget; `false` when it is used up.
    #[must_use]
    pub fn withdraw(&mut self, now: Moment) -> bool {
        self.turn(now);
        let (requests, retries) =
            self.buckets.iter().fold((0, 0), |sum, bucket| (sum.0 + bucket.0, sum.1 + bucket.1));
        let allowed = retries < requests * SHARE_PERCENT / 100 + RESERVE;
        if allowed {
            self.turn(now).1 += 1;
        }
        allowed
    }

    fn turn(&mut self, now: Moment) -> &mut (u64, u64) {
        let second = now.0 / 1_000_000;
        let width = WINDOW.as_secs() / BUCKETS as u64;
        let passed = (second / width).saturating_sub(self.second / width);
        for step in 1..=passed.min(BUCKETS as u64) {
            let index = usize::try_from((self.second / width + step) % BUCKETS as u64).unwrap_or(0);
            if let Some(bucket) = self.buckets.get_mut(index) {
                *bucket = (0, 0);
            }
        }
        self.second = self.second.max(second);
        let index = usize::try_from((self.second / width) % BUCKETS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "a remainder by the number of buckets is below it")]
        &mut self.buckets[index]
    }
}

/// Is the method idempotent (RFC 9110, section 9.2.2; QUERY by RFC 10008)? Method names are case-sensitive.
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE" | "QUERY")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reserve_serves_quiet_routes_and_comes_back_with_the_window() {
        let mut budget = Budget::default();
        assert_eq!((0..10).filter(|_| budget.withdraw(Moment(0))).count(), 3);
        assert!(!budget.withdraw(Moment(9_000_000)));
        assert!(budget.withdraw(Moment(10_000_000)));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_their_share(steps in prop::collection::vec((any::<bool>(), 0_u64..400_000), 1..2_000)) {
            let mut budget = Budget::default();
            let (mut now, mut requests, mut retries) = (0, Vec::new(), Vec::new());
            for (retry, pause) in steps {
                now += pause;
                if !retry {
                    budget.deposit(Moment(now));
                    requests.push(now);
                } else if budget.withdraw(Moment(now)) {
                    retries.push(now);
                    // Buckets are a second wide, so the window seen from outside is up to one second longer.
                    let recent = |all: &[u64]| all.iter().filter(|&&then| then + 9_000_000 > now).count();
                    let wide = |all: &[u64]| all.iter().filter(|&&then| then + 10_000_000 > now).count();
                    prop_assert!(recent(&retries) <= wide(&requests) / 5 + 3 + 1);
                }
            }
        }
    }
}
