//! The pen that a policy writes its plan with. Every call is checked; a refused call changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::condition::clip;
use super::edits::{self, header_edit, path_rewrite};
use super::{
    Action, Answer, AnswerId, Condition, Consistency, Exchange, Limits, Plan, RetryClass, Rule, RuleId,
    Share, Then, redirect,
};
use crate::attribute::Attribute;
use crate::bounds::{Bounds, FieldPattern};
use crate::facts::{Fact, Facts, Reads};
use crate::ids::{PoolName, RegionName, check_name};

/// Why a call, or the whole plan, was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct Refusal {
    /// A number of [`code`]; an open set.
    pub code: u32,
    /// What is wrong and what would be right, for the policy's writer.
    pub message: String,
}

/// The numbers that a [`Refusal`] carries. Numbers are never reused.
pub mod code {
    /// A limit of the plan was passed.
    pub const LIMIT: u32 = 1;
    /// A region, pool, answer or rule does not exist.
    pub const UNKNOWN: u32 = 2;
    /// An attribute, test or key that this host does not know.
    pub const UNSUPPORTED: u32 = 3;
    /// A value that does not fit its key or test.
    pub const VALUE: u32 = 4;
    /// A rule without anything to answer, or a redirect that leads to itself.
    pub const SENSELESS: u32 = 5;
    /// Something that the operator does not let this tenant's policy do.
    pub const FORBIDDEN: u32 = 6;
}

/// The longest time that a rule may give an exchange: an hour, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// The largest content of a direct answer, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A condition as a policy writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionText {
    /// An attribute's name.
    pub attribute: String,
    /// A test's name.
    pub test: String,
    /// What the test compares with.
    pub value: String,
}

/// A plan being written.
#[derive(Debug)]
pub struct Draft {
    /// A tenant's; the operator's draft has none.
    bounds: Option<Arc<Bounds>>,
    facts: Arc<Facts>,
    limits: Limits,
    reads: Reads,
    plan: Plan,
    /// The one answer that [`Draft::leave`] gives.
    next: Option<AnswerId>,
    calls: u32,
    text_bytes: u64,
}

