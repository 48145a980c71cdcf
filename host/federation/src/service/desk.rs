//! Where one tenant's requests are answered: its shard's tables, its vault, and this node's places for transfers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_changelog::content::{Content, Item};
use portolan_changelog::{Lease, Store};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_foundation::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Homes;
use super::problem::Problem;
use super::vault::{Vault, Vaults};
use crate::Error;
use crate::defaults::{INTAKES_MAX, SENDS_MAX, TENANT_INTAKES_MAX, TENANT_SENDS_MAX};
use crate::keys::ItemKeys;
use crate::seal::Secret;

/// What all requests of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) homes: Arc<dyn Homes>,
    pub(super) local: RegionName,
    pub(super) vaults: Vaults,
    /// Wakes those who wait for changes; which tenant's, they look themselves.
    pub(super) news: watch::Sender<u64>,
    intakes: Places,
    sends: Places,
}

/// Places for transfers: of the node, and of each tenant.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    each: usize,
    taken: Arc<Mutex<BTreeMap<TenantName, usize>>>,
}

/// A place. It is free again with this.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
    taken: Arc<Mutex<BTreeMap<TenantName, usize>>>,
    tenant: TenantName,
}

impl Shared {
    pub(super) fn new(homes: Arc<dyn Homes>, local: RegionName, vaults: Vaults) -> Self {
        Self {
            homes,
            local,
            vaults,
            news: watch::Sender::new(0),
            intakes: Places::new(INTAKES_MAX, TENANT_INTAKES_MAX),
            sends: Places::new(SENDS_MAX, TENANT_SENDS_MAX),
        }
    }
}

impl Places {
    fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, taken: Arc::default() }
    }

    /// # Errors
    /// When the tenant has all that one may have, or the node has none left.
    fn take(&self, tenant: &TenantName) -> Result<Taken, Problem> {
        let full =
            || Problem::busy("this gateway has as many transfers as it can hold: come again in a while");
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(tenant).copied().unwrap_or(0);
        if own >= self.each {
            return Err(Problem::tenant_busy());
        }
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| full())?;
        taken.insert(tenant.clone(), own + 1);
        drop(taken);
        Ok(Taken { _permit: permit, taken: Arc::clone(&self.taken), tenant: tenant.clone() })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.tenant).copied().unwrap_or(1).saturating_sub(1);
        if left == 0 {
            taken.remove(&self.tenant);
        } else {
            taken.insert(self.tenant.clone(), left);
        }
    }
}

/// Where one tenant's requests are answered. Clones are the same place.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: TenantName,
    shard: ShardName,
    store: Store,
    pub(super) lease: Lease,
}

impl Desk {
    pub(super) fn new(
        shared: Arc<Shared>,
        tenant: TenantName,
        shard: ShardName,
        (store, lease): (Store, Lease),
    ) -> Self {
        Self { shared, tenant, shard, store, lease }
    }

    /// One state of the tenant's content, to read.
    pub(super) async fn look(&self) -> Result<Content, Problem> {
        Ok(self.store.content(&self.tenant).await?)
    }

    /// A transaction that writes. The lease may have been renewed since the request came.
    pub(super) async fn write(&self) -> Result<Content, Problem> {
        Ok(self.store.write_content(&self.tenant, &self.now()?, clock::now()).await?)
    }

    /// Commits what [`Self::write`] began, and wakes those who wait for changes.
    pub(super) async fn commit(&self, content: Content) -> Result<(), Problem> {
        content.commit(&self.now()?, clock::now).await?;
        self.shared.news.send_modify(|news| *news = news.wrapping_add(1));
        Ok(())
    }

    /// The lease, which must be the one that the request came under.
    pub(super) fn now(&self) -> Result<Lease, Problem> {
        let now = self.shared.homes.leased(&self.shard).map(|(_, lease)| lease);
        let same = now.filter(|lease| lease.epoch == self.lease.epoch && lease.allows(clock::now()));
        same.ok_or_else(|| Problem::elsewhere(&self.shard, &self.shared.local))
    }

    /// The tenant's vault; none before its first content.
    pub(super) async fn vault(&self, content: &mut Content) -> Result<Option<Arc<Vault>>, Problem> {
        Ok(self.shared.vaults.find(&self.tenant, content).await?)
    }

    /// The tenant's vault, which is made with its first content.
    pub(super) async fn make_vault(&self) -> Result<Arc<Vault>, Problem> {
        let mut content = self.look().await?;
        let known = self.vault(&mut content).await?;
        content.end().await?;
        if let Some(vault) = known {
            return Ok(vault);
        }
        let mut content = self.write().await?;
        let vault = self.shared.vaults.make(&self.tenant, &mut content).await?;
        self.commit(content).await?;
        Ok(vault)
    }

    /// An item's data keys.
    pub(super) fn keys(item: &Item) -> Result<ItemKeys, Error> {
        postcard::from_bytes(&item.keys).map_err(|_| Error::Malformed("an item's keys"))
    }

    /// A data key of an item.
    pub(super) async fn data_key(&self, keys: &ItemKeys, term: usize) -> Result<Secret, Error> {
        let vaults = &self.shared.vaults;
        keys.open(term, &vaults.holder(&self.tenant), vaults.kms()).await
    }

    /// A place for a content that comes.
    pub(super) fn intake(&self) -> Result<Taken, Problem> {
        self.shared.intakes.take(&self.tenant)
    }

    /// A place for a content that is sent.
    pub(super) fn send(&self) -> Result<Taken, Problem> {
        self.shared.sends.take(&self.tenant)
    }
}
