//! The contract as files: WIT for bindings generators, and the bindings that this program makes itself, for C (and Zig), Go
//! and TypeScript. What is right already is left alone, so that build tools see no change.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use wit_component::StringEncoding;
use wit_parser::{PackageId, Resolve, WorldId};

use super::typescript;
use crate::cli::Bindings;
use crate::print;

/// The contract.
const WIT: [(&str, &str); 5] = [
    ("types.wit", include_str!("../../../../wit/policy/v0.1/types.wit")),
    ("routing.wit", include_str!("../../../../wit/policy/v0.1/routing.wit")),
    ("sharding.wit", include_str!("../../../../wit/policy/v0.1/sharding.wit")),
    ("failover.wit", include_str!("../../../../wit/policy/v0.1/failover.wit")),
    ("federation.wit", include_str!("../../../../wit/policy/v0.1/federation.wit")),
];
/// The file beside Go's bindings that describes the world to `plugin build`: Go's compiler takes no custom sections along.
pub(crate) const WORLD_SECTION_FILE: &str = "component-type.bin";

/// Writes the contract into a folder.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    WIT.iter().try_for_each(|(name, text)| write_if_new(&folder.join(name), text.as_bytes()))
}

/// The contract's files: name and text.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    WIT.iter().copied()
}

/// Writes a file unless it is that already.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_if_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// `portolan plugin wit`.
///
/// # Errors
/// When a folder cannot be written.
pub(crate) fn wit(folder: &Path, c: Option<&Path>, world: &str) -> anyhow::Result<()> {
    write(folder)?;
    print(&format!(
        "wrote the contract portolan:policy@0.1.0 to {}; a policy implements the world `routing`, `routing-plan` if it only plans, `sharding`, `failover` or `resolving`",
        folder.display()
    ))?;
    let Some(output) = c else { return Ok(()) };
    bindings(Bindings::C, output, folder, world)?;
    print(&format!(
        "wrote bindings for C to {}: include {name}.h, compile {name}.c, link {name}_component_type.o",
        output.display(),
        name = world.replace('-', "_"),
    ))
}

/// Writes the bindings of a world for a language.
///
/// # Errors
/// When the WIT does not read or a folder cannot be written.
pub(crate) fn bindings(kind: Bindings, output: &Path, wit: &Path, world: &str) -> anyhow::Result<()> {
    let (mut resolve, world) = resolve(wit, world)?;
    match kind {
        Bindings::C => {
            let mut files = wit_bindgen_core::Files::default();
            let mut generator = wit_bindgen_c::Opts::default().build();
            generator.generate(&mut resolve, world, &mut files).context("generate the bindings")?;
            write_all(&files, output)
        }
        Bindings::Go => {
            let mut files = wit_bindgen_core::Files::default();
            // Without Go's formatter: it need not be on the path, and nobody reads these files.
            let options =
                wit_bindgen_go::Opts { format: wit_bindgen_go::Format::False, ..Default::default() };
            let section = wit_component::metadata::encode(&resolve, world, StringEncoding::UTF8, None, false)
                .context("describe the world")?;
            options.build().generate(&mut resolve, world, &mut files).context("generate the bindings")?;
            write_all(&files, output)?;
            write_if_new(&output.join(WORLD_SECTION_FILE), &section)
        }
        Bindings::Ts => {
            write_if_new(&output.join("portolan.d.ts"), typescript::declarations(&resolve, world).as_bytes())
        }
    }
}

fn write_all(files: &wit_bindgen_core::Files, output: &Path) -> anyhow::Result<()> {
    for (name, bytes) in files.iter() {
        // A project has a manifest of its own.
        if name != "go.mod" {
            write_if_new(&output.join(name), bytes)?;
        }
    }
    Ok(())
}

/// Reads WIT and finds a world of the contract in it.
///
/// # Errors
/// When the folder holds no WIT, or not this world.
pub(crate) fn resolve(wit: &Path, world: &str) -> anyhow::Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let read = resolve.push_path(wit);
    let (package, _) = read.with_context(|| {
        format!("read the contract in {}: `portolan plugin wit {0}` writes it", wit.display())
    })?;
    let world = find(&resolve, package, world)?;
    Ok((resolve, world))
}

fn find(resolve: &Resolve, package: PackageId, world: &str) -> anyhow::Result<WorldId> {
    if let Ok(found) = resolve.select_world(&[package], Some(world)) {
        return Ok(found);
    }
    let known: BTreeMap<_, _> = resolve.worlds.iter().map(|(id, world)| (&world.name, id)).collect();
    let known: Vec<&str> = known.keys().map(|name| name.as_str()).collect();
    bail!("the contract has no world `{world}`, but {}", known.join(", "))
}
