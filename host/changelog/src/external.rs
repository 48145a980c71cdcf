//! Engines that replicate and fence themselves, such as Citus, Aurora or a cluster under Patroni: what one says of itself where it is
//! reached. Nothing of portolan's is in its database.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use crate::error::Error;
use crate::login::{Access, reader};

/// Where a region reaches an engine that replicates itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// How the server proves who it is.
    pub access: Access,
    /// `postgres://ROLE@HOST:PORT/DATABASE`; only members of `pg_monitor` are told how far a copy is behind.
    pub address: String,
    /// A file with the role's password.
    pub password: Option<PathBuf>,
}

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How old what it shows may be; none where it does not say.
    pub behind: Option<Duration>,
    /// The address of the server that said so, where there is one.
    pub server: Option<String>,
    /// Which connection it was said over.
    pub session: u64,
    /// Does it take writes here?
    pub writes: bool,
}

/// Looks at an engine again and again, over one connection.
#[derive(Debug)]
pub struct Lookout {
    connection: Option<PgConnection>,
    external: External,
    sessions: u64,
}

/// Every wire-compatible engine answers this; one that is never in recovery takes writes everywhere.
const IN_RECOVERY: &str = "SELECT pg_is_in_recovery()";
/// Where the server is; none over a socket of this machine, and with engines that do not know.
const SERVER: &str = "SELECT host(inet_server_addr()) || ':' || inet_server_port()::text";

/// A standby that has replayed all that it received shows what there was when it last heard of its source, which only members of
/// `pg_monitor` are told; without a source it shows its last commit.
const BEHIND: &str = "SELECT (extract(epoch FROM clock_timestamp() - CASE WHEN r.pid IS NOT NULL \
    AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN r.last_msg_receipt_time \
    ELSE pg_last_xact_replay_timestamp() END) * 1000)::bigint FROM (SELECT) one LEFT JOIN pg_stat_wal_receiver r ON true";

impl Lookout {
    /// Looks at this one.
    #[must_use]
    pub const fn new(external: External) -> Self {
        Self { connection: None, external, sessions: 0 }
    }

    /// Where it looks.
    #[must_use]
    pub const fn external(&self) -> &External {
        &self.external
    }

    /// Looks once. After an error the next look connects anew, with the password as it is then.
    ///
    /// # Errors
    /// [`Error::Away`] when the engine is not reached or does not answer, [`Error::Damaged`] when its address is none.
    pub async fn look(&mut self) -> Result<Seen, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let External { access, address, password } = &self.external;
                let options = reader(address, password.as_deref(), access)?.application_name("portolan");
                self.sessions += 1;
                options.connect().await.map_err(|error| away("connect to", &error))?
            }
        };
        let seen = seen(&mut connection, self.sessions).await.map_err(|error| away("ask", &error));
        match seen {
            Ok(seen) => {
                self.connection = Some(connection);
                Ok(seen)
            }
            Err(error) => {
                connection.close_hard().await.ok();
                Err(error)
            }
        }
    }
}

async fn seen(connection: &mut PgConnection, session: u64) -> Result<Seen, sqlx::Error> {
    let recovers: bool = sqlx::query(IN_RECOVERY).fetch_one(&mut *connection).await?.try_get(0)?;
    let server = said::<String>(connection, SERVER).await?;
    if !recovers {
        return Ok(Seen { behind: Some(Duration::ZERO), server, session, writes: true });
    }
    let behind = said::<i64>(connection, BEHIND).await?;
    let behind = behind.map(|behind| Duration::from_millis(u64::try_from(behind).unwrap_or_default()));
    Ok(Seen { behind, server, session, writes: false })
}

/// What an engine answers; none where it knows no such function or view.
async fn said<T>(connection: &mut PgConnection, sql: &'static str) -> Result<Option<T>, sqlx::Error>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    match sqlx::query(sql).fetch_one(connection).await {
        Ok(row) => row.try_get(0),
        Err(sqlx::Error::Database(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn away(what: &str, error: &sqlx::Error) -> Error {
    Error::Away(format!("{what} the engine: {error}"))
}
