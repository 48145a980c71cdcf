//! The slots of a node and what runs in them: compares what is wanted with what runs, and changes only what differs.
//!
//! [`Slots::reconcile`] is called with everything that is wanted and known, as often as the caller likes. It
//! watches nothing and keeps no clock. A slot whose new policy is refused keeps the one that it has. While a rollout
//! lasts a slot has two seats, each with a policy of its own; what is refused on one changes nothing on the other.

mod preview;
mod report;
mod terms;
mod work;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use portolan_core::backoff::full_jitter;
use portolan_core::decide::FailRule;
use portolan_core::evidence::Trial;
use portolan_core::facts::{Facts, Reads};
use portolan_core::ids::{Digest, PolicyName, TenantName};
pub use portolan_core::lane::Slot;
use portolan_core::lane::{Candidate, Lane, Part, Side};
use portolan_core::snapshot::{Policies, Policy};
use portolan_core::time::Moment;
use portolan_foundation::random;

pub use self::preview::Previewed;
pub use self::report::{Event, Reconciled, Running, SlotReport};
use self::terms::Pictures;
pub use self::terms::Terms;
pub(crate) use self::work::Nobody;
use self::work::{Job, Made};
use crate::account::Account;
use crate::bucket::Bucket;
use crate::decider::{Decider, Tier};
use crate::defaults::{RETRY_MAX, RETRY_MIN, RETRY_ON_CHANGE};
use crate::engine::Engine;
use crate::error::{Refused, Stage};
use crate::log::Log;
use crate::signature::Signature;
use crate::source::Source;
use crate::version::Version;

/// What is wanted in a slot.
#[derive(Clone, Debug)]
pub struct SlotSpec {
    /// What is rolled out beside it.
    pub candidate: Option<CandidateSpec>,
    /// The policy's configuration, a JSON object.
    pub config: Arc<str>,
    /// May a tenant's large component answer dynamic rules?
    pub dynamic_granted: bool,
    /// What the operator calls the policy.
    pub policy: PolicyName,
    /// Where. Each slot comes once; of several, the first counts.
    pub slot: Slot,
    /// The component, or why there is none: the slot then keeps what it has, and says so.
    pub source: Result<Source, Refused>,
    /// What it may do and use, and what becomes of requests when it fails.
    pub terms: Terms,
}

/// What is rolled out in a slot: the same plugin in another version, or with another configuration.
#[derive(Clone, Debug)]
pub struct CandidateSpec {
    /// Its configuration, a JSON object.
    pub config: Arc<str>,
    /// What it does.
    pub part: Part,
    /// The component, or why there is none.
    pub source: Result<Source, Refused>,
    /// Where what it does is counted. Another trial is another step of the rollout.
    pub trial: Arc<Trial>,
}

/// The slots of a node.
#[derive(Debug)]
pub struct Slots {
    /// Slots that are no part of what runs although they could be, or that are although nothing runs in them.
    apart: HashSet<(Slot, Apart)>,
    engine: Engine,
    facts: Option<Arc<Facts>>,
    seats: HashMap<Seat, State>,
    tenants: Arc<HashMap<TenantName, Arc<Lane>>>,
}

/// One of the two places of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seat {
    side: Side,
    slot: Slot,
}

#[derive(Debug)]
struct State {
    account: Arc<Account>,
    disabled: bool,
    log: Arc<Log>,
    /// What a candidate does, and where it is counted.
    part: Option<(Part, Arc<Trial>)>,
    /// Why what is wanted does not run.
    trouble: Option<Trouble>,
    plan_calls: u64,
    replans: Bucket,
    running: Option<Active>,
    /// Do facts that the running plan read no longer hold?
    stale: bool,
    wanted: Wanted,
}

/// What makes one wish differ from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    config: Arc<str>,
    digest: Option<Digest>,
    policy: PolicyName,
    /// Without what needs no new plan.
    terms: Terms,
    tier: Tier,
}

#[derive(Debug)]
struct Active {
    decider: Option<Arc<Decider>>,
    fuel_used: u64,
    planned_at_ms: u64,
    policy: Arc<Policy>,
    reads: Reads,
    signature: Option<Signature>,
    version: Arc<Version>,
    wanted: Wanted,
}

