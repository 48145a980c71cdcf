//! `portolan shard plan | rebalance`: what the policy of placement would change, and one step towards it.
//!
//! A step is a plan in the control store, `rebalance/ID`. Those who move tenants carry its moves out; then its rules hold, and the
//! next step can be made. Nothing here moves a row, and no rule changes before every tenant that it would move has moved.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::Method;
use portolan_control::{Body, Key, State};
use portolan_core::placement::{Limits, Move, Rebalancing, Stand};
use portolan_foundation::clock;
use portolan_policy::{Placer, Proposed};
use portolan_sharding::relocate::wanted::{KIND, Wanted};
use serde_json::{Value, json};

use super::{even_rules, number, rules_json, shown};
use crate::cli::{Plan, Rebalance};
use crate::client::Client;
use crate::config::{self, Config, intent};
use crate::placement::{self, Placing, led_away, shard_of};
use crate::{node, print};

/// A plan of the policy, with what it was asked over.
struct Asked {
    placer: Arc<Placer>,
    proposed: Proposed,
}

/// Shows what would change.
///
/// # Errors
/// When the policy is refused, fails, or proposes what does not hold.
pub(super) fn plan(command: &Plan) -> anyhow::Result<ExitCode> {
    let Some((loaded, state)) = crate::shown(crate::load(&command.file.config)?) else {
        return Ok(ExitCode::FAILURE);
    };
    let config = loaded.config;
    if config.placement.policy.is_none() {
        return even_rules(&config, command.json);
    }
    let asked = ask(&config, state.as_ref(), command.max_moves)?;
    show(&asked, &config, command.json)?;
    let is_empty = asked.proposed.rebalancing.is_empty();
    Ok(if is_empty { ExitCode::SUCCESS } else { ExitCode::from(crate::DIFFERS) })
}

/// Goes one step.
///
/// # Errors
/// As [`plan`], and when the control store does not take it.
pub(super) fn run(command: &Rebalance) -> anyhow::Result<ExitCode> {
    let Some((loaded, state)) = crate::shown(crate::load(&command.target.file.config)?) else {
        return Ok(ExitCode::FAILURE);
    };
    let (config, state) =
        (loaded.config, state.context("plans are kept in a control store: add `[control]`")?);
    let client = Client::open(&command.target)?;
    match under_way(&state)? {
        Some((id, _)) if command.forget => {
            change(&client, &[json!({ "kind": KIND, "name": id })], None, "forget a plan of moves")?;
            print(&format!("plan {id} is forgotten; who has moved stays there"))?;
            Ok(ExitCode::SUCCESS)
        }
        Some((id, wanted)) => go_on(&client, &config, &state, &id, &wanted, command),
        None if command.forget => bail!("there is no plan to forget"),
        None => begin(&client, &config, &state, command),
    }
}

/// Makes a plan, and leaves it for the movers.
fn begin(client: &Client, config: &Config, state: &State, command: &Rebalance) -> anyhow::Result<ExitCode> {
    if config.placement.policy.is_none() {
        bail!("no policy places tenants: name one in `[placement]`, such as `policy = \"jump-hash\"`");
    }
    let asked = ask(config, Some(state), command.max_moves)?;
    show(&asked, config, command.json)?;
    let rebalancing = &asked.proposed.rebalancing;
    if rebalancing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if command.dry_run {
        if !command.json {
            print("nothing was changed")?;
        }
        return Ok(ExitCode::from(crate::DIFFERS));
    }
    let wanted = Wanted {
        made_at_ms: clock::unix_ms(),
        moves: rebalancing.moves.clone(),
        policy: asked.placer.policy().clone(),
        rules: rebalancing.rules.as_ref().map(|rules| rules_json(rules, config.directory.shards())),
        version: asked.placer.version(),
    };
    let id = state.generation().to_string();
    let wish = json!({ "kind": KIND, "name": id, "body": wanted.body(), "if_revision": 0 });
    change(client, &[wish], Some(state.generation()), "plan moves of tenants")?;
    if !command.json {
        print(&format!(
            "plan {id} is made; now move its tenants, then run `portolan shard rebalance` again:"
        ))?;
        rebalancing.moves.iter().try_for_each(|one| print(&Wanted::command(one)))?;
    }
    Ok(ExitCode::from(crate::DIFFERS))
}

