//! One of those that are compared: a database that is written, its copies, and all processes between. How copies come about is its kind's
//! own; what is written, what is looked at and what is counted is alike for all.

use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use portolan_test_postgres::Cluster;
use portolan_tests::line::Line;
use portolan_tests::node::Node;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::{Instant, Interval};

use crate::cpu::cpu;
use crate::{histogram, native, portolan};

/// The database of each cluster.
pub(crate) const DATABASE: &str = "shop";
pub(crate) const TABLE: &str = "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, customer bigint, \
    total numeric(12, 2), note text, wrote timestamptz, PRIMARY KEY (tenant, id));\n";
/// Who writes at once, each for a tenant of its own.
pub(crate) const WRITERS: usize = 4;
/// From one look at a copy to the next: what a lag may seem longer than it is.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long a connection that has ended may take to be counted.
const SETTLE: Duration = Duration::from_millis(300);
/// Half of a row's note differs from row to row, so that it cannot be packed away.
const WRITE: &str = "INSERT INTO orders SELECT $1, n, n % 100, 12.50, 'a note of some length, ' || md5(n::text), clock_timestamp() \
    FROM generate_series($2::bigint, $3) AS n";
const SEEN: &str = "SELECT w.number, o.id, (extract(epoch FROM clock_timestamp() - o.wrote) * 1000000)::bigint \
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w(tenant, id, number) CROSS JOIN LATERAL \
    (SELECT id, wrote FROM orders WHERE tenant = w.tenant AND id > w.id AND id % $3 = 0 ORDER BY id) AS o";

/// The last rows of all writers.
pub(crate) type Rows = [i64; WRITERS];

/// Nodes come first: they end before their databases do.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) copies: Vec<Cluster>,
    pub(crate) line: Line,
    pub(crate) source: Cluster,
    pub(crate) written: Rows,
}

/// How copies come about.
pub(crate) enum Kind {
    /// By nobody: there are none.
    Alone,
    /// By PostgreSQL's logical replication.
    Native,
    /// By gateways.
    Portolan(portolan::Regions),
}

/// What some work took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Bytes on the link.
    pub(crate) bytes: f64,
    /// Seconds of processor time, here and in what follows.
    pub(crate) copies: f64,
    pub(crate) gateways: f64,
    pub(crate) rows: f64,
    pub(crate) source: f64,
    /// Seconds from its beginning to its end.
    pub(crate) wall: f64,
}

impl Spent {
    pub(crate) fn cpu(&self) -> f64 {
        self.source + self.gateways + self.copies
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.copies += other.copies;
        self.gateways += other.gateways;
        self.rows += other.rows;
        self.source += other.source;
        self.wall += other.wall;
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            copies: self.copies - before.copies,
            gateways: self.gateways - before.gateways,
            rows: self.rows - before.rows,
            source: self.source - before.source,
            wall: self.wall - before.wall,
        }
    }
}

impl Side {
    /// A cluster that nobody follows.
    pub(crate) async fn alone() -> Self {
        let source = cluster().await;
        database(&source).await;
        Self {
            name: "alone",
            kind: Kind::Alone,
            copies: Vec::new(),
            line: Line::open().await,
            source,
            written: [0; WRITERS],
        }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        match &self.kind {
            Kind::Alone | Kind::Native => &[],
            Kind::Portolan(regions) => &regions.nodes,
        }
    }

    /// Writes some rows, and waits until all copies have them.
    pub(crate) async fn warm_up(&mut self) {
        self.write_and_wait(WRITERS as i64 * 100, 1, &mut histogram()).await;
    }

