//! What the slots tell: what happened in one pass, and how each slot stands.

use std::time::Duration;

use portolan_core::decide::FailRule;
use portolan_core::ids::{Digest, PolicyName};
use portolan_core::lane::{Part, Side};
use portolan_core::snapshot::Policies;
use portolan_core::time::Moment;
use serde::Serialize;

use super::{Slot, State};
use crate::account::{BudgetReport, Cost};
use crate::decider::DeciderStats;
use crate::error::Refused;
use crate::log::{Fault, Line, PastRefusal};
use crate::signature::Signature;
use crate::version::About;

/// The result of one pass.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Does anything run that did not before, or no longer?
    pub changed: bool,
    /// What happened, in no particular order; a refusal that only repeats is left out.
    pub events: Vec<Event>,
    /// Calls of guests' `plan`.
    pub plan_calls: u64,
    /// What runs now, for the next snapshot.
    pub policies: Policies,
    /// When to come again even if nothing changes.
    pub retry_at: Option<Moment>,
}

impl Reconciled {
    pub(super) fn retry(&mut self, at: Moment) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Something that happened to a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A new plan took effect.
    Applied {
        /// In which seat.
        side: Side,
        /// Where.
        slot: Slot,
        /// The policy.
        policy: PolicyName,
        /// Its version.
        digest: Digest,
        /// Rules in its plan.
        rules: usize,
    },
    /// What is wanted was refused.
    Refused {
        /// In which seat.
        side: Side,
        /// Where.
        slot: Slot,
        /// Why, and what to do.
        refused: Refused,
        /// The version that goes on running; none when the slot was empty.
        kept: Option<Digest>,
    },
    /// Nobody wants the slot's policy any more.
    Removed {
        /// From which seat.
        side: Side,
        /// Where.
        slot: Slot,
    },
}

/// How a slot stands.
#[derive(Clone, Debug, Serialize)]
pub struct SlotReport {
    /// How a tenant stood with its budget when something was last reconciled.
    pub budget: Option<BudgetReport>,
    /// Does nobody pass, because nothing runs?
    pub closed: bool,
    /// What it had used then.
    pub cost: Cost,
    /// Is it passed by, by hand?
    pub disabled: bool,
    /// The policy that is rolled out in it, if one is.
    pub candidate: Option<Box<Self>>,
    /// Questions to the decider, if the plan has dynamic rules.
    pub decider: Option<DeciderStats>,
    /// The version that is wanted; none when its file cannot be read.
    pub desired: Option<Digest>,
    /// The last calls that ended badly, oldest first.
    pub faults: Vec<Fault>,
    /// The last refusals, oldest first.
    pub past_refusals: Vec<PastRefusal>,
    /// What becomes of requests when the policy fails.
    pub on_fail: FailRule,
    /// The last lines of its log, oldest first.
    pub log: Vec<Line>,
    /// Lines that it wrote too fast.
    pub log_dropped: u64,
    /// What a candidate does.
    pub part: Option<Part>,
    /// Calls of `plan` since the slot came to be.
    pub plan_calls: u64,
    /// The policy's name.
    pub policy: PolicyName,
    /// Why what is wanted does not run; none when it does.
    pub refused: Option<Refused>,
    /// How often it was refused in a row.
    pub refusals: u32,
    /// Milliseconds until the next try; none when only a change helps.
    pub retry_in_ms: Option<u64>,
    /// What runs.
    pub running: Option<Running>,
    /// Which slot.
    pub slot: Slot,
}

/// What runs in a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Running {
    /// Answers in its plan.
    pub answers: usize,
    /// Facts that the plan depends on.
    pub facts_read: usize,
    /// Do they still hold? Otherwise a new plan is due.
    pub fresh: bool,
    /// Units of fuel that planning took.
    pub fuel_used: u64,
    /// When it was planned, in milliseconds since 1970-01-01T00:00:00Z.
    pub planned_at_ms: u64,
    /// The policy that runs; another than wanted after a refusal.
    pub policy: PolicyName,
    /// Rules in its plan.
    pub rules: usize,
    /// How it stands with its signature; nothing when nobody looked.
    pub signature: Option<Signature>,
    /// Its version.
    pub version: About,
}

pub(super) fn of(slot: &Slot, state: &State, candidate: Option<SlotReport>, now: Moment) -> SlotReport {
    let running = state.running.as_ref().map(|active| {
        let plan = active.policy.table.plan();
        Running {
            answers: plan.answers.len(),
            facts_read: active.reads.len(),
            fresh: !state.stale,
            fuel_used: active.fuel_used,
            planned_at_ms: active.planned_at_ms,
            policy: active.wanted.policy.clone(),
            rules: plan.rules.len(),
            signature: active.signature.clone(),
            version: active.version.about().clone(),
        }
    });
    let trouble = state.trouble.as_ref();
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    SlotReport {
        budget: state.account.report(),
        closed: state.is_closed(),
        cost: state.account.cost(),
        disabled: state.disabled,
        candidate: candidate.map(Box::new),
        decider: state
            .running
            .as_ref()
            .and_then(|active| active.decider.as_ref())
            .map(|decider| decider.stats()),
        desired: state.wanted.digest,
        faults: state.log.faults(),
        past_refusals: state.log.refusals(),
        on_fail: state.wanted.terms.on_fail,
        log: state.log.lines(),
        log_dropped: state.log.dropped(),
        part: state.part.as_ref().map(|(part, _)| *part),
        plan_calls: state.plan_calls,
        policy: state.wanted.policy.clone(),
        refused: trouble.map(|trouble| trouble.refused.clone()),
        refusals: trouble.map_or(0, |trouble| trouble.attempts),
        retry_in_ms: trouble.and_then(|trouble| trouble.retry_at).map(|at| millis(at.since(now))),
        running,
        slot: slot.clone(),
    }
}
