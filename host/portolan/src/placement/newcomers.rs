//! New tenants of a change: where the policy wants them, if that is not where the rules would put them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use portolan_control::{Body, Expect, Key, Manager, State, Wish};
use portolan_core::directory::ShardIndex;
use portolan_core::ids::TenantName;
use serde_json::json;

use super::{Placing, facts, known, picture};
use crate::config::{self, Config, Loaded};

/// The kind of objects that tenants are.
const TENANT_KIND: &str = "tenant";
/// The kind of objects that say where a tenant is.
const PLACE_KIND: &str = "place";

/// A change that may bring new tenants.
#[derive(Debug)]
pub(crate) struct Newcomers {
    pub(crate) base: Arc<State>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) next: State,
    pub(crate) path: PathBuf,
}

impl Newcomers {
    /// The tenants that the change makes and places nowhere. One that was here before stays where its rows are.
    fn names(&self) -> BTreeSet<TenantName> {
        let is_new = |key: &Key| key.kind() == TENANT_KIND && self.base.get(key).is_none();
        let placed = |name: &str| Key::new(PLACE_KIND, name).is_ok_and(|key| self.next.get(&key).is_some());
        let new = self.next.objects().map(|(key, _)| key).filter(|key| is_new(key) && !placed(key.name()));
        new.filter_map(|key| TenantName::new(key.name()).ok()).collect()
    }
}

/// The places that a change is to make besides, for its new tenants. Nothing is refused here: a policy that fails leaves tenants to
/// the rules, and a configuration that does not hold is told by its check. Blocks.
pub(crate) fn newcomers(placing: &Placing, change: &Newcomers) -> Vec<Wish> {
    let names = change.names();
    if names.is_empty() {
        return Vec::new();
    }
    let loaded = config::load_intended(&change.path, &change.environment, Some(&change.next));
    let Ok(Loaded { config, .. }) = loaded else { return Vec::new() };
    if config.placement.policy.is_none() || config.directory.shards().is_empty() {
        return Vec::new();
    }
    if let Err(error) = placing.follow_alone(&config, Some(&change.next)) {
        tracing::warn!("new tenants are where the rules say: {error:#}");
        return Vec::new();
    }
    place(placing, &config, names)
}

fn place(placing: &Placing, config: &Config, names: BTreeSet<TenantName>) -> Vec<Wish> {
    let Some(placer) = placing.placer() else { return Vec::new() };
    let (mut picture, facts) = (Arc::new(picture(config, &|name| names.contains(name))), facts(config));
    let (mut wishes, mut asks) = (Vec::new(), true);
    for name in names {
        let known = known(config, &name);
        let by_rule = picture.locate(&name, &known);
        let wanted = match asks.then(|| placer.place(&picture, &facts, (&name, &known))) {
            Some(Ok(wanted)) => wanted,
            Some(Err(refused)) => {
                tracing::warn!(policy = %placer.policy(), tenant = %name, "the tenant is where the rules say: {refused}");
                // What is wrong with one answer need not be wrong with the next; a policy that fails is left alone.
                asks = !refused.transient || refused.stage == portolan_policy::Stage::Check;
                None
            }
            None => None,
        };
        let wanted = wanted.filter(|wanted| Some(*wanted) != by_rule);
        wishes.extend(wanted.and_then(|shard| wish(config, &name, shard)));
        // The next one sees this one where it will be.
        Arc::make_mut(&mut picture).add(name, known, wanted.or(by_rule));
    }
    wishes
}

fn wish(config: &Config, tenant: &TenantName, shard: ShardIndex) -> Option<Wish> {
    let shard = config.directory.shard(shard)?;
    let body = [("placement".to_owned(), json!(1)), ("shard".to_owned(), json!(shard.name))];
    Some(Wish {
        key: Key::new(PLACE_KIND, tenant.as_str()).ok()?,
        body: Some(Body::from_iter(body)),
        expect: Expect::Absent,
        manager: Manager::Api,
        take_over: false,
    })
}
