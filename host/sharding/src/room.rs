//! How many requests one shard has at the same time, and how many bytes of them are in memory: for the node, for the shard,
//! for each tenant. Nobody waits for bytes: whoever has some already would hold up those who wait for more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::ids::TenantName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Limits;
use crate::data::Problem;
use crate::refuse;

/// The places at one shard.
#[derive(Debug)]
pub(crate) struct Room {
    /// Writes that wait for other regions.
    awaiting: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: Limits,
    node_bytes: Arc<Semaphore>,
    /// Those who are here; each goes with its last request.
    tenants: Mutex<BTreeMap<TenantName, Arc<Share>>>,
    turns: Arc<Semaphore>,
}

/// What one tenant may have of it.
#[derive(Debug)]
struct Share {
    awaiting: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    places: Arc<Semaphore>,
    work: Arc<Semaphore>,
}

/// A request's leave to use the database. It ends with this.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 3],
}

/// A write's leave to wait for other regions. It ends with this.
#[derive(Debug)]
pub(crate) struct Awaiting {
    _permits: Option<[OwnedSemaphorePermit; 2]>,
}

/// The memory of one request, from its content to the last byte of its answer. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Option<Arc<Guest>>);

#[derive(Debug)]
struct Guest {
    held: Mutex<Vec<OwnedSemaphorePermit>>,
    room: Arc<Room>,
    share: Arc<Share>,
    tenant: TenantName,
}

impl Room {
    pub(crate) fn new(limits: Limits, node_bytes: Arc<Semaphore>) -> Self {
        Self {
            awaiting: Arc::new(Semaphore::new(limits.awaiting)),
            bytes: Arc::new(Semaphore::new(limits.shard_bytes)),
            limits,
            node_bytes,
            tenants: Mutex::default(),
            turns: Arc::new(Semaphore::new(limits.turns)),
        }
    }

    /// A request of a tenant comes in. It has no bytes yet.
    pub(crate) fn enter(self: &Arc<Self>, tenant: &TenantName) -> Memory {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let share = tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Share::new(&self.limits)));
        let (room, share, tenant) = (Arc::clone(self), Arc::clone(share), tenant.clone());
        Memory(Some(Arc::new(Guest { held: Mutex::default(), room, share, tenant })))
    }

    fn leave(&self, tenant: &TenantName, share: &Arc<Share>) {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Shares are handed out under this lock: the map's and the leaver's are the last.
        if Arc::strong_count(share) <= 2 {
            tenants.remove(tenant);
        }
    }
}

impl Share {
    fn new(limits: &Limits) -> Self {
        Self {
            awaiting: Arc::new(Semaphore::new(limits.tenant_awaiting)),
            bytes: Arc::new(Semaphore::new(limits.tenant_bytes)),
            places: Arc::new(Semaphore::new(limits.tenant_turns)),
            work: Arc::new(Semaphore::new(limits.tenant_work)),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.held.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        self.room.leave(&self.tenant, &self.share);
    }
}

impl Memory {
    /// So many bytes more.
    ///
    /// # Errors
    /// When the tenant has all that is its own, or the shard or the node have no more.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), Problem> {
        let Some(guest) = &self.0 else { return Ok(()) };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_many_owned(permits).ok();
        let tenant = take(&guest.share.bytes).ok_or_else(refuse::tenant_busy)?;
        let shard = take(&guest.room.bytes).ok_or_else(refuse::overloaded)?;
        let node = take(&guest.room.node_bytes).ok_or_else(refuse::overloaded)?;
        let mut held = guest.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            held.extend([tenant, shard, node]);
        } else {
            held.iter_mut().zip([tenant, shard, node]).for_each(|(all, more)| all.merge(more));
        }
        Ok(())
    }

    /// No more than so many bytes are in use from now on.
    pub(crate) fn shrink(&self, bytes: usize) {
        let Some(guest) = &self.0 else { return };
        let mut held = guest.held.lock().unwrap_or_else(PoisonError::into_inner);
        for permit in held.iter_mut() {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }

    /// A place among the writes that wait for other regions, before anything is written.
    ///
    /// # Errors
    /// When the tenant or the shard has as many as may.
    pub(crate) fn await_others(&self) -> Result<Awaiting, Problem> {
        let Some(guest) = &self.0 else { return Ok(Awaiting { _permits: None }) };
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let tenant = take(&guest.share.awaiting).ok_or_else(refuse::tenant_busy)?;
        let shard = take(&guest.room.awaiting).ok_or_else(refuse::busy)?;
        Ok(Awaiting { _permits: Some([tenant, shard]) })
    }

    /// Waits for the request's turn at the database.
    ///
    /// # Errors
    /// [`Late::Tenant`] when the tenant has its share of turns, [`Late::Shard`] when the shard has none in time.
    pub(crate) async fn turn(&self) -> Result<Option<Turn>, Late> {
        let Some(guest) = &self.0 else { return Ok(None) };
        let (share, room) = (&guest.share, &guest.room);
        let place = Arc::clone(&share.places).try_acquire_owned().map_err(|_| Late::Tenant)?;
        let began = tokio::time::Instant::now();
        let work = timeout(room.limits.turn, Arc::clone(&share.work).acquire_owned()).await;
        let work = work.map_err(|_| Late::Tenant)?.map_err(|_| Late::Tenant)?;
        let left = room.limits.turn.saturating_sub(began.elapsed());
        let turn = timeout(left, Arc::clone(&room.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| Late::Shard)?.map_err(|_| Late::Shard)?;
        Ok(Some(Turn { _permits: [place, work, turn] }))
    }
}

/// Whose turns were all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    Shard,
    Tenant,
}
