//! The decide tier: answers dynamic rules on the request path, with warm instances per data thread or fresh ones.
//!
//! Nothing here waits for more than the guest itself: shares of time, breaker and pool say no at once. An instance
//! that failed is dropped, and none is made anew within the request that it failed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use portolan_core::breaker::{Admission, Breaker};
use portolan_core::decide::{Call, Decide, Undecided};
use portolan_core::time::Moment;
use portolan_foundation::{clock, random};
use serde::Serialize;
use wasmtime::Store;

use crate::account::{Account, SeatCost, Warmth};
use crate::bucket::Share;
use crate::config::Limits;
use crate::defaults::SHARE_WINDOW;
use crate::engine::{Engine, Inner};
use crate::error::{Refused, Stage, printable};
use crate::face::{Face, Faces, Guest};
use crate::guest::{self, Allowance, Failure, State};
use crate::ledger::{Lease, Ledger, Place, Seated, Vacated};
use crate::log::Log;
use crate::stats::Counter;
use crate::thread;
use crate::version::Version;

/// What a warm instance takes beside its memory: store, tables, descriptions. About, for the ledger.
const INSTANCE_OVERHEAD_BYTES: usize = 16 * 1024;

/// For whom a decider works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The operator's own policy: warm instances, its own reserve of them.
    Operator,
    /// A tenant's policy.
    Tenant {
        /// May it decide although its component is large?
        granted: bool,
    },
}

/// What a decider is started with.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What its slot has used and may use.
    pub account: &'a Arc<Account>,
    /// The slot's configuration.
    pub config: &'a str,
    /// Where the guest writes.
    pub log: &'a Arc<Log>,
    /// What `plan` left.
    pub memo: &'a [u8],
    /// For whom.
    pub tier: Tier,
}

/// A version with one configuration and memo, answering dynamic rules.
pub struct Decider {
    account: Arc<Account>,
    allowance: Allowance,
    breaker: Breaker,
    config: Box<str>,
    /// What each seat used, in the order of seats.
    costs: Arc<[SeatCost]>,
    counts: Counts,
    engine: Arc<Inner>,
    impure: AtomicBool,
    last_failure: Mutex<Option<String>>,
    ledger: Arc<Ledger>,
    limits: Limits,
    log: Arc<Log>,
    memo: Box<[u8]>,
    seats: Box<[Arc<Seat>]>,
    start_allowance: Allowance,
    tier: Tier,
    version: Arc<Version>,
    /// Does every call get a fresh instance?
    fresh: bool,
}

#[derive(Debug, Default)]
struct Counts {
    broken: Counter,
    busy: Counter,
    out_of_range: Counter,
    overruns: Counter,
    purity_checks: Counter,
    traps: Counter,
}

/// The place of one data thread, on lines of the processor's cache that no other thread writes.
#[repr(align(64))]
struct Seat {
    held: Mutex<Held>,
    place: Place,
}

struct Held {
    /// Fuel that was drawn from the account and is not used yet.
    credit: i64,
    /// A tenant's own share of the thread.
    share: Option<Share>,
    until_check: u32,
    warm: Option<Box<Warm>>,
}

struct Warm {
    calls_left: u32,
    guest: Guest,
    lease: Lease,
    store: Store<State>,
    warmth: Option<Warmth>,
}

/// The state of a decider at one moment. Numbers without another unit count since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeciderStats {
    /// Is the breaker open, or trying?
    pub breaker_open: bool,
    /// Questions that the breaker answered.
    pub broken: u64,
    /// Questions that found no time or no instance.
    pub busy: u64,
    /// Questions that the guest was asked.
    pub calls: u64,
    /// Does every call get a fresh instance?
    pub fresh: bool,
    /// Units of fuel.
    pub fuel: u64,
    /// Time in the guest, in microseconds.
    pub guest_us: u64,
    /// Was it found to answer differently when asked again?
    pub impure: bool,
    /// What the last failed call reported.
    pub last_failure: Option<String>,
    /// Answers that their rule does not have.
    pub out_of_range: u64,
    /// Calls that ran past their fuel or deadline.
    pub overruns: u64,
    /// Calls that were repeated to see whether the policy is pure.
    pub purity_checks: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Warm instances now.
    pub warm_instances: u64,
}