#[derive(Debug)]
struct Trouble {
    attempts: u32,
    failed_at: Moment,
    refused: Refused,
    /// When to try again; never, unless something changes, when absent.
    retry_at: Option<Moment>,
    /// The wish that was refused.
    wanted: Wanted,
}

/// How a slot stands apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Apart {
    /// Nothing runs, and nobody may pass.
    Closed,
    /// It is passed by.
    Disabled,
}

/// What a slot needs.
enum Need {
    Nothing,
    /// Facts changed, but too often: later.
    Later(Moment),
    /// It would fail again: not before then.
    NotYet(Option<Moment>),
    Plan,
}

impl Slots {
    /// No slot yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let (apart, seats, tenants) = Default::default();
        Self { apart, engine, facts: None, seats, tenants }
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Brings what runs to what is wanted. Blocks while policies are compiled and planned. `now` is the present on the
    /// monotonic clock; call again at [`Reconciled::retry_at`], and whenever specs or facts may have changed.
    pub fn reconcile(&mut self, specs: &[SlotSpec], facts: &Arc<Facts>, now: Moment) -> Reconciled {
        let mut result = Reconciled::default();
        let facts_changed = self.facts.as_ref().is_none_or(|last| !same(last, facts));
        let mut seen = HashSet::new();
        let specs: Vec<&SlotSpec> = specs.iter().filter(|spec| seen.insert(&spec.slot)).collect();
        specs.iter().for_each(|spec| self.promote(spec, &mut result));
        self.forget(&specs, &mut result);
        let mut pictures = Pictures::new(facts);
        let mut jobs = Vec::new();
        let mut moved = false;
        for spec in specs {
            jobs.extend(self.look(spec, Side::Stable, (&mut pictures, facts_changed), now, &mut result));
            if let Some(candidate) = &spec.candidate {
                let seen = (&mut pictures, facts_changed);
                jobs.extend(self.look(spec, Side::Candidate, seen, now, &mut result));
                moved |= self.assign(&spec.slot, candidate);
            }
        }
        for made in work::carry_out(&self.engine, jobs) {
            self.take(made, now, &mut result);
        }
        self.facts = Some(Arc::clone(facts));
        let apart = self.slots_apart();
        result.changed = moved
            || apart != self.apart
            || !result.events.iter().all(|event| matches!(event, Event::Refused { .. }));
        self.apart = apart;
        self.publish(facts, &mut result);
        result
    }

    /// The picture of the last pass.
    #[must_use]
    pub const fn facts(&self) -> Option<&Arc<Facts>> {
        self.facts.as_ref()
    }

    /// What each slot wants and runs, by slot.
    #[must_use]
    pub fn reports(&self, now: Moment) -> Vec<SlotReport> {
        let on = |side| self.seats.iter().filter(move |(seat, _)| seat.side == side);
        let mut candidates: HashMap<&Slot, SlotReport> = on(Side::Candidate)
            .map(|(seat, state)| (&seat.slot, report::of(&seat.slot, state, None, now)))
            .collect();
        let mut reports: Vec<SlotReport> = on(Side::Stable)
            .map(|(seat, state)| report::of(&seat.slot, state, candidates.remove(&seat.slot), now))
            .collect();
        reports.sort_by(|one, other| one.slot.cmp(&other.slot));
        reports
    }

    /// A candidate that is wanted for all from now on takes the other seat as it is: nothing is loaded or planned again.
    fn promote(&mut self, spec: &SlotSpec, result: &mut Reconciled) {
        let wanted = Wanted::of(spec, Side::Stable);
        let seat = |side| Seat { side, slot: spec.slot.clone() };
        let runs = |state: &State| state.running.as_ref().is_some_and(|active| active.wanted == wanted);
        if self.seats.get(&seat(Side::Stable)).is_some_and(runs)
            || !self.seats.get(&seat(Side::Candidate)).is_some_and(runs)
        {
            return;
        }
        if let Some(mut state) = self.seats.remove(&seat(Side::Candidate)) {
            state.part = None;
            result.events.extend(state.running.as_ref().map(|active| active.applied(&seat(Side::Stable))));
            self.seats.insert(seat(Side::Stable), state);
        }
    }

