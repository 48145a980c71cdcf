//! A tenant's secrets in this region: what names its bytes, seals its indexes and keys, and where its packs are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;
use portolan_changelog::content::Content;
use portolan_core::ids::{RegionName, TenantName};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cut::Cutter;
use crate::defaults::VAULTS_MAX;
use crate::id::{ChunkId, ItemId, Namer};
use crate::keys::{Holder, Kms, Wrapped};
use crate::seal::{Secret, System};
use crate::store::Store;

/// What a tenant's secrets make.
#[derive(Debug)]
pub(super) struct Vault {
    pub(super) cutter: Cutter,
    pub(super) namer: Namer,
    /// What its names are made of, in all regions.
    pub(super) names: Secret,
    pub(super) packs: Store,
    keys: Secret,
    tails: Secret,
}

/// A tenant's secrets as they are kept: those of its names, which are the same in all regions, and those of this region.
#[derive(Serialize, Deserialize)]
struct Wraps {
    names: Wrapped,
    here: Wrapped,
}

const NAMES: &[u8] = b"portolan content names";
const HERE: &[u8] = b"portolan content here";

impl Vault {
    fn new(names: &Secret, here: &Secret, objects: Arc<dyn ObjectStore>, tenant: &TenantName) -> Self {
        let key = |purpose: &str| Secret::new(blake3::derive_key(purpose, here.bytes()));
        let namer = Namer::new(names.bytes());
        Self {
            cutter: Cutter::new(&namer),
            namer,
            names: names.clone(),
            packs: Store::new(objects, tenant, key("portolan content 2026-11 index")),
            keys: key("portolan content 2026-11 chunk keys"),
            tails: key("portolan content 2026-11 tails"),
        }
    }

    /// A chunk's key as it is kept.
    pub(super) fn seal_key(&self, chunk: &ChunkId, key: &Secret) -> Result<Vec<u8>, Error> {
        self.keys.seal(&chunk.0, key.bytes().to_vec(), &System)
    }

    /// A chunk's key.
    pub(super) fn open_key(&self, chunk: &ChunkId, sealed: &[u8]) -> Result<Secret, Error> {
        let key = self.keys.open(&chunk.0, sealed)?;
        key.try_into().map(Secret::new).map_err(|_| Error::Malformed("a chunk's key"))
    }

    /// What a target of a share calls an item: it says nothing to that of another one.
    pub(super) fn alias(&self, share: &str, item: &str) -> ItemId {
        let key = blake3::derive_key("portolan content 2026-11 alias", self.names.bytes());
        let name = blake3::keyed_hash(&key, format!("{share} {item}").as_bytes());
        ItemId(std::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or_default()))
    }

    /// The last bytes of an upload as they are kept.
    pub(super) fn seal_tail(&self, upload: &str, tail: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.tails.seal(upload.as_bytes(), tail, &System)
    }

    /// The last bytes of an upload.
    pub(super) fn open_tail(&self, upload: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        self.tails.open(upload.as_bytes(), sealed)
    }
}

/// All tenants' vaults that were opened, and what opens them.
#[derive(Debug)]
pub(super) struct Vaults {
    kms: Arc<dyn Kms>,
    local: RegionName,
    objects: Arc<dyn ObjectStore>,
    open: Mutex<BTreeMap<Kept, Arc<Vault>>>,
}

/// A tenant and its secrets as they are kept: those of a tenant that was made anew are others.
type Kept = (TenantName, Vec<u8>);

impl Vaults {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, kms: Arc<dyn Kms>, local: RegionName) -> Self {
        Self { kms, local, objects, open: Mutex::default() }
    }

    pub(super) fn kms(&self) -> &dyn Kms {
        &*self.kms
    }

    pub(super) fn holder(&self, tenant: &TenantName) -> Holder {
        Holder { tenant: tenant.clone(), region: self.local.clone() }
    }

    /// The vault of a tenant; none before its first content.
    pub(super) async fn find(
        &self,
        tenant: &TenantName,
        content: &mut Content,
    ) -> Result<Option<Arc<Vault>>, Error> {
        match content.account().await? {
            Some(account) => self.open(tenant, account.secret).await.map(Some),
            None => Ok(None),
        }
    }

    /// The vault of a tenant, which is made with its first content.
    pub(super) async fn make(&self, tenant: &TenantName, content: &mut Content) -> Result<Arc<Vault>, Error> {
        if let Some(vault) = self.find(tenant, content).await? {
            return Ok(vault);
        }
        let secret = self.secrets(tenant, &Secret::draw(&System)?).await?;
        content.open_account(&secret).await?;
        self.find(tenant, content).await?.ok_or(Error::NoKey)
    }

    /// The vault of a tenant at a copy, whose names are those of the region that writes. What is here under other names, or under secrets that this
    /// region has no key for, is stranded; the flag says so.
    pub(super) async fn take(
        &self,
        tenant: &TenantName,
        content: &mut Content,
        names: &Secret,
    ) -> Result<(Arc<Vault>, bool), Error> {
        match self.find(tenant, content).await {
            Ok(Some(vault)) if vault.names == *names => return Ok((vault, false)),
            Ok(None) => {
                content.open_account(&self.secrets(tenant, names).await?).await?;
                let vault = self.find(tenant, content).await?.ok_or(Error::NoKey)?;
                return Ok((vault, false));
            }
            Ok(Some(_)) | Err(Error::NoKey | Error::Sealed(_)) => {}
            Err(error) => return Err(error),
        }
        content.begin_content_anew(&self.secrets(tenant, names).await?).await?;
        let vault = self.find(tenant, content).await?.ok_or(Error::NoKey)?;
        Ok((vault, true))
    }

    /// A tenant's secrets as they are kept: these names, and what is drawn for this region.
    async fn secrets(&self, tenant: &TenantName, names: &Secret) -> Result<Vec<u8>, Error> {
        let holder = self.holder(tenant);
        let names = self.kms.wrap(&holder, NAMES, names).await?;
        let here = self.kms.wrap(&holder, HERE, &Secret::draw(&System)?).await?;
        postcard::to_allocvec(&Wraps { names, here }).map_err(|_| Error::Malformed("a tenant's secrets"))
    }

    async fn open(&self, tenant: &TenantName, secret: Vec<u8>) -> Result<Arc<Vault>, Error> {
        let name = (tenant.clone(), secret);
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(vault) = known {
            return Ok(vault);
        }
        let wraps: Wraps =
            postcard::from_bytes(&name.1).map_err(|_| Error::Malformed("a tenant's secrets"))?;
        let holder = self.holder(tenant);
        let names = self.kms.unwrap(&holder, NAMES, &wraps.names).await?;
        let here = self.kms.unwrap(&holder, HERE, &wraps.here).await?;
        let vault = Arc::new(Vault::new(&names, &here, Arc::clone(&self.objects), tenant));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= VAULTS_MAX {
            open.clear();
        }
        open.insert(name, Arc::clone(&vault));
        Ok(vault)
    }
}
