//! The gateway as a native test sees it: the real draft over facts that the test makes up. There is one draft per thread,
//! from [`lend`] to [`take`].

use std::cell::RefCell;

use portolan_core::facts::{Fact, FactValue};
use portolan_core::plan;

use crate::draft::{Condition, Refusal};
use crate::shard_host;

thread_local! {
    static DRAFT: RefCell<Option<plan::Draft>> = const { RefCell::new(None) };
    static LINES: RefCell<Vec<(u32, String)>> = const { RefCell::new(Vec::new()) };
}

/// Opens the draft.
pub(crate) fn lend(draft: plan::Draft) {
    LINES.take();
    DRAFT.set(Some(draft));
}

/// Closes it.
pub(crate) fn take() -> Option<plan::Draft> {
    DRAFT.take()
}

/// What was logged since the draft was opened.
pub(crate) fn lines() -> Vec<(u32, String)> {
    LINES.take()
}

#[expect(
    clippy::panic,
    reason = "the gateway traps a policy that uses its draft outside `plan`; a test must see that"
)]
fn with<T>(write: impl FnOnce(&mut plan::Draft) -> T) -> T {
    DRAFT.with_borrow_mut(|draft| match draft {
        Some(draft) => write(draft),
        None => panic!("facts and draft may only be used inside `plan`: use `testing::World::plan` in tests"),
    })
}

fn refusal(refusal: plan::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}

fn conditions(when: &[Condition]) -> Vec<plan::ConditionText> {
    when.iter()
        .map(|condition| plan::ConditionText {
            attribute: condition.attribute.clone(),
            test: condition.test.to_owned(),
            value: condition.value.clone(),
        })
        .collect()
}

pub(crate) fn forward(region: &str, pool: &str) -> Result<u32, Refusal> {
    with(|draft| draft.forward(region, pool)).map(|answer| answer.0).map_err(refusal)
}

pub(crate) fn respond(status: u16, content_type: &str, body: &str) -> Result<u32, Refusal> {
    with(|draft| draft.respond(status, content_type, body)).map(|answer| answer.0).map_err(refusal)
}

pub(crate) fn redirect(status: u16, location: &str) -> Result<u32, Refusal> {
    with(|draft| draft.redirect(status, location)).map(|answer| answer.0).map_err(refusal)
}

pub(crate) fn next() -> u32 {
    with(plan::Draft::leave).map_or(u32::MAX, |answer| answer.0)
}

pub(crate) fn split(when: &[Condition], to: &[(u32, u32)], fallback: &[u32]) -> Result<u32, Refusal> {
    with(|draft| draft.split(&conditions(when), to, fallback)).map(|rule| rule.0).map_err(refusal)
}

pub(crate) fn dynamic(when: &[Condition], needs: &[&str], among: &[u32]) -> Result<u32, Refusal> {
    let needs: Vec<String> = needs.iter().map(|need| (*need).to_owned()).collect();
    with(|draft| draft.dynamic(&conditions(when), &needs, among)).map(|rule| rule.0).map_err(refusal)
}

pub(crate) fn set_rule(rule: u32, key: &str, value: &str) -> Result<(), Refusal> {
    with(|draft| draft.set_rule(rule, key, value)).map_err(refusal)
}

pub(crate) fn set_answer(answer: u32, key: &str, value: &str) -> Result<(), Refusal> {
    with(|draft| draft.set_answer(answer, key, value)).map_err(refusal)
}

pub(crate) fn memo(bytes: &[u8]) -> Result<(), Refusal> {
    with(|draft| draft.memo(bytes)).map_err(refusal)
}

/// A fact: of a sharding policy's picture where one is asked, else of the draft.
fn read(fact: Fact) -> Option<FactValue> {
    match shard_host::facts() {
        Some(facts) => Some(facts.read(&fact)),
        None => with(|draft| draft.read(fact)).ok(),
    }
}

fn names(fact: Fact) -> Vec<String> {
    match read(fact) {
        Some(FactValue::Names(names)) => names,
        Some(FactValue::Number(_)) | None => Vec::new(),
    }
}

fn number(fact: Fact) -> Option<u32> {
    match read(fact) {
        Some(FactValue::Number(number)) => number.and_then(|number| u32::try_from(number).ok()),
        Some(FactValue::Names(_)) | None => None,
    }
}

pub(crate) fn local_region() -> String {
    names(Fact::Local).pop().unwrap_or_default()
}

pub(crate) fn regions() -> Vec<String> {
    names(Fact::Regions)
}

pub(crate) fn pools(region: &str) -> Vec<String> {
    names(Fact::Pools(region.to_owned()))
}

pub(crate) fn verdict(region: &str) -> u32 {
    number(Fact::Verdict(region.to_owned())).unwrap_or(0)
}

pub(crate) fn latency_us(origin: &str, target: &str) -> Option<u32> {
    number(Fact::LatencyUs(origin.to_owned(), target.to_owned()))
}

pub(crate) fn residencies() -> Vec<String> {
    names(Fact::Residencies)
}

pub(crate) fn residency_regions(residency: &str) -> Vec<String> {
    names(Fact::ResidencyRegions(residency.to_owned()))
}

pub(crate) fn now_ms() -> u64 {
    shard_host::facts().map_or_else(|| with(|draft| draft.facts().now_ms), |facts| facts.now_ms)
}

pub(crate) fn seed() -> u64 {
    shard_host::facts().map_or_else(|| with(|draft| draft.facts().seed), |facts| facts.seed)
}

pub(crate) fn log(level: u32, text: &str) {
    LINES.with_borrow_mut(|lines| lines.push((level, text.to_owned())));
}
