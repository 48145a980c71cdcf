//! `portolan geography`: tables of where addresses are.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use flate2::read::GzDecoder;
use portolan_core::geography::{Continent, Country};
use portolan_foundation::geography::{FILE_BYTES_MAX, Table};
use serde::Deserialize;

use crate::cli::{Geography, geography as said};
use crate::config::Config;
use crate::node::geography::Atlas;
use crate::plugin::tool;
use crate::print;

/// The package of the free table: countries of networks by what registries of addresses publish.
const PACKAGE: &str = "@ip-location-db/geo-whois-asn-country-mmdb";
/// The table within it, of both families of addresses.
const MEMBER: &str = "package/geo-whois-asn-country.mmdb";
/// What the package says of itself.
const MANIFEST: &str = "package/package.json";
/// The licence that asks for nothing; another one is for the operator to read first.
const FREE: &str = "CC0-1.0";
/// Where the table goes, if nothing is said.
const FILE: &str = "countries.mmdb";

/// Does what is asked.
///
/// # Errors
/// When npm is missing or fails, when what it gets is no table, or when the configuration is refused.
pub(crate) fn run(command: &Geography) -> anyhow::Result<ExitCode> {
    match command {
        Geography::Install(asked) => install(asked)?,
        Geography::Locate(asked) => locate(asked)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn locate(asked: &said::Locate) -> anyhow::Result<()> {
    let config = crate::dns::configured(&asked.file.config)?;
    let mut atlas = Atlas::default();
    let geography = atlas.follow(&config);
    if let Some(problem) = atlas.problem() {
        bail!("{problem}");
    }
    let geography = geography.context("no table is named: `[geography] file` says which")?;
    let mut text = String::new();
    for address in &asked.addresses {
        let located = geography.locate(*address);
        let (country, continent) = (located.place.country, located.place.continent);
        let country = country.as_ref().map_or("-", Country::as_str);
        let continent = continent.map_or("-", Continent::as_str);
        let order = geography.order(&located.place);
        let near = order.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let near = if near.is_empty() { "-" } else { &near };
        writeln!(text, "{address}/{}\t{country}\t{continent}\t{near}", located.prefix_bits)?;
    }
    print(text.trim_end())
}

fn install(asked: &said::Install) -> anyhow::Result<()> {
    let to = match &asked.to {
        Some(to) => to.clone(),
        None => configured_file(&asked.file.config)?,
    };
    let folder = tempfile::tempdir().context("make a folder for the package")?;
    let mut npm = tool::command("npm", folder.path());
    let package = format!("{PACKAGE}@{}", asked.version);
    tool::run(npm.args(["pack", "--silent", &package]), tool::INSTALL_NODE)?;
    let mut archives = std::fs::read_dir(folder.path())?.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = archives.find(|path| path.extension().is_some_and(|ending| ending == "tgz"));
    let archive = archive.with_context(|| format!("npm got no package for {package}"))?;
    let Unpacked { manifest, table } = unpack(&archive).context("read the package")?;
    let read = Table::of(table.clone()).context("read the package's table")?;
    if manifest.license != FREE {
        let told =
            "a version that is free, with `--version`, or another table, of which you know the licence";
        bail!(
            "the licence of {} {} is {} now, not {FREE}: take {told}",
            manifest.name,
            manifest.version,
            manifest.license
        );
    }
    put(&to, &table)?;
    print(&format!(
        "{} is the table `{}` of {} {}.\nIts licence is {FREE}: it asks for nothing. It says which country's registry entry a network has, not where\n\
         each client is. Name it where it is not named yet:\n\n    [geography]\n    file = \"{}\"\n\nNodes that run take a newer one as soon as it is there.",
        to.display(),
        read.kind(),
        manifest.name,
        manifest.version,
        to.display(),
    ))
}

/// Where the table of a configuration is; of one that is not there yet, or does not name any, where it would be.
fn configured_file(config: &Path) -> anyhow::Result<PathBuf> {
    let beside = config.parent().unwrap_or_else(|| Path::new("")).join(FILE);
    if !config.exists() {
        return Ok(beside);
    }
    let config: Config = crate::dns::configured(config)?;
    Ok(config.geography.unwrap_or(beside))
}

/// Whole or not at all: a node that reads it while it is written would refuse it.
fn put(to: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder =
        to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("write into the folder {}", folder.display()))?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.as_file().sync_all()?;
    // Tables are no secret, and nodes run as somebody else.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable)?;
    file.persist(to).with_context(|| format!("put the table at {}", to.display()))?;
    Ok(())
}

/// What a package says of itself.
#[derive(Debug, Deserialize)]
struct Manifest {
    license: String,
    name: String,
    version: String,
}

struct Unpacked {
    manifest: Manifest,
    table: Vec<u8>,
}

fn unpack(archive: &Path) -> anyhow::Result<Unpacked> {
    let file = std::fs::File::open(archive)?;
    // Twice the largest table: a package is not to fill the memory by what it unpacks to.
    let mut archive = tar::Archive::new(GzDecoder::new(file).take(2 * FILE_BYTES_MAX));
    let (mut manifest, mut table) = (None, None);
    for entry in archive.entries()? {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let kept = match name.as_str() {
            MANIFEST => &mut manifest,
            MEMBER => &mut table,
            _ => continue,
        };
        let mut bytes = Vec::new();
        entry.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        *kept = Some(bytes);
    }
    let manifest = manifest.with_context(|| format!("it has no `{MANIFEST}`"))?;
    let manifest = serde_json::from_slice(&manifest).with_context(|| format!("read `{MANIFEST}`"))?;
    Ok(Unpacked { manifest, table: table.with_context(|| format!("it has no `{MEMBER}`"))? })
}
