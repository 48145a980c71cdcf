//! `portolan apply`: puts `conf.d` into the control store, as one change that every node takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use portolan_control::{Body, Committed, Draft, Expect, Key, Manager, Object, State, Store, Wish};
use portolan_core::ids::Digest;
use portolan_policy::{Refused, Slot, Stage};
use serde_json::json;

use crate::cli::Apply;
use crate::config::{self, Config, Loaded, Local, Source, intent};
use crate::{node, print, registry, validate};

/// Applies, or shows what applying would change.
///
/// # Errors
/// When the store does not take it; the text says what to do.
pub(crate) fn run(options: &Apply) -> anyhow::Result<ExitCode> {
    let path = &options.file.config;
    let Some(local) = crate::shown(config::local(path, crate::environment())) else {
        return Ok(ExitCode::FAILURE);
    };
    let runtime = node::control_runtime()?;
    let store = runtime.block_on(open(&local))?;
    let state = store.state();
    let sources = config::more_sources(path).map_err(|problem| anyhow::anyhow!(problem.message))?;
    let files = files(&sources)?;
    let draft = Draft {
        author: author(),
        message: options.message.clone(),
        source: "apply".to_owned(),
        wishes: wishes(&state, &files, options),
    };
    // What a file says is checked as it stands there, so that problems are found where they are.
    let next = state.after(&draft)?;
    let others = next.objects().filter(|(key, _)| !files.contains_key(*key));
    let others = others.filter_map(|(key, object)| intent::source(key, &object.body));
    let intended = sources.into_iter().chain(others).collect();
    if !checked(path, intended, &next)? {
        return Ok(ExitCode::FAILURE);
    }
    runtime.block_on(propose(&store, draft, options.dry_run, options.json))
}

/// Opens the store that a node's file names, without a node's folder of its own.
///
/// # Errors
/// When it names none, or the store is away.
pub(crate) async fn open(local: &Local) -> anyhow::Result<Store> {
    let Some(engine) = local.control.clone() else {
        bail!(
            "portolan.toml names no control store: add `[control]` with `sqlite = \"control.db\"` or `[control.etcd]`; \
             without one, conf.d takes effect by itself"
        );
    };
    // A change is never based on what this machine last saw.
    Ok(Store::open(engine, None).await?)
}

/// Would a node run this? Shows what is wrong with it. Blocks while policies are compiled and planned.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn checked(path: &Path, intended: Vec<Source>, next: &State) -> anyhow::Result<bool> {
    let mut problems = Vec::new();
    let loaded = crate::shown(config::load(path, crate::environment(), Some(intended)));
    if let Some(Loaded { config, .. }) = &loaded {
        problems = registry::unknown(config, next);
        if problems.is_empty() {
            let refused = validate::refused(config)?;
            // A file of a node's own folder of policies need not be on the machine of whoever applies.
            let own_file = |slot: &Slot, refused: &Refused| {
                refused.stage == Stage::Read && version(config, slot).is_none()
            };
            let refused = refused.iter().filter(|(slot, refused)| !own_file(slot, refused));
            problems.extend(refused.map(|(slot, refused)| format!("{slot}: {refused}")));
        }
    }
    problems.iter().for_each(|line| eprintln!("{line}"));
    let good = loaded.is_some() && problems.is_empty();
    if !good {
        eprintln!("nothing was changed");
    }
    Ok(good)
}

fn version(config: &Config, slot: &Slot) -> Option<Digest> {
    let policy = match slot {
        Slot::Operator => config.policy.as_ref(),
        Slot::Tenant(name) => config.tenants.get(name).and_then(|tenant| tenant.policy.as_ref()),
    };
    policy.and_then(|policy| policy.version)
}

