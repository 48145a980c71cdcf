//! `portolan rollout ...`: a client of the admin API.

use std::path::Path;
use std::process::ExitCode;

use portolan_admin::Page;
use portolan_admin::backend::{Rollout, RolloutDone};
use serde_json::{Map, Value, json};

use super::show;
use crate::cli::{RolloutChange, RolloutStart, Rollouts, Target};
use crate::client::{Client, encode};
use crate::print;

/// Does what is asked.
///
/// # Errors
/// When it is refused, or nobody answers; the text says what to do.
pub(crate) fn run(command: &Rollouts) -> anyhow::Result<ExitCode> {
    match command {
        Rollouts::Status { slot, target, json } => return status(slot.as_deref(), target, *json),
        Rollouts::Start(start) => change(&start.change, "", begin(start)?)?,
        Rollouts::Promote { change: of, percent, full } => {
            change(of, "/promote", json!({ "full": full, "percent": percent }))?;
        }
        Rollouts::Pause(of) => change(of, "/pause", json!({}))?,
        Rollouts::Resume(of) => change(of, "/resume", json!({}))?,
        Rollouts::Abort(of) => change(of, "/abort", json!({}))?,
        Rollouts::Unpin(of) => change(of, "/unpin", json!({}))?,
        Rollouts::Rollback { change: of, to, policy_config } => {
            change(of, "/rollback", json!({ "to": to, "config": table(policy_config.as_deref())? }))?;
        }
        Rollouts::Pin { change: of, version, policy_config } => {
            change(of, "/pin", json!({ "version": version, "config": table(policy_config.as_deref())? }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn begin(start: &RolloutStart) -> anyhow::Result<Value> {
    let p99_us = start.max_p99.map(|limit| limit.as_micros());
    Ok(json!({
        "version": start.version,
        "affinity": start.affinity.map(portolan_core::lane::Affinity::from),
        "config": table(start.policy_config.as_deref())?,
        "limits": {
            "divergence_permille": start.max_divergence,
            "min_decisions": start.min_decisions,
            "overruns_permille": start.max_overruns,
            "p99_us": p99_us.map(|limit| u64::try_from(limit).unwrap_or(u64::MAX)),
            "traps_permille": start.max_traps,
        },
        "percent": if start.shadow { 0 } else { start.canary.unwrap_or(0) },
    }))
}

fn table(text: Option<&str>) -> anyhow::Result<Option<Map<String, Value>>> {
    let read = |text| serde_json::from_str(text);
    text.map(read)
        .transpose()
        .map_err(|error| anyhow::anyhow!("the policy's configuration is to be a JSON object: {error}"))
}

/// Asks for one change, and tells of it.
fn change(of: &RolloutChange, what: &str, mut wanted: Value) -> anyhow::Result<()> {
    if let Value::Object(wanted) = &mut wanted {
        wanted.insert("message".to_owned(), json!(of.message));
    }
    let path = format!("/api/v1/rollouts/{}{what}?dry_run={}", encode(&of.slot), of.dry_run);
    let mut done: RolloutDone = Client::open(&of.target)?.post(&path, &wanted)?;
    let suffix = suffix(&of.target);
    done.undo.iter_mut().for_each(|line| line.push_str(&suffix));
    if of.json {
        return print(&serde_json::to_string_pretty(&done)?);
    }
    let version = |digest: &Option<String>| {
        let short = digest.as_ref().and_then(|digest| digest.get(..12));
        short.map_or_else(
            || format!("{}, its own file,", done.plugin),
            |short| format!("{}@{short}", done.plugin),
        )
    };
    let live = matches!(done.phase.as_str(), "shadow" | "canary" | "paused");
    let what = if live {
        let part = if done.percent > 0 { format!(", {}%", done.percent) } else { String::new() };
        format!("{} is on trial: {}{part}", version(&done.candidate), done.phase)
    } else {
        format!("{} runs for all{}", version(&done.stable), if done.pinned { ", pinned" } else { "" })
    };
    let shown = if done.dry_run { "; nothing was changed" } else { "" };
    print(&format!("{}: {what} (rollout {}, generation {}{shown})", done.slot, done.id, done.generation))?;
    done.notes.iter().try_for_each(|note| print(&format!("note: {note}")))?;
    if !done.undo.is_empty() && !done.dry_run {
        print(&format!("undo: {}", done.undo.join(" && ")))?;
    }
    Ok(())
}

/// Whoever asked another node takes it back there too.
fn suffix(target: &Target) -> String {
    let quoted = |name: &str, value: &str| format!(" --{name} '{value}'");
    let file = (target.file.config != Path::new("portolan.toml"))
        .then(|| quoted("config", &target.file.config.display().to_string()));
    let socket = target.socket.as_ref().map(|socket| quoted("socket", &socket.display().to_string()));
    let api = target.api.as_ref().map(|api| quoted("api", api));
    let ca = target.api_ca.as_ref().map(|ca| quoted("api-ca", &ca.display().to_string()));
    [file, socket, api, ca].into_iter().flatten().collect()
}

/// Shows how rollouts stand. Ends with 2 when one was rolled back by a verdict.
fn status(only: Option<&str>, target: &Target, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(target)?;
    let found: Vec<Rollout> = match only {
        Some(slot) => vec![client.get(&format!("/api/v1/rollouts/{}", encode(slot)))?],
        None => all(&client)?,
    };
    let views = found.into_iter().map(|rollout| serde_json::from_value(Value::Object(rollout.stands)));
    let views: Vec<show::View> = views.collect::<Result<_, _>>()?;
    if as_json {
        print(&serde_json::to_string_pretty(&views)?)?;
    } else if views.is_empty() {
        print("nothing was rolled out yet: `portolan rollout start SLOT PLUGIN@VERSION`")?;
    } else {
        views.iter().flat_map(show::View::lines).try_for_each(|line| print(&line))?;
    }
    let bad = views.iter().any(show::View::is_bad);
    Ok(if bad { ExitCode::from(crate::DIFFERS) } else { ExitCode::SUCCESS })
}

fn all(client: &Client) -> anyhow::Result<Vec<Rollout>> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Rollout> = client.get(&format!("/api/v1/rollouts?limit=500{cursor}"))?;
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}