    /// Drops seats that nobody wants any more.
    fn forget(&mut self, specs: &[&SlotSpec], result: &mut Reconciled) {
        let wanted: HashMap<&Slot, bool> =
            specs.iter().map(|spec| (&spec.slot, spec.candidate.is_some())).collect();
        let is_wanted = |seat: &Seat| match (wanted.get(&seat.slot), seat.side) {
            (Some(candidate), Side::Candidate) => *candidate,
            (there, _) => there.is_some(),
        };
        let gone: Vec<Seat> = self.seats.keys().filter(|seat| !is_wanted(seat)).cloned().collect();
        for seat in gone {
            if seat.side == Side::Stable {
                self.engine.close_log(&seat.slot);
            }
            if self.seats.remove(&seat).is_some_and(|state| state.running.is_some()) {
                result.events.push(Event::Removed { side: seat.side, slot: seat.slot });
            }
        }
    }

    /// Gives a candidate its part; `true` when it had another.
    fn assign(&mut self, slot: &Slot, candidate: &CandidateSpec) -> bool {
        let seat = Seat { side: Side::Candidate, slot: slot.clone() };
        let Some(state) = self.seats.get_mut(&seat) else { return false };
        let same = |(part, trial): &(Part, Arc<Trial>)| {
            *part == candidate.part && Arc::ptr_eq(trial, &candidate.trial)
        };
        let moved = !state.part.as_ref().is_some_and(same);
        state.part = Some((candidate.part, Arc::clone(&candidate.trial)));
        moved
    }

    /// Compares one seat, and says what is to be done.
    fn look(
        &mut self,
        spec: &SlotSpec,
        side: Side,
        (pictures, facts_changed): (&mut Pictures, bool),
        now: Moment,
        result: &mut Reconciled,
    ) -> Option<Job> {
        let limits = &self.engine.config().limits;
        let wanted = Wanted::of(spec, side);
        let seat = Seat { side, slot: spec.slot.clone() };
        let engine = &self.engine;
        // Both sides write into one log, which the slot's owner reads.
        let of_slot = Seat { side: Side::Stable, slot: spec.slot.clone() };
        let shared = self.seats.get(&of_slot).filter(|_| side == Side::Candidate);
        let shared = shared.map(|stable| Arc::clone(&stable.log));
        let state = self.seats.entry(seat.clone()).or_insert_with(|| State {
            account: engine.account(&spec.slot),
            disabled: false,
            part: None,
            log: shared.clone().unwrap_or_else(|| engine.open_log(&spec.slot, spec.policy.clone())),
            plan_calls: 0,
            replans: Bucket::slow(limits.replan_every, limits.replan_burst, Instant::now()),
            running: None,
            stale: false,
            trouble: None,
            wanted: wanted.clone(),
        });
        if let Some(shared) = shared {
            state.log = shared;
        } else if state.log.policy() != &spec.policy {
            state.log = engine.open_log(&spec.slot, spec.policy.clone());
        }
        state.wanted = wanted;
        state.account.set(spec.budget());
        state.disabled = spec.terms.disabled;
        let facts = pictures.of(&spec.slot, &spec.terms.scope);
        if state.disabled {
            state.look_at_facts(&facts, facts_changed);
            return None;
        }
        let source = match spec.source(side) {
            Ok(source) => source,
            Err(refused) => {
                state.refuse(refused.clone(), &seat, now, result);
                return None;
            }
        };
        // Another key may be trusted meanwhile; what runs is the same.
        let wanted = &state.wanted;
        if let Some(active) = state.running.as_mut().filter(|active| active.wanted == *wanted) {
            active.signature = source.signature().cloned();
        }
        match state.need(&facts, facts_changed, now) {
            Need::Plan => Some(Job {
                account: Arc::clone(&state.account),
                facts,
                log: Arc::clone(&state.log),
                seat,
                source: source.clone(),
                decider: state.decider_of_wanted(),
                version: state.version_of_wanted(),
                wanted: state.wanted.clone(),
            }),
            Need::Later(at) => {
                result.retry(at);
                None
            }
            Need::NotYet(at) => {
                at.into_iter().for_each(|at| result.retry(at));
                None
            }
            Need::Nothing => None,
        }
    }

