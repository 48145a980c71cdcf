//! What a slot has used, and what a tenant may use: guest work by its fuel, warm instances, plans. An account outlives the
//! versions in its slot.
//!
//! The hot path takes fuel in portions: a data thread asks the account once for many calls. A tenant whose budget is used
//! up is *demoted*: its guest is asked nothing, its table answers alone, until a good part of the budget has come back.
//! Nobody else notices.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portolan_core::time::Moment;
use portolan_foundation::clock;
use serde::Serialize;

use crate::bucket::Bucket;
use crate::defaults::{FUEL_PORTION_MIN, FUEL_PORTIONS, RESUME_PERCENT};
use crate::log::Log;

/// What a tenant may use on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Units of fuel that may be used at once, after a time of rest.
    pub fuel_burst: u64,
    /// Units of fuel that come back in a second, over all data threads.
    pub fuel_per_second: u64,
    /// Bytes of all warm instances, and of any one.
    pub memory_bytes: usize,
    /// Plans that may be made at once, after a time of rest.
    pub plan_burst: u32,
    /// Units of fuel that plans may use in a minute.
    pub plan_fuel_per_minute: u64,
    /// Plans in a minute.
    pub plans_per_minute: u32,
    /// Warm instances.
    pub warm_instances: usize,
}

/// What a slot has used since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Questions to the guest.
    pub calls: u64,
    /// Units of fuel of those, and of starting instances for them.
    pub fuel: u64,
    /// Microseconds of data threads.
    pub guest_us: u64,
    /// Units of fuel of plans.
    pub plan_fuel: u64,
    /// Plans.
    pub plans: u64,
}

/// How a tenant stands with its budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetReport {
    /// What it may use.
    pub budget: Budget,
    /// Is its guest asked nothing, because its fuel is used up?
    pub demoted: bool,
    /// Since when, in milliseconds since 1970-01-01T00:00:00Z; 0 when it is not.
    pub demoted_since_ms: u64,
    /// How often it was demoted.
    pub demotions: u64,
    /// Units of fuel that are left.
    pub fuel_left: i64,
    /// Bytes of warm instances.
    pub memory_bytes: usize,
    /// Plans that had to wait for the budget.
    pub plans_held: u64,
    /// Warm instances.
    pub warm_instances: usize,
}

/// The account of one slot.
#[derive(Debug)]
pub struct Account {
    /// None for the operator's.
    limits: Mutex<Option<Budget>>,
    demoted: AtomicBool,
    demoted_since_ms: AtomicU64,
    demotions: AtomicU64,
    /// Microseconds of the monotonic clock.
    filled_at: AtomicU64,
    fuel_left: AtomicI64,
    /// The rate, as the hot path reads it; 0 for no bound.
    fuel_per_second: AtomicU64,
    fuel_burst: AtomicU64,
    memory_bytes_max: AtomicUsize,
    warm_instances_max: AtomicUsize,
    memory_bytes: AtomicUsize,
    warm_instances: AtomicUsize,
    plans: Mutex<Plans>,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Plans {
    calls: Option<Bucket>,
    cost: Cost,
    filled: Instant,
    fuel_left: i128,
    held: u64,
}

#[derive(Debug, Default)]
struct Used {
    /// Of deciders that have ended.
    ended: Cost,
    live: Vec<Arc<[SeatCost]>>,
}

/// What one decider used on one data thread. Written only by whoever holds the seat, so that a sum is a load and a store;
/// read by anybody. Each has a line of the processor's cache to itself: threads that count on one line wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct SeatCost {
    calls: AtomicU64,
    fuel: AtomicU64,
    guest_ns: AtomicU64,
}

/// The right of a tenant to keep one more instance warm; giving it up is dropping it.
#[derive(Debug)]
pub(crate) struct Warmth {
    account: Arc<Account>,
    bytes: usize,
}

impl Account {
    /// One without bounds, as the operator has.
    #[must_use]
    pub fn unbounded() -> Arc<Self> {
        Arc::new(Self::new(None))
    }

    /// A tenant's.
    #[must_use]
    pub fn bounded(budget: Budget) -> Arc<Self> {
        Arc::new(Self::new(Some(budget)))
    }

