//! One generation of intent, immutable and whole. A request takes one at its start and keeps it to the response head.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::decide::{Decide, FailRule};
use crate::facts::Facts;
use crate::ids::{Digest, Generation, PolicyName, TenantName};
use crate::lane::Lane;
use crate::table::Table;
use crate::topology::Topology;

/// One generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Its number.
    pub generation: Generation,
    /// What exists.
    pub topology: Arc<Topology>,
    /// What policies answered.
    pub policies: Policies,
}

/// The policies in the routing slots. A tenant's table is asked where the operator's says "next": they are composed
/// at look-up, so that neither is ever multiplied by the other.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The global slot.
    pub operator: Option<Arc<Lane>>,
    /// The slots of tenants.
    pub tenants: Arc<HashMap<TenantName, Arc<Lane>>>,
}

/// One policy at work: an immutable version with one configuration and the table that it planned.
#[derive(Debug)]
pub struct Policy {
    /// The configuration, a JSON object.
    pub config: Arc<str>,
    /// What it knew when it planned.
    pub facts: Arc<Facts>,
    /// The name of its slot's policy.
    pub name: PolicyName,
    /// Which version.
    pub digest: Digest,
    /// The compiled plan.
    pub table: Table,
    /// Who answers dynamic rules.
    pub decider: Arc<dyn Decide>,
    /// What becomes of requests when it fails.
    pub on_fail: FailRule,
}

/// The place where the running snapshot hangs: one writer swaps, any thread reads.
#[derive(Debug)]
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Hangs up the first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(first)))
    }

    /// The running snapshot, owned; for control work.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes another snapshot the running one. Requests in flight keep the one they began with.
    pub fn swap(&self, next: Snapshot) {
        self.0.store(Arc::new(next));
    }

    /// A reader for one thread, which costs one atomic load while nothing changes.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader(Cache::new(LiveRef(Arc::clone(self))))
    }
}

#[derive(Clone, Debug)]
struct LiveRef(Arc<Live>);

impl std::ops::Deref for LiveRef {
    type Target = ArcSwap<Snapshot>;
    fn deref(&self) -> &Self::Target {
        &self.0.0
    }
}

/// A thread's own view of [`Live`].
#[derive(Clone, Debug)]
pub struct Reader(Cache<LiveRef, Arc<Snapshot>>);

impl Reader {
    /// The running snapshot.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}
