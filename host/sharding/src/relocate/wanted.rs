//! Moves that somebody wants: what a plan of rebalancing leaves for those who move tenants.
//!
//! The plan is one object of the control store, `rebalance/ID`. It says who is to go where and why, and the rules that are to hold
//! when all have gone. Nothing here moves anybody: each move is made by its own command, and a plan is done when the directory
//! says so.

use portolan_core::ids::{Digest, PolicyName};
pub use portolan_core::placement::Move;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of the object.
pub const KIND: &str = "rebalance";

/// A plan that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Milliseconds since 1970-01-01T00:00:00Z when it was made.
    pub made_at_ms: u64,
    /// Who goes where, by tenant.
    pub moves: Vec<Move>,
    /// The policy that made it.
    pub policy: PolicyName,
    /// The rules that hold when all have moved, as `[placement]` has them; none when they stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Value>,
    /// The version of the policy.
    pub version: Digest,
}

impl Wanted {
    /// Reads an object's body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(body: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        serde_json::from_value(Value::Object(body.clone()))
    }

    /// The object's body.
    #[must_use]
    pub fn body(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(body)) => body,
            // It has nothing that JSON lacks.
            Ok(_) | Err(_) => Map::new(),
        }
    }

    /// The command that makes one of the moves.
    #[must_use]
    pub fn command(one: &Move) -> String {
        format!("portolan shard move {} --to {}", one.tenant, one.to)
    }
}

#[cfg(test)]
mod tests {
    use portolan_core::ids::{ShardName, TenantName};

    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let one = Move {
            tenant: TenantName::new("acme").unwrap(),
            from: ShardName::new("s1").unwrap(),
            to: ShardName::new("s2").unwrap(),
            reason: "more room".to_owned(),
        };
        let wanted = Wanted {
            made_at_ms: 7,
            policy: PolicyName::new("jump-hash").unwrap(),
            moves: vec![one.clone()],
            rules: None,
            version: Digest([1; 32]),
        };
        assert_eq!(Wanted::read(&wanted.body()).unwrap(), wanted);
        assert_eq!(Wanted::command(&one), "portolan shard move acme --to s2");
        let mut strange = wanted.body();
        strange.insert("more".to_owned(), Value::Null);
        assert!(Wanted::read(&strange).is_err());
    }
}
