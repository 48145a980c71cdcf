//! One shard goes through its migrations.
//!
//! The order of what is committed is what a crash relies on: the note of a migration never comes before what it says.

use std::ops::ControlFlow;
use std::time::Duration;

use portolan_changelog::{Maintenance, Purpose};
use portolan_core::tenant_table::Tables;

use super::folder::{Kind, Migration, Migrations, Script};
use super::gate::Seen;
use super::history::{self, Applied, How};
use super::script::Statement;
use super::{Copy, Error, Event, Shard, Watch};
use crate::defaults::BACKFILL_ROUNDS_MAX;

/// One shard's run.
pub(crate) struct Run<'a> {
    pub(crate) elsewhere: &'a [Seen],
    /// How long locks are waited for at each try, and left to others after it.
    pub(crate) locks: &'a [Duration],
    pub(crate) migrations: &'a Migrations,
    pub(crate) shard: &'a Shard,
    pub(crate) statement: Duration,
    pub(crate) tables: &'a Tables,
    pub(crate) through: u64,
    pub(crate) watch: &'a dyn Watch,
}

/// What is done at once.
#[derive(Clone, Copy)]
enum Work<'a> {
    /// A statement outside of transactions.
    Piece(&'a Statement),
    /// A statement of a backfill.
    Rows { at: u64, repeated: bool, statement: &'a Statement },
    /// All of a migration.
    Whole,
}

impl Run<'_> {
    /// Applies what is pending, then declares the tables. `ran` has what was applied, also when it fails.
    pub(crate) async fn run(&self, ran: &mut Vec<u64>) -> Result<(), Error> {
        let mut connection = self.shard.store.maintenance(self.statement).await?;
        connection.lock_timeout(self.locks.first().copied().unwrap_or_default()).await?;
        if !connection.alone().await? {
            return Err(Error::Running);
        }
        let postgres = connection.is_postgres();
        let declared = self.shard.store.schema().await?;
        if declared > 0 && history::read(&mut connection).await?.is_empty() {
            return Err(Error::NoRecord { declared });
        }
        loop {
            let history = history::read(&mut connection).await?;
            let mismatches = history::compare(self.migrations, &history, postgres);
            if !mismatches.is_empty() {
                return Err(Error::Mismatch(mismatches));
            }
            let done = history::version(&history);
            let Some(next) = self.migrations.find(done + 1).filter(|next| next.version <= self.through)
            else {
                drop(connection);
                return self.declare(done).await;
            };
            let script = next.script(postgres);
            let script = script.ok_or(Error::Engine(if postgres { "postgres" } else { "sqlite" }))?;
            let begun = history.iter().find(|applied| applied.version == next.version);
            self.tell(&Event::Began { name: next.name.clone(), version: next.version })?;
            let how = match next.kind {
                Kind::Backfill { repeated } => {
                    self.backfill(&mut connection, next, script, begun, repeated).await?
                }
                _ if script.transaction => {
                    self.persist(&mut connection, next, script, Work::Whole).await?;
                    How::Ran
                }
                _ => self.piecewise(&mut connection, next, script, begun).await?,
            };
            ran.push(next.version);
            self.tell(&Event::Finished { how, version: next.version })?;
        }
    }

    /// A table that a later migration makes is left out until then.
    async fn declare(&self, version: u64) -> Result<(), Error> {
        if version == 0 {
            return Ok(());
        }
        let store = &self.shard.store;
        let missing =
            if version < self.migrations.last() { store.missing(self.tables).await? } else { Vec::new() };
        let there = self.tables.iter().filter(|table| !missing.contains(&table.name)).cloned().collect();
        // What was valid stays so without some.
        let there = Tables::new(there).unwrap_or_default();
        store.declare(&there, version).await?;
        self.tell(&Event::Declared { version })
    }

    /// All statements and the note in one transaction.
    async fn transaction(
        &self,
        connection: &mut Maintenance,
        migration: &Migration,
        script: &Script,
    ) -> Result<u64, Error> {
        connection.begin(Purpose::Schema).await?;
        // In SQLite another run may have come between.
        if history::version(&history::read(connection).await?) >= migration.version {
            connection.rollback().await?;
            return Ok(0);
        }
        for (at, statement) in (1..).zip(&script.statements) {
            let rows = self.execute(connection, script, statement).await?;
            self.told(migration, script, at, rows)?;
        }
        history::note(connection, migration, How::Ran, true).await?;
        let version = migration.version;
        self.tell(&Event::Recorded { version })?;
        connection.commit(self.tables).await.map_err(|source| Error::Kept { source, version })?;
        Ok(0)
    }

    /// Statement by statement, outside of transactions; each can be run again.
    async fn piecewise(
        &self,
        connection: &mut Maintenance,
        migration: &Migration,
        script: &Script,
        begun: Option<&Applied>,
    ) -> Result<How, Error> {
        let version = migration.version;
        if begun.is_none() {
            for index in
                script.statements.iter().filter_map(|statement| statement.concurrent_index().flatten())
            {
                if valid(connection, &index).await?.is_some() {
                    return Err(Error::Index { index, version });
                }
            }
            history::note(connection, migration, How::Ran, false).await?;
        }
        let done = begun.map_or(0, |begun| begun.statements);
        for (at, statement) in (1..).zip(&script.statements).skip(usize::try_from(done).unwrap_or(usize::MAX))
        {
            let rows = self.persist(connection, migration, script, Work::Piece(statement)).await?;
            self.tell(&Event::Recorded { version })?;
            history::progress(connection, version, at).await?;
            self.told(migration, script, at, rows)?;
        }
        history::finish(connection, version, How::Ran).await?;
        Ok(How::Ran)
    }

    /// Drops an index that was left unfinished. Returns whether the statement must run.
    async fn repaired(
        &self,
        connection: &mut Maintenance,
        version: u64,
        statement: &Statement,
    ) -> Result<bool, Error> {
        let Some(index) = statement.concurrent_index().flatten() else { return Ok(true) };
        match valid(connection, &index).await? {
            None => Ok(true),
            // Nobody else made it: it was not there when this migration began.
            Some(true) => Ok(false),
            Some(false) => {
                let drop =
                    format!("DROP INDEX CONCURRENTLY IF EXISTS public.\"{}\"", index.replace('"', "\"\""));
                connection.execute(&drop, &[]).await?;
                self.tell(&Event::Repaired { index, version })?;
                Ok(true)
            }
        }
    }

    /// Changes of rows: at the primary, as a writer; at a replica they come by the log.
    async fn backfill(
        &self,
        connection: &mut Maintenance,
        migration: &Migration,
        script: &Script,
        begun: Option<&Applied>,
        repeated: bool,
    ) -> Result<How, Error> {
        let version = migration.version;
        self.may_backfill(version).await?;
        let how = if self.shard.copy == Copy::Replica { How::Log } else { How::Ran };
        if begun.is_none() {
            history::note(connection, migration, how, how == How::Log).await?;
        }
        if how == How::Log {
            history::finish(connection, version, how).await?;
            return Ok(how);
        }
        let done = begun.map_or(0, |begun| begun.statements);
        for (at, statement) in (1..).zip(&script.statements).skip(usize::try_from(done).unwrap_or(usize::MAX))
        {
            let mut rounds = 0;
            let mut more = true;
            while more {
                let rows = self
                    .persist(connection, migration, script, Work::Rows { at, repeated, statement })
                    .await?;
                self.told(migration, script, at, rows)?;
                rounds += 1;
                more = repeated && rows > 0;
                if more && rounds >= BACKFILL_ROUNDS_MAX {
                    let why =
                        format!("still touches rows after {rounds} rounds: say in its WHERE what is done");
                    return Err(Error::Backfill { version, why });
                }
            }
        }
        history::finish(connection, version, how).await?;
        Ok(how)
    }

    /// One statement and the note that it is done in one transaction.
    async fn rows(
        &self,
        connection: &mut Maintenance,
        version: u64,
        script: &Script,
        work: (u64, bool, &Statement),
    ) -> Result<u64, Error> {
        let (at, repeated, statement) = work;
        connection.begin(Purpose::Rows).await?;
        let rows = self.execute(connection, script, statement).await?;
        if !repeated || rows == 0 {
            history::progress(connection, version, at).await?;
        }
        self.tell(&Event::Recorded { version })?;
        connection.commit(self.tables).await.map_err(|source| Error::Kept { source, version })?;
        Ok(rows)
    }

    /// What a shard is said to be, and its fence, must agree: else rows would be changed nowhere, or twice.
    async fn may_backfill(&self, version: u64) -> Result<(), Error> {
        let store = &self.shard.store;
        let open = store.fence().await?.deadline_us > store.clock().await?;
        let there = |seen: &Seen| seen.shard == self.shard.name && seen.version >= version;
        let why = match (self.shard.copy, open) {
            (Copy::Primary, true) => return Ok(()),
            (Copy::Primary, false) => {
                "writes rows, and this shard's lease is not held here: run it while a gateway of this region holds it"
            }
            (Copy::Replica, true) => {
                "is to come by the log, and this shard's lease is held here: say that it is the primary"
            }
            (Copy::Replica, false) if self.elsewhere.iter().any(there) => return Ok(()),
            (Copy::Replica, false) => "runs at the shard's primary first: run it there, then again here",
        };
        Err(Error::Backfill { version, why: why.to_owned() })
    }

    async fn execute(
        &self,
        connection: &mut Maintenance,
        script: &Script,
        statement: &Statement,
    ) -> Result<u64, Error> {
        connection.execute(&statement.text, &[]).await.map_err(|source| Error::Statement {
            line: statement.line,
            path: script.path.display().to_string(),
            source,
        })
    }

    /// Does it, and does it again when others hold locks, after pauses. What fails leaves no transaction behind. Returns how many
    /// rows were touched.
    async fn persist(
        &self,
        connection: &mut Maintenance,
        migration: &Migration,
        script: &Script,
        work: Work<'_>,
    ) -> Result<u64, Error> {
        let version = migration.version;
        let mut locks = self.locks.iter().peekable();
        loop {
            let lock = locks.next().copied().unwrap_or_default();
            connection.lock_timeout(lock).await?;
            let done = match work {
                Work::Piece(statement) => match self.repaired(connection, version, statement).await {
                    Ok(true) => self.execute(connection, script, statement).await,
                    Ok(false) => Ok(0),
                    Err(error) => Err(error),
                },
                Work::Rows { at, repeated, statement } => {
                    self.rows(connection, version, script, (at, repeated, statement)).await
                }
                Work::Whole => self.transaction(connection, migration, script).await,
            };
            let error = match done {
                Err(error) if !matches!(error, Error::Stopped) => error,
                done => return done,
            };
            connection.rollback().await?;
            let Some(why) = busy(&error) else { return Err(error) };
            if locks.peek().is_none() {
                return Err(Error::Busy { version, why });
            }
            self.tell(&Event::Retry { pause: lock, version, why })?;
            self.watch.pause(&self.shard.name, lock).await;
        }
    }

    fn told(&self, migration: &Migration, script: &Script, at: u64, rows: u64) -> Result<(), Error> {
        let of = script.statements.len() as u64;
        self.tell(&Event::Statement { at, of, rows, version: migration.version })
    }

    fn tell(&self, event: &Event) -> Result<(), Error> {
        match self.watch.event(&self.shard.name, event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}

/// Do others stand in the way? A statement that took too long would take as long again.
fn busy(error: &Error) -> Option<String> {
    let (Error::Kept { source, .. } | Error::Statement { source, .. } | Error::Store(source)) = error else {
        return None;
    };
    match source {
        portolan_changelog::Error::Busy(why) if !why.contains("statement timeout") => Some(why.clone()),
        _ => None,
    }
}

/// Is an index valid? None when it is not there.
async fn valid(connection: &mut Maintenance, index: &str) -> Result<Option<bool>, Error> {
    let sql = "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1";
    let rows = connection.fetch(sql, &[index.into()]).await?;
    Ok(rows.first().map(|row| row.number(0)).transpose()?.map(|valid| valid == 1))
}