    fn take(&mut self, made: Made, now: Moment, result: &mut Reconciled) {
        let Some(state) = self.seats.get_mut(&made.seat) else { return };
        state.plan_calls += made.plan_calls;
        result.plan_calls += made.plan_calls;
        match made.outcome {
            Ok(active) => {
                state.trouble = None;
                state.stale = false;
                if let Some(running) = state.running.as_mut().filter(|running| running.is_same_as(&active)) {
                    // Nothing is swapped for its equal: only what it depends on is noted anew.
                    running.reads = active.reads;
                    running.planned_at_ms = active.planned_at_ms;
                    return;
                }
                result.events.push(active.applied(&made.seat));
                state.running = Some(*active);
            }
            Err(refused) => state.refuse(refused, &made.seat, now, result),
        }
    }

    /// Puts what runs into the result; the map of tenants is only made anew when one of them changed.
    fn publish(&mut self, facts: &Arc<Facts>, result: &mut Reconciled) {
        if result.changed {
            let tenants = self.seats.keys().filter(|seat| seat.side == Side::Stable);
            let tenants = tenants.filter_map(|seat| match &seat.slot {
                Slot::Operator => None,
                slot @ Slot::Tenant(tenant) => Some((tenant.clone(), self.lane(slot, facts)?)),
            });
            self.tenants = Arc::new(tenants.collect());
        }
        let operator = self.lane(&Slot::Operator, facts);
        result.policies = Policies { operator, tenants: Arc::clone(&self.tenants) };
    }

    fn slots_apart(&self) -> HashSet<(Slot, Apart)> {
        let stable = self.seats.iter().filter(|(seat, _)| seat.side == Side::Stable);
        stable.filter_map(|(seat, state)| Some((seat.slot.clone(), state.apart()?))).collect()
    }

    /// What requests of a slot meet: nothing, where nothing runs and all may pass. None is on trial beside nothing.
    fn lane(&self, slot: &Slot, facts: &Arc<Facts>) -> Option<Arc<Lane>> {
        let state = |side| self.seats.get(&Seat { side, slot: slot.clone() });
        let there = state(Side::Stable)?;
        let stable = match &there.running {
            _ if there.disabled => return None,
            Some(active) => Arc::clone(&active.policy),
            None => return there.is_closed().then(|| work::closed(&there.wanted, facts)),
        };
        let candidate = state(Side::Candidate).and_then(|state| {
            // Only what is wanted is on trial, not what ran in its seat before.
            let active = state.running.as_ref().filter(|active| active.wanted == state.wanted)?;
            let (part, trial) = state.part.clone()?;
            Some(Candidate { policy: Arc::clone(&active.policy), part, trial })
        });
        Some(Arc::new(Lane { stable, candidate }))
    }
}

/// Time passes between all pictures: it is no change.
fn same(one: &Arc<Facts>, other: &Arc<Facts>) -> bool {
    Arc::ptr_eq(one, other) || {
        let Facts { local, latency_us, now_ms: _, regions, residencies, seed } = &**one;
        *local == other.local
            && *latency_us == other.latency_us
            && *regions == other.regions
            && *residencies == other.residencies
            && *seed == other.seed
    }
}

impl SlotSpec {
    fn source(&self, side: Side) -> &Result<Source, Refused> {
        match (side, &self.candidate) {
            (Side::Candidate, Some(candidate)) => &candidate.source,
            _ => &self.source,
        }
    }
}

impl Wanted {
    fn of(spec: &SlotSpec, side: Side) -> Self {
        let tier = match spec.slot {
            Slot::Operator => Tier::Operator,
            Slot::Tenant(_) => Tier::Tenant { granted: spec.dynamic_granted },
        };
        let config = match (side, &spec.candidate) {
            (Side::Candidate, Some(candidate)) => &candidate.config,
            _ => &spec.config,
        };
        Self {
            config: Arc::clone(config),
            digest: spec.source(side).as_ref().ok().map(Source::digest),
            policy: spec.policy.clone(),
            terms: Terms { budget: None, disabled: false, ..spec.terms.clone() },
            tier,
        }
    }
}

