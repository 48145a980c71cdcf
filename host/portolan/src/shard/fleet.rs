//! `portolan shard add | remove`: a shard comes when its databases are ready for it, and goes when nobody needs it.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use portolan_control::{Body, Key, State};
use portolan_core::directory::{Directory, ShardIndex};
use portolan_core::ids::ShardName;
use portolan_core::placement::Picture;
use portolan_sharding::vacancy::{self, Vacancy};
use serde_json::{Value, json};

use super::rebalance::{change, under_way};
use crate::cli::{Add, Remove};
use crate::client::Client;
use crate::config::{self, Config, Loaded, intent};
use crate::leases::{LEASE_KIND, SHARD_KIND};
use crate::{node, placement, print};

/// Looks at the databases of a new shard, and adds it where nothing stands against it.
///
/// # Errors
/// What stands against it, and what to do.
pub(super) fn add(command: &Add) -> anyhow::Result<()> {
    let name = ShardName::new(&command.shard)?;
    let path = &command.target.file.config;
    let Some((loaded, state)) = crate::shown(crate::load(path)?) else {
        bail!("mend the configuration first")
    };
    let state = state
        .context("shards are added to a control store: add `[control]`, or write `[shard.*]` into conf.d")?;
    let known = &loaded.config;
    ensure!(
        !known.shards.contains_key(&name) && !known.externals.contains_key(&name),
        "there is a shard `{name}` already"
    );
    let text = std::fs::read_to_string(&command.from);
    let text = text.with_context(|| format!("read {}", command.from.display()))?;
    let mut body: toml::Table = text.parse().with_context(|| format!("read {}", command.from.display()))?;
    if command.drained {
        body.insert("drain".to_owned(), true.into());
    }
    let Value::Object(body) = serde_json::to_value(&body)? else {
        bail!("{} is to hold what `[shard.{name}]` would", command.from.display())
    };
    // As it would be read by every node.
    let objects = objects(&state, &name, &body)?;
    let others = state.objects().filter(|(key, _)| objects.iter().all(|(object, ..)| object != *key));
    let sources = others.filter_map(|(key, object)| intent::source(key, &object.body));
    let sources =
        sources.chain(objects.iter().filter_map(|(key, body, _)| intent::source(key, body))).collect();
    let loaded = config::load(path, crate::environment(), Some(sources));
    let Some(Loaded { config, .. }) = crate::shown(loaded) else {
        bail!("shard `{name}` does not fit the others")
    };
    let runtime = node::control_runtime()?;
    let problems = runtime.block_on(preflight(&config, &name, command.drained));
    if !problems.is_empty() {
        bail!("shard `{name}` is not added: {}", problems.join("; "));
    }
    let client = Client::open(&command.target)?;
    let wish = |(key, body, revision): &(Key, Body, u64)| json!({ "kind": key.kind(), "name": key.name(), "body": body, "if_revision": revision });
    let wishes: Vec<Value> = objects.iter().map(wish).collect();
    change(&client, &wishes, Some(state.generation()), &format!("add the shard {name}"))?;
    print(&format!(
        "shard {name} is there; `portolan shard plan` tells what the policy of placement makes of it"
    ))
}

/// The objects of a new shard, with the revisions that they must have now: itself, and where one of its name left a lease behind, one
/// that begins after it.
fn objects(state: &State, name: &ShardName, body: &Body) -> anyhow::Result<Vec<(Key, Body, u64)>> {
    let mut objects = vec![(Key::new(SHARD_KIND, name.as_str())?, body.clone(), 0)];
    let key = Key::new(LEASE_KIND, name.as_str())?;
    if let Some(left) = state.get(&key) {
        let epoch = left.body.get("epoch").and_then(Value::as_u64).unwrap_or(0) + 1;
        let primary = body.get("primary").cloned().unwrap_or_default();
        let lease = Body::from_iter([("epoch".to_owned(), epoch.into()), ("primary".to_owned(), primary)]);
        objects.push((key, lease, left.revision));
    }
    Ok(objects)
}

/// What stands against a shard, by region: each database must answer and be empty, and have the schema of the fleet.
async fn preflight(config: &Config, name: &ShardName, drained: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let schemas = fleet_schemas(config, name).await;
    if schemas.len() > 1 && !drained {
        let versions: Vec<String> = schemas.iter().map(|version| format!("{version:04}")).collect();
        problems.push(format!(
            "the shards have the versions {} of the schema: bring them to one with `portolan migrate apply`",
            versions.join(", ")
        ));
    }
    for (region, engine) in config.shards.get(name).into_iter().flat_map(|shard| &shard.stores) {
        match vacancy::look(engine, &config.tables).await {
            Err(error) => problems.push(format!("its database in {region} cannot be used: {error}")),
            Ok(Vacancy { occupied, .. }) if !occupied.is_empty() => {
                let tables: Vec<&str> = occupied.iter().map(|table| table.as_str()).collect();
                problems.push(format!(
                    "its database in {region} has rows in {}: give it an empty one, or take it over with `portolan shard adopt`",
                    tables.join(", ")
                ));
            }
            Ok(Vacancy { schema, .. }) => {
                let (has, wants) = (schema.unwrap_or(0), schemas.last().copied().unwrap_or(0));
                if has != wants && !drained {
                    problems.push(format!(
                        "its database in {region} has version {has:04} of the schema, the others have {wants:04}: add it with \
                         `--drained`, run `portolan migrate apply`, then `portolan shard drain {name} --undo`"
                    ));
                }
            }
        }
    }
    problems
}

