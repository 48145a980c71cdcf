//! A sharded run equals an unsharded run through the same engine, on either database and on both together; and a list of
//! queries has the answers that PostgreSQL itself gives.

use std::collections::BTreeMap;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _};

use super::generate::{self, Dice};
use super::shop::{self, Shop};
use crate::engine::{self, Place};
use crate::{Error, Limits, Pushes};

/// Generated queries of each part.
const QUERIES: usize = 600;

fn texts(batches: &[RecordBatch], ordered: bool) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> =
                columns.iter().map(|column| format!("{:?}", column.value(row).to_string())).collect();
            rows.push(values.join(" | "));
        }
    }
    if !ordered {
        rows.sort();
    }
    rows
}

/// Shards that stay open from one query to the next.
struct Sharded<'a> {
    opened: engine::Opened,
    pushes: Pushes,
    shop: &'a Shop,
}

impl<'a> Sharded<'a> {
    async fn open(shop: &'a Shop, shards: &BTreeMap<String, Place>, pushes: Pushes) -> Self {
        let mut query = shop.query("SELECT 1");
        query.shards = shards.clone();
        Self { opened: engine::open(&query).await.unwrap(), pushes, shop }
    }

    async fn ask(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        let rows = engine::run_on(&self.shop.query(sql), &self.opened, self.pushes).await?;
        rows.stream.try_collect().await.map_err(|error| Error::of(&error))
    }
}

