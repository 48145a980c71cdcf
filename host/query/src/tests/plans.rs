//! What is pushed, and what is not, by the plan that EXPLAIN shows.

use futures_util::TryStreamExt as _;

use super::shop::{self, Shop};
use crate::engine::{self, Query};
use crate::{Error, Pushes, write};

/// The rows of an answer.
pub(super) async fn json(query: &Query) -> Result<Vec<serde_json::Value>, Error> {
    let answer = write(engine::run(query, Pushes::ALL).await?, query.format)?;
    let bytes: Vec<_> = answer.body.try_collect().await?;
    Ok(serde_json::from_slice(&bytes.concat()).unwrap())
}

/// The scans of a plan, one a line.
pub(super) async fn scans(query: &Query) -> Vec<String> {
    let mut query = query.clone();
    query.sql = format!("EXPLAIN {}", query.sql);
    let rows = json(&query).await.unwrap();
    let plan = rows.iter().find(|row| row["plan_type"] == "physical_plan").unwrap();
    let lines = plan["plan"].as_str().unwrap().lines().map(str::trim);
    lines.filter(|line| line.starts_with("ShardScan")).map(|line| line.replace("ShardScan: ", "")).collect()
}

/// Statements and what the scans of shards of SQLite ask, one for each scan; `*` stands for what every scan has.
const PUSHED: &[(&str, &[&str])] = &[
    // Columns.
    ("SELECT o.qty FROM orders o", &["SELECT t0.\"qty\" FROM \"orders\" t0 WHERE *"]),
    // Conditions.
    (
        "SELECT id FROM orders WHERE qty > 1 AND NOT paid",
        &["SELECT t0.\"id\" FROM \"orders\" t0 WHERE * AND t0.\"qty\" > $1 AND NOT (t0.\"paid\")"],
    ),
    (
        "SELECT id FROM orders WHERE note = 'a' AND qty IS NULL",
        &[
            "SELECT t0.\"id\" FROM \"orders\" t0 WHERE * AND t0.\"note\" COLLATE BINARY = $1 AND t0.\"qty\" IS NULL",
        ],
    ),
    // LIMIT, and the first rows of an order.
    ("SELECT id FROM orders LIMIT 3 OFFSET 2", &["SELECT t0.\"id\" FROM \"orders\" t0 WHERE * LIMIT 5"]),
    (
        "SELECT id, note FROM orders ORDER BY note DESC, id LIMIT 4",
        &[
            "SELECT t0.\"id\", t0.\"note\" FROM \"orders\" t0 WHERE * ORDER BY t0.\"note\" COLLATE BINARY DESC NULLS FIRST, \
         t0.\"id\" ASC NULLS LAST LIMIT 4",
        ],
    ),
    (
        "SELECT qty + 1 AS more, id FROM orders ORDER BY id LIMIT 2",
        &[
            "SELECT t0.\"id\", t0.\"qty\" FROM \"orders\" t0 WHERE * ORDER BY t0.\"id\" ASC NULLS LAST LIMIT 2",
        ],
    ),
    // Groups.
    (
        "SELECT count(*), sum(qty), max(note) FROM orders",
        &["SELECT count(*), sum(t0.\"qty\"), max(t0.\"note\" COLLATE BINARY) FROM \"orders\" t0 WHERE *"],
    ),
    (
        "SELECT small, avg(qty) FROM orders WHERE paid GROUP BY small",
        &[
            "SELECT t0.\"small\", sum(t0.\"qty\"), count(t0.\"qty\") FROM \"orders\" t0 WHERE * AND t0.\"paid\" GROUP BY t0.\"small\"",
        ],
    ),
    (
        "SELECT DISTINCT note FROM orders",
        &["SELECT t0.\"note\" COLLATE BINARY FROM \"orders\" t0 WHERE * GROUP BY t0.\"note\" COLLATE BINARY"],
    ),
    (
        "SELECT count(DISTINCT tenant) FROM orders",
        &["SELECT count(DISTINCT t0.\"tenant\" COLLATE BINARY) FROM \"orders\" t0 WHERE *"],
    ),
    (
        "SELECT tenant, count(DISTINCT qty) FROM orders GROUP BY tenant",
        &[
            "SELECT t0.\"tenant\" COLLATE BINARY, count(DISTINCT t0.\"qty\") FROM \"orders\" t0 WHERE * GROUP BY t0.\"tenant\" COLLATE BINARY",
        ],
    ),
    (
        "SELECT count(*) FILTER (WHERE qty > 1) FROM orders",
        &["SELECT count(*) FILTER (WHERE t0.\"qty\" > $1) FROM \"orders\" t0 WHERE *"],
    ),
    // Joins of rows that lie together, and with reference tables.
    (
        "SELECT o.id, c.name FROM orders o JOIN customers c ON c.tenant = o.tenant AND c.id = o.customer",
        &[
            "SELECT t1.c1, t3.c2 FROM (SELECT t0.\"tenant\" AS c0, t0.\"id\" AS c1, t0.\"customer\" AS c2 FROM \"orders\" t0 WHERE *) t1 \
         JOIN (SELECT t2.\"tenant\" AS c0, t2.\"id\" AS c1, t2.\"name\" AS c2 FROM \"customers\" t2 WHERE *) t3 \
         ON t1.c0 COLLATE BINARY = t3.c0 COLLATE BINARY AND t1.c2 = t3.c1",
        ],
    ),
    (
        "SELECT l.title, count(*) FROM orders o JOIN countries l ON l.rank = o.qty GROUP BY l.title",
        &[
            "SELECT t3.c0 COLLATE BINARY, count(*) FROM (SELECT t0.\"qty\" AS c0 FROM \"orders\" t0 WHERE *) t1 \
         JOIN (SELECT t2.\"title\" AS c0, t2.\"rank\" AS c1 FROM \"countries\" t2) t3 ON t1.c0 = t3.c1 GROUP BY t3.c0 COLLATE BINARY",
        ],
    ),
    (
        "SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.tenant = o.tenant)",
        &[
            "SELECT t1.c1 FROM (SELECT t0.\"tenant\" AS c0, t0.\"id\" AS c1 FROM \"orders\" t0 WHERE *) t1 WHERE EXISTS (SELECT 1 FROM \
         (SELECT t2.\"tenant\" AS c0 FROM \"customers\" t2 WHERE *) t3 WHERE t1.c0 COLLATE BINARY = t3.c0 COLLATE BINARY)",
        ],
    ),
    // What engines do each in their own way stays with the query engine.
    ("SELECT id FROM orders WHERE qty + 1 > 2", &["SELECT t0.\"id\", t0.\"qty\" FROM \"orders\" t0 WHERE *"]),
    (
        "SELECT id FROM orders WHERE ratio > 0.5",
        &["SELECT t0.\"id\", t0.\"ratio\" FROM \"orders\" t0 WHERE *"],
    ),
    (
        "SELECT id FROM orders WHERE amount > 1.5",
        &["SELECT t0.\"id\", t0.\"amount\" FROM \"orders\" t0 WHERE *"],
    ),
    (
        "SELECT id FROM orders ORDER BY placed LIMIT 1",
        &["SELECT t0.\"id\", t0.\"placed\" FROM \"orders\" t0 WHERE *"],
    ),
    ("SELECT sum(ratio) FROM orders", &["SELECT t0.\"ratio\" FROM \"orders\" t0 WHERE *"]),
    ("SELECT sum(amount), count(*) FROM orders", &["SELECT t0.\"amount\" FROM \"orders\" t0 WHERE *"]),
    ("SELECT avg(id) FROM orders", &["SELECT t0.\"id\" FROM \"orders\" t0 WHERE *"]),
    (
        "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer",
        &[
            "SELECT t0.\"id\", t0.\"customer\" FROM \"orders\" t0 WHERE *",
            "SELECT t0.\"id\" FROM \"customers\" t0 WHERE *",
        ],
    ),
    (
        "SELECT l.code FROM countries l LEFT JOIN orders o ON l.rank = o.qty",
        &[
            "SELECT t0.\"code\", t0.\"rank\" FROM \"countries\" t0",
            "SELECT t0.\"qty\" FROM \"orders\" t0 WHERE *",
        ],
    ),
    (
        "SELECT id FROM (SELECT id, qty FROM orders ORDER BY id LIMIT 3) o WHERE qty > 1",
        &[
            "SELECT t0.\"id\", t0.\"qty\" FROM \"orders\" t0 WHERE * ORDER BY t0.\"id\" ASC NULLS LAST LIMIT 3",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_say_what_is_pushed() {
    let shop = shop::sqlite().await;
    let mut wrong = Vec::new();
    for (sql, wanted) in PUSHED {
        let found = scans(&shop.query(sql)).await;
        let found: Vec<String> = found.iter().map(|scan| pushed(scan)).collect();
        let mut wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        let mut sorted = found.clone();
        sorted.sort();
        wanted.sort();
        if sorted != wanted {
            wrong.push(format!("{sql}\n  {}", found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The statement of a scan, with `*` for what hides moved tenants, and without the values.
fn pushed(scan: &str) -> String {
    let sql = scan.split_once("sqlite=").map_or(scan, |(_, sql)| sql);
    let sql = sql.split(", values=").next().unwrap();
    let mut text = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("NOT EXISTS (SELECT 1 FROM portolan_tenant") {
        text.push_str(before);
        text.push('*');
        rest = after.split_once("m.away = 1)").unwrap().1;
    }
    text + rest
}

/// Decimals, days and moments are PostgreSQL's, too; texts are compared by their bytes whatever the column's collation.
pub(super) async fn postgres_has_more(shop: &Shop) {
    for (sql, wanted) in [
        ("SELECT sum(amount) AS s FROM orders WHERE due < DATE '2026-02-01'", "sum(t0.\"amount\")"),
        ("SELECT id FROM orders WHERE placed >= '2026-02-01T00:00:00Z'", "t0.\"placed\" >= $1::timestamptz"),
        ("SELECT id FROM orders WHERE amount > 12.5", "t0.\"amount\" > $1::numeric"),
        ("SELECT id FROM orders WHERE note > 'a'", "t0.\"note\" COLLATE \"C\" > $1"),
        ("SELECT id FROM orders WHERE note = 'a'", "t0.\"note\" = $1"),
        (
            "SELECT id FROM orders ORDER BY placed DESC LIMIT 3",
            "ORDER BY t0.\"placed\" DESC NULLS FIRST LIMIT 3",
        ),
        ("SELECT sum(id) AS s FROM orders", "(sum(t0.\"id\"))::bigint"),
        ("SELECT avg(amount) AS a FROM orders", "sum(t0.\"amount\"), count(t0.\"amount\")"),
    ] {
        let found = scans(&shop.query(sql)).await;
        assert!(found.len() == 1 && found[0].contains(wanted), "{sql}: {found:?}");
    }
}
