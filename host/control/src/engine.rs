//! The engines under the store. All that they do: keep numbered entries, tell that one was added, keep nodes' reports.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Away, Error};
use crate::etcd::Etcd;
use crate::register::{Registers, Swap};
use crate::sqlite::Sqlite;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A cluster of etcd, for nodes on several machines.
    Etcd(EtcdConfig),
    /// A file of SQLite, for processes of one machine.
    Sqlite(PathBuf),
}

/// How to reach etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The authorities whose certificates the members show; none for HTTP.
    pub ca: Option<PathBuf>,
    /// This client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The members, such as `http://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// User name and password.
    pub user: Option<(String, String)>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is in the log.
    Done,
    /// Its number belongs to another, or the one before it is not there.
    Taken,
}

/// An engine at work.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    Etcd(Arc<Etcd>),
    Sqlite(Sqlite),
}

/// Tells that something may have been added.
#[derive(Debug)]
pub(crate) enum Watcher {
    Etcd(crate::etcd::Watcher),
    Sqlite(crate::sqlite::Watcher),
}

impl Connection {
    /// `fresh` makes a store where there is none.
    pub(crate) async fn open(engine: &Engine, fresh: bool) -> Result<Self, Error> {
        Ok(match engine {
            Engine::Etcd(config) => Self::Etcd(Arc::new(Etcd::connect(config).await?)),
            Engine::Sqlite(path) => Self::Sqlite(Sqlite::open(path, fresh).await?),
        })
    }

    /// Adds an entry, if the one before it is the newest.
    pub(crate) async fn append(&self, generation: u64, entry: &[u8]) -> Result<Appended, Away> {
        match self {
            Self::Etcd(etcd) => etcd.append(generation, entry).await,
            Self::Sqlite(sqlite) => sqlite.append(generation, entry).await,
        }
    }

    /// Up to so many entries after a generation, in order.
    pub(crate) async fn entries(&self, after: u64, max: usize) -> Result<Vec<(u64, Vec<u8>)>, Away> {
        match self {
            Self::Etcd(etcd) => etcd.entries(after, max).await,
            Self::Sqlite(sqlite) => sqlite.entries(after, max).await,
        }
    }

    pub(crate) async fn watch(&self) -> Result<Watcher, Away> {
        Ok(match self {
            Self::Etcd(etcd) => Watcher::Etcd(etcd.watch().await?),
            Self::Sqlite(sqlite) => Watcher::Sqlite(sqlite.watch().await?),
        })
    }

    /// The same of registers whose names begin so. SQLite tells of all that is written.
    pub(crate) async fn watch_registers(&self, prefix: &str) -> Result<Watcher, Away> {
        Ok(match self {
            Self::Etcd(etcd) => Watcher::Etcd(etcd.watch_registers(prefix).await?),
            Self::Sqlite(sqlite) => Watcher::Sqlite(sqlite.watch().await?),
        })
    }

    pub(crate) async fn registers(&self, after: u64) -> Result<Registers, Away> {
        match self {
            Self::Etcd(etcd) => etcd.registers(after).await,
            Self::Sqlite(sqlite) => sqlite.registers(after).await,
        }
    }

    /// Asked once: of a lost answer whoever asks has to know.
    pub(crate) async fn swap(&self, swap: &Swap) -> Result<Option<u64>, Away> {
        match self {
            Self::Etcd(etcd) => etcd.swap(swap).await,
            Self::Sqlite(sqlite) => sqlite.swap(swap).await,
        }
    }

    pub(crate) async fn report(&self, node: &str, at_ms: u64, report: &[u8]) -> Result<(), Away> {
        match self {
            Self::Etcd(etcd) => etcd.report(node, report).await,
            Self::Sqlite(sqlite) => sqlite.report(node, at_ms, report).await,
        }
    }

    /// The reports of nodes that are there.
    pub(crate) async fn reports(&self, now_ms: u64) -> Result<Vec<(String, Vec<u8>)>, Away> {
        match self {
            Self::Etcd(etcd) => etcd.reports().await,
            Self::Sqlite(sqlite) => sqlite.reports(now_ms).await,
        }
    }
}

impl Watcher {
    /// Waits until something may have been added.
    ///
    /// # Cancel safety
    /// Nothing is lost: whoever is told reads from where it was.
    pub(crate) async fn changed(&mut self) -> Result<(), Away> {
        match self {
            Self::Etcd(watcher) => watcher.changed().await,
            Self::Sqlite(watcher) => watcher.changed().await,
        }
    }
}
