//! Shards and tenants as a native test sees them: the gateway's own picture and proposal over what the test makes up. There is
//! one per thread, from [`lend`] to [`take`].

use std::cell::RefCell;
use std::sync::Arc;

use portolan_core::facts::Facts;
use portolan_core::placement::{Proposal, View};
use portolan_core::plan;

use crate::draft::Refusal;
use crate::sharding::Span;

thread_local! {
    static PLACING: RefCell<Option<(Arc<Facts>, Proposal)>> = const { RefCell::new(None) };
}

/// Opens the picture.
pub(crate) fn lend(facts: Arc<Facts>, proposal: Proposal) {
    PLACING.set(Some((facts, proposal)));
}

/// Closes it.
pub(crate) fn take() -> Option<Proposal> {
    PLACING.take().map(|(_, proposal)| proposal)
}

/// The facts beside it; none outside a sharding policy.
pub(crate) fn facts() -> Option<Arc<Facts>> {
    PLACING.with_borrow(|placing| placing.as_ref().map(|(facts, _)| Arc::clone(facts)))
}

#[expect(
    clippy::panic,
    reason = "the gateway traps a policy that asks outside `place` and `rebalance`; a test must see that"
)]
fn with<T>(write: impl FnOnce(&mut Proposal) -> T) -> T {
    PLACING.with_borrow_mut(|placing| match placing {
        Some((_, proposal)) => write(proposal),
        None => {
            panic!("shards may only be asked inside `place` and `rebalance`: use `testing::Fleet` in tests")
        }
    })
}

fn view<T>(read: impl FnOnce(&View) -> T) -> T {
    with(|proposal| read(proposal.view()))
}

fn refusal(refusal: plan::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}

pub(crate) fn shards() -> Vec<String> {
    view(View::shards)
}

pub(crate) fn shard_residency(shard: &str) -> Option<String> {
    view(|view| view.shard_residency(shard))
}

pub(crate) fn shard_regions(shard: &str) -> Vec<String> {
    view(|view| view.shard_regions(shard))
}

pub(crate) fn shard_takes(shard: &str) -> bool {
    view(|view| view.shard_takes(shard))
}

pub(crate) fn shard_tenants(shard: &str) -> u64 {
    view(|view| view.shard_tenants(shard))
}

pub(crate) fn shard_capacity(shard: &str) -> Option<u64> {
    view(|view| view.shard_capacity(shard))
}

pub(crate) fn shard_load(shard: &str) -> u32 {
    view(|view| view.shard_load(shard))
}

pub(crate) fn rule(residency: Option<&str>, location: Option<&str>) -> Vec<Span> {
    let spans = view(|view| view.rule(residency, location));
    spans.into_iter().map(|(last, shard)| Span { last, shard }).collect()
}

pub(crate) fn tenants(after: &str, max: u32) -> Vec<String> {
    view(|view| view.tenants(after, max))
}

pub(crate) fn tenant_shard(tenant: &str) -> Option<String> {
    view(|view| view.tenant_shard(tenant))
}

pub(crate) fn tenant_residency(tenant: &str) -> Option<String> {
    view(|view| view.tenant_residency(tenant))
}

pub(crate) fn tenant_location(tenant: &str) -> Option<String> {
    view(|view| view.tenant_location(tenant))
}

pub(crate) fn tenant_hash(tenant: &str) -> u64 {
    view(|view| view.tenant_hash(tenant))
}

pub(crate) fn moves_max() -> u32 {
    view(|view| view.limits().moves_max)
}

pub(crate) fn line_permille_max() -> u32 {
    view(|view| view.limits().line_permille_max)
}

pub(crate) fn relocate(tenant: &str, to: &str, reason: &str) -> Result<(), Refusal> {
    with(|proposal| proposal.relocate(tenant, to, reason)).map_err(refusal)
}

pub(crate) fn set_rule(
    residency: Option<&str>,
    location: Option<&str>,
    spans: &[Span],
    reason: &str,
) -> Result<(), Refusal> {
    let spans: Vec<(u64, &str)> = spans.iter().map(|span| (span.last, span.shard.as_str())).collect();
    with(|proposal| proposal.set_rule(residency, location, &spans, reason)).map_err(refusal)
}
