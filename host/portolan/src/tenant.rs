//! `portolan tenant` and `portolan usage export`: a tenant's life, what it sees of its own policy, and what everybody used.

mod erase;
mod export;
mod life;

use std::process::ExitCode;

use anyhow::Context as _;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use serde_json::{Value, json};

use crate::cli::{Tenant, Usage, UsageFormat};
use crate::client::Client;
use crate::config;
use crate::node::usage::{self, Row};
use crate::print;

/// The columns of a CSV export, which are the fields of a row.
const COLUMNS: [&str; 10] = [
    "from_ms",
    "tenant",
    "requests",
    "received_bytes",
    "sent_bytes",
    "guest_calls",
    "guest_fuel",
    "guest_us",
    "plans",
    "plan_fuel",
];

/// Does what is asked of a tenant, or shows one side of it.
///
/// # Errors
/// When no node answers, or the tenant has no policy there.
pub(crate) fn run(command: &Tenant) -> anyhow::Result<ExitCode> {
    let (what, view) = match command {
        Tenant::Create(create) => return life::create(create),
        Tenant::Suspend(suspend) => return life::suspend(suspend, false),
        Tenant::Resume(resume) => return life::suspend(resume, true),
        Tenant::Export(export) => return export::run(export),
        Tenant::Erase(erase) => return erase::run(erase),
        Tenant::Claim(claims) => return life::claims(claims),
        Tenant::Log(view) => ("log", view),
        Tenant::Refusals(view) => ("refusals", view),
        Tenant::Usage(view) => ("quota", view),
    };
    let name = TenantName::new(&view.name)?;
    let told: Value = Client::open(&view.target)?.get(&format!("/api/v1/tenants/{name}/{what}"))?;
    if view.json {
        print(&serde_json::to_string_pretty(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = match what {
        "log" => log(&told),
        "refusals" => refusals(&told),
        _ => budget(&told),
    };
    print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn time(value: &Value) -> String {
    let at = clock::from_unix_ms(number(value, "/time_ms"));
    humantime::format_rfc3339_millis(at).to_string()
}

fn log(told: &Value) -> Vec<String> {
    let line = |line: &Value| format!("{} [{}] {}", time(line), text(line, "/level"), text(line, "/text"));
    let mut lines: Vec<String> = list(told, "log").iter().map(line).collect();
    let dropped = number(told, "/log_dropped");
    if dropped > 0 {
        lines.push(format!("{dropped} lines came too fast and were dropped"));
    }
    for fault in list(told, "faults") {
        lines.push(format!("{} [fault] {}", time(fault), text(fault, "/text")));
        lines.extend(
            list(fault, "frames").iter().filter_map(Value::as_str).map(|frame| format!("    in {frame}")),
        );
    }
    if lines.is_empty() {
        lines.push("nothing was written".to_owned());
    }
    lines
}

fn refusals(told: &Value) -> Vec<String> {
    let line = |past: &Value| {
        let (stage, reason, fix) =
            (text(past, "/refused/stage"), text(past, "/refused/reason"), text(past, "/refused/fix"));
        format!("{} at {stage}: {reason}\n    {fix}", time(past))
    };
    let mut lines: Vec<String> = list(told, "past_refusals").iter().map(line).collect();
    let stands = !told.get("refused").unwrap_or(&Value::Null).is_null();
    lines.push(if stands { "the last one stands" } else { "what is wanted runs" }.to_owned());
    lines
}

fn budget(told: &Value) -> Vec<String> {
    let demoted = told.pointer("/budget/demoted") == Some(&Value::Bool(true));
    let state = if demoted { "DEMOTED: the table answers alone" } else { "within its budget" };
    let mut lines = vec![
        state.to_owned(),
        format!(
            "fuel: {} used by {} calls, {} left of {}, {} come back in a second; demoted {} times",
            number(told, "/cost/fuel"),
            number(told, "/cost/calls"),
            told.pointer("/budget/fuel_left").and_then(Value::as_i64).unwrap_or(0),
            number(told, "/budget/budget/fuel_burst"),
            number(told, "/budget/budget/fuel_per_second"),
            number(told, "/budget/demotions"),
        ),
        format!(
            "warm instances: {} of {}, {} of {} bytes",
            number(told, "/budget/warm_instances"),
            number(told, "/budget/budget/warm_instances"),
            number(told, "/budget/memory_bytes"),
            number(told, "/budget/budget/memory_bytes"),
        ),
        format!(
            "plans: {} with {} fuel; {} waited; {} in a minute are allowed",
            number(told, "/cost/plans"),
            number(told, "/cost/plan_fuel"),
            number(told, "/budget/plans_held"),
            number(told, "/budget/budget/plans_per_minute"),
        ),
        format!("time of data threads: {} µs", number(told, "/cost/guest_us")),
    ];
    if told.get("versions").is_some() {
        lines.push(format!(
            "versions of plugins: {} of {}, {} of {} bytes; {} uploads in a minute are allowed, {} may wait",
            number(told, "/versions/versions"),
            number(told, "/versions/versions_max"),
            number(told, "/versions/bytes"),
            number(told, "/versions/bytes_max"),
            number(told, "/versions/uploads_per_minute"),
            number(told, "/versions/uploads_waiting_max"),
        ));
    }
    lines
}

/// Prints what everybody used on this node, from its own folder.
///
/// # Errors
/// When the folder does not read.
pub(crate) fn usage(command: &Usage) -> anyhow::Result<ExitCode> {
    let Usage::Export { file, since, format, by_hour } = command;
    let local = crate::shown(config::local(&file.config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let since_ms = since.map_or(0, |since| {
        clock::unix_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    });
    let rows = usage::export(&local.state, since_ms, *by_hour)
        .with_context(|| format!("read the usage in {}", local.state.display()))?;
    match format {
        UsageFormat::Csv => print(csv(&rows)?.trim_end())?,
        UsageFormat::Json => print(&serde_json::to_string_pretty(&json!({ "rows": rows }))?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// No field needs quotes: names have no commas.
fn csv(rows: &[Row]) -> anyhow::Result<String> {
    let mut text = COLUMNS.join(",") + "\n";
    for row in rows {
        let row = serde_json::to_value(row)?;
        let cells = COLUMNS.map(|column| match row.get(column) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        });
        text.push_str(&(cells.join(",") + "\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exports_columns_are_all_fields_of_a_row() {
        let row = Row {
            from_ms: 5,
            tenant: "acme".into(),
            used: usage::Used { requests: 3, ..Default::default() },
        };
        let fields = serde_json::to_value(&row).unwrap();
        assert_eq!(fields.as_object().unwrap().len(), COLUMNS.len());
        assert_eq!(csv(&[row]).unwrap().lines().nth(1).unwrap(), "5,acme,3,0,0,0,0,0,0,0");
    }
}
