//! The only reader of clocks. Everything else is given [`Moment`]s and milliseconds.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use portolan_core::time::Moment;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static SIMULATED: Cell<Option<fn() -> Moment>> = const { Cell::new(None) };
}

/// The present on the monotonic clock, in microseconds since the first call in this process.
#[must_use]
pub fn now() -> Moment {
    SIMULATED.get().map_or_else(|| at(Instant::now()), |clock| clock())
}

/// From here on this is the present on this thread, for simulations, which run on one.
pub fn simulate(clock: fn() -> Moment) {
    SIMULATED.set(Some(clock));
}

/// A point of the monotonic clock as a [`Moment`].
#[must_use]
pub fn at(instant: Instant) -> Moment {
    Moment::default().plus(instant.saturating_duration_since(*START))
}

/// A point of the wall clock, from its milliseconds since 1970-01-01T00:00:00Z; for printing.
#[must_use]
#[expect(clippy::disallowed_types, reason = "the one place that knows the wall clock")]
pub fn from_unix_ms(ms: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// Milliseconds since 1970-01-01T00:00:00Z of a point of the wall clock; for reading times that people write.
#[must_use]
#[expect(clippy::disallowed_types, reason = "the one place that knows the wall clock")]
pub fn to_unix_ms(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock in milliseconds since 1970-01-01T00:00:00Z; 0 for clocks set before that.
#[must_use]
#[expect(clippy::disallowed_types, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
