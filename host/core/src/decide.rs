//! The seam between the data plane and the policy engine: one synchronous question for dynamic rules.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::attribute::{Attributes, Value};
use crate::plan::{AnswerId, RuleId, Then};
use crate::table::{Candidates, Table};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// The same, with the units of fuel that the guest took; 0 where nobody counts.
    fn decide_counted(&self, call: &Call<'_>) -> (Result<u32, Undecided>, u64) {
        (self.decide(call), 0)
    }

    /// Was it found to answer the same question in two ways?
    fn is_impure(&self) -> bool {
        false
    }
}

/// Who says which answer of a rule comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// The policy's `decide`, with the index of its answer.
    Index(u32),
    /// Nobody: a value that the rule declares is not text.
    NotText,
    /// The plan alone.
    Table,
    /// The plan alone, because the policy gave no usable answer.
    Undecided(Undecided),
}

/// What one policy said of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The rule that matched.
    pub rule: RuleId,
    /// Its answers, best first; none where nobody could be asked.
    pub order: Candidates,
    /// Who put them into this order.
    pub said: Said,
    /// Units of fuel that the guest took.
    pub fuel: u64,
}

/// Asks one policy: its table, and its decider where the rule is dynamic. None where no rule matches. The data plane asks
/// so, and so does everybody who decides again what it decided.
pub fn ask(
    table: &Table,
    decider: &dyn Decide,
    request: &impl Attributes,
    seed: u64,
    now_ms: u64,
) -> Option<Asked> {
    let id = table.find(request)?;
    let rule = table.rule(id)?;
    let (said, fuel) = match &rule.then {
        Then::Dynamic { needs, among } => {
            let mut values: SmallVec<[Option<&str>; 16]> = SmallVec::new();
            let mut is_text = true;
            for need in needs {
                let value = request.value(need);
                is_text &= value != Value::Opaque;
                values.push(value.text());
            }
            let among = u32::try_from(among.len()).unwrap_or(u32::MAX);
            let call = Call { rule: id, now_ms, seed, values: &values, among };
            match is_text.then(|| decider.decide_counted(&call)) {
                None => (Said::NotText, 0),
                Some((Ok(index), fuel)) => (Said::Index(index), fuel),
                Some((Err(why), fuel)) => (Said::Undecided(why), fuel),
            }
        }
        Then::Split { .. } => (Said::Table, 0),
    };
    Some(Asked { rule: id, order: order(table, id, request, seed, said), said, fuel })
}

/// The answers of a rule, best first, when it is known who put them into their order and how.
pub fn order(table: &Table, rule: RuleId, request: &impl Attributes, seed: u64, said: Said) -> Candidates {
    if said == Said::NotText {
        return Candidates::new();
    }
    let mut order = table.candidates(rule, request, seed);
    if let (Said::Index(index), Some(Then::Dynamic { among, .. })) =
        (said, table.rule(rule).map(|rule| &rule.then))
    {
        prefer(&mut order, among.get(index as usize).copied());
    }
    order
}

/// Puts the chosen answer first.
fn prefer(order: &mut Candidates, chosen: Option<AnswerId>) {
    if let Some(chosen) = chosen
        && let Some(place) = order.iter().position(|answer| *answer == chosen)
    {
        order.remove(place);
        order.insert(0, chosen);
    }
}
