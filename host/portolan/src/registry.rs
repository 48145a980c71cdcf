//! Immutable versions of plugins in the control store: how they come there, and how they are found.
//!
//! A version is named by the SHA-256 of its component. Its bytes are in the shared place before the store names it, and a node
//! has them on its own disk before it runs them. The operator's versions are `version/PLUGIN@SHA256`, a tenant's
//! `version/TENANT:PLUGIN@SHA256`: nobody's plugin takes another's name.

pub(crate) mod cli;
mod credentials;
mod keys;
mod oci;
mod queue;
pub(crate) mod record;
pub(crate) mod uploads;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portolan_control::{Key, Object, State};
use portolan_core::ids::{Digest, PolicyName, TenantName};
use portolan_policy::Slot;
use serde_json::Value;

use crate::config::{Config, PolicySlot};

/// The kind of objects that versions are.
pub(crate) const KIND: &str = "version";
/// What rates are counted over.
const MINUTE: Duration = Duration::from_secs(60);

/// The object of a version.
///
/// # Errors
/// When the store has no such names.
pub(crate) fn key_of(owner: &Slot, name: &PolicyName, version: Digest) -> anyhow::Result<Key> {
    Ok(match owner {
        Slot::Operator => Key::new(KIND, &format!("{name}@{version}"))?,
        Slot::Tenant(tenant) => Key::new(KIND, &format!("{tenant}:{name}@{version}"))?,
    })
}

/// Whose a version is.
pub(crate) fn owner_of(key: &Key) -> Slot {
    let tenant = key.name().split_once(':').and_then(|(tenant, _)| TenantName::new(tenant).ok());
    tenant.map_or(Slot::Operator, Slot::Tenant)
}

/// The version that a slot means by a plugin's name: a tenant's own, or else the operator's.
pub(crate) fn find<'s>(
    state: &'s State,
    slot: &Slot,
    name: &PolicyName,
    version: Digest,
) -> Option<&'s Arc<Object>> {
    let of = |owner: &Slot| state.get(&key_of(owner, name, version).ok()?);
    of(slot).or_else(|| of(&Slot::Operator))
}

/// The versions of a plugin that a slot may run.
pub(crate) fn versions(state: &State, slot: &Slot, name: &PolicyName) -> BTreeSet<Digest> {
    let of_owner = |owner: Slot, key: &Key| {
        let named = key.name().rsplit_once(':').map_or_else(|| key.name(), |(_, named)| named);
        let digest = named.strip_prefix(name.as_str())?.strip_prefix('@')?;
        (owner == Slot::Operator || owner == *slot).then(|| digest.parse().ok())?
    };
    state.of_kind(KIND).filter_map(|(key, _)| of_owner(owner_of(key), key)).collect()
}

/// What slots name and the store does not have, a line each.
pub(crate) fn unknown(config: &Config, state: &State) -> Vec<String> {
    let operator = config.policy.iter().map(|policy| (Slot::Operator, "policy".to_owned(), policy));
    let tenants = config.tenants.iter().filter_map(|(name, tenant)| {
        let policy = tenant.policy.as_ref()?;
        Some((Slot::Tenant(name.clone()), format!("tenant.{name}.policy"), policy))
    });
    let is_unknown = |slot: &Slot, policy: &PolicySlot| {
        policy.version.filter(|version| find(state, slot, &policy.name, *version).is_none())
    };
    operator
        .chain(tenants)
        .filter_map(|(slot, place, policy)| Some((place, &policy.name, is_unknown(&slot, policy)?)))
        .map(|(place, name, version)| {
            format!(
                "{place}: the store has no version {} of {name}: `portolan plugin push {name} FILE` puts it there",
                version.short()
            )
        })
        .collect()
}

/// What signed a slot's version beside its bytes, if the store has it.
pub(crate) fn detached(state: &State, slot: &Slot, name: &PolicyName, version: Digest) -> Option<String> {
    let object = find(state, slot, name, version)?;
    object.body.get("signature")?.get("text")?.as_str().map(str::to_owned)
}

/// Other objects that name a version: what runs it, or may go back to it.
pub(crate) fn users(state: &State, own: &Key, digest: Digest) -> Vec<String> {
    fn within(value: &Value, digest: &str) -> bool {
        match value {
            Value::String(text) => text.contains(digest),
            Value::Array(items) => items.iter().any(|item| within(item, digest)),
            Value::Object(table) => table.values().any(|item| within(item, digest)),
            _ => false,
        }
    }
    let wanted = digest.to_string();
    let others = state.objects().filter(|(key, _)| *key != own && key.kind() != KIND);
    let users = others.filter(|(_, object)| object.body.values().any(|value| within(value, &wanted)));
    users.map(|(key, _)| key.to_string()).take(5).collect()
}
