//! Shards and tenants as a component sees them: the contract's imports, in this crate's types.

use crate::bindings::placing::portolan::policy::{sharding_answers, sharding_facts, types};
use crate::draft::Refusal;
use crate::sharding::Span;

fn refusal(refusal: types::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}

pub(crate) fn shards() -> Vec<String> {
    sharding_facts::shards()
}

pub(crate) fn shard_residency(shard: &str) -> Option<String> {
    sharding_facts::shard_residency(shard)
}

pub(crate) fn shard_regions(shard: &str) -> Vec<String> {
    sharding_facts::shard_regions(shard)
}

pub(crate) fn shard_takes(shard: &str) -> bool {
    sharding_facts::shard_takes(shard)
}

pub(crate) fn shard_tenants(shard: &str) -> u64 {
    sharding_facts::shard_tenants(shard)
}

pub(crate) fn shard_capacity(shard: &str) -> Option<u64> {
    sharding_facts::shard_capacity(shard)
}

pub(crate) fn shard_load(shard: &str) -> u32 {
    sharding_facts::shard_load(shard)
}

pub(crate) fn rule(residency: Option<&str>, location: Option<&str>) -> Vec<Span> {
    let spans = sharding_facts::rule(residency, location);
    spans.into_iter().map(|span| Span { last: span.last, shard: span.shard }).collect()
}

pub(crate) fn tenants(after: &str, max: u32) -> Vec<String> {
    sharding_facts::tenants(after, max)
}

pub(crate) fn tenant_shard(tenant: &str) -> Option<String> {
    sharding_facts::tenant_shard(tenant)
}

pub(crate) fn tenant_residency(tenant: &str) -> Option<String> {
    sharding_facts::tenant_residency(tenant)
}

pub(crate) fn tenant_location(tenant: &str) -> Option<String> {
    sharding_facts::tenant_location(tenant)
}

pub(crate) fn tenant_hash(tenant: &str) -> u64 {
    sharding_facts::tenant_hash(tenant)
}

pub(crate) fn moves_max() -> u32 {
    sharding_facts::moves_max()
}

pub(crate) fn line_permille_max() -> u32 {
    sharding_facts::line_permille_max()
}

pub(crate) fn relocate(tenant: &str, to: &str, reason: &str) -> Result<(), Refusal> {
    sharding_answers::relocate(tenant, to, reason).map_err(refusal)
}

pub(crate) fn set_rule(
    residency: Option<&str>,
    location: Option<&str>,
    spans: &[Span],
    reason: &str,
) -> Result<(), Refusal> {
    let span = |span: &Span| sharding_facts::Span { last: span.last, shard: span.shard.clone() };
    let spans: Vec<sharding_facts::Span> = spans.iter().map(span).collect();
    sharding_answers::set_rule(residency, location, &spans, reason).map_err(refusal)
}
