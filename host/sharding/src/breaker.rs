//! The breaker of one shard: a database that is silent or gone is asked no more for a while, so that requests to it end at once
//! and hold neither turns nor memory. What a tenant's own statement does to itself says nothing of the database.

use portolan_core::breaker::{Admission, Breaker};
use portolan_core::time::Moment;
use portolan_core::topology::BreakerLimits;
use portolan_foundation::clock;

use crate::data::Code;

/// An attempt at a shard's database. One that is dropped has told nothing.
#[derive(Debug)]
pub(crate) struct Attempt<'b> {
    breaker: &'b Breaker,
    limits: BreakerLimits,
    probe: bool,
}

impl<'b> Attempt<'b> {
    /// Asks for leave.
    pub(crate) fn begin(breaker: &'b Breaker, limits: BreakerLimits, now: Moment) -> Option<Self> {
        match breaker.admit(now) {
            Admission::Closed => Some(Self { breaker, limits, probe: false }),
            Admission::Probe => Some(Self { breaker, limits, probe: true }),
            Admission::Refused => None,
        }
    }

    /// How it went, by the code of the problem that it had. Returns whether this opened the breaker.
    pub(crate) fn end(mut self, problem: Option<Code>) -> bool {
        let probe = std::mem::take(&mut self.probe);
        match problem {
            Some(Code::OutcomeUnknown | Code::Unavailable) => {
                self.breaker.fail(probe, &self.limits, clock::now())
            }
            // It was too much for its time, or others' rows were in the way: the database may be well or not.
            Some(Code::Busy | Code::Overloaded | Code::TenantBusy) => {
                self.breaker.abandon(probe);
                false
            }
            _ => {
                self.breaker.succeed(probe);
                false
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.breaker.abandon(self.probe);
    }
}
