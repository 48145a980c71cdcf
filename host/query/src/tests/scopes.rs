//! Whose rows are seen, and on which shards.

use super::plans::{json, scans};
use super::shop::{self, Shop};
use crate::Error;

async fn tenants_see_their_own(shop: &Shop) {
    let count = |sql: &'static str| async move {
        let rows = json(&shop.own("acme", sql)).await.unwrap();
        rows[0]["n"].as_i64().unwrap()
    };
    assert_eq!(count("SELECT count(*) AS n FROM orders").await, 60);
    assert_eq!(count("SELECT count(*) AS n FROM orders WHERE tenant = 'globex'").await, 0);
    assert_eq!(count("SELECT count(DISTINCT tenant) AS n FROM customers").await, 1);
    assert_eq!(count("SELECT count(*) AS n FROM countries").await, 4);
    assert_eq!(count("SELECT count(*) AS n FROM orders o JOIN customers c ON o.tenant <> c.tenant").await, 0);
    // Without a home, each shard is asked, and none shows another's.
    let mut lost = shop.own("acme", "SELECT DISTINCT tenant FROM orders");
    lost.homes.clear();
    assert_eq!(json(&lost).await.unwrap().len(), 1);
    let nobody = shop.own("nobody", "SELECT count(*) AS n FROM orders");
    assert_eq!(json(&nobody).await.unwrap()[0]["n"], 0);
}

/// What a move has left on `s2` is seen by nobody who asks for all.
async fn what_was_moved_is_seen_once(shop: &Shop) {
    let rows =
        json(&shop.query("SELECT tenant, count(*) AS n FROM orders GROUP BY tenant ORDER BY tenant")).await;
    let rows: Vec<(String, i64)> = rows
        .unwrap()
        .iter()
        .map(|row| (row["tenant"].as_str().unwrap().to_owned(), row["n"].as_i64().unwrap()))
        .collect();
    let wanted = [("acme", 60), ("globex", 17), ("initech", 30), ("umbrella", 5)];
    assert_eq!(rows, wanted.map(|(tenant, count)| (tenant.to_owned(), count)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_on_sqlite() {
    let shop = shop::sqlite().await;
    tenants_see_their_own(shop).await;
    what_was_moved_is_seen_once(shop).await;
}

/// Also what needs a cluster else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_on_postgres() {
    let shop = Shop::postgres().await;
    tenants_see_their_own(&shop).await;
    what_was_moved_is_seen_once(&shop).await;
    super::plans::postgres_has_more(&shop).await;
    super::oracle::answers_are_those_of_postgres(&shop).await;
    // The writer's connections see nothing without a tenant: row security, not our SQL alone.
    let mut all = shop.query("SELECT count(*) AS n FROM countries");
    all.shards = shop.tenants.clone();
    assert_eq!(json(&all).await.unwrap()[0]["n"], 4);
    all.sql = "SELECT count(*) AS n FROM orders".to_owned();
    assert!(matches!(json(&all).await, Err(Error::Shard { .. })));
    super::limits::a_query_that_nobody_waits_for_ends_on_the_shard(&shop).await;
    super::limits::a_shard_that_takes_too_long_is_a_time_limit(&shop).await;
    super::limits::a_database_refuses_what_writes(&shop).await;
    super::limits::numbers_without_end_are_errors(&shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_prune_shards() {
    let shop = shop::sqlite().await;
    for (sql, wanted) in [
        ("SELECT id FROM orders WHERE tenant = 'acme'", "shards=[s0],"),
        ("SELECT id FROM orders WHERE tenant IN ('acme', 'initech')", "shards=[s0, s1],"),
        ("SELECT id FROM orders WHERE (tenant = 'acme' OR tenant = 'globex') AND qty > 1", "shards=[s0],"),
        ("SELECT id FROM orders WHERE tenant = 'acme' OR qty > 1", "shards=[s0, s1, s2],"),
        ("SELECT id FROM orders WHERE tenant <> 'acme'", "shards=[s0, s1, s2],"),
        ("SELECT id FROM orders WHERE tenant = 'stranger'", "shards=[s0, s1, s2],"),
        (
            "SELECT o.id FROM orders o JOIN customers c ON o.tenant = c.tenant WHERE c.tenant = 'hooli'",
            "shards=[s1],",
        ),
        ("SELECT count(*) FROM orders WHERE tenant = 'globex'", "shards=[s0],"),
        ("SELECT code FROM countries", "shards=[s0],"),
    ] {
        let found = scans(&shop.query(sql)).await;
        assert!(found.iter().all(|scan| scan.starts_with(wanted)), "{sql}: {found:?}");
    }
    let own = scans(&shop.own("initech", "SELECT id FROM orders")).await;
    assert!(own[0].starts_with("shards=[s1],"), "{own:?}");
    let mut nowhere = shop.query("SELECT count(*) AS n FROM orders WHERE tenant = 'nobody'");
    nowhere.homes.insert("nobody".to_owned(), None);
    assert!(scans(&nowhere).await.iter().all(|scan| scan.starts_with("shards=[]")));
    assert_eq!(json(&nowhere).await.unwrap()[0]["n"], 0);
}
