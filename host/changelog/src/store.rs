//! A shard's database: what it is, its fence, its tenants.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Continuity, Epoch, Identity, Placement, Position, Witness};
use portolan_core::tenant_table::{Tables, TenantTable};

use crate::adopt;
use crate::database::{Dialect, Pool, Row, Session, Value};
use crate::defaults::{KEEPER_STATEMENT, SILENCE};
use crate::error::Error;
use crate::logical::Capture;
use crate::model::fence::{Closed, Fence, Refused, TenantState};
use crate::postgres::{self, PostgresConfig, Roles};
use crate::receipts::Receipts;
use crate::sqlite::{self, Files};
use crate::table::Declared;

/// The lock that writers share and a demotion takes alone: "portolan" as a number.
pub(crate) const FENCE_LOCK: i64 = 0x706f_7274_6f6c_616e;
/// The locks of tenants, as pairs of this and a hash: "port".
pub(crate) const TENANT_LOCK: i64 = 0x706f_7274;

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each shard, and none is moved about")]
pub enum Engine {
    /// A database of PostgreSQL, 15 or later.
    Postgres(PostgresConfig),
    /// A file of SQLite, on a disk of this machine.
    Sqlite(PathBuf),
}

/// A shard's database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    declared: RwLock<Arc<Vec<Declared>>>,
    origin: RegionName,
    place: Place,
    receipts: Receipts,
}

#[derive(Debug)]
enum Place {
    Postgres(Box<Roles>),
    Sqlite { files: Files, path: PathBuf },
}

/// Who speaks to the database. In SQLite, which knows no roles, all are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Applier,
    /// The lease's keeper, who waits for nobody else's work.
    Keeper,
    Owner,
    Writer,
}

/// How a database stands to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is not known to be the database that held the lease: a promotion, a rewind, a copy. A new epoch must begin.
    pub cut: bool,
    /// The fence.
    pub fence: Fence,
}

pub(crate) const FENCE: &str =
    "SELECT epoch, deadline_us, member, cut, system, timeline, incarnation FROM portolan_fence";

impl Store {
    /// Opens a shard's database, as the region `origin`. Portolan's own tables are made or brought up to date; a database
    /// whose history may have been cut (a copy, a promotion) is closed until an epoch begins.
    ///
    /// # Errors
    /// [`Error::Away`] when it does not answer, [`Error::Damaged`] when it is too old or set up otherwise than it must be.
    pub async fn open(engine: &Engine, origin: RegionName) -> Result<Self, Error> {
        let place = match engine {
            Engine::Postgres(config) => Place::Postgres(Box::new(postgres::open(config).await?)),
            Engine::Sqlite(path) => Place::Sqlite { files: sqlite::open(path).await?, path: path.clone() },
        };
        let store = Self(Arc::new(Inner {
            declared: RwLock::default(),
            origin,
            place,
            receipts: Receipts::default(),
        }));
        let mut session = store.begin(Role::Owner).await?;
        // What another region held is a copy of its database here.
        let sql = "UPDATE portolan_fence SET origin = $1, cut = CASE WHEN origin <> '' AND epoch > 0 THEN 1 ELSE cut END \
            WHERE origin <> $1";
        session.run(sql, &[store.0.origin.as_str().into()]).await?;
        session.commit().await?;
        if let Place::Postgres(_) = &store.0.place {
            store.choose().await?;
        }
        Ok(store)
    }