    fn new(budget: Option<Budget>) -> Self {
        let now = Instant::now();
        let plans = Plans { calls: None, cost: Cost::default(), filled: now, fuel_left: 0, held: 0 };
        let account = Self {
            limits: Mutex::new(None),
            demoted: AtomicBool::new(false),
            demoted_since_ms: AtomicU64::new(0),
            demotions: AtomicU64::new(0),
            filled_at: AtomicU64::new(clock::at(now).0),
            fuel_left: AtomicI64::new(0),
            fuel_per_second: AtomicU64::new(0),
            fuel_burst: AtomicU64::new(0),
            memory_bytes_max: AtomicUsize::new(usize::MAX),
            warm_instances_max: AtomicUsize::new(usize::MAX),
            memory_bytes: AtomicUsize::new(0),
            warm_instances: AtomicUsize::new(0),
            plans: Mutex::new(plans),
            used: Mutex::default(),
        };
        account.set(budget);
        account
    }

    /// Changes the budget. What was used stays used.
    pub fn set(&self, budget: Option<Budget>) {
        let mut limits = lock(&self.limits);
        if *limits == budget {
            return;
        }
        let is_first = limits.is_none();
        *limits = budget;
        let Some(budget) = budget else {
            self.fuel_per_second.store(0, Ordering::Relaxed);
            self.memory_bytes_max.store(usize::MAX, Ordering::Relaxed);
            self.warm_instances_max.store(usize::MAX, Ordering::Relaxed);
            self.demoted.store(false, Ordering::Relaxed);
            return;
        };
        self.fuel_burst.store(budget.fuel_burst, Ordering::Relaxed);
        self.fuel_per_second.store(budget.fuel_per_second.max(1), Ordering::Relaxed);
        self.memory_bytes_max.store(budget.memory_bytes, Ordering::Relaxed);
        self.warm_instances_max.store(budget.warm_instances, Ordering::Relaxed);
        let mut plans = lock(&self.plans);
        plans.calls = Some(Bucket::paced(budget.plans_per_minute, budget.plan_burst, Instant::now()));
        if is_first {
            self.fuel_left.store(signed(budget.fuel_burst), Ordering::Relaxed);
            plans.fuel_left = i128::from(budget.plan_fuel_per_minute);
        }
    }

    /// Is there a budget at all?
    pub(crate) fn is_bounded(&self) -> bool {
        self.fuel_per_second.load(Ordering::Relaxed) != 0
    }

