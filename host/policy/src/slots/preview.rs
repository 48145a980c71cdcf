//! A version as it would be in a slot that runs another one: for requests that ask for it. It is planned within the slot's
//! terms, at the slot's expense, and what runs there knows nothing of it.

use std::sync::Arc;
use std::time::Instant;

use portolan_core::facts::Facts;
use portolan_core::lane::Side;
use portolan_core::snapshot::Policy;

use super::terms::Pictures;
use super::work::{self, Job};
use super::{Active, Seat, SlotSpec, Wanted};
use crate::engine::Engine;
use crate::error::{Refused, Stage};
use crate::log::Log;

/// A version that no slot runs, planned.
#[derive(Clone, Debug)]
pub struct Previewed(Arc<Active>);

impl Previewed {
    /// The policy that it makes.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.0.policy
    }

    /// Would it be the same if it were planned now?
    #[must_use]
    pub fn holds(&self, spec: &SlotSpec, facts: &Arc<Facts>) -> bool {
        let seen = Pictures::new(facts).of(&spec.slot, &spec.terms.scope);
        self.0.wanted == Wanted::of(spec, Side::Stable) && self.0.reads.hold(&seen)
    }
}

impl Engine {
    /// Plans what `spec` has as the source of its slot, apart from what runs there. It is billed to the slot, and writes into
    /// the slot's log. Blocks for as long as compiling and planning take.
    ///
    /// # Errors
    /// [`Refused`] with the stage, the reason and the fix.
    pub fn preview(&self, spec: &SlotSpec, facts: &Arc<Facts>) -> Result<Previewed, Refused> {
        let source = spec.source.clone()?;
        let account = self.account(&spec.slot);
        account.set(spec.budget());
        account.take_plan(Instant::now()).map_err(|wait| {
            let reason = format!("the plans of {} are used up for now", spec.slot);
            Refused::passing(Stage::Quota, reason, format!("try again in {} s", wait.as_secs() + 1))
        })?;
        let rate = self.config().limits.log_lines_per_second;
        let job = Job {
            account,
            facts: Pictures::new(facts).of(&spec.slot, &spec.terms.scope),
            decider: None,
            log: self.log(&spec.slot).unwrap_or_else(|| Log::new(spec.policy.clone(), rate)),
            seat: Seat { side: Side::Stable, slot: spec.slot.clone() },
            source,
            version: None,
            wanted: Wanted::of(spec, Side::Stable),
        };
        let made = work::carry_out(self, vec![job]).pop().map(|made| made.outcome);
        match made {
            Some(outcome) => outcome.map(|active| Previewed(Arc::from(active))),
            None => Err(work::host_failed()),
        }
    }
}