    /// Declares the operator's tables, as they are at this version of the tenants' schema. They must be there. From now
    /// on they are captured and fenced; rows that were there before get the lowest version, some thousands at a time, while
    /// others write. Repeated after each change of the schema, in the same or a later version; what has not changed is left
    /// alone, and what was cut short goes on.
    ///
    /// # Errors
    /// [`Error::Table`] when a table is not as it is declared or has rows of no tenant, [`Error::Damaged`] when the shard has
    /// a later version; then nothing has changed.
    pub async fn declare(&self, tables: &Tables, schema: u64) -> Result<(), Error> {
        self.check_rows(tables).await?;
        let mut session = self.begin(Role::Owner).await?;
        if session.dialect() == Dialect::Postgres {
            postgres::one_at_a_time(&mut session).await?;
        }
        let there = session.one("SELECT schema FROM portolan_fence", &[]).await?.number(0)?;
        if there > schema {
            return Err(Error::Damaged(format!(
                "it has version {there} of the tenants' schema, not {schema}"
            )));
        }
        let mut declared = Vec::new();
        let before = captured(&mut session).await?;
        for table in tables.iter() {
            let table = self.find(&mut session, table).await?;
            if self.capture(&mut session, &table).await? {
                adopt::begin(&mut session, table.table.name.as_str()).await?;
            }
            declared.push(table);
        }
        for name in &before {
            if !declared.iter().any(|declared| declared.table.name.as_str() == name) {
                self.release_table(&mut session, name).await?;
            }
        }
        session.run("UPDATE portolan_fence SET schema = $1 WHERE schema < $1", &[schema.into()]).await?;
        session.commit().await?;
        for table in &declared {
            let adopted = self.adopt(table).await;
            if let Err(Error::Table { table, .. }) = &adopted
                && !before.contains(table)
            {
                // A row that cannot be adopted came since they were looked at. It cannot be mended below triggers.
                let mut session = self.begin(Role::Owner).await?;
                self.release_table(&mut session, table).await?;
                session.commit().await?;
            }
            adopted?;
        }
        *self.0.declared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(declared);
        Ok(())
    }

