//! The meaning of a plan in the plainest code: what the compiled table must agree with.

use super::{Candidates, Table};
use crate::attribute::{Attribute, Attributes, Value};
use crate::plan::{AnswerId, Condition, Plan, RuleId, Test, Then};

/// The first rule all of whose conditions hold.
pub fn find(plan: &Plan, request: &impl Attributes) -> Option<RuleId> {
    let holds = |condition: &Condition| holds(condition, request);
    let position = plan.rules.iter().position(|rule| rule.when.iter().all(holds))?;
    Some(RuleId(u32::try_from(position).ok()?))
}

fn holds(condition: &Condition, request: &impl Attributes) -> bool {
    let value = request.value(&condition.attribute);
    let text = match value {
        Value::Absent => {
            return matches!(condition.test, Test::Absent | Test::Not(_)) || cidr(condition, request);
        }
        Value::Opaque => {
            return matches!(condition.test, Test::Present | Test::Not(_)) || cidr(condition, request);
        }
        Value::Text(text) => text.to_owned(),
    };
    let on_path = condition.attribute == Attribute::Path;
    match &condition.test {
        Test::Absent => false,
        Test::Present => true,
        Test::Is(wanted) => text == **wanted,
        Test::Not(unwanted) => text != **unwanted,
        Test::Any(lines) => lines.iter().any(|line| **line == *text),
        Test::Suffix(suffix) => text.ends_with(&**suffix),
        Test::Prefix(prefix) if on_path && !prefix.ends_with('/') => {
            text == **prefix || text.starts_with(&format!("{prefix}/"))
        }
        Test::Prefix(prefix) => text.starts_with(&**prefix),
        Test::Pattern(pattern) => {
            let pattern = pattern.to_string();
            let wanted: Vec<&str> = pattern.split('/').collect();
            let parts: Vec<&str> = text.split('/').collect();
            let open = wanted.last() == Some(&"**");
            let fixed = wanted.len() - usize::from(open);
            (if open { parts.len() >= fixed } else { parts.len() == fixed })
                && wanted
                    .iter()
                    .zip(&parts)
                    .take(fixed)
                    .all(|(wanted, part)| *wanted == "*" || wanted == part)
        }
        Test::Cidr(_) => cidr(condition, request),
    }
}

fn cidr(condition: &Condition, request: &impl Attributes) -> bool {
    match &condition.test {
        Test::Cidr(networks) => networks.iter().any(|network| network.contains(&request.client_ip())),
        _ => false,
    }
}

/// What must hold of any order of candidates, whatever was drawn: the rule's answers, each once, those of positive
/// weight first, then the other shares, then the fall-backs.
///
/// # Errors
/// What is wrong with the order.
pub fn check_order(table: &Table, rule: RuleId, order: &Candidates) -> Result<(), String> {
    let Some(rule) = table.rule(rule) else { return Err("no such rule".to_owned()) };
    let mut groups: Vec<Vec<AnswerId>> = match &rule.then {
        Then::Dynamic { among, .. } => among.iter().map(|&answer| vec![answer]).collect(),
        Then::Split { to, fallback } => {
            let positive = to.iter().filter(|share| share.weight > 0).map(|share| share.answer).collect();
            let others = to.iter().filter(|share| share.weight == 0).map(|share| vec![share.answer]);
            std::iter::once(positive)
                .chain(others)
                .chain(fallback.iter().map(|&answer| vec![answer]))
                .collect()
        }
    };
    let mut seen: Vec<AnswerId> = Vec::new();
    let mut rest = order.iter().copied();
    for group in &mut groups {
        group.retain(|answer| !seen.contains(answer));
        group.sort();
        group.dedup();
        let mut taken: Vec<AnswerId> = rest.by_ref().take(group.len()).collect();
        taken.sort();
        if taken != *group {
            return Err(format!("{order:?} has {taken:?} where {group:?} belongs"));
        }
        seen.extend(taken);
    }
    match rest.next() {
        None => Ok(()),
        Some(extra) => Err(format!("{order:?} has {extra:?} too much")),
    }
}
