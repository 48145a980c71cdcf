//! A shard of notes, as tests write and read it.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use portolan_changelog::{
    Access, Capture, ConflictKind, Conflicts, Dialect, Engine, Lease, PostgresConfig, Store, Value,
};
use portolan_core::ids::TenantName;
use portolan_core::log::Epoch;
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_foundation::clock;
use portolan_test_postgres::{Addresses, Database, Place};

use super::region;

/// How long the fence of a test's primary is open, in microseconds.
const LONG_US: u64 = 3_600_000_000;

pub(super) struct Shard {
    /// Under which lease it writes.
    epoch: u64,
    /// Its file, where it is one.
    file: Option<PathBuf>,
    pub(super) store: Store,
}

impl Shard {
    pub(super) async fn replica(place: &Place, origin: &str) -> Self {
        let mut file = None;
        let engine = match place.database().await {
            Database::Sqlite(path) => {
                file = Some(path.clone());
                Engine::Sqlite(path)
            }
            Database::Postgres(_, Addresses { applier, owner, writer }) => Engine::Postgres(PostgresConfig {
                access: Access::default(),
                applier,
                capture: Capture::default(),
                owner,
                writer,
            }),
        };
        let store = Store::open(&engine, region(origin)).await.unwrap();
        let number = if place.is_sqlite() { "integer" } else { "bigint" };
        let sql = format!(
            "CREATE TABLE notes (tenant text NOT NULL, id {number} NOT NULL, body text, PRIMARY KEY (tenant, id))"
        );
        let mut migration = store.maintain().await.unwrap();
        migration.execute(&sql, &[]).await.unwrap();
        migration.finish().await.unwrap();
        let name = |text: &str| Identifier::new(text).unwrap();
        let notes = TenantTable {
            name: name("notes"),
            tenant: Some(name("tenant")),
            key: vec![name("tenant"), name("id")],
            conflict: ConflictRule::default(),
            writers: Writers::Primary,
            durability: Durability::Local,
        };
        store.declare(&Tables::new(vec![notes]).unwrap(), 1).await.unwrap();
        Self { epoch: 0, file, store }
    }

    pub(super) async fn primary(place: &Place, origin: &str) -> Self {
        let mut shard = Self::replica(place, origin).await;
        shard.begin(1).await;
        shard
    }

    /// It is the primary from here on.
    pub(super) async fn begin(&mut self, epoch: u64) {
        let deadline = self.store.clock().await.unwrap() + LONG_US;
        self.store.begin_epoch(Epoch(epoch), deadline).await.unwrap();
        self.epoch = epoch;
    }

    /// Losers that lie past a cut.
    pub(super) async fn stranded(&self) -> usize {
        let kept = self.store.conflicts(&Conflicts::all(500)).await.unwrap();
        kept.iter().filter(|lost| lost.kind == ConflictKind::Stranded).count()
    }

    /// Runs a statement of the tenant `acme`.
    pub(super) async fn write(&self, sql: &str) {
        let (now, hour) = (clock::now(), std::time::Duration::from_hours(1));
        let lease = Lease::granted(Epoch(self.epoch), now, hour, std::time::Duration::ZERO);
        let acme = TenantName::new("acme").unwrap();
        let mut transaction = self.store.write(&acme, &lease, now).await.unwrap();
        transaction.execute(sql, &[]).await.unwrap();
        transaction.commit(&lease, clock::now).await.unwrap();
    }

    pub(super) async fn fill(&self, ids: RangeInclusive<u32>) {
        let ids: Vec<u32> = ids.collect();
        for ids in ids.chunks(500) {
            let rows: Vec<String> = ids.iter().map(|id| format!("('acme', {id}, 'note {id}')")).collect();
            self.write(&format!("INSERT INTO notes VALUES {}", rows.join(", "))).await;
        }
    }

