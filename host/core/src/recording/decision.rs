//! What a policy said of a picture, in words that outlive its plan, and what makes two such answers differ.

use serde::{Deserialize, Serialize};

use super::Picture;
use crate::attribute::{Attribute, Attributes};
use crate::balance::stable_hash;
use crate::decide::{Asked, Fallback, Said, Undecided, ask};
use crate::ids::{Digest, PolicyName, PoolName, RegionName};
use crate::lane::Slot;
use crate::plan::{Action, Answer, Consistency, EditKind, Exchange, Message, RetryClass};
use crate::snapshot::Policy;

/// Below so many units of fuel more, nothing is called slower: about ten microseconds.
const SLOWER_FUEL_MIN: u64 = 20_000;

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDecision {
    /// Where the policy ran.
    pub slot: Slot,
    /// Its name.
    pub policy: PolicyName,
    /// Its version.
    pub digest: Digest,
    /// The name of its binding (version, configuration, facts) where decisions are kept; empty elsewhere.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub binding: Box<str>,
    /// The rule that matched, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// The rule's name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<Box<str>>,
    /// Who put the answers into their order.
    pub said: Said,
    /// The answers, best first, up to the one that goes on to the next slot.
    pub answers: Vec<Spoken>,
    /// The hash of what the rule says of the exchange; 0 where it says nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exchange: u64,
    /// Units of fuel that the guest took.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fuel: u64,
    /// What the policy asked for and the picture does not hold: the answers are then worth nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Attribute>,
}

/// One answer in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// What it does.
    pub does: Does,
    /// The hash of edits, rewrites and contents; 0 where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mark: u64,
}

/// What an answer does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    /// Sends the request on.
    Forward {
        /// Where.
        region: RegionName,
        /// To which application there.
        pool: PoolName,
    },
    /// Leaves it to the next slot.
    Next,
    /// Redirects it.
    Redirect {
        /// The status.
        status: u16,
        /// The location's template.
        location: Box<str>,
    },
    /// Answers it.
    Respond {
        /// The status.
        status: u16,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl std::fmt::Display for Does {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Forward { region, pool } => write!(f, "forward to {pool} in {region}"),
            Self::Next => f.write_str("leave it to the next slot"),
            Self::Redirect { status, location } => write!(f, "redirect {status} to {location}"),
            Self::Respond { status } => write!(f, "respond {status}"),
        }
    }
}

impl SlotDecision {
    /// What a policy said, from what asking it gave; none where no rule matched.
    #[must_use]
    pub fn of(policy: &Policy, slot: Slot, asked: Option<&Asked>) -> Self {
        let table = &policy.table;
        let rule = asked.and_then(|asked| table.rule(asked.rule));
        let fallback = match asked.map(|asked| asked.said) {
            Some(Said::Undecided(why)) => policy.on_fail.after(why),
            _ => Fallback::Table,
        };
        let mut answers: Vec<Spoken> = Vec::new();
        let order = asked.filter(|_| fallback == Fallback::Table);
        for id in order.iter().flat_map(|asked| &asked.order) {
            let Some(answer) = table.answer(*id) else { continue };
            answers.push(Spoken::of(answer));
            if answer.action == Action::Next {
                break;
            }
        }
        if asked.is_none() || fallback == Fallback::Pass {
            answers.push(Spoken { does: Does::Next, mark: 0 });
        }
        Self {
            slot,
            policy: policy.name.clone(),
            digest: policy.digest,
            binding: Box::default(),
            rule: asked.map(|asked| asked.rule.0),
            rule_name: rule.and_then(|rule| rule.name.clone()),
            said: asked.map_or(Said::Table, |asked| asked.said),
            answers,
            exchange: rule.map_or(0, |rule| exchange_mark(&rule.exchange)),
            fuel: asked.map_or(0, |asked| asked.fuel),
            missing: Vec::new(),
        }
    }

    /// The rule's name, or its number; `-` where none matched.
    #[must_use]
    pub fn rule_text(&self) -> String {
        match (&self.rule_name, self.rule) {
            (Some(name), _) => name.to_string(),
            (None, Some(number)) => format!("#{number}"),
            (None, None) => "-".to_owned(),
        }
    }

    /// Does the first answer turn the request away?
    #[must_use]
    pub fn rejects(&self) -> bool {
        match self.answers.first() {
            Some(Spoken { does: Does::Respond { status }, .. }) => *status >= 400,
            Some(_) => false,
            // A value that is not text answers 400, and a slot that closes 503.
            None => true,
        }
    }

    /// The first answer in words.
    #[must_use]
    pub fn answer_text(&self) -> String {
        self.answers.first().map_or_else(|| "turn it away".to_owned(), |spoken| spoken.does.to_string())
    }

    fn is_same_code(&self, other: &Self) -> bool {
        self.digest == other.digest && self.binding == other.binding
    }
}

impl Spoken {
    fn of(answer: &Answer) -> Self {
        let does = match &answer.action {
            Action::Forward { region, pool } => Does::Forward { region: region.clone(), pool: pool.clone() },
            Action::Next => Does::Next,
            Action::Redirect { status, location } => {
                Does::Redirect { status: *status, location: location.clone() }
            }
            Action::Respond { status, .. } => Does::Respond { status: *status },
        };
        Self { does, mark: answer_mark(answer) }
    }
}

