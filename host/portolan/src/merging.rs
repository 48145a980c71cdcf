//! Who makes one row of two that were written apart: the components that tables name with `conflict = { policy = NAME }`, as a node keeps them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_control::State;
use portolan_core::ids::{Digest, PolicyName};
use portolan_core::tenant_table::ConflictRule;
use portolan_foundation::clock;
use portolan_policy::{Engine, Refused, Resolver, ResolverSlots, ResolverSpec};
use tokio::runtime::Handle;

use crate::config::{self, Config};
use crate::node::policies::Sources;
use crate::placement;

/// Resolvers that are wanted, by name and by the version that was asked for.
type Wanted = BTreeMap<(PolicyName, Option<Digest>), ResolverSpec>;

/// The resolvers of a node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Merging(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    handle: Handle,
    slots: Mutex<Option<(ResolverSlots, Sources)>>,
}

impl Merging {
    /// None runs yet.
    pub(crate) fn new(engine: Engine, handle: Handle) -> Self {
        Self(Arc::new(Inner { engine, handle, slots: Mutex::default() }))
    }

    /// Runs those that this configuration names from now on, and goes on with what ran where one is refused. Blocks while components are
    /// compiled.
    ///
    /// # Errors
    /// When the place of components cannot be had.
    pub(crate) fn follow(&self, config: &Config, state: Option<&State>) -> anyhow::Result<()> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_none() && named(config).next().is_none() {
            return Ok(());
        }
        let (slots, sources) = match &mut *slots {
            Some(both) => both,
            empty => {
                let components = config::components(config.components.as_ref(), &config.state)?;
                let sources = Sources::with_components(components, &self.0.handle);
                empty.insert((ResolverSlots::new(self.0.engine.clone()), sources))
            }
        };
        slots.follow(&wanted(config, state, sources), clock::now());
        Ok(())
    }

    /// What runs of this name and version.
    pub(crate) fn resolver(&self, policy: &PolicyName, version: Option<Digest>) -> Option<Arc<Resolver>> {
        let slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.as_ref()?.0.resolver(policy, version)
    }
}

/// Resolvers that would not run, and why. Blocks.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn refused(
    config: &Config,
    state: Option<&State>,
    engine: Option<Engine>,
) -> anyhow::Result<Vec<(PolicyName, Refused)>> {
    if named(config).next().is_none() {
        return Ok(Vec::new());
    }
    let engine = match engine {
        Some(engine) => engine,
        None => placement::engine(config)?,
    };
    let runtime = crate::node::control_runtime()?;
    let components = config::components(config.components.as_ref(), &config.state)?;
    let mut sources = Sources::with_components(components, runtime.handle());
    let tried = wanted(config, state, &mut sources).into_values();
    Ok(tried.filter_map(|spec| Some((spec.policy.clone(), Resolver::load(&engine, &spec).err()?))).collect())
}

/// The policies that tables name.
fn named(config: &Config) -> impl Iterator<Item = (&PolicyName, Option<Digest>)> {
    config.tables.iter().filter_map(|table| match &table.conflict {
        ConflictRule::Policy { policy, version } => Some((policy, *version)),
        _ => None,
    })
}

fn wanted(config: &Config, state: Option<&State>, sources: &mut Sources) -> Wanted {
    let bytes_max = placement::component_bytes_max(config);
    let spec = |(policy, version): (&PolicyName, Option<Digest>)| {
        let spec = sources.resolver(config, state, (policy, version), bytes_max);
        ((policy.clone(), version), spec)
    };
    named(config).map(spec).collect()
}
