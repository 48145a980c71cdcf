//! `portolan plugin build`: runs the tools of a project's language and makes a component of what they leave.
//!
//! Compilers of core modules (Rust, C, Zig, Go) are followed by `wit_component`, here in the process; interpreters (JavaScript,
//! Python) come as components from their own tools. Then the component gets the configuration's schema and the golden vectors of
//! the project as custom sections.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use portolan_policy::{SCHEMA_SECTION, VECTORS_SECTION, vectors, with_section};
use wasmparser::{Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use super::language::Language;
use super::{contract, stub, tool};
use crate::print;

const TARGET: &str = "wasm32-unknown-unknown";

/// A component and what to call it.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) name: String,
    /// The project, or the folder of the file.
    pub(crate) folder: PathBuf,
    /// Is it a project that can be built again?
    pub(crate) is_project: bool,
}

/// Builds a project or a core module and writes the component.
///
/// # Errors
/// When a tool is missing or fails, or what it made is no policy.
pub(crate) fn run(path: &Path, output: Option<&Path>) -> anyhow::Result<()> {
    let built = component(path)?;
    let output = built.write(output)?;
    print(&format!("{}: {} bytes", output.display(), built.bytes.len()))
}

/// The component of a project, of a core module, or itself.
///
/// # Errors
/// As [`run`].
pub(crate) fn component(path: &Path) -> anyhow::Result<Built> {
    if !path.is_dir() {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let bytes = if is_component(&bytes) { bytes } else { componentize(&bytes, None, path)? };
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        return Ok(Built { bytes, name: stem(path), folder, is_project: false });
    }
    let folder = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    let (bytes, name) = project(&folder)?;
    let bytes = with_sections(bytes, &folder)?;
    Ok(Built { bytes, name, folder: path.to_owned(), is_project: true })
}

impl Built {
    /// Writes the component: to `output`, or to `NAME.wasm` in the project, or here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, output: Option<&Path>) -> anyhow::Result<PathBuf> {
        let name = format!("{}.wasm", self.name);
        let output = output.map_or_else(
            || if self.is_project { self.folder.join(&name) } else { PathBuf::from(&name) },
            Path::to_owned,
        );
        let output = output.strip_prefix(".").map_or_else(|_| output.clone(), Path::to_owned);
        // Under another name first: a gateway that watches the folder must never see half a component.
        let partial = output.with_extension("wasm.tmp");
        std::fs::write(&partial, &self.bytes).with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, &output).with_context(|| format!("write {}", output.display()))?;
        Ok(output)
    }
}

fn project(folder: &Path) -> anyhow::Result<(Vec<u8>, String)> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let made = match Language::of(folder)? {
        Language::Rust => {
            let (module, name) = cargo(folder)?;
            let bytes = std::fs::read(&module).with_context(|| format!("read {}", module.display()))?;
            return Ok((componentize(&bytes, None, &module)?, name));
        }
        Language::Js | Language::Ts => npm(folder)?,
        Language::Python => python(folder)?,
        Language::C => c(folder)?,
        Language::Zig => zig(folder)?,
        Language::Go => go(folder)?,
    };
    let bytes = std::fs::read(&made).with_context(|| {
        format!("the build left no {}: keep that name in the project file", made.display())
    })?;
    let section = folder.join(contract::WORLD_SECTION_FILE);
    let bytes = if is_component(&bytes) { bytes } else { componentize(&bytes, Some(&section), &made)? };
    Ok((bytes, name))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Builds a crate and gives its core module and name.
fn cargo(folder: &Path) -> anyhow::Result<(PathBuf, String)> {
    let mut cargo = tool::command("cargo", folder);
    cargo.args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start cargo, which comes with Rust: run `{}`", tool::INSTALL_RUST))?;
    if !output.status.success() {
        bail!("the crate does not build; where the target is missing, run `{}`", tool::INSTALL_RUST_TARGET);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let module = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?;
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    });
    let module =
        module.context("the crate made no module: add `crate-type = [\"cdylib\", \"rlib\"]` to its [lib]")?;
    let name = stem(&module).replace('_', "-");
    Ok((module, name))
}

/// `npm run build` bundles with esbuild and puts QuickJS around it.
fn npm(folder: &Path) -> anyhow::Result<PathBuf> {
    if !folder.join("node_modules").is_dir() {
        bail!("the project's tools are not installed: run `npm install` in {}", folder.display());
    }
    let mut npm = tool::command("npm", folder);
    tool::run(npm.args(["run", "--silent", "build"]), tool::INSTALL_NODE)?;
    Ok(folder.join("dist/policy.wasm"))
}

