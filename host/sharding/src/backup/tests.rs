//! Backups: the same cases over both engines, from databases that are written to databases that are empty.

use std::path::{Path, PathBuf};

use portolan_changelog::{Closed, Error as StoreError};
use portolan_core::ids::{Digest, TenantName};
use portolan_core::log::{Epoch, Position};
use tempfile::TempDir;

use super::{
    Error, Folder, From, Manifest, Opened, PutTenant, Putting, Taking, Until, put, put_tenant, take, verify,
};
use crate::schema::tests::place::{Direct, Place, applied, tables};
use crate::schema::{Migrations, Shard};

const FILES: [(&str, &str); 3] = [
    (
        "0001_create_notes.sql",
        "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (tenant, id))",
    ),
    (
        "0002_create_lines.sql",
        "CREATE TABLE lines (tenant text NOT NULL, id bigint NOT NULL, note bigint NOT NULL, PRIMARY KEY (tenant, id), \
         FOREIGN KEY (tenant, note) REFERENCES notes (tenant, id))",
    ),
    ("0003_add_colour.sql", "ALTER TABLE notes ADD COLUMN colour text"),
];

struct World {
    folder: TempDir,
    place: Place,
    shard: Shard,
    taken: u32,
}

impl World {
    async fn new(place: Place) -> Self {
        let mut world =
            Self { folder: tempfile::tempdir().unwrap(), shard: place.primary().await, place, taken: 0 };
        world.migrate(2).await;
        world
    }

    /// Goes through the first migrations.
    async fn migrate(&mut self, count: usize) {
        for engine in ["sqlite", "postgres"] {
            let folder = self.folder.path().join("migrations").join(engine);
            std::fs::create_dir_all(&folder).unwrap();
            for (name, text) in FILES.iter().take(count) {
                std::fs::write(folder.join(name), text).unwrap();
            }
        }
        let migrations = Migrations::load(&self.folder.path().join("migrations")).unwrap();
        applied(&migrations, std::slice::from_ref(&self.shard), &tables(&["notes", "lines"])).await;
    }

    async fn ok(&self, sql: &str) {
        Direct::of(&self.shard).await.ok(sql).await;
    }

    async fn take(&mut self, since: Option<&Opened>, tenant: Option<&TenantName>) -> Opened {
        self.taken += 1;
        let root = self.folder.path().join(format!("backup-{}", self.taken));
        let mut folder = Folder::create(&root).unwrap();
        for engine in ["sqlite", "postgres"] {
            for file in std::fs::read_dir(self.folder.path().join("migrations").join(engine)).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                folder.add(&format!("migrations/{engine}/{name}"), &std::fs::read(&path).unwrap()).unwrap();
            }
        }
        let from = since.map_or(From::Whole, |since| From::Since(&since.manifest().shards[&self.shard.name]));
        let taking = Taking { from, shard: &self.shard.name, store: &self.shard.store, tenant };
        let part = take(taking, &mut folder).await.unwrap();
        let manifest = Manifest {
            elsewhere: Vec::new(),
            files: std::collections::BTreeMap::new(),
            format: 0,
            generation: None,
            id: format!("backup {}", self.taken),
            made_at_ms: 0,
            portolan: "test".to_owned(),
            region: self.shard.store.origin().clone(),
            shards: [(self.shard.name.clone(), part)].into(),
            since: since.map(|since| since.manifest().id.clone()),
            tenant: tenant.cloned(),
        };
        let _: Digest = folder.finish(manifest).unwrap();
        Opened::open(&root).unwrap()
    }

    /// Puts backups into a database of its own.
    async fn put(&self, backups: &[Opened], until: Until) -> Result<(Shard, super::Put), Error> {
        let shard = Shard { name: self.shard.name.clone(), ..self.place.replica().await };
        let tables = tables(&["notes", "lines"]);
        let putting = Putting {
            above: Epoch(0),
            backups,
            shard: &shard.name,
            store: &shard.store,
            tables: &tables,
            until,
        };
        put(putting).await.map(|put| (shard, put))
    }
}

