//! Places for shards, folders of migrations, and who looks on.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_changelog::{
    Access, Capture, Change, Engine, Limits, Maintenance, PostgresConfig, Purpose, RowChange, Store,
};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_test_postgres::{Addresses, Database};

use crate::schema::{Copy, Event, Fleet, Migrations, Options, Report, Shard, Source, Watch};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at what others are about to do.
pub(crate) const MOMENT: Duration = Duration::from_millis(3);

/// Where shards of one engine are made.
#[derive(Clone)]
pub(crate) struct Place(portolan_test_postgres::Place);

/// A database as shards are opened.
pub(crate) fn engine(database: Database) -> Engine {
    match database {
        Database::Sqlite(path) => Engine::Sqlite(path),
        Database::Postgres(_, Addresses { applier, owner, writer }) => Engine::Postgres(PostgresConfig {
            access: Access::default(),
            applier,
            capture: Capture::default(),
            owner,
            writer,
        }),
    }
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self(portolan_test_postgres::Place::sqlite())
    }

    pub(crate) async fn postgres() -> Self {
        Self(portolan_test_postgres::Place::postgres().await)
    }

    pub(crate) const fn is_postgres(&self) -> bool {
        !self.0.is_sqlite()
    }

    /// Where files of SQLite are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.0.folder()
    }

    pub(crate) fn pick<T>(&self, sqlite: T, postgres: T) -> T {
        if self.is_postgres() { postgres } else { sqlite }
    }

    /// A fresh database, without any table.
    pub(crate) async fn database(&self) -> Engine {
        engine(self.0.database().await)
    }

    /// A shard that is written here for long.
    pub(crate) async fn primary(&self) -> Shard {
        let shard = self.replica().await;
        let deadline = shard.store.clock().await.unwrap() + 3_600_000_000;
        shard.store.begin_epoch(Epoch(1), deadline).await.unwrap();
        Shard { copy: Copy::Primary, ..shard }
    }

    pub(crate) async fn replica(&self) -> Shard {
        let engine = self.database().await;
        let store = Store::open(&engine, RegionName::new("eu").unwrap()).await.unwrap();
        let name = format!("s-{}", self.0.number());
        Shard { copy: Copy::Replica, name: ShardName::new(&name).unwrap(), store }
    }
}

/// Migrations of these names and texts, for both engines.
pub(crate) fn migrations(files: &[(&str, &str)]) -> Migrations {
    let source = |(at, (name, text)): (usize, &(&str, &str))| {
        [true, false].map(|postgres| {
            let path = PathBuf::from(format!("{:04}_{name}.sql", at + 1));
            // What only PostgreSQL knows is something harmless for SQLite.
            let text = if !postgres && (text.contains("no-transaction") || text.contains("$$")) {
                "SELECT 1"
            } else {
                text
            };
            Source { path, postgres, text: text.to_owned() }
        })
    };
    Migrations::of(files.iter().enumerate().flat_map(source).collect()).unwrap()
}

pub(crate) fn table(name: &str) -> TenantTable {
    TenantTable {
        name: Identifier::new(name).unwrap(),
        tenant: Some(Identifier::new("tenant").unwrap()),
        key: ["tenant", "id"].map(|column| Identifier::new(column).unwrap()).to_vec(),
        conflict: ConflictRule::LastWriterWins,
        writers: Writers::Primary,
        durability: Durability::Local,
    }
}

pub(crate) fn tables(names: &[&str]) -> Tables {
    Tables::new(names.iter().map(|name| table(name)).collect()).unwrap()
}

pub(crate) const NOTES: (&str, &str) = (
    "create_notes",
    "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (tenant, id))",
);

/// Applies all, and looks on in silence.
pub(crate) async fn apply(migrations: &Migrations, shards: &[Shard], tables: &Tables) -> Report {
    let fleet = Fleet { elsewhere: &[], migrations, shards, tables };
    fleet.apply(&Options::default(), &Watcher::default()).await.unwrap()
}

