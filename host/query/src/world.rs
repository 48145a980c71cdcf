//! What one query sees: shards that answer and shards that do not, whose rows, and how much of everything is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_changelog::Dialect;
use portolan_core::time::Moment;

use crate::error::Error;
use crate::fragment::Node;
use crate::fragment::reach::{Home, Reach};
use crate::fragment::sql::Scope;
use crate::kind::Kind;
use crate::limits::Limits;
use crate::push::Pushes;
use crate::source::Source;

/// A shard as a query finds it.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) name: String,
    /// How to ask it, or why it cannot be asked.
    pub(crate) source: Result<Source, String>,
}

/// What one query sees.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) deadline: Moment,
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) homes: BTreeMap<String, Option<String>>,
    pub(crate) limits: Limits,
    /// Shards that were left out of a partial answer.
    pub(crate) missing: Mutex<BTreeSet<String>>,
    /// May shards be left out?
    pub(crate) partial: bool,
    pub(crate) pushes: Pushes,
    pub(crate) scope: Scope,
    pub(crate) shards: Arc<[Shard]>,
    pub(crate) names: AtomicUsize,
    /// Rows that shards have sent.
    pub(crate) rows: AtomicU64,
}

impl World {
    /// Is a kind exact on each engine?
    pub(crate) fn exact(&self, kind: Kind) -> bool {
        self.dialects.iter().all(|dialect| kind.exact(*dialect))
    }

    /// A name that no table of this query has.
    pub(crate) fn name(&self) -> String {
        format!("shards_{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// The shards that a relation must be asked of.
    ///
    /// # Errors
    /// When one of them does not answer and the whole is wanted.
    pub(crate) fn asked(&self, node: &Node) -> Result<Vec<usize>, Error> {
        let own = match &self.scope {
            Scope::All => Reach::All,
            Scope::Tenant(tenant) => match self.home(tenant) {
                Home::Nowhere => Reach::Some(BTreeSet::new()),
                Home::On(shard) => Reach::Some(BTreeSet::from([shard])),
                Home::Unknown => Reach::All,
            },
        };
        let all = 0..self.shards.len();
        let shards: Vec<usize> = match node.reach(&|tenant| self.home(tenant)).and(own) {
            Reach::All => all.collect(),
            Reach::Any => {
                let mut answering = all.clone().filter(|at| self.source(*at).is_ok());
                answering.next().or_else(|| all.clone().next()).into_iter().collect()
            }
            Reach::Some(shards) => shards.into_iter().collect(),
        };
        // A reference table within a tenant's scope has its one shard already; elsewhere any will do.
        let shards = if node.is_reference() { shards.into_iter().take(1).collect() } else { shards };
        let mut asked = Vec::new();
        for at in shards {
            match self.source(at) {
                Ok(_) => asked.push(at),
                Err(error @ Error::Shard { .. }) if self.partial => self.leave_out(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(asked)
    }

    /// How to ask a shard.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn source(&self, at: usize) -> Result<&Source, Error> {
        let shard = self.shards.get(at).ok_or_else(|| Error::Internal(format!("no shard {at}")))?;
        shard.source.as_ref().map_err(|why| Error::shard(&shard.name, why))
    }

    /// Counts rows that a shard has sent.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn count(&self, rows: usize) -> Result<(), Error> {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let all = self.rows.fetch_add(rows, Ordering::Relaxed).saturating_add(rows);
        if all > self.limits.scan_rows {
            return Err(Error::Limit(format!(
                "the query fetched more than its limit of {} rows from its shards: name a tenant, narrow it with WHERE, or \
                 aggregate what shards can add up (`EXPLAIN` shows what is pushed)",
                self.limits.scan_rows
            )));
        }
        Ok(())
    }

    /// The shards that were left out.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn leave_out(&self, error: &Error) {
        if let Error::Shard { shard, .. } = error {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(shard.clone());
        }
    }

    fn home(&self, tenant: &str) -> Home {
        match self.homes.get(tenant) {
            None => Home::Unknown,
            Some(None) => Home::Nowhere,
            Some(Some(shard)) => {
                // A shard that is not among these is none of this region's.
                let at = self.shards.iter().position(|other| other.name == *shard);
                at.map_or(Home::Unknown, Home::On)
            }
        }
    }
}
