//! Looking at a database that portolan does not keep yet, or at any other, without leaving a trace.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::adopt;
use crate::database::{Dialect, Pool, Row, Session, Value};
use crate::defaults::{ANSWER_TIMEOUT, INSPECTION_TIMEOUT};
use crate::error::Error;
use crate::store::Engine;
use crate::{postgres, sqlite};

/// A look at one state of a database. It cannot write: on PostgreSQL it is one transaction that is READ ONLY, on SQLite
/// the file is opened to be read only, and no file is made beside it unless it is in use.
#[derive(Debug)]
pub struct Inspection {
    /// The file as it was, when SQLite was told that nobody writes it.
    quiet: Option<(PathBuf, [i64; 3])>,
    session: Session,
}

impl Inspection {
    /// Begins to look, as the owner.
    ///
    /// # Errors
    /// [`Error::Away`] when the database is not there or does not answer.
    pub async fn open(engine: &Engine) -> Result<Self, Error> {
        match engine {
            Engine::Postgres(config) => {
                let owner = postgres::connect(config, postgres::Use::Owner).await?;
                let mut session = Pool::postgres(owner, ANSWER_TIMEOUT).snapshot().await?;
                session.keep(INSPECTION_TIMEOUT);
                let milliseconds = INSPECTION_TIMEOUT.as_millis();
                session.execute(&format!("SET LOCAL statement_timeout = {milliseconds}"), &[]).await?;
                session.execute("SELECT set_config('portolan.maintenance', 'on', true)", &[]).await?;
                Ok(Self { quiet: None, session })
            }
            Engine::Sqlite(path) => {
                let quiet = if quiet(path)? { Some((path.clone(), seen(path)?)) } else { None };
                let pool = sqlite::look(path, quiet.is_some()).await?;
                let mut session = pool.snapshot().await?;
                session.keep(INSPECTION_TIMEOUT);
                Ok(Self { quiet, session })
            }
        }
    }

    /// Is this a database of PostgreSQL? If not, it is a file of SQLite.
    #[must_use]
    pub const fn is_postgres(&self) -> bool {
        matches!(self.session.dialect(), Dialect::Postgres)
    }

    /// A condition of this database that a value names a tenant.
    #[must_use]
    pub fn names_tenant(&self, value: &str) -> String {
        adopt::names_tenant(self.session.dialect(), value)
    }

    /// Runs a query. In PostgreSQL, what is neither a number, text, truth nor bytes must be cast to text.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the database refuses, as it does all that writes.
    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        self.session.fetch(sql, args).await
    }

    /// Ends the look.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody has written a file of SQLite meanwhile that nobody seemed to use: what was seen may be
    /// of no one state.
    pub fn end(self) -> Result<(), Error> {
        let Some((path, before)) = &self.quiet else { return Ok(()) };
        if seen(path)? == *before && !wal(path).exists() {
            Ok(())
        } else {
            Err(Error::Busy("somebody writes the file: look again".to_owned()))
        }
    }
}

/// Is this file in WAL mode, and nobody uses it? Then it need not be locked, and locking it would make files. Otherwise
/// its files are there already, or none are made.
fn quiet(path: &Path) -> Result<bool, Error> {
    use std::io::Read as _;
    let mut header = [0; 20];
    let mut file = std::fs::File::open(path).map_err(|error| away(path, &error))?;
    // A file that is shorter is no database, or an empty one.
    let wal_mode = file.read_exact(&mut header).is_ok() && header.ends_with(&[2, 2]);
    Ok(wal_mode && !wal(path).exists())
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// What changes when a file is written.
fn seen(path: &Path) -> Result<[i64; 3], Error> {
    let meta = std::fs::metadata(path).map_err(|error| away(path, &error))?;
    Ok([meta.size().cast_signed(), meta.mtime(), meta.mtime_nsec()])
}

fn away(path: &Path, error: &std::io::Error) -> Error {
    Error::Away(format!("read {}: {error}", path.display()))
}
