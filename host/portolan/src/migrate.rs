//! `portolan migrate` and `portolan shard adopt`: the tenants' schema in the databases of this region, reached from here and not
//! through a node, so that it works while nothing serves.

use std::io::IsTerminal as _;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context as _, bail};
use portolan_control::Store;
use portolan_core::ids::{RegionName, ShardName};
use portolan_sharding::adopt::{self, Severity};
use portolan_sharding::schema::{
    self, Copy, Event, Fleet, Locks, Migrations, Options, Report, Seen, Shard, Status, Watch,
};
use serde_json::json;

use crate::cli::{self, Adopt, Migrate};
use crate::config::Config;
use crate::{node, print};

/// Does what is asked.
///
/// # Errors
/// When a database does not answer, or refuses.
pub(crate) fn run(command: &Migrate) -> anyhow::Result<ExitCode> {
    let (fleet, run) = match command {
        Migrate::Status(look) => (&look.fleet, None),
        Migrate::Plan(plan) => (&plan.fleet, None),
        Migrate::Apply(apply) => (&apply.run.fleet, Some(&apply.run)),
        Migrate::Rollback(rollback) => (&rollback.run.fleet, Some(&rollback.run)),
    };
    let Some(config) = config(fleet)? else { return Ok(ExitCode::FAILURE) };
    let Some(migrations) = migrations(&config)? else { return Ok(ExitCode::FAILURE) };
    let runtime = node::control_runtime()?;
    runtime.block_on(async {
        let shards = open(&config, &fleet.shards).await?;
        let elsewhere = elsewhere(&config, &shards).await?;
        let fleet =
            Fleet { elsewhere: &elsewhere, migrations: &migrations, shards: &shards, tables: &config.tables };
        let mut options = Options::default();
        if let Some(run) = run {
            options.beside = run.beside.unwrap_or(options.beside);
            options.canary = run.canary.as_deref().map(ShardName::new).transpose()?;
        }
        match command {
            Migrate::Status(look) => show_status(&fleet.status().await, look.json),
            Migrate::Plan(plan) => show_plan(&fleet.plan(!plan.no_try).await?),
            Migrate::Apply(apply) => {
                options.through = apply.through;
                show_report(&fleet.apply(&options, &Progress::default()).await?)
            }
            Migrate::Rollback(rollback) => {
                show_report(&fleet.rollback(rollback.version, &options, &Progress::default()).await?)
            }
        }
    })
}

/// Looks at a database that is there already, and takes it over where nothing stands against it.
///
/// # Errors
/// When it does not answer.
pub(crate) fn adopt(command: &Adopt) -> anyhow::Result<ExitCode> {
    let Some(config) = config_of(&command.file.config)? else { return Ok(ExitCode::FAILURE) };
    let name = ShardName::new(&command.shard)?;
    let shard = config.shard(&name).map_err(anyhow::Error::msg)?;
    let engine = shard.stores.get(&config.local);
    let engine = engine.with_context(|| format!("shard `{name}` is not kept in `{}`", config.local))?;
    let runtime = node::control_runtime()?;
    let adoption = runtime.block_on(adopt::look(engine, &config.tables)).context("look at the database")?;
    for finding in &adoption.findings {
        let word = match finding.severity {
            Severity::Refuse => "REFUSED",
            Severity::Warn => "warning",
            Severity::Note => "note   ",
        };
        let table = finding.table.as_ref().map_or_else(String::new, |table| format!(" {table}:"));
        print(&format!("{word} [{}]{table} {}", finding.code, finding.what))?;
        print(&format!("        why: {}\n        do:  {}", finding.why, finding.advice))?;
    }
    print(&format!("score {} of 100", adoption.score()))?;
    if !adoption.may_go_on() {
        print("nothing was changed: mend what is refused, and look again")?;
        return Ok(ExitCode::from(crate::REFUSED));
    }
    if !command.yes {
        print("nothing was changed: `--yes` takes the database over")?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(async {
        let shards = open(&config, std::slice::from_ref(&command.shard)).await?;
        let shard = shards.first().context("open the shard")?;
        let version = command.baseline.unwrap_or(0);
        if version > 0 {
            let Some(migrations) = migrations(&config)? else { bail!("the migrations do not read") };
            schema::baseline(shard, &migrations, version).await?;
        }
        shard.store.declare(&config.tables, version).await.context("capture the tables")
    })?;
    print(&format!("shard {name} is adopted: its tables are captured and fenced"))?;
    Ok(ExitCode::SUCCESS)
}

fn config(fleet: &cli::Fleet) -> anyhow::Result<Option<Config>> {
    config_of(&fleet.file.config)
}

fn config_of(path: &std::path::Path) -> anyhow::Result<Option<Config>> {
    Ok(crate::shown(crate::load(path)?).map(|(loaded, _)| loaded.config))
}

/// The folder's migrations; none when it is shown what is wrong with them.
fn migrations(config: &Config) -> anyhow::Result<Option<Migrations>> {
    match Migrations::load(&config.migrations) {
        Ok(migrations) => Ok(Some(migrations)),
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            Ok(None)
        }
    }
}