    /// Writes rows as fast as they are taken, `of` in each transaction, and waits until all copies have them; notes how late they came.
    pub(crate) async fn write_and_wait(&mut self, rows: i64, of: i64, lag: &mut Histogram<u64>) -> Spent {
        let (before, after) = self.next(rows);
        let watchers = self.watchers().await;
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(self.writer(number).await);
        }
        let (spent, begun) = (self.spent(), Instant::now());
        let writing = join_all(
            writers
                .into_iter()
                .enumerate()
                .map(|(number, writer)| write(writer, number, (before[number], after[number]), of, None)),
        );
        let watching = join_all(watchers.into_iter().map(|watcher| watch(watcher, before, after, of)));
        let (_, seen) = tokio::join!(writing, watching);
        for seen in seen {
            lag.add(&seen).unwrap();
        }
        let wall = begun.elapsed().as_secs_f64();
        self.settled(&spent, rows, wall).await
    }

    /// Writes rows at a pace, `of` in each transaction, one of which begins so often, and waits until all copies have them; the time is
    /// that of the writing.
    pub(crate) async fn write_at_pace(
        &mut self,
        rows: i64,
        of: i64,
        every: Duration,
        lag: &mut Histogram<u64>,
    ) -> Spent {
        let (before, after) = self.next(rows);
        let watchers = self.watchers().await;
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(self.writer(number).await);
        }
        let (spent, begun) = (self.spent(), Instant::now());
        let writing = async {
            join_all(writers.into_iter().enumerate().map(|(number, writer)| {
                // One after the other, not all at once.
                let first = begun + every * u32::try_from(number).unwrap();
                let pace = tokio::time::interval_at(first, every * WRITERS as u32);
                write(writer, number, (before[number], after[number]), of, Some(pace))
            }))
            .await;
            begun.elapsed().as_secs_f64()
        };
        let watching = join_all(watchers.into_iter().map(|watcher| watch(watcher, before, after, of)));
        let (wall, seen) = tokio::join!(writing, watching);
        for seen in seen {
            lag.add(&seen).unwrap();
        }
        self.settled(&spent, rows, wall).await
    }

    /// Writes rows that nobody waits for.
    pub(crate) async fn write_only(&mut self, rows: i64, of: i64) -> (Rows, Rows) {
        let (before, after) = self.next(rows);
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let writer = self.writer(number).await;
            writers.push(write(writer, number, (before[number], after[number]), of, None));
        }
        join_all(writers).await;
        (before, after)
    }

    /// What has been spent until now.
    pub(crate) fn spent(&self) -> Spent {
        Spent {
            bytes: self.line.carried() as f64,
            copies: self.copies.iter().map(|copy| cpu(copy.pid())).sum(),
            gateways: self.nodes().iter().map(|node| cpu(node.pid())).sum(),
            rows: 0.0,
            source: cpu(self.source.pid()),
            wall: 0.0,
        }
    }

    /// What has been spent since then, in so many seconds, on so many rows.
    pub(crate) async fn settled(&self, before: &Spent, rows: i64, wall: f64) -> Spent {
        tokio::time::sleep(SETTLE).await;
        Spent { rows: rows as f64, wall, ..self.spent().since(before) }
    }

    /// Has the first copy begin anew, without a row; gives what had been spent when it began, and when that was.
    pub(crate) async fn copy_anew(&mut self) -> (Spent, Instant) {
        match &self.kind {
            Kind::Alone => (self.spent(), Instant::now()),
            Kind::Native => native::copy_anew(self).await,
            Kind::Portolan(_) => portolan::copy_anew(self).await,
        }
    }

    /// Waits until the first copy has as many rows as the source.
    pub(crate) async fn is_copied(&self) {
        let all: i64 = self.written.iter().sum();
        let mut reader = self.copies[0].connect("postgres", DATABASE).await;
        let deadline = Instant::now() + PATIENCE;
        let last = WRITERS - 1;
        // A look at one row costs little; all are counted once it is there, as it is among the last.
        let newest = "SELECT count(*) FROM orders WHERE tenant = $1 AND id = $2";
        let count = async |reader: &mut PgConnection, sql: &'static str| {
            let query = sqlx::query_scalar::<_, i64>(sql);
            let query = if sql == newest { query.bind(tenant(last)).bind(self.written[last]) } else { query };
            query.fetch_one(reader).await.unwrap()
        };
        for (sql, wanted, look) in [(newest, 1, LOOK), ("SELECT count(*) FROM orders", all, 10 * LOOK)] {
            while count(&mut reader, sql).await != wanted {
                assert!(Instant::now() < deadline, "the copy of {} is not there", self.name);
                tokio::time::sleep(look).await;
            }
        }
        reader.close().await.unwrap();
    }

    /// Waits until the first copy has what was written.
    pub(crate) async fn catches_up(&self, before: Rows, after: Rows, of: i64) {
        let mut watchers = self.watchers().await;
        watch(watchers.remove(0), before, after, of).await;
    }

    /// The next rows of all writers: after which, and up to which.
    fn next(&mut self, rows: i64) -> (Rows, Rows) {
        let before = self.written;
        self.written = before.map(|last| last + rows / WRITERS as i64);
        (before, self.written)
    }

    async fn writer(&self, number: usize) -> PgConnection {
        let mut writer = self.source.connect("app", DATABASE).await;
        let sql = format!("SET portolan.tenant = '{}'", tenant(number));
        writer.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.unwrap();
        writer
    }

    async fn watchers(&self) -> Vec<PgConnection> {
        let mut watchers = Vec::new();
        for copy in &self.copies {
            // Tables of which the planner knows nothing yet are read by their index too.
            let plans = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan";
            watchers.push(copy.hold("postgres", DATABASE, plans).await);
        }
        watchers
    }
}

