//! What capture and fence add to a write: the same statements to a declared table and to one like it that nobody watches, in
//! turns, on one connection to one PostgreSQL.

use std::time::Instant;

use portolan_test_postgres::Cluster;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::shop::{folder, postgres, start};
use crate::{Figures, Size, histogram, micros, note, quantiles};

pub(crate) async fn measure(size: &Size, figures: &mut Figures) {
    let place = tempfile::tempdir().unwrap();
    let cluster = Cluster::start().await;
    cluster.admin("CREATE DATABASE shop OWNER own").await;
    let stores = [("s1".to_owned(), postgres(&cluster, "shop"))];
    let _node = start(folder(place.path(), &stores, "")).await;
    let mut owner = cluster.connect("own", "shop").await;
    let plain = crate::shop::POSTGRES.replace("orders", "unwatched");
    owner
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{plain}; GRANT ALL ON unwatched TO app"))))
        .await
        .unwrap();
    let mut direct = cluster.connect("app", "shop").await;
    let mut admin = cluster.connect("postgres", "shop").await;

    let mut id = 0_i64;
    let (mut took, mut written) = ([histogram(), histogram()], [0_u64; 2]);
    for turn in 0..=size.turns {
        for (place, table) in ["unwatched", "orders"].into_iter().enumerate() {
            let before = wal(&mut admin).await;
            for _ in 0..size.turn {
                id += 1;
                let begun = Instant::now();
                insert(&mut direct, table, id).await;
                if turn > 0 {
                    let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    took[place].saturating_record(nanos.max(1));
                }
            }
            if turn > 0 {
                written[place] += wal(&mut admin).await - before;
            }
        }
    }
    let [unwatched, watched] = &took;
    quantiles(figures, "capture.insert.unwatched", unwatched);
    quantiles(figures, "capture.insert.watched", watched);
    note(figures, "capture.insert.ratio.p50", micros(watched, 0.5) / micros(unwatched, 0.5));
    let count = (size.turn * size.turns) as f64;
    note(figures, "capture.wal.unwatched_bytes", written[0] as f64 / count);
    note(figures, "capture.wal.watched_bytes", written[1] as f64 / count);
    note(figures, "capture.wal.ratio", written[1] as f64 / written[0] as f64);
}

async fn wal(admin: &mut PgConnection) -> u64 {
    let row =
        admin.fetch_one("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").await.unwrap();
    u64::try_from(row.get::<i64, _>(0)).unwrap()
}

async fn insert(connection: &mut PgConnection, table: &'static str, id: i64) {
    let mut transaction = connection.begin().await.unwrap();
    let tenant = sqlx::query("SELECT set_config('portolan.tenant', $1, true)").bind("acme");
    tenant.execute(&mut *transaction).await.unwrap();
    let sql = match table {
        "orders" => "INSERT INTO orders VALUES ($1, $2, $3, 12.50, 'a note of some length')",
        _ => "INSERT INTO unwatched VALUES ($1, $2, $3, 12.50, 'a note of some length')",
    };
    sqlx::query(sql).bind("acme").bind(id).bind(id % 100).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}