impl Engine {
    /// Makes what answers a version's dynamic rules, after one `start` on trial.
    ///
    /// # Errors
    /// [`Refused`] when the version has no decider, its `start` fails or says no, or it is too large for a tenant
    /// without a grant.
    pub fn decider(&self, version: &Arc<Version>, start: Start<'_>) -> Result<Arc<Decider>, Refused> {
        self.try_decider(version, start).map_err(|refused| self.count(refused))
    }

    fn try_decider(&self, version: &Arc<Version>, start: Start<'_>) -> Result<Arc<Decider>, Refused> {
        let inner = self.inner();
        let limits = self.config().limits.clone();
        check_grant(version, start.tier, &limits)?;
        let (tenant, ledger) = match start.tier {
            Tier::Operator => (false, &inner.warm_operator),
            Tier::Tenant { .. } => (true, &inner.warm_tenant),
        };
        let now = Instant::now();
        let seat = || {
            let share = tenant.then(|| Share::new(limits.tenant_share_percent, SHARE_WINDOW, now));
            let until_check = draw_check(limits.purity_check_every.get());
            let held = Held { credit: 0, share, until_check, warm: None };
            Arc::new(Seat { held: Mutex::new(held), place: ledger.place() })
        };
        // One more than data threads, for questions of the control runtime such as `explain`.
        let seats: Box<[Arc<Seat>]> = (0..=self.config().data_threads.get()).map(|_| seat()).collect();
        let decider = Decider {
            account: Arc::clone(start.account),
            allowance: Allowance::new(limits.decide_fuel, limits.decide_deadline),
            breaker: Breaker::default(),
            config: start.config.into(),
            costs: seats.iter().map(|_| SeatCost::default()).collect(),
            counts: Counts::default(),
            engine: Arc::clone(inner),
            fresh: tenant && version.about().memory_bytes <= limits.resident_bytes,
            impure: AtomicBool::new(false),
            last_failure: Mutex::new(None),
            ledger: Arc::clone(ledger),
            log: Arc::clone(start.log),
            memo: start.memo.into(),
            seats,
            start_allowance: Allowance::to_start(&limits),
            tier: start.tier,
            version: Arc::clone(version),
            limits,
        };
        decider.account.open(Arc::clone(&decider.costs));
        decider.instance(None, Faces::usual).map(drop).map_err(|failure| not_started(&failure))?;
        if version.decider().is_some_and(|faces| faces.second() != faces.usual()) {
            decider.instance(None, Faces::second).map(drop).map_err(|failure| not_started(&failure))?;
        }
        Ok(Arc::new(decider))
    }
}

fn check_grant(version: &Version, tier: Tier, limits: &Limits) -> Result<(), Refused> {
    let (size, max) = (version.about().size_bytes, limits.tenant_decider_bytes_max);
    if tier == (Tier::Tenant { granted: false }) && size > max {
        return Err(Refused::new(
            Stage::Check,
            format!(
                "the plan has dynamic rules, and the component has {size} bytes; {max} are allowed for those"
            ),
            "use `split` rules, write the policy in C, Rust or Zig, or have the operator grant it dynamic rules",
        ));
    }
    Ok(())
}

fn not_started(failure: &Failure) -> Refused {
    let reason = format!("`start` failed: {}", failure.text());
    match failure {
        Failure::Full(_) => {
            Refused::passing(Stage::Start, reason, "wait until policies end, or give the pool more slots")
        }
        Failure::Overrun(_) => Refused::passing(
            Stage::Start,
            reason,
            "do less in `start`: move work to `plan` and leave the result in the memo",
        ),
        Failure::Trapped(_) => Refused::passing(
            Stage::Start,
            reason,
            "run `portolan plugin check` on the component to see it fail at your desk",
        ),
    }
}

/// A number around `every`, drawn so that no guest can count its way around the checks.
fn draw_check(every: u32) -> u32 {
    draw((1, every.saturating_mul(2).saturating_sub(1)))
}

fn draw((least, most): (u32, u32)) -> u32 {
    let span = u64::from(most.saturating_sub(least)) + 1;
    least.saturating_add(u32::try_from(random::u64() % span).unwrap_or(0))
}

impl Decide for Decider {
    fn decide(&self, call: &Call<'_>) -> Result<u32, Undecided> {
        self.decide_counted(call).0
    }

