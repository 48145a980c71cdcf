//! `portolan backup` and `portolan verify`: the control store, components, migrations and the shards of this region in a folder. They
//! reach stores and databases from here and not through a node, so that they work while nothing serves.
//!
//! What each node has of its own is in it only if asked for, and sealed: `portolan.toml`, certificates, and keys. Whoever has a backup
//! has the hashes of tokens and the key of `[placement]` in it: keep it as what it is.

mod keys;
mod restore;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portolan_control::{Body, Key, Manager, Object, State, Store as Control};
use portolan_core::ids::{Digest, ShardName, TenantName};
use portolan_foundation::clock;
use portolan_sharding::Store;
use portolan_sharding::backup::{self, Folder, From, Manifest, Opened, Taking};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use self::keys::make as make_key;
pub(crate) use self::restore::run as restore;
use crate::cli::backup::{Backup, Verify};
use crate::config::{self, Config, Loaded, Local};
use crate::{node, print};

/// Where the control store's objects are in a backup.
const CONTROL: &str = "control.ndjson.zst";
/// Where components are, by their digests.
const COMPONENTS: &str = "components";
/// The kind of objects that are versions of plugins: their names end with the component's digest.
const VERSION_KIND: &str = "version";

/// An object of the control store, as a backup has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    body: Body,
    key: Key,
    managed_by: Manager,
}

