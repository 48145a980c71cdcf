//! `portolan explain`: what would become of a request, step by step, as the running node sees it.

mod past;

use std::process::ExitCode;

use anyhow::Context as _;
use portolan_admin::backend::Question;
use serde_json::Value;

use crate::cli::Explain;
use crate::client::Client;
use crate::print;

/// Asks the node and shows its answer.
///
/// # Errors
/// When no node answers, or the request cannot be thought through.
pub(crate) fn run(options: &Explain) -> anyhow::Result<ExitCode> {
    if let Some(id) = &options.id {
        return past::kept(id, options);
    }
    // Without an id the command line demands both.
    let (method, url) =
        (options.method.as_deref().unwrap_or_default(), options.url.as_deref().unwrap_or_default());
    if let Some(at) = &options.at {
        return past::at(at, method, url, options);
    }
    let question = Question {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers(options)?,
        client: options.client,
        tenant: options.tenant.clone(),
        near: options.region.clone(),
    };
    let answer: Value = Client::open(&options.target)?.post("/api/v1/explain", &question)?;
    if options.json {
        print(&serde_json::to_string_pretty(&answer)?)?;
    } else {
        print(&format!("{method} {url}\n{}", render(&answer)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn headers(options: &Explain) -> anyhow::Result<Vec<(String, String)>> {
    let read = |line: &String| {
        let (name, value) =
            line.split_once(':').with_context(|| format!("`{line}` is no header: write `Name: value`"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    options.headers.iter().map(read).collect()
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn render(answer: &Value) -> String {
    let mut lines = Vec::new();
    let generation = answer.get("generation").and_then(Value::as_u64).unwrap_or(0);
    lines.push(format!("  taken in by {}, generation {generation}", text(answer, "region").unwrap_or("-")));
    let residency =
        text(answer, "residency").map_or_else(String::new, |class| format!(", residency class {class}"));
    lines.push(format!("  tenant: {}{residency}", text(answer, "tenant").unwrap_or("none")));
    for policy in list(answer, "policies") {
        let (name, digest) = (text(policy, "policy").unwrap_or("-"), text(policy, "digest").unwrap_or("-"));
        lines.push(format!(
            "  policy {name} ({digest}): rule {} decides",
            text(policy, "rule").unwrap_or("-")
        ));
        for rule in list(policy, "rules") {
            lines.push(format!("    {}", show_rule(rule)));
        }
    }
    if list(answer, "policies").is_empty() {
        lines.push("  no policy: the host's own rule decides".to_owned());
    }
    if let Some(why) = text(answer, "undecided") {
        lines.push(format!("  the policy was not asked: {why}"));
    }
    lines.push("  answers, in the order in which they are tried:".to_owned());
    for candidate in list(answer, "candidates") {
        let action = text(candidate, "action").unwrap_or("-");
        let policy = text(candidate, "policy").unwrap_or("the host");
        match text(candidate, "rejected") {
            Some(reason) => lines.push(format!("    - {action} ({policy}): rejected, {reason}")),
            None => {
                let via = text(candidate, "via").map_or_else(String::new, |via| format!(", by {via}"));
                lines.push(format!("    + {action} ({policy}){via}"));
            }
        }
        if let Some(steering) = text(candidate, "steering") {
            lines.push(format!("      {steering}"));
        }
    }
    lines.push(format!("  => {}", text(answer, "outcome").unwrap_or("-")));
    lines.join("\n")
}

fn show_rule(rule: &Value) -> String {
    let number = rule.get("rule").and_then(Value::as_u64).unwrap_or(0);
    let name =
        text(rule, "name").map_or_else(|| format!("rule {number}"), |name| format!("rule {number} ({name})"));
    let conditions = list(rule, "conditions");
    if conditions.is_empty() {
        return format!("{name}: always");
    }
    let shown: Vec<String> = conditions
        .iter()
        .map(|condition| {
            let what = condition.get(0).and_then(Value::as_str).unwrap_or("-");
            let holds = condition.get(1) == Some(&Value::Bool(true));
            format!("{what}: {}", if holds { "yes" } else { "no" })
        })
        .collect();
    format!("{name}: {}", shown.join("; "))
}