/// The hash of what the words do not say. The form that is hashed is kept in recordings, so it never changes.
fn answer_mark(answer: &Answer) -> u64 {
    let mut text = String::new();
    let mut add = |parts: &[&str]| {
        for part in parts {
            // Lengths keep one text from being taken for two others.
            text.push_str(&part.len().to_string());
            text.push(':');
            text.push_str(part);
        }
    };
    if let Action::Respond { content_type, body, .. } = &answer.action {
        add(&["content", content_type, body]);
    }
    for edit in &answer.edits {
        let message = match edit.message {
            Message::Request => "request",
            Message::Response => "response",
        };
        let kind = match edit.kind {
            EditKind::Add => "add",
            EditKind::Remove => "remove",
            EditKind::Set => "set",
        };
        add(&["edit", message, kind, &edit.name, &edit.value]);
    }
    if let Some(rewrite) = &answer.rewrite {
        add(&["rewrite", &rewrite.from, &rewrite.to]);
    }
    if text.is_empty() { 0 } else { stable_hash(text.as_bytes()) }
}

fn exchange_mark(exchange: &Exchange) -> u64 {
    let Exchange { consistency, retry, sticky, timeout } = exchange;
    if (*consistency, *retry) == (Consistency::default(), RetryClass::default())
        && sticky.is_none()
        && timeout.is_none()
    {
        return 0;
    }
    let sticky = sticky.as_ref().map(ToString::to_string).unwrap_or_default();
    let timeout = timeout.map_or(0, |timeout| timeout.as_millis());
    stable_hash(format!("{} {} {timeout} {sticky}", consistency.as_str(), retry.as_str()).as_bytes())
}

/// Asks a policy about a picture. What it asked for in vain is noted in the answer.
#[must_use]
pub fn evaluate(policy: &Policy, slot: Slot, picture: &Picture) -> SlotDecision {
    let view = picture.view();
    let asked = ask(&policy.table, &*policy.decider, &view, picture.seed, picture.at_ms);
    if let Some(rule) = asked.as_ref().and_then(|asked| policy.table.rule(asked.rule))
        && let Some(sticky) = &rule.exchange.sticky
    {
        // The live pipeline looks at it for the choice of endpoint as well.
        view.value(sticky);
    }
    let mut decision = SlotDecision::of(policy, slot, asked.as_ref());
    decision.missing = view.missing();
    decision
}

/// How one answer differs from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The request went on, and would be turned away.
    AllowToReject,
    /// The other policy fails where this one did not.
    Error,
    /// Nobody can know: the other asks for what the recording does not hold, or a limit of that moment played a part.
    NotComparable,
    /// Another target, another order of them, or another treatment on the way there.
    OtherTarget,
    /// The request was turned away, and would go on.
    RejectToAllow,
    /// No difference.
    Same,
    /// The same, for more than double the work.
    Slower,
}

impl Class {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Same,
        Self::OtherTarget,
        Self::AllowToReject,
        Self::RejectToAllow,
        Self::Error,
        Self::Slower,
        Self::NotComparable,
    ];

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowToReject => "allow-to-reject",
            Self::Error => "error",
            Self::NotComparable => "not-comparable",
            Self::OtherTarget => "other-target",
            Self::RejectToAllow => "reject-to-allow",
            Self::Same => "same",
            Self::Slower => "slower",
        }
    }

    /// Would clients notice?
    #[must_use]
    pub const fn is_divergence(self) -> bool {
        matches!(self, Self::AllowToReject | Self::Error | Self::OtherTarget | Self::RejectToAllow)
    }
}

/// How `other` differs from `base`.
#[must_use]
pub fn compare(base: &SlotDecision, other: &SlotDecision) -> Class {
    if !base.missing.is_empty() || !other.missing.is_empty() {
        return Class::NotComparable;
    }
    let same_code = base.is_same_code(other);
    if base.said != other.said {
        match (base.said, other.said) {
            // Shares, budgets and breakers are of their moment; so is a deadline, for the same code.
            (Said::Undecided(why), _) | (_, Said::Undecided(why)) if is_of_its_moment(why) => {
                return Class::NotComparable;
            }
            (Said::Undecided(Undecided::Overrun), _) | (_, Said::Undecided(Undecided::Overrun))
                if same_code =>
            {
                return Class::NotComparable;
            }
            (_, Said::Undecided(_)) => return Class::Error,
            _ => {}
        }
    }
    match (base.rejects(), other.rejects()) {
        (false, true) => Class::AllowToReject,
        (true, false) => Class::RejectToAllow,
        _ if base.answers != other.answers || base.exchange != other.exchange => Class::OtherTarget,
        // The same code that says the same in another way is not pure.
        _ if same_code && (base.said, base.rule) != (other.said, other.rule) => Class::OtherTarget,
        _ if !same_code && is_slower(base.fuel, other.fuel) => Class::Slower,
        _ => Class::Same,
    }
}

const fn is_of_its_moment(why: Undecided) -> bool {
    matches!(why, Undecided::Broken | Undecided::Busy | Undecided::Demoted | Undecided::Empty)
}

const fn is_slower(base: u64, other: u64) -> bool {
    other > base.saturating_mul(2) && other - base >= SLOWER_FUEL_MIN
}
