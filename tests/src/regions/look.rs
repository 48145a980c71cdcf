//! How regions stand, and what their databases hold.

use std::collections::{BTreeMap, BTreeSet};

use portolan_test_postgres::Cluster;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tokio::time::Instant;

use super::{HOME, LEASE, LOOK, REGIONS, SHARDS, World, at};
use crate::PATIENCE;
use crate::history::{Found, Ledger, Row, named};
use crate::node::good;

/// Rows, with the versions that the gateways gave them.
const ROWS: &str = "SELECT o.tenant || ' ' || CAST(o.id AS text) || ' ' || o.note || ' ' || CAST(r.epoch AS text) || ' ' || \
    CAST(r.v AS text) || ' ' || r.origin FROM orders AS o JOIN portolan_row AS r ON r.table_name = 'orders' AND r.deleted = 0 \
    AND replace(r.key, ' ', '') = '[\"' || o.tenant || '\",' || CAST(o.id AS text) || ']' ORDER BY o.tenant, o.id";
/// Who wrote in which epoch, as versions say.
const ORIGINS: &str =
    "SELECT DISTINCT CAST(epoch AS text) || ' ' || origin FROM portolan_row WHERE epoch > 0 ORDER BY 1";

/// What a failover lost, as its record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Rows, at least.
    pub at_least: u64,
    /// Rows, at most, where anything bounds them.
    pub at_most: Option<u64>,
    /// Rows, once they are counted.
    pub exact: Option<u64>,
}

impl Loss {
    /// Is this many what was told?
    #[must_use]
    pub fn holds(&self, rows: u64) -> bool {
        rows >= self.at_least && self.at_most.is_none_or(|most| rows <= most)
    }
}

impl World {
    /// A region's log so far.
    #[must_use]
    pub fn log(&self, region: usize) -> String {
        self.nodes[region].log()
    }

