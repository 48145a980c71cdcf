//! `portolan plugin push` and `plugin versions`: immutable versions of plugins in the control store.
//!
//! A version is named by the SHA-256 of its component. Its bytes are in the shared place before the store names it, and a node
//! has them on its own disk before it runs them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use portolan_control::{Body, Committed, Draft, Expect, Key, Manager, State, Wish};
use portolan_core::ids::{Digest, PolicyName};
use portolan_policy::{Engine, Limits};
use serde_json::json;

use crate::config::{self, Config, PolicySlot};
use crate::{apply, node, print};

/// The kind of objects that versions are.
const KIND: &str = "version";

/// Checks a component, keeps its bytes, and makes its version known.
///
/// # Errors
/// When the store or the place of components does not take it.
pub(crate) fn push(
    name: &str,
    component: &Path,
    config: &Path,
    message: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let name = PolicyName::new(name)?;
    let local = crate::shown(config::local(config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let components = local.components()?;
    let components = components.context(
        "set control.components to a folder that all nodes share: versions need a place for their bytes",
    )?;
    let max = Limits::standard().component_bytes_max;
    let bytes = read(component, max)?;
    let engine = Engine::new(portolan_policy::Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: node::compile_in_children()?,
        data_threads: std::num::NonZeroUsize::MIN,
        limits: Limits::standard(),
        pool_slots: std::num::NonZeroU32::MIN,
    })
    .context("start the policy engine")?;
    let version = match engine.load(&bytes) {
        Ok(version) => version,
        Err(refused) => {
            if as_json {
                let told = json!({ "ok": false, "stage": refused.stage, "reason": refused.reason, "fix": refused.fix });
                print(&serde_json::to_string_pretty(&told)?)?;
            } else {
                eprintln!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix);
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let about = version.about();
    let body = json!({
        "contract": about.contract,
        "decider": about.decider,
        "digest": about.digest,
        "imports": about.imports,
        "planner": about.planner,
        "plugin": name.as_str(),
        "schema": version.schema(),
        "size_bytes": about.size_bytes,
    });
    let body: Body = serde_json::from_value(body).context("write the version down")?;
    let digest = about.digest;
    let draft = Draft {
        author: apply::author(),
        message: message.to_owned(),
        source: "push".to_owned(),
        wishes: vec![Wish {
            key: key(&name, digest)?,
            body: Some(body),
            expect: Expect::Any,
            manager: Manager::Api,
            take_over: false,
        }],
    };
    let generation = node::control_runtime()?.block_on(async {
        let store = apply::open(&local).await?;
        // The bytes first: what the store names can be fetched.
        components.put(bytes).await?;
        anyhow::Ok(match store.commit(&draft).await? {
            Committed::Changed(change) => (change.generation, true),
            Committed::Unchanged(generation) => (generation, false),
        })
    });
    let (generation, is_new) = generation?;
    if as_json {
        let told = json!({ "ok": true, "plugin": name.as_str(), "version": digest, "generation": generation, "new": is_new });
        print(&serde_json::to_string_pretty(&told)?)?;
    } else {
        let known = if is_new { "" } else { " (known already)" };
        print(&format!("{name} {digest}{known}\nput it to work in conf.d, then `portolan apply`:\n"))?;
        print(&format!("  [policy]\n  use = \"{name}\"\n  version = \"{digest}\""))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the versions of plugins, or of one.
///
/// # Errors
/// When the store is away.
pub(crate) fn versions(name: Option<&str>, config: &Path, as_json: bool) -> anyhow::Result<()> {
    let local = crate::shown(config::local(config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    let store = node::control_runtime()?.block_on(apply::open(&local))?;
    let state = store.state();
    let text = |body: &Body, name: &str| {
        body.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let versions = state.objects().filter(|(key, _)| key.kind() == KIND);
    let versions = versions
        .filter(|(_, object)| name.is_none_or(|name| text(&object.body, "plugin").as_deref() == Some(name)));
    if as_json {
        let bodies: Vec<&Body> = versions.map(|(_, object)| &object.body).collect();
        return print(&serde_json::to_string_pretty(&bodies)?);
    }
    for (_, object) in versions {
        let part = |name: &str| text(&object.body, name).unwrap_or_default();
        let (plugin, digest, size, contract) =
            (part("plugin"), part("digest"), part("size_bytes"), part("contract"));
        print(&format!(
            "{plugin:24} {digest}  {size:>9} bytes  contract {contract}  since generation {}",
            object.revision
        ))?;
    }
    Ok(())
}

/// What slots name and the store does not have, a line each.
pub(crate) fn unknown(config: &Config, state: &State) -> Vec<String> {
    let operator = config.policy.iter().map(|policy| ("policy".to_owned(), policy));
    let tenants = config.tenants.iter().filter_map(|(name, tenant)| {
        tenant.policy.as_ref().map(|policy| (format!("tenant.{name}.policy"), policy))
    });
    let is_unknown = |policy: &PolicySlot| {
        let version = policy.version?;
        let known = key(&policy.name, version).ok().is_some_and(|key| state.get(&key).is_some());
        (!known).then_some(version)
    };
    operator
        .chain(tenants)
        .filter_map(|(slot, policy)| Some((slot, &policy.name, is_unknown(policy)?)))
        .map(|(slot, name, version)| {
            format!(
                "{slot}: the store has no version {} of {name}: `portolan plugin push {name} FILE` puts it there",
                version.short()
            )
        })
        .collect()
}

pub(crate) fn key(name: &PolicyName, version: Digest) -> anyhow::Result<Key> {
    Ok(Key::new(KIND, &format!("{name}@{version}"))?)
}

fn read(path: &Path, max: usize) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(bytes.len() <= max, "{} has more than {max} bytes, which no node takes", path.display());
    Ok(bytes)
}