    /// Is its guest asked nothing now?
    #[must_use]
    pub fn is_demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }

    /// Takes a portion of fuel for some calls; none for a tenant that is demoted, or is by this.
    pub(crate) fn draw(&self, now: Moment, log: &Log) -> Option<i64> {
        self.fill(now);
        let burst = signed(self.fuel_burst.load(Ordering::Relaxed));
        let left = self.fuel_left.load(Ordering::Relaxed);
        if self.is_demoted() {
            if left < burst / 100 * RESUME_PERCENT {
                return None;
            }
            if self.demoted.swap(false, Ordering::Relaxed) {
                log.note("the budget of guest work has come back: dynamic rules are asked again");
            }
        }
        if left <= 0 {
            if !self.demoted.swap(true, Ordering::Relaxed) {
                self.demotions.fetch_add(1, Ordering::Relaxed);
                self.demoted_since_ms.store(clock::unix_ms(), Ordering::Relaxed);
                log.note("the budget of guest work is used up: demoted, the table answers alone for a while");
            }
            return None;
        }
        let portion = (burst / FUEL_PORTIONS).max(FUEL_PORTION_MIN);
        self.fuel_left.fetch_sub(portion, Ordering::Relaxed);
        Some(portion)
    }

    /// Gives back what a thread has not used of its portions, or takes what it used beyond.
    pub(crate) fn settle(&self, rest: i64) {
        if self.is_bounded() {
            self.fuel_left.fetch_add(rest, Ordering::Relaxed);
        }
    }

    fn fill(&self, now: Moment) {
        let rate = self.fuel_per_second.load(Ordering::Relaxed);
        let filled = self.filled_at.load(Ordering::Relaxed);
        let gone = now.0.saturating_sub(filled);
        // A millisecond at least, so that threads do not fight over the word.
        let is_mine = gone >= 1_000
            && self.filled_at.compare_exchange(filled, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if rate == 0 || !is_mine {
            return;
        }
        let gained =
            signed(u64::try_from(u128::from(rate) * u128::from(gone) / 1_000_000).unwrap_or(u64::MAX));
        let burst = signed(self.fuel_burst.load(Ordering::Relaxed));
        let fill = |left: i64| Some(left.saturating_add(gained).min(burst));
        // The closure always gives a value.
        _ = self.fuel_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill);
    }

    /// How many bytes one instance may have.
    pub(crate) fn instance_bytes_max(&self, limit: usize) -> usize {
        self.memory_bytes_max.load(Ordering::Relaxed).min(limit)
    }

    /// Asks for one more warm instance; none when the tenant has all that it may have.
    pub(crate) fn warm(self: &Arc<Self>, bytes: usize) -> Option<Warmth> {
        let warmth = Warmth { account: Arc::clone(self), bytes };
        let count = self.warm_instances.fetch_add(1, Ordering::Relaxed) + 1;
        let sum = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = count <= self.warm_instances_max.load(Ordering::Relaxed)
            && sum <= self.memory_bytes_max.load(Ordering::Relaxed);
        fits.then_some(warmth)
    }

    /// Asks for one more plan. An error says when to come again.
    pub(crate) fn take_plan(&self, now: Instant) -> Result<(), std::time::Duration> {
        let Some(budget) = *lock(&self.limits) else { return Ok(()) };
        let mut plans = lock(&self.plans);
        let rate = i128::from(budget.plan_fuel_per_minute.max(1));
        let gone = i128::try_from(now.saturating_duration_since(plans.filled).as_millis()).unwrap_or(0);
        plans.fuel_left = (plans.fuel_left + rate * gone / 60_000).min(rate);
        plans.filled = now;
        if plans.fuel_left <= 0 {
            plans.held += 1;
            let millis = u64::try_from(-plans.fuel_left * 60_000 / rate + 1_000).unwrap_or(u64::MAX);
            return Err(std::time::Duration::from_millis(millis));
        }
        let Some(bucket) = &mut plans.calls else { return Ok(()) };
        if bucket.take_one(now) {
            return Ok(());
        }
        let wait = bucket.wait();
        plans.held += 1;
        Err(wait)
    }

    /// Notes a plan.
    pub(crate) fn planned(&self, fuel: u64) {
        let mut plans = lock(&self.plans);
        plans.cost.plans += 1;
        plans.cost.plan_fuel += fuel;
        plans.fuel_left -= i128::from(fuel);
    }

    /// Counts what a decider's seats use from now on.
    pub(crate) fn open(&self, seats: Arc<[SeatCost]>) {
        lock(&self.used).live.push(seats);
    }

    /// Keeps the sum of seats that end.
    pub(crate) fn close(&self, seats: &Arc<[SeatCost]>) {
        let mut used = lock(&self.used);
        used.live.retain(|live| !Arc::ptr_eq(live, seats));
        seats.iter().for_each(|seat| used.ended.add(seat));
    }

    /// What was used by now.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let plans = lock(&self.plans).cost;
        let used = lock(&self.used);
        let mut cost = Cost { plan_fuel: plans.plan_fuel, plans: plans.plans, ..used.ended };
        used.live.iter().flat_map(|seats| &**seats).for_each(|seat| cost.add(seat));
        drop(used);
        // Seats are summed in nanoseconds.
        cost.guest_us /= 1_000;
        cost
    }

    /// How it stands with its budget; none without one.
    #[must_use]
    pub fn report(&self) -> Option<BudgetReport> {
        let budget = (*lock(&self.limits))?;
        self.fill(clock::now());
        let demoted = self.is_demoted();
        Some(BudgetReport {
            budget,
            demoted,
            demoted_since_ms: if demoted { self.demoted_since_ms.load(Ordering::Relaxed) } else { 0 },
            demotions: self.demotions.load(Ordering::Relaxed),
            fuel_left: self.fuel_left.load(Ordering::Relaxed),
            memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
            plans_held: lock(&self.plans).held,
            warm_instances: self.warm_instances.load(Ordering::Relaxed),
        })
    }
}