    fn decide_counted(&self, call: &Call<'_>) -> (Result<u32, Undecided>, u64) {
        let mut fuel = 0;
        (self.answer(call, &mut fuel), fuel)
    }

    fn is_impure(&self) -> bool {
        self.impure.load(Ordering::Relaxed)
    }
}

impl Decider {
    fn answer(&self, call: &Call<'_>, counted: &mut u64) -> Result<u32, Undecided> {
        let began = Instant::now();
        let now = clock::at(began);
        if !thread::has_time(&self.limits, self.tier, began) {
            return Err(self.busy());
        }
        let probe = match self.breaker.admit(now) {
            Admission::Closed => false,
            Admission::Probe => true,
            Admission::Refused => {
                self.counts.broken.add(1);
                return Err(Undecided::Broken);
            }
        };
        let Some((seat, cost, mut held)) = self.free_seat() else {
            self.breaker.abandon(probe);
            return Err(self.busy());
        };
        if held.share.as_mut().is_some_and(|share| !share.has_more_than(0, began)) {
            drop(held);
            self.breaker.abandon(probe);
            return Err(self.busy());
        }
        if !self.has_budget(&mut held, now) {
            drop(held);
            self.breaker.abandon(probe);
            return Err(Undecided::Demoted);
        }
        seat.place.touch(now.0);
        let fuel_before = cost.fuel();
        let answer = self.ask(seat, cost, &mut held, call, counted);
        let spent_fuel = cost.fuel().saturating_sub(fuel_before);
        held.credit = held.credit.saturating_sub(i64::try_from(spent_fuel).unwrap_or(i64::MAX));
        let spent = began.elapsed();
        if let Some(share) = &mut held.share {
            share.spend(spent);
        }
        cost.add_call(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX));
        drop(held);
        thread::spend(spent, now);
        match answer {
            Ok(index) if index < call.among => {
                if probe {
                    self.breaker.succeed(true);
                }
                Ok(index)
            }
            Ok(index) => Err(self.out_of_range(index, call, probe)),
            Err(failure) => Err(self.failed(&failure, probe)),
        }
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> DeciderStats {
        let sum = |of: fn(&SeatCost) -> u64| self.costs.iter().map(of).sum::<u64>();
        let warm = |seat: &&Arc<Seat>| match seat.held.try_lock() {
            Ok(held) => held.warm.is_some(),
            // Whoever holds it is using an instance.
            Err(_) => true,
        };
        DeciderStats {
            breaker_open: self.breaker.is_open(),
            broken: self.counts.broken.read(),
            busy: self.counts.busy.read(),
            calls: sum(SeatCost::calls),
            fresh: self.is_fresh(),
            fuel: sum(SeatCost::fuel),
            guest_us: sum(SeatCost::guest_ns) / 1_000,
            impure: self.impure.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            out_of_range: self.counts.out_of_range.read(),
            overruns: self.counts.overruns.read(),
            purity_checks: self.counts.purity_checks.read(),
            traps: self.counts.traps.read(),
            warm_instances: self.seats.iter().filter(warm).count() as u64,
        }
    }

    /// What `plan` left for it.
    pub(crate) fn memo(&self) -> &[u8] {
        &self.memo
    }

    /// The seat of this thread, or another one that nobody uses. Taking one never waits: a data thread must not stand
    /// behind a question of the control runtime.
    fn free_seat(&self) -> Option<(&Arc<Seat>, &SeatCost, MutexGuard<'_, Held>)> {
        let (own, count) = (thread::number(), self.seats.len().max(1));
        (0..count).find_map(|step| {
            let place = (own + step) % count;
            let (seat, cost) = (self.seats.get(place)?, self.costs.get(place)?);
            let held = match seat.held.try_lock() {
                Ok(held) => held,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            };
            Some((seat, cost, held))
        })
    }

    /// Is there fuel for another call? Small numbers here, the account itself for many calls at once.
    fn has_budget(&self, held: &mut Held, now: Moment) -> bool {
        if !self.account.is_bounded() || (held.credit > 0 && !self.account.is_demoted()) {
            return true;
        }
        if held.credit < 0 {
            // What the last calls took beyond their portion is owed.
            self.account.settle(std::mem::take(&mut held.credit));
        }
        let drawn = self.account.draw(now, &self.log);
        held.credit = held.credit.saturating_add(drawn.unwrap_or(0));
        drawn.is_some()
    }

