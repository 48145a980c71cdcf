//! What is too much, too long or broken, and what writes.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::plans::json;
use super::shop::{self, Shop};
use crate::engine::{self, Place};
use crate::{Address, Error, Format, Pushes, write};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_with_the_reason() {
    let shop = shop::sqlite().await;
    let with = |sql: &str, change: &dyn Fn(&mut crate::Limits)| {
        let mut query = shop.query(sql);
        change(&mut query.limits);
        query
    };
    let sort = "SELECT a.note, b.note AS other, count(*) AS n FROM orders a CROSS JOIN orders b CROSS JOIN customers c \
        GROUP BY a.note, b.note, a.id, b.id, c.id";
    for (query, wanted) in [
        (with("SELECT id FROM orders", &|limits| limits.scan_rows = 50), "would fetch about 117 rows"),
        (with("SELECT id FROM orders WHERE qty > -5", &|limits| limits.scan_rows = 50), "fetched more than"),
        (with("SELECT tenant, id FROM orders", &|limits| limits.answer_rows = 10), "limit of 10 rows"),
        (with("SELECT tenant, id FROM orders", &|limits| limits.answer_bytes = 10), "or 10 bytes"),
        (with("SELECT id FROM orders", &|limits| limits.fan_out = 2), "would send 3 statements"),
        (with(sort, &|limits| limits.memory_bytes = 200_000), "more memory"),
    ] {
        let error = json(&query).await.unwrap_err();
        assert!(matches!(&error, Error::Limit(why) if why.contains(wanted)), "{}: {error}", query.sql);
    }
    let many: Vec<String> = (0..17).map(|n| format!("SELECT id + {n} AS id FROM orders")).collect();
    let error = json(&shop.query(&many.join(" UNION ALL "))).await.unwrap_err();
    assert!(matches!(&error, Error::Limit(why) if why.contains("17 statements to one shard")), "{error}");
    let mut late = shop.query("SELECT count(*) AS n FROM orders a, orders b, orders c, orders d WHERE a.qty + b.qty + c.qty + d.qty < 0");
    late.limits.time_ms = 300;
    assert_eq!(json(&late).await, Err(Error::Time(300)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_write_change_nothing() {
    let shop = shop::sqlite().await;
    let before = json(&shop.query("SELECT count(*) AS n FROM orders")).await.unwrap();
    for sql in ["DELETE FROM orders", "INSERT INTO countries VALUES ('x', 'y', 1)", "DROP TABLE orders"] {
        let error = json(&shop.query(sql)).await.unwrap_err();
        assert!(
            matches!(&error, Error::Writes(why) if why.contains("nothing has changed")),
            "{sql}: {error}"
        );
    }
    assert_eq!(json(&shop.query("SELECT count(*) AS n FROM orders")).await.unwrap(), before);
    for (sql, wanted) in [
        ("SELECT nothing FROM orders", "nothing"),
        ("SELECT * FROM portolan_log", "portolan_log"),
        ("SELECT * FROM sqlite_schema", "sqlite_schema"),
        ("SELECT o.id, c.id FROM orders o, customers c", "two columns are called `id`"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
    ] {
        let error = json(&shop.query(sql)).await.unwrap_err();
        assert!(matches!(&error, Error::Statement(why) if why.contains(wanted)), "{sql}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_away_fails_only_what_needs_it() {
    let shop = shop::sqlite().await;
    let broken = |sql: &str, partial: bool| {
        let mut query = shop.query(sql);
        query.shards.insert("s1".to_owned(), Place::Away("its region is `us`".to_owned()));
        query.shards.insert("s2".to_owned(), Place::At(Address::Sqlite(shop.folder.path().join("gone.db"))));
        query.partial = partial;
        query
    };
    let all = "SELECT count(*) AS n FROM orders";
    let wanted = Error::Shard { shard: "s1".to_owned(), why: "its region is `us`".to_owned() };
    assert_eq!(json(&broken(all, false)).await, Err(wanted));
    // Whoever is there answers alone for what lies there.
    let own = json(&broken("SELECT count(*) AS n FROM orders WHERE tenant = 'acme'", false)).await.unwrap();
    assert_eq!(own[0]["n"], 60);
    let rows = engine::run(&broken(all, true), Pushes::ALL).await.unwrap();
    assert_eq!(rows.missing, ["s1", "s2"]);
    assert_eq!(json(&broken(all, true)).await.unwrap()[0]["n"], 77);
    let whole = engine::run(&broken("SELECT code FROM countries", true), Pushes::ALL).await.unwrap();
    assert_eq!(whole.missing, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_four_forms() {
    let shop = shop::sqlite().await;
    let sql = "SELECT tenant, id, amount, paid, due, placed FROM orders WHERE tenant = 'acme' AND id < 2 ORDER BY id";
    let text = |format: Format, sql: &'static str| async move {
        let mut query = shop.query(sql);
        query.format = format;
        let answer = write(engine::run(&query, Pushes::ALL).await.unwrap(), format).unwrap();
        let bytes: Vec<_> = answer.body.try_collect().await.unwrap();
        bytes.concat()
    };
    let json: Vec<serde_json::Value> = serde_json::from_slice(&text(Format::Json, sql).await).unwrap();
    let lines = String::from_utf8(text(Format::Ndjson, sql).await).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json, lines);
    assert_eq!((json.len(), json[0]["tenant"].as_str(), json[1]["id"].as_i64()), (2, Some("acme"), Some(1)));
    let csv = String::from_utf8(text(Format::Csv, sql).await).unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let arrow = text(Format::Arrow, sql).await;
    let reader = datafusion::arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
    let none = "SELECT tenant FROM orders WHERE tenant = 'hooli'";
    assert_eq!(text(Format::Json, none).await, b"[]");
    assert_eq!(text(Format::Csv, none).await, b"tenant\n");
}

pub(super) async fn a_query_that_nobody_waits_for_ends_on_the_shard(shop: &Shop) {
    let cluster = shop.cluster.as_ref().unwrap();
    let mut locker = cluster.connect("own", "s0").await;
    locker.execute("BEGIN").await.unwrap();
    locker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut watcher = cluster.connect("postgres", "s0").await;
    let mut waiting = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'portolan query' AND wait_event_type = 'Lock'";
        sqlx::query(sql).fetch_one(&mut watcher).await.unwrap().get::<i64, _>(0)
    };
    let mut query = shop.query("SELECT sum(qty) AS s FROM orders");
    query.limits.time_ms = 60_000;
    let running = portolan_foundation::task::spawn("a query", async move { json(&query).await });
    let soon = tokio::time::timeout(PATIENCE, async { while waiting().await == 0 {} });
    soon.await.expect("the shard is asked");
    running.abort();
    let soon = tokio::time::timeout(PATIENCE, async { while waiting().await > 0 {} });
    soon.await.expect("the shard ends what it is at");
    locker.execute("ROLLBACK").await.unwrap();
}

pub(super) async fn a_shard_that_takes_too_long_is_a_time_limit(shop: &Shop) {
    let cluster = shop.cluster.as_ref().unwrap();
    let mut locker = cluster.connect("own", "s0").await;
    locker.execute("BEGIN").await.unwrap();
    locker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut query = shop.query("SELECT sum(qty) AS s FROM orders");
    query.limits.time_ms = 500;
    assert_eq!(json(&query).await, Err(Error::Time(500)));
    locker.execute("ROLLBACK").await.unwrap();
}

/// Should anything that writes ever come through, the shard itself refuses it.
pub(super) async fn a_database_refuses_what_writes(shop: &Shop) {
    let Place::At(Address::Postgres { url, .. }) = &shop.shards["s0"] else { panic!("an address") };
    let pool = crate::source::tests::postgres(url).await;
    let error = sqlx::query("DELETE FROM orders").execute(&pool).await.unwrap_err();
    assert!(error.to_string().contains("read-only transaction"), "{error}");
}

pub(super) async fn numbers_without_end_are_errors(shop: &Shop) {
    let cluster = shop.cluster.as_ref().unwrap();
    cluster.admin("CREATE DATABASE odd OWNER own").await;
    let mut owner = cluster.connect("own", "odd").await;
    let sql = "CREATE TABLE countries (code text PRIMARY KEY, title numeric, rank timestamptz); \
        INSERT INTO countries VALUES ('a', 'NaN', '2026-01-01'), ('b', 1.5, 'infinity'), ('c', 1.00000000001, '2026-01-01'), \
        ('d', 12345678901234567890.123, '2026-01-01T00:00:00.000001Z')";
    owner.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    let mut query = shop.query("");
    query.shards = [("odd".to_owned(), shop::at(cluster.url("own", "odd")))].into();
    query.tables.retain(|table| table.name.as_str() == "countries");
    for code in ["a", "b", "c"] {
        query.sql = format!("SELECT title, rank FROM countries WHERE code = '{code}'");
        assert!(matches!(json(&query).await, Err(Error::Shard { .. })), "{code}");
    }
    query.sql = "SELECT CAST(title AS text) AS title, rank FROM countries WHERE code = 'd'".to_owned();
    let row = json(&query).await.unwrap();
    assert_eq!(row[0]["title"], "12345678901234567890.1230000000");
    assert_eq!(row[0]["rank"], "2026-01-01T00:00:00.000001Z");
}