pub(super) fn refuse<T>(code: u32, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

impl Draft {
    /// A blank one, checked against these facts. The draft notes what it and the policy read of them.
    #[must_use]
    pub fn new(facts: Arc<Facts>, limits: Limits) -> Self {
        let (reads, plan) = Default::default();
        Self { bounds: None, facts, limits, reads, plan, next: None, calls: 0, text_bytes: 0 }
    }

    /// The same for a tenant's policy, which keeps to these bounds. `facts` are what it may see.
    #[must_use]
    pub fn of_tenant(facts: Arc<Facts>, limits: Limits, bounds: Arc<Bounds>) -> Self {
        Self { bounds: Some(bounds), ..Self::new(facts, limits) }
    }

    /// Answers a policy's question and notes it.
    ///
    /// # Errors
    /// When the policy has made too many calls.
    pub fn read(&mut self, fact: Fact) -> Result<crate::facts::FactValue, Refusal> {
        self.count(0)?;
        Ok(self.reads.read(&self.facts, fact))
    }

    /// The time and the seed of the picture, which create no dependency.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// An answer that forwards.
    ///
    /// # Errors
    /// When the region or the pool does not exist, or there are too many answers.
    pub fn forward(&mut self, region: &str, pool: &str) -> Result<AnswerId, Refusal> {
        self.count(region.len() + pool.len())?;
        // What exists is a fact that this plan now depends on.
        self.reads.read(&self.facts, Fact::Pools(clip(region).to_owned()));
        let known = |_: &RegionName| self.facts.regions.get(region);
        let (Ok(region_name), Ok(pool_name)) = (RegionName::new(region), PoolName::new(pool)) else {
            return refuse(
                code::UNKNOWN,
                format!("`{}/{}` names no region and pool", clip(region), clip(pool)),
            );
        };
        match known(&region_name) {
            None => {
                let all: Vec<&str> = self.facts.regions.keys().map(RegionName::as_str).collect();
                refuse(
                    code::UNKNOWN,
                    format!("region `{region}` does not exist; there are {}", all.join(", ")),
                )
            }
            Some(facts) if !facts.pools.contains(&pool_name) => {
                let all: Vec<&str> = facts.pools.iter().map(PoolName::as_str).collect();
                refuse(
                    code::UNKNOWN,
                    format!("region `{region}` has no pool `{pool}`; it has {}", all.join(", ")),
                )
            }
            Some(_) => self.answer(Action::Forward { region: region_name, pool: pool_name }),
        }
    }

    /// An answer that answers at once.
    ///
    /// # Errors
    /// For statuses outside 200 to 599, contents over 64 KiB or with a status that allows none, and bad content types.
    pub fn respond(&mut self, status: u16, content_type: &str, body: &str) -> Result<AnswerId, Refusal> {
        self.count(content_type.len() + body.len())?;
        if !(200..=599).contains(&status) {
            return refuse(code::VALUE, format!("status {status} cannot be answered; use 200 to 599"));
        }
        if matches!(status, 204 | 205 | 304) && !body.is_empty() {
            return refuse(code::VALUE, format!("status {status} has no content (RFC 9110, section 15)"));
        }
        if body.len() > BODY_BYTES_MAX {
            return refuse(
                code::LIMIT,
                format!("a body has at most {BODY_BYTES_MAX} bytes, this one {}", body.len()),
            );
        }
        edits::check_value(content_type)?;
        self.answer(Action::Respond { status, content_type: content_type.into(), body: body.into() })
    }

    /// An answer that redirects.
    ///
    /// # Errors
    /// For other statuses than 301, 302, 303, 307 and 308, and for locations that are no URI reference.
    pub fn redirect(&mut self, status: u16, location: &str) -> Result<AnswerId, Refusal> {
        self.count(location.len())?;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return refuse(
                code::VALUE,
                format!("status {status} is no redirect; use 301, 302, 303, 307 or 308"),
            );
        }
        redirect::check(location)?;
        self.answer(Action::Redirect { status, location: location.into() })
    }

    /// The answer that leaves the request to the next slot. Always the same one.
    ///
    /// # Errors
    /// When there are too many answers or calls.
    pub fn leave(&mut self) -> Result<AnswerId, Refusal> {
        self.count(0)?;
        if let Some(next) = self.next {
            return Ok(next);
        }
        let next = self.answer(Action::Next)?;
        self.next = Some(next);
        Ok(next)
    }

    /// Sets a property of an answer: `header.set:NAME`, `header.add:NAME`, `header.remove:NAME` (request),
    /// `response.header.set:NAME`, `.add:`, `.remove:` (response), `path.rewrite` (`FROM=>TO`).
    ///
    /// # Errors
    /// For unknown answers and keys and for values that do not fit.
    pub fn set_answer(&mut self, answer: u32, key: &str, value: &str) -> Result<(), Refusal> {
        self.count(key.len() + value.len())?;
        let edits_max = self.limits.edits_max as usize;
        let Some(answer) = self.plan.answers.get_mut(answer as usize) else {
            return refuse(code::UNKNOWN, format!("answer {answer} does not exist in this plan"));
        };
        if answer.action == Action::Next {
            return refuse(
                code::SENSELESS,
                "the answer `next` leaves everything to the next slot: it has no properties",
            );
        }
        if key == "path.rewrite" {
            answer.rewrite = Some(path_rewrite(value)?);
            return Ok(());
        }
        if answer.edits.len() >= edits_max {
            return refuse(code::LIMIT, format!("an answer has at most {edits_max} header edits"));
        }
        let edit = header_edit(key, value)?;
        if let Some(bounds) = self.bounds.as_ref().filter(|bounds| !bounds.allows_header(&edit.name)) {
            return refuse(code::FORBIDDEN, headers_allowed(bounds, &edit.name));
        }
        answer.edits.push(edit);
        Ok(())
    }

    /// Sets a property of a rule: `name`, `timeout-ms`, `retry`, `consistency`, `sticky` (an attribute); of the operator's
    /// also `tenant.regions`, `tenant.pools` and `tenant.headers`.
    ///
    /// # Errors
    /// For unknown rules and keys and for values that do not fit.
    pub fn set_rule(&mut self, rule: u32, key: &str, value: &str) -> Result<(), Refusal> {
        self.count(key.len() + value.len())?;
        let of_tenant = self.bounds.is_some();
        let Some(rule) = self.plan.rules.get_mut(rule as usize) else {
            return refuse(code::UNKNOWN, format!("rule {rule} does not exist in this plan"));
        };
        let wrong =
            |right: &str| refuse(code::VALUE, format!("`{key}` needs {right}, not `{}`", clip(value)));
        match key {
            "consistency" => match Consistency::parse(value) {
                Some(class) => rule.exchange.consistency = class,
                None => return wrong("any, session or strong"),
            },
            "name" => match check_name(value) {
                Ok(()) => rule.name = Some(value.into()),
                Err(error) => return refuse(code::VALUE, error.to_string()),
            },
            "retry" => match RetryClass::parse(value) {
                Some(class) => rule.exchange.retry = class,
                None => return wrong("never, connect or idempotent"),
            },
            "sticky" => match Attribute::parse(value) {
                Ok(attribute) => rule.exchange.sticky = Some(attribute),
                Err(error) => return refuse(code::UNSUPPORTED, error.to_string()),
            },
            "timeout-ms" => match value.parse() {
                Ok(millis @ 1..=TIMEOUT_MS_MAX) => {
                    rule.exchange.timeout = Some(Duration::from_millis(millis))
                }
                _ => return wrong("a number from 1 to 3600000"),
            },
            "tenant.headers" | "tenant.pools" | "tenant.regions" if !of_tenant => {
                let bounds = rule.bounds.get_or_insert_default();
                set_bound(bounds, key, value).map_err(|message| Refusal { code: code::VALUE, message })?;
            }
            _ => {
                let message = format!(
                    "rules have no property `{}`; they have consistency, name, retry, sticky and timeout-ms",
                    clip(key)
                );
                return refuse(code::UNSUPPORTED, message);
            }
        }
        Ok(())
    }

    /// A static rule.
    ///
    /// # Errors
    /// For bad conditions, unknown answers, and rules with nothing to answer.
    pub fn split(
        &mut self,
        when: &[ConditionText],
        to: &[(u32, u32)],
        fallback: &[u32],
    ) -> Result<RuleId, Refusal> {
        self.count(condition_bytes(when))?;
        self.shares(to.len() + fallback.len())?;
        if !to.iter().any(|&(_, weight)| weight > 0) {
            return refuse(code::SENSELESS, "a split needs at least one share with a weight above zero");
        }
        let share = |&(answer, weight): &(u32, u32)| Ok(Share { answer: self.known(answer)?, weight });
        let to = to.iter().map(share).collect::<Result<Vec<_>, Refusal>>()?;
        let fallback = fallback.iter().map(|&answer| self.known(answer)).collect::<Result<Vec<_>, _>>()?;
        self.rule(when, Then::Split { to, fallback })
    }

    /// A dynamic rule.
    ///
    /// # Errors
    /// For bad conditions, unknown attributes and answers, and rules with nothing to answer.
    pub fn dynamic(
        &mut self,
        when: &[ConditionText],
        needs: &[String],
        among: &[u32],
    ) -> Result<RuleId, Refusal> {
        self.count(condition_bytes(when) + needs.iter().map(String::len).sum::<usize>())?;
        self.shares(among.len())?;
        if among.is_empty() {
            return refuse(code::SENSELESS, "a dynamic rule needs at least one answer to choose from");
        }
        if needs.len() > self.limits.needs_max as usize {
            return refuse(
                code::LIMIT,
                format!("a rule declares at most {} attributes", self.limits.needs_max),
            );
        }
        let attribute = |text: &String| {
            Attribute::parse(text)
                .map_err(|error| Refusal { code: code::UNSUPPORTED, message: error.to_string() })
        };
        let needs = needs.iter().map(attribute).collect::<Result<Vec<_>, _>>()?;
        let among = among.iter().map(|&answer| self.known(answer)).collect::<Result<Vec<_>, _>>()?;
        self.rule(when, Then::Dynamic { needs, among })
    }

    /// The bytes that `start` gets. A second call replaces the first.
    ///
    /// # Errors
    /// When there are too many.
    pub fn memo(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.count(0)?;
        if bytes.len() > self.limits.memo_bytes_max as usize {
            let max = self.limits.memo_bytes_max;
            return refuse(code::LIMIT, format!("a memo has at most {max} bytes, this one {}", bytes.len()));
        }
        self.plan.memo = bytes.to_vec();
        Ok(())
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// For a plan without rules, for redirects that their own rule would catch again, and for an answer of a tenant's policy
    /// outside of its bounds.
    pub fn finish(self) -> Result<(Plan, Reads), Refusal> {
        if self.plan.rules.is_empty() {
            let fix =
                "add at least one rule; `split([], [(next, 1)], [])` leaves everything to the next slot";
            return refuse(code::SENSELESS, format!("a plan without rules answers nothing: {fix}"));
        }
        redirect::check_loops(&self.plan)?;
        if let Some(bounds) = &self.bounds {
            for (number, answer) in self.plan.answers.iter().enumerate() {
                bounds.check(answer).or_else(|breach| {
                    let message = format!(
                        "answer {number} ({}) is outside of what the operator allows this tenant: {breach}",
                        name_of(answer)
                    );
                    refuse(code::FORBIDDEN, message)
                })?;
            }
        }
        Ok((self.plan, self.reads))
    }

    fn count(&mut self, text_bytes: usize) -> Result<(), Refusal> {
        let text_bytes = self.text_bytes.saturating_add(text_bytes as u64);
        if self.calls >= self.limits.calls_max {
            return refuse(
                code::LIMIT,
                format!("a plan is written in at most {} calls", self.limits.calls_max),
            );
        }
        self.calls += 1;
        if text_bytes > u64::from(self.limits.text_bytes_max) {
            return refuse(
                code::LIMIT,
                format!("a plan's texts have at most {} bytes", self.limits.text_bytes_max),
            );
        }
        self.text_bytes = text_bytes;
        Ok(())
    }

    fn answer(&mut self, action: Action) -> Result<AnswerId, Refusal> {
        if self.plan.answers.len() >= self.limits.answers_max as usize {
            return refuse(code::LIMIT, format!("a plan has at most {} answers", self.limits.answers_max));
        }
        let id = AnswerId(u32::try_from(self.plan.answers.len()).unwrap_or(u32::MAX));
        self.plan.answers.push(Answer { action, edits: Vec::new(), rewrite: None });
        Ok(id)
    }

    fn known(&self, answer: u32) -> Result<AnswerId, Refusal> {
        if (answer as usize) < self.plan.answers.len() {
            return Ok(AnswerId(answer));
        }
        refuse(code::UNKNOWN, format!("answer {answer} does not exist in this plan"))
    }

    fn shares(&self, count: usize) -> Result<(), Refusal> {
        if count <= self.limits.shares_max as usize {
            return Ok(());
        }
        refuse(
            code::LIMIT,
            format!("a rule has at most {} answers, this one {count}", self.limits.shares_max),
        )
    }

    fn rule(&mut self, when: &[ConditionText], then: Then) -> Result<RuleId, Refusal> {
        if self.plan.rules.len() >= self.limits.rules_max as usize {
            return refuse(code::LIMIT, format!("a plan has at most {} rules", self.limits.rules_max));
        }
        if when.len() > self.limits.conditions_max as usize {
            return refuse(
                code::LIMIT,
                format!("a rule has at most {} conditions", self.limits.conditions_max),
            );
        }
        let when = when.iter().map(Condition::parse).collect::<Result<Vec<_>, _>>()?;
        let id = RuleId(u32::try_from(self.plan.rules.len()).unwrap_or(u32::MAX));
        self.plan.rules.push(Rule { name: None, when, then, exchange: Exchange::default(), bounds: None });
        Ok(id)
    }
}

/// An answer in words.
fn name_of(answer: &Answer) -> String {
    match &answer.action {
        Action::Forward { region, pool } => format!("forward to {pool} in {region}"),
        Action::Next => "next".to_owned(),
        Action::Redirect { status, .. } => format!("redirect {status}"),
        Action::Respond { status, .. } => format!("respond {status}"),
    }
}

fn headers_allowed(bounds: &Bounds, name: &str) -> String {
    let allowed = match &bounds.headers {
        None => "all but those that name tenants".to_owned(),
        Some(all) if all.is_empty() => "none".to_owned(),
        Some(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("the operator does not let this tenant edit the field `{name}`; it may edit {allowed}")
}

/// Reads one of the bounds that an operator's rule sets for the tenant's policy behind it: a name a line, none for nothing.
fn set_bound(bounds: &mut Bounds, key: &str, value: &str) -> Result<(), String> {
    let names = || value.lines().filter(|line| !line.is_empty());
    match key {
        "tenant.headers" => {
            let pattern = |text| {
                FieldPattern::parse(text).ok_or_else(|| {
                    format!(
                        "`{}` is neither a field's name nor the beginning of some, such as `x-shop-*`",
                        clip(text)
                    )
                })
            };
            bounds.headers = Some(names().map(pattern).collect::<Result<_, _>>()?);
        }
        "tenant.pools" => {
            let all = names().map(PoolName::new).collect::<Result<_, _>>();
            bounds.pools = Some(all.map_err(|error| error.to_string())?);
        }
        _ => {
            let all = names().map(RegionName::new).collect::<Result<_, _>>();
            bounds.regions = Some(all.map_err(|error| error.to_string())?);
        }
    }
    Ok(())
}

fn condition_bytes(when: &[ConditionText]) -> usize {
    when.iter().map(|text| text.attribute.len() + text.test.len() + text.value.len()).sum()
}
