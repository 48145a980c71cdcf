//! How fast rows are copied and compared while the tenant is written. Records that are followed are not slowed down: they are
//! what the tenant writes itself, and a move that falls behind never ends.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_core::time::Moment;
use portolan_foundation::clock;

use super::Relocation;

impl Relocation<'_> {
    /// Waits until as much time has passed since `begun` as these rows may take.
    pub(super) async fn pace(&self, rows: usize, begun: Moment) {
        let pause = pause(self.watch.rows_per_second(), rows, clock::now().since(begun));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// How long to wait after these rows took so long. Time that was lost to something else is not made up for.
fn pause(rows_per_second: Option<NonZeroU32>, rows: usize, took: Duration) -> Duration {
    let Some(rate) = rows_per_second else { return Duration::ZERO };
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * rows / rate.get()).saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_the_time_that_their_rate_gives_them() {
        let rate = NonZeroU32::new(2_000);
        let ms = Duration::from_millis;
        assert_eq!(pause(rate, 1_000, ms(100)), ms(400));
        assert_eq!(pause(rate, 1_000, ms(500)), ms(0));
        assert_eq!(pause(rate, 1_000, ms(9_000)), ms(0), "nothing is made up for");
        assert_eq!(pause(rate, usize::MAX, ms(0)), Duration::from_secs(1) * u32::MAX / 2_000);
        assert_eq!(pause(None, 1_000, ms(0)), ms(0));
    }
}
