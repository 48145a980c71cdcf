//! The control store's word on where a tenant is: one change of `place/TENANT`, made only on the state of intent that the move saw.
//!
//! The control store is a log whose entry N+1 is added only if nobody else has, and each change here is added to the very generation
//! that it was checked against. So what a closed move still has on its way comes too late: its number is taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_control::{Body, Committed, Conflict, Draft, Error, Expect, Key, Manager, State, Store, Wish};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::Placement;
use portolan_core::tenure::Tenure;
use portolan_sharding::relocate::{Answer, Moving, Stay, Switch, SwitchError, Switched, Whereabouts};
use serde_json::Value;

use super::defaults::SWITCH_TRIES;
use crate::config;
use crate::leases::{SHARD_KIND, tenure};
use crate::node::topology_of;
use crate::rollout::act::Place;

/// The kind of objects that say where a tenant is that no rule says right.
pub(super) const PLACE_KIND: &str = "place";
/// Objects that rules follow from, besides the shards.
const RULES: [(&str, &str); 2] = [("settings", "placement"), ("settings", "tenants")];

/// The control store, asked for one move.
#[derive(Debug)]
pub(super) struct Directory {
    /// Who wants the move.
    author: String,
    /// The revisions of all objects that say where the tenant is, as the move saw them; none before it has looked.
    basis: Mutex<Option<BTreeMap<Key, u64>>>,
    /// How the configuration is read of a state.
    place: Place,
    store: Store,
    /// Who wrote the shards when the move began.
    tenures: BTreeMap<ShardName, Tenure>,
}

impl Directory {
    pub(super) fn new(
        store: Store,
        place: Place,
        author: String,
        tenures: BTreeMap<ShardName, Tenure>,
    ) -> Self {
        Self { author, basis: Mutex::default(), place, store, tenures }
    }

    async fn refreshed(&self) -> Result<Arc<State>, SwitchError> {
        self.store.refresh().await.map_err(away)?;
        Ok(self.store.state())
    }

    /// Is all as the move saw it: both leases, and what says where the tenant is?
    fn holds(&self, state: &State, moving: &Moving) -> Result<bool, SwitchError> {
        let as_seen = |stay: &Stay| {
            let now = tenure(state, stay.shard.as_str());
            now.as_ref() == self.tenures.get(&stay.shard) && now.is_some_and(|now| now.epoch == stay.epoch)
        };
        let basis = basis(state, &moving.tenant)?;
        let seen = self.basis.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.as_ref() == Some(&basis) && as_seen(&moving.from) && as_seen(&moving.to))
    }

    /// Writes where the tenant is, on the state that was looked at. Says whether it did; not when another change came before.
    async fn put(
        &self,
        state: &State,
        moving: &Moving,
        stay: &Stay,
        why: String,
    ) -> Result<bool, SwitchError> {
        let key = key(&moving.tenant)?;
        let before = state.get(&key);
        // What else it says, such as that the tenant is suspended, stays.
        let mut body = before.map_or_else(Body::new, |object| object.body.clone());
        body.insert("placement".to_owned(), moving.to.placement.0.into());
        body.insert("shard".to_owned(), stay.shard.as_str().into());
        let wish = Wish {
            key,
            body: Some(body),
            expect: before.map_or(Expect::Absent, |object| Expect::Revision(object.revision)),
            manager: Manager::Api,
            take_over: true,
        };
        let draft = Draft {
            author: self.author.clone(),
            message: why,
            source: "move".to_owned(),
            wishes: vec![wish],
        };
        match self.store.commit_on(&draft, state.generation()).await {
            Ok(Committed::Changed(_) | Committed::Unchanged(_)) => Ok(true),
            Err(Error::Conflict(
                Conflict::Moved { .. } | Conflict::Stale { .. } | Conflict::Present { .. },
            )) => Ok(false),
            Err(error) => Err(away(error)),
        }
    }

    async fn switch(&self, moving: &Moving) -> Result<Switched, SwitchError> {
        for _ in 0..SWITCH_TRIES {
            let state = self.refreshed().await?;
            if switched(&state, moving)? {
                return Ok(Switched::Moved);
            }
            if !self.holds(&state, moving)? {
                return Ok(Switched::Stays);
            }
            let why = format!(
                "move {} from {} to {} ({})",
                moving.tenant, moving.from.shard, moving.to.shard, moving.id
            );
            if self.put(&state, moving, &moving.to, why).await? {
                return Ok(Switched::Moved);
            }
        }
        Err(crowded())
    }

    async fn close(&self, moving: &Moving) -> Result<Switched, SwitchError> {
        for _ in 0..SWITCH_TRIES {
            let state = self.refreshed().await?;
            if switched(&state, moving)? {
                return Ok(Switched::Moved);
            }
            let placed = placed(&state, &moving.tenant)?;
            if placed.as_ref().is_some_and(|there| there.placement >= moving.to.placement) {
                return Ok(Switched::Stays);
            }
            let stays = Stay {
                shard: placed.map_or_else(|| moving.from.shard.clone(), |there| there.shard),
                ..moving.from.clone()
            };
            let why = format!("{} stays on {} ({})", moving.tenant, stays.shard, moving.id);
            if self.put(&state, moving, &stays, why).await? {
                return Ok(Switched::Stays);
            }
        }
        Err(crowded())
    }

    /// Where a tenant is; `None` when no rule is about it.
    pub(super) async fn located(&self, tenant: &TenantName) -> Result<Option<Whereabouts>, SwitchError> {
        let state = self.refreshed().await?;
        let basis = basis(&state, tenant)?;
        *self.basis.lock().unwrap_or_else(PoisonError::into_inner) = Some(basis);
        if let Some(there) = placed(&state, tenant)? {
            return Ok(Some(there));
        }
        let (place, name) = (self.place.clone(), tenant.clone());
        let shard = tokio::task::spawn_blocking(move || by_rule(&place, &state, &name)).await;
        let shard = shard.map_err(|error| SwitchError(format!("read the configuration: {error}")))??;
        Ok(shard.map(|shard| Whereabouts { placement: Placement(0), shard }))
    }

    async fn where_is(&self, tenant: &TenantName) -> Result<Whereabouts, SwitchError> {
        let found = self.located(tenant).await?;
        found.ok_or_else(|| SwitchError(format!("no shard has tenants such as `{tenant}`")))
    }
}

