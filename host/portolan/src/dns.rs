//! `portolan dns`: how names are told, and what is done about servers by hand.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portolan_dns::name::Name;
use portolan_dns::plan::{Plan, Regions};
use portolan_dns::push::Change;
use portolan_dns::server::last_plan;
use portolan_dns::sign::Key;
use portolan_foundation::clock;
use serde_json::Value;

use crate::cli::{Dns, dns as said};
use crate::client::Client;
use crate::config::Config;
use crate::node::{self, dns};
use crate::print;

/// Does what is asked.
///
/// # Errors
/// When no node answers, there is no plan, or a server does not take it.
pub(crate) fn run(command: &Dns) -> anyhow::Result<ExitCode> {
    match command {
        Dns::Status(asked) => {
            let status: Value = Client::open(&asked.target)?.get("/api/v1/status")?;
            let told = status.get("dns").filter(|told| !told.is_null());
            let told = told.context("no names are managed here: `[dns]` says which")?;
            print(&if asked.json { serde_json::to_string_pretty(told)? } else { text(told) })?;
        }
        Dns::Export(asked) => export(asked)?,
        Dns::Adopt(asked) => adopt(asked)?,
        Dns::Key(asked) => {
            let key = if asked.file.exists() { Key::read(&asked.file)? } else { Key::create(&asked.file)? };
            for zone in &asked.zones {
                print(&key.delegation(&Name::new(zone)?))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan that a node told last.
fn plan(config: &Config) -> anyhow::Result<Plan> {
    let folder = dns::folder(&config.state);
    let draft = last_plan(&folder).with_context(|| format!("read the plans in {}", folder.display()))?;
    let help = "no plan was told here yet: start a node with `[listen] dns` and `[dns]`";
    Plan::new(draft.context(help)?).map_err(|invalid| anyhow::anyhow!(invalid.0.join("; ")))
}

/// A configuration that stands by itself.
///
/// # Errors
/// When it is refused, with all that is wrong.
pub(crate) fn configured(file: &std::path::Path) -> anyhow::Result<Config> {
    let loaded = crate::load(file)?.map_err(|rejected| {
        let lines = rejected.problems.iter().map(|problem| problem.line(&rejected.sources));
        anyhow::anyhow!("{}", lines.collect::<Vec<_>>().join("\n"))
    })?;
    Ok(loaded.0.config)
}

fn export(asked: &said::Export) -> anyhow::Result<()> {
    let plan = plan(&configured(&asked.file.config)?)?;
    let wanted = asked.zone.as_deref().map(Name::new).transpose()?;
    let is_wanted = |zone: &&Name| wanted.as_ref().is_none_or(|wanted| wanted == *zone);
    let zones: Vec<&Name> = plan.zones().filter(is_wanted).collect();
    if zones.is_empty() {
        bail!("the plan has no such zone");
    }
    zones.into_iter().filter_map(|zone| plan.export(zone)).try_for_each(|text| print(text.trim_end()))
}

fn adopt(asked: &said::Adopt) -> anyhow::Result<()> {
    let config = configured(&asked.file.config)?;
    let plan = plan(&config)?;
    let names = config.dns.as_ref().context("no names are managed here: `[dns]` says which")?;
    let all = dns::servers(names)?.into_iter().chain(dns::clouds(names)?);
    let targets: Vec<_> = all.filter(|target| target.server().to_string() == asked.server).collect();
    if targets.is_empty() {
        bail!("{} is none of the servers of `[dns] push` and `[dns] cloud`", asked.server);
    }
    let (runtime, mut failed) = (node::control_runtime()?, 0);
    for target in targets {
        let change = Change::of(&plan, target.zone(), Regions::NONE, clock::unix_ms());
        let change = change.with_context(|| format!("the plan has no zone {}", target.zone()))?;
        let outcomes = runtime.block_on(async { target.push(&change, dns::ADOPT).await });
        for (name, outcome) in outcomes {
            match outcome {
                Ok(outcome) => print(&format!("{name}: {}", format!("{outcome:?}").to_lowercase()))?,
                Err(failure) => {
                    failed += 1;
                    print(&format!("{name}: {failure}"))?;
                }
            }
        }
    }
    if failed > 0 {
        bail!("{failed} names were not taken over");
    }
    Ok(())
}

fn text(told: &Value) -> String {
    let number = told.get("number").and_then(Value::as_u64);
    let mut lines = vec![number.map_or_else(|| "no plan yet".to_owned(), |number| format!("plan {number}"))];
    if told.get("writes_plans").and_then(Value::as_bool) == Some(true) {
        lines.push("this node writes plans".to_owned());
    }
    if let Some(problem) = told.get("problem").and_then(Value::as_str) {
        lines.push(format!("names are told as before: {problem}"));
    }
    for pushed in told.get("pushed").and_then(Value::as_array).into_iter().flatten() {
        let at = |key: &str| {
            pushed.get(key).map_or_else(String::new, |value| value.to_string().trim_matches('"').to_owned())
        };
        let guarded = pushed.get("guarded").and_then(Value::as_bool) != Some(false);
        let weaker =
            if guarded { "" } else { " (weaker: it does not compare the plan's number in a change)" };
        lines.push(format!("{} has plan {} of {}{weaker}", at("server"), at("number"), at("zone")));
        for (name, outcome) in pushed.get("names").and_then(Value::as_object).into_iter().flatten() {
            lines.push(format!("  {name}: {}", outcome.as_str().unwrap_or_default()));
        }
    }
    lines.join("\n")
}
