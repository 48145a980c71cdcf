//! Where one tenant's requests are answered: its shard's tables, its vault, and this node's places for transfers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use portolan_changelog::content::{Content, Item};
use portolan_changelog::{Lease, Store};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_foundation::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::borrow::Words;
use super::copies::Copies;
use super::differ::Plans;
use super::problem::Problem;
use super::vault::{Vault, Vaults};
use super::{Homes, Regions};
use crate::Error;
use crate::defaults::{INTAKES_MAX, SENDS_MAX, TENANT_INTAKES_MAX, TENANT_SENDS_MAX};
use crate::keys::ItemKeys;
use crate::seal::Secret;

/// What all requests of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    /// How this region's copies follow.
    pub(super) copies: Copies,
    pub(super) homes: Arc<dyn Homes>,
    pub(super) local: RegionName,
    /// Differences that copies ask for.
    pub(super) plans: Plans,
    /// The way to other regions, once there is one.
    pub(super) regions: OnceLock<Arc<dyn Regions>>,
    pub(super) vaults: Vaults,
    /// Wakes those who wait for changes; which tenant's, they look themselves.
    pub(super) news: watch::Sender<u64>,
    /// What sources of shares between tenants said last.
    pub(super) words: Words,
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
            copies: Copies::default(),
            homes,
            local,
            plans: Plans::default(),
            regions: OnceLock::new(),
            vaults,
            news: watch::Sender::new(0),
            words: Words::default(),
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
    pub(super) shard: ShardName,
    store: Store,
    stand: Stand,
}

/// By what right a region has a shard's content.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// It follows the region that writes under this epoch, and what it has may be so old.
    Follows(Epoch, Duration),
    /// It writes.
    Leads(Lease),
}

impl Desk {
    pub(super) fn new(
        shared: Arc<Shared>,
        tenant: TenantName,
        shard: ShardName,
        (store, lease): (Store, Lease),
    ) -> Self {
        Self { shared, tenant, shard, store, stand: Stand::Leads(lease) }
    }

    /// At a copy that follows the region which writes under an epoch.
    pub(super) fn of_copy(
        shared: Arc<Shared>,
        tenant: TenantName,
        shard: ShardName,
        (store, epoch): (Store, Epoch),
    ) -> Self {
        Self { shared, tenant, shard, store, stand: Stand::Follows(epoch, Duration::ZERO) }
    }

    /// The same, where what the copy has may be so old.
    pub(super) fn heard(self, behind: Duration) -> Self {
        Self { stand: Stand::Follows(self.epoch(), behind), ..self }
    }

    /// How old what is here may be.
    pub(super) const fn behind(&self) -> Duration {
        match self.stand {
            Stand::Follows(_, behind) => behind,
            Stand::Leads(_) => Duration::ZERO,
        }
    }

    /// The epoch under which the shard is written.
    pub(super) const fn epoch(&self) -> Epoch {
        match self.stand {
            Stand::Follows(epoch, _) => epoch,
            Stand::Leads(lease) => lease.epoch,
        }
    }

    /// One state of the tenant's content, to read.
    pub(super) async fn look(&self) -> Result<Content, Problem> {
        Ok(self.store.content(&self.tenant).await?)
    }

    /// A transaction that writes. The lease may have been renewed since the request came.
    pub(super) async fn write(&self) -> Result<Content, Problem> {
        match self.stand {
            Stand::Follows(epoch, _) => Ok(self.store.take_content(&self.tenant, epoch).await?),
            Stand::Leads(_) => Ok(self.store.write_content(&self.tenant, &self.now()?, clock::now()).await?),
        }
    }

    /// Commits what [`Self::write`] began, and wakes those who wait for changes.
    pub(super) async fn commit(&self, content: Content) -> Result<(), Problem> {
        match self.stand {
            Stand::Follows(..) => content.taken().await?,
            Stand::Leads(_) => content.commit(&self.now()?, clock::now).await?,
        }
        self.shared.news.send_modify(|news| *news = news.wrapping_add(1));
        Ok(())
    }

    /// The lease, which must be the one that the request came under.
    pub(super) fn now(&self) -> Result<Lease, Problem> {
        let now = self.shared.homes.leased(&self.shard).map(|(_, lease)| lease);
        let same = now.filter(|lease| lease.epoch == self.epoch() && lease.allows(clock::now()));
        same.ok_or_else(|| Problem::elsewhere(&self.shard, &self.shared.local))
    }

    /// What was read may be answered: under the lease still, or from a copy, whose reader takes what it has.
    pub(super) fn still(&self) -> Result<(), Problem> {
        match self.stand {
            Stand::Follows(..) => Ok(()),
            Stand::Leads(_) => self.now().map(drop),
        }
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
