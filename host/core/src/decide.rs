//! The seam between the data plane and the policy engine: one synchronous question for dynamic rules.

use std::fmt::Debug;

use serde::Serialize;

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
    /// The tenant has used up its budget of guest work, and is demoted to its table until it has some again.
    #[error("the tenant's budget of guest work is used up: its table answers alone")]
    Demoted,
    /// Nothing runs in the slot: what is wanted there was refused.
    #[error("the slot's policy was refused, and none ran before it")]
    Empty,
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

/// What becomes of requests when a slot's policy fails. Which failures fall under it:
///
/// | failure | `previous` | `closed` | `bypass` |
/// |---|---|---|---|
/// | a new version is refused, an earlier one runs | the earlier one goes on | the earlier one goes on | the earlier one goes on |
/// | a version is refused, nothing runs | next slot | 503 | next slot |
/// | trap, overrun, answer out of range, open breaker | the rule's answers in their order | 503 | next slot |
/// | no time left on the thread, budget used up | the rule's answers in their order | 503 | the rule's answers in their order |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailRule {
    /// As if the slot had no policy.
    Bypass,
    /// Nobody passes.
    Closed,
    /// The last good version and table go on.
    #[default]
    Previous,
}

/// What follows a question without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The request is answered with an error.
    Close,
    /// The request goes on to the next slot.
    Pass,
    /// The rule's answers are tried in their order.
    Table,
}

impl FailRule {
    /// What follows.
    #[must_use]
    pub const fn after(self, why: Undecided) -> Fallback {
        match (self, why) {
            (Self::Closed, _) => Fallback::Close,
            (Self::Previous | Self::Bypass, Undecided::Empty) => Fallback::Pass,
            // Who has used up its share has not failed: its table is as good as ever.
            (Self::Bypass, Undecided::Busy | Undecided::Demoted) | (Self::Previous, _) => Fallback::Table,
            (Self::Bypass, _) => Fallback::Pass,
        }
    }
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
