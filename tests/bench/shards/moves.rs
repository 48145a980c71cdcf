//! For how long a tenant's writes wait while it moves, as its clients see it: writers through the gateway and applications that
//! write straight to the database, all of whom send again what is held, until it is taken. Each move copies everything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use portolan_foundation::task;
use portolan_test_postgres::Cluster;
use portolan_tests::client::Client;
use portolan_tests::node::{Node, run};
use portolan_tests::until;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::shop::{ask, folder, postgres, start, token};
use crate::{Figures, Size, note};

/// Who writes: together a thousand rows in a second.
const GATEWAY: usize = 8;
const DIRECT: usize = 2;
const PACE: Duration = Duration::from_millis(10);
/// From a write that is held to the same one again.
const AGAIN: Duration = Duration::from_millis(2);
const SHARDS: [&str; 2] = ["s1", "s2"];
/// What a row carries besides its key: a mebibyte has about a thousand of them.
const NOTE: usize = 940;

/// What writers share.
#[derive(Default)]
struct Stage {
    ends: AtomicBool,
    /// The longest write since it was last taken, in microseconds.
    longest_us: AtomicU64,
    next: AtomicI64,
    /// The shard that direct writers try first.
    place: AtomicUsize,
    written: AtomicU64,
}

pub(crate) async fn measure(size: &Size, figures: &mut Figures) {
    let place = tempfile::tempdir().unwrap();
    let cluster = Arc::new(Cluster::start().await);
    let mut stores = Vec::new();
    for name in SHARDS {
        cluster.admin(&format!("CREATE DATABASE {name} OWNER own")).await;
        stores.push((name.to_owned(), postgres(&cluster, name)));
    }
    let rules = format!(
        "[placement]\nkey = \"{:032x}\"\nkeep_moved = \"1s\"\nmove_rows_per_second = 1000000\n\
         rule = [{{ ranges = [{{ last = \"{:016x}\", shard = \"s1\" }}] }}]\n",
        7,
        u64::MAX
    );
    let node = start(folder(place.path(), &stores, &rules)).await;
    for (mebibytes, count) in &size.moves {
        let tenant = format!("t{mebibytes}");
        moves(&cluster, &node, &tenant, *mebibytes, *count, figures).await;
    }
}

async fn moves(
    cluster: &Arc<Cluster>,
    node: &Node,
    tenant: &str,
    mebibytes: i64,
    count: usize,
    figures: &mut Figures,
) {
    let rows = mebibytes * 1_000;
    fill(cluster, tenant, rows).await;
    let stage = Arc::new(Stage::default());
    stage.next.store(rows, Ordering::Relaxed);
    let token = token(node.folder(), tenant).await;
    let mut writers = Vec::new();
    for _ in 0..GATEWAY {
        let through = through(node.public(), token.clone(), Arc::clone(&stage));
        writers.push(task::spawn("writer", through));
    }
    for _ in 0..DIRECT {
        let straight = straight(Arc::clone(cluster), tenant.to_owned(), Arc::clone(&stage));
        writers.push(task::spawn("writer", straight));
    }
    let (mut pauses, mut holds, mut took, mut rate) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for number in 0..count {
        let to = SHARDS[(number + 1) % 2];
        until("the source has forgotten the tenant", async || kept(node).await == 0).await;
        stage.longest_us.store(0, Ordering::Relaxed);
        let (before, begun) = (stage.written.load(Ordering::Relaxed), Instant::now());
        let output = run(node.folder(), &["shard", "move", tenant, "--to", to, "--json"]).await;
        let seconds = begun.elapsed().as_secs_f64();
        assert!(output.status.success(), "{output:?}");
        stage.place.store((number + 1) % 2, Ordering::Relaxed);
        // Whoever was held has been let go on by now, or is about to be.
        let after = stage.written.load(Ordering::Relaxed);
        until("writes go on", async || stage.written.load(Ordering::Relaxed) > after + 50).await;
        let told = pause_of(&output.stdout);
        pauses.push(stage.longest_us.load(Ordering::Relaxed) as f64 / 1e3);
        holds.push(told);
        took += seconds;
        rate += (after - before) as f64 / seconds;
    }
    stage.ends.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let name = format!("move.{mebibytes}mib");
    for (what, list) in [("pause_of_clients", &mut pauses), ("hold", &mut holds)] {
        list.sort_by(f64::total_cmp);
        note(figures, &format!("{name}.{what}.p50_ms"), list[list.len() / 2]);
        note(figures, &format!("{name}.{what}.longest_ms"), list[list.len() - 1]);
    }
    note(figures, &format!("{name}.moves"), count as f64);
    note(figures, &format!("{name}.seconds"), took / count as f64);
    note(figures, &format!("{name}.writes_per_s"), rate / count as f64);
}