    /// The logs of all regions.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = REGIONS.iter().enumerate();
        logs.map(|(region, name)| format!("{name}:\n{}", self.log(region))).collect()
    }

    /// Are the databases those of PostgreSQL?
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        self.databases.is_postgres()
    }

    /// A region's server of databases.
    #[must_use]
    pub fn cluster(&self, region: usize) -> &Cluster {
        &self.clusters[region]
    }

    pub(super) async fn is_open(&self, region: usize) -> bool {
        let status = self.nodes[region].status().await;
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.len() == SHARDS.len() && shards.iter().all(|shard| shard["schema"].is_u64())
    }

    /// Does a region write a shard?
    pub async fn is_led(&self, shard: &str, region: usize) -> bool {
        let Ok(status) = self.nodes[region].ask("GET", "/api/v1/status", Value::Null).await else {
            return false;
        };
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.iter().any(|there| there["name"] == shard && there["lease_ms"].is_u64())
    }

    /// Waits until a region writes a shard.
    ///
    /// # Panics
    /// When it does not.
    pub async fn leads(&self, shard: &str, region: &str) {
        self.led_by(shard, &[region]).await;
    }

    /// Waits until one of some regions writes a shard; gives which.
    pub(super) async fn led_by<'a>(&self, shard: &str, among: &[&'a str]) -> &'a str {
        let deadline = Instant::now() + LEASE;
        loop {
            for region in among {
                if self.is_led(shard, at(region)).await {
                    return region;
                }
            }
            assert!(Instant::now() < deadline, "none of {among:?} writes {shard}:\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Do all copies follow all others, without any problem, and have what there is?
    pub async fn all_follow(&self) -> bool {
        for node in &self.nodes {
            let Ok(told) = node.ask("GET", "/api/v1/shards", Value::Null).await else { return false };
            let feeds: Vec<Value> = told["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|shard| shard["follows"].as_array().cloned().unwrap_or_default())
                .collect();
            let follows = |feed: &Value| {
                feed["state"] == "following" && feed["problem"].is_null() && feed["parked"] == 0
            };
            if feeds.len() != SHARDS.len() * (REGIONS.len() - 1) || !feeds.iter().all(follows) {
                return false;
            }
        }
        true
    }

    /// How failover stands, as a region knows it.
    pub async fn failover(&self, region: usize) -> Value {
        self.nodes[region].ask("GET", "/api/v1/failover", Value::Null).await.unwrap_or_default()
    }

    /// Waits until each region knows that both others could take all over.
    pub(super) async fn is_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        for region in 0..REGIONS.len() {
            loop {
                let status = self.failover(region).await;
                let healthy = |name: &str| status["regions"][name]["verdict"] == "healthy";
                let whole = |shard: &Value| {
                    shard["primary"] == HOME
                        && REGIONS.iter().all(|name| shard["replicas"][name]["whole"] == true)
                };
                if status["control"] == true
                    && REGIONS.iter().all(|name| healthy(name))
                    && SHARDS.iter().all(|shard| whole(&status["shards"][shard]))
                {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "regions do not know each other: {status:#}\n{}",
                    self.logs()
                );
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// What the last failover of a shard lost, as a region's record says.
    pub async fn loss(&self, region: usize, shard: &str) -> Option<Loss> {
        let status = self.failover(region).await;
        let past = status["shards"][shard]["record"]["past"].as_array()?.clone();
        let last = past.iter().rev().find(|past| past["kind"] == "failover")?;
        let loss = &last["loss"];
        Some(Loss {
            at_least: loss["at_least"].as_u64()?,
            at_most: loss["at_most"].as_u64(),
            exact: loss["exact"].as_u64(),
        })
    }

    async fn texts(&self, region: usize, shard: &str, sql: &str) -> Vec<String> {
        match self.clusters.get(region) {
            None => {
                let mut store = SqliteConnection::connect(&self.file(region, shard)).await.expect("a file");
                let sql = AssertSqlSafe(sql.to_owned());
                sqlx::query_scalar(sql).fetch_all(&mut store).await.expect("rows")
            }
            Some(cluster) => {
                let mut store: PgConnection = cluster.connect("postgres", shard).await;
                let sql = AssertSqlSafe(sql.replace("portolan_row", "portolan.row"));
                sqlx::query_scalar(sql).fetch_all(&mut store).await.expect("rows")
            }
        }
    }

    /// All rows of a shard in a region, with their versions, straight from its database.
    pub async fn rows(&self, region: usize, shard: &str) -> Vec<String> {
        self.texts(region, shard, ROWS).await
    }

    /// What any region keeps of what lost.
    ///
    /// # Panics
    /// When it cannot be listed.
    pub async fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for (region, shard) in (0..REGIONS.len()).flat_map(|region| SHARDS.map(|shard| (region, shard))) {
            for entry in self.conflicts(region, shard).await {
                match entry["lost"]["note"].as_str() {
                    Some(note) => ledger.values.insert(named(note)),
                    None => ledger.deletions.insert(row(&entry["key"])),
                };
            }
        }
        ledger
    }

    async fn conflicts(&self, region: usize, shard: &str) -> Vec<Value> {
        let text = good(self.folder_of(region), &["conflicts", "list", shard, "--json"]).await;
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    }

    /// How many rows of a shard never came to the epoch after theirs, by the names that they have alike everywhere.
    pub async fn stranded(&self, shard: &str) -> u64 {
        let mut names = BTreeSet::new();
        for region in 0..REGIONS.len() {
            let entries = self.conflicts(region, shard).await;
            let stranded = entries.iter().filter(|entry| entry["kind"] == "stranded");
            names.extend(stranded.map(|entry| entry["conflict"].to_string()));
        }
        names.len() as u64
    }

    /// Waits until all copies follow and are alike. Gives what is there.
    ///
    /// # Panics
    /// When they differ for long: the logs are in its message.
    pub async fn alike(&self) -> Found {
        let deadline = Instant::now() + PATIENCE + PATIENCE;
        while !self.all_follow().await {
            assert!(Instant::now() < deadline, "not all copies follow without a problem:\n{}", self.logs());
            tokio::time::sleep(LOOK).await;
        }
        let mut found = Found::default();
        for shard in SHARDS {
            let deadline = Instant::now() + PATIENCE;
            let rows = loop {
                let first = self.rows(0, shard).await;
                if self.rows(1, shard).await == first && self.rows(2, shard).await == first {
                    break first;
                }
                assert!(Instant::now() < deadline, "copies differ:\n{}", self.difference(shard).await);
                tokio::time::sleep(LOOK).await;
            };
            for row in rows {
                let fields: Vec<&str> = row.split(' ').collect();
                let id = fields[1].parse().expect("an id");
                found.rows.insert((fields[0].to_owned(), id), named(fields[2]));
            }
            for (epoch, origin) in self.origins(shard).await {
                found.origins.entry((shard.to_owned(), epoch)).or_default().insert(origin);
            }
        }
        found.ledger = self.ledger().await;
        found
    }

    /// Who wrote in which epoch of a shard, as the versions in all databases say.
    async fn origins(&self, shard: &str) -> BTreeSet<(u64, String)> {
        let mut origins = BTreeSet::new();
        for region in 0..REGIONS.len() {
            for text in self.texts(region, shard, ORIGINS).await {
                let (epoch, origin) = text.split_once(' ').expect("an epoch and a region");
                origins.insert((epoch.parse().expect("an epoch"), origin.to_owned()));
            }
        }
        origins
    }

    async fn difference(&self, shard: &str) -> String {
        let first = self.rows(0, shard).await;
        let mut told = String::new();
        for (region, name) in REGIONS.iter().enumerate().skip(1) {
            let there = self.rows(region, shard).await;
            let only: Vec<_> = there.iter().filter(|row| !first.contains(row)).collect();
            let lacks: Vec<_> = first.iter().filter(|row| !there.contains(row)).collect();
            told += &format!("{shard} in {name}, beside {}: has {only:?}, lacks {lacks:?}\n", REGIONS[0]);
        }
        told + &self.logs()
    }

    /// When rows of a shard were written in each epoch, by the log of a region's database: the first and the last, in microseconds.
    ///
    /// # Panics
    /// When the database does not answer.
    pub async fn written(&self, region: usize, shard: &str) -> BTreeMap<u64, (i64, i64)> {
        let sql = "SELECT epoch, min(at_us), max(at_us) FROM portolan.log GROUP BY epoch";
        let mut store: PgConnection = self.clusters[region].connect("postgres", shard).await;
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut store).await.expect("rows");
        rows.into_iter().map(|(epoch, first, last)| (epoch.unsigned_abs(), (first, last))).collect()
    }
}

/// A row by its key.
fn row(key: &Value) -> Row {
    (key[0].as_str().expect("a tenant").to_owned(), key[1].as_u64().expect("an id"))
}
