//! `portolan policy freeze|thaw|disable|enable`: break-glass. Works on the node's own folder, so it needs neither the store
//! nor a node that answers; with `--everywhere` it is an object in the store, for all nodes.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use portolan_control::{Draft, Expect, Key, Manager, State, Store, Wish};
use portolan_core::ids::TenantName;
use serde::Serialize;

use crate::cli::{Glass, Policy, Whom};
use crate::config::{self, Local};
use crate::node::break_glass::{self, Deed, Disable, Files, Freeze};
use crate::{apply, node, print};

/// Does it.
///
/// # Errors
/// When neither disk nor store takes it.
pub(crate) fn run(command: &Policy) -> anyhow::Result<ExitCode> {
    let glass = match command {
        Policy::Freeze { glass, .. }
        | Policy::Thaw { glass }
        | Policy::Disable { glass, .. }
        | Policy::Enable { glass, .. } => glass,
    };
    let local = crate::shown(config::local(&glass.file.config, crate::environment()));
    let local = local.context("mend the configuration first")?;
    if glass.everywhere { everywhere(command, glass, &local) } else { here(command, glass, &local) }?;
    Ok(ExitCode::SUCCESS)
}

fn here(command: &Policy, glass: &Glass, local: &Local) -> anyhow::Result<()> {
    let files = Files::of(&local.state);
    let place = files.folder().display().to_string();
    let deed = break_glass::deed(apply::author(), &glass.message);
    let write = || format!("write to {place}");
    match command {
        Policy::Freeze { hard, .. } => {
            files.freeze(&Freeze { deed, hard: *hard }).with_context(write)?;
            print("policies of this node are held as they are\nundo: portolan policy thaw")
        }
        Policy::Thaw { .. } => {
            let was = files.thaw().with_context(write)?;
            print(if was { "policies of this node are held no longer" } else { "they were not held here" })
        }
        Policy::Disable { whom, .. } => {
            let mut disable = files.disabled().map_err(|problem| anyhow!(problem))?;
            let undo = add(&mut disable, whom, &deed)?;
            files.disable(&disable).with_context(write)?;
            print(&format!(
                "on this node {} without policies\nundo: portolan policy enable {undo}",
                whom_text(whom)
            ))
        }
        Policy::Enable { whom, .. } => {
            let mut disable = files.disabled().map_err(|problem| anyhow!(problem))?;
            take(&mut disable, whom)?;
            files.disable(&disable).with_context(write)?;
            print(&format!("on this node {} with policies again", whom_text(whom)))
        }
    }
}

fn everywhere(command: &Policy, glass: &Glass, local: &Local) -> anyhow::Result<()> {
    let deed = break_glass::deed(apply::author(), &glass.message);
    node::control_runtime()?.block_on(async {
        let store =
            apply::open(local).await.context("without the store: leave `--everywhere` out, on each node")?;
        let state = store.state();
        match command {
            Policy::Freeze { hard, .. } => {
                commit(&store, glass, break_glass::FREEZE_KEY, Some(&Freeze { deed, hard: *hard })).await?;
                print("policies of all nodes are held as they are\nundo: portolan policy thaw --everywhere")
            }
            Policy::Thaw { .. } => {
                commit(&store, glass, break_glass::FREEZE_KEY, None::<&Freeze>).await?;
                print("policies are held no longer, but where a node's own disk says so")
            }
            Policy::Disable { whom, .. } => {
                let mut disable = disabled(&state)?;
                let undo = add(&mut disable, whom, &deed)?;
                commit(&store, glass, break_glass::DISABLE_KEY, Some(&disable)).await?;
                let whom = whom_text(whom);
                print(&format!(
                    "on all nodes {whom} without policies\nundo: portolan policy enable {undo} --everywhere"
                ))
            }
            Policy::Enable { whom, .. } => {
                let mut disable = disabled(&state)?;
                take(&mut disable, whom)?;
                let rest = (disable != Disable::default()).then_some(&disable);
                commit(&store, glass, break_glass::DISABLE_KEY, rest).await?;
                print(&format!("on all nodes {} with policies again", whom_text(whom)))
            }
        }
    })
}

fn disabled(state: &State) -> anyhow::Result<Disable> {
    let (kind, name) = break_glass::DISABLE_KEY;
    let Some(object) = state.get(&Key::new(kind, name)?) else { return Ok(Disable::default()) };
    let value = serde_json::to_value(&object.body)?;
    serde_json::from_value(value).with_context(|| format!("read the object {kind}/{name}"))
}

async fn commit(
    store: &Store,
    glass: &Glass,
    (kind, name): (&str, &str),
    what: Option<&impl Serialize>,
) -> anyhow::Result<()> {
    let body = what.map(|what| break_glass::body(what).context("write it as an object")).transpose()?;
    let wish = Wish {
        key: Key::new(kind, name)?,
        body,
        expect: Expect::Any,
        manager: Manager::Api,
        take_over: true,
    };
    let draft = Draft {
        author: apply::author(),
        message: glass.message.clone(),
        source: "break-glass".to_owned(),
        wishes: vec![wish],
    };
    store.commit(&draft).await?;
    Ok(())
}

fn add(disable: &mut Disable, whom: &Whom, deed: &Deed) -> anyhow::Result<String> {
    let names = names(whom)?;
    if whom.all_tenants {
        disable.all = Some(deed.clone());
        return Ok("--all-tenants".to_owned());
    }
    let undo: Vec<String> = names.iter().map(|name| format!("--tenant {name}")).collect();
    disable.tenants.extend(names.into_iter().map(|name| (name, deed.clone())));
    Ok(undo.join(" "))
}

fn take(disable: &mut Disable, whom: &Whom) -> anyhow::Result<()> {
    let names = names(whom)?;
    if whom.all_tenants {
        *disable = Disable::default();
    }
    for name in names {
        let was = disable.tenants.remove(&name).is_some();
        ensure!(
            was || disable.all.is_none(),
            "all tenants are disabled, {name} among them: `portolan policy enable --all-tenants`, then disable the others"
        );
    }
    Ok(())
}

fn names(whom: &Whom) -> anyhow::Result<Vec<TenantName>> {
    Ok(whom.tenant.iter().map(|name| TenantName::new(name)).collect::<Result<_, _>>()?)
}

fn whom_text(whom: &Whom) -> String {
    match whom.tenant.as_slice() {
        _ if whom.all_tenants => "all tenants are".to_owned(),
        [one] => format!("the tenant {one} is"),
        some => format!("the tenants {} are", some.join(", ")),
    }
}