/// Python has no build tool that all use: componentize-py is asked for the world that `pyproject.toml` names.
fn python(folder: &Path) -> anyhow::Result<PathBuf> {
    let manifest = folder.join("pyproject.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("read {}", manifest.display()))?;
    let world = table.get("tool").and_then(|tool| tool.get("portolan")?.get("world")?.as_str());
    let world =
        world.context("pyproject.toml names no world: write `world = \"routing\"` under [tool.portolan]")?;
    let own = folder.join(".venv/bin/componentize-py");
    let program = if own.is_file() { own } else { PathBuf::from("componentize-py") };
    let dist = folder.join("dist");
    std::fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;
    let mut componentize = tool::command(program, folder);
    componentize.args(["--quiet", "--wit-path", "wit", "--world", world, "componentize", "policy"]);
    componentize.args(["--python-path", "src", "--stub-wasi", "--output", "dist/policy.wasm"]);
    tool::run(&mut componentize, "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")?;
    Ok(dist.join("policy.wasm"))
}

/// `make` compiles, with `WASM_CC` as its compiler.
fn c(folder: &Path) -> anyhow::Result<PathBuf> {
    let compiler = match tool::variable("WASM_CC") {
        Some(compiler) => compiler,
        None => tool::c_compiler().with_context(|| {
            format!(
                "no C compiler for wasm32-wasi: run `{}`, or on Debian 12 `apt-get install clang-19 lld-19 \
                 libclang-rt-19-dev-wasm32 wasi-libc`",
                tool::INSTALL_ZIG
            )
        })?,
    };
    let mut make = tool::command("make", folder);
    tool::run(make.args(["--silent"]).env("WASM_CC", compiler), tool::INSTALL_MAKE)?;
    Ok(folder.join("build/policy.wasm"))
}

fn zig(folder: &Path) -> anyhow::Result<PathBuf> {
    let words = tool::zig().with_context(|| format!("zig is missing: run `{}`", tool::INSTALL_ZIG))?;
    let mut words = words.into_iter();
    let mut zig = tool::command(words.next().unwrap_or("zig"), folder);
    tool::run(zig.args(words).arg("build"), tool::INSTALL_ZIG)?;
    Ok(folder.join("zig-out/bin/policy.wasm"))
}

/// Bindings first, for this machine; then the module. Go's own linker directive is needed because the runtime hands out memory
/// before it has started.
fn go(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut generate = tool::command("go", folder);
    tool::run(generate.args(["generate", "./..."]).env("GOTOOLCHAIN", "local"), tool::INSTALL_GO)?;
    let mut build = tool::command("go", folder);
    build.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w -checklinkname=0"]);
    build.args(["-o", "build/policy.wasm", "."]);
    build.env("GOTOOLCHAIN", "local").env("GOOS", "wasip1").env("GOARCH", "wasm");
    tool::run(&mut build, tool::INSTALL_GO)?;
    Ok(folder.join("build/policy.wasm"))
}

/// Makes a component of a core module. Its world is in a custom section of its own, or in the file that Go's bindings leave.
fn componentize(module: &[u8], section: Option<&Path>, from: &Path) -> anyhow::Result<Vec<u8>> {
    let mut module = module.to_vec();
    if let Some(world) = section.and_then(|section| std::fs::read(section).ok()) {
        module = with_section(&module, "component-type:portolan", &world);
    }
    let mut encoder = ComponentEncoder::default();
    let mut encode = || {
        encoder.validate(true).module(&module)?;
        if asks_for_wasi(&module) {
            encoder.adapter(stub::NAME, &stub::adapter()?)?;
        }
        encoder.encode()
    };
    encode().with_context(|| {
        format!("make a component of {}: was it built with bindings of the contract?", from.display())
    })
}

fn asks_for_wasi(module: &[u8]) -> bool {
    Parser::new(0).parse_all(module).filter_map(Result::ok).any(|payload| match payload {
        Payload::ImportSection(imports) => {
            imports.into_imports().filter_map(Result::ok).any(|import| import.module == stub::NAME)
        }
        _ => false,
    })
}

/// Is it a component, as against a core module?
pub(crate) fn is_component(bytes: &[u8]) -> bool {
    let first = Parser::new(0).parse_all(bytes).next();
    matches!(first, Some(Ok(Payload::Version { encoding: Encoding::Component, .. })))
}

/// What a custom section holds, in the component or in a module of it.
pub(crate) fn section<'b>(component: &'b [u8], name: &str) -> Option<&'b [u8]> {
    Parser::new(0).parse_all(component).filter_map(Result::ok).find_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == name => Some(section.data()),
        _ => None,
    })
}

/// Adds the project's schema and vectors, where the component does not carry them yet.
fn with_sections(mut component: Vec<u8>, folder: &Path) -> anyhow::Result<Vec<u8>> {
    for (name, file) in [(SCHEMA_SECTION, "config.schema.json"), (VECTORS_SECTION, "vectors.json")] {
        if section(&component, name).is_some() {
            continue;
        }
        let path = folder.join(file);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if name == VECTORS_SECTION {
            vectors::read(&text).with_context(|| format!("read {}", path.display()))?;
        }
        // Without the author's layout, it is smaller.
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        component = with_section(&component, name, value.to_string().as_bytes());
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found() {
        let module = with_section(&wat::parse_str("(component)").unwrap(), VECTORS_SECTION, &[b'x'; 300]);
        assert_eq!(section(&module, VECTORS_SECTION).map(<[_]>::len), Some(300));
        assert!(is_component(&module) && section(&module, "other").is_none());
        assert!(!is_component(&wat::parse_str("(module)").unwrap()));
    }

    #[test]
    fn a_module_that_asks_for_wasi_gets_the_stub() {
        let module = r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
              (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1))"#;
        let module = wat::parse_str(module).unwrap();
        assert!(asks_for_wasi(&module));
        let component = componentize(&module, None, Path::new("a.wasm")).unwrap();
        assert!(is_component(&component));
        let text = String::from_utf8_lossy(&component);
        assert!(!text.contains("wasi:"), "nothing is left to ask for");
    }
}