    /// Knows the operator's tables as far as they were declared, and changes nothing: for whoever only reads, or writes rows of
    /// others.
    ///
    /// # Errors
    /// [`Error::Table`] when a table is not as it is declared.
    pub async fn recall(&self, tables: &Tables) -> Result<(), Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let before = captured(&mut session).await?;
        let mut declared = Vec::new();
        for table in tables.iter().filter(|table| before.contains(table.name.as_str())) {
            declared.push(self.find(&mut session, table).await?);
        }
        *self.0.declared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(declared);
        Ok(())
    }

    /// Finds a declared table.
    pub(crate) async fn find(&self, session: &mut Session, table: &TenantTable) -> Result<Declared, Error> {
        match &self.0.place {
            Place::Postgres(_) => postgres::find(session, table).await,
            Place::Sqlite { .. } => sqlite::find(session, table).await,
        }
    }

    /// Makes a table's triggers, unless they are there as they must be: making them locks the table. Says whether it made any.
    pub(crate) async fn capture(&self, session: &mut Session, table: &Declared) -> Result<bool, Error> {
        let (statements, (count, wanted)) = match &self.0.place {
            Place::Postgres(roles) => (postgres::capture(table, roles), postgres::TRIGGERS),
            Place::Sqlite { .. } => (sqlite::capture(table), sqlite::TRIGGERS),
        };
        let (name, made) = (Value::from(table.table.name.as_str()), Value::from(statements.join(";")));
        let rows = session.fetch(count, std::slice::from_ref(&name)).await?;
        let whole = rows.first().map_or(Ok(0), |row| row.number(0))? == wanted;
        let sql = "SELECT made FROM portolan_declared WHERE table_name = $1";
        let before = session.query(sql, std::slice::from_ref(&name)).await?;
        if whole && before.first().is_some_and(|row| *row.value(0) == made) {
            return Ok(false);
        }
        for statement in &statements {
            session.execute(statement, &[]).await?;
        }
        if let Place::Postgres(roles) = &self.0.place {
            postgres::grant_sequences(session, table, roles).await?;
        }
        let sql = "INSERT INTO portolan_declared (table_name, made) VALUES ($1, $2) \
            ON CONFLICT (table_name) DO UPDATE SET made = excluded.made";
        session.run(sql, &[name, made]).await.map(|_| true)
    }

    pub(crate) async fn release_table(&self, session: &mut Session, table: &str) -> Result<(), Error> {
        let (statements, exists) = match &self.0.place {
            Place::Postgres(_) => {
                (postgres::release(table), "SELECT 1 WHERE to_regclass('public.' || $1) IS NOT NULL")
            }
            Place::Sqlite { .. } => (sqlite::release(table), "SELECT 1 FROM sqlite_schema WHERE name = $1"),
        };
        if !session.fetch(exists, &[table.into()]).await?.is_empty() {
            for statement in statements {
                session.execute(&statement, &[]).await?;
            }
        }
        session.run("DELETE FROM portolan_declared WHERE table_name = $1", &[table.into()]).await.map(drop)
    }

    /// The region as which this database writes.
    #[must_use]
    pub fn origin(&self) -> &RegionName {
        &self.0.origin
    }

    /// Are both the same connections to the same database?
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Which log this is.
    ///
    /// # Errors
    /// [`Closed::Cut`] when its history may have been cut and no epoch has begun since.
    pub async fn identity(&self) -> Result<Identity, Error> {
        let row = self.acquire(Role::Applier).await?.one(FENCE, &[]).await?;
        identity(&row)
    }

    /// The newest record of all that was committed. Not all that will lie before it need be there already.
    ///
    /// # Errors
    /// When the database does not answer; [`Error::Busy`] when what was committed is not shipped.
    pub async fn tip(&self) -> Result<Position, Error> {
        self.caught_up().await?;
        tip(&mut *self.acquire(Role::Applier).await?).await
    }

    /// Up to where the log has been trimmed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn trimmed(&self) -> Result<Position, Error> {
        trimmed(&mut *self.acquire(Role::Applier).await?).await
    }

    /// Holds the log against what somebody outside remembers of it. A log that has lost what was seen is closed until a new
    /// epoch begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn verify(&self, witness: &Witness) -> Result<Continuity, Error> {
        self.caught_up().await?;
        let mut session = self.begin(Role::Owner).await?;
        let row = session.one(FENCE, &[]).await?;
        let continuity = if self.is_cut(&mut session, &row).await? {
            Continuity::Other
        } else {
            witness.compare(&identity(&row)?, tip(&mut session).await?)
        };
        if continuity == Continuity::Rewound {
            session.run("UPDATE portolan_fence SET cut = 1", &[]).await?;
        }
        session.commit().await?;
        Ok(continuity)
    }

    /// The database's clock, in microseconds. Read it before a lease is asked for: its deadline counts from here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn clock(&self) -> Result<u64, Error> {
        self.acquire(Role::Keeper).await?.one("SELECT {now}", &[]).await?.number(0)
    }

    /// The fence as it stands.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn fence(&self) -> Result<Fence, Error> {
        Ok(self.standing().await?.fence)
    }

    /// The fence, and whether this is still the database that it speaks of.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn standing(&self) -> Result<Standing, Error> {
        let mut session = self.acquire(Role::Keeper).await?;
        let row = session.one(FENCE, &[]).await?;
        Ok(Standing { cut: self.is_cut(&mut session, &row).await?, fence: fence(&row)? })
    }

    /// Is its history cut, or has that not been noticed yet? A promotion and another file in the place of this one begin another
    /// log while connections go on.
    pub(crate) async fn is_cut(&self, session: &mut Session, row: &Row) -> Result<bool, Error> {
        if row.number(3)? == 1 {
            return Ok(true);
        }
        let system = row.text(4)?;
        match &self.0.place {
            Place::Postgres(_) => {
                let now = session.one("SELECT portolan_system(), portolan_timeline()", &[]).await?;
                Ok(now.text(0)? != system || now.number(1)? != row.number(5)?)
            }
            Place::Sqlite { path, .. } => {
                let now = sqlite::place(path)?;
                Ok(system.split_once('-').is_some_and(|(_, before)| before != now))
            }
        }
    }

    /// Looks whether passwords have changed in their files, and uses the new ones once the server takes them.
    ///
    /// # Errors
    /// When the server does not take a new one: the one before stays in use.
    pub async fn refresh(&self) -> Result<(), Error> {
        match &self.0.place {
            Place::Postgres(roles) => roles.refresh().await,
            Place::Sqlite { .. } => Ok(()),
        }
    }

    /// How many bytes the database takes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn size_bytes(&self) -> Result<u64, Error> {
        let mut session = self.acquire(Role::Keeper).await?;
        let sql = match session.dialect() {
            Dialect::Postgres => "SELECT pg_database_size(current_database())",
            // Pages that are free within the file are used before it grows.
            Dialect::Sqlite => {
                "SELECT (p.page_count - f.freelist_count) * s.page_size \
                 FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s"
            }
        };
        let rows = session.fetch(sql, &[]).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    /// A new lease is held here until the database's clock says `deadline_us`. Waits for writers of the one before. What has come here of
    /// others' logs counts from now on, and nothing else of earlier epochs ([`crate::model::lineage`]).
    ///
    /// # Errors
    /// [`Error::Refused`] unless the epoch rises, [`Error::Writers`] when writers of the lease before are still inside,
    /// [`Error::Partial`] when this copy is not whole.
    pub async fn begin_epoch(&self, epoch: Epoch, deadline_us: u64) -> Result<(), Error> {
        let mut session = self.begin(Role::Keeper).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let row = session.one(&format!("{FENCE} {{lock}}"), &[]).await?;
        fence(&row)?.begin(epoch, deadline_us)?;
        if self.is_cut(&mut session, &row).await? {
            self.renew_identity(&mut session).await?;
        }
        self.begin_term(&mut session, epoch).await?;
        session
            .run(
                "UPDATE portolan_fence SET epoch = $1, deadline_us = $2, member = CASE WHEN member = 0 THEN {now} ELSE member END",
                &[epoch.0.into(), deadline_us.into()],
            )
            .await?;
        changed(&mut session).await?;
        session.commit().await
    }

    /// From here on this is another log, with a history of its own.
    pub(crate) async fn renew_identity(&self, session: &mut Session) -> Result<(), Error> {
        match &self.0.place {
            Place::Postgres(_) => {
                session
                    .execute(
                        "UPDATE portolan.fence SET cut = 0, system = portolan.system(), timeline = portolan.timeline(), \
                         incarnation = portolan.draw()",
                        &[],
                    )
                    .await?;
            }
            Place::Sqlite { path, .. } => {
                let place = sqlite::place(path)?;
                session
                    .execute(
                        "UPDATE portolan_fence SET cut = 0, incarnation = lower(hex(randomblob(8))), \
                         system = substr(system, 1, instr(system, '-')) || $1",
                        &[place.into()],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    /// The lease was renewed: `deadline_us` counts from the database's clock before it was asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] when another epoch has begun, or this one was closed; [`Closed::Cut`] when this is not the database
    /// any more that held it, which is noted in it.
    pub async fn extend(&self, epoch: Epoch, deadline_us: u64) -> Result<(), Error> {
        // No statement of these waits for writers.
        let mut session = self.begin(Role::Keeper).await?;
        let row = session.one(FENCE, &[]).await?;
        if self.is_cut(&mut session, &row).await? {
            // It is so, whether that can be noted or not: each look finds it again.
            if session.run("UPDATE portolan_fence SET cut = 1 WHERE cut = 0", &[]).await.is_ok() {
                session.commit().await.ok();
            }
            return Err(Closed::Cut.into());
        }
        let done = session
            .run(
                "UPDATE portolan_fence SET deadline_us = CASE WHEN deadline_us > $2 THEN deadline_us ELSE $2 END \
                 WHERE epoch = $1 AND deadline_us > 0 AND cut = 0",
                &[epoch.0.into(), deadline_us.into()],
            )
            .await?;
        if done == 1 {
            return session.commit().await;
        }
        let row = session.one(FENCE, &[]).await?;
        let (there, cut) = (fence(&row)?, row.number(3)? == 1);
        session.rollback().await?;
        if cut {
            return Err(Closed::Cut.into());
        }
        there.extend(epoch, deadline_us)?;
        Err(Error::Busy("the fence moved meanwhile".to_owned()))
    }

    /// The lease of this epoch, or of any before it, is over here, for good. When this returns, no writer is inside any
    /// more; returns the newest record, which is the last of this epoch.
    ///
    /// # Errors
    /// [`Error::Writers`] when a writer is still inside after its connection was ended: the fence is closed to new
    /// statements, and to commits of all but writers that made their constraints immediate. The next lease must wait until
    /// this one's deadline.
    ///
    /// # Cancel safety
    /// Not cancel-safe: the fence may be closed while writers are inside. Call it again.
    pub async fn demote(&self, epoch: Epoch, patience: Duration) -> Result<Position, Error> {
        let mut session = self.begin(Role::Keeper).await?;
        let done = session
            .run("UPDATE portolan_fence SET deadline_us = 0 WHERE epoch <= $1", &[epoch.0.into()])
            .await?;
        if done == 0 {
            let there = fence(&session.one(FENCE, &[]).await?)?.epoch;
            session.rollback().await?;
            return Err(Refused::Over { there, wanted: epoch }.into());
        }
        session.commit().await?;
        if let Place::Postgres(roles) = &self.0.place {
            let drained = self.drain(patience).await;
            end_writers(roles).await?;
            if drained.is_err() {
                self.drain(patience).await?;
            }
        }
        self.caught_up().await?;
        tip(&mut *self.acquire(Role::Keeper).await?).await
    }

    /// Waits until no writer has been inside for a moment since this began.
    ///
    /// # Errors
    /// [`Error::Writers`] when one was inside all the time.
    pub async fn drain(&self, patience: Duration) -> Result<(), Error> {
        let mut session = self.begin(Role::Keeper).await?;
        alone(&mut session, FENCE_LOCK, Some(patience)).await?;
        session.rollback().await
    }

    /// This region is a member of the shard under this incarnation, and may write multi-writer tables; 0 ends it. A region becomes one by
    /// beginning an epoch, or [`Self::join`]s; it is none while rows are copied.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn set_member(&self, incarnation: u64) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        session.run("UPDATE portolan_fence SET member = $1", &[incarnation.into()]).await?;
        changed(&mut session).await?;
        session.commit().await
    }

    /// This region becomes a member of the shard if it is none, and all rows are here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn join(&self) -> Result<(), Error> {
        if self.fence().await?.member > 0 {
            return Ok(());
        }
        let mut session = self.begin(Role::Owner).await?;
        let sql = "UPDATE portolan_fence SET member = {now} \
            WHERE member = 0 AND NOT EXISTS (SELECT 1 FROM portolan_copying)";
        session.run(sql, &[]).await?;
        changed(&mut session).await?;
        session.commit().await
    }

    /// A tenant as the fence knows it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tenant(&self, tenant: &TenantName) -> Result<TenantState, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        tenant_state(&mut session, tenant).await
    }

    /// Holds a tenant's writes, of gateways and direct writers, for the move of this name. When this returns, all that the
    /// tenant has written lies at or before the position that it returns. The hold ends by itself after `lasts`, by the
    /// database's clock, so that a mover that dies holds nobody; [`Self::seal`] takes that end away.
    ///
    /// # Errors
    /// [`Error::Busy`] when another move holds it, or writers were still inside after `patience`; then the hold stands,
    /// and this may be called again.
    pub async fn hold(
        &self,
        tenant: &TenantName,
        hold: &str,
        lasts: Duration,
        patience: Duration,
    ) -> Result<Position, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let now_us = session.one("SELECT {now}", &[]).await?.number(0)?;
        let there = tenant_state(&mut session, tenant).await?;
        if let (Some(other), Err(_)) =
            (there.hold.as_ref().filter(|other| *other != hold), there.check(now_us))
        {
            session.rollback().await?;
            return Err(Error::Busy(format!("the tenant is held by {other}")));
        }
        let lasts_us = u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX);
        let until_us = now_us.saturating_add(lasts_us);
        let args = [tenant.as_str().into(), hold.into(), until_us.into(), now_us.into()];
        // Another move may have come since it was looked at.
        let done = session
            .run(
                "INSERT INTO portolan_tenant (tenant, hold, hold_until_us) VALUES ($1, $2, $3) \
                 ON CONFLICT (tenant) DO UPDATE SET hold = excluded.hold, hold_until_us = excluded.hold_until_us \
                 WHERE portolan_tenant.hold IS NULL OR portolan_tenant.hold = excluded.hold \
                 OR portolan_tenant.hold_until_us <= $4",
                &args,
            )
            .await?;
        if done != 1 {
            session.rollback().await?;
            return Err(Error::Busy("the tenant is held by another move".to_owned()));
        }
        changed(&mut session).await?;
        session.commit().await?;
        if self.dialect() == Dialect::Postgres {
            let mut session = self.begin(Role::Owner).await?;
            tenant_alone(&mut session, tenant, patience).await?;
            session.rollback().await?;
        }
        self.tip().await
    }

    /// Lets a tenant's writes go on here, if this move holds them. Returns whether it did.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release(&self, tenant: &TenantName, hold: &str) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let done = session
            .run(
                "UPDATE portolan_tenant SET hold = NULL, hold_until_us = NULL WHERE tenant = $1 AND hold = $2",
                &[tenant.as_str().into(), hold.into()],
            )
            .await?;
        session.commit().await?;
        Ok(done == 1)
    }

    /// A tenant has been placed: here, or elsewhere (`away`). Its hold ends. Placements only rise; returns whether this
    /// one did.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn place(&self, tenant: &TenantName, placement: Placement, away: bool) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let done = session
            .run(
                "INSERT INTO portolan_tenant (tenant, placement, away) VALUES ($1, $2, $3) \
                 ON CONFLICT (tenant) DO UPDATE SET placement = excluded.placement, away = excluded.away, \
                 hold = NULL, hold_until_us = NULL \
                 WHERE portolan_tenant.placement < excluded.placement",
                &[tenant.as_str().into(), placement.0.into(), i64::from(away).into()],
            )
            .await?;
        changed(&mut session).await?;
        session.commit().await?;
        Ok(done == 1)
    }

    pub(crate) fn declared(&self) -> Arc<Vec<Declared>> {
        Arc::clone(&self.0.declared.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How its database is spoken to.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.pool(Role::Owner).dialect()
    }

    pub(crate) fn pool(&self, role: Role) -> &Pool {
        match (&self.0.place, role) {
            (Place::Sqlite { files, .. }, Role::Keeper) => &files.keeper,
            (Place::Sqlite { files, .. }, _) => &files.pool,
            (Place::Postgres(roles), Role::Keeper) => &roles.keeper,
            (Place::Postgres(roles), Role::Applier) => &roles.applier,
            (Place::Postgres(roles), Role::Owner) => &roles.owner,
            (Place::Postgres(roles), Role::Writer) => &roles.writer,
        }
    }

    /// How changes come into its log.
    pub(crate) fn chosen(&self) -> Capture {
        match &self.0.place {
            Place::Postgres(roles) => roles.capture,
            Place::Sqlite { .. } => Capture::Triggers,
        }
    }

    pub(crate) fn receipts(&self) -> &Receipts {
        &self.0.receipts
    }

    pub(crate) async fn acquire(&self, role: Role) -> Result<Box<Session>, Error> {
        self.pool(role).acquire().await.map(Box::new)
    }

    pub(crate) async fn begin(&self, role: Role) -> Result<Session, Error> {
        self.pool(role).begin().await
    }
}

