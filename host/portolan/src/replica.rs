//! `portolan replica add | remove` and `portolan region add | remove`: where shards are kept, one step after the other, each of which may
//! be repeated.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use portolan_admin::Operation;
use portolan_control::{Body, Key, State};
use portolan_core::ids::{RegionName, ShardName};
use portolan_sharding::vacancy;
use serde_json::{Value, json};

use crate::cli::{self, Region, Replica};
use crate::client::{Client, encode};
use crate::config::{self, Config, Loaded, intent};
use crate::leases::SHARD_KIND;
use crate::shard::change_objects as change;
use crate::{migrate, node, operation, print};

const REGION_KIND: &str = "region";
/// From one look at a copy to the next.
const LOOK: Duration = Duration::from_millis(500);
/// How long a copy may stand still before it is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Does what is asked of copies.
///
/// # Errors
/// What stands against it, and what to do.
pub(crate) fn run(command: &Replica) -> anyhow::Result<ExitCode> {
    match command {
        Replica::Add(command) => add(command),
        Replica::Remove(command) => remove(command),
    }
}

/// Does what is asked of regions.
///
/// # Errors
/// What stands against it, and what to do.
pub(crate) fn run_region(command: &Region) -> anyhow::Result<ExitCode> {
    match command {
        Region::Add(command) => add_region(command),
        Region::Remove(command) => remove_region(command),
    }
}

