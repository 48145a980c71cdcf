//! Builds the bundled policies and puts them, as components, into `target/policies`, with an index that the binary's build
//! script reads.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use wit_component::ComponentEncoder;

use crate::setup::{self, Toolchain};

/// One bundled policy, as `target/policies/index.json` lists it.
#[derive(Debug, Serialize)]
struct Bundled {
    /// What `[policy] use = ...` calls it.
    name: String,
    description: String,
    /// The component's file name.
    file: String,
    bytes: usize,
    sha256: String,
}

/// Builds all.
///
/// # Errors
/// When one does not build; the compiler's messages are on standard error.
pub(crate) fn build(root: &Path, toolchain: &Toolchain) -> anyhow::Result<()> {
    let begun = Instant::now();
    eprintln!("== build the bundled policies");
    let target = setup::target(root).join("plugins");
    let mut cargo = toolchain.cargo_build();
    cargo.current_dir(root.join("plugins")).args(["--workspace", "--quiet"]).env("CARGO_TARGET_DIR", &target);
    anyhow::ensure!(
        cargo.stdout(std::io::stderr()).status().context("start cargo")?.success(),
        "the bundled policies do not build; the compiler's messages are above"
    );
    let policies = setup::target(root).join("policies");
    std::fs::create_dir_all(&policies).with_context(|| format!("create {}", policies.display()))?;
    let mut index = Vec::new();
    for (name, description) in members(root)? {
        let module = target
            .join("wasm32-unknown-unknown/release")
            .join(format!("policy_{}.wasm", name.replace('-', "_")));
        let component = componentize(&module)?;
        let file = format!("{name}.wasm");
        write_if_new(&policies.join(&file), &component)?;
        let sha256 = Sha256::digest(&component).iter().map(|byte| format!("{byte:02x}")).collect();
        index.push(Bundled { name, description, file, bytes: component.len(), sha256 });
    }
    let text = serde_json::to_string_pretty(&index).context("write the index")?;
    write_if_new(&policies.join("index.json"), text.as_bytes())?;
    let bytes: usize = index.iter().map(|bundled| bundled.bytes).sum();
    eprintln!(
        "-- {} policies, {} KiB together, in {} ({:.1} s)",
        index.len(),
        bytes / 1024,
        policies.display(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Makes a component of a core module that wit-bindgen described.
///
/// # Errors
/// When the module is missing, or does not fit its world.
fn componentize(module: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(module).with_context(|| format!("read {}", module.display()))?;
    let mut encoder = ComponentEncoder::default();
    encoder
        .validate(true)
        .module(&bytes)
        .and_then(ComponentEncoder::encode)
        .with_context(|| format!("make a component of {}", module.display()))
}

/// The policies of the workspace by name, with their descriptions.
fn members(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        description: Option<String>,
    }
    let output = Command::new("cargo")
        .current_dir(root.join("plugins"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "read the plugins' manifests: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo's metadata")?;
    let mut members: Vec<(String, String)> = metadata
        .packages
        .into_iter()
        .filter_map(|package| {
            let name = package.name.strip_prefix("policy-")?.to_owned();
            Some((name, package.description.unwrap_or_default()))
        })
        .collect();
    members.sort();
    Ok(members)
}

/// Leaves a file alone that is right already, so that nothing is built again because of it.
fn write_if_new(path: &PathBuf, bytes: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
