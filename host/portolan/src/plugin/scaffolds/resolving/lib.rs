//! `{{name}}`: a policy of portolan that makes one row of two that were written apart.

use portolan_plugin::rows::{self, Row, Value};
use portolan_plugin::{Refusal, Resolver, export};

/// The policy.
#[derive(Debug)]
pub struct MyPolicy;

impl Resolver for MyPolicy {
    fn resolve(base: &[u8], left: &[u8], right: &[u8]) -> Result<Vec<u8>, Refusal> {
        rows::merge((base, left, right), |_, left, right| Ok(joined(left, &right)))
    }
}

/// Texts that differ are put below each other, and what only one of both has is kept; anything else stays as the later row has it.
fn joined(mut left: Row, right: &Row) -> Row {
    for (column, lost) in right {
        match (left.get_mut(column), lost) {
            (Some(Value::String(kept)), Value::String(lost)) if kept != lost => {
                *kept = format!("{kept}\n{lost}");
            }
            (Some(kept @ Value::Null), lost) => *kept = lost.clone(),
            _ => {}
        }
    }
    left
}

export!(MyPolicy, resolver);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_written_is_lost() {
        let left = br#"{"id": 1, "note": "later", "colour": null, "count": 2}"#;
        let right = br#"{"id": 1, "note": "earlier", "colour": "red", "count": 1}"#;
        let merged: Row = rows::Row::from_iter(
            [("colour", "red".into()), ("count", 2.into()), ("id", 1.into()), ("note", "later\nearlier".into())]
                .map(|(column, value): (&str, Value)| (column.to_owned(), value)),
        );
        let answer = MyPolicy::resolve(b"", left, right).unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), Value::Object(merged).to_string());
    }
}