/// The shards of this region, or those of these names.
async fn open(config: &Config, names: &[String]) -> anyhow::Result<Vec<Shard>> {
    if let Some(unknown) =
        names.iter().find(|name| !config.shards.keys().any(|known| known.as_str() == name.as_str()))
    {
        bail!("there is no shard `{unknown}`: `portolan shard list` shows them");
    }
    let mut shards = Vec::new();
    for (name, shard) in &config.shards {
        let Some(engine) = shard.stores.get(&config.local) else { continue };
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name.as_str()) {
            continue;
        }
        let copy = if shard.primary == config.local { Copy::Primary } else { Copy::Replica };
        let store = portolan_sharding::Store::open(engine, config.local.clone()).await;
        let store = store.with_context(|| format!("open shard `{name}`"))?;
        shards.push(Shard { copy, name: name.clone(), store });
    }
    if shards.is_empty() {
        bail!(
            "region `{}` keeps no shard: `[shard.NAME.store.{}]` says where one is",
            config.local,
            config.local
        );
    }
    Ok(shards)
}

/// Brings one shard's database in this region to the newest version of the tenants' schema that the folder has, and captures the tables.
/// Returns that version.
///
/// # Errors
/// When the database refuses, or the folder has no migrations that fit.
pub(crate) async fn bring_up(config: &Config, name: &ShardName) -> anyhow::Result<u64> {
    let Some(migrations) = migrations(config)? else { bail!("the migrations do not read") };
    let shards = open(config, &[name.to_string()]).await?;
    let elsewhere = elsewhere(config, &shards).await?;
    let fleet =
        Fleet { elsewhere: &elsewhere, migrations: &migrations, shards: &shards, tables: &config.tables };
    let report = fleet.apply(&Options::default(), &Progress::default()).await?;
    if show_report(&report)? != ExitCode::SUCCESS {
        bail!("the schema is not there yet: mend what is told above, and run it again");
    }
    let shard = shards.first().context("open the shard")?;
    Ok(shard.store.schema().await?)
}

/// Copies in other regions. What nobody has told of them is taken for the oldest, so that nothing is taken away from them.
async fn elsewhere(config: &Config, here: &[Shard]) -> anyhow::Result<Vec<Seen>> {
    let several = config.shards.values().any(|shard| shard.stores.len() > 1);
    let nodes = match config.control.as_ref().filter(|_| several) {
        Some(engine) => {
            let store = Store::open(engine.clone(), None).await.context("open the control store")?;
            store.look_at_nodes().await.context("ask what other regions run")?
        }
        None => Vec::new(),
    };
    let told = |region: &RegionName, shard: &ShardName| {
        let of_region = nodes.iter().filter(|node| node.region == region.as_str());
        of_region.filter_map(|node| node.schemas.get(shard)).min().copied().unwrap_or(0)
    };
    let mut seen = Vec::new();
    for shard in here {
        let stores = config.shards.get(&shard.name).map(|shard| shard.stores.keys()).into_iter().flatten();
        for region in stores.filter(|region| **region != config.local) {
            let version = told(region, &shard.name);
            seen.push(Seen { region: region.clone(), shard: shard.name.clone(), version });
        }
    }
    Ok(seen)
}

