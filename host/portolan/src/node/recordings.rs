//! What a node keeps of its decisions: where, under which key, and what can be asked of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use portolan_admin::Problem;
use portolan_admin::backend::DecisionFilter;
use portolan_core::ids::TenantName;
use portolan_core::lane::Slot;
use portolan_core::recording::{DecisionId, Recorded, evaluate};
use portolan_core::snapshot::Live;
use portolan_foundation::seal::SealKey;
use portolan_policy::SlotSpec;
use portolan_recorder::{Filter, Recorder, Start};
use serde_json::{Value, json};

use crate::config::Config;

/// The folder of segments within the state folder.
pub(crate) const FOLDER: &str = "recordings";
/// The folder within the state folder of components that recordings refer to.
pub(crate) const COMPONENTS: &str = "recordings/components";
/// Components that are kept there: a few dozen versions of the policies that matter.
const COMPONENTS_MAX: usize = 64;
/// The file of the node's key within the state folder.
const KEY_FILE: &str = "debug.key";
/// What signs words for `portolan-debug`, apart from what hides values.
pub(crate) const DEBUG_PURPOSE: &str = "portolan 2026 words for portolan-debug";

/// Where the node's key is.
pub(crate) fn key_path(config: &Config) -> PathBuf {
    config.debug_key.clone().unwrap_or_else(|| config.state.join(KEY_FILE))
}

/// The node's key; it is made when there is none.
///
/// # Errors
/// When it can be neither read nor made.
pub(crate) fn debug_key(config: &Config) -> anyhow::Result<SealKey> {
    let path = key_path(config);
    SealKey::open(&path).with_context(|| format!("read or make the key {}", path.display()))
}

/// Where segments are.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.state.join(FOLDER)
}

/// Starts what keeps decisions.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn start(config: &Config, key: SealKey, live: &Arc<Live>) -> anyhow::Result<Recorder> {
    let start = Start {
        folder: folder(config),
        key,
        live: Arc::clone(live),
        node: config.name.clone(),
        settings: config.recordings.clone(),
    };
    Ok(Recorder::start(start)?)
}

/// A kept decision, and what the policies that run now would say of it. A tenant is told of its own decisions only, and of its
/// own slot's part in them.
///
/// # Errors
/// When there is none of that id.
pub(crate) fn decision(
    recorder: &Recorder,
    live: &Live,
    id: &str,
    tenant: Option<&TenantName>,
) -> anyhow::Result<Value> {
    let id: DecisionId = id.parse()?;
    let found = recorder
        .find(id)?
        .filter(|recorded| tenant.is_none() || recorded.picture.tenant().as_ref() == tenant);
    let recorded = found.with_context(|| {
        format!("no decision {id} is kept here: ask the node that answered, or look at recordings.keep and disk_bytes")
    })?;
    let recorded = visible(&recorded, tenant);
    let snapshot = live.load();
    let policies = &snapshot.policies;
    let own = recorded.picture.tenant();
    let operator = policies.operator.iter().filter(|_| tenant.is_none()).map(|lane| (Slot::Operator, lane));
    let of_tenant =
        own.iter().filter_map(|name| Some((Slot::Tenant(name.clone()), policies.tenants.get(name)?)));
    let now = operator.chain(of_tenant).map(|(slot, lane)| {
        let policy = &lane.stable;
        let said = evaluate(policy, slot, &recorded.picture);
        json!({ "said": said, "rules": policy.table.explain(&recorded.picture.view()) })
    });
    let now: Vec<Value> = now.collect();
    Ok(json!({ "recorded": recorded, "generation": snapshot.generation, "now": now }))
}

/// The newest decisions in memory.
///
/// # Errors
/// When the filter means nothing.
pub(crate) fn decisions(recorder: &Recorder, wanted: DecisionFilter) -> Result<Vec<Value>, Problem> {
    let DecisionFilter { before, caller, max, policy, status, tenant } = wanted;
    let before = before.as_deref().map(str::parse).transpose();
    let asked = tenant.as_deref().map(TenantName::new).transpose();
    let filter = Filter {
        before: before.map_err(|_| Problem::invalid("`cursor` is none of this list's: begin without one"))?,
        policy,
        region: None,
        status,
        tenant: caller.clone().or(asked.map_err(|error| Problem::invalid(error.to_string()))?),
    };
    let found = recorder.newest(&filter, max);
    let shown = found.iter().map(|recorded| serde_json::to_value(visible(recorded, caller.as_ref())));
    shown.collect::<Result<_, _>>().map_err(Problem::internal)
}

/// What a tenant may see of a decision.
pub(crate) fn visible(recorded: &Recorded, tenant: Option<&TenantName>) -> Recorded {
    let mut recorded = recorded.clone();
    if tenant.is_some() {
        recorded.slots.retain(|slot| slot.slot.tenant() == tenant);
    }
    recorded
}

/// Keeps components of what runs, so that what they decided can be decided again when their files are others. The operator's
/// comes first; of tenants those that fit. Versions of the control store have their own place.
///
/// # Errors
/// When they cannot be written; what is recorded then can only be replayed while the files last.
pub(crate) fn keep_components(config: &Config, specs: &[SlotSpec], bytes_max: usize) -> anyhow::Result<()> {
    let folder = config.state.join(COMPONENTS);
    let mut wanted = BTreeSet::new();
    for source in specs.iter().filter_map(|spec| spec.source.as_ref().ok()) {
        if wanted.len() >= COMPONENTS_MAX / 2 || !wanted.insert(format!("{}.wasm", source.digest())) {
            continue;
        }
        let path = folder.join(format!("{}.wasm", source.digest()));
        if path.exists() {
            continue;
        }
        // What cannot be read is refused elsewhere.
        let Ok(bytes) = source.read(bytes_max) else { continue };
        let partial = path.with_extension("partial");
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&partial, &bytes))
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("keep a component in {}", folder.display()))?;
    }
    let mut kept: Vec<(Duration, PathBuf)> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !wanted.contains(&*entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?.elapsed().ok()?, entry.path())))
        .collect();
    kept.sort();
    for (_, path) in kept.iter().skip(COMPONENTS_MAX.saturating_sub(wanted.len())) {
        // One that stays takes room, no more.
        std::fs::remove_file(path).ok();
    }
    Ok(())
}