async fn whole(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, Error> {
    let run = async { context.sql(sql).await?.collect().await };
    run.await.map_err(|error| Error::of(&error))
}

fn memory() -> SessionContext {
    let state = engine::state(&Limits::default(), Pushes::NONE).unwrap();
    let context = SessionContext::new_with_state(state);
    shop::memory(&context);
    context
}

async fn compare(shop: &Shop, shards: &BTreeMap<String, Place>, seed: u64, queries: usize) {
    let (context, sharded) = (memory(), Sharded::open(shop, shards, Pushes::ALL).await);
    let (mut dice, mut refused) = (Dice::new(seed), Vec::new());
    for number in 0..queries {
        let sql = generate::query(&mut dice);
        let ordered = sql.contains("LIMIT") && !sql.contains("FROM (");
        let (ours, wanted) = tokio::join!(sharded.ask(&sql), whole(&context, &sql));
        match (ours, wanted) {
            (Ok(ours), Ok(wanted)) => {
                let (ours, wanted) = (texts(&ours, ordered), texts(&wanted, ordered));
                if ours != wanted {
                    let plan = sharded.ask(&format!("EXPLAIN {sql}")).await;
                    let plan = plan.map(|plan| texts(&plan, true).join("\n").replace("\\n", "\n"));
                    panic!(
                        "seed {seed}, query {number}: {sql}\n{plan:?}\nours {ours:#?}\nwanted {wanted:#?}"
                    );
                }
            }
            (Err(ours), Err(_)) => refused.push(format!("{sql}: {ours}")),
            (ours, wanted) => {
                panic!("seed {seed}, query {number}: {sql}\n{:?}\n{:?}", ours.err(), wanted.err());
            }
        }
    }
    // What neither answers proves nothing.
    assert!(
        refused.len() * 50 <= queries,
        "{} of {queries} had no answer:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

fn seed() -> u64 {
    let seed = u64::from(portolan_seed());
    println!("seed {seed}");
    seed
}

/// Another one each hour, so that many are tried, and a failure repeats.
fn portolan_seed() -> u32 {
    u32::try_from(portolan_foundation::clock::unix_ms() / 3_600_000).unwrap()
}

#[tokio::test]
async fn sqlite_shards_are_one_database() {
    let shop = shop::sqlite().await;
    compare(shop, &shop.shards, seed(), QUERIES).await;
}

#[tokio::test]
async fn sqlite_shards_are_one_database_with_other_queries() {
    let shop = shop::sqlite().await;
    compare(shop, &shop.shards, seed() + 1, QUERIES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_scans_are_one_database() {
    let shop = shop::sqlite().await;
    let (context, sharded) = (memory(), Sharded::open(shop, &shop.shards, Pushes::NONE).await);
    let mut dice = Dice::new(seed());
    for _ in 0..40 {
        let sql = generate::query(&mut dice);
        let ordered = sql.contains("LIMIT") && !sql.contains("FROM (");
        if let Ok(wanted) = whole(&context, &sql).await {
            let ours = sharded.ask(&sql).await.unwrap();
            assert_eq!(texts(&ours, ordered), texts(&wanted, ordered), "{sql}");
        }
    }
}

#[tokio::test]
async fn postgres_shards_are_one_database() {
    let postgres = Shop::postgres().await;
    compare(&postgres, &postgres.shards, seed() + 2, QUERIES).await;
}

#[tokio::test]
async fn postgres_shards_are_one_database_with_other_queries() {
    let postgres = Shop::postgres().await;
    compare(&postgres, &postgres.shards, seed() + 3, QUERIES).await;
}

#[tokio::test]
async fn shards_of_both_engines_are_one_database() {
    let (sqlite, postgres) = tokio::join!(shop::sqlite(), Shop::postgres());
    compare(&postgres, &Shop::mixed(sqlite, &postgres), seed() + 4, QUERIES / 2).await;
}

/// Each is answered by PostgreSQL, too, from one database with all rows.
const LISTED: &[&str] = &[
    "SELECT tenant, id, note FROM orders ORDER BY note COLLATE \"C\" DESC NULLS LAST, tenant, id LIMIT 25",
    "SELECT tenant, id, qty FROM orders ORDER BY qty DESC, tenant, id LIMIT 20 OFFSET 5",
    "SELECT tenant, id, qty FROM orders ORDER BY qty, tenant, id LIMIT 90 OFFSET 70",
    "SELECT tenant, count(*) AS n, count(qty) AS q, sum(qty) AS s, min(due) AS d FROM orders GROUP BY tenant ORDER BY tenant",
    "SELECT note, count(*) AS n FROM orders WHERE paid GROUP BY note HAVING count(*) > 1 ORDER BY n, note COLLATE \"C\"",
    "SELECT paid, sum(amount) AS s, max(amount) AS m FROM orders GROUP BY paid ORDER BY paid",
    "SELECT count(DISTINCT tenant) AS t, count(DISTINCT note) AS n, count(*) FILTER (WHERE qty > 2) AS f FROM orders",
    "SELECT sum(qty) AS s, avg(qty) * 0 AS z, count(*) AS n FROM orders WHERE tenant = 'nobody'",
    "SELECT o.tenant, o.id, c.name FROM orders o JOIN customers c ON c.tenant = o.tenant AND c.id = o.customer \
     WHERE c.country = 'de' ORDER BY 1, 2",
    "SELECT o.tenant, o.id, c.name FROM orders o LEFT JOIN customers c ON c.tenant = o.tenant AND c.id = o.customer \
     ORDER BY 1, 2",
    "SELECT l.title, count(*) AS n FROM orders o JOIN customers c ON c.tenant = o.tenant AND c.id = o.customer \
     JOIN countries l ON l.code = c.country GROUP BY l.title ORDER BY l.title",
    "SELECT tenant, id FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.tenant = o.tenant AND c.id = o.customer \
     AND c.country = 'fr') ORDER BY 1, 2",
    "SELECT tenant, id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM customers c WHERE c.tenant = o.tenant \
     AND c.id = o.customer) ORDER BY 1, 2",
    "SELECT tenant, id, row_number() OVER (PARTITION BY tenant ORDER BY id DESC) AS r FROM orders ORDER BY 1, 2",
    "SELECT tenant, id, sum(qty) OVER (PARTITION BY tenant ORDER BY id) AS r FROM orders ORDER BY 1, 2",
    "WITH big AS (SELECT tenant, id, amount FROM orders WHERE amount > 12.5) SELECT tenant, count(*) AS n, sum(amount) AS s \
     FROM big GROUP BY tenant ORDER BY tenant",
    "SELECT tenant, id, due FROM orders WHERE due BETWEEN DATE '2026-01-05' AND DATE '2026-02-01' ORDER BY due, tenant, id",
    "SELECT tenant, id FROM orders WHERE placed < TIMESTAMP WITH TIME ZONE '2026-02-01T00:00:00Z' ORDER BY 1, 2",
    "SELECT tenant, id FROM orders WHERE qty IN (1, 3, NULL) OR note IN ('a', 'A') ORDER BY 1, 2",
    "SELECT tenant, id FROM orders WHERE qty NOT IN (1, 3) AND NOT (small = 2) ORDER BY 1, 2",
    "SELECT tenant, id, mark FROM orders WHERE mark = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01' ORDER BY 1, 2",
    "SELECT tenant, max(note COLLATE \"C\") AS m FROM orders GROUP BY tenant ORDER BY tenant",
    "SELECT code, title FROM countries WHERE rank > 1 ORDER BY code",
    "SELECT tenant, qty / 2 AS half, qty % 3 AS rest FROM orders WHERE qty IS NOT NULL ORDER BY tenant, id",
    "SELECT tenant, id FROM orders WHERE note > 'Z' COLLATE \"C\" ORDER BY 1, 2",
];

pub(super) async fn answers_are_those_of_postgres(shop: &Shop) {
    let mut connection = shop.cluster.as_ref().unwrap().connect("own", "everything").await;
    for sql in LISTED {
        let rows =
            sqlx::query(AssertSqlSafe(format!("SELECT row_to_json(answer)::text FROM ({sql}) answer")));
        let rows = rows.fetch_all(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let theirs: Vec<serde_json::Value> =
            rows.iter().map(|row| serde_json::from_str(&row.get::<String, _>(0)).unwrap()).collect();
        // The engine compares all texts by their bytes, and has no other order to name.
        let ours = super::plans::json(&shop.query(&sql.replace(" COLLATE \"C\"", ""))).await.unwrap();
        let same = |value: &serde_json::Value| numbers(value);
        let (ours, theirs): (Vec<_>, Vec<_>) =
            (ours.iter().map(same).collect(), theirs.iter().map(same).collect());
        assert_eq!(ours, theirs, "{sql}");
    }
}

/// Decimals are texts here and numbers there.
fn numbers(value: &serde_json::Value) -> BTreeMap<String, String> {
    let row = value.as_object().unwrap().iter();
    row.map(|(name, value)| {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let text = match text.parse::<f64>() {
            Ok(number) if name != "note" && name != "name" => format!("{number}"),
            _ => text,
        };
        (name.clone(), text)
    })
    .collect()
}
