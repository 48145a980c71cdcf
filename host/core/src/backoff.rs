//! Exponential backoff with full jitter: the pause before attempt `n` is drawn evenly between zero and
//! `base × 2^(n-1)`, at most `cap`, so that clients that failed together do not come back together.

use std::time::Duration;

/// The pause before the `retry`-th retry (1 for the first), from one random number.
#[must_use]
pub fn full_jitter(retry: u32, base: Duration, cap: Duration, random: u64) -> Duration {
    let doublings = retry.saturating_sub(1).min(31);
    let ceiling = base.saturating_mul(1 << doublings).min(cap);
    let ceiling_us = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(scale(random, ceiling_us.saturating_add(1)))
}

/// The interval with up to 15 % more or less, from one random number, so that probes of many nodes spread out.
#[must_use]
pub fn jittered(interval: Duration, random: u64) -> Duration {
    let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
    let span = interval_us / 100 * 30;
    Duration::from_micros((interval_us - span / 2).saturating_add(scale(random, span.saturating_add(1))))
}

/// A number below `bound` from a random word, without the cost and bias of a remainder.
#[must_use]
pub(crate) fn scale(random: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(bound)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_lies_below_its_ceiling(retry in 1_u32..100, random: u64) {
            let (base, cap) = (Duration::from_millis(25), Duration::from_millis(250));
            let pause = full_jitter(retry, base, cap, random);
            prop_assert!(pause <= cap);
            prop_assert!(pause <= base.saturating_mul(1 << (retry - 1).min(20)));
        }

        #[test]
        fn jitter_stays_within_its_share(millis in 1_u64..1_000_000, random: u64) {
            let interval = Duration::from_millis(millis);
            let drawn = jittered(interval, random);
            prop_assert!(drawn >= interval.mul_f64(0.84) && drawn <= interval.mul_f64(1.16));
        }
    }
}
