//! Who is warm: bounds the warm instances of a process by count and bytes, and lets the least recently used go first.
//!
//! A *seat* is the place of one decider's instance on one data thread. Using a seat costs one store of the time; the
//! ledger is only locked when an instance becomes warm, when one has grown, and when a decider ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The bounds and the list.
pub(crate) struct Ledger {
    bytes: AtomicUsize,
    bytes_max: usize,
    count: AtomicUsize,
    count_max: usize,
    evictions: AtomicU64,
    next_seat: AtomicU64,
    /// Seats that may be warm by when they were last known to be used. Times are looked up anew before an eviction.
    seats: Mutex<BTreeMap<(u64, u64), Weak<dyn Seated>>>,
}

/// A seat as the ledger sees it.
pub(crate) trait Seated: Send + Sync {
    /// Where it stands in the list.
    fn place(&self) -> &Place;
    /// Takes the instance out if nobody is using it.
    fn vacate(&self) -> Vacated;
}

/// What asking a seat for its instance gave.
pub(crate) enum Vacated {
    /// There was none.
    Empty,
    /// It is in use.
    InUse,
    /// This one; to be dropped outside the lock.
    Instance(Box<dyn Send>),
}

/// A seat's part in the list.
#[derive(Debug)]
pub(crate) struct Place {
    /// When it is listed; 0 when it is not. Changed only under the ledger's lock.
    listed: AtomicU64,
    number: u64,
    /// Microseconds of the monotonic clock, never 0.
    used: AtomicU64,
}

impl Place {
    /// Notes a use.
    pub(crate) fn touch(&self, now_us: u64) {
        self.used.store(now_us.max(1), Ordering::Relaxed);
    }
}

/// The right to be warm; giving it up is dropping it.
#[derive(Debug)]
pub(crate) struct Lease {
    bytes: usize,
    ledger: Arc<Ledger>,
}

impl Ledger {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            bytes_max,
            count: AtomicUsize::new(0),
            count_max: count_max.max(1),
            evictions: AtomicU64::new(0),
            next_seat: AtomicU64::new(0),
            seats: Mutex::new(BTreeMap::new()),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// A place for a new seat.
    pub(crate) fn place(&self) -> Place {
        let number = self.next_seat.fetch_add(1, Ordering::Relaxed);
        Place { listed: AtomicU64::new(0), number, used: AtomicU64::new(1) }
    }

    /// Counts an instance that becomes warm in this seat, and lets others go if there are too many.
    pub(crate) fn enter(self: &Arc<Self>, seat: &Arc<dyn Seated>, bytes: usize) -> Lease {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let lease = Lease { bytes, ledger: Arc::clone(self) };
        let mut seats = self.lock();
        let place = seat.place();
        if place.listed.load(Ordering::Relaxed) == 0 {
            list(&mut seats, place, Arc::downgrade(seat));
        }
        self.trim(seats);
        lease
    }

    /// Lets one go, whoever was used least recently, because the pool has no slot left.
    pub(crate) fn make_room(&self) -> bool {
        let before = self.evictions();
        let seats = self.lock();
        self.evict_while(seats, |evicted| evicted == 0);
        self.evictions() > before
    }

    /// Forgets a seat that ends.
    pub(crate) fn leave(&self, place: &Place) {
        let mut seats = self.lock();
        let listed = place.listed.swap(0, Ordering::Relaxed);
        if listed != 0 {
            seats.remove(&(listed, place.number));
        }
    }

    fn trim(&self, seats: MutexGuard<'_, BTreeMap<(u64, u64), Weak<dyn Seated>>>) {
        // What is evicted here is dropped, and so counted off, only afterwards.
        let count = self.count();
        let over_bytes = self.bytes() > self.bytes_max;
        let share = if count == 0 { 0 } else { self.bytes() / count.max(1) };
        let by_bytes = if over_bytes { (self.bytes() - self.bytes_max) / share.max(1) + 1 } else { 0 };
        let wanted = count.saturating_sub(self.count_max).max(by_bytes);
        self.evict_while(seats, |evicted| evicted < wanted);
    }

    fn evict_while(
        &self,
        mut seats: MutexGuard<'_, BTreeMap<(u64, u64), Weak<dyn Seated>>>,
        wanted: impl Fn(usize) -> bool,
    ) {
        let mut gone: Vec<Box<dyn Send>> = Vec::new();
        // The last holder of a seat may be this function, and ending a seat locks the list: hold them until it is unlocked.
        let mut held: Vec<Arc<dyn Seated>> = Vec::new();
        let mut in_use = Vec::new();
        // Each seat is looked at twice at most: once to correct its time, once to let it go.
        let mut looks = seats.len().saturating_mul(2);
        while wanted(gone.len()) && looks > 0 {
            looks -= 1;
            let Some(((stamp, _), weak)) = seats.pop_first() else { break };
            let Some(seat) = weak.upgrade() else { continue };
            let place = seat.place();
            if place.used.load(Ordering::Relaxed) > stamp {
                list(&mut seats, place, weak);
            } else {
                match seat.vacate() {
                    Vacated::Instance(instance) => {
                        place.listed.store(0, Ordering::Relaxed);
                        gone.push(instance);
                    }
                    Vacated::Empty => place.listed.store(0, Ordering::Relaxed),
                    Vacated::InUse => in_use.push(weak),
                }
            }
            held.push(seat);
        }
        for weak in in_use {
            if let Some(seat) = weak.upgrade() {
                list(&mut seats, seat.place(), weak);
                held.push(seat);
            }
        }
        drop(seats);
        self.evictions.fetch_add(gone.len() as u64, Ordering::Relaxed);
        drop(gone);
        drop(held);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Weak<dyn Seated>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list(seats: &mut BTreeMap<(u64, u64), Weak<dyn Seated>>, place: &Place, seat: Weak<dyn Seated>) {
    let stamp = place.used.load(Ordering::Relaxed).max(1);
    place.listed.store(stamp, Ordering::Relaxed);
    seats.insert((stamp, place.number), seat);
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("count", &self.count)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// Notes how large the instance is now, and makes room if it has grown.
    pub(crate) fn resize(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        self.ledger.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        if self.ledger.bytes() > self.ledger.bytes_max {
            let seats = self.ledger.lock();
            self.ledger.trim(seats);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ledger.count.fetch_sub(1, Ordering::Relaxed);
        self.ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