/// Says what of a plan is left; when nothing is, makes its rules hold and ends it.
fn go_on(
    client: &Client,
    config: &Config,
    state: &State,
    id: &str,
    wanted: &Wanted,
    command: &Rebalance,
) -> anyhow::Result<ExitCode> {
    let left: Vec<&Move> = wanted.moves.iter().filter(|one| !has_moved(config, one)).collect();
    if command.json {
        shown(&json!({ "plan": id, "left": left, "of": wanted.moves.len() }))?;
    }
    if !left.is_empty() || command.dry_run {
        if !command.json {
            print(&format!(
                "plan {id}: {} of {} tenants are still to move:",
                left.len(),
                wanted.moves.len()
            ))?;
            left.iter().try_for_each(|one| print(&Wanted::command(one)))?;
        }
        return Ok(ExitCode::from(crate::DIFFERS));
    }
    let mut wishes = vec![json!({ "kind": KIND, "name": id })];
    if let Some(rules) = &wanted.rules {
        let key = Key::new("settings", "placement")?;
        let there = state.get(&key).context("`[placement]` is in no object of the control store")?;
        if there.body.get("rule") != Some(rules) {
            let mut body = there.body.clone();
            body.insert("rule".to_owned(), rules.clone());
            let late = displaced(&command.target.file.config, config, state, &key, &body)?;
            if !late.is_empty() {
                print(&format!(
                    "plan {id}: {} tenants came since it was made and are to move, too:",
                    late.len()
                ))?;
                late.iter().try_for_each(|line| print(line))?;
                return Ok(ExitCode::from(crate::DIFFERS));
            }
            wishes.push(json!({ "kind": key.kind(), "name": key.name(), "body": body, "if_revision": there.revision }));
        }
    }
    let made = change(client, &wishes, Some(state.generation()), "end a plan of moves: its rules hold");
    made.with_context(|| match &wanted.rules {
        Some(rules) => format!(
            "all have moved; where a file has `[placement]`, write these rules there and come again: {rules}"
        ),
        None => "all have moved".to_owned(),
    })?;
    if !command.json {
        print(&format!("plan {id} is done; `portolan shard rebalance` makes the next, if there is one"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands for tenants that other rules would lead away from their rows: those that came after a plan was made.
fn displaced(
    path: &Path,
    config: &Config,
    state: &State,
    key: &Key,
    body: &Body,
) -> anyhow::Result<Vec<String>> {
    let others = state.objects().filter(|(other, _)| *other != key);
    let sources = others.filter_map(|(other, object)| intent::source(other, &object.body));
    let sources = sources.chain(intent::source(key, body)).collect();
    let Some(next) = crate::shown(config::load(path, crate::environment(), Some(sources))) else {
        bail!("the plan's rules hold no longer: `portolan shard rebalance --forget`, and make another")
    };
    let displaced = led_away(config, &next.config)
        .filter_map(|(name, _, to)| Some(format!("portolan shard move {name} --to {}", to?)));
    Ok(displaced.collect())
}

/// Is a tenant where a plan wants it? Who is gone needs no move.
fn has_moved(config: &Config, one: &Move) -> bool {
    !config.tenants.contains_key(&one.tenant) || shard_of(config, &one.tenant).as_ref() == Some(&one.to)
}

/// The plan that is not done yet.
pub(super) fn under_way(state: &State) -> anyhow::Result<Option<(String, Wanted)>> {
    let mut plans = state.objects().filter(|(key, _)| key.kind() == KIND);
    let Some((key, object)) = plans.next() else { return Ok(None) };
    let wanted = Wanted::read(&object.body).with_context(|| format!("read the plan `{key}`"))?;
    Ok(Some((key.name().to_owned(), wanted)))
}

/// Asks the policy.
fn ask(config: &Config, state: Option<&State>, max_moves: Option<u32>) -> anyhow::Result<Asked> {
    let runtime = node::control_runtime()?;
    let placing = Placing::new(None, runtime.handle().clone());
    placing.follow(config, state)?;
    let refused = placing.report().and_then(|report| report.refused);
    let placer = match (placing.placer(), refused) {
        (Some(placer), _) => placer,
        (None, Some(refused)) => return Err(anyhow::Error::new(refused).context("the policy of placement")),
        (None, None) => bail!("no policy places tenants"),
    };
    let picture = Arc::new(placement::picture(config, &|_| false));
    let usual = config.placement.limits;
    let most = max_moves.unwrap_or(usual.moves_max);
    anyhow::ensure!(
        most <= config::defaults::MOVES_MOST,
        "one plan moves at most {} tenants",
        config::defaults::MOVES_MOST
    );
    let limits = Limits { moves_max: most, ..usual };
    let proposed = placer.rebalance(&picture, &placement::facts(config), limits)?;
    Ok(Asked { placer, proposed })
}

fn show(asked: &Asked, config: &Config, as_json: bool) -> anyhow::Result<()> {
    let Rebalancing { moves, rules, line_permille, stands } = &asked.proposed.rebalancing;
    let (policy, version) = (asked.placer.policy(), asked.placer.version());
    if as_json {
        let rules = rules.as_ref().map(|rules| rules_json(rules, config.directory.shards()));
        shown(&json!({
            "policy": policy, "version": version, "moves": moves, "rules": rules, "line_permille": line_permille,
            "shards": stands, "fuel": asked.proposed.fuel_used, "log": asked.placer.lines(),
        }))?;
        return Ok(());
    }
    for line in asked.placer.lines() {
        print(&format!("{} [{}] {}", policy, line.level, line.text))?;
    }
    if asked.proposed.rebalancing.is_empty() {
        return print(&format!("{policy}@{}: all tenants stand well", version.short()));
    }
    print(&format!("{policy}@{}: {} tenants move", version.short(), moves.len()))?;
    for Move { tenant, from, to, reason } in moves {
        print(&format!("  {tenant}: {from} -> {to} ({reason})"))?;
    }
    stands.iter().filter(|stand| stand.before != stand.after).try_for_each(|stand| print(&line(stand)))?;
    if let Some(rules) = rules {
        let part = f64::from(*line_permille) / 10.0;
        print(&format!("then these rules hold; {part:.1} % of a line of hashes has another shard:"))?;
        print(&config::written(rules, config.directory.shards()))?;
        if !config.known_tenants_only {
            print(
                "tenants without a `[tenant.*]` of their own are not moved by this plan: give each that has rows one first, or set \
                 `known_only`, else its rows are not found when the rules hold",
            )?;
        }
    }
    Ok(())
}

fn line(stand: &Stand) -> String {
    let Stand { shard, before, after, capacity } = stand;
    let capacity = capacity.map_or_else(String::new, |capacity| format!(" of {capacity}"));
    format!("shard {shard}: {before} -> {after}{capacity} tenants")
}

/// Makes a change of several objects, all of it or nothing; only if it follows a generation, where one is given.
pub(crate) fn change(
    client: &Client,
    wishes: &[Value],
    generation: Option<u64>,
    message: &str,
) -> anyhow::Result<u64> {
    let body = json!({ "wishes": wishes, "generation": generation, "message": message });
    let headers = [("content-type", "application/json")];
    let answer = client.ask(
        Method::POST,
        "/api/v1/changes",
        &headers,
        Some(serde_json::to_vec(&body).context("write the change")?),
    )?;
    let told: Value = serde_json::from_slice(&answer.body).context("read the answer")?;
    Ok(number(&told, "/generation"))
}