    fn is_fresh(&self) -> bool {
        self.fresh || self.impure.load(Ordering::Relaxed)
    }

    fn ask(
        &self,
        seat: &Arc<Seat>,
        cost: &SeatCost,
        held: &mut Held,
        call: &Call<'_>,
        fuel: &mut u64,
    ) -> Result<u32, Failure> {
        if self.is_fresh() {
            let (mut store, guest) = self.instance(Some(cost), Faces::usual)?;
            return self.call(&mut store, &guest, call, Some(cost), fuel);
        }
        let mut warm = match held.warm.take() {
            Some(warm) => warm,
            None => self.warm_up(seat, cost)?,
        };
        // On failure the instance goes with this function's end.
        let mut index = self.call(&mut warm.store, &warm.guest, call, Some(cost), fuel)?;
        let bytes = warm.store.data().limiter.memory_bytes() + INSTANCE_OVERHEAD_BYTES;
        warm.lease.resize(bytes);
        let may_stay = warm.warmth.as_mut().is_some_and(|warmth| warmth.resize(bytes));
        held.until_check = held.until_check.saturating_sub(1);
        if held.until_check == 0 {
            held.until_check = draw_check(self.limits.purity_check_every.get());
            // A run of good calls closes the count of failures, here and not on each call.
            self.breaker.succeed(false);
            index = self.check_purity(call, index);
        }
        warm.calls_left = warm.calls_left.saturating_sub(1);
        if warm.calls_left > 0 && may_stay && !self.impure.load(Ordering::Relaxed) {
            held.warm = Some(warm);
        }
        Ok(index)
    }

    fn call(
        &self,
        store: &mut Store<State>,
        guest: &Guest,
        call: &Call<'_>,
        cost: Option<&SeatCost>,
        fuel: &mut u64,
    ) -> Result<u32, Failure> {
        guest::arm(store, self.allowance)?;
        let answer = guest.decide(store, call);
        *fuel = self.allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        if let Some(cost) = cost {
            cost.add_fuel(*fuel);
        }
        answer.map_err(|error| guest::failure(&error, Some(store)))
    }

    /// Asks a fresh instance the same, through its other face if it has two. Its answer is the one that counts.
    fn check_purity(&self, call: &Call<'_>, index: u32) -> u32 {
        self.counts.purity_checks.add(1);
        self.engine.counters.purity_checks.add(1);
        let again = self
            .instance(None, Faces::second)
            .and_then(|(mut store, guest)| self.call(&mut store, &guest, call, None, &mut 0));
        match again {
            Ok(again) if again == index => index,
            // A fresh instance has more to do, and may find no place: that says nothing about purity.
            Err(Failure::Overrun(_) | Failure::Full(_)) => index,
            Ok(again) => {
                self.mark_impure(&format!("answer {index}, and {again} on a fresh instance"));
                again
            }
            Err(Failure::Trapped(text)) => {
                self.mark_impure(&format!("answer {index}, and on a fresh instance: {text}"));
                index
            }
        }
    }

    fn mark_impure(&self, how: &str) {
        if self.impure.swap(true, Ordering::Relaxed) {
            return;
        }
        self.engine.counters.impure.add(1);
        self.remember(format!("not a pure function: {how}"));
        let (policy, version) = (self.log.policy(), self.version.digest().short());
        match self.tier {
            Tier::Operator => {
                tracing::warn!(%policy, version, "policy is not a pure function: {how}; each call gets a fresh instance")
            }
            Tier::Tenant { .. } => {
                tracing::info!(%policy, version, "policy is not a pure function: {how}; each call gets a fresh instance")
            }
        }
    }

    /// A new instance, started. What starting takes is on the seat's account.
    fn instance(
        &self,
        cost: Option<&SeatCost>,
        face: fn(&Faces) -> Face,
    ) -> Result<(Store<State>, Guest), Failure> {
        match self.try_instance(cost, face) {
            Err(Failure::Full(_)) if self.engine.warm_tenant.make_room() || self.ledger.make_room() => {
                self.try_instance(cost, face)
            }
            other => other,
        }
    }

