//! Who writes each shard, as the control store's objects say it, and what no change of them may do.
//!
//! A shard's object names its primary, and `lease/SHARD` overrides that once its epoch has risen. An epoch must never come
//! to mean another writer, whoever changes the objects; so a shard that goes leaves its lease behind, and one that comes under the
//! same name begins after it.

use std::collections::BTreeSet;

use portolan_control::{Body, Draft, Expect, Key, Manager, Object, State, Wish};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::tenure::Tenure;
use serde_json::{Value, json};

/// The kind of objects that shards are.
pub(crate) const SHARD_KIND: &str = "shard";
/// The kind of sections that there is one of, and the one that says that regions have leases.
const SETTINGS_KIND: &str = "settings";
const FAILOVER: &str = "failover";
/// The kind of objects that say who writes a shard now.
pub(crate) const LEASE_KIND: &str = "lease";

/// Who writes a shard; `None` when there is no such shard, or when nothing sound is said of it.
pub(crate) fn tenure(state: &State, shard: &str) -> Option<Tenure> {
    let meant = object(state, SHARD_KIND, shard)?;
    let (epoch, primary) = match object(state, LEASE_KIND, shard) {
        Some(lease) => (epoch(&lease.body)?, primary(&lease.body)?),
        None => (Epoch(1), primary(&meant.body)?),
    };
    let store = meant.body.get("store")?.get(primary.as_str())?;
    Some(Tenure { epoch, primary, store: place(store) })
}

/// What a change must remember: the leases of shards that it takes away.
pub(crate) fn remembering(base: &State, next: &State, draft: &Draft) -> Draft {
    let mut draft = draft.clone();
    for (name, tenure) in shards(base).into_iter().filter_map(|name| Some((name, tenure(base, name)?))) {
        let gone = object(next, SHARD_KIND, name).is_none() && object(next, LEASE_KIND, name).is_none();
        let Ok(key) = Key::new(LEASE_KIND, name) else { continue };
        if !gone {
            continue;
        }
        draft.wishes.retain(|wish| wish.key != key);
        draft.wishes.push(Wish {
            key,
            body: body(tenure.epoch, &tenure.primary),
            expect: Expect::Any,
            manager: Manager::Api,
            take_over: true,
        });
    }
    draft
}

/// What is wrong with a change of the objects, a line each.
pub(crate) fn broken(base: &State, next: &State) -> Vec<String> {
    let names: BTreeSet<&str> = shards(base).union(&shards(next)).copied().collect();
    names.into_iter().filter_map(|name| Some(format!("shard `{name}`: {}", why(base, next, name)?))).collect()
}

fn why(base: &State, next: &State, name: &str) -> Option<String> {
    let replicates = |state| {
        let meant = object(state, SHARD_KIND, name)?;
        Some(meant.body.get("replication").and_then(Value::as_str).unwrap_or("native"))
    };
    if let (Some(before), Some(after)) = (replicates(base), replicates(next))
        && before != after
    {
        return Some(format!(
            "its replication is `{before}`, and would be `{after}`: declare another shard, and move its tenants there"
        ));
    }
    let help = format!("`portolan shard promote {name} [--to REGION]` begins a new epoch");
    let lease = |state| object(state, LEASE_KIND, name).map(|lease| &lease.body);
    // The lease of a shard that goes is left behind, and begins nothing.
    let stays = object(base, SHARD_KIND, name).is_some() && object(next, SHARD_KIND, name).is_some();
    let decides = object(next, SETTINGS_KIND, FAILOVER).is_some() && replicates(next) == Some("native");
    if stays && decides && lease(base) != lease(next) {
        return Some(format!(
            "failover decides who writes it: `portolan failover switch {name} --to REGION` moves it without loss, and `portolan failover force` \
             where its region is gone"
        ));
    }
    // What is no sound lease is told by the check of the configuration.
    let after = tenure(next, name)?;
    if let Some(before) = tenure(base, name) {
        return after.may_follow(&before).err().map(|error| format!("{error}: {help}"));
    }
    let left = epoch(&object(base, LEASE_KIND, name)?.body)?;
    let stays = object(base, SHARD_KIND, name).is_some();
    (!stays && after.epoch <= left).then(|| {
        let (epoch, primary) = (left.0 + 1, &after.primary);
        format!(
            "there was one of this name before, up to epoch {}: put `lease/{name}` with epoch {epoch} and primary \"{primary}\" into the same change",
            left.0
        )
    })
}

fn shards(state: &State) -> BTreeSet<&str> {
    state.of_kind(SHARD_KIND).map(|(key, _)| key.name()).filter(|name| ShardName::new(name).is_ok()).collect()
}

fn object<'s>(state: &'s State, kind: &str, name: &str) -> Option<&'s Object> {
    Some(state.get(&Key::new(kind, name).ok()?)?)
}

fn epoch(body: &Body) -> Option<Epoch> {
    body.get("epoch").map_or(Some(1), Value::as_u64).map(Epoch)
}

fn primary(body: &Body) -> Option<RegionName> {
    body.get("primary").and_then(Value::as_str).and_then(|name| RegionName::new(name).ok())
}

fn body(epoch: Epoch, primary: &RegionName) -> Option<Body> {
    let Value::Object(body) = json!({ "epoch": epoch.0, "primary": primary }) else { return None };
    Some(body)
}

