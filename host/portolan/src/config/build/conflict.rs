//! What happens on a table in a conflict: rules as they are written become one.

use std::collections::BTreeMap;

use portolan_core::ids::PolicyName;
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Identifier, Rest};

use crate::config::raw::{RawColumnRule, RawConflict, RawConflictRule, RawResolver, RawRowRule};

/// One rule of those that are written, or what is wrong with them.
pub(super) fn rule(raw: RawConflict) -> Result<ConflictRule, String> {
    let written = match raw {
        RawConflict::Many(rules) => rules,
        RawConflict::One(rule) => vec![rule],
    };
    let (mut whole, mut columns, mut merged) = (None, BTreeMap::new(), None);
    let alone = written.len() == 1;
    for rule in written {
        match rule {
            RawConflictRule::Policy(raw) if alone => merged = Some(resolver(&raw)?),
            RawConflictRule::Policy(_) => {
                return Err(
                    "a policy makes one of two whole rows, so that no other rule stands beside it".to_owned()
                );
            }
            RawConflictRule::Whole(rule) => {
                if whole.replace(rule).is_some() {
                    return Err("two rules are for whole rows; one at most may be".to_owned());
                }
            }
            RawConflictRule::Columns(rule) => {
                if rule.columns.is_empty() {
                    return Err("a rule for columns names none".to_owned());
                }
                for name in rule.columns {
                    let column = Identifier::new(&name).map_err(|error| error.to_string())?;
                    if columns.insert(column, column_rule(rule.rule)).is_some() {
                        return Err(format!("two rules are for the column `{name}`"));
                    }
                }
            }
        }
    }
    if let Some(merged) = merged {
        return Ok(merged);
    }
    match (whole.unwrap_or(RawRowRule::Lww), columns.is_empty()) {
        (RawRowRule::ColumnLww, _) => Ok(ConflictRule::Columns { rules: columns, rest: Rest::Each }),
        (RawRowRule::Lww, true) => Ok(ConflictRule::LastWriterWins),
        (RawRowRule::Lww, false) => Ok(ConflictRule::Columns { rules: columns, rest: Rest::Together }),
        (RawRowRule::FirstWins, true) => Ok(ConflictRule::FirstWins),
        (RawRowRule::HomeWins, true) => Ok(ConflictRule::HomeWins),
        (RawRowRule::FirstWins | RawRowRule::HomeWins, false) => Err(
            "`first_wins` and `home_wins` choose one of two rows, so that no column can be merged beside them"
                .to_owned(),
        ),
    }
}

fn resolver(raw: &RawResolver) -> Result<ConflictRule, String> {
    let policy = PolicyName::new(&raw.policy).map_err(|error| error.to_string())?;
    let version = raw.version.as_deref().map(str::parse).transpose();
    let version = version.map_err(|error| format!("this is no version of a policy: {error}"))?;
    Ok(ConflictRule::Policy { policy, version })
}

const fn column_rule(raw: RawColumnRule) -> ColumnRule {
    match raw {
        RawColumnRule::Counter => ColumnRule::Counter,
        RawColumnRule::Max => ColumnRule::Max,
        RawColumnRule::Min => ColumnRule::Min,
        RawColumnRule::SetUnion => ColumnRule::SetUnion,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<ConflictRule, String> {
        rule(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn rules_become_one() {
        let columns = |names: &[(&str, ColumnRule)], rest| {
            let rules = names.iter().map(|(name, rule)| (Identifier::new(name).unwrap(), *rule)).collect();
            ConflictRule::Columns { rules, rest }
        };
        for (text, wanted) in [
            (r#""lww""#, ConflictRule::LastWriterWins),
            (r#""home_wins""#, ConflictRule::HomeWins),
            (r#"["first_wins"]"#, ConflictRule::FirstWins),
            (r#""column_lww""#, columns(&[], Rest::Each)),
            (
                r#"{"rule": "counter", "columns": ["stock"]}"#,
                columns(&[("stock", ColumnRule::Counter)], Rest::Together),
            ),
            (
                r#"["column_lww", {"rule": "set_union", "columns": ["tags"]}, {"rule": "max", "columns": ["seen"]}]"#,
                columns(&[("tags", ColumnRule::SetUnion), ("seen", ColumnRule::Max)], Rest::Each),
            ),
            (
                r#"{"policy": "join-notes"}"#,
                ConflictRule::Policy { policy: PolicyName::new("join-notes").unwrap(), version: None },
            ),
        ] {
            assert_eq!(of(text), Ok(wanted), "{text}");
        }
        for (text, why) in [
            (r#"["lww", "home_wins"]"#, "two rules are for whole rows"),
            (r#"{"rule": "min", "columns": []}"#, "names none"),
            (r#"["lww", {"policy": "join"}]"#, "no other rule stands beside"),
            (r#"{"policy": "join", "version": "nine"}"#, "no version of a policy"),
            (r#"[{"rule": "min", "columns": ["a"]}, {"rule": "max", "columns": ["a"]}]"#, "the column `a`"),
            (r#"["home_wins", {"rule": "min", "columns": ["a"]}]"#, "choose one of two rows"),
            (r#"{"rule": "counter", "columns": ["Stock"]}"#, "names no table or column"),
        ] {
            assert!(of(text).is_err_and(|error| error.contains(why)), "{text}");
        }
    }
}
