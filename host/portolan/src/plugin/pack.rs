//! The SDK and the contract for places without a network: what this program carries, written where build tools find it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{contract, tool, typescript};
use crate::print;

/// The sources of the SDK for Rust and of the crate that its native tests run on, by path.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
/// The manifests of the workspaces that they come from.
const HOST_MANIFEST: &str = include_str!("../../../../Cargo.toml");
const PLUGINS_MANIFEST: &str = include_str!("../../../../plugins/Cargo.toml");
/// Where the SDK's bindings look for the contract in this repository.
const WIT_IN_REPOSITORY: &str = "../../../wit/policy/v0.1";

/// Writes everything into a folder.
///
/// # Errors
/// When the folder is not empty, or a tool that fetches dependencies is missing.
pub(crate) fn run(folder: &Path) -> anyhow::Result<()> {
    if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: name a folder that is to be made", folder.display());
    }
    contract::write(&folder.join("wit"))?;
    npm(&folder.join("js"))?;
    let python = python(folder)?;
    let rust = folder.join("rust");
    rust_sdk(&rust)?;
    vendor(&rust)?;
    print(&format!(
        "wrote {0}\n  wit/     the contract\n  rust/    the SDK with all that it depends on: `portolan plugin new NAME --sdk {0}/rust`, then \
         build with `CARGO_NET_OFFLINE=true`\n  js/      the contract's types: `npm install {0}/js/portolan-policy-0.1.0.tgz`\n  {python}",
        folder.display()
    ))
}

/// The SDK's crate and the one that its native tests stand on, as crates that need no workspace.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn rust_sdk(folder: &Path) -> anyhow::Result<()> {
    let write = |path: &str, text: &str| contract::write_if_new(&folder.join(path), text.as_bytes());
    for (path, text) in SOURCES {
        let text = match *path {
            "portolan-core/Cargo.toml" => manifest(text, HOST_MANIFEST)?,
            "portolan-plugin/Cargo.toml" => manifest(text, PLUGINS_MANIFEST)?,
            _ => text.replace(WIT_IN_REPOSITORY, "wit"),
        };
        write(path, &text)?;
    }
    contract::write(&folder.join("portolan-plugin/wit"))
}

/// A manifest without what it inherits from its workspace.
fn manifest(text: &str, workspace: &str) -> anyhow::Result<String> {
    let mut manifest: toml::Table = text.parse().context("read a manifest of ours")?;
    let workspace: toml::Table = workspace.parse().context("read a manifest of ours")?;
    let workspace = workspace.get("workspace").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let inherited =
        |section: &str, key: &str| workspace.get(section).and_then(|table| table.get(key)).cloned();
    manifest.remove("lints");
    manifest.remove("dev-dependencies");
    if let Some(package) = manifest.get_mut("package").and_then(toml::Value::as_table_mut) {
        for (key, value) in package.iter_mut().filter(|(_, value)| inherits(value)) {
            *value = inherited("package", key).unwrap_or_else(|| toml::Value::String(String::new()));
        }
    }
    for table in dependencies(&mut manifest) {
        for (name, value) in table.iter_mut().filter(|(_, value)| inherits(value)) {
            if let Some(found) = inherited("dependencies", name) {
                *value = found;
            }
            let own = value.as_table_mut().and_then(|table| table.get_mut("path"));
            if let Some(path) = own {
                *path = toml::Value::String(format!("../{name}"));
            }
        }
    }
    toml::to_string(&manifest).context("write a manifest")
}

fn inherits(value: &toml::Value) -> bool {
    value.get("workspace").and_then(toml::Value::as_bool) == Some(true)
}

/// All tables of dependencies that are built.
fn dependencies(manifest: &mut toml::Table) -> Vec<&mut toml::Table> {
    let mut tables = Vec::new();
    for (name, value) in manifest.iter_mut() {
        match (name.as_str(), value) {
            ("dependencies", toml::Value::Table(table)) => tables.push(table),
            ("target", toml::Value::Table(targets)) => {
                let of_targets = targets
                    .iter_mut()
                    .filter_map(|(_, target)| target.as_table_mut()?.get_mut("dependencies")?.as_table_mut());
                tables.extend(of_targets);
            }
            _ => {}
        }
    }
    tables
}