async fn rows(shard: &Shard) -> Vec<String> {
    let sql = "SELECT 'note ' || tenant || id || ' ' || body FROM notes UNION ALL \
               SELECT 'line ' || tenant || id || ' ' || note FROM lines ORDER BY 1";
    // Row security shows the owner nothing outside of a writer's transaction.
    Direct::of(shard).await.texts(sql).await
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

const FIRST: &str = "INSERT INTO notes VALUES ('acme', 1, 'one'), ('acme', 2, 'two'), ('bolt', 1, 'other')";

async fn a_shard_comes_back_as_it_was(place: Place) {
    let mut world = World::new(place).await;
    world.ok(FIRST).await;
    world.ok("INSERT INTO lines VALUES ('acme', 1, 2)").await;
    let whole = world.take(None, None).await;
    world.ok("UPDATE notes SET body = 'later' WHERE tenant = 'acme' AND id = 1").await;
    world.ok("DELETE FROM notes WHERE tenant = 'bolt'").await;
    // A schema that changes on the way is followed where it changed.
    world.migrate(3).await;
    world.ok("INSERT INTO notes VALUES ('acme', 3, 'three', 'red')").await;
    let more = world.take(Some(&whole), None).await;
    world.ok("INSERT INTO notes VALUES ('acme', 4, 'too late', 'blue')").await;

    let backups = [whole.clone(), more.clone()];
    let verified = verify(&backups).unwrap();
    assert!(verified.rows == 4 && verified.records >= 3, "{verified:?}");
    let (shard, put) = world.put(&backups, Until::End).await.unwrap();
    assert_eq!(
        rows(&shard).await,
        ["line acme1 2", "note acme1 later", "note acme2 two", "note acme3 three"]
    );
    assert_eq!(Direct::of(&shard).await.texts("SELECT colour FROM notes WHERE id = 3").await, ["red"]);
    assert_eq!((put.epoch, put.parked), (Epoch(2), 0), "{put:?}");
    // It is another log, closed until its region has the lease of the new epoch, which goes on at once.
    assert_ne!(shard.store.identity().await.unwrap(), world.shard.store.identity().await.unwrap());
    let mut direct = Direct::of(&shard).await;
    direct.0.begin(portolan_changelog::Purpose::Rows).await.unwrap();
    let refused = direct.0.execute("DELETE FROM lines", &[]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed(Closed::Expired)), "{refused:?}");
    drop(direct);
    shard.store.extend(Epoch(2), shard.store.clock().await.unwrap() + 60_000_000).await.unwrap();
    Direct::of(&shard).await.ok("INSERT INTO notes VALUES ('acme', 9, 'new', NULL)").await;
    assert_eq!(rows(&shard).await.len(), 5);

    let again = verify(&backups[1..]).unwrap_err();
    assert!(again.to_string().contains("name that one first"), "{again}");
    let full = world.put_into(&backups, &shard).await;
    assert!(full.contains("is not empty"), "{full}");
}

impl World {
    async fn put_into(&self, backups: &[Opened], shard: &Shard) -> String {
        let tables = tables(&["notes", "lines"]);
        let putting = Putting {
            above: Epoch(0),
            backups,
            shard: &shard.name,
            store: &shard.store,
            tables: &tables,
            until: Until::End,
        };
        put(putting).await.unwrap_err().to_string()
    }
}

async fn a_moment_comes_back(place: Place) {
    let mut world = World::new(place).await;
    world.ok(FIRST).await;
    let whole = world.take(None, None).await;
    world.ok("INSERT INTO notes VALUES ('acme', 3, 'three')").await;
    settled(&world.shard).await;
    let (at, at_us) = (world.shard.store.tip().await.unwrap(), world.shard.store.clock().await.unwrap());
    // SQLite's clock has milliseconds.
    while world.shard.store.clock().await.unwrap() < at_us + 2_000 {
        tokio::task::yield_now().await;
    }
    world.ok("DELETE FROM notes").await;
    let more = world.take(Some(&whole), None).await;
    let backups = [whole, more];
    for until in [Until::Position(at), Until::Time(at_us)] {
        let (shard, _) = world.put(&backups, until).await.unwrap();
        let notes = ["note acme1 one", "note acme2 two", "note acme3 three", "note bolt1 other"];
        assert_eq!(rows(&shard).await, notes, "{until:?}");
        assert_eq!(shard.store.progress("backup").await.unwrap(), None);
    }
    let (shard, _) = world.put(&backups, Until::End).await.unwrap();
    assert_eq!(rows(&shard).await, [""; 0]);
    for until in [Until::Time(1), Until::Time(u64::MAX), Until::Position(Position::new(9, 0, 0))] {
        let refused = world.put(&backups, until).await.unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{refused}");
    }
}

/// Waits until all that was written can be read; others' transactions in the cluster hold it back.
async fn settled(shard: &Shard) {
    while shard.store.horizon().await.unwrap().waiting > 0 && shard.store.is_postgres() {
        tokio::time::sleep(crate::schema::tests::place::MOMENT).await;
    }
}