/// Where a database is: the file, or the owner's address without its name, its password and how it is reached.
fn place(store: &Value) -> String {
    if let Some(file) = store.get("sqlite").and_then(Value::as_str) {
        return format!("sqlite:{file}");
    }
    let address = store.pointer("/postgres/owner").or_else(|| store.pointer("/external/address"));
    let owner = address.and_then(Value::as_str).unwrap_or_default();
    let rest = owner.split_once("://").map_or(owner, |(_, rest)| rest);
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
    let names = ["dbname", "host", "hostaddr", "port"];
    let mut asked: Vec<&str> = query
        .split('&')
        .filter(|part| names.iter().any(|name| part.split('=').next() == Some(name)))
        .collect();
    asked.sort_unstable();
    format!("postgres:{address}?{}", asked.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(objects: &[(&str, Value)]) -> State {
        after(&State::default(), objects)
    }

    fn after(base: &State, objects: &[(&str, Value)]) -> State {
        base.after(&draft(objects)).expect("a state")
    }

    fn draft(objects: &[(&str, Value)]) -> Draft {
        let wish = |(key, body): &(&str, Value)| {
            let (kind, name) = key.split_once('/').expect("a key");
            Wish {
                key: Key::new(kind, name).expect("a key"),
                body: body.as_object().cloned(),
                expect: Expect::Any,
                manager: Manager::Api,
                take_over: true,
            }
        };
        let (author, message, source) = ("a".to_owned(), String::new(), "test".to_owned());
        Draft { author, message, source, wishes: objects.iter().map(wish).collect() }
    }

    fn shard(primary: &str, eu: &str) -> Value {
        json!({ "primary": primary, "store": { "eu": { "postgres": { "owner": eu } }, "us": { "sqlite": "b.db" } } })
    }

    const URL: &str = "postgres://owner:secret@db:5432/shop?sslmode=require";

    #[test]
    fn an_epoch_never_comes_to_mean_another_writer() {
        let base = state(&[("shard/a", shard("eu", URL))]);
        let told = |objects: &[(&str, Value)]| broken(&base, &after(&base, objects));
        assert_eq!(told(&[("shard/a", shard("eu", URL))]), Vec::<String>::new());
        let lease = |epoch: u64, primary: &str| json!({ "epoch": epoch, "primary": primary });
        assert_eq!(told(&[("lease/a", lease(2, "us"))]), Vec::<String>::new());
        assert!(told(&[("shard/a", shard("us", URL))])[0].contains("epoch 1, which is `eu`'s"));
        assert!(told(&[("lease/a", lease(1, "us"))])[0].contains("portolan shard promote a"));
        let external = json!({ "primary": "eu", "replication": "external", "store": { "eu": { "external": { "address": URL } } } });
        assert!(told(&[("shard/a", external)])[0].contains("declare another shard"));
        let moved = shard("eu", "postgres://owner:secret@elsewhere:5432/shop");
        assert!(told(&[("shard/a", moved)])[0].contains("another database"));
        let rotated = shard("eu", "postgres://owner2:new@db:5432/shop");
        assert_eq!(told(&[("shard/a", rotated)]), Vec::<String>::new(), "a password is no place");
        // Where it is kept beside the primary's region is nobody's matter.
        let mut other = shard("eu", URL);
        other["store"]["us"] = json!({ "sqlite": "c.db" });
        assert_eq!(told(&[("shard/a", other)]), Vec::<String>::new());
    }

    #[test]
    fn a_lease_never_falls_and_is_never_taken_away() {
        let lease = json!({ "epoch": 7, "primary": "us" });
        let base = state(&[("shard/a", shard("eu", URL)), ("lease/a", lease)]);
        let told = |objects: &[(&str, Value)]| broken(&base, &after(&base, objects));
        assert!(told(&[("lease/a", Value::Null)])[0].contains("epoch 1 would come after epoch 7"));
        assert!(told(&[("lease/a", json!({ "epoch": 6, "primary": "us" }))])[0].contains("epochs only rise"));
    }

    #[test]
    fn where_failover_decides_nobody_writes_a_lease_by_hand() {
        let shards = [("shard/a", shard("eu", URL)), ("settings/failover", json!({}))];
        let base = state(&shards);
        let lease = json!({ "epoch": 2, "primary": "us" });
        let told = broken(&base, &after(&base, &[("lease/a", lease.clone())]));
        assert!(told[0].contains("portolan failover switch a --to REGION"), "{told:?}");
        let off = after(&base, &[("lease/a", lease), ("settings/failover", Value::Null)]);
        assert_eq!(broken(&base, &off), Vec::<String>::new());
    }

    #[test]
    fn a_shard_that_goes_is_remembered_and_its_successor_begins_later() {
        let base = state(&[("shard/a", shard("eu", URL))]);
        let wanted = draft(&[("shard/a", Value::Null)]);
        let next = base.after(&wanted).expect("a state");
        let next = base.after(&remembering(&base, &next, &wanted)).expect("a state");
        assert_eq!(tenure(&next, "a"), None);
        let again = after(&next, &[("shard/a", shard("us", URL))]);
        assert!(broken(&next, &again)[0].contains("up to epoch 1"), "{:?}", broken(&next, &again));
        let lease = json!({ "epoch": 2, "primary": "us" });
        let later = after(&next, &[("shard/a", shard("us", URL)), ("lease/a", lease)]);
        assert_eq!(broken(&next, &later), Vec::<String>::new());
    }
}
