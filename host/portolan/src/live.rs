//! `portolan events` and `portolan tail`: what happens on a node, as it happens.

use portolan_foundation::clock;
use serde_json::Value;

use crate::cli::{Events, Tail};
use crate::client::{Client, Frame, encode};
use crate::print;

/// Shows events until there are no more, or for ever.
///
/// # Errors
/// When no node answers.
pub(crate) fn events(options: &Events) -> anyhow::Result<()> {
    let mut query = vec![format!("no_wait={}", !options.follow)];
    query.extend(options.types.iter().map(|types| format!("types={}", encode(types))));
    query.extend(options.tenant.iter().map(|tenant| format!("tenant={}", encode(tenant))));
    let path = format!("/api/v1/events?{}", query.join("&"));
    Client::open(&options.target)?.listen(&path, options.after.as_deref(), |frame| {
        print(&if options.json { as_json(&frame) } else { event(&frame) })?;
        Ok(true)
    })
}

/// Shows requests as they end.
///
/// # Errors
/// When no node answers.
pub(crate) fn tail(options: &Tail) -> anyhow::Result<()> {
    let filters = [
        ("tenant", &options.tenant),
        ("status", &options.status),
        ("method", &options.method),
        ("policy", &options.policy),
        ("path", &options.path),
    ];
    let filters =
        filters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    let mut query: Vec<String> = filters.collect();
    query.extend(options.permille.map(|permille| format!("permille={permille}")));
    let path = format!("/api/v1/tail?{}", query.join("&"));
    let mut left = options.number;
    Client::open(&options.target)?.listen(&path, None, |frame| {
        print(&if options.json { as_json(&frame) } else { request(&frame) })?;
        if frame.event == "request" {
            left = left.map(|left| left.saturating_sub(1));
        }
        Ok(left != Some(0))
    })
}

fn data(frame: &Frame) -> Value {
    serde_json::from_str(&frame.data).unwrap_or_default()
}

fn number(data: &Value, name: &str) -> Option<u64> {
    data.get(name).and_then(Value::as_u64)
}

fn as_json(frame: &Frame) -> String {
    serde_json::json!({ "event": frame.event, "id": frame.id, "data": data(frame) }).to_string()
}

fn event(frame: &Frame) -> String {
    let data = data(frame);
    if frame.event == "dropped" {
        let count = number(&data, "events").map_or_else(|| "some".to_owned(), |count| count.to_string());
        return format!("-- {count} events were missed");
    }
    let at = clock::from_unix_ms(number(&data, "at_ms").unwrap_or(0));
    let tenant =
        data.get("tenant").and_then(Value::as_str).map_or_else(String::new, |tenant| format!(" [{tenant}]"));
    format!(
        "{}  {}{tenant}  {}",
        humantime::format_rfc3339_millis(at),
        frame.event,
        data.get("data").unwrap_or(&Value::Null)
    )
}

fn request(frame: &Frame) -> String {
    let data = data(frame);
    if frame.event != "request" {
        let what = if frame.event == "sampled" {
            "left out by the rate"
        } else {
            "dropped, because this is too slow"
        };
        return format!("-- {} requests {what}", number(&data, "requests").unwrap_or(0));
    }
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    format!(
        "{} {:>6} us  {} {}{}  tenant {}  policy {} ({})  to {}/{}  {}",
        number(&data, "status").unwrap_or(0),
        number(&data, "duration_us").unwrap_or(0),
        text("method"),
        text("host"),
        text("path"),
        text("tenant"),
        text("policy"),
        text("rule"),
        text("region"),
        text("pool"),
        text("error"),
    )
}