    fn try_instance(
        &self,
        cost: Option<&SeatCost>,
        face: fn(&Faces) -> Face,
    ) -> Result<(Store<State>, Guest), Failure> {
        let Some(faces) = self.version.decider() else {
            return Err(Failure::Trapped("the component exports no decider".to_owned()));
        };
        let engine = &*self.engine;
        let memory = self.account.instance_bytes_max(self.limits.decide_memory_bytes_max);
        let mut store = guest::store(&engine.machine, &self.limits, memory, &self.log, &engine.counters);
        guest::arm(&mut store, self.start_allowance)?;
        let loaded = self
            .version
            .pre()
            .instantiate(&mut store)
            .and_then(|instance| faces.load(face(faces), &mut store, &instance))
            .and_then(|guest| {
                let started = guest.start(&mut store, &self.config, &self.memo)?;
                Ok((guest, started))
            });
        if let Some(cost) = cost {
            let used = self.start_allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
            cost.add_fuel(used);
        }
        match loaded {
            Ok((guest, Ok(()))) => Ok((store, guest)),
            Ok((_, Err(text))) => Err(Failure::Trapped(format!("it said no: {}", printable(&text, 512)))),
            Err(error) => Err(guest::failure(&error, Some(&store))),
        }
    }

    fn warm_up(&self, seat: &Arc<Seat>, cost: &SeatCost) -> Result<Box<Warm>, Failure> {
        let (store, guest) = self.instance(Some(cost), Faces::usual)?;
        let calls = match self.tier {
            Tier::Operator => self.limits.recycle_operator_calls,
            Tier::Tenant { .. } => self.limits.recycle_tenant_calls,
        };
        let bytes = store.data().limiter.memory_bytes() + INSTANCE_OVERHEAD_BYTES;
        let seated: Arc<dyn Seated> = Arc::<Seat>::clone(seat);
        let lease = self.ledger.enter(&seated, bytes);
        // A tenant that keeps all that it may keep gets an instance for this call alone.
        let warmth = self.account.warm(bytes);
        Ok(Box::new(Warm { calls_left: draw(calls).max(1), guest, lease, store, warmth }))
    }

    fn busy(&self) -> Undecided {
        self.counts.busy.add(1);
        self.engine.counters.busy.add(1);
        Undecided::Busy
    }

    fn out_of_range(&self, index: u32, call: &Call<'_>, probe: bool) -> Undecided {
        self.counts.out_of_range.add(1);
        self.engine.counters.out_of_range.add(1);
        let (rule, among) = (call.rule.0, call.among);
        self.fail(probe, &format!("`decide` answered {index} to rule {rule}, which has {among} answers"));
        Undecided::OutOfRange
    }

    fn failed(&self, failure: &Failure, probe: bool) -> Undecided {
        let counters = &self.engine.counters;
        match failure {
            Failure::Full(_) => {
                self.breaker.abandon(probe);
                return self.busy();
            }
            Failure::Overrun(_) => {
                self.counts.overruns.add(1);
                counters.overruns.add(1);
            }
            Failure::Trapped(_) => {
                self.counts.traps.add(1);
                counters.traps.add(1);
            }
        }
        self.fail(probe, failure.text());
        match failure {
            Failure::Overrun(_) => Undecided::Overrun,
            _ => Undecided::Trapped,
        }
    }

    fn fail(&self, probe: bool, how: &str) {
        self.remember(how.to_owned());
        if self.breaker.fail(probe, &self.limits.breaker, clock::now()) {
            let policy = self.log.policy();
            tracing::info!(%policy, "policy's breaker opens; its rules' first possible answers serve: {how}");
        }
    }

    fn remember(&self, how: String) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decider")
            .field("policy", self.log.policy())
            .field("version", &self.version.digest())
            .field("tier", &self.tier)
            .finish_non_exhaustive()
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        self.account.close(&self.costs);
        for seat in &self.seats {
            self.ledger.leave(&seat.place);
        }
    }
}

impl Seated for Seat {
    fn place(&self) -> &Place {
        &self.place
    }

    fn vacate(&self) -> Vacated {
        let mut held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Vacated::InUse,
        };
        match held.warm.take() {
            Some(warm) => Vacated::Instance(warm),
            None => Vacated::Empty,
        }
    }
}