/// The tables that have triggers.
pub(crate) async fn captured(session: &mut Session) -> Result<BTreeSet<String>, Error> {
    let rows = session.query("SELECT table_name FROM portolan_declared", &[]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// A row of [`FENCE`].
pub(crate) fn fence(row: &Row) -> Result<Fence, Error> {
    Ok(Fence { epoch: Epoch(row.number(0)?), deadline_us: row.number(1)?, member: row.number(2)? })
}

/// A row of [`FENCE`].
pub(crate) fn identity(row: &Row) -> Result<Identity, Error> {
    if row.number(3)? == 1 {
        return Err(Closed::Cut.into());
    }
    Ok(Identity { system: row.text(4)?, timeline: row.number(5)?, incarnation: row.text(6)? })
}

/// The identity of the log that a session sees. On PostgreSQL a promotion may have come since the fence was last looked at.
pub(crate) async fn identity_now(session: &mut Session) -> Result<Identity, Error> {
    let identity = identity(&session.one(FENCE, &[]).await?)?;
    if session.dialect() == Dialect::Postgres {
        let now = session.one("SELECT portolan.timeline(), portolan.system()", &[]).await?;
        if now.number(0)? != identity.timeline || now.text(1)? != identity.system {
            return Err(Closed::Cut.into());
        }
    }
    Ok(identity)
}

/// The newest record that is there, or was before it was trimmed. Right outside of a transaction that reads one state: there, a piece
/// that was emptied meanwhile would be overlooked.
pub(crate) async fn tip(session: &mut Session) -> Result<Position, Error> {
    let sql = "SELECT t.epoch, t.tx, t.seq FROM (SELECT epoch, tx, seq FROM portolan_log \
        ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1) t UNION ALL SELECT epoch, tx, seq FROM portolan_trimmed";
    newest(&session.query(sql, &[]).await?)
}

/// Up to where the log has been trimmed.
pub(crate) async fn trimmed(session: &mut Session) -> Result<Position, Error> {
    newest(&session.query("SELECT epoch, tx, seq FROM portolan_trimmed", &[]).await?)
}

pub(crate) fn newest(rows: &[Row]) -> Result<Position, Error> {
    let positions = rows.iter().map(|row| Ok(Position::new(row.number(0)?, row.number(1)?, row.number(2)?)));
    Ok(positions.collect::<Result<Vec<_>, Error>>()?.into_iter().max().unwrap_or(Position::START))
}

pub(crate) async fn tenant_state(session: &mut Session, tenant: &TenantName) -> Result<TenantState, Error> {
    let rows = session
        .query(
            "SELECT placement, forgotten, hold, away, hold_until_us FROM portolan_tenant WHERE tenant = $1",
            &[tenant.as_str().into()],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(TenantState::default()) };
    Ok(TenantState {
        placement: Placement(row.number(0)?),
        forgotten: Placement(row.number(1)?),
        hold: row.text_or_null(2)?,
        away: row.number(3)? == 1,
        hold_until_us: row.number_or_null(4)?,
    })
}

/// Old snapshots must not overlook what changed: their lock on the fence's key fails. SQLite has none that write; there
/// the next transaction gets a number of its own.
pub(crate) async fn changed(session: &mut Session) -> Result<(), Error> {
    let sql = match session.dialect() {
        Dialect::Postgres => "UPDATE portolan.fence SET changes = changes + 1",
        Dialect::Sqlite => "UPDATE portolan_fence SET tx = tx + 1",
    };
    session.execute(sql, &[]).await.map(drop)
}

/// Who writes a record by hand is inside the fence as writers are, so that no epoch begins meanwhile; in SQLite, it gets a
/// transaction's number of its own.
pub(crate) async fn enter_log(session: &mut Session) -> Result<(), Error> {
    match session.dialect() {
        Dialect::Postgres => session
            .execute("SELECT pg_advisory_xact_lock_shared($1)", &[Value::Int(FENCE_LOCK)])
            .await
            .map(drop),
        Dialect::Sqlite => session.execute("UPDATE portolan_fence SET tx = tx + 1", &[]).await.map(drop),
    }
}

async fn lock_timeout(session: &mut Session, patience: Option<Duration>) -> Result<(), Error> {
    let Some(patience) = patience else { return Ok(()) };
    // 0 would mean for ever.
    let sql = format!("SET LOCAL lock_timeout = {}", patience.as_millis().clamp(1, 60_000));
    session.execute(&sql, &[]).await.map(drop)
}

/// Waits until no writer is inside. SQLite's transactions that write are alone anyway.
pub(crate) async fn alone(session: &mut Session, lock: i64, patience: Option<Duration>) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    lock_timeout(session, patience).await?;
    if let Some(patience) = patience {
        // The statement that waits must not end before the lock's time does.
        let statement = patience.saturating_add(KEEPER_STATEMENT);
        session.execute(&format!("SET LOCAL statement_timeout = {}", statement.as_millis()), &[]).await?;
        session.waits(statement.saturating_add(SILENCE));
    }
    match session.execute("SELECT pg_advisory_xact_lock($1)", &[Value::Int(lock)]).await {
        Err(Error::Busy(why)) => Err(Error::Writers(why)),
        done => done.map(drop),
    }
}

/// Waits until no writer of a tenant is inside, and keeps them out until the transaction ends.
pub(crate) async fn tenant_alone(
    session: &mut Session,
    tenant: &TenantName,
    patience: Duration,
) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    lock_timeout(session, Some(patience)).await?;
    let lock = format!("SELECT pg_advisory_xact_lock({TENANT_LOCK}, hashtext($1))");
    session.execute(&lock, &[tenant.as_str().into()]).await.map(drop)
}

/// Ends the connections of all that may write as the writer.
async fn end_writers(roles: &Roles) -> Result<(), Error> {
    let mut session = roles.keeper.acquire().await?;
    let ended = session
        .fetch(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid \
             WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() \
             AND pg_has_role(r.oid, $1, 'MEMBER') AND NOT r.rolsuper AND r.rolname <> $2 AND r.rolname <> $3",
            &[
                roles.writer_name.as_str().into(),
                roles.owner_name.as_str().into(),
                roles.applier_name.as_str().into(),
            ],
        )
        .await;
    match ended {
        Err(Error::Rejected(why)) => {
            Err(Error::Writers(format!("{why}: make the owner a member of the writer's role")))
        }
        ended => ended.map(drop),
    }
}