/// Shows what changes, and makes it so unless it is only shown.
///
/// # Errors
/// When the store does not take it.
pub(crate) async fn propose(
    store: &Store,
    draft: Draft,
    dry_run: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let state = store.state();
    let next = state.after(&draft)?;
    let differences = differences(&state, &next);
    if !as_json {
        differences.iter().try_for_each(|line| print(line))?;
    }
    let before = state.generation();
    let generation = if dry_run || differences.is_empty() {
        before
    } else {
        match store.commit(&draft).await? {
            Committed::Changed(change) => change.generation,
            Committed::Unchanged(generation) => generation,
        }
    };
    let undo = (generation > before && before > 0).then(|| format!("portolan revert {before}"));
    if as_json {
        let told =
            json!({ "differences": differences, "dry_run": dry_run, "generation": generation, "undo": undo });
        print(&serde_json::to_string_pretty(&told)?)?;
    } else if dry_run {
        print(&format!("{} changes to generation {before}; nothing was changed", differences.len()))?;
    } else if differences.is_empty() {
        print(&format!("generation {generation} says all of it already"))?;
    } else {
        print(&format!("generation {generation} is made"))?;
        undo.iter().try_for_each(|undo| print(&format!("undo: {undo}")))?;
    }
    let differs = dry_run && !differences.is_empty();
    Ok(if differs { ExitCode::from(crate::DIFFERS) } else { ExitCode::SUCCESS })
}

/// What `conf.d` says, by object: the body and the file.
fn files(sources: &[Source]) -> anyhow::Result<BTreeMap<Key, (Body, String)>> {
    let mut objects: BTreeMap<Key, (Body, String)> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in sources {
        let name = source.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = format!("conf.d/{name}");
        match intent::objects(source) {
            Ok(found) => {
                for (key, body) in found {
                    if let Some((_, other)) = objects.get(&key) {
                        problems.push(format!(
                            "{file}: `{key}` is in {other} already: write an object into one file"
                        ));
                    }
                    objects.insert(key, (body, file.clone()));
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        return Ok(objects);
    }
    bail!("conf.d cannot be applied:\n{}", problems.join("\n"))
}

/// What is to become of each object: what files say, and no more of what files said before.
fn wishes(state: &State, files: &BTreeMap<Key, (Body, String)>, options: &Apply) -> Vec<Wish> {
    let of_a_file = |object: &Object| matches!(object.managed_by, Manager::File(_));
    let gone: Vec<Wish> = state
        .objects()
        .filter(|(key, object)| !options.keep && of_a_file(object) && !files.contains_key(*key))
        .map(|(key, object)| Wish {
            key: key.clone(),
            body: None,
            expect: Expect::Any,
            manager: object.managed_by.clone(),
            take_over: false,
        })
        .collect();
    let there = files.iter().map(|(key, (body, file))| {
        // From file to file an object moves freely.
        let moves = state.get(key).is_some_and(|object| of_a_file(object));
        Wish {
            key: key.clone(),
            body: Some(body.clone()),
            expect: Expect::Any,
            manager: Manager::File(file.clone()),
            take_over: moves || options.take_over,
        }
    });
    there.chain(gone).collect()
}

/// A line for each object that differs.
fn differences(old: &State, new: &State) -> Vec<String> {
    let keys: BTreeSet<&Key> = old.objects().chain(new.objects()).map(|(key, _)| key).collect();
    keys.into_iter()
        .filter_map(|key| match (old.get(key), new.get(key)) {
            (None, Some(object)) => Some(format!("+ {key} ({})", object.managed_by)),
            (Some(object), None) => Some(format!("- {key} ({})", object.managed_by)),
            (Some(old), Some(new)) if old.body != new.body => Some(format!("~ {key} ({})", new.managed_by)),
            (Some(old), Some(new)) if old.managed_by != new.managed_by => {
                Some(format!("> {key} ({}, was {})", new.managed_by, old.managed_by))
            }
            _ => None,
        })
        .collect()
}

/// Who changes the store from a command line.
pub(crate) fn author() -> String {
    let name = |variable: &str| {
        crate::environment().into_iter().find(|(name, _)| name == variable).map(|(_, value)| value)
    };
    let user = name("SUDO_USER").or_else(|| name("USER")).or_else(|| name("LOGNAME"));
    let uid = rustix::process::getuid().as_raw();
    format!("{} (uid {uid})", user.as_deref().unwrap_or("unknown"))
}
