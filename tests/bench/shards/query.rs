//! SQL over several shards beside the same rows in one database: processor time of all processes, bytes from the shards to the
//! engine, and how much memory a query over many rows takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use portolan_foundation::task;
use portolan_test_postgres::Cluster;
use portolan_tests::client::Client;
use portolan_tests::node::{Node, run};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::cpu::{children, cpu};
use crate::shop::{folder, start};
use crate::{Figures, Size, note};

const SHARDS: [u64; 4] = [1, 4, 8, 16];
/// Groups of the aggregation: few, as of reports.
const GROUPS: u64 = 100;
/// How often each side answers.
const TURNS: u32 = 5;
const TENANTS: u64 = 1_600;
/// How often a worker's memory is looked at while it runs.
const LOOK: Duration = Duration::from_millis(20);
const SUMS: &str = "SELECT customer, count(*) AS orders, sum(total) AS total, avg(total) AS mean, max(note) AS last FROM orders GROUP BY customer";
/// What no shard is asked to do itself, so that all rows come.
const ALL: &str = "SELECT count(*) AS orders, max(reverse(note)) AS last FROM orders";
const LIMITS: &str = "[query]\nscan_rows = 20000000\ntime = \"10m\"\n";

pub(crate) async fn measure(size: &Size, figures: &mut Figures) {
    let cluster = Arc::new(Cluster::start().await);
    cluster.admin("CREATE DATABASE one OWNER own").await;
    let mut owner = cluster.connect("own", "one").await;
    owner.execute(crate::shop::POSTGRES).await.unwrap();
    owner.close().await.unwrap();
    let (rows, many) = size.rows;
    fill(&cluster, "one", 0, 1, rows).await;
    for count in SHARDS {
        compare(&cluster, count, rows, figures).await;
    }
    scan(&cluster, many, figures).await;
}

/// The same sums from `count` shards and from one database, in turns.
async fn compare(cluster: &Arc<Cluster>, count: u64, rows: u64, figures: &mut Figures) {
    let shop = Shop::open(cluster, "sums", count, rows).await;
    let (mut shards, mut one) = (Spent::default(), Spent::default());
    let mut carried = 0;
    for turn in 0..=TURNS {
        let before = shop.line.carried.load(Ordering::Relaxed);
        let spent = Spent::of(cluster, Some(&shop.node), shop.ask(SUMS, groups(rows))).await;
        let moved = shop.line.carried.load(Ordering::Relaxed) - before;
        let direct = Spent::of(cluster, None, sum(cluster, groups(rows))).await;
        // The first turn warms both up.
        if turn > 0 {
            shards.add(&spent);
            one.add(&direct);
            carried += moved;
        }
    }
    let name = format!("query.{count}_shards");
    let turns = f64::from(TURNS);
    note(figures, &format!("{name}.cpu_s"), shards.cpu / turns);
    note(figures, &format!("{name}.one_database.cpu_s"), one.cpu / turns);
    note(figures, &format!("{name}.cpu_over_one_database"), shards.cpu / one.cpu);
    note(figures, &format!("{name}.wall_over_one_database"), shards.wall / one.wall);
    let answered = f64::from(TURNS) * (count * groups(rows)) as f64;
    note(figures, &format!("{name}.bytes_per_group_and_shard"), carried as f64 / answered);
}

/// One query that has all rows sent.
async fn scan(cluster: &Arc<Cluster>, rows: u64, figures: &mut Figures) {
    let shop = Shop::open(cluster, "scan", 4, rows).await;
    let before = shop.line.carried.load(Ordering::Relaxed);
    let begun = Instant::now();
    let peak = tokio::select! {
        peak = watch(&shop.node) => peak,
        () = async { shop.ask(ALL, 1).await; tokio::time::sleep(Duration::from_mins(1)).await } => 0,
    };
    let took = begun.elapsed().as_secs_f64();
    let carried = shop.line.carried.load(Ordering::Relaxed) - before;
    note(figures, "query.scan.rows", rows as f64);
    note(figures, "query.scan.rows_per_s", rows as f64 / took);
    note(figures, "query.scan.bytes_per_row", carried as f64 / rows as f64);
    note(figures, "query.scan.worker_peak_mib", peak as f64 / 1024.0);
    note(figures, "query.scan.node_mib", shop.node.resident_bytes() as f64 / f64::from(1 << 20));
}