/// Takes a backup.
///
/// # Errors
/// When a store or a database does not answer, or the disk does not take it. What is then in the folder is no backup.
pub(crate) fn run(command: &Backup) -> anyhow::Result<ExitCode> {
    let local = crate::shown(config::local(&command.file.config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let Some((loaded, _)) = crate::shown(crate::load(&command.file.config)?) else {
        return Ok(ExitCode::FAILURE);
    };
    let tenant = command.tenant.as_deref().map(TenantName::new).transpose()?;
    let before = command.since.as_deref().map(Opened::open).transpose()?;
    let runtime = node::control_runtime()?;
    let manifest = runtime.block_on(take(command, &local, &loaded, tenant.as_ref(), before.as_ref()))?;
    let opened = Opened::open(&command.to)?;
    if command.json {
        print(&serde_json::to_string_pretty(&json!({ "manifest": manifest, "about": opened.manifest() }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let said = opened.manifest();
    for (name, part) in &said.shards {
        let rows: u64 = part
            .tables
            .iter()
            .filter_map(|table| said.files.get(&format!("shards/{name}/rows/{table}.ndjson.zst")))
            .map(|file| file.lines)
            .sum();
        print(&format!(
            "shard {name}: {rows} rows, the log through {} (schema {:04})",
            part.through, part.schema
        ))?;
    }
    for name in &said.elsewhere {
        print(&format!("shard {name}: NOT IN IT, another region writes it: take a backup there"))?;
    }
    let all = command.shards.is_empty() && tenant.is_none();
    for name in loaded.config.externals.keys().filter(|_| all) {
        print(&format!(
            "shard {name}: NOT IN IT, its engine replicates itself: back it up with its own tools"
        ))?;
    }
    let bytes: u64 = said.files.values().map(|file| file.bytes).sum();
    print(&format!(
        "backup {} is in {}: {bytes} bytes in {} files",
        said.id,
        command.to.display(),
        said.files.len()
    ))?;
    print(&format!(
        "its manifest's SHA-256 is {manifest}: write it down, and nothing can be changed unnoticed"
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn take(
    command: &Backup,
    local: &Local,
    loaded: &Loaded,
    tenant: Option<&TenantName>,
    before: Option<&Opened>,
) -> anyhow::Result<Digest> {
    let (config, made_at_ms, id) = (&loaded.config, clock::unix_ms(), id()?);
    let mut folder = Folder::create(&command.to)?;
    let control = match &local.control {
        Some(engine) => Some(Control::open(engine.clone(), None).await.context("open the control store")?),
        None => None,
    };
    let state = control.as_ref().map(Control::state);
    if let Some(state) = &state {
        objects(&mut folder, state, tenant)?;
        if tenant.is_none() {
            components(&mut folder, local, state).await?;
        }
    }
    if tenant.is_none() {
        migrations(&mut folder, &config.migrations)?;
    }
    let (mut shards, mut elsewhere) = (std::collections::BTreeMap::new(), Vec::new());
    for name in wanted(command, config, tenant)? {
        let shard = config.shard(&name).map_err(anyhow::Error::msg)?;
        let engine = shard.stores.get(&config.local).filter(|_| shard.primary == config.local);
        let Some(engine) = engine else {
            elsewhere.push(name);
            continue;
        };
        let store = Store::open(engine, config.local.clone()).await;
        let store = store.with_context(|| format!("open shard `{name}`"))?;
        if store.schema().await? == 0 {
            bail!(
                "shard `{name}` has no tables yet: run `portolan migrate apply`, or leave it out with --shard"
            );
        }
        store
            .recall(&config.tables)
            .await
            .with_context(|| format!("look at the tables of shard `{name}`"))?;
        let from = match before {
            None => From::Whole,
            Some(before) => From::Since(before.manifest().shards.get(&name).with_context(|| {
                format!("shard `{name}` is not in the backup that this one goes on from: take a whole one")
            })?),
        };
        let taking = Taking { from, shard: &name, store: &store, tenant };
        let part =
            backup::take(taking, &mut folder).await.with_context(|| format!("back up shard `{name}`"))?;
        shards.insert(name, part);
    }
    if let (Some(tenant), Some(first)) = (tenant, elsewhere.first()) {
        bail!("tenant `{tenant}` is on shard `{first}`, which another region writes: take the backup there");
    }
    if let Some(recipient) = &command.keys {
        let sealed = keys::seal(recipient, &id, loaded, &command.file.config, &mut folder)?;
        for path in sealed.iter().filter(|_| !command.json) {
            print(&format!("sealed: {}", path.display()))?;
        }
    }
    let manifest = Manifest {
        elsewhere,
        files: std::collections::BTreeMap::new(),
        format: backup::FORMAT,
        generation: state.as_ref().map(|state| state.generation()),
        id,
        made_at_ms,
        portolan: env!("CARGO_PKG_VERSION").to_owned(),
        region: config.local.clone(),
        shards,
        since: before.map(|before| before.manifest().id.clone()),
        tenant: tenant.cloned(),
    };
    Ok(folder.finish(manifest)?)
}

/// The shards that are to be in it.
fn wanted(command: &Backup, config: &Config, tenant: Option<&TenantName>) -> anyhow::Result<Vec<ShardName>> {
    if let Some(tenant) = tenant {
        let home = home(config, tenant);
        return Ok(vec![home.with_context(|| format!("tenant `{tenant}` is on no shard"))?]);
    }
    if command.shards.is_empty() {
        return Ok(config.shards.keys().cloned().collect());
    }
    Ok(command.shards.iter().map(|name| ShardName::new(name)).collect::<Result<_, _>>()?)
}

/// The shard that a tenant belongs on.
pub(crate) fn home(config: &Config, tenant: &TenantName) -> Option<ShardName> {
    let known = config.tenants.get(tenant);
    let asked = portolan_core::directory::Tenant {
        location: known.and_then(|known| known.location.as_ref()),
        name: tenant,
        residency: known.and_then(|known| known.residency.as_ref()),
    };
    let place = config.directory.locate(&asked)?;
    config.directory.shard(place.shard).map(|shard| shard.name.clone())
}

fn id() -> anyhow::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("draw a number: {error}"))?;
    Ok(portolan_core::ids::TenantId::new(clock::unix_ms(), u128::from_le_bytes(random)).to_string())
}

fn objects(folder: &mut Folder, state: &State, tenant: Option<&TenantName>) -> anyhow::Result<()> {
    let mut sheet = folder.sheet(CONTROL)?;
    for (key, object) in state.objects() {
        if tenant.is_none_or(|tenant| is_of(key, object, tenant)) {
            let kept =
                Kept { body: object.body.clone(), key: key.clone(), managed_by: object.managed_by.clone() };
            sheet.line(&kept)?;
        }
    }
    folder.close(CONTROL, sheet)?;
    Ok(())
}

/// Is an object about this tenant alone?
pub(crate) fn is_of(key: &Key, object: &Object, tenant: &TenantName) -> bool {
    let name = tenant.as_str();
    match key.kind() {
        "place" | "standing" | "tenant" => key.name() == name,
        "rollout" => key.name().strip_prefix("tenant.") == Some(name),
        VERSION_KIND => key.name().split_once(':').is_some_and(|(owner, _)| owner == name),
        "claim" | "token" => object.body.get("tenant").and_then(Value::as_str) == Some(name),
        _ => false,
    }
}

/// The components that the objects name.
fn named<'a>(keys: impl Iterator<Item = &'a Key>) -> BTreeSet<Digest> {
    let versions = keys.filter(|key| key.kind() == VERSION_KIND);
    versions.filter_map(|key| key.name().rsplit_once('@')?.1.parse().ok()).collect()
}

async fn components(folder: &mut Folder, local: &Local, state: &State) -> anyhow::Result<()> {
    let named = named(state.objects().map(|(key, _)| key));
    let Some(components) = local.components()? else { return Ok(()) };
    for digest in named {
        let file = components.file(digest, usize::MAX).await?;
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        folder.add(&format!("{COMPONENTS}/{digest}"), &bytes)?;
    }
    Ok(())
}

/// The migrations as they lie in their folder.
fn migrations(folder: &mut Folder, from: &Path) -> anyhow::Result<()> {
    for engine in ["postgres", "sqlite"] {
        let Ok(entries) = std::fs::read_dir(from.join(engine)) else { continue };
        for entry in entries {
            let path = entry.context("list the migrations")?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.extension().is_some_and(|extension| extension == "sql") {
                let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                folder.add(&format!("migrations/{engine}/{name}"), &text)?;
            }
        }
    }
    Ok(())
}

/// Looks at backups without a store or a database.
///
/// # Errors
/// The first thing that is not as it must be.
pub(crate) fn verify(command: &Verify) -> anyhow::Result<ExitCode> {
    let backups = command.folders.iter().map(|folder| Opened::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let verified = backup::verify(&backups)?;
    for backup in &backups {
        complete(backup)?;
    }
    if command.json {
        print(&serde_json::to_string_pretty(&json!({
            "bytes": verified.bytes, "files": verified.files, "records": verified.records, "rows": verified.rows,
        }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (files, bytes, rows, records) = (verified.files, verified.bytes, verified.rows, verified.records);
    print(&format!(
        "{files} files with {bytes} bytes are as they were written: {rows} rows, {records} records of logs"
    ))?;
    for (name, part) in backups.first().map(|first| &first.manifest().shards).into_iter().flatten() {
        let last = backups.last().and_then(|last| last.manifest().shards.get(name)).unwrap_or(part);
        let moment = |us: u64| humantime::format_rfc3339_millis(clock::from_unix_ms(us / 1_000)).to_string();
        let (from, to) = (moment(part.head.at_us), moment(last.until_us));
        print(&format!(
            "shard {name}: can be put back as it was from {from} to {to}, in epoch {}",
            part.head.epoch.0 + 1
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Does a backup have all components that its objects name?
fn complete(backup: &Opened) -> anyhow::Result<()> {
    if backup.manifest().tenant.is_some() {
        return Ok(());
    }
    let kept = kept(backup)?;
    for digest in named(kept.iter().map(|kept| &kept.key)) {
        let file = format!("{COMPONENTS}/{digest}");
        let there = backup.manifest().files.get(&file);
        if there.is_none_or(|file| file.sha256 != digest) {
            bail!("{}: is missing, and an object names it", backup.path(&file).display());
        }
    }
    Ok(())
}

/// The control store's objects of a backup.
fn kept(backup: &Opened) -> anyhow::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    if let Some(mut lines) = backup.lines(CONTROL)? {
        while let Some(object) = lines.read()? {
            kept.push(object);
        }
    }
    Ok(kept)
}