/// Has cargo put the sources of all dependencies beside the SDK.
fn vendor(rust: &Path) -> anyhow::Result<()> {
    // The packages that a scaffold depends on, as one.
    let manifest = "[workspace]\nresolver = \"3\"\nmembers = [\"portolan-core\", \"portolan-plugin\"]\n";
    contract::write_if_new(&rust.join("Cargo.toml"), manifest.as_bytes())?;
    let mut cargo = tool::command("cargo", rust);
    cargo.args(["vendor", "--quiet", "--versioned-dirs"]);
    tool::run(&mut cargo, tool::INSTALL_RUST).context("fetch what the SDK depends on")
}

/// Makes a project build from a packed SDK alone.
///
/// # Errors
/// When the project cannot be written.
pub(crate) fn use_vendored(sdk: &Path, project: &Path) -> anyhow::Result<()> {
    let vendor = sdk.canonicalize().with_context(|| format!("find {}", sdk.display()))?.join("vendor");
    if !vendor.is_dir() {
        return Ok(());
    }
    let text = format!(
        "# Dependencies come from the packed SDK.\n[source.crates-io]\nreplace-with = \"packed\"\n\n[source.packed]\ndirectory = {:?}\n",
        vendor.display().to_string()
    );
    contract::write_if_new(&project.join(".cargo/config.toml"), text.as_bytes())?;
    // The versions that are there.
    let lock = sdk.join("Cargo.lock");
    if lock.is_file() {
        std::fs::copy(&lock, project.join("Cargo.lock")).context("copy the versions of dependencies")?;
    }
    Ok(())
}

/// A package of npm's form with the contract and its types.
fn npm(folder: &Path) -> anyhow::Result<()> {
    let place = folder.join("portolan-policy-0.1.0.tgz");
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let wit = folder.parent().unwrap_or(folder).join("wit");
    let (resolve, world) = contract::resolve(&wit, "routing")?;
    let manifest = serde_json::json!({
        "name": "portolan-policy",
        "version": "0.1.0",
        "description": "The contract of portolan's policies: types and WIT",
        "license": "Apache-2.0",
        "types": "index.d.ts",
        "files": ["index.d.ts", "wit"],
    });
    let mut files = vec![
        ("package/package.json".to_owned(), serde_json::to_string_pretty(&manifest)?),
        ("package/index.d.ts".to_owned(), typescript::declarations(&resolve, world)),
    ];
    files.extend(contract::files().map(|(name, text)| (format!("package/wit/{name}"), text.to_owned())));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes()).context("pack for npm")?;
    }
    let bytes = archive.into_inner().context("pack for npm")?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&bytes).context("pack for npm")?;
    let packed = packed.finish().context("pack for npm")?;
    std::fs::write(&place, packed).with_context(|| format!("write {}", place.display()))
}

/// Python's own generator writes the stubs that editors read; the result in words.
fn python(folder: &Path) -> anyhow::Result<String> {
    let program = PathBuf::from("componentize-py");
    if tool::version(&["componentize-py", "--version"]).is_none() {
        let install = tool::INSTALL_COMPONENTIZE_PY;
        return Ok(format!(
            "python/  left out: componentize-py makes the stubs, run `{install}` and pack again"
        ));
    }
    let mut stubs = tool::command(program, folder);
    stubs.args(["--quiet", "--wit-path", "wit", "--world", "routing", "bindings", "python"]);
    tool::run(&mut stubs, tool::INSTALL_COMPONENTIZE_PY)?;
    Ok("python/  the contract's types for editors: put it on MYPYPATH".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_stand_alone() {
        let find = |path: &str| SOURCES.iter().find(|(known, _)| *known == path).unwrap().1;
        for (path, workspace) in
            [("portolan-core/Cargo.toml", HOST_MANIFEST), ("portolan-plugin/Cargo.toml", PLUGINS_MANIFEST)]
        {
            let text = manifest(find(path), workspace).unwrap();
            assert!(!text.contains("workspace"), "{path}:\n{text}");
            assert!(text.contains("serde"), "{path}:\n{text}");
        }
        let text = manifest(find("portolan-plugin/Cargo.toml"), PLUGINS_MANIFEST).unwrap();
        assert!(text.contains("path = \"../portolan-core\""), "{text}");
    }
}