impl State {
    fn need(&mut self, facts: &Facts, facts_changed: bool, now: Moment) -> Need {
        let running = self.running.as_ref().filter(|active| active.wanted == self.wanted);
        if let Some(active) = running {
            if facts_changed {
                self.stale = !active.reads.hold(facts);
            }
            if !self.stale {
                // What is wanted runs, and knows what it must: an earlier trouble is over.
                self.trouble = None;
                return Need::Nothing;
            }
        }
        let is_running = running.is_some();
        if let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.wanted == self.wanted) {
            if facts_changed {
                trouble.hope(now);
            }
            return match trouble.retry_at {
                Some(at) if at <= now => match self.account.take_plan(Instant::now()) {
                    Ok(()) => Need::Plan,
                    Err(wait) => Need::Later(now.plus(wait)),
                },
                at => Need::NotYet(at),
            };
        }
        if let Err(wait) = self.account.take_plan(Instant::now()) {
            return Need::Later(now.plus(wait));
        }
        // A new wish is tried at once; facts that flap cause a bounded number of plans.
        if !is_running || self.replans.take_one(Instant::now()) {
            Need::Plan
        } else {
            Need::Later(now.plus(self.replans.wait()))
        }
    }

    /// Notes whether the plan still holds, for when it is asked again.
    fn look_at_facts(&mut self, facts: &Facts, facts_changed: bool) {
        if facts_changed && let Some(active) = &self.running {
            self.stale = !active.reads.hold(facts);
        }
    }

    fn apart(&self) -> Option<Apart> {
        match self.disabled {
            true => Some(Apart::Disabled),
            false => self.is_closed().then_some(Apart::Closed),
        }
    }

    fn is_closed(&self) -> bool {
        !self.disabled
            && self.running.is_none()
            && self.trouble.is_some()
            && self.wanted.terms.on_fail == FailRule::Closed
    }

    /// The version that runs, if it is also the one wanted.
    fn version_of_wanted(&self) -> Option<Arc<Version>> {
        let active = self.running.as_ref()?;
        (Some(active.version.digest()) == self.wanted.digest).then(|| Arc::clone(&active.version))
    }

    /// The decider that runs, if only facts have changed.
    fn decider_of_wanted(&self) -> Option<Arc<Decider>> {
        self.running.as_ref().filter(|active| active.wanted == self.wanted)?.decider.clone()
    }

    /// Notes a refusal; what runs goes on.
    fn refuse(&mut self, refused: Refused, seat: &Seat, now: Moment, result: &mut Reconciled) {
        let before = self.trouble.take().filter(|trouble| trouble.wanted == self.wanted);
        let attempts = before.as_ref().map_or(0, |trouble| trouble.attempts).saturating_add(1);
        let news = before.as_ref().is_none_or(|trouble| trouble.refused != refused);
        let retry_at = refused.transient.then(|| {
            let pause = full_jitter(attempts, RETRY_MIN, RETRY_MAX, random::u64());
            // Jitter spreads nodes; but never so early that a failing policy keeps a processor busy.
            now.plus(pause.max(RETRY_MIN))
        });
        retry_at.into_iter().for_each(|at| result.retry(at));
        if news {
            self.log.refusal(refused.clone());
            let kept = self.running.as_ref().map(|active| active.version.digest());
            let (side, slot) = (seat.side, seat.slot.clone());
            result.events.push(Event::Refused { side, slot, refused: refused.clone(), kept });
        }
        let wanted = self.wanted.clone();
        self.trouble = Some(Trouble { attempts, failed_at: now, refused, retry_at, wanted });
    }
}

impl Active {
    fn applied(&self, seat: &Seat) -> Event {
        Event::Applied {
            side: seat.side,
            slot: seat.slot.clone(),
            policy: self.wanted.policy.clone(),
            digest: self.version.digest(),
            rules: self.policy.table.plan().rules.len(),
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        self.wanted == other.wanted
            && self.decider.as_ref().map(Arc::as_ptr) == other.decider.as_ref().map(Arc::as_ptr)
            && self.policy.table.plan() == other.policy.table.plan()
    }
}

impl Trouble {
    /// Facts changed, so a plan that failed may succeed: try sooner than the pause says, but not often.
    fn hope(&mut self, now: Moment) {
        if matches!(self.refused.stage, Stage::Plan | Stage::Check | Stage::Start) {
            let soon = self.failed_at.plus(RETRY_ON_CHANGE).max(now);
            self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
        }
    }
}
