//! The seam between the data plane and the policy engine: one synchronous question for dynamic rules.

use std::fmt::Debug;

use crate::plan::RuleId;

/// One question to a policy's `decide`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The rule that matched.
    pub rule: RuleId,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// The request's random number.
    pub seed: u64,
    /// The values that the rule declared, in its order; `None` where the request has none.
    pub values: &'a [Option<&'a str>],
    /// How many answers the rule has: the index given back is below it.
    pub among: u32,
}

/// Why no answer came. The caller then takes the first eligible answer of the rule, and counts the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Undecided {
    /// The breaker is open after earlier traps.
    #[error("the policy's breaker is open")]
    Broken,
    /// Guests have used their share of this thread, or all instances are taken.
    #[error("the policy's share of this thread is used up")]
    Busy,
    /// The call ran past its fuel or deadline.
    #[error("the policy ran past its limit")]
    Overrun,
    /// The guest named an answer that the rule does not have.
    #[error("the policy answered with an index that the rule does not have")]
    OutOfRange,
    /// The guest trapped.
    #[error("the policy trapped")]
    Trapped,
}

/// A policy that can be asked on the request path. The policy engine implements it over warm instances, tests over a
/// script.
pub trait Decide: Debug + Send + Sync {
    /// The index of the chosen answer, below [`Call::among`].
    ///
    /// # Errors
    /// [`Undecided`] when the policy gave no usable answer.
    fn decide(&self, call: &Call<'_>) -> Result<u32, Undecided>;
}
