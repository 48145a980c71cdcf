//! `portolan status`: how a running node stands, for people and as JSON.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::Status;
use crate::client::Client;
use crate::print;

/// Shows it. Exits with 2 when what runs differs from what is wanted.
///
/// # Errors
/// When no node answers.
pub(crate) fn run(options: &Status) -> anyhow::Result<ExitCode> {
    let status: Value = Client::open(&options.target)?.get("/api/v1/status")?;
    if options.json {
        print(&serde_json::to_string_pretty(&status)?)?;
    } else {
        print(render(&status).trim_end())?;
    }
    Ok(if differs(&status) { ExitCode::from(crate::DIFFERS) } else { ExitCode::SUCCESS })
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A shard, in a line or two.
fn shard(shard: &Value, lines: &mut Vec<String>) {
    let schema = shard.get("schema").and_then(Value::as_u64);
    let schema = schema.map_or_else(String::new, |version| format!(", schema {version}"));
    let lease = shard.get("lease_ms").and_then(Value::as_u64);
    let lease = lease.map_or_else(String::new, |left| format!(", lease for {:.1} s", left as f64 / 1e3));
    let (name, role, epoch) = (text(shard, "/name"), text(shard, "/role"), number(shard, "/epoch"));
    lines.push(format!("shard {name}: {role} in epoch {epoch}{lease}{schema}"));
    if let Some(problem) = shard.get("problem").and_then(Value::as_str) {
        lines.push(format!("  PROBLEM {problem}"));
    }
}

/// A copy of a shard's content, in a line or two.
fn content(copy: &Value, lines: &mut Vec<String>) {
    let (name, source, behind) = (text(copy, "/shard"), text(copy, "/source"), number(copy, "/behind"));
    let age = copy.get("behind_ms").and_then(Value::as_u64);
    let age = age.map_or_else(|| "not heard yet".to_owned(), |age| format!("{:.1} s old", age as f64 / 1e3));
    let lacking = if behind == 0 { String::new() } else { format!(", {behind} tenants lack something") };
    let stranded = match number(copy, "/stranded") {
        0 => String::new(),
        some => format!(", {some} changes stranded"),
    };
    lines.push(format!("content of {name}: from {source}, {age}{lacking}{stranded}"));
    if let Some(problem) = copy.get("problem").and_then(Value::as_str) {
        lines.push(format!("  PROBLEM {problem}"));
    }
}

/// Does anything wanted not run?
fn differs(status: &Value) -> bool {
    let slots = list(status, "/configuration/slots");
    !list(status, "/configuration/problems").is_empty()
        || !list(status, "/configuration/restart_needed").is_empty()
        || control_differs(status)
        || status.get("identity").filter(|identity| identity.is_object()).is_some_and(|identity| {
            identity.get("problem").is_some_and(Value::is_string) || ends_soon(identity)
        })
        || list(status, "/rollouts")
            .iter()
            .any(|rollout| rollout.get("stopped").is_some_and(Value::is_string))
        || ["/shards", "/content/copies"]
            .iter()
            .any(|all| list(status, all).iter().any(|each| each.get("problem").is_some_and(Value::is_string)))
        || status.pointer("/placement/refused").is_some_and(|refused| !refused.is_null())
        || slots.iter().any(|slot| slot.get("refused").is_some_and(|refused| !refused.is_null()))
}

fn control_differs(status: &Value) -> bool {
    let control = status.pointer("/control").filter(|control| !control.is_null());
    control.is_some_and(|control| {
        text(control, "/health/is") != "connected" || control.get("running") != control.get("wanted")
    })
}

/// Another node, in a line.
fn node(node: &Value, wanted: u64) -> String {
    let running = number(node, "/running");
    let behind = if running < wanted { ", BEHIND" } else { "" };
    let problems = list(node, "/problems").iter().filter_map(Value::as_str);
    let problems: String = problems.map(|problem| format!("\n    {problem}")).collect();
    format!(
        "  {:14} in {}: portolan {}, generation {running}{behind}{problems}",
        text(node, "/name"),
        text(node, "/region"),
        text(node, "/version")
    )
}

/// What is on trial in a slot, in a line.
fn rollout(rollout: &Value) -> String {
    let part = match text(rollout, "/phase") {
        "canary" => format!("canary of {}%", number(rollout, "/percent")),
        phase => phase.to_owned(),
    };
    let off = rollout.get("stopped").and_then(Value::as_str);
    let off = off.map_or_else(String::new, |reason| format!("\n  TAKEN OFF HERE: {reason}"));
    format!(
        "rollout {}: {}, {part}; {} decisions here{off}",
        text(rollout, "/slot"),
        text(rollout, "/version"),
        number(rollout, "/here/candidate/decisions"),
    )
}

/// How it stands with the control store, in a line.
fn control(control: &Value) -> String {
    let (running, wanted) = (number(control, "/running"), number(control, "/wanted"));
    let runs = if running == wanted {
        format!("generation {running} runs")
    } else {
        format!("generation {running} runs, {wanted} is wanted")
    };
    match text(control, "/health/is") {
        "connected" => format!("control store: {runs}"),
        "-" => format!("control store: {runs}, PINNED; nothing is followed"),
        _ => format!("control store: {runs}; LOST: {}", text(control, "/health/reason")),
    }
}

/// The name of a slot as JSON has it: `"operator"` or `{"tenant": "acme"}`.
fn slot_name(slot: &Value) -> String {
    match slot.get("slot") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Object(of)) => {
            of.iter().map(|(kind, name)| format!("{kind} {}", name.as_str().unwrap_or_default())).collect()
        }
        _ => "-".to_owned(),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn render(status: &Value) -> String {
    let mut lines = Vec::new();
    let draining = if status.get("draining") == Some(&Value::Bool(true)) { ", draining" } else { "" };
    lines.push(format!(
        "portolan {} in {}: snapshot {}, up {} s{draining}",
        text(status, "/version"),
        text(status, "/region"),
        number(status, "/generation"),
        number(status, "/uptime_s"),
    ));
    let addresses: Vec<&str> = list(status, "/listeners").iter().filter_map(Value::as_str).collect();
    lines.push(format!(
        "listens on {}; {} connections",
        addresses.join(", "),
        number(status, "/connections")
    ));
    lines.extend(identity(status));
    for problem in list(status, "/configuration/problems").iter().filter_map(Value::as_str) {
        lines.push(format!("PROBLEM  {problem}; the configuration before it runs"));
    }
    lines.extend(status.pointer("/control").filter(|control| !control.is_null()).map(control));
    let wanted = number(status, "/control/wanted");
    lines.extend(list(status, "/nodes").iter().map(|other| node(other, wanted)));
    lines.extend(list(status, "/rollouts").iter().map(rollout));
    let restart: Vec<&str> =
        list(status, "/configuration/restart_needed").iter().filter_map(Value::as_str).collect();
    if !restart.is_empty() {
        lines.push(format!(
            "RESTART  {} changed on disk and take effect at the next start",
            restart.join(", ")
        ));
    }
    lines.extend(broken_glass(status));
    lines.extend(list(status, "/tenants").iter().filter_map(demoted));
    lines.push(String::new());
    for region in list(status, "/regions") {
        let here = if region.get("local") == Some(&Value::Bool(true)) { " (here)" } else { "" };
        let latency = region.get("latency_us").and_then(Value::as_u64);
        let latency = latency.map_or_else(String::new, |us| format!(", {:.1} ms away", us as f64 / 1_000.0));
        lines.push(format!("region {}{here}: {}{latency}", text(region, "/name"), text(region, "/verdict")));
        lines.extend(steered(region));
        for pool in list(region, "/pools") {
            let endpoints: Vec<String> = list(pool, "/endpoints").iter().map(endpoint).collect();
            lines.push(format!("  {:14} {}", text(pool, "/name"), endpoints.join("  ")));
        }
    }
    if !list(status, "/shards").is_empty() {
        lines.push(String::new());
        lines.extend(placement(status));
        list(status, "/shards").iter().for_each(|each| shard(each, &mut lines));
        list(status, "/content/copies").iter().for_each(|each| content(each, &mut lines));
    }
    let slots = list(status, "/configuration/slots");
    if !slots.is_empty() {
        lines.push(String::new());
    }
    slots.iter().for_each(|slot| show_slot(slot, &mut lines));
    lines.join("\n")
}

/// Whose this gateway is for other regions, and for how long.
fn identity(status: &Value) -> Option<String> {
    let identity = status.get("identity").filter(|identity| identity.is_object())?;
    let id = text(identity, "/id");
    if let Some(problem) = identity.get("problem").and_then(Value::as_str) {
        return Some(format!("UNBELIEVED  {id}: {problem}"));
    }
    let left = seconds_left(identity);
    let (days, hours) = (left / 86_400, left / 3_600 % 24);
    Some(match ends_soon(identity) {
        true => format!(
            "ENDING   {id} is believed for {days} d {hours} h more: `portolan pki issue` makes another certificate"
        ),
        false => format!("known to other regions as {id} for {days} d {hours} h"),
    })
}

/// Has a certificate lived for four fifths of its time?
fn ends_soon(identity: &Value) -> bool {
    let at = |pointer: &str| identity.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    seconds_left(identity).saturating_mul(5) < at("/not_after").saturating_sub(at("/not_before"))
}

fn seconds_left(identity: &Value) -> i64 {
    let now = i64::try_from(portolan_foundation::clock::unix_ms() / 1_000).unwrap_or(i64::MAX);
    let until = identity.pointer("/not_after").and_then(Value::as_i64).unwrap_or(0);
    until.saturating_sub(now).max(0)
}

/// The policy that places tenants, and what is wrong with it.
fn placement(status: &Value) -> Option<String> {
    let placement = status.get("placement").filter(|placement| placement.is_object())?;
    let version: String = text(placement, "/version").chars().take(12).collect();
    let runs = match placement.get("policy").and_then(Value::as_str) {
        Some(policy) => format!("tenants are placed by {policy}@{version}"),
        None => "tenants are placed by the rules alone".to_owned(),
    };
    let refused = placement.get("refused").filter(|refused| refused.is_object());
    let refused = refused.map_or_else(String::new, |refused| {
        format!("\n  REFUSED at {}: {}", text(refused, "/stage"), text(refused, "/reason"))
    });
    Some(runs + &refused)
}

/// What is held or taken away by hand, by whom and why.
fn broken_glass(status: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let deed = |deed: &Value| {
        let why = Some(text(deed, "/why")).filter(|why| !why.is_empty());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!("by {}{why}", text(deed, "/by"))
    };
    for (side, place) in [("here", "on this node"), ("everywhere", "on all nodes")] {
        let frozen = status.pointer(&format!("/configuration/break_glass/frozen/{side}"));
        if let Some(freeze) = frozen.filter(|freeze| !freeze.is_null()) {
            let hard = if freeze.get("hard") == Some(&Value::Bool(true)) {
                "no plan is made"
            } else {
                "plans follow facts"
            };
            lines.push(format!("FROZEN   policies are held {place} ({hard}), {}", deed(freeze)));
        }
        let disabled = status.pointer(&format!("/configuration/break_glass/disabled/{side}"));
        let Some(disabled) = disabled else { continue };
        if let Some(all) = disabled.get("all").filter(|all| !all.is_null()) {
            lines.push(format!("DISABLED all tenants' policies {place}, {}", deed(all)));
        }
        for (tenant, one) in disabled.get("tenants").and_then(Value::as_object).into_iter().flatten() {
            lines.push(format!("DISABLED the policy of tenant {tenant} {place}, {}", deed(one)));
        }
    }
    lines
}

fn demoted(standing: &Value) -> Option<String> {
    let is = standing.pointer("/budget/demoted") == Some(&Value::Bool(true));
    is.then(|| {
        format!(
            "DEMOTED  tenant {}: its budget of guest work is used up, its table answers alone",
            text(standing, "/tenant")
        )
    })
}

/// What becomes of a region's traffic, where it does not have all of it.
fn steered(region: &Value) -> Vec<String> {
    let share = region.get("share_percent").and_then(Value::as_u64).unwrap_or(100);
    let moved = region.get("moved_to").and_then(Value::as_str);
    let kept = match moved {
        Some(target) => Some(format!("  STEERED  {share} % of its requests go there, others to {target}")),
        None => (share < 100).then(|| format!("  STEERED  {share} % of its requests go there")),
    };
    let broken: Vec<&str> = list(region, "/broken").iter().filter_map(Value::as_str).collect();
    let open = (!broken.is_empty()).then(|| {
        format!("  BROKEN   forwarding failed for {}: a probe goes there now and then", broken.join(", "))
    });
    kept.into_iter().chain(open).collect()
}

fn endpoint(endpoint: &Value) -> String {
    let is = |name: &str| endpoint.get(name) == Some(&Value::Bool(true));
    let state = match (is("up"), is("broken")) {
        (false, _) => "down",
        (true, true) => "broken",
        (true, false) => "up",
    };
    format!("{} {state}", text(endpoint, "/address"))
}

fn show_slot(slot: &Value, lines: &mut Vec<String>) {
    let name = slot_name(slot);
    match slot.get("running").filter(|running| !running.is_null()) {
        Some(running) => {
            let (rules, answers) = (number(running, "/rules"), number(running, "/answers"));
            let digest = short(text(running, "/version/digest"));
            lines.push(format!(
                "policy {name}: {} {digest}, {rules} rules, {answers} answers",
                text(running, "/policy")
            ));
        }
        None if slot.get("closed") == Some(&Value::Bool(true)) => {
            lines.push(format!("policy {name}: nothing runs, and the slot is CLOSED: its requests get 503"));
        }
        None => lines.push(format!("policy {name}: nothing runs")),
    }
    if let Some(refused) = slot.get("refused").filter(|refused| !refused.is_null()) {
        let (stage, reason) = (text(refused, "/stage"), text(refused, "/reason"));
        lines.push(format!("  REFUSED {} at {stage}: {reason}", text(slot, "/policy")));
        lines.push(format!("          {}", text(refused, "/fix")));
    }
    if let Some(decider) = slot.get("decider").filter(|decider| !decider.is_null()) {
        let failed =
            number(decider, "/traps") + number(decider, "/overruns") + number(decider, "/out_of_range");
        let impure = if decider.get("impure") == Some(&Value::Bool(true)) { ", IMPURE" } else { "" };
        lines.push(format!(
            "  decides: {} calls, {failed} failed, {} busy, {} warm{impure}",
            number(decider, "/calls"),
            number(decider, "/busy"),
            number(decider, "/warm_instances"),
        ));
    }
    for line in list(slot, "/log").iter().rev().take(3).rev() {
        lines.push(format!("  log [{}] {}", text(line, "/level"), text(line, "/text")));
    }
}