impl Switch for Directory {
    fn close<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched> {
        Box::pin(self.close(moving))
    }

    fn switch<'a>(&'a self, moving: &'a Moving) -> Answer<'a, Switched> {
        Box::pin(self.switch(moving))
    }

    fn where_is<'a>(&'a self, tenant: &'a TenantName) -> Answer<'a, Whereabouts> {
        Box::pin(self.where_is(tenant))
    }
}

pub(super) fn key(tenant: &TenantName) -> Result<Key, SwitchError> {
    Key::new(PLACE_KIND, tenant.as_str()).map_err(|error| SwitchError(error.to_string()))
}

/// Where a tenant is that has a place of its own.
pub(super) fn placed(state: &State, tenant: &TenantName) -> Result<Option<Whereabouts>, SwitchError> {
    let Some(object) = state.get(&key(tenant)?) else { return Ok(None) };
    let placement = object.body.get("placement").and_then(Value::as_u64).map(Placement);
    let shard = object.body.get("shard").and_then(Value::as_str).and_then(|name| ShardName::new(name).ok());
    let there = placement.zip(shard).map(|(placement, shard)| Whereabouts { placement, shard });
    there.map(Some).ok_or_else(|| SwitchError(format!("`place/{tenant}` names no shard or placement")))
}

/// Has this move switched?
fn switched(state: &State, moving: &Moving) -> Result<bool, SwitchError> {
    let there = placed(state, &moving.tenant)?;
    Ok(there.is_some_and(|there| there.shard == moving.to.shard && there.placement == moving.to.placement))
}

/// The revisions of the objects that say where a tenant is: its own place, else all that rules follow from.
fn basis(state: &State, tenant: &TenantName) -> Result<BTreeMap<Key, u64>, SwitchError> {
    let place = key(tenant)?;
    if let Some(object) = state.get(&place) {
        return Ok(BTreeMap::from([(place, object.revision)]));
    }
    let own = Key::new("tenant", tenant.as_str()).ok();
    let rules = RULES.iter().filter_map(|(kind, name)| Key::new(kind, name).ok()).chain(own);
    let rules = rules.filter_map(|key| state.get(&key).map(|object| (key.clone(), object.revision)));
    let shards = state.of_kind(SHARD_KIND).map(|(key, object)| (key.clone(), object.revision));
    Ok(shards.chain(rules).collect())
}

/// The shard that a rule names; blocks.
fn by_rule(place: &Place, state: &State, tenant: &TenantName) -> Result<Option<ShardName>, SwitchError> {
    let loaded = config::load_intended(&place.path, &place.environment, Some(state));
    let loaded = loaded.map_err(|rejected| {
        let first = rejected.problems.first().map(config::Problem::text).unwrap_or_default();
        SwitchError(format!("its configuration does not read: {first}: see `portolan status`"))
    })?;
    let topology = topology_of(&loaded.config);
    Ok(topology.shard_of(tenant).map(|(_, shard)| shard.name.clone()))
}

fn away(error: Error) -> SwitchError {
    SwitchError(error.to_string())
}

fn crowded() -> SwitchError {
    SwitchError("others changed it all the time".to_owned())
}

#[cfg(test)]
mod tests;
