//! `portolan sync`: how the copies of other regions' shards stand.

use std::process::ExitCode;

use anyhow::bail;
use portolan_admin::Operation;
use serde_json::{Value, json};

use crate::cli::{Compare, Sync};
use crate::client::{Client, encode};
use crate::{operation, print};

/// Does what is asked.
///
/// # Errors
/// When no node answers.
pub(crate) fn run(command: &Sync) -> anyhow::Result<ExitCode> {
    let status = match command {
        Sync::Status(status) => status,
        Sync::Audit(audit) => return compare(audit, false),
        Sync::Repair(audit) => return compare(audit, true),
    };
    let told: Value = Client::open(&status.target)?.get("/api/v1/shards")?;
    let shards = told.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (follows, followers) = (all(shards, "follows"), all(shards, "followers"));
    let elsewhere: Vec<Value> = shards.iter().filter_map(elsewhere).collect();
    let exposed: Vec<&Value> = shards.iter().filter(|shard| is_exposed(shard)).collect();
    if status.json {
        let told = json!({ "exposed": exposed.iter().map(|shard| exposure(shard)).collect::<Vec<_>>(), "follows": follows, "followed_elsewhere": elsewhere, "followers": followers });
        print(&serde_json::to_string_pretty(&told)?)?;
    } else if follows.is_empty() && followers.is_empty() && exposed.is_empty() && elsewhere.is_empty() {
        print(
            "nobody follows anybody here: a shard's copy is a `[shard.NAME.store.REGION]` in a region that does not write it",
        )?;
    } else {
        follows.iter().try_for_each(|feed| print(&line(feed)))?;
        elsewhere.iter().try_for_each(|other| print(&elsewhere_line(other)))?;
        followers.iter().try_for_each(|follower| print(&follower_line(follower)))?;
        exposed.iter().try_for_each(|shard| print(&exposed_line(&exposure(shard))))?;
    }
    let wrong = follows.iter().any(|feed| feed.get("problem").is_some_and(Value::is_string))
        || followers.iter().any(|follower| follower.get("needs_snapshot") == Some(&Value::Bool(true)))
        || exposed.iter().any(|shard| exposure(shard).get("past_max_loss") == Some(&Value::Bool(true)));
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Has a copy compared with its primary, and put right if it is to be.
fn compare(command: &Compare, repair: bool) -> anyhow::Result<ExitCode> {
    let client = Client::open(&command.target)?;
    let path = format!("/api/v1/shards/{}/audit", encode(&command.shard));
    let asked = json!({ "repair": repair, "table": command.table, "tenant": command.tenant });
    let operation: Operation = client.post(&path, &asked)?;
    let ended = operation::followed(&client, operation, !command.json)?;
    let Some(result) = ended.result else {
        bail!(
            "{}",
            ended.problem.map_or_else(|| "it ended without a result".to_owned(), |why| why.detail.clone())
        );
    };
    if command.json {
        print(&serde_json::to_string_pretty(&result)?)?;
    } else {
        fault_lines(&result).iter().try_for_each(|line| print(line))?;
    }
    Ok(if ended.problem.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The rows that differed, a line each, and how many there were.
fn fault_lines(result: &Value) -> Vec<String> {
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or_default();
    let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut lines = Vec::new();
    for (table, found) in result.get("tables").and_then(Value::as_object).into_iter().flatten() {
        for (key, fault) in found.get("faults").and_then(Value::as_object).into_iter().flatten() {
            lines.push(format!("{table} {key}: {}", fault.as_str().unwrap_or("-")));
        }
        if found.get("more") == Some(&Value::Bool(true)) {
            lines.push(format!("{table}: there are more; run it again when these are put right"));
        }
    }
    let (faults, mended) = (number("faults"), number("mended"));
    lines.push(match (faults, mended) {
        (0, _) => format!("{}: this copy is as in {}", text("shard"), text("primary")),
        (faults, 0) => format!(
            "{}: {faults} rows are not as in {}; put them right: portolan sync repair {}",
            text("shard"),
            text("primary"),
            text("shard")
        ),
        (faults, mended) => {
            format!("{}: {faults} rows were not as in {}, {mended} put right", text("shard"), text("primary"))
        }
    });
    lines
}

/// What shards list under a name, with the shard's own.
fn all(shards: &[Value], name: &str) -> Vec<Value> {
    let of = |shard: &Value| {
        let own = shard.get("name").cloned().unwrap_or_default();
        let mut items = shard.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.insert("shard".to_owned(), own.clone());
        }
        items
    };
    shards.iter().flat_map(of).collect()
}

/// A shard whose copy another node of this region brings up to date.
fn elsewhere(shard: &Value) -> Option<Value> {
    let node = shard.get("followed_by").filter(|node| node.is_string())?;
    Some(json!({ "shard": shard.get("name"), "node": node }))
}

fn elsewhere_line(other: &Value) -> String {
    let text = |name: &str| other.get(name).and_then(Value::as_str).unwrap_or("-");
    format!("{}: node {} of this region follows the others", text("shard"), text("node"))
}

/// One that follows this region.
fn follower_line(follower: &Value) -> String {
    let text = |name: &str| follower.get(name).and_then(Value::as_str).unwrap_or("-");
    let behind = follower.get("behind_bytes").and_then(Value::as_u64).unwrap_or_default();
    let lost = if follower.get("needs_snapshot") == Some(&Value::Bool(true)) {
        "\n  LOST ITS PLACE it begins its copy anew when it comes back"
    } else {
        ""
    };
    format!(
        "{} to {}: has applied {}, about {behind} bytes behind{lost}",
        text("shard"),
        text("region"),
        text("applied")
    )
}

/// Is it written here, and kept elsewhere?
fn is_exposed(shard: &Value) -> bool {
    exposure(shard).get("exposed_ms").is_some_and(Value::is_u64)
}

/// What of a shard would be lost with the region that writes it.
fn exposure(shard: &Value) -> Value {
    let here = |name: &str| shard.get("here").and_then(|here| here.get(name)).cloned().unwrap_or_default();
    json!({
        "shard": shard.get("name"), "exposed_ms": here("exposed_ms"), "past_max_loss": here("past_max_loss"),
        "unconfirmed": here("unconfirmed"),
    })
}

/// One shard that is written here, with what would be lost with this region.
fn exposed_line(exposure: &Value) -> String {
    let exposed = exposure.get("exposed_ms").and_then(Value::as_u64).unwrap_or_default();
    let past = if exposure.get("past_max_loss") == Some(&Value::Bool(true)) {
        "\n  PAST MAX_LOSS writes are refused or slowed until a copy has caught up"
    } else {
        ""
    };
    format!(
        "{} would lose at most {exposed} ms of writes with this region{past}",
        exposure.get("shard").and_then(Value::as_str).unwrap_or("-")
    )
}

/// One feed, with what is wrong below it.
pub(crate) fn line(feed: &Value) -> String {
    let text = |name: &str| feed.get(name).and_then(Value::as_str).unwrap_or("-");
    let number = |name: &str| feed.get(name).and_then(Value::as_u64);
    let lag = match (text("state"), number("lag_ms"), number("copied_rows")) {
        ("following", Some(lag), _) => format!("{lag} ms behind"),
        (_, _, Some(rows)) => format!("{rows} rows copied"),
        _ => "it looks for its source".to_owned(),
    };
    let waiting = number("waiting_ms").filter(|waiting| *waiting > 1_000);
    let waiting = waiting.map_or_else(String::new, |waiting| {
        format!(
            "\n  WAITS a transaction has been open at the source for {:.1} s, and holds its log back",
            waiting as f64 / 1e3
        )
    });
    let parked = number("parked").filter(|parked| *parked > 0);
    let parked = parked.map_or_else(String::new, |parked| {
        format!("\n  PARKED {parked} changes wait: the copy's database does not take them")
    });
    let problem = feed.get("problem").and_then(Value::as_str);
    let problem = problem.map_or_else(String::new, |problem| format!("\n  PROBLEM {problem}"));
    format!(
        "{} from {}: {}, {lag}, {} records{waiting}{parked}{problem}",
        text("shard"),
        text("source"),
        text("state"),
        number("records").unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_tells_how_it_stands() {
        let shards = [
            json!({ "name": "s1", "followers": [{ "region": "us", "applied": "1.2.3", "behind_bytes": 40 }] }),
        ];
        let followers = all(&shards, "followers");
        assert_eq!(
            followers.iter().map(follower_line).collect::<Vec<_>>(),
            ["s1 to us: has applied 1.2.3, about 40 bytes behind"]
        );
        let lost = json!({ "shard": "s1", "region": "us", "applied": "1.2.3", "behind_bytes": 9, "needs_snapshot": true });
        assert!(
            follower_line(&lost).ends_with("\n  LOST ITS PLACE it begins its copy anew when it comes back")
        );
    }

    #[test]
    fn a_comparison_names_what_differs() {
        let alike = json!({ "shard": "s1", "primary": "eu", "faults": 0, "mended": 0, "tables": { "orders": { "faults": {} } } });
        assert_eq!(fault_lines(&alike), ["s1: this copy is as in eu"]);
        let found = json!({ "shard": "s1", "primary": "eu", "faults": 1, "mended": 0,
            "tables": { "orders": { "faults": { "[\"acme\", 1]": "missing" }, "more": true } } });
        assert_eq!(
            fault_lines(&found),
            [
                "orders [\"acme\", 1]: missing",
                "orders: there are more; run it again when these are put right",
                "s1: 1 rows are not as in eu; put them right: portolan sync repair s1"
            ]
        );
    }

    #[test]
    fn a_shard_tells_what_would_be_lost() {
        let shard = |here: Value| json!({ "name": "s1", "here": here });
        assert!(!is_exposed(&shard(Value::Null)) && !is_exposed(&shard(json!({ "exposed_ms": null }))));
        let near = shard(json!({ "exposed_ms": 120, "past_max_loss": false, "unconfirmed": 0 }));
        assert!(is_exposed(&near));
        assert_eq!(exposed_line(&exposure(&near)), "s1 would lose at most 120 ms of writes with this region");
        let far = shard(json!({ "exposed_ms": 12_000, "past_max_loss": true, "unconfirmed": 3 }));
        assert_eq!(
            exposed_line(&exposure(&far)),
            "s1 would lose at most 12000 ms of writes with this region\n  \
             PAST MAX_LOSS writes are refused or slowed until a copy has caught up"
        );
    }

    #[test]
    fn a_feed_tells_how_it_stands() {
        let feed = json!({ "shard": "s1", "source": "eu", "state": "following", "lag_ms": 12, "records": 40, "waiting_ms": 0,
            "parked": 0, "problem": null, "copied_rows": null });
        assert_eq!(line(&feed), "s1 from eu: following, 12 ms behind, 40 records");
        let feed = json!({ "shard": "s1", "source": "eu", "state": "seeking", "lag_ms": null, "records": 0, "waiting_ms": 2500,
            "parked": 2, "problem": "no answer", "copied_rows": 7 });
        assert_eq!(
            line(&feed),
            "s1 from eu: seeking, 7 rows copied, 0 records\n  \
             WAITS a transaction has been open at the source for 2.5 s, and holds its log back\n  \
             PARKED 2 changes wait: the copy's database does not take them\n  PROBLEM no answer"
        );
    }
}
