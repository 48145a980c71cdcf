//! `portolan plugin`: scaffold, build and check policies.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use portolan_core::facts::Facts;
use portolan_core::ids::PolicyName;
use portolan_foundation::clock;
use portolan_policy::{Account, Compile, Engine, Limits, Log, Start, Tier};
use serde_json::json;
use wit_component::ComponentEncoder;

use crate::cli::Plugin;
use crate::config;
use crate::node::topology_of;
use crate::{print, registry, replay};

const TARGET: &str = "wasm32-unknown-unknown";
/// The contract, for bindings generators.
const WIT: [(&str, &str); 5] = [
    ("types.wit", include_str!("../../../wit/policy/v0.1/types.wit")),
    ("routing.wit", include_str!("../../../wit/policy/v0.1/routing.wit")),
    ("sharding.wit", include_str!("../../../wit/policy/v0.1/sharding.wit")),
    ("failover.wit", include_str!("../../../wit/policy/v0.1/failover.wit")),
    ("federation.wit", include_str!("../../../wit/policy/v0.1/federation.wit")),
];
/// One region with one pool, for checks without a gateway's configuration.
const SMALL_WORLD: &str = "[node]\nregion = \"local\"\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
                           [region.local.pool.web]\nendpoints = [\"127.0.0.1:9000\"]\n";

/// Runs one of its commands.
///
/// # Errors
/// What went wrong and what to do.
pub(crate) fn run(command: Plugin) -> anyhow::Result<ExitCode> {
    match command {
        Plugin::New { name, sdk } => new(&name, sdk.as_deref())?,
        Plugin::Build { path, output } => build(&path, output)?,
        Plugin::Check { component, policy_config, config, json } => {
            return check(&component, &policy_config, config.as_deref(), json);
        }
        Plugin::Diff { base, candidate, since, name, told, file } => {
            return replay::diff(&base, &candidate, since, name.as_deref(), told, &file.config);
        }
        Plugin::Push(options) => return registry::cli::push(&options),
        Plugin::Versions { name, target, json } => registry::cli::versions(name.as_deref(), &target, json)?,
        Plugin::Uploads { id, target, json } => registry::cli::uploads(id.as_deref(), &target, json)?,
        Plugin::Remove { version, tenant, target } => {
            return registry::cli::remove(&version, tenant.as_deref(), &target);
        }
        Plugin::Gc(options) => return registry::cli::sweep(&options),
        Plugin::Keygen { name } => registry::cli::keygen(&name)?,
        Plugin::Sign { component, key, output, detached } => {
            registry::cli::sign(&component, &key, output.as_deref(), detached)?;
        }
        Plugin::EmbedVectors { component, vectors, output, json } => {
            return registry::cli::embed_vectors(&component, &vectors, output.as_deref(), json);
        }
        Plugin::Wit { folder, c } => wit(&folder, c.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn new(name: &str, sdk: Option<&Path>) -> anyhow::Result<()> {
    PolicyName::new(name)?;
    if name.contains('.') {
        bail!("`{name}` cannot be a crate's name: use letters, digits, `-` and `_`");
    }
    let folder = PathBuf::from(name);
    if folder.exists() {
        bail!("{name} is there already: choose another name");
    }
    let sdk = match sdk {
        Some(path) => {
            let path = path.canonicalize().with_context(|| format!("find the SDK at {}", path.display()))?;
            format!("{{ path = {:?} }}", path.display().to_string())
        }
        None => format!("{{ git = {:?} }}", env!("CARGO_PKG_REPOSITORY")),
    };
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
         [dependencies]\nportolan-plugin = {sdk}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\n\
         [profile.release]\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\npanic = \"abort\"\n\n[workspace]\n"
    );
    let code = include_str!("plugin/scaffold.rs").replace("SCAFFOLD", name);
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    std::fs::create_dir_all(folder.join("src")).with_context(|| format!("create {name}"))?;
    write(folder.join("Cargo.toml"), &manifest)?;
    write(folder.join("src/lib.rs"), &code)?;
    write(folder.join("src/config.schema.json"), include_str!("plugin/scaffold.schema.json"))?;
    write(folder.join(".gitignore"), "/target\n")?;
    print(&format!(
        "wrote {name}/\n  cd {name}\n  cargo test                                    run it natively\n  \
         portolan plugin build                         make the component {name}.wasm\n  \
         portolan plugin check {name}.wasm --policy-config '{{\"pool\": \"web\"}}'"
    ))
}

fn build(path: &Path, output: Option<PathBuf>) -> anyhow::Result<()> {
    let (module, name) = if path.is_dir() { cargo(path)? } else { (path.to_owned(), stem(path)) };
    let bytes = std::fs::read(&module).with_context(|| format!("read {}", module.display()))?;
    let mut encoder = ComponentEncoder::default();
    let component =
        encoder.validate(true).module(&bytes).and_then(ComponentEncoder::encode).with_context(|| {
            format!("make a component of {}: was it built with bindings of the contract?", module.display())
        })?;
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{name}.wasm")));
    // Under another name first: a gateway that watches the folder must never see half a component.
    let partial = output.with_extension("wasm.tmp");
    std::fs::write(&partial, &component).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &output).with_context(|| format!("write {}", output.display()))?;
    print(&format!("{}: {} bytes", output.display(), component.len()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Builds a crate and gives its core module and name.
fn cargo(folder: &Path) -> anyhow::Result<(PathBuf, String)> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder).args([
        "build",
        "--release",
        "--target",
        TARGET,
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("start cargo: Rust is needed, see https://rustup.rs")?;
    if !output.status.success() {
        bail!("the crate does not build; where the target is missing, run `rustup target add {TARGET}`");
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

fn check(
    component: &Path,
    policy_config: &str,
    config: Option<&Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let facts = facts(config)?;
    let bytes = std::fs::read(component).with_context(|| format!("read {}", component.display()))?;
    let engine = Engine::new(portolan_policy::Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: Compile::InProcess,
        data_threads: std::num::NonZeroUsize::MIN,
        limits: Limits::standard(),
        pool_slots: std::num::NonZeroU32::MIN,
    })
    .context("start the policy engine")?;
    let name = PolicyName::new("checked")?;
    let log = Log::new(name, Limits::standard().log_lines_per_second);
    let checked = engine.load(&bytes).and_then(|version| {
        let planned = engine.plan(&version, policy_config, Arc::new(facts), &log)?;
        if version.about().decider {
            let memo = &planned.plan.memo;
            let tier = Tier::Tenant { granted: true };
            let account = Account::unbounded();
            engine.decider(
                &version,
                Start { account: &account, config: policy_config, log: &log, memo, tier },
            )?;
        }
        Ok((version, planned))
    });
    let lines = log.lines();
    match checked {
        Ok((version, planned)) => {
            let about = version.about();
            let (rules, answers) = (planned.plan.rules.len(), planned.plan.answers.len());
            if json {
                let plan = json!({ "rules": rules, "answers": answers, "fuel": planned.fuel_used, "facts_read": planned.reads.len() });
                print(&serde_json::to_string_pretty(
                    &json!({ "ok": true, "about": about, "plan": plan, "log": lines }),
                )?)?;
            } else {
                print(&format!("{}: good", component.display()))?;
                print(&format!("  sha256    {}", about.digest))?;
                print(&format!("  contract  {}; imports {}", about.contract, about.imports.join(", ")))?;
                print(&format!(
                    "  size      {} bytes, {} compiled, {} of memory",
                    about.size_bytes, about.artefact_bytes, about.memory_bytes
                ))?;
                print(&format!(
                    "  plan      {rules} rules, {answers} answers, {} facts read, {} fuel",
                    planned.reads.len(),
                    planned.fuel_used
                ))?;
                for line in &lines {
                    print(&format!("  log       [{}] {}", line.level, line.text))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(refused) => {
            if json {
                print(&serde_json::to_string_pretty(
                    &json!({ "ok": false, "refused": refused, "log": lines }),
                )?)?;
            } else {
                for line in &lines {
                    eprintln!("log [{}] {}", line.level, line.text);
                }
                eprintln!("refused at {}: {}\n  {}", refused.stage, refused.reason, refused.fix);
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The facts of a gateway's configuration, or of the small world.
fn facts(config: Option<&Path>) -> anyhow::Result<Facts> {
    let loaded = match config {
        Some(path) => crate::shown(crate::load(path)?).context("the gateway's configuration has problems")?.0,
        None => {
            let source = config::Source { path: PathBuf::from("small world"), text: SMALL_WORLD.to_owned() };
            let loaded = config::read(vec![source], [], Path::new("."));
            loaded.map_err(|_| anyhow::anyhow!("the small world has problems; please report this"))?
        }
    };
    Ok(topology_of(&loaded.config).facts(clock::unix_ms()))
}

fn wit(folder: &Path, c: Option<&Path>) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, text) in WIT {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    print(&format!(
        "wrote the contract portolan:policy@0.1.0 to {}; a policy implements the world `routing`, or `routing-plan` if it only plans",
        folder.display()
    ))?;
    let Some(bindings) = c else { return Ok(()) };
    std::fs::create_dir_all(bindings).with_context(|| format!("create {}", bindings.display()))?;
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) =
        resolve.push_path(folder).with_context(|| format!("read the contract in {}", folder.display()))?;
    let world = resolve.select_world(&[package], Some("routing")).context("find the world `routing`")?;
    let mut files = wit_bindgen_core::Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .context("generate the bindings")?;
    for (name, bytes) in files.iter() {
        let path = bindings.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    print(&format!(
        "wrote bindings for C to {}: include routing.h, compile routing.c, link the object file",
        bindings.display()
    ))
}
