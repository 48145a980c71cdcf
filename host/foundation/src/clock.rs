//! The only reader of clocks. Everything else is given [`Moment`]s and milliseconds.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use portolan_core::time::Moment;

static START: LazyLock<Duration> = LazyLock::new(uptime);

thread_local! {
    static SIMULATED: Cell<Option<fn() -> Moment>> = const { Cell::new(None) };
}

/// The present on the monotonic clock that goes on while the machine is suspended, in microseconds since the first call in this process. A
/// machine that wakes up finds its leases over.
#[must_use]
pub fn now() -> Moment {
    SIMULATED.get().map_or_else(present, |clock| clock())
}

fn present() -> Moment {
    // In this order: the first call is the beginning.
    let start = *START;
    Moment::default().plus(uptime().saturating_sub(start))
}

/// How long the machine has been up, suspensions included.
fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// From here on this is the present on this thread, for simulations, which run on one.
pub fn simulate(clock: fn() -> Moment) {
    SIMULATED.set(Some(clock));
}

/// A point of the runtime's clock as a [`Moment`]: as far from the present as it is there.
#[must_use]
pub fn at(instant: Instant) -> Moment {
    let (moment, now) = (present(), Instant::now());
    match instant.checked_duration_since(now) {
        Some(ahead) => moment.plus(ahead),
        None => {
            let ago = u64::try_from(now.saturating_duration_since(instant).as_micros()).unwrap_or(u64::MAX);
            Moment(moment.0.saturating_sub(ago))
        }
    }
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
