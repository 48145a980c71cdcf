//! `portolan restore`: a backup onto an empty machine, a shard into an installation, or one tenant into a shard.
//!
//! Databases come first and the control store last: a restore that failed halfway leaves no intent behind, and says what it had
//! made.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portolan_control::{Body, Draft, Expect, Key, Manager, State, Store as Control, Wish};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::{Epoch, Position};
use portolan_sharding::Store;
use portolan_sharding::backup::{self, Opened, Put, PutTenant, Putting, Until};
use serde_json::{Value, json};

use super::{COMPONENTS, Kept, home, kept, keys, named};
use crate::cli::backup::Restore;
use crate::config::{self, Config, Loaded, Local};
use crate::{apply, node, print};

/// Bytes of the objects of one change, well below what the store takes.
const CHANGE_BYTES: usize = 400 * 1024;

/// Puts a backup back.
///
/// # Errors
/// When the target has something already, does not answer, or the backup is not good.
pub(crate) fn run(command: &Restore) -> anyhow::Result<ExitCode> {
    let backups = command.folders.iter().map(|folder| Opened::open(folder)).collect::<Result<Vec<_>, _>>()?;
    backup::verify(&backups)?;
    if let (Some(identity), Some(to)) = (&command.identity, &command.keys_to) {
        return keys::open(&backups, identity, to);
    }
    let until = until(command)?;
    let local = crate::shown(config::local(&command.into, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let runtime = node::control_runtime()?;
    runtime.block_on(async {
        match command.tenant.as_deref().map(TenantName::new).transpose()? {
            Some(tenant) => Box::pin(one_tenant(command, &backups, until, &local, &tenant)).await,
            None => Box::pin(shards(command, &backups, until, &local)).await,
        }
    })
}

fn until(command: &Restore) -> anyhow::Result<Until> {
    let Some(text) = &command.at else { return Ok(Until::End) };
    if let Ok(position) = text.parse::<Position>() {
        anyhow::ensure!(command.shard.is_some(), "a position is of one shard's log: name it with --shard");
        return Ok(Until::Position(position));
    }
    let time = humantime::parse_rfc3339_weak(text);
    let time =
        time.with_context(|| format!("`{text}` is no moment: write 2026-05-01T10:00:00Z, or a position"))?;
    let since = time
        .duration_since(portolan_foundation::clock::from_unix_ms(0))
        .context("the moment is too early")?;
    Ok(Until::Time(u64::try_from(since.as_micros()).unwrap_or(u64::MAX)))
}

/// All shards of the backup, or one, with the control store where it is empty.
async fn shards(
    command: &Restore,
    backups: &[Opened],
    until: Until,
    local: &Local,
) -> anyhow::Result<ExitCode> {
    let (first, last) = (backups.first().context("name a backup")?, backups.last().context("name a backup")?);
    if let Some(tenant) = &first.manifest().tenant {
        bail!("this is a backup of tenant `{tenant}` alone: restore it with --tenant {tenant}");
    }
    let control = open_control(local).await?;
    let fresh = control.as_ref().is_some_and(|control| control.state().generation() == 0);
    let one = command.shard.as_deref().map(ShardName::new).transpose()?;
    if let (Some(control), None) = (control.as_ref().filter(|_| !fresh), &one) {
        bail!(
            "the control store is not empty (generation {}): restore onto an empty machine, or one shard with --shard, or one tenant \
             with --tenant",
            control.state().generation()
        );
    }
    let objects = kept(last)?;
    let config = config_of(&command.into, control.as_ref(), fresh.then_some(&objects))?;
    let names: Vec<&ShardName> = match &one {
        Some(one) => vec![one],
        None => first.manifest().shards.keys().collect(),
    };
    let stores = open_empty(&config, &names).await?;
    let mut put = BTreeMap::new();
    for (name, store) in &stores {
        let above = config.shards.get(name).map_or(Epoch(0), |shard| shard.epoch);
        let putting = Putting { above, backups, shard: name, store, tables: &config.tables, until };
        let done = backup::put(putting).await.with_context(|| format!("put shard `{name}` back"))?;
        if !command.json {
            tell(name, &done)?;
        }
        put.insert(name.clone(), done);
    }
    match &control {
        Some(control) => {
            let generation =
                intent(control, local, last, if fresh { objects } else { Vec::new() }, &config, &put).await?;
            if !command.json {
                print(&format!(
                    "the control store is at generation {generation}; start the node with `portolan serve`"
                ))?;
            }
        }
        None => {
            for (name, put) in put.iter().filter(|_| !command.json) {
                let (epoch, primary) = (put.epoch.0, &config.local);
                print(&format!(
                    "write into conf.d: [lease.{name}] epoch = {epoch}, primary = \"{primary}\""
                ))?;
            }
        }
    }
    if command.json {
        let told = put.iter().map(|(name, put)| {
            json!({ "shard": name, "epoch": put.epoch.0, "rows": put.rows, "records": put.records, "parked": put.parked,
                "through": put.through.to_string() })
        });
        print(&serde_json::to_string_pretty(&told.collect::<Vec<_>>())?)?;
    }
    Ok(if put.values().all(|put| put.parked == 0) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::DIFFERS)
    })
}