/// A cluster whose log could be read by others.
pub(crate) async fn cluster() -> Cluster {
    let cluster = Cluster::start_secured().await;
    cluster.admin("ALTER SYSTEM SET wal_level = logical").await;
    cluster.down();
    cluster.up().await;
    cluster
}

/// The database with its table.
pub(crate) async fn database(cluster: &Cluster) {
    cluster.admin(&format!("CREATE DATABASE {DATABASE} OWNER own")).await;
    let mut owner = cluster.connect("own", DATABASE).await;
    owner.execute(TABLE).await.unwrap();
    owner.execute("GRANT ALL ON orders TO app").await.unwrap();
    owner.close().await.unwrap();
}

pub(crate) fn tenant(writer: usize) -> String {
    format!("t{writer}")
}

async fn write(
    mut writer: PgConnection,
    number: usize,
    (mut last, through): (i64, i64),
    of: i64,
    mut pace: Option<Interval>,
) {
    let tenant = tenant(number);
    while last < through {
        // Who falls behind goes faster, so that the pace is held on the whole.
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let insert = sqlx::query(WRITE).bind(&tenant).bind(last + 1).bind(last + of);
        insert.execute(&mut writer).await.unwrap();
        last += of;
    }
    writer.close().await.unwrap();
}

/// Looks at a copy until all is there; gives how late the last row of each transaction was seen, in microseconds.
async fn watch(mut reader: PgConnection, before: Rows, after: Rows, of: i64) -> Histogram<u64> {
    let mut lag = histogram();
    let (mut seen, deadline) = (before, Instant::now() + PATIENCE);
    let tenants: Vec<String> = (0..WRITERS).map(tenant).collect();
    while seen != after {
        assert!(Instant::now() < deadline, "a copy has not come further than {seen:?} of {after:?}");
        let query = sqlx::query(SEEN).bind(&tenants).bind(&seen[..]).bind(of);
        for row in query.fetch_all(&mut reader).await.unwrap() {
            let number = usize::try_from(row.get::<i64, _>(0)).unwrap() - 1;
            seen[number] = seen[number].max(row.get(1));
            lag.saturating_record(u64::try_from(row.get::<i64, _>(2)).unwrap_or_default().max(1));
        }
        tokio::time::sleep(LOOK).await;
    }
    reader.close().await.unwrap();
    lag
}