/// The versions of the schema that the other shards have here. A shard that does not answer says nothing.
async fn fleet_schemas(config: &Config, without: &ShardName) -> BTreeSet<u64> {
    let mut versions = BTreeSet::new();
    for (_, shard) in config.shards.iter().filter(|(name, _)| *name != without) {
        let Some(engine) = shard.stores.get(&config.local) else { continue };
        match vacancy::look(engine, &config.tables).await {
            Ok(found) => drop(versions.insert(found.schema.unwrap_or(0))),
            Err(error) => tracing::debug!("a shard does not tell its schema: {error}"),
        }
    }
    versions
}

/// Takes a shard away that nobody needs.
///
/// # Errors
/// Who needs it, and what to do.
pub(super) fn remove(command: &Remove) -> anyhow::Result<()> {
    let name = ShardName::new(&command.shard)?;
    let loaded = crate::load(&command.target.file.config)?;
    let Some((Loaded { config, .. }, state)) = crate::shown(loaded) else {
        bail!("mend the configuration first")
    };
    let state = state
        .context("shards are taken away from a control store: without one, remove `[shard.*]` from conf.d")?;
    let directory = &config.directory;
    let found = (0..).map(ShardIndex).zip(directory.shards()).find(|(_, shard)| shard.name == name);
    let Some((index, shard)) = found else {
        bail!("there is no shard `{name}`: `portolan shard list` shows them")
    };
    let mut needs = Vec::new();
    if shard.takes_new {
        needs.push(format!("it takes new tenants: `portolan shard drain {name}` first"));
    }
    needs.extend(users(directory, &placement::picture(&config, &|_| false), index));
    if let Some((id, wanted)) = under_way(&state)? {
        let about = wanted.moves.iter().filter(|one| one.from == name || one.to == name).count();
        if about > 0 {
            needs.push(format!(
                "the plan of moves {id} is about it: carry it out, or `portolan shard rebalance --forget`"
            ));
        }
    }
    needs.extend(node::control_runtime()?.block_on(rows(&config, &name)));
    if !needs.is_empty() {
        bail!("shard `{name}` stays: {}", needs.join("; "));
    }
    // Its lease stays behind, so that a shard of the same name begins after it; without the shard nothing renews it, and writing ends
    // with the deadline in the shard's own fence.
    let wishes =
        [json!({ "kind": SHARD_KIND, "name": name, "if_revision": revision(&state, SHARD_KIND, &name)? })];
    change(
        &Client::open(&command.target)?,
        &wishes,
        Some(state.generation()),
        &format!("remove the shard {name}"),
    )?;
    print(&format!("shard {name} is gone from the configuration; its databases are as they were"))
}

fn revision(state: &State, kind: &str, name: &ShardName) -> anyhow::Result<u64> {
    let object = state.get(&Key::new(kind, name.as_str())?);
    Ok(object.with_context(|| format!("there is no object {kind}/{name}"))?.revision)
}

/// Rules and tenants that a shard is needed for.
fn users(directory: &Directory, picture: &Picture, index: ShardIndex) -> Vec<String> {
    let mut users = Vec::new();
    let rules =
        directory.rules().iter().filter(|rule| rule.ranges.iter().any(|range| range.shard == index)).count();
    if rules > 0 {
        users.push(format!(
            "{rules} rules of `[placement]` lead to it: `portolan shard plan` proposes others"
        ));
    }
    // A tenant that moved away is on another shard by its place; each place here is somebody's.
    let places = directory.exceptions().shards().filter(|shard| *shard == index).count();
    let tenants = picture.count(index);
    if places > 0 || tenants > 0 {
        users.push(format!(
            "{tenants} known tenants and {places} `[place.*]` are on it: move them with `portolan shard move`"
        ));
    }
    users
}

/// Rows of tenants that nobody knows by name.
async fn rows(config: &Config, name: &ShardName) -> Option<String> {
    let engine = config.shards.get(name)?.stores.get(&config.local)?;
    match vacancy::look(engine, &config.tables).await {
        Ok(found) if found.is_vacant() => None,
        Ok(found) => {
            let tables: Vec<&str> = found.occupied.iter().map(|table| table.as_str()).collect();
            Some(format!(
                "its database here has rows in {}: move their tenants, or wait until the rows of those that moved are dropped",
                tables.join(", ")
            ))
        }
        Err(error) => Some(format!("its database here does not tell whether it has rows: {error}")),
    }
}
