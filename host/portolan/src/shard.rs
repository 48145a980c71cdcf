//! `portolan shard`: which shards there are, where a tenant is, and who writes.

mod fleet;
mod rebalance;

pub(crate) use self::rebalance::change as change_objects;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http::Method;
use portolan_core::directory::{Directory, Rule, ShardIndex, even};
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use serde_json::{Value, json};

use crate::cli::Shard;
use crate::client::Client;
use crate::config::Config;
use crate::{config, print};

/// Does what is asked.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn run(command: &Shard) -> anyhow::Result<ExitCode> {
    match command {
        Shard::List(list) => {
            let told: Value = Client::open(&list.target)?.get("/api/v1/shards")?;
            let items = told.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if list.json {
                return shown(&Value::Array(items.to_vec()));
            }
            if items.is_empty() {
                print("there are no shards: declare one with `[shard.NAME]`")?;
            }
            items.iter().try_for_each(|item| print(&line(item)))?;
        }
        Shard::Locate(locate) => {
            let tenant = TenantName::new(&locate.tenant)?;
            let place: Value =
                Client::open(&locate.target)?.get(&format!("/api/v1/tenants/{tenant}/place"))?;
            if locate.json {
                return shown(&place);
            }
            let (shard, primary) = (text(&place, "/shard"), text(&place, "/primary"));
            let (by, access) = (text(&place, "/by"), text(&place, "/access"));
            print(&format!("tenant {tenant}: shard {shard}, written in {primary} (by {by}, {access})"))?;
        }
        Shard::Plan(command) => return rebalance::plan(command),
        Shard::Rebalance(command) => return rebalance::run(command),
        Shard::Add(command) => fleet::add(command)?,
        Shard::Remove(command) => fleet::remove(command)?,
        Shard::Move(command) => return crate::moving::one(command),
        Shard::Moves(command) => return crate::moving::list(command),
        Shard::Split(command) => return crate::moving::split(command),
        Shard::Merge(command) => return crate::moving::merge(command),
        Shard::Adopt(command) => return crate::migrate::adopt(command),
        Shard::Promote(promote) => {
            promoted(&Client::open(&promote.target)?, &promote.shard, promote.to.as_deref(), promote.partial)?
        }
        Shard::Drain(drain) => {
            let shard = ShardName::new(&drain.shard)?;
            let client = Client::open(&drain.target)?;
            let path = format!("/api/v1/objects/shard/{shard}");
            let revision = number(&client.get(&path)?, "/revision");
            let patch = if drain.undo { json!({ "drain": null }) } else { json!({ "drain": true }) };
            change(&client, Method::PATCH, &path, &patch, &[("if-match", &format!("\"{revision}\""))])?;
            let what = if drain.undo { "takes new tenants again" } else { "takes no new tenants" };
            print(&format!("shard {shard} {what}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Proposes even rules for the shards that take new tenants.
fn even_rules(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let (now, shards) = (&config.directory, config.directory.shards());
    let takers = |residency: Option<&ResidencyName>| -> Vec<ShardIndex> {
        let indexes = (0..).map(ShardIndex).zip(shards);
        indexes
            .filter(|(_, shard)| shard.takes_new && shard.residency.as_ref() == residency)
            .map(|(index, _)| index)
            .collect()
    };
    let mut rules: Vec<Rule> = Vec::new();
    for rule in now.rules() {
        let ranges = even(&rule.ranges, &takers(rule.residency.as_ref()));
        if ranges.is_empty() {
            let class = rule
                .residency
                .as_ref()
                .map_or_else(|| "without a class".to_owned(), |class| format!("of class `{class}`"));
            bail!("no shard takes tenants {class}: add one, or `portolan shard drain --undo` one");
        }
        rules.push(Rule { ranges, ..rule.clone() });
    }
    for shard in shards.iter().filter(|shard| shard.takes_new) {
        if !rules.iter().any(|rule| rule.residency == shard.residency && rule.location.is_none()) {
            let ranges = even(&[], &takers(shard.residency.as_ref()));
            rules.push(Rule { location: None, ranges, residency: shard.residency.clone() });
        }
    }
    if as_json {
        let moves: [Value; 0] = [];
        shown(&json!({ "moves": moves, "policy": null, "rules": rules_json(&rules, shards) }))?;
        return Ok(if rules == now.rules() { ExitCode::SUCCESS } else { ExitCode::from(crate::DIFFERS) });
    }
    if rules == now.rules() {
        print("the tenants are shared as evenly as they can be")?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = config::written(&rules, shards);
    let exceptions = now.exceptions().clone();
    let next = Directory::new(*now.key(), shards.to_vec(), rules, exceptions, &config.residencies)?;
    print(&text)?;
    let moved = now.movement(&next).largest * 100.0;
    print(&format!(
        "{moved:.1} % of the line of hashes would have another shard: give each tenant there that has rows a `[place.*]` of its own \
         before you write these rules, else its rows are not found"
    ))?;
    Ok(ExitCode::from(crate::DIFFERS))
}

/// Rules as `[placement]` has them, in JSON.
fn rules_json(rules: &[Rule], shards: &[portolan_core::directory::Shard]) -> Value {
    let name = |index: ShardIndex| shards.get(usize::from(index.0)).map(|shard| &shard.name);
    let rule = |rule: &Rule| {
        let ranges = rule.ranges.iter();
        let ranges: Vec<Value> = ranges
            .map(|range| json!({ "last": format!("{:016x}", range.last), "shard": name(range.shard) }))
            .collect();
        let mut body = serde_json::Map::from_iter([("ranges".to_owned(), ranges.into())]);
        body.extend(rule.location.iter().map(|name| ("location".to_owned(), name.as_str().into())));
        body.extend(rule.residency.iter().map(|name| ("residency".to_owned(), name.as_str().into())));
        Value::Object(body)
    };
    rules.iter().map(rule).collect()
}

/// Raises a shard's epoch, for this primary or another.
fn promoted(client: &Client, shard: &str, to: Option<&str>, partial: bool) -> anyhow::Result<()> {
    let shard = ShardName::new(shard)?;
    let told: Value = client.get("/api/v1/shards")?;
    let items = told.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let Some(item) = items.iter().find(|item| text(item, "/name") == shard.as_str()) else {
        bail!("there is no shard `{shard}`: `portolan shard list` shows them");
    };
    let now = text(item, "/primary");
    let primary = RegionName::new(to.unwrap_or(now))?;
    let replicas = item.get("replicas").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if primary.as_str() != now && !replicas.iter().any(|replica| replica.as_str() == Some(primary.as_str())) {
        bail!("region `{primary}` does not keep shard `{shard}`");
    }
    let epoch = number(item, "/epoch") + 1;
    let path = format!("/api/v1/objects/lease/{shard}");
    let lease = |epoch: u64| match partial {
        true => json!({ "epoch": epoch, "partial": true, "primary": primary }),
        false => json!({ "epoch": epoch, "primary": primary }),
    };
    let there: anyhow::Result<Value> = client.get(&path);
    match there {
        Ok(object) => {
            let epoch = epoch.max(number(&object, "/body/epoch") + 1);
            let body = lease(epoch);
            let revision = format!("\"{}\"", number(&object, "/revision"));
            change(client, Method::PUT, &path, &body, &[("if-match", &revision)])?;
        }
        Err(_) => change(client, Method::PUT, &path, &lease(epoch), &[("if-none-match", "*")])?,
    }
    print(&format!(
        "shard {shard}: epoch {epoch} begins in {primary}; `portolan shard list` shows when it is open"
    ))
}

fn change(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
    condition: &[(&str, &str)],
) -> anyhow::Result<()> {
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let headers: Vec<(&str, &str)> = [("content-type", kind)].iter().chain(condition).copied().collect();
    client.ask(method, path, &headers, Some(serde_json::to_vec(body).context("write the change")?)).map(drop)
}

fn line(shard: &Value) -> String {
    let names = |at: &str| {
        let list = shard.get(at).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let replicas = names("replicas");
    let replicas = if replicas.is_empty() { String::new() } else { format!(", copies in {replicas}") };
    let class = shard.get("residency").and_then(Value::as_str);
    let class = class.map_or_else(String::new, |class| format!(", class {class}"));
    let drained = if shard.get("takes_new") == Some(&Value::Bool(false)) { ", DRAINED" } else { "" };
    let here = shard.get("here").filter(|here| !here.is_null());
    let here = match here.map(|here| here.get("problem").and_then(Value::as_str)) {
        None => String::new(),
        Some(None) => "; open here".to_owned(),
        Some(Some(problem)) => format!("\n  PROBLEM {problem}"),
    };
    let external = match shard.get("external").filter(|external| !external.is_null()) {
        None => String::new(),
        Some(external) => engine(external),
    };
    let is = |pointer: &str| shard.pointer(pointer) == Some(&Value::Bool(true));
    let failing = if is("/here/failing") {
        "\n  FAILING its database was silent or gone: requests are refused"
    } else {
        ""
    };
    let used = shard.pointer("/here/used_percent").and_then(Value::as_u64);
    let used = used.map_or_else(String::new, |used| format!(", {used} % used"));
    let (name, primary, epoch) = (text(shard, "/name"), text(shard, "/primary"), number(shard, "/epoch"));
    format!(
        "{name}: written in {primary} in epoch {epoch}{replicas}{class}{drained}{used}{here}{external}{failing}"
    )
}

/// How an engine stands that replicates itself.
fn engine(external: &Value) -> String {
    let writes = external.get("writes").and_then(Value::as_bool);
    let behind = external.get("behind_ms").and_then(Value::as_u64);
    let state = match (writes, behind) {
        (Some(true), _) => "; its engine takes writes here".to_owned(),
        (Some(false), Some(behind)) => {
            format!("; its engine's copy here is {:.1} s behind", behind as f64 / 1e3)
        }
        (Some(false), None) => {
            "; its engine has a copy here, and does not say how far it is behind".to_owned()
        }
        (None, _) => String::new(),
    };
    match external.get("problem").and_then(Value::as_str) {
        Some(problem) => format!("{state}\n  PROBLEM {problem}"),
        None => state,
    }
}

fn shown(value: &Value) -> anyhow::Result<ExitCode> {
    print(&serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}
