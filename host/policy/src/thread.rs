//! The time of data threads: the share of it that guests may take, and what they took.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portolan_core::time::Moment;
use portolan_foundation::clock;

use crate::bucket::Share;
use crate::config::Limits;
use crate::decider::Tier;
use crate::defaults::{OCCUPANCY_WINDOW, SHARE_WINDOW};

/// Tenants stop when this part of the guests' share of a thread is left, in thousandths: it is the operator's.
const THREAD_RESERVE_PERMILLE: u16 = 250;
/// Threads whose occupancy is kept; those beyond are kept together.
const THREADS_MAX: usize = 256;

/// What guests took of one thread. Each is written on every call, so each has a line of the processor's cache to itself, and the
/// one that is fetched along with it.
#[derive(Debug)]
#[repr(align(128))]
struct Occupancy {
    /// All nanoseconds so far.
    guest_ns: AtomicU64,
    /// The part of the last whole window, in thousandths.
    permille: AtomicU64,
    /// The largest part of any window so far.
    permille_max: AtomicU64,
    /// When the running window began, in microseconds of the monotonic clock.
    window: AtomicU64,
    /// `guest_ns` then.
    window_ns: AtomicU64,
}

static OCCUPANCY: [Occupancy; THREADS_MAX] = [const {
    Occupancy {
        guest_ns: AtomicU64::new(0),
        permille: AtomicU64::new(0),
        permille_max: AtomicU64::new(0),
        window: AtomicU64::new(0),
        window_ns: AtomicU64::new(0),
    }
}; THREADS_MAX];

/// How much of a thread guests take. The process has one set of threads, whatever engines it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ThreadShare {
    /// All microseconds so far.
    pub guest_us: u64,
    /// The part of the last second in which any guest ran, in thousandths.
    pub permille: u64,
    /// The largest part of any second so far.
    pub permille_max: u64,
}

thread_local! {
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    /// The guests' share of this thread, with the percentage it was made for.
    static SHARE: RefCell<Option<(u32, Share)>> = const { RefCell::new(None) };
}

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The small numbers of threads that ask: the first to ask is 0.
pub(crate) fn number() -> usize {
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let own = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(own));
            own
        })
    })
}

/// May a guest of this tier run on this thread now?
pub(crate) fn has_time(limits: &Limits, tier: Tier, now: Instant) -> bool {
    let percent = limits.guest_share_percent;
    SHARE.with_borrow_mut(|share| {
        let bucket = match share {
            Some((made_for, bucket)) if *made_for == percent => bucket,
            other => &mut other.insert((percent, Share::new(percent, SHARE_WINDOW, now))).1,
        };
        bucket.has_more_than(if tier == Tier::Operator { 0 } else { THREAD_RESERVE_PERMILLE }, now)
    })
}

/// Notes what a guest took that was asked at `asked`.
pub(crate) fn spend(time: Duration, asked: Moment) {
    SHARE.with_borrow_mut(|share| {
        if let Some((_, share)) = share {
            share.spend(time);
        }
    });
    let Some(occupancy) = OCCUPANCY.get(number().min(THREADS_MAX - 1)) else { return };
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let all = occupancy.guest_ns.fetch_add(ns, Ordering::Relaxed).wrapping_add(ns);
    let now = asked.plus(time).0;
    let began = occupancy.window.load(Ordering::Relaxed);
    let gone = now.saturating_sub(began);
    if gone < OCCUPANCY_WINDOW.as_micros().try_into().unwrap_or(u64::MAX) {
        return;
    }
    let took = all.saturating_sub(occupancy.window_ns.swap(all, Ordering::Relaxed));
    occupancy.window.store(now, Ordering::Relaxed);
    // The first window began when nobody looked.
    if began != 0 {
        let permille = took / gone.max(1);
        occupancy.permille.store(permille, Ordering::Relaxed);
        occupancy.permille_max.fetch_max(permille, Ordering::Relaxed);
    }
}

/// What guests take of each thread that has asked any.
#[must_use]
pub(crate) fn shares() -> Vec<ThreadShare> {
    let now = clock::now().0;
    let stale = 2 * u64::try_from(OCCUPANCY_WINDOW.as_micros()).unwrap_or(u64::MAX);
    let threads = NEXT.load(Ordering::Relaxed).min(THREADS_MAX);
    let share = |occupancy: &Occupancy| {
        let is_old = now.saturating_sub(occupancy.window.load(Ordering::Relaxed)) > stale;
        ThreadShare {
            guest_us: occupancy.guest_ns.load(Ordering::Relaxed) / 1_000,
            permille: if is_old { 0 } else { occupancy.permille.load(Ordering::Relaxed) },
            permille_max: occupancy.permille_max.load(Ordering::Relaxed),
        }
    };
    OCCUPANCY.iter().take(threads).map(share).collect()
}