fn tell(name: &ShardName, put: &Put) -> anyhow::Result<()> {
    let (rows, records, through, epoch) = (put.rows, put.records, put.through, put.epoch.0);
    print(&format!(
        "shard {name}: {rows} rows and {records} records are put back, through {through}; epoch {epoch} begins"
    ))?;
    if put.parked > 0 {
        print(&format!(
            "shard {name}: {} changes WAIT, because the database does not take them",
            put.parked
        ))?;
    }
    Ok(())
}

async fn open_control(local: &Local) -> anyhow::Result<Option<Control>> {
    let Some(engine) = &local.control else { return Ok(None) };
    let control = Control::open(engine.clone(), None).await.context("open the control store")?;
    control.refresh().await?;
    Ok(Some(control))
}

/// What a node will run: by the backup's objects where the control store is empty.
fn config_of(path: &Path, control: Option<&Control>, objects: Option<&Vec<Kept>>) -> anyhow::Result<Config> {
    let state = match (control, objects) {
        (Some(_), Some(objects)) => {
            let wishes = objects.iter().map(wish).collect();
            Some(State::default().after(&draft(wishes))?)
        }
        (Some(control), None) => Some(State::clone(&control.state())),
        (None, _) => None,
    };
    let loaded = config::load_intended(path, &crate::environment(), state.as_ref());
    let Loaded { config, .. } = crate::shown(loaded).context("mend the configuration first")?;
    Ok(config)
}

/// The databases of these shards. Nothing is put into any unless all are empty.
async fn open_empty(config: &Config, names: &[&ShardName]) -> anyhow::Result<Vec<(ShardName, Store)>> {
    let (mut stores, mut taken) = (Vec::new(), Vec::new());
    for name in names {
        let engine = config.shards.get(*name).and_then(|shard| shard.stores.get(&config.local));
        let engine = engine.with_context(|| {
            format!("the configuration has no database for shard `{name}` in region `{}`", config.local)
        })?;
        let store = Store::open(engine, config.local.clone()).await;
        let store = store.with_context(|| format!("open shard `{name}`"))?;
        if !store.is_empty().await? {
            taken.push(name.to_string());
        }
        stores.push(((*name).clone(), store));
    }
    if !taken.is_empty() {
        bail!("nothing was changed: the databases of shards {} are not empty", taken.join(", "));
    }
    Ok(stores)
}

/// Writes the objects, and the leases of what was put back. Returns the generation.
async fn intent(
    control: &Control,
    local: &Local,
    backup: &Opened,
    objects: Vec<Kept>,
    config: &Config,
    put: &BTreeMap<ShardName, Put>,
) -> anyhow::Result<u64> {
    components(local, backup, &objects).await?;
    let mut wishes = Vec::new();
    for (name, put) in put {
        let body = json!({ "epoch": put.epoch.0, "primary": config.local });
        wishes.push(own("lease", name.as_str(), body)?);
    }
    let leased: Vec<Key> = wishes.iter().map(|wish| wish.key.clone()).collect();
    wishes.extend(objects.iter().filter(|kept| !leased.contains(&kept.key)).map(wish));
    let mut some: Vec<Wish> = Vec::new();
    let mut bytes = 0;
    for wish in wishes {
        let long =
            wish.body.as_ref().map_or(0, |body| serde_json::to_vec(body).map_or(0, |text| text.len())) + 300;
        if bytes + long > CHANGE_BYTES && !some.is_empty() {
            control.commit(&draft(std::mem::take(&mut some))).await?;
            bytes = 0;
        }
        bytes += long;
        some.push(wish);
    }
    control.commit(&draft(some)).await?;
    Ok(control.state().generation())
}

