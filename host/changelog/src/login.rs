//! How a server of PostgreSQL is reached as one role: its address, the role's password, and how each proves who it is.
//!
//! A password may lie in a file, which is read again when it has changed: new connections use the new one, and those from
//! before are let go when their work is done. A connection that the server refuses waits a moment for the file, because a
//! password changes at the server and in the file one after the other.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Postgres};
use tokio::time::Instant;

use crate::defaults::{PASSWORD_BYTES_MAX, PASSWORD_RETRY, PASSWORD_WAIT, RESTED};
use crate::error::Error;

/// How the server of a database proves who it is, and the gateway to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Certificates (PEM) of authorities that vouch for the server, beside the public ones.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate (PEM), with `key`. Read with each new connection.
    pub cert: Option<PathBuf>,
    /// The key (PEM) of `cert`.
    pub key: Option<PathBuf>,
    /// Files with the roles' passwords, one line each.
    pub passwords: Passwords,
    /// How much is asked for. Where this and the address say nothing: all, unless the server is this machine.
    pub tls: Option<Tls>,
}

/// Files with passwords, which stand in place of those of the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passwords {
    /// The applier's.
    pub applier: Option<PathBuf>,
    /// The owner's.
    pub owner: Option<PathBuf>,
    /// The writer's.
    pub writer: Option<PathBuf>,
}

/// What a connection asks of the server, as libpq names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tls {
    /// Nothing: what goes over the network can be read.
    Disable,
    /// That it encrypts; who it is, nobody knows.
    Require,
    /// A certificate of a known authority.
    VerifyCa,
    /// A certificate of a known authority for the name of the address.
    VerifyFull,
}

/// Connections as one role.
#[derive(Debug)]
pub(crate) struct Login {
    /// When the password changed: connections from before are let go.
    changed: Changed,
    file: Option<PathBuf>,
    name: String,
    password: Mutex<Option<String>>,
    pool: PgPool,
    role: &'static str,
}

type Changed = Arc<Mutex<Option<Instant>>>;

/// An address with all that is known, and the password that lies in a file now: for connections of a process of its own that only
/// reads, and lives no longer than a password.
///
/// # Errors
/// [`Error::Damaged`] when the address is none, [`Error::Away`] when the file cannot be read.
pub fn reader(url: &str, password: Option<&Path>, access: &Access) -> Result<PgConnectOptions, Error> {
    let password = password.map(read).transpose()?;
    Ok(with(options(url, "reader", access)?, password.as_deref()))
}

/// An address with what else is known, without its password.
pub(crate) fn options(url: &str, role: &'static str, access: &Access) -> Result<PgConnectOptions, Error> {
    // Neither a URL nor what is wrong with it is told: it holds a password.
    let mut options = PgConnectOptions::from_str(url)
        .map_err(|_| Error::Damaged(format!("the {role}'s address is no URL of PostgreSQL")))?;
    let said =
        url.split_once('?').is_some_and(|(_, rest)| rest.contains("sslmode=") || rest.contains("ssl-mode="));
    match access.tls {
        Some(tls) => options = options.ssl_mode(tls.mode()),
        None if !said && !is_local(&options) => options = options.ssl_mode(PgSslMode::VerifyFull),
        None => {}
    }
    if let Some(ca) = &access.ca {
        options = options.ssl_root_cert(ca);
    }
    if let (Some(cert), Some(key)) = (&access.cert, &access.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    Ok(options)
}

/// Does nothing leave this machine on the way to it?
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host().trim_matches(['[', ']']);
    options.get_socket().is_some()
        || host == "localhost"
        || host.starts_with('/')
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Login {
    /// Connects, at least once.
    pub(crate) async fn open(
        options: PgConnectOptions,
        file: Option<&Path>,
        role: &'static str,
        pool: PgPoolOptions,
    ) -> Result<Arc<Self>, Error> {
        let password = file.map(read).transpose()?;
        let name = options.get_username().to_owned();
        let options = with(options, password.as_deref());
        let changed = Changed::default();
        let pool = looked_at(pool, &changed).connect_lazy_with(options);
        let login = Self {
            changed,
            file: file.map(Path::to_owned),
            name,
            password: Mutex::new(password),
            pool,
            role,
        };
        drop(login.acquire().await?);
        Ok(Arc::new(login))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection, with the password as it is now.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Error> {
        let began = Instant::now();
        loop {
            let error = match self.pool.acquire().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let refused = error.as_database_error().and_then(|error| error.code());
            if refused.as_deref() != Some("28P01") || self.file.is_none() {
                return Err(self.failed(&error));
            }
            // The server has another password already: whatever the file says now is better.
            if self.reread()?.is_none_or(|password| !self.take(password)) {
                if began.elapsed() >= PASSWORD_WAIT {
                    return Err(self.failed(&error));
                }
                tokio::time::sleep(PASSWORD_RETRY).await;
            }
        }
    }

    /// Looks whether the password has changed. One that the server takes is used from now on; until it does, the one before is.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let Some(password) = self.reread()? else { return Ok(()) };
        let options = with((*self.pool.connect_options()).clone(), Some(&password));
        let trial = options.connect().await.map_err(|error| self.failed(&error))?;
        // It has told what it is for.
        trial.close().await.ok();
        self.take(password);
        Ok(())
    }

    /// What the file says, if that is another password than the one in use.
    fn reread(&self) -> Result<Option<String>, Error> {
        let Some(file) = &self.file else { return Ok(None) };
        let now = read(file)?;
        let before = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if before.as_deref() == Some(now.as_str()) { None } else { Some(now) })
    }

    /// New connections use this password. Returns whether it is another.
    fn take(&self, password: String) -> bool {
        let mut before = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        if before.as_deref() == Some(password.as_str()) {
            return false;
        }
        self.pool.set_connect_options(with((*self.pool.connect_options()).clone(), Some(&password)));
        *before = Some(password);
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        true
    }

    fn failed(&self, error: &sqlx::Error) -> Error {
        Error::Away(format!("connect as the {}: {error}", self.role))
    }
}

impl Tls {
    const fn mode(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }
}

/// Connections that are older than the password are closed when nobody uses them any more, and one that has rested is asked whether it
/// still stands.
fn looked_at(pool: PgPoolOptions, changed: &Changed) -> PgPoolOptions {
    let changed = Arc::clone(changed);
    pool.test_before_acquire(false).before_acquire(move |connection, known| {
        let changed = *changed.lock().unwrap_or_else(PoisonError::into_inner);
        let old = changed.is_some_and(|changed| known.age >= changed.elapsed());
        Box::pin(async move {
            if !old && known.idle_for >= RESTED {
                connection.ping().await?;
            }
            Ok(!old)
        })
    })
}

fn with(options: PgConnectOptions, password: Option<&str>) -> PgConnectOptions {
    match password {
        Some(password) => options.password(password),
        None => options,
    }
}

/// The password in a file, without the end of its line.
fn read(file: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read =
        std::fs::File::open(file).and_then(|file| file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Error::Away(format!("read the password in {}: {error}", file.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
