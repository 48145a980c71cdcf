//! `portolan validate`: everything that a start would refuse, without starting.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use portolan_foundation::clock;
use portolan_policy::{Engine, Event, Refused, Slot, Slots};
use serde_json::json;

use crate::cli::Validate;
use crate::config::{self, Config};
use crate::node;
use crate::node::policies::Sources;
use crate::node::topology_of;
use crate::print;

/// Checks files, then compiles and plans every policy.
///
/// # Errors
/// When the check itself cannot be made.
pub(crate) fn run(options: &Validate) -> anyhow::Result<ExitCode> {
    let path = &options.file.config;
    let loaded = match crate::load(path)? {
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
    let refused = if options.no_policies { Vec::new() } else { refused(&loaded.config)? };
    let refused: Vec<String> = refused.iter().map(|(slot, refused)| format!("{slot}: {refused}")).collect();
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

/// The policies that would be refused, each compiled and planned here.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn refused(config: &Config) -> anyhow::Result<Vec<(Slot, Refused)>> {
    let mut settings = node::engine_config(config, std::num::NonZeroUsize::MIN)?;
    // A check leaves nothing behind.
    settings.cache_dir = None;
    let engine = Engine::new(settings).context("start the policy engine")?;
    let topology = topology_of(config);
    let facts = Arc::new(topology.facts(clock::unix_ms()));
    let runtime = node::control_runtime()?;
    let components = config::components(config.components.as_deref(), &config.state)?;
    let mut sources = Sources::with_components(components, runtime.handle());
    let specs = sources.specs(config, engine.config().limits.component_bytes_max);
    let result = Slots::new(engine).reconcile(&specs, &facts, clock::now());
    let refused = result.events.into_iter().filter_map(|event| match event {
        Event::Refused { slot, refused, .. } => Some((slot, refused)),
        _ => None,
    });
    Ok(refused.collect())
}