/// Moves of which a shard still keeps something.
async fn kept(node: &Node) -> usize {
    let output = run(node.folder(), &["shard", "moves", "--json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told.as_array().or_else(|| told["items"].as_array()).map_or(usize::MAX, Vec::len)
}

fn pause_of(stdout: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(stdout);
    let whole = serde_json::from_str::<Value>(&text).ok();
    let last = || text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = whole.or_else(last).expect("the move tells what it did");
    let pause = told["pause_ms"].as_f64().or_else(|| told["result"]["pause_ms"].as_f64());
    pause.unwrap_or_else(|| panic!("no pause in {text}"))
}

async fn fill(cluster: &Cluster, tenant: &str, rows: i64) {
    let mut direct = cluster.connect("app", SHARDS[0]).await;
    bind(&mut direct, tenant).await;
    // In pieces, as an application fills a table.
    for first in (0..rows).step_by(20_000) {
        let last = (first + 20_000).min(rows) - 1;
        let sql = format!(
            "INSERT INTO orders SELECT '{tenant}', n, n % 100, 12.50, repeat(md5(n::text), {}) FROM generate_series({first}, {last}) n",
            NOTE / 32
        );
        direct.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    }
    direct.close().await.unwrap();
}

async fn bind(connection: &mut PgConnection, tenant: &str) {
    let sql = format!("SET portolan.tenant = '{tenant}'");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
}

impl Stage {
    fn record(&self, begun: Instant) {
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(took, Ordering::Relaxed);
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn next(&self) -> Option<i64> {
        (!self.ends.load(Ordering::Relaxed)).then(|| self.next.fetch_add(1, Ordering::Relaxed))
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

async fn through(address: SocketAddr, token: String, stage: Arc<Stage>) {
    let mut client = Client::connect(address, "shop.test").await.unwrap();
    let mut ticks = ticks();
    while let Some(id) = stage.next() {
        ticks.tick().await;
        let order = json!({ "id": id, "customer": id % 100, "total": "12.50", "note": "while it moves" });
        let begun = Instant::now();
        loop {
            let written = ask(&mut client, &token, Method::POST, "/-/data/orders", &order).await;
            match written.status {
                StatusCode::CREATED => break,
                StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(AGAIN).await,
                other => panic!("{other}: {}", written.text()),
            }
        }
        stage.record(begun);
    }
}

/// An application that knows both databases, and goes to the other one when the first holds its tenant.
async fn straight(cluster: Arc<Cluster>, tenant: String, stage: Arc<Stage>) {
    let mut connections = Vec::new();
    for name in SHARDS {
        let mut connection = cluster.connect("app", name).await;
        bind(&mut connection, &tenant).await;
        connections.push(connection);
    }
    let mut ticks = ticks();
    let mut at = stage.place.load(Ordering::Relaxed);
    while let Some(id) = stage.next() {
        ticks.tick().await;
        let begun = Instant::now();
        loop {
            let insert = sqlx::query("INSERT INTO orders VALUES ($1, $2, $3, 12.50, 'while it moves')");
            let insert = insert.bind(&tenant).bind(id).bind(id % 100).execute(&mut connections[at]);
            if insert.await.is_ok() {
                break;
            }
            at = 1 - at;
            tokio::time::sleep(AGAIN).await;
        }
        stage.record(begun);
    }
}