async fn a_tenant_comes_back_alone(place: Place) {
    let mut world = World::new(place).await;
    world.ok(FIRST).await;
    world.ok("INSERT INTO lines VALUES ('acme', 1, 2)").await;
    let alone = world.take(None, Some(&acme())).await;
    assert_eq!(verify(std::slice::from_ref(&alone)).unwrap().rows, 3);
    let whole = world.take(None, None).await;
    world.ok("UPDATE notes SET body = 'spoilt'").await;
    world.ok("DELETE FROM lines").await;
    for backups in [[alone], [whole]] {
        let shard = &world.shard;
        let tenant = acme();
        let putting = |replace| PutTenant {
            backups: &backups,
            from: &shard.name,
            replace,
            store: &shard.store,
            tenant: &tenant,
            until: Until::End,
        };
        let refused = put_tenant(putting(false)).await.unwrap_err();
        assert!(refused.to_string().contains("--replace"), "{refused}");
        let put = put_tenant(putting(true)).await.unwrap();
        assert_eq!(put.rows, 3);
        // What others have is as it was, and the tenant is written again.
        assert_eq!(
            rows(shard).await,
            ["line acme1 2", "note acme1 one", "note acme2 two", "note bolt1 spoilt"]
        );
        world.ok("UPDATE notes SET body = 'spoilt' WHERE tenant = 'acme'").await;
    }
    // It was told in the log: a follower from the beginning of it has the same.
    let backup = world.take(None, None).await;
    let (copy, _) = world.put(&[backup], Until::End).await.unwrap();
    assert_eq!(rows(&copy).await, rows(&world.shard).await);
}

async fn what_was_changed_is_found(place: Place) {
    let mut world = World::new(place).await;
    world.ok(FIRST).await;
    let whole = world.take(None, None).await;
    world.ok("DELETE FROM notes WHERE id = 2").await;
    let more = world.take(Some(&whole), None).await;
    assert!(verify(&[whole.clone(), more.clone()]).is_ok());
    let file = whole.path(&super::rows_file(&world.shard.name, "notes"));
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    write(&file, &bad);
    let found = verify(std::slice::from_ref(&whole)).unwrap_err();
    assert!(found.to_string().contains("notes.ndjson.zst"), "{found}");
    write(&file, &good);
    let log = more.path(&super::shard_file(&world.shard.name, "log"));
    std::fs::remove_file(&log).unwrap();
    assert!(verify(&[whole.clone(), more]).is_err());
    // A folder that was not finished is no backup, and one that leads elsewhere is none of ours.
    let manifest = whole.path(super::MANIFEST);
    let text = std::fs::read_to_string(&manifest).unwrap();
    write(&manifest, text.replace("migrations/sqlite/0001_create_notes.sql", "../outside").as_bytes());
    assert!(Opened::open(manifest.parent().unwrap()).unwrap_err().to_string().contains("outside"));
    std::fs::remove_file(&manifest).unwrap();
    assert!(Opened::open(manifest.parent().unwrap()).is_err());
}

fn write(place: &Path, bytes: &[u8]) {
    std::fs::write(place, bytes).unwrap();
}

const MARKER: &str = "a-word-that-is-nowhere-else";

async fn nothing_is_left_of_who_is_erased(place: Place) {
    let world = World::new(place).await;
    world.ok(FIRST).await;
    for body in [MARKER, "changed", MARKER] {
        world.ok(&format!("UPDATE notes SET body = '{body}' WHERE tenant = 'acme'")).await;
    }
    world.ok("INSERT INTO lines VALUES ('acme', 1, 2)").await;
    let store = &world.shard.store;
    let erased = store.erase(&acme()).await.unwrap();
    assert_eq!((erased.rows, erased.records), (3, 9), "{erased:?}");
    store.compact().await.unwrap();
    assert_eq!(rows(&world.shard).await, ["note bolt1 other"]);
    assert_eq!(
        store.erase(&acme()).await.unwrap(),
        portolan_changelog::Erased::default(),
        "a second time finds nothing"
    );
    let mut direct = Direct::of(&world.shard).await;
    for table in ["portolan_row", "portolan_conflict", "portolan_parked", "portolan_move"] {
        let sql = format!("SELECT CAST(count(*) AS text) FROM {table} WHERE tenant = 'acme'");
        assert_eq!(direct.peek(&sql).await, ["0"], "{table}");
    }
    let left = direct.peek("SELECT kind FROM portolan_log WHERE tenant = 'acme'").await;
    assert_eq!(left, ["forget"], "followers are told once");
    // Nothing comes back.
    direct.0.begin(portolan_changelog::Purpose::Rows).await.unwrap();
    let refused = direct.0.execute("INSERT INTO notes VALUES ('acme', 9, 'again')", &[]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed(Closed::Away)), "{refused:?}");
    drop(direct);
    world.ok("UPDATE notes SET body = 'goes on' WHERE tenant = 'bolt'").await;
    for file in world.place.files() {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        assert!(!found, "{} has the tenant's word", file.display());
    }
}

impl Place {
    /// The files of SQLite's databases here.
    fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

macro_rules! both {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Place::sqlite()).await;
            })*
        }

        /// One cluster, a database for each shard.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            let place = Place::postgres().await;
            $($case(place.clone()).await;)*
        }
    };
}

both! {
    a_moment_comes_back,
    a_shard_comes_back_as_it_was,
    a_tenant_comes_back_alone,
    nothing_is_left_of_who_is_erased,
    what_was_changed_is_found,
}
