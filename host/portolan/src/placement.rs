//! Who decides on which shard tenants are: the policy of `[placement]`, as a node keeps it and as the command line asks it.
//!
//! A node's reconciler lets the slot follow the configuration, so that a policy is swapped as routing policies are. Where no node
//! runs, whoever asks lets it follow what was just read. A policy that fails leaves everybody where the rules say.

mod newcomers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use portolan_control::State;
use portolan_core::directory::Tenant;
use portolan_core::facts::Facts;
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::placement::{Known, Picture};
use portolan_foundation::clock;
use portolan_policy::{Engine, PlacementReport, PlacementSlot, Placer, Refused};
use tokio::runtime::Handle;

pub(crate) use self::newcomers::{Newcomers, newcomers};
use crate::config::{self, Config};
use crate::node;
use crate::node::policies::Sources;
use crate::node::topology_of;

/// The slot. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Placing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The node's; none where no node runs.
    engine: Option<Engine>,
    handle: Handle,
    slot: Mutex<Option<(PlacementSlot, Sources)>>,
}

impl Placing {
    /// Of a node, or of a command of its own, which makes an engine only when there is a policy to run.
    pub(crate) fn new(engine: Option<Engine>, handle: Handle) -> Self {
        Self(Arc::new(Inner { engine, handle, slot: Mutex::default() }))
    }

    /// Runs what the configuration names from now on, or goes on with what ran. Blocks while a component is compiled.
    ///
    /// # Errors
    /// When there can be no engine.
    pub(crate) fn follow(&self, config: &Config, state: Option<&State>) -> anyhow::Result<()> {
        let mut slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if config.placement.policy.is_none() && slot.is_none() {
            return Ok(());
        }
        let (slot, sources) = match &mut *slot {
            Some(both) => both,
            empty => {
                let engine = match &self.0.engine {
                    Some(engine) => engine.clone(),
                    None => engine(config)?,
                };
                let components = config::components(config.components.as_ref(), &config.state)?;
                let sources = Sources::with_components(components, &self.0.handle);
                empty.insert((PlacementSlot::new(engine), sources))
            }
        };
        let bytes_max = component_bytes_max(config);
        slot.follow(sources.placement(config, state, bytes_max).as_ref(), clock::now());
        Ok(())
    }

    /// The same where no node's reconciler does it.
    fn follow_alone(&self, config: &Config, state: Option<&State>) -> anyhow::Result<()> {
        if self.0.engine.is_some() { Ok(()) } else { self.follow(config, state) }
    }

    /// The policy that runs.
    pub(crate) fn placer(&self) -> Option<Arc<Placer>> {
        let slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().and_then(|(slot, _)| slot.placer().cloned())
    }

    /// How the slot stands; none where no policy was ever named.
    pub(crate) fn report(&self) -> Option<PlacementReport> {
        let slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map(|(slot, _)| slot.report())
    }
}

/// Why the policy of a configuration would not run; none when it would, when there is none, and when it is the same as in one that is
/// known to be good. Blocks.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn refused(
    config: &Config,
    good: Option<&Config>,
    state: Option<&State>,
    engine: Option<Engine>,
) -> anyhow::Result<Option<Refused>> {
    if config.placement.policy.is_none()
        || good.is_some_and(|good| good.placement.policy == config.placement.policy)
    {
        return Ok(None);
    }
    let engine = match engine {
        Some(engine) => engine,
        None => self::engine(config)?,
    };
    let runtime = node::control_runtime()?;
    let components = config::components(config.components.as_ref(), &config.state)?;
    let mut sources = Sources::with_components(components, runtime.handle());
    let spec = sources.placement(config, state, component_bytes_max(config));
    Ok(spec.and_then(|spec| Placer::load(&engine, &spec).err()))
}

/// The shard of a tenant that a configuration knows.
pub(crate) fn shard_of(config: &Config, name: &TenantName) -> Option<ShardName> {
    let tenant = config.tenants.get(name)?;
    let (location, residency) = (tenant.location.as_ref(), tenant.residency.as_ref());
    let place = config.directory.locate(&Tenant { location, name, residency })?;
    config.directory.shard(place.shard).map(|shard| shard.name.clone())
}

/// Tenants that both configurations know and the second one looks for elsewhere than where the first one had them, with both shards.
pub(crate) fn led_away<'a>(
    before: &'a Config,
    next: &'a Config,
) -> impl Iterator<Item = (&'a TenantName, ShardName, Option<ShardName>)> {
    let known = before.tenants.keys().filter(|name| next.tenants.contains_key(*name));
    known.filter_map(|name| {
        let was = shard_of(before, name)?;
        let is = shard_of(next, name);
        (is.as_ref() != Some(&was)).then_some((name, was, is))
    })
}

/// The shards and tenants of a configuration, without some of its tenants.
pub(crate) fn picture(config: &Config, without: &dyn Fn(&TenantName) -> bool) -> Picture {
    let tenants = config.tenants.keys().filter(|name| !without(name));
    let tenants = tenants.map(|name| (name.clone(), known(config, name)));
    let capacities = config.shards.iter().filter_map(|(name, shard)| Some((name.clone(), shard.capacity?)));
    let tenants: BTreeMap<TenantName, Known> = tenants.collect();
    Picture::new(Arc::clone(&config.directory), tenants, capacities.collect(), config.residencies.clone())
}

/// What a tenant of a configuration is known by.
fn known(config: &Config, name: &TenantName) -> Known {
    let tenant = config.tenants.get(name);
    Known {
        location: tenant.and_then(|tenant| tenant.location.clone()),
        residency: tenant.and_then(|tenant| tenant.residency.clone()),
    }
}

/// What policies of placement may know of regions: what was declared, because what one node measures another does not.
pub(crate) fn facts(config: &Config) -> Arc<Facts> {
    Arc::new(topology_of(config).facts(clock::unix_ms()))
}

/// An engine for one question. It leaves nothing behind.
///
/// # Errors
/// When there can be none.
pub(crate) fn engine(config: &Config) -> anyhow::Result<Engine> {
    let mut settings = node::engine_config(config, std::num::NonZeroUsize::MIN)?;
    settings.cache_dir = None;
    Engine::new(settings).context("start the policy engine")
}

/// How large a component may be here.
pub(crate) fn component_bytes_max(config: &Config) -> usize {
    config.components_at_most.limits().component_bytes_max
}
