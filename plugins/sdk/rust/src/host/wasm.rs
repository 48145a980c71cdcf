//! The gateway as a component sees it: the contract's imports, in this crate's types.

use crate::bindings::planning::portolan::policy::{draft, facts, log, routing_answers, types};
use crate::draft::{Condition, Refusal};

fn refusal(refusal: types::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}

fn conditions(when: &[Condition]) -> Vec<types::Condition> {
    when.iter()
        .map(|condition| types::Condition {
            attribute: condition.attribute.clone(),
            test: condition.test.to_owned(),
            value: condition.value.clone(),
        })
        .collect()
}

pub(crate) fn forward(region: &str, pool: &str) -> Result<u32, Refusal> {
    routing_answers::forward(region, pool).map_err(refusal)
}

pub(crate) fn respond(status: u16, content_type: &str, body: &str) -> Result<u32, Refusal> {
    routing_answers::respond(status, content_type, body).map_err(refusal)
}

pub(crate) fn redirect(status: u16, location: &str) -> Result<u32, Refusal> {
    routing_answers::redirect(status, location).map_err(refusal)
}

pub(crate) fn next() -> u32 {
    routing_answers::next()
}

pub(crate) fn split(when: &[Condition], to: &[(u32, u32)], fallback: &[u32]) -> Result<u32, Refusal> {
    let to: Vec<types::Share> = to.iter().map(|&(answer, weight)| types::Share { answer, weight }).collect();
    draft::split(&conditions(when), &to, fallback).map_err(refusal)
}

pub(crate) fn dynamic(when: &[Condition], needs: &[&str], among: &[u32]) -> Result<u32, Refusal> {
    let needs: Vec<String> = needs.iter().map(|need| (*need).to_owned()).collect();
    draft::dynamic(&conditions(when), &needs, among).map_err(refusal)
}

pub(crate) fn set_rule(rule: u32, key: &str, value: &str) -> Result<(), Refusal> {
    draft::set_rule(rule, key, value).map_err(refusal)
}

pub(crate) fn set_answer(answer: u32, key: &str, value: &str) -> Result<(), Refusal> {
    draft::set_answer(answer, key, value).map_err(refusal)
}

pub(crate) fn memo(bytes: &[u8]) -> Result<(), Refusal> {
    draft::memo(bytes).map_err(refusal)
}

pub(crate) fn local_region() -> String {
    facts::local_region()
}

pub(crate) fn regions() -> Vec<String> {
    facts::regions()
}

pub(crate) fn pools(region: &str) -> Vec<String> {
    facts::pools(region)
}

pub(crate) fn verdict(region: &str) -> u32 {
    facts::verdict(region)
}

pub(crate) fn latency_us(origin: &str, target: &str) -> Option<u32> {
    facts::latency_us(origin, target)
}

pub(crate) fn residencies() -> Vec<String> {
    facts::residencies()
}

pub(crate) fn residency_regions(residency: &str) -> Vec<String> {
    facts::residency_regions(residency)
}

pub(crate) fn now_ms() -> u64 {
    facts::now_ms()
}

pub(crate) fn seed() -> u64 {
    facts::seed()
}

pub(crate) fn log(level: u32, text: &str) {
    log::line(level, text);
}