/// The same, and it must go well.
pub(crate) async fn applied(migrations: &Migrations, shards: &[Shard], tables: &Tables) {
    let report = apply(migrations, shards, tables).await;
    assert!(report.is_done(), "{report:#?}");
}

/// Who is to be ended at the first pause.
type Holder = Arc<tokio::sync::Mutex<Option<Maintenance>>>;

/// Who looks on: it keeps what it sees, stops a run at its nth event or after a migration, and lets a lock go at the first pause.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) holder: Holder,
    pub(crate) seen: Mutex<Vec<(ShardName, Event)>>,
    pub(crate) stop_at: Option<usize>,
    pub(crate) stop_after: Option<u64>,
}

impl Watch for Watcher {
    fn event(&self, shard: &ShardName, event: &Event) -> ControlFlow<()> {
        let mut seen = self.seen.lock().unwrap();
        let after = matches!(event, Event::Finished { version, .. } if self.stop_after == Some(*version));
        if after || self.stop_at == Some(counted(&seen)) && is_counted(event) {
            return ControlFlow::Break(());
        }
        seen.push((shard.clone(), event.clone()));
        ControlFlow::Continue(())
    }

    fn pause(&self, _: &ShardName, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let holder = self.holder.lock().await.take();
            if let Some(mut holder) = holder {
                holder.rollback().await.unwrap();
            }
        })
    }
}

/// Between the end of one migration and the beginning of the next nothing happens.
fn is_counted(event: &Event) -> bool {
    !matches!(event, Event::Began { .. } | Event::Finished { .. })
}

fn counted(seen: &[(ShardName, Event)]) -> usize {
    seen.iter().filter(|(_, event)| is_counted(event)).count()
}

impl Watcher {
    /// How many places it passed at which it might have stopped.
    pub(crate) fn passed(&self) -> usize {
        counted(&self.seen.lock().unwrap())
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.seen.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }
}

/// A connection of the owner that is held by triggers alone.
pub(crate) struct Direct(pub(crate) Maintenance);

impl Direct {
    pub(crate) async fn of(shard: &Shard) -> Self {
        Self(shard.store.maintenance(PATIENCE).await.unwrap())
    }

    /// Runs a statement on all tenants' rows, as a writer.
    pub(crate) async fn ok(&mut self, sql: &str) {
        self.0.begin(Purpose::Rows).await.unwrap();
        if let Err(error) = self.0.execute(sql, &[]).await {
            panic!("{sql}: {error}");
        }
        self.0.commit(&Tables::default()).await.unwrap();
    }

    /// All rows of one text column, in order.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        self.0.begin(Purpose::Rows).await.unwrap();
        let rows = self.0.query(sql, &[]).await.unwrap();
        self.0.rollback().await.unwrap();
        rows.iter().map(|row| row.text_or_null(0).unwrap().unwrap_or_default()).collect()
    }

    /// The same without a transaction.
    pub(crate) async fn peek(&mut self, sql: &str) -> Vec<String> {
        let rows = self.0.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.text(0).unwrap()).collect()
    }

    /// What migrations are noted.
    pub(crate) async fn history(&mut self) -> Vec<String> {
        self.texts(
            "SELECT version || ' ' || name || ' ' || kind || ' ' || how || ' ' || statements || \
             CASE WHEN finished_us IS NULL THEN ' half' ELSE '' END FROM portolan_schema ORDER BY version",
        )
        .await
    }
}

/// Row changes that are in the log.
pub(crate) async fn changes(store: &Store) -> Vec<RowChange> {
    while store.is_postgres() && store.horizon().await.unwrap().waiting > 0 {
        // Cases beside this one have transactions of their own in the cluster.
        tokio::time::sleep(MOMENT).await;
    }
    let (mut after, mut changes) = (Position::START, Vec::new());
    loop {
        let batch = store.read(after, Limits::default()).await.unwrap();
        if batch.records.is_empty() {
            return changes;
        }
        after = batch.through;
        changes.extend(batch.records.into_iter().filter_map(|record| match record.change {
            Change::Row(change) => Some(change),
            Change::Forget => None,
        }));
    }
}
