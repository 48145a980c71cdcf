//! A row through the gateway beside the same row straight from the database, in turns on connections that are kept.

use std::time::Instant;

use hdrhistogram::Histogram;
use http::Method;
use portolan_test_postgres::Cluster;
use portolan_tests::client::Client;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::shop::{ask, folder, postgres, start, token};
use crate::{Figures, Size, histogram, micros, note, quantiles};

const ROWS: i64 = 10_000;

pub(crate) async fn measure(size: &Size, figures: &mut Figures) {
    let place = tempfile::tempdir().unwrap();
    let cluster = Cluster::start().await;
    cluster.admin("CREATE DATABASE shop OWNER own").await;
    let stores = [("s1".to_owned(), postgres(&cluster, "shop"))];
    let node = start(folder(place.path(), &stores, "")).await;
    let acme = token(node.folder(), "acme").await;
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let mut direct = cluster.connect("app", "shop").await;
    fill(&mut direct).await;

    let [mut gateway, mut plain, mut bound] = [histogram(), histogram(), histogram()];
    let mut number = 0_i64;
    for turn in 0..=size.turns {
        // The first turn warms all of them up.
        let keeps = turn > 0;
        for _ in 0..size.turn {
            number = (number + 7_919) % ROWS;
            let begun = Instant::now();
            let seen =
                ask(&mut client, &acme, Method::GET, &format!("/-/data/orders/{number}"), &Value::Null).await;
            record(&mut gateway, begun, keeps);
            assert_eq!(seen.status, 200, "{}", seen.text());
        }
        for _ in 0..size.turn {
            number = (number + 7_919) % ROWS;
            let begun = Instant::now();
            read_bound(&mut direct, number).await;
            record(&mut bound, begun, keeps);
        }
        // Outside of a transaction row security shows nobody's rows; the owner of a table without it reads the plain query.
        let mut reader = cluster.connect("postgres", "shop").await;
        read(&mut reader, number).await;
        for _ in 0..size.turn {
            number = (number + 7_919) % ROWS;
            let begun = Instant::now();
            read(&mut reader, number).await;
            record(&mut plain, begun, keeps);
        }
        reader.close().await.unwrap();
    }
    quantiles(figures, "data.read.gateway", &gateway);
    quantiles(figures, "data.read.direct", &plain);
    quantiles(figures, "data.read.direct_in_a_transaction", &bound);
    let over = (micros(&gateway, 0.5) - 1.3 * micros(&plain, 0.5)) / 1e3;
    note(figures, "data.read.over_1.3x_direct.p50_ms", over);

    let [mut gateway, mut bound] = [histogram(), histogram()];
    let mut id = ROWS;
    for turn in 0..=size.turns {
        let keeps = turn > 0;
        for _ in 0..size.turn {
            id += 1;
            let order =
                json!({ "id": id, "customer": id % 100, "total": "12.50", "note": "a note of some length" });
            let begun = Instant::now();
            let written = ask(&mut client, &acme, Method::POST, "/-/data/orders", &order).await;
            record(&mut gateway, begun, keeps);
            assert_eq!(written.status, 201, "{}", written.text());
        }
        for _ in 0..size.turn {
            id += 1;
            let begun = Instant::now();
            insert(&mut direct, id).await;
            record(&mut bound, begun, keeps);
        }
    }
    quantiles(figures, "data.insert.gateway", &gateway);
    quantiles(figures, "data.insert.direct_in_a_transaction", &bound);
}

fn record(histogram: &mut Histogram<u64>, begun: Instant, keeps: bool) {
    if keeps {
        histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1));
    }
}

async fn fill(direct: &mut PgConnection) {
    let mut transaction = direct.begin().await.unwrap();
    transaction.execute("SELECT set_config('portolan.tenant', 'acme', true)").await.unwrap();
    let rows = "INSERT INTO orders SELECT 'acme', n, n % 100, 12.50, 'a note of some length' FROM generate_series(0, 9999) n";
    transaction.execute(rows).await.unwrap();
    transaction.commit().await.unwrap();
    direct.execute("SELECT 1").await.unwrap();
}

const READ: &str = "SELECT id, customer, total::text, note FROM orders WHERE tenant = $1 AND id = $2";

async fn read(connection: &mut PgConnection, id: i64) {
    let row = sqlx::query(READ).bind("acme").bind(id).fetch_one(connection).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), id);
}

/// As an application reads that is bound to a tenant by row security.
async fn read_bound(connection: &mut PgConnection, id: i64) {
    let mut transaction = connection.begin().await.unwrap();
    bind(&mut transaction).await;
    read(&mut transaction, id).await;
    transaction.commit().await.unwrap();
}

async fn insert(connection: &mut PgConnection, id: i64) {
    let mut transaction = connection.begin().await.unwrap();
    bind(&mut transaction).await;
    let insert = "INSERT INTO orders VALUES ($1, $2, $3, 12.50, 'a note of some length')";
    sqlx::query(insert).bind("acme").bind(id).bind(id % 100).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn bind(connection: &mut PgConnection) {
    sqlx::query("SELECT set_config('portolan.tenant', $1, true)")
        .bind("acme")
        .execute(connection)
        .await
        .unwrap();
}
