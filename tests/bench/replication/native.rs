//! PostgreSQL's own logical replication: a publication, and a subscription at each copy, over TLS.

use std::net::SocketAddr;

use portolan_test_postgres::Cluster;
use portolan_tests::line::Line;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::Instant;

use crate::side::{DATABASE, Kind, Side, Spent, WRITERS, cluster, database};

pub(crate) async fn open(peers: usize) -> Side {
    let source = cluster().await;
    database(&source).await;
    // Over the network there are passwords alone.
    source.admin("ALTER ROLE postgres PASSWORD 'replicate'").await;
    run(&source, "CREATE PUBLICATION copies FOR TABLE orders").await;
    let line = Line::open().await;
    line.leads_to(address(&source));
    let mut copies = Vec::new();
    for number in 0..peers {
        let copy = cluster().await;
        database(&copy).await;
        subscribe(&copy, &line, number).await;
        copies.push(copy);
    }
    Side { name: "native", kind: Kind::Native, copies, line, source, written: [0; WRITERS] }
}

pub(crate) async fn copy_anew(side: &Side) -> (Spent, Instant) {
    let copy = &side.copies[0];
    run(copy, "DROP SUBSCRIPTION copy").await;
    run(copy, "TRUNCATE orders").await;
    side.line.leads_to(address(&side.source));
    let before = side.spent();
    subscribe(copy, &side.line, 0).await;
    (before, side.line.used().await)
}

async fn subscribe(copy: &Cluster, line: &Line, number: usize) {
    let sql = format!(
        "CREATE SUBSCRIPTION copy CONNECTION 'host=127.0.0.1 port={} user=postgres password=replicate dbname={DATABASE} \
         sslmode=require' PUBLICATION copies WITH (slot_name = copy_{number})",
        line.address.port()
    );
    run(copy, &sql).await;
}

/// Outside of a transaction, as slots want it.
async fn run(cluster: &Cluster, sql: &str) {
    let mut admin = cluster.connect("postgres", DATABASE).await;
    admin.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

fn address(cluster: &Cluster) -> SocketAddr {
    let url = cluster.secured_url("postgres", DATABASE);
    let authority = url.rsplit('@').next().and_then(|rest| rest.split('/').next());
    authority.and_then(|text| text.parse().ok()).expect("an address in the cluster's URL")
}