    /// The files that its database lies in; none where a server has them.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let with =
            |end: &str| self.file.as_ref().map(|file| PathBuf::from(format!("{}{end}", file.display())));
        ["", "-wal"].iter().filter_map(|end| with(end)).filter(|file| file.is_file()).collect()
    }

    /// All rows as texts.
    pub(super) async fn rows(&self) -> Vec<String> {
        let mut look = self.store.look(&TenantName::new("acme").unwrap()).await.unwrap();
        let sql = "SELECT CAST(id AS text) || '/' || body FROM notes ORDER BY id";
        let rows = look.fetch(sql, &[]).await.unwrap();
        look.rollback().await.unwrap();
        rows.iter().map(|row| row.text(0).unwrap()).collect()
    }

    /// How many records the log has.
    pub(super) async fn records(&self) -> usize {
        let mut look = self.store.maintain().await.unwrap();
        let rows = look
            .fetch(&format!("SELECT CAST(count(*) AS text) FROM {}", self.own("log")), &[] as &[Value])
            .await
            .unwrap();
        look.rollback().await.unwrap();
        rows[0].text(0).unwrap().parse().unwrap()
    }

    /// Has the shard forget what was deleted, as a sweep does in the end.
    pub(super) async fn forget_deletions(&self) {
        let mut owner = self.store.maintain().await.unwrap();
        owner.execute(&format!("DELETE FROM {} WHERE deleted = 1", self.own("row")), &[]).await.unwrap();
        owner.finish().await.unwrap();
    }

    /// Makes tombstones as old as they must be before they go.
    pub(super) async fn age_deletions(&self) {
        let mut owner = self.store.maintain().await.unwrap();
        let sql = format!("UPDATE {} SET v = v - {LONG_US} WHERE deleted = 1", self.own("row"));
        owner.execute(&sql, &[]).await.unwrap();
        owner.finish().await.unwrap();
    }

    /// Takes the newest record out of the log, as if it had never been written.
    pub(super) async fn forget_last_record(&self) {
        let tip = self.store.tip().await.unwrap();
        let mut owner = self.store.maintain().await.unwrap();
        let [epoch, tx, seq] = [tip.epoch.0, tip.transaction, tip.sequence];
        let sql =
            format!("DELETE FROM {} WHERE epoch = {epoch} AND tx = {tx} AND seq = {seq}", self.own("log"));
        owner.execute(&sql, &[]).await.unwrap();
        owner.finish().await.unwrap();
    }

    /// Has the shard trim all of its log, as it does when its followers stay away for too long.
    pub(super) async fn forget_log(&self) {
        let tip = self.store.tip().await.unwrap();
        let mut owner = self.store.maintain().await.unwrap();
        let [epoch, tx, seq] = [tip.epoch.0, tip.transaction, tip.sequence];
        let note =
            format!("INSERT INTO {} (epoch, tx, seq) VALUES ({epoch}, {tx}, {seq})", self.own("trimmed"));
        owner.execute(&note, &[]).await.unwrap();
        owner.execute(&format!("DELETE FROM {}", self.own("log")), &[]).await.unwrap();
        owner.finish().await.unwrap();
    }

    /// Writes past triggers.
    pub(super) async fn tamper(&self, sql: &str) {
        let (sees, statements) = match self.store.dialect() {
            Dialect::Postgres => (
                "SELECT set_config('portolan.maintenance', 'on', true)",
                ["ALTER TABLE notes DISABLE TRIGGER USER", sql, "ALTER TABLE notes ENABLE TRIGGER USER"],
            ),
            Dialect::Sqlite => (
                "SELECT 1",
                [
                    "INSERT INTO portolan_session (id, applying) VALUES (1, 1)",
                    sql,
                    "DELETE FROM portolan_session",
                ],
            ),
        };
        let mut owner = self.store.maintain().await.unwrap();
        owner.fetch(sees, &[]).await.unwrap();
        for sql in statements {
            owner.execute(sql, &[]).await.unwrap();
        }
        owner.finish().await.unwrap();
    }

    /// Loses a row with all that is known of it.
    pub(super) async fn forget(&self, id: u32) {
        self.tamper(&format!("DELETE FROM notes WHERE id = {id}")).await;
        let mut owner = self.store.maintain().await.unwrap();
        let sql =
            format!("DELETE FROM {} WHERE key IN ('[\"acme\",{id}]', '[\"acme\", {id}]')", self.own("row"));
        owner.execute(&sql, &[]).await.unwrap();
        owner.finish().await.unwrap();
    }

    /// The name of a table of portolan's own.
    fn own(&self, name: &str) -> String {
        match self.store.dialect() {
            Dialect::Postgres => format!("portolan.{name}"),
            Dialect::Sqlite => format!("portolan_{name}"),
        }
    }
}
