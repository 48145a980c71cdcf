//! What the demo shows of a region's death: what the others believe, who takes the shards over, what is lost, and that it is counted when the region
//! is back. Everything is read from a region that lives, as an operator would.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cluster::{Cluster, HOME, REGIONS, SHARDS};
use super::view::View;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(100);
/// How long regions may take to agree, and to take over.
const PATIENCE: Duration = Duration::from_secs(40);

/// What was told to be lost with a shard's region.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Rows, at least.
    pub(crate) at_least: u64,
    /// Rows, at most, where anything bounds them.
    pub(crate) at_most: Option<u64>,
    /// Rows, once they are counted.
    pub(crate) exact: Option<u64>,
}

/// Waits until other regions write all shards of the one that was killed, and says each step. Gives what is told to be lost.
///
/// # Errors
/// When that takes too long, with how it stands.
pub(crate) async fn taken_over(cluster: &Cluster, view: &View) -> anyhow::Result<BTreeMap<String, Told>> {
    let (begun, mut said) = (Instant::now(), BTreeMap::<String, String>::new());
    loop {
        let status = look(cluster).await?;
        let verdict = text(&status, &format!("/regions/{HOME}/verdict"));
        note(view, &mut said, begun, HOME, format!("{HOME} is believed to be {verdict}"));
        let mut over = BTreeMap::new();
        for shard in SHARDS {
            let primary = text(&status, &format!("/shards/{shard}/primary"));
            let step = text(&status, &format!("/shards/{shard}/record/step"));
            let lost = told(&status, shard);
            if primary == HOME {
                continue;
            }
            let epoch = status.pointer(&format!("/shards/{shard}/epoch")).and_then(Value::as_u64);
            let epoch = epoch.unwrap_or_default();
            note(
                view,
                &mut said,
                begun,
                shard,
                format!("shard {shard} goes to {primary}, in epoch {epoch}: {step}"),
            );
            if let (Some(lost), "verified" | "done") = (lost, step.as_str()) {
                over.insert(shard.to_owned(), lost);
            }
        }
        if over.len() == SHARDS.len() {
            return Ok(over);
        }
        if begun.elapsed() > PATIENCE {
            bail!("the shards of {HOME} were not taken over within {PATIENCE:?}: {status}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until it is counted what was lost.
///
/// # Errors
/// When that takes too long, with how it stands.
pub(crate) async fn counted(cluster: &Cluster) -> anyhow::Result<u64> {
    let begun = Instant::now();
    loop {
        let status = look(cluster).await?;
        let exact = SHARDS.iter().map(|shard| told(&status, shard).and_then(|told| told.exact));
        if let Some(rows) = exact.sum::<Option<u64>>() {
            return Ok(rows);
        }
        if begun.elapsed() > PATIENCE {
            bail!("it was not counted within {PATIENCE:?} what is lost with {HOME}: {status}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// In words, what is told of all shards together.
pub(crate) fn interval(told: &BTreeMap<String, Told>) -> String {
    let at_least: u64 = told.values().map(|told| told.at_least).sum();
    match told.values().map(|told| told.at_most).sum::<Option<u64>>() {
        Some(at_most) => format!("{at_least} to {at_most} rows"),
        None => format!("at least {at_least} rows"),
    }
}

/// Does what was counted lie within what was told?
pub(crate) fn holds(told: &BTreeMap<String, Told>, rows: u64) -> bool {
    let at_least: u64 = told.values().map(|told| told.at_least).sum();
    let at_most = told.values().map(|told| told.at_most).sum::<Option<u64>>();
    rows >= at_least && at_most.is_none_or(|at_most| rows <= at_most)
}

/// How it stands, as a region says that lives all the time.
async fn look(cluster: &Cluster) -> anyhow::Result<Value> {
    let [_, living, _] = REGIONS;
    cluster.ask(living, "/api/v1/failover").await.context("ask how failover stands")
}

/// What the last failover of a shard lost.
fn told(status: &Value, shard: &str) -> Option<Told> {
    let past = status.pointer(&format!("/shards/{shard}/record/past"))?.as_array()?;
    let failover = |past: &&Value| past.get("kind").and_then(Value::as_str) == Some("failover");
    let loss = past.iter().rev().find(failover)?.get("loss")?;
    let rows = |name: &str| loss.get(name).and_then(Value::as_u64);
    Some(Told { at_least: rows("at_least")?, at_most: rows("at_most"), exact: rows("exact") })
}

fn text(status: &Value, pointer: &str) -> String {
    status.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown").to_owned()
}

/// Says what is news.
fn note(view: &View, said: &mut BTreeMap<String, String>, begun: Instant, of: &str, news: String) {
    if said.get(of) != Some(&news) {
        view.tell(&format!("{:4.1} s after the kill: {news}", begun.elapsed().as_secs_f64()));
        said.insert(of.to_owned(), news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_told_is_that_of_the_last_failover() {
        let loss =
            |at_least: u64, exact: Value| json!({ "at_least": at_least, "at_most": 9, "exact": exact });
        let past = json!([
            { "kind": "failover", "loss": loss(1, json!(1)) },
            { "kind": "failover", "loss": loss(2, json!(null)) },
            { "kind": "switchover", "loss": loss(0, json!(0)) },
        ]);
        let status = json!({ "shards": { "first": { "record": { "past": past } } } });
        let first = told(&status, "first").unwrap();
        assert_eq!((first.at_least, first.at_most, first.exact), (2, Some(9), None));
        let both = BTreeMap::from([("first".to_owned(), first.clone()), ("second".to_owned(), first)]);
        assert_eq!(interval(&both), "4 to 18 rows");
        assert!(holds(&both, 4) && holds(&both, 18) && !holds(&both, 3) && !holds(&both, 19));
        assert!(told(&status, "second").is_none());
    }
}
