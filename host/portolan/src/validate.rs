//! `portolan validate`: everything that a start would refuse, without starting.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use portolan_control::State;
use portolan_core::lane::Side;
use portolan_foundation::clock;
use portolan_policy::{Engine, Event, Refused, Slot, Slots};
use serde_json::json;

use crate::cli::Validate;
use crate::config::{self, Config};
use crate::node;
use crate::node::policies::Sources;
use crate::node::rollouts::InSlot;
use crate::node::topology_of;
use crate::{failing, merging, placement, print};

/// Checks files, then compiles and plans every policy.
///
/// # Errors
/// When the check itself cannot be made.
pub(crate) fn run(options: &Validate) -> anyhow::Result<ExitCode> {
    let path = &options.file.config;
    let (loaded, state) = match crate::load(path)? {
        Ok(loaded) => loaded,
        Err(rejected) => {
            if options.json {
                let lines: Vec<String> =
                    rejected.problems.iter().map(|problem| problem.line(&rejected.sources)).collect();
                print(&serde_json::to_string_pretty(&json!({ "ok": false, "problems": lines }))?)?;
            } else {
                crate::shown::<()>(Err(rejected));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut found = Vec::new();
    if !options.no_policies {
        let (config, state) = (&loaded.config, state.as_ref());
        let slots = refused(config, None, state, None)?;
        found.extend(slots.iter().map(|(slot, refused)| format!("{slot}: {refused}")));
        let placement = placement::refused(config, None, state, None)?;
        found.extend(placement.map(|refused| format!("placement: {refused}")));
        if let Some(slot) = config.failover.as_ref().and_then(|failover| failover.policy.component()) {
            let refused = failing::refused(config, slot, state, None)?;
            found.extend(refused.map(|refused| format!("failover: {refused}")));
        }
        let resolvers = merging::refused(config, state, None)?;
        found.extend(resolvers.iter().map(|(policy, refused)| format!("resolver `{policy}`: {refused}")));
    }
    let refused = found;
    if options.json {
        print(&serde_json::to_string_pretty(&json!({ "ok": refused.is_empty(), "problems": refused }))?)?;
    } else {
        for problem in &refused {
            eprintln!("{problem}");
        }
        if refused.is_empty() {
            let config = &loaded.config;
            let (regions, tenants) = (config.regions.len(), config.tenants.len());
            print(&format!("{} is good: {regions} regions, {tenants} tenants", path.display()))?;
        }
    }
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The policies that would be refused, each compiled and planned here; of those that differ from a configuration that is known to
/// be good, when there is one. `state` has the signatures of versions. By an engine of its own, unless it is given one.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn refused(
    config: &Config,
    good: Option<&Config>,
    state: Option<&State>,
    engine: Option<Engine>,
) -> anyhow::Result<Vec<(Slot, Refused)>> {
    let (config, topology) = (&differing(config, good), topology_of(config));
    if config.policy.is_none() && config.tenants.values().all(|tenant| tenant.policy.is_none()) {
        return Ok(Vec::new());
    }
    let engine = match engine {
        Some(engine) => engine,
        None => {
            let mut settings = node::engine_config(config, std::num::NonZeroUsize::MIN)?;
            // A check leaves nothing behind.
            settings.cache_dir = None;
            Engine::new(settings).context("start the policy engine")?
        }
    };
    let facts = Arc::new(topology.facts(clock::unix_ms()));
    let runtime = node::control_runtime()?;
    let components = config::components(config.components.as_ref(), &config.state)?;
    let mut sources = Sources::with_components(components, runtime.handle());
    // What runs for all is checked; what is on trial is the rollout's affair.
    let rollouts = state.map(crate::rollout::all).unwrap_or_default();
    let rollouts = rollouts.into_iter().map(|(slot, rollout)| (slot, InSlot { rollout, trial: None }));
    let bytes_max = engine.config().limits.component_bytes_max;
    let specs = sources.specs(config, state, &rollouts.collect(), bytes_max);
    let result = Slots::new(engine).reconcile(&specs, &facts, clock::now());
    let refused = result.events.into_iter().filter_map(|event| match event {
        Event::Refused { side: Side::Stable, slot, refused, .. } => Some((slot, refused)),
        _ => None,
    });
    Ok(refused.collect())
}

/// A configuration without the policies that another has too, if plans would see the same world in both.
fn differing(config: &Config, good: Option<&Config>) -> Config {
    let mut differing = config.clone();
    let same_world = |good: &&Config| {
        good.local == config.local
            && good.regions == config.regions
            && good.residencies == config.residencies
            && good.latency_us == config.latency_us
            && good.uploads == config.uploads
    };
    let Some(good) = good.filter(same_world) else { return differing };
    if good.policy == differing.policy {
        differing.policy = None;
    }
    for (name, tenant) in &mut differing.tenants {
        if good.tenants.get(name).is_some_and(|good| good.policy == tenant.policy) {
            tenant.policy = None;
        }
    }
    differing
}
