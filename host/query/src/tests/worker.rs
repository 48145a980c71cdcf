//! Queries in a process of their own.

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::shop;
use crate::engine::{Place, Query};
use crate::worker::Workers;
use crate::{Error, Format};

/// The example `query_worker` lies beside the tests.
fn workers() -> Workers {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().unwrap().parent().unwrap();
    Workers::new(folder.join("examples/query_worker"), Vec::new())
}

async fn text(workers: &Workers, query: &Query) -> Result<String, Error> {
    let bytes: Vec<_> = workers.ask(query).await?.body.try_collect().await?;
    Ok(String::from_utf8(bytes.concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_answers_as_the_engine_does() {
    let (shop, workers) = (shop::sqlite().await, workers());
    let mut query = shop.query("SELECT tenant, count(*) AS n FROM orders GROUP BY tenant ORDER BY tenant");
    query.format = Format::Csv;
    let wanted = "tenant,n\nacme,60\nglobex,17\ninitech,30\numbrella,5\n";
    assert_eq!(text(&workers, &query).await.as_deref(), Ok(wanted));
    query.format = Format::Ndjson;
    query.tenant = Some("globex".to_owned());
    assert_eq!(text(&workers, &query).await.as_deref(), Ok("{\"tenant\":\"globex\",\"n\":17}\n"));
    for (sql, wanted) in [
        ("DELETE FROM orders", "read-only"),
        ("SELECT nothing FROM orders", "bad-statement"),
        ("SELECT 1; SELECT 2", "bad-statement"),
    ] {
        let error = text(&workers, &shop.query(sql)).await.unwrap_err();
        assert_eq!(error.code(), wanted, "{sql}: {error}");
    }
    let mut partial = shop.query("SELECT count(*) AS n FROM orders");
    partial.partial = true;
    partial.shards.insert("s0".to_owned(), Place::Away("it is written in `us`".to_owned()));
    assert_eq!(workers.ask(&partial).await.unwrap().head.missing, ["s0"]);
    // Many frames.
    let mut long = shop.query("SELECT a.id, b.note, c.note AS other FROM orders a, orders b, orders c");
    long.format = Format::Csv;
    long.limits.answer_rows = 2_000_000;
    assert_eq!(text(&workers, &long).await.unwrap().lines().count(), 112 * 112 * 112 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_takes_too_much_of_ends_it_alone() {
    let (shop, workers) = (shop::sqlite().await, workers());
    // The engine counts this, and the process that is no more counts the other.
    for sql in [
        "SELECT array_agg(repeat('x', 100000)) AS a FROM generate_series(1, 1000000)",
        "SELECT length(repeat('x', 2000000000)) + length(repeat('y', 2000000000)) + length(repeat(repeat('z', 1000000), 4000)) AS n",
    ] {
        let error = text(&workers, &shop.query(sql)).await.unwrap_err();
        assert!(matches!(error, Error::Limit(_) | Error::Statement(_)), "{sql}: {error:?}");
    }
    let endless = "SELECT count(*) AS n FROM orders a, orders b, orders c, orders d WHERE a.qty + b.qty + c.qty + d.qty < 0";
    let mut late = shop.query(endless);
    late.limits.time_ms = 500;
    assert_eq!(text(&workers, &late).await, Err(Error::Time(500)));
    assert_eq!(text(&workers, &shop.query("SELECT 1 AS one")).await.as_deref(), Ok("[{\"one\":1}]"));
}

/// More than may run at once are begun and dropped: each leaves its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_takes_the_worker_along() {
    let (shop, workers) = (shop::sqlite().await, workers());
    let mut long = shop.query("SELECT a.id, b.note, c.note AS other FROM orders a, orders b, orders c");
    long.format = Format::Ndjson;
    for _ in 0..2 * crate::defaults::QUERIES_MAX {
        let mut answer = workers.ask(&long).await.unwrap();
        assert!(answer.body.next().await.unwrap().is_ok());
    }
    assert_eq!(text(&workers, &shop.query("SELECT 1 AS one")).await.as_deref(), Ok("[{\"one\":1}]"));
}