fn show_status(
    all: &[(ShardName, Result<Status, schema::Error>)],
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut current = true;
    let mut items = Vec::new();
    for (name, status) in all {
        match status {
            Ok(status) => {
                let mismatches: Vec<String> = status.mismatches.iter().map(ToString::to_string).collect();
                let half_done = status.half_done.as_ref().map(|half| format!("{half:?}"));
                current &= status.pending.is_empty() && mismatches.is_empty() && half_done.is_none();
                items.push(json!({
                    "shard": name, "version": status.version, "declared": status.declared,
                    "pending": status.pending, "mismatches": mismatches, "half_done": half_done,
                }));
                if !as_json {
                    let pending: Vec<String> =
                        status.pending.iter().map(|version| format!("{version:04}")).collect();
                    let pending = if pending.is_empty() { "nothing".to_owned() } else { pending.join(", ") };
                    print(&format!("shard {name}: version {:04}, pending: {pending}", status.version))?;
                    mismatches.iter().try_for_each(|mismatch| print(&format!("  MISMATCH {mismatch}")))?;
                    half_done.iter().try_for_each(|half| print(&format!("  HALF DONE {half}")))?;
                }
            }
            Err(error) => {
                current = false;
                items.push(json!({ "shard": name, "error": error.to_string() }));
                if !as_json {
                    print(&format!("shard {name}: {error}"))?;
                }
            }
        }
    }
    if as_json {
        print(&serde_json::to_string_pretty(&items)?)?;
    }
    Ok(if current { ExitCode::SUCCESS } else { ExitCode::from(crate::DIFFERS) })
}

fn show_plan(plans: &[schema::ShardPlan]) -> anyhow::Result<ExitCode> {
    let mut pending = false;
    for plan in plans {
        print(&format!("shard {}: version {:04}", plan.shard, plan.version))?;
        if plan.steps.is_empty() {
            print("  nothing is pending")?;
        }
        for step in &plan.steps {
            pending = true;
            let how = if step.transaction { "in one transaction" } else { "statement by statement" };
            print(&format!("  {:04} {} ({}, {how})", step.version, step.name, step.kind.as_str()))?;
            for statement in &step.statements {
                let text = statement.text.split_whitespace().collect::<Vec<_>>().join(" ");
                print(&format!("    {text}"))?;
                match &statement.locks {
                    Locks::File => print("      locks the file against writers")?,
                    Locks::Held(locks) => {
                        for lock in locks {
                            print(&format!("      locks {} ({})", lock.table, lock.mode))?;
                        }
                    }
                    Locks::Untried(why) => print(&format!("      its locks are not known: {why}"))?,
                }
            }
        }
    }
    Ok(if pending { ExitCode::from(crate::DIFFERS) } else { ExitCode::SUCCESS })
}

fn show_report(report: &Report) -> anyhow::Result<ExitCode> {
    for shard in &report.shards {
        let ran: Vec<String> = shard.ran.iter().map(|version| format!("{version:04}")).collect();
        let ran =
            if ran.is_empty() { "nothing was pending".to_owned() } else { format!("ran {}", ran.join(", ")) };
        match (&shard.error, shard.begun) {
            (Some(error), _) => print(&format!("shard {}: {ran}; FAILED: {error}", shard.shard))?,
            (None, true) => print(&format!("shard {}: {ran}", shard.shard))?,
            (None, false) => {
                print(&format!("shard {}: not begun, because the first one failed", shard.shard))?
            }
        }
    }
    if let Some(waits) = &report.waits {
        print(&format!("WAITS {waits}"))?;
    }
    Ok(if report.is_done() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells of a run on stderr: a line for each step, or on a terminal one line that moves.
#[derive(Debug, Default)]
struct Progress(Mutex<()>);

impl Watch for Progress {
    fn event(&self, shard: &ShardName, event: &Event) -> ControlFlow<()> {
        let _one_line = self.0.lock();
        let moving = std::io::stderr().is_terminal();
        match event {
            Event::Began { name, version } => eprintln!("{shard}: {version:04} {name}"),
            Event::Statement { at, of, rows, .. } if moving => {
                eprint!("\r{shard}: {at} of {of}, {rows} rows\x1b[K")
            }
            Event::Finished { version, .. } => {
                let clear = if moving { "\r\x1b[K" } else { "" };
                eprintln!("{clear}{shard}: {version:04} is done");
            }
            Event::Repaired { index, .. } => eprintln!("{shard}: the unfinished index {index} is made again"),
            Event::Retry { pause, why, .. } => eprintln!("{shard}: {why}; again in {pause:?}"),
            Event::Declared { .. } | Event::Recorded { .. } | Event::Statement { .. } => {}
        }
        ControlFlow::Continue(())
    }
}