async fn components(local: &Local, backup: &Opened, objects: &[Kept]) -> anyhow::Result<()> {
    let named = named(objects.iter().map(|kept| &kept.key));
    if named.is_empty() {
        return Ok(());
    }
    let components = local.components()?.context("`[control]` names no place for components")?;
    for digest in named {
        let place = backup.path(&format!("{COMPONENTS}/{digest}"));
        let bytes = std::fs::read(&place).with_context(|| format!("read {}", place.display()))?;
        components.put(bytes).await?;
    }
    Ok(())
}

fn draft(wishes: Vec<Wish>) -> Draft {
    Draft {
        author: apply::author(),
        message: "restore a backup".to_owned(),
        source: "restore".to_owned(),
        wishes,
    }
}

fn wish(kept: &Kept) -> Wish {
    let Kept { body, key, managed_by } = kept.clone();
    Wish { key, body: Some(body), expect: Expect::Any, manager: managed_by, take_over: true }
}

fn own(kind: &str, name: &str, body: Value) -> anyhow::Result<Wish> {
    let body: Body = serde_json::from_value(body).context("write an object")?;
    let key = Key::new(kind, name)?;
    Ok(Wish { key, body: Some(body), expect: Expect::Any, manager: Manager::Api, take_over: true })
}

/// One tenant, into the shard that it belongs on now.
async fn one_tenant(
    command: &Restore,
    backups: &[Opened],
    until: Until,
    local: &Local,
    tenant: &TenantName,
) -> anyhow::Result<ExitCode> {
    let first = backups.first().context("name a backup")?;
    let control = open_control(local).await?;
    let config = config_of(&command.into, control.as_ref(), None)?;
    if config.barred.get(tenant) == Some(&portolan_core::tenant::Barred::Erased) {
        bail!("tenant `{tenant}` was erased: nothing of it is put back");
    }
    let to = home(&config, tenant).with_context(|| format!("tenant `{tenant}` is on no shard here"))?;
    let from = match (&command.shard, first.manifest().shards.keys().next()) {
        (Some(name), _) => ShardName::new(name)?,
        (None, Some(only)) if first.manifest().shards.len() == 1 => only.clone(),
        _ if first.manifest().shards.contains_key(&to) => to.clone(),
        _ => bail!("the backup has several shards: name the one that the tenant was on with --shard"),
    };
    let shard = config.shard(&to).map_err(anyhow::Error::msg)?;
    if shard.primary != config.local {
        bail!("shard `{to}` is written in `{}`: restore the tenant there", shard.primary);
    }
    let engine = shard.stores.get(&config.local).with_context(|| format!("shard `{to}` is not kept here"))?;
    let store =
        Store::open(engine, config.local.clone()).await.with_context(|| format!("open shard `{to}`"))?;
    store.recall(&config.tables).await?;
    let putting = PutTenant { backups, from: &from, replace: command.replace, store: &store, tenant, until };
    let put = backup::put_tenant(putting).await.with_context(|| format!("put tenant `{tenant}` back"))?;
    let place = json!({ "placement": put.placement.0, "shard": to });
    match &control {
        Some(control) => {
            let mut wishes = vec![own("place", tenant.as_str(), place)?];
            // What a backup knows of the tenant itself, where nobody knows it here.
            let objects = kept(backups.last().unwrap_or(first))?;
            let absent = |kept: &&Kept| {
                kept.key.kind() == "tenant"
                    && kept.key.name() == tenant.as_str()
                    && control.state().get(&kept.key).is_none()
            };
            wishes.extend(objects.iter().filter(absent).map(wish));
            control.commit(&draft(wishes)).await?;
        }
        None if command.json => {}
        None => print(&format!(
            "write into conf.d: [place.{tenant}] shard = \"{to}\", placement = {}",
            put.placement.0
        ))?,
    }
    if command.json {
        print(&serde_json::to_string_pretty(&json!({ "tenant": tenant, "shard": to, "rows": put.rows }))?)?;
    } else {
        print(&format!("tenant {tenant}: {} rows are put back into shard {to}", put.rows))?;
    }
    Ok(ExitCode::SUCCESS)
}
