//! What a policy implements, and the glue between it and the contract.

use serde::de::DeserializeOwned;

use crate::draft::{Draft, Refusal};
use crate::facts::Facts;
use crate::host;
use crate::values::Values;

/// A policy that plans.
pub trait Policy {
    /// Its configuration, read from the slot's JSON object.
    type Config: DeserializeOwned;

    /// Reads facts, writes the draft. Must be a pure function of its arguments.
    ///
    /// # Errors
    /// A refusal keeps the last good plan in force and is shown to the operator.
    fn plan(config: Self::Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal>;
}

/// A policy that also answers dynamic rules, on the request path.
pub trait Decider: Policy + Sized {
    /// Makes an instance of what `plan` left in the memo. Called once before the first `decide`.
    ///
    /// # Errors
    /// The text is shown to the operator, and the plan is refused.
    fn start(config: Self::Config, memo: &[u8]) -> Result<Self, String>;

    /// The place of the chosen answer in the rule's `among`. Must be a pure function: nothing that an instance remembers
    /// between calls may matter.
    fn decide(&self, call: &Call<'_>) -> u32;
}

/// One question to a decider. Its values lie where the gateway put them: nothing is copied to look at them.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The rule that matched.
    pub rule: u32,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// The request's random number.
    pub seed: u64,
    values: Values<'a>,
}

impl<'a> Call<'a> {
    /// The value of the need at this place; `None` where the request has none.
    #[must_use]
    pub fn value(&self, place: usize) -> Option<&'a str> {
        self.values.get(place)
    }

    /// The values of the rule's `needs`, in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Option<&'a str>> + use<'a> {
        let values = self.values;
        (0..values.len()).map(move |place| values.get(place))
    }
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error = 1,
    /// Something may soon not work.
    Warning = 2,
    /// Worth knowing.
    Info = 3,
    /// For the policy's developer.
    Debug = 4,
}

/// Writes a line to the policy's log, which the gateway bounds.
pub fn log(level: Level, text: &str) {
    host::log(level as u32, text);
}

/// What `export!` calls.
#[doc(hidden)]
pub mod glue {
    use std::cell::OnceCell;

    use super::{Call, Decider, Draft, Facts, Policy, Refusal, Values};

    /// Reads the configuration and plans.
    ///
    /// # Errors
    /// Those of the policy, and a configuration that does not read.
    pub fn plan<P: Policy>(config: &str) -> Result<(), Refusal> {
        let config = serde_json::from_str(config)
            .map_err(|error| Refusal::value(format!("the configuration does not fit: {error}")))?;
        P::plan(config, &Facts(()), &mut Draft(()))
    }

    /// Starts the decider of this instance.
    ///
    /// # Errors
    /// Those of the policy, and a configuration that does not read.
    pub fn start<P: Decider>(cell: &OnceCell<P>, config: &str, memo: &[u8]) -> Result<(), String> {
        let config = serde_json::from_str(config)
            .map_err(|error| format!("the configuration does not fit: {error}"))?;
        let decider = P::start(config, memo)?;
        cell.set(decider).map_err(|_| "`start` was called twice".to_owned())
    }

    /// Asks the decider of this instance; without `start` every answer is out of range.
    pub fn decide<P: Decider>(
        cell: &OnceCell<P>,
        rule: u32,
        now_ms: u64,
        seed: u64,
        values: Values<'_>,
    ) -> u32 {
        cell.get().map_or(u32::MAX, |decider| decider.decide(&Call { rule, now_ms, seed, values }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_shows_its_values() {
        let (given, mut room) = ([Some("/a"), None], Vec::new());
        let call = Call { rule: 0, now_ms: 0, seed: 0, values: Values::packed(&given, &mut room) };
        assert_eq!(call.values().collect::<Vec<_>>(), given);
        assert!(format!("{call:?}").contains(r#"[Some("/a"), None]"#));
    }
}