/// The most memory of the node's worker, from its start to its end, in KiB.
async fn watch(node: &Node) -> u64 {
    let mut peak = 0;
    loop {
        match children(node.pid()).into_iter().find_map(peak_of) {
            Some(now) => peak = peak.max(now),
            None if peak > 0 => return peak,
            None => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().trim_end_matches(" kB").parse().ok()
}

/// Seconds.
#[derive(Default)]
struct Spent {
    cpu: f64,
    wall: f64,
}

impl Spent {
    /// What the databases, and the node with its worker, spend on this.
    async fn of(cluster: &Cluster, node: Option<&Node>, work: impl Future<Output = ()>) -> Self {
        let cpu = || cpu(cluster.pid()) + node.map_or(0.0, |node| cpu(node.pid()));
        let (before, begun) = (cpu(), Instant::now());
        work.await;
        let wall = begun.elapsed().as_secs_f64();
        // A connection's process is counted once it has ended.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Self { cpu: cpu() - before, wall }
    }

    fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.wall += other.wall;
    }
}

/// A node whose shards are reached over a line that counts.
struct Shop {
    line: Line,
    node: Node,
    root: String,
    _place: TempDir,
}

impl Shop {
    async fn open(cluster: &Arc<Cluster>, name: &str, count: u64, rows: u64) -> Self {
        let place = tempfile::tempdir().unwrap();
        let line = Line::open(cluster);
        let mut stores = Vec::new();
        let database = |number| format!("{name}_{count}_{number}");
        for number in 0..count {
            cluster.admin(&format!("CREATE DATABASE {} OWNER own", database(number))).await;
            stores.push((format!("s{number}"), line.store(cluster, &database(number))));
        }
        let rules = format!("{LIMITS}{}", rules(count));
        let node = start(folder(place.path(), &stores, &rules)).await;
        for number in 0..count {
            fill(cluster, &database(number), number, count, rows).await;
        }
        let made = run(node.folder(), &["token", "create", "root", "--role", "admin"]).await;
        let root = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        Self { line, node, root, _place: place }
    }

    /// Asks, and takes an answer of so many rows.
    async fn ask(&self, sql: &str, rows: u64) {
        let mut client = Client::connect(self.node.public(), "shop.test").await.unwrap();
        let request = Request::post("/-/query").header("accept", "application/x-ndjson");
        let request = request.header("authorization", format!("Bearer {}", self.root));
        let answer = client.send(request, Bytes::from(sql.to_owned())).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text().lines().count() as u64),
            (200, rows),
            "{}",
            answer.text()
        );
    }
}

/// Hashes shared evenly by so many shards: queries of all tenants do not look at it, and a configuration needs it.
fn rules(shards: u64) -> String {
    let range = |number: u64| {
        let last = if number + 1 == shards { u64::MAX } else { u64::MAX / shards * (number + 1) };
        format!("{{ last = \"{last:016x}\", shard = \"s{number}\" }}")
    };
    let ranges: Vec<String> = (0..shards).map(range).collect();
    format!("[placement]\nkey = \"{:032x}\"\nrule = [{{ ranges = [{}] }}]\n", 7, ranges.join(", "))
}

/// How many groups so many rows have.
fn groups(rows: u64) -> u64 {
    rows.div_ceil(TENANTS).min(GROUPS)
}

/// The same straight from the one database.
async fn sum(cluster: &Cluster, groups: u64) {
    let mut connection: PgConnection = cluster.connect("postgres", "one").await;
    let rows = connection.fetch_all(SUMS).await.unwrap();
    assert_eq!((rows.len() as u64, rows[0].len()), (groups, 5));
    connection.close().await.unwrap();
}

/// Every `count`th tenant's rows, as a restored database has them: without triggers.
async fn fill(cluster: &Cluster, database: &str, number: u64, count: u64, rows: u64) {
    let mut admin = cluster.connect("postgres", database).await;
    let sql = format!(
        "SET session_replication_role = replica; \
         INSERT INTO orders SELECT 't' || lpad((id % {TENANTS})::text, 6, '0'), id, (id / {TENANTS}) % {GROUPS}, (id % 100000) / 100.0, \
         'a note of some length ' || id FROM generate_series(0, {rows} - 1) AS id WHERE id % {count} = {number}"
    );
    admin.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    admin.execute("VACUUM (ANALYZE, FREEZE) orders").await.unwrap();
    admin.close().await.unwrap();
}

/// A socket that hands on to the cluster's, and counts what comes back.
struct Line {
    carried: Arc<AtomicU64>,
    folder: TempDir,
}

impl Line {
    fn open(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(folder.path())).unwrap();
        let carried = Arc::<AtomicU64>::default();
        let (server, count) = (socket(cluster.folder()), Arc::clone(&carried));
        task::spawn("line", async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, count) = (UnixStream::connect(&server).await.unwrap(), Arc::clone(&count));
                let (from, to) = (client.into_split(), server.into_split());
                task::spawn("line to the server", carry(from.0, to.1, Arc::default()));
                task::spawn("line from the server", carry(to.0, from.1, count));
            }
        });
        Self { carried, folder }
    }

    /// How a configuration names a database that queries reach over it.
    fn store(&self, cluster: &Cluster, database: &str) -> String {
        let (direct, line) =
            (cluster.folder().display().to_string(), self.folder.path().display().to_string());
        let applier = cluster.url("put", database);
        crate::shop::postgres(cluster, database).replace(&applier, &applier.replace(&direct, &line))
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join(".s.PGSQL.5432")
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}