impl Cost {
    /// Adds a seat's; `guest_us` are nanoseconds here.
    fn add(&mut self, seat: &SeatCost) {
        self.calls += seat.calls();
        self.fuel += seat.fuel();
        self.guest_us += seat.guest_ns();
    }
}

impl SeatCost {
    /// Adds one call and its time.
    pub(crate) fn add_call(&self, guest_ns: u64) {
        add_alone(&self.calls, 1);
        add_alone(&self.guest_ns, guest_ns);
    }

    /// Adds units of fuel.
    pub(crate) fn add_fuel(&self, fuel: u64) {
        add_alone(&self.fuel, fuel);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn fuel(&self) -> u64 {
        self.fuel.load(Ordering::Relaxed)
    }

    pub(crate) fn guest_ns(&self) -> u64 {
        self.guest_ns.load(Ordering::Relaxed)
    }
}

/// Adds to a number that nobody else writes now: half the price of an atomic addition, and on each call's path.
fn add_alone(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Warmth {
    /// Notes how large the instance is now; `false` when that is more than the tenant may have.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes != self.bytes {
            self.account.memory_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.account.memory_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
        self.account.memory_bytes.load(Ordering::Relaxed)
            <= self.account.memory_bytes_max.load(Ordering::Relaxed)
    }
}

impl Drop for Warmth {
    fn drop(&mut self) {
        self.account.warm_instances.fetch_sub(1, Ordering::Relaxed);
        self.account.memory_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_core::ids::PolicyName;

    use super::*;

    const BUDGET: Budget = Budget {
        fuel_burst: 1_000_000_000,
        fuel_per_second: 100_000_000,
        memory_bytes: 1 << 20,
        plan_burst: 3,
        plan_fuel_per_minute: 1_000_000,
        plans_per_minute: 60,
        warm_instances: 2,
    };

    #[test]
    fn who_uses_its_budget_up_is_demoted_until_a_part_of_it_is_back() {
        let account = Account::bounded(BUDGET);
        let log = Log::new(PolicyName::new("greedy").unwrap(), 10);
        let start = clock::now();
        let mut drawn = 0;
        while let Some(portion) = account.draw(start, &log) {
            drawn += portion;
        }
        let burst = 1_000_000_000;
        assert!((burst..burst + burst / FUEL_PORTIONS + 1).contains(&drawn), "{drawn}");
        assert!(account.is_demoted());
        // A trickle is not enough: it would be demoted again at once.
        assert_eq!(account.draw(start.plus(Duration::from_secs(1)), &log), None);
        assert!(account.draw(start.plus(Duration::from_secs(3)), &log).is_some());
        let report = account.report().unwrap();
        assert_eq!((report.demoted, report.demotions), (false, 1));
        let lines: Vec<String> = log.lines().into_iter().map(|line| line.text).collect();
        assert!(lines[0].contains("used up") && lines[1].contains("come back"), "{lines:?}");
        // What a thread gives back is there for others.
        let left = account.report().unwrap().fuel_left;
        account.settle(500);
        assert!(account.report().unwrap().fuel_left >= left + 500);
    }

    #[test]
    fn warm_instances_are_counted_by_tenant() {
        let account = Account::bounded(BUDGET);
        let one = account.warm(100 << 10).unwrap();
        let mut two = account.warm(100 << 10).unwrap();
        assert!(account.warm(1).is_none(), "two are all");
        assert!(two.resize(800 << 10) && !two.resize(1 << 20));
        drop((one, two));
        assert!(account.warm(2 << 20).is_none(), "too large");
        assert_eq!(account.report().unwrap().memory_bytes, 0);
    }

    #[test]
    fn plans_wait_for_their_budget() {
        let account = Account::bounded(BUDGET);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(account.take_plan(now), Ok(()));
        }
        assert!(account.take_plan(now).is_err());
        let later = now + Duration::from_millis(1_100);
        assert_eq!(account.take_plan(later), Ok(()));
        account.planned(3_000_000);
        let wait = account.take_plan(later).unwrap_err();
        assert!(wait > Duration::from_secs(60), "{wait:?}");
        assert_eq!(account.take_plan(later + wait), Ok(()));
        assert_eq!(account.cost(), Cost { plans: 1, plan_fuel: 3_000_000, ..Cost::default() });
        assert_eq!(Account::unbounded().take_plan(now), Ok(()));
    }
}
