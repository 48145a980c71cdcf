//! `portolan tenant export`: a tenant's rows and objects in one file, for the tenant or for another system.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portolan_control::State;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use portolan_sharding::Store;
use portolan_sharding::backup::Folder;
use portolan_sharding::export::{self, Exported, Exporting};
use serde_json::{Value, json};

use crate::backup::{home, is_of};
use crate::cli::tenant::Export;
use crate::config::Config;
use crate::{node, print};

/// What an export is.
const FORM: &str = "portolan tenant export 1";

/// Exports a tenant.
///
/// # Errors
/// When its shard is not written here or does not answer, or the disk does not take it.
pub(crate) fn run(command: &Export) -> anyhow::Result<ExitCode> {
    let tenant = TenantName::new(&command.name)?;
    let Some((loaded, state)) = crate::shown(crate::load(&command.file.config)?) else {
        return Ok(ExitCode::FAILURE);
    };
    anyhow::ensure!(!command.to.exists(), "{} is there already: name another file", command.to.display());
    let parent = command.to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside =
        tempfile::Builder::new().prefix(".export").tempdir_in(parent.unwrap_or_else(|| Path::new(".")));
    let beside = beside.context("make a folder beside the file")?;
    let runtime = node::control_runtime()?;
    let (exported, manifest) =
        runtime.block_on(write(&loaded.config, state.as_ref(), &tenant, &beside.path().join("export")))?;
    pack(&beside.path().join("export"), &command.to)?;
    if command.json {
        print(&serde_json::to_string_pretty(&manifest)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for table in &exported.tables {
        print(&format!("{}: {} rows", table.name, table.sum.lines))?;
    }
    let (shard, position) = (&exported.shard, &exported.position);
    print(&format!("tenant {tenant} is in {}, as shard {shard} had it at {position}", command.to.display()))?;
    Ok(ExitCode::SUCCESS)
}

async fn write(
    config: &Config,
    state: Option<&State>,
    tenant: &TenantName,
    place: &Path,
) -> anyhow::Result<(Exported, Value)> {
    let name = home(config, tenant).with_context(|| format!("tenant `{tenant}` is on no shard"))?;
    let shard = config.shard(&name).map_err(anyhow::Error::msg)?;
    if shard.primary != config.local {
        bail!("shard `{name}` is written in `{}`: export the tenant there", shard.primary);
    }
    let engine =
        shard.stores.get(&config.local).with_context(|| format!("shard `{name}` is not kept here"))?;
    let store =
        Store::open(engine, config.local.clone()).await.with_context(|| format!("open shard `{name}`"))?;
    store.recall(&config.tables).await?;
    let mut folder = Folder::create(place)?;
    let exporting = Exporting { shard: &name, store: &store, tables: &config.tables, tenant };
    let exported = export::export(exporting, &mut folder).await?;
    let own = state.into_iter().flat_map(State::objects).filter(|(key, object)| is_of(key, object, tenant));
    let objects: Vec<Value> = own
        .map(|(key, object)| {
            let mut body = object.body.clone();
            // Who has a token's hash can try texts against it.
            body.remove("hash");
            json!({ "key": key, "body": body })
        })
        .collect();
    let manifest = json!({
        "form": FORM, "tenant": tenant, "exported_at_ms": clock::unix_ms(), "portolan": env!("CARGO_PKG_VERSION"),
        "rows": exported, "objects": objects,
    });
    folder.add("manifest.json", &serde_json::to_vec_pretty(&manifest)?)?;
    Ok((exported, manifest))
}

/// One file of all, which is there as a whole or not at all.
fn pack(folder: &Path, to: &Path) -> anyhow::Result<()> {
    let packed = folder.with_extension("tar");
    let file =
        File::options().write(true).create_new(true).mode(0o600).open(&packed).context("write the export")?;
    let mut tar = tar::Builder::new(BufWriter::new(file));
    tar.append_path_with_name(folder.join("manifest.json"), "manifest.json").context("pack the export")?;
    if folder.join("tables").exists() {
        tar.append_dir_all("tables", folder.join("tables")).context("pack the export")?;
    }
    let file = tar.into_inner().context("pack the export")?.into_inner().context("pack the export")?;
    file.sync_all().context("write the export")?;
    std::fs::rename(&packed, to).with_context(|| format!("write {}", to.display()))
}
