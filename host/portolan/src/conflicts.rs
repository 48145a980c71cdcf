//! `portolan conflicts`: what lost and is kept, and how it comes back.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::Conflicts;
use crate::client::{Client, encode};
use crate::print;

/// Does what is asked.
///
/// # Errors
/// When no node answers, or something stands against it.
pub(crate) fn run(command: &Conflicts) -> anyhow::Result<ExitCode> {
    match command {
        Conflicts::List(list) => {
            let filters = [("tenant", &list.tenant), ("table", &list.table)];
            let filters = filters
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_ref()?))));
            let filters = filters.collect::<Vec<_>>().join("&");
            let path = format!("/api/v1/shards/{}/conflicts?{filters}", encode(&list.shard));
            let found: Vec<Value> = Client::open(&list.target)?.all(path.trim_end_matches('?'))?;
            if found.is_empty() && !list.json {
                print("nothing lost")?;
            }
            found
                .iter()
                .try_for_each(|entry| print(&if list.json { entry.to_string() } else { line(entry) }))?;
        }
        Conflicts::Show(one) => {
            let path = format!("/api/v1/shards/{}/conflicts/{}", one.shard, one.conflict);
            let entry: Value = Client::open(&one.target)?.get(&path)?;
            print(&serde_json::to_string_pretty(&entry)?)?;
        }
        Conflicts::Restore(one) => {
            let path = format!("/api/v1/shards/{}/conflicts/{}/restore", one.shard, one.conflict);
            let done: Value = Client::open(&one.target)?.post(&path, &json!({}))?;
            let at = done.get("position").and_then(Value::as_str);
            print(
                &at.map_or_else(|| "the row is so already".to_owned(), |at| format!("written back, at {at}")),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One entry on one line.
fn line(entry: &Value) -> String {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("-");
    let shown = |name: &str| entry.get(name).map_or_else(String::new, Value::to_string);
    let merged = match (text("resolver"), text("resolution")) {
        (_, "-") => String::new(),
        ("-", what) => format!("; {what}"),
        (by, what) => format!("; {what} by {by}"),
    };
    // What lies past a cut lost to no row.
    let by = match (text("rule"), entry.pointer("/won_version/epoch")) {
        ("epoch", Some(epoch)) => format!("never came to epoch {epoch}"),
        _ => format!("stays {}", shown("won")),
    };
    format!(
        "{} {} {} {} by {}: lost {}, {by}{merged}",
        text("conflict"),
        text("table"),
        shown("key"),
        text("kind"),
        text("rule"),
        shown("lost"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_stays() {
        let entry = json!({ "conflict": "a1", "table": "notes", "key": ["acme", 1], "kind": "insert_exists", "rule": "lww",
            "lost": { "id": 1 }, "won": { "id": 2 }, "won_version": { "epoch": 0 } });
        let said = r#"a1 notes ["acme",1] insert_exists by lww: lost {"id":1}, stays {"id":2}"#;
        assert_eq!(line(&entry), said);
        let entry = json!({ "conflict": "a1", "table": "notes", "key": [1], "kind": "insert_exists", "rule": "policy",
            "lost": 1, "won": 2, "won_version": { "epoch": 0 }, "resolver": "join@ab12", "resolution": "merged" });
        assert_eq!(
            line(&entry),
            "a1 notes [1] insert_exists by policy: lost 1, stays 2; merged by join@ab12"
        );
        let entry = json!({ "conflict": "a1", "table": "notes", "key": ["acme", 1], "kind": "stranded", "rule": "epoch",
            "lost": { "id": 1 }, "won": null, "won_version": { "epoch": 2 } });
        let said = r#"a1 notes ["acme",1] stranded by epoch: lost {"id":1}, never came to epoch 2"#;
        assert_eq!(line(&entry), said);
    }
}
