//! A plan compiled for look-up: what answers every request, without a guest and without allocation.

mod index;
#[cfg(any(test, feature = "exercise"))]
pub mod naive;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use smallvec::SmallVec;

use self::index::Index;
use crate::attribute::{Attribute, Attributes};
use crate::backoff::scale;
use crate::balance::{splitmix, stable_hash};
use crate::plan::{Answer, AnswerId, Plan, Rule, RuleId, Share, Then};

/// A compiled plan.
#[derive(Debug, Default)]
pub struct Table {
    attributes: Box<[Attribute]>,
    index: Index,
    plan: Plan,
}

/// The answers of a rule in the order in which they are to be tried.
pub type Candidates = SmallVec<[AnswerId; 8]>;

/// Why a rule did or did not match, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleVerdict {
    /// The rule's number.
    pub rule: u32,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its conditions, each with whether it holds. All hold for the rule that decides.
    pub conditions: Vec<(String, bool)>,
}

impl Table {
    /// Compiles a checked plan. Cannot fail: what could be wrong was refused by [`crate::plan::Draft`].
    #[must_use]
    pub fn compile(plan: Plan) -> Self {
        Self { attributes: attributes(&plan.rules), index: Index::over(&plan.rules), plan }
    }

    /// All attributes that a look-up may ask for, and that `decide` may be given; sorted.
    #[must_use]
    pub const fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The first rule that matches.
    pub fn find(&self, request: &impl Attributes) -> Option<RuleId> {
        self.index.first(request, |id| {
            self.rule(id).is_some_and(|rule| rule.when.iter().all(|condition| condition.holds(request)))
        })
    }

    /// A rule by number.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.plan.rules.get(id.0 as usize)
    }

    /// An answer by number.
    #[must_use]
    pub fn answer(&self, id: AnswerId) -> Option<&Answer> {
        self.plan.answers.get(id.0 as usize)
    }

    /// The answers of a rule, best first. A split draws by weight with `seed`, the request's random number, or by the
    /// rule's sticky attribute where the request has it; then come the other shares, those of weight zero, and the
    /// fall-backs. A dynamic rule gives its `among` in order. No answer comes twice.
    pub fn candidates(&self, rule: RuleId, request: &impl Attributes, seed: u64) -> Candidates {
        let Some(rule) = self.rule(rule) else { return Candidates::new() };
        let mut order = Candidates::new();
        match &rule.then {
            Then::Dynamic { among, .. } => among.iter().for_each(|&answer| push(&mut order, answer)),
            Then::Split { to, fallback } => {
                match self.sticky_hash(rule, request) {
                    Some(hash) => rank(to, hash, &mut order),
                    None => draw(to, seed, &mut order),
                }
                to.iter().for_each(|share| push(&mut order, share.answer));
                fallback.iter().for_each(|&answer| push(&mut order, answer));
            }
        }
        order
    }

    /// The hash that keeps a sticky request's choices together, where the rule is sticky and the request has the value.
    pub fn sticky_hash(&self, rule: &Rule, request: &impl Attributes) -> Option<u64> {
        let value = request.value(rule.exchange.sticky.as_ref()?);
        value.text().map(|text| stable_hash(text.as_bytes()))
    }

    /// What each rule says, up to and including the one that decides.
    pub fn explain(&self, request: &impl Attributes) -> Vec<RuleVerdict> {
        let mut verdicts = Vec::new();
        for (number, rule) in (0..).zip(&self.plan.rules) {
            let conditions: Vec<(String, bool)> =
                rule.when.iter().map(|condition| (condition.to_string(), condition.holds(request))).collect();
            let matched = conditions.iter().all(|(_, holds)| *holds);
            verdicts.push(RuleVerdict {
                rule: number,
                name: rule.name.as_deref().map(str::to_owned),
                conditions,
            });
            if matched {
                break;
            }
        }
        verdicts
    }

    /// The plan it was made from.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// What conditions look at, what rules declare, and what makes them sticky.
fn attributes(rules: &[Rule]) -> Box<[Attribute]> {
    let mut all = BTreeSet::new();
    for rule in rules {
        let needs: &[Attribute] = match &rule.then {
            Then::Dynamic { needs, .. } => needs,
            Then::Split { .. } => &[],
        };
        let looked_at = rule.when.iter().map(|condition| &condition.attribute);
        all.extend(looked_at.chain(needs).chain(&rule.exchange.sticky));
    }
    all.into_iter().cloned().collect()
}

fn push(order: &mut Candidates, answer: AnswerId) {
    if !order.contains(&answer) {
        order.push(answer);
    }
}

/// Draws shares by weight, without putting back, until none of positive weight is left.
fn draw(to: &[Share], seed: u64, order: &mut Candidates) {
    if let [only] = to {
        return push(order, only.answer);
    }
    let mut left: SmallVec<[Share; 8]> = to.iter().copied().filter(|share| share.weight > 0).collect();
    let mut word = splitmix(seed);
    while !left.is_empty() {
        let total: u64 = left.iter().map(|share| u64::from(share.weight)).sum();
        let mut at = scale(word, total);
        word = splitmix(word);
        let chosen = left.iter().position(|share| {
            let weight = u64::from(share.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        push(order, left.remove(chosen.unwrap_or(0)).answer);
    }
}

/// Orders shares by weighted rendezvous hashing: score `-weight / ln(u)` with `u` even in (0, 1) by the hash of value and
/// answer. Shares are drawn in proportion to their weights, and one that leaves moves only its own values.
fn rank(to: &[Share], hash: u64, order: &mut Candidates) {
    #[expect(clippy::cast_precision_loss, reason = "53 bits of a hash fit an f64 exactly")]
    let even = |word: u64| ((word >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let score = |share: &Share| {
        let word = splitmix(hash ^ splitmix(u64::from(share.answer.0).wrapping_add(1)));
        -f64::from(share.weight) / even(word).ln()
    };
    let mut scored: SmallVec<[(f64, AnswerId); 8]> =
        to.iter().filter(|share| share.weight > 0).map(|share| (score(share), share.answer)).collect();
    scored.sort_by(|one, other| other.0.total_cmp(&one.0));
    scored.iter().for_each(|&(_, answer)| push(order, answer));
}
