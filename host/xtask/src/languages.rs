//! Builds the example policies in other languages, as `examples/policies/README.md` says, into `target/guests`. The tools come
//! from the Python and npm package indexes, into `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::setup;

const ZIG: &str = "ziglang==0.17.1";
const COMPONENTIZE: &str = "componentize-qjs@0.4.5";
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// Builds all that are not built from the present sources. Needs the binary.
///
/// # Errors
/// When a tool cannot be installed or a policy does not build; the text names the command.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let guests = setup::target(root).join("guests");
    std::fs::create_dir_all(&guests).with_context(|| format!("create {}", guests.display()))?;
    one(root, &guests, "c", "policy.c", c)?;
    one(root, &guests, "javascript", "policy.js", javascript)?;
    one(root, &guests, "python", "policy.py", python)?;
    eprintln!("-- example policies in C, JavaScript and Python ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

type Build = fn(root: &Path, source: &Path, work: &Path, output: &Path) -> anyhow::Result<()>;

fn one(root: &Path, guests: &Path, name: &str, source: &str, build: Build) -> anyhow::Result<()> {
    let source = root.join("examples/policies").join(name).join(source);
    let (output, mark) = (guests.join(format!("{name}.wasm")), guests.join(format!("{name}.built-from")));
    let inputs = inputs(root, &source)?;
    if output.is_file() && std::fs::read_to_string(&mark).is_ok_and(|known| known == inputs) {
        return Ok(());
    }
    eprintln!("== build the example policy in {name}");
    let work = guests.join(name);
    std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    build(root, &source, &work, &output)?;
    std::fs::write(&mark, inputs).with_context(|| format!("write {}", mark.display()))
}

/// What a component depends on: its source, the contract, the tools.
fn inputs(root: &Path, source: &Path) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    let mut files = setup::files(&root.join("wit"))?;
    files.sort();
    files.push(source.to_owned());
    for file in files {
        hasher.update(std::fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    hasher.update(format!("{ZIG} {COMPONENTIZE} {COMPONENTIZE_PY}"));
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn portolan(root: &Path) -> Command {
    Command::new(setup::target(root).join("debug/portolan"))
}

fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let good = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("{what}: start {command:?}"))?
        .success();
    anyhow::ensure!(good, "{what}: {command:?} failed; its messages are above");
    Ok(())
}

fn pip(folder: &Path, package: &str) -> anyhow::Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]);
    run(&format!("install {package}"), pip.arg(folder).arg(package))
}

fn c(root: &Path, source: &Path, work: &Path, output: &Path) -> anyhow::Result<()> {
    let zig = setup::target(root).join("tools/zig");
    if !zig.join("ziglang").is_dir() {
        pip(&zig, ZIG)?;
    }
    run("write the contract", portolan(root).current_dir(work).args(["plugin", "wit", "wit", "--c", "gen"]))?;
    let mut compile = Command::new("python3");
    compile.current_dir(work).env("PYTHONPATH", &zig).args(["-m", "ziglang", "cc", "-target", "wasm32-wasi"]);
    compile.args(["-mexec-model=reactor", "-Os", "-s", "-Wl,-z,stack-size=65536", "-Igen"]).arg(source);
    compile.args(["gen/routing.c", "gen/routing_component_type.o", "-o", "core.wasm"]);
    compile.env("ZIG_GLOBAL_CACHE_DIR", setup::target(root).join("tools/zig-cache"));
    run("compile the policy in C", &mut compile)?;
    run(
        "make the component",
        portolan(root).current_dir(work).args(["plugin", "build", "core.wasm", "-o"]).arg(output),
    )
}

fn javascript(root: &Path, source: &Path, work: &Path, output: &Path) -> anyhow::Result<()> {
    let tools: PathBuf = setup::target(root).join("tools/javascript");
    let program = tools.join("node_modules/.bin/componentize-qjs");
    if !program.is_file() {
        std::fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
        std::fs::write(tools.join("package.json"), "{}").context("write a package.json")?;
        let mut npm = Command::new("npm");
        npm.current_dir(&tools).args([
            "install",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            COMPONENTIZE,
        ]);
        run("install componentize-qjs (npm comes with Node.js, https://nodejs.org)", &mut npm)?;
    }
    run("write the contract", portolan(root).current_dir(work).args(["plugin", "wit", "wit"]))?;
    let mut componentize = Command::new(program);
    componentize.current_dir(work).args(["--wit", "wit", "--js"]).arg(source);
    componentize.args(["-n", "routing", "--sync", "--stub-wasi", "--opt-size", "-m", "-o"]).arg(output);
    run("build the policy in JavaScript", &mut componentize)
}

fn python(root: &Path, source: &Path, work: &Path, output: &Path) -> anyhow::Result<()> {
    let tools: PathBuf = setup::target(root).join("tools/python");
    let program = tools.join("bin/componentize-py");
    if !program.is_file() {
        pip(&tools, COMPONENTIZE_PY)?;
    }
    run("write the contract", portolan(root).current_dir(work).args(["plugin", "wit", "wit"]))?;
    std::fs::copy(source, work.join("policy.py")).context("copy the policy")?;
    let mut componentize = Command::new(program);
    componentize.current_dir(work).env("PYTHONPATH", &tools);
    componentize.args(["-q", "-d", "wit", "-w", "routing", "componentize", "policy", "-p", ".", "-s", "-o"]);
    run("build the policy in Python", componentize.arg(output))
}