fn add(command: &cli::AddReplica) -> anyhow::Result<ExitCode> {
    let (shard, region) = (ShardName::new(&command.shard)?, RegionName::new(&command.region)?);
    let (config, state) = intended(&command.target.file.config)?;
    ensure!(
        config.local == region,
        "this is region `{}`: run it in `{region}`, where its database is and its node follows",
        config.local
    );
    let there = config.shard(&shard).map_err(anyhow::Error::msg)?;
    let client = Client::open(&command.target)?;
    if there.stores.contains_key(&region) {
        print(&format!("1/4 shard {shard} is declared in {region} already: it goes on"))?;
        let version = node::control_runtime()?.block_on(migrate::bring_up(&config, &shard))?;
        print(&format!("2/4 it has version {version:04} of the tenants' schema"))?;
    } else {
        declare(command, (&shard, &region), &state, &client)?;
    }
    if command.no_wait {
        print(&format!(
            "not waited for: `portolan sync status` tells how the copy comes, `portolan sync audit {shard}` compares it"
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(there.primary != region, "region `{region}` writes shard `{shard}`: it follows nobody");
    follow(&client, &shard, &there.primary)?;
    let path = format!("/api/v1/shards/{}/audit", encode(shard.as_str()));
    let begun: Operation = client.post(&path, &json!({}))?;
    let ended = operation::followed(&client, begun, false)?;
    if let Some(problem) = ended.problem {
        bail!("the copy follows, and is not as its primary: {}", problem.detail);
    }
    print(&format!("4/4 compared with {}: alike", there.primary))?;
    print(&format!(
        "region {region} keeps shard {shard}; to take it away: portolan replica remove {shard} {region}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Brings the database to the shard's schema, and declares the copy.
fn declare(
    command: &cli::AddReplica,
    (shard, region): (&ShardName, &RegionName),
    state: &State,
    client: &Client,
) -> anyhow::Result<()> {
    let (key, mut body, revision) = object(state, SHARD_KIND, shard.as_str())?;
    let stores = body.entry("store").or_insert_with(|| json!({}));
    let stores = stores.as_object_mut().context("`store` of the shard is no table")?;
    stores.insert(region.as_str().to_owned(), store(command)?);
    let config = with(&command.target.file.config, state, &key, Some(&body))?;
    let engine = config.shards.get(shard).and_then(|shard| shard.stores.get(region));
    let engine = engine.context("the store of the region is none")?;
    let runtime = node::control_runtime()?;
    let found = runtime.block_on(vacancy::look(engine, &config.tables));
    let found = found.with_context(|| format!("look at the database in {region}"))?;
    if !found.occupied.is_empty() {
        let tables: Vec<&str> = found.occupied.iter().map(|table| table.as_str()).collect();
        bail!(
            "its database has rows in {}: give the copy an empty one; rows that only it has would be taken away",
            tables.join(", ")
        );
    }
    print(&format!("1/4 the database in {region} answers, and is empty"))?;
    let version = runtime.block_on(migrate::bring_up(&config, shard))?;
    print(&format!("2/4 it has version {version:04} of the tenants' schema"))?;
    let wish = json!({ "kind": key.kind(), "name": key.name(), "body": body, "if_revision": revision });
    change(client, &[wish], Some(state.generation()), &format!("keep shard {shard} in {region}")).map(drop)
}

/// Waits until the copy follows its primary closely, and shows how it comes.
fn follow(client: &Client, shard: &ShardName, primary: &RegionName) -> anyhow::Result<()> {
    let (mut out, mut moved, mut seen) = (std::io::stderr(), Instant::now(), Value::Null);
    let terminal = out.is_terminal();
    loop {
        let told: Value = client.get("/api/v1/shards")?;
        let feed = feed(&told, shard, primary);
        let lag = feed.get("lag_ms").and_then(Value::as_u64);
        let rows = feed.get("copied_rows").and_then(Value::as_u64);
        if feed.get("state").and_then(Value::as_str) == Some("following")
            && lag.is_some_and(|lag| lag < 5_000)
        {
            if terminal {
                write!(out, "\r\x1b[K")?;
            }
            return print(&format!("3/4 the rows are here, and the log of {primary} is followed"));
        }
        if terminal {
            let shown = rows
                .map_or_else(|| "it looks for its source".to_owned(), |rows| format!("{rows} rows copied"));
            write!(out, "\r\x1b[K    {shown}")?;
            out.flush()?;
        }
        let now = json!([rows, feed.get("records"), feed.get("state")]);
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            let why =
                feed.get("problem").and_then(Value::as_str).unwrap_or("the node has not begun to follow");
            bail!(
                "the copy has stood still for {PATIENCE:?}: {why}; it is declared and goes on by itself, and this command may be repeated"
            );
        }
        std::thread::park_timeout(LOOK);
    }
}

/// The feed of a shard's primary, as a node tells it.
fn feed(told: &Value, shard: &ShardName, primary: &RegionName) -> Value {
    let shards = told.get("items").and_then(Value::as_array).into_iter().flatten();
    let mut of_shard = shards.filter(|item| item.get("name").and_then(Value::as_str) == Some(shard.as_str()));
    let feeds = of_shard.next().and_then(|item| item.get("follows")).and_then(Value::as_array);
    let from = |feed: &&Value| feed.get("source").and_then(Value::as_str) == Some(primary.as_str());
    feeds.into_iter().flatten().find(from).cloned().unwrap_or_default()
}

fn store(command: &cli::AddReplica) -> anyhow::Result<Value> {
    if let Some(file) = &command.sqlite {
        let path = std::path::absolute(file).context("find the file's folder")?;
        return Ok(json!({ "sqlite": path }));
    }
    let file = command.from.as_ref().context("say where it is: --from FILE or --sqlite FILE")?;
    table(file).map(Value::Object)
}

fn remove(command: &cli::RemoveReplica) -> anyhow::Result<ExitCode> {
    let (shard, region) = (ShardName::new(&command.shard)?, RegionName::new(&command.region)?);
    let path = &command.target.file.config;
    let (config, state) = intended(path)?;
    let there = config.shard(&shard).map_err(anyhow::Error::msg)?;
    ensure!(there.stores.contains_key(&region), "region `{region}` keeps no copy of shard `{shard}`");
    ensure!(there.stores.len() > 1, "region `{region}` keeps the last copy of shard `{shard}`");
    ensure!(
        there.primary != region,
        "region `{region}` writes shard `{shard}`: promote another first, `portolan shard promote {shard} --to REGION`"
    );
    let (key, mut body, revision) = object(&state, SHARD_KIND, shard.as_str())?;
    if let Some(stores) = body.get_mut("store").and_then(Value::as_object_mut) {
        stores.remove(region.as_str());
    }
    if let Some(primary) = body.get_mut("primary").filter(|primary| primary.as_str() == Some(region.as_str()))
    {
        // The lease says who writes; this word is for a shard that has none.
        *primary = there.primary.as_str().into();
    }
    with(path, &state, &key, Some(&body))?;
    let wish = json!({ "kind": key.kind(), "name": key.name(), "body": body, "if_revision": revision });
    let message = format!("keep shard {shard} in {region} no longer");
    change(&Client::open(&command.target)?, &[wish], Some(state.generation()), &message)?;
    print(&format!(
        "region {region} keeps shard {shard} no longer: readers go elsewhere, and nothing is kept for it; its database is as it was"
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn add_region(command: &cli::AddRegion) -> anyhow::Result<ExitCode> {
    let region = RegionName::new(&command.region)?;
    let path = &command.target.file.config;
    let (config, state) = intended(path)?;
    ensure!(!config.regions.contains_key(&region), "there is a region `{region}` already");
    let (key, body) = (Key::new(REGION_KIND, region.as_str())?, table(&command.from)?);
    with(path, &state, &key, Some(&body))?;
    let wish = json!({ "kind": key.kind(), "name": key.name(), "body": body, "if_revision": 0 });
    change(
        &Client::open(&command.target)?,
        &[wish],
        Some(state.generation()),
        &format!("add the region {region}"),
    )?;
    print(&format!("region {region} is there; in it: portolan replica add SHARD {region} --from FILE"))?;
    Ok(ExitCode::SUCCESS)
}

fn remove_region(command: &cli::RemoveRegion) -> anyhow::Result<ExitCode> {
    let region = RegionName::new(&command.region)?;
    let path = &command.target.file.config;
    let (config, state) = intended(path)?;
    ensure!(config.regions.contains_key(&region), "there is no region `{region}`");
    let keeps: Vec<String> = config
        .shards
        .iter()
        .filter(|(_, shard)| shard.stores.contains_key(&region))
        .map(|(name, _)| format!("`portolan replica remove {name} {region}`"))
        .collect();
    ensure!(keeps.is_empty(), "region `{region}` still keeps shards: {}", keeps.join(", "));
    let (key, _, revision) = object(&state, REGION_KIND, region.as_str())?;
    with(path, &state, &key, None)?;
    let wish = json!({ "kind": key.kind(), "name": key.name(), "if_revision": revision });
    change(
        &Client::open(&command.target)?,
        &[wish],
        Some(state.generation()),
        &format!("remove the region {region}"),
    )?;
    print(&format!("region {region} is gone from the configuration: stop its nodes"))?;
    Ok(ExitCode::SUCCESS)
}

/// What is intended, in a control store.
fn intended(path: &Path) -> anyhow::Result<(Config, State)> {
    let Some((Loaded { config, .. }, state)) = crate::shown(crate::load(path)?) else {
        bail!("mend the configuration first")
    };
    let state =
        state.context("this changes what a control store says: without one, change conf.d and reload")?;
    Ok((config, state))
}

/// The configuration as it would be with another object, or without it.
fn with(path: &Path, state: &State, key: &Key, body: Option<&Body>) -> anyhow::Result<Config> {
    let others = state.objects().filter(|(other, _)| *other != key);
    let others = others.filter_map(|(key, object)| intent::source(key, &object.body));
    let sources = others.chain(body.and_then(|body| intent::source(key, body))).collect();
    let loaded = config::load(path, crate::environment(), Some(sources));
    let Some(Loaded { config, .. }) = crate::shown(loaded) else { bail!("that does not fit what is there") };
    Ok(config)
}

fn object(state: &State, kind: &str, name: &str) -> anyhow::Result<(Key, Body, u64)> {
    let key = Key::new(kind, name)?;
    let object = state.get(&key);
    let object = object.with_context(|| {
        format!(
            "`{kind}.{name}` is in a file and not in the control store: change it there, and `portolan apply`"
        )
    })?;
    Ok((key.clone(), object.body.clone(), object.revision))
}

fn table(file: &Path) -> anyhow::Result<Body> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("read {}", file.display()))?;
    match serde_json::to_value(&table)? {
        Value::Object(body) => Ok(body),
        _ => bail!("{} holds no table", file.display()),
    }
}
