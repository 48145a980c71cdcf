//! The crates: who may depend on whom, what `core` may use, and what every manifest inherits.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use crate::{files, read, root, verdict};

/// All that `core` may use, so that it stays free of I/O, clocks and randomness. Tests of `core` may use more.
const CORE_MAY_USE: &[&str] =
    &["arc-swap", "hashbrown", "ipnet", "serde", "siphasher", "smallvec", "thiserror"];

/// Dependencies that stop at the border of some crates: the dependency, who may use it, and why no others.
const FENCES: &[(&str, &[&str], &str)] = &[
    (
        "anyhow",
        &["portolan", "xtask", "portolan-tests"],
        "libraries give an error enum of their own (thiserror)",
    ),
    (
        "axum",
        &["portolan-admin"],
        "it serves the admin API alone; the data plane is hyper, and answers in nanoseconds",
    ),
    (
        "datafusion",
        &["portolan-query"],
        "it runs in a worker of its own, and its types stop there; what else reads shards asks them itself",
    ),
    (
        "hyper",
        &["portolan-admin", "portolan-proxy", "portolan-replication", "portolan", "portolan-tests"],
        "HTTP is the business of the proxy, of the admin API, and of the links between regions",
    ),
    (
        "http",
        &[
            "portolan-admin",
            "portolan-cache",
            "portolan-federation",
            "portolan-foundation",
            "portolan-proxy",
            "portolan-query",
            "portolan-replication",
            "portolan-sharding",
            "portolan",
            "portolan-tests",
        ],
        "HTTP is the business of the proxy, of the cache, of the admin API, of links between regions, and of services behind `foundation::endpoint`",
    ),
    (
        "keshvar",
        &["portolan-foundation"],
        "what is known of countries goes into places of `core::geography`, where tables of addresses are read",
    ),
    (
        "maxminddb",
        &["portolan-foundation"],
        "others ask `core::geography::Locate`, whatever a table's format is",
    ),
    ("wasmtime", &["portolan-policy"], "components are the policy engine's business"),
];

/// Packages that no workspace's lints reach, and why.
const OWN_LINTS: &[(&str, &str)] =
    &[("tests/fuzz/Cargo.toml", "a workspace of its own, because it needs the fuzzer's build flags")];

/// Where a crate stands. The derived order is the floors' order: an arrow goes to a lower floor only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Core,
    Shared,
    Service,
    Wiring,
    Outside,
}

/// A crate's own name, and the names that it depends on.
type Dependencies = BTreeMap<String, Vec<String>>;

struct Package {
    name: String,
    /// Other crates of this repository, for any purpose.
    local: Vec<String>,
    /// All that it is built from.
    normal: Vec<String>,
    /// The same and what its tests use.
    all: Vec<String>,
}

fn floor(name: &str) -> Floor {
    match name {
        "portolan-core" => Floor::Core,
        // For tests of any crate; stands on none.
        "portolan-test-postgres" => Floor::Core,
        "portolan-changelog" | "portolan-foundation" => Floor::Shared,
        "portolan" => Floor::Wiring,
        "portolan-tests" | "xtask" => Floor::Outside,
        _ => Floor::Service,
    }
}

fn packages() -> anyhow::Result<Vec<Package>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--offline", "--no-deps"])
        .current_dir(root())
        .output()
        .context("run `cargo metadata`")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("no packages in the metadata")?;
    packages.iter().map(|package| Package::read(package).context("an unknown form of metadata")).collect()
}

impl Package {
    fn read(package: &Value) -> Option<Self> {
        let dependencies = package.get("dependencies")?.as_array()?;
        let names = |wanted: &dyn Fn(&Value) -> bool| {
            let mut names: Vec<String> = dependencies
                .iter()
                .filter(|dependency| wanted(dependency))
                .filter_map(|dependency| Some(dependency.get("name")?.as_str()?.to_owned()))
                .collect();
            names.sort();
            names.dedup();
            names
        };
        Some(Self {
            name: package.get("name")?.as_str()?.to_owned(),
            local: names(&|dependency| dependency.get("path").is_some_and(Value::is_string)),
            normal: names(&|dependency| dependency.get("kind").and_then(Value::as_str) != Some("dev")),
            all: names(&|_| true),
        })
    }
}

/// The arrows of the packages' dependencies, as `pick` gives them.
fn dependencies(pick: impl Fn(Package) -> Vec<String>) -> anyhow::Result<Dependencies> {
    Ok(packages()?.into_iter().map(|package| (package.name.clone(), pick(package))).collect())
}

/// Arrows go down, never up and never sideways; only `portolan` knows two services.
fn wrong_arrows(crates: &Dependencies) -> Vec<String> {
    let mut problems = Vec::new();
    for (from, targets) in crates {
        for to in targets {
            let (above, below) = (floor(from), floor(to));
            let advice = if below == Floor::Outside {
                "nothing may stand on tests and tools; move what is shared into a crate of the host"
            } else if above == Floor::Service && below == Floor::Service {
                "services do not know each other; exchange plain `core` data and let `portolan` wire them"
            } else if from == "xtask" && below != Floor::Core {
                "set-up must start before anything heavy is built; start the binary instead"
            } else if below >= above {
                "arrows go portolan -> services -> foundation, changelog -> core; move the shared type down"
            } else {
                continue;
            };
            problems.push(format!("{from} depends on {to}: {advice}"));
        }
        let services: Vec<&str> =
            targets.iter().map(String::as_str).filter(|to| floor(to) == Floor::Service).collect();
        if services.len() > 1 && floor(from) == Floor::Outside {
            problems.push(format!(
                "{from} depends on {}: only `portolan` knows two services; test them together through the binary",
                services.join(" and ")
            ));
        }
    }
    problems
}

fn impure(core: &[String]) -> Vec<String> {
    let strange = core.iter().filter(|name| !CORE_MAY_USE.contains(&name.as_str()));
    let tell = |name| {
        format!(
            "portolan-core uses {name}: take its result as an argument, or, if it does no I/O, reads no clock and draws \
             nothing, add it to CORE_MAY_USE in tests/tidy/crates.rs"
        )
    };
    strange.map(tell).collect()
}

fn over_the_fence(crates: &Dependencies) -> Vec<String> {
    let mut problems = Vec::new();
    for (dependency, users, reason) in FENCES {
        for (name, used) in crates {
            if used.iter().any(|used| used == dependency) && !users.contains(&name.as_str()) {
                problems.push(format!(
                    "{name} uses {dependency}, which only {} may: {reason}; convert to plain data at the border",
                    users.join(", ")
                ));
            }
        }
    }
    problems
}

/// What is wrong with one manifest: lints not inherited, or a version that is not the workspace's.
fn loose(file: &str, manifest: &toml::Table) -> Vec<String> {
    let mut problems = Vec::new();
    let inherits = |value: Option<&toml::Value>| {
        value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
    };
    if !manifest.contains_key("package") || OWN_LINTS.iter().any(|(own, _)| own == &file) {
        return problems;
    }
    if !inherits(manifest.get("lints")) {
        problems.push(format!("{file} does not inherit the lints: write `workspace = true` under [lints]"));
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(all) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
        for (name, _) in all.iter().filter(|(_, dependency)| !inherits(Some(*dependency))) {
            problems.push(format!(
                "{file} has its own version of {name}: put it under [workspace.dependencies] and write \
                 `{name}.workspace = true`, so that all share one build"
            ));
        }
    }
    problems
}

fn manifests(root: &Path) -> anyhow::Result<Vec<(String, toml::Table)>> {
    let mut manifests = Vec::new();
    for folder in ["host", "plugins", "tests", "examples"] {
        for file in files(root, folder)? {
            if file.ends_with("Cargo.toml") {
                let manifest =
                    read(root, &file)?.parse().with_context(|| format!("parse {}", file.display()))?;
                manifests.push((file.display().to_string(), manifest));
            }
        }
    }
    Ok(manifests)
}

#[test]
fn arrows_go_down() -> anyhow::Result<()> {
    verdict("Arrows between crates go down", &wrong_arrows(&dependencies(|package| package.local)?));
    Ok(())
}

#[test]
fn core_is_pure() -> anyhow::Result<()> {
    let core = dependencies(|package| package.normal)?.remove("portolan-core");
    verdict("core is pure", &impure(&core.context("there is no crate portolan-core")?));
    Ok(())
}

#[test]
fn dependencies_stay_behind_their_fences() -> anyhow::Result<()> {
    verdict("Some dependencies stop at a border", &over_the_fence(&dependencies(|package| package.all)?));
    Ok(())
}

#[test]
fn every_crate_inherits_lints_and_versions() -> anyhow::Result<()> {
    let manifests = manifests(root())?;
    let problems: Vec<String> = manifests.iter().flat_map(|(file, manifest)| loose(file, manifest)).collect();
    verdict("Every crate inherits from its workspace", &problems);
    let workspace: toml::Table = read(root(), "Cargo.toml")?.parse()?;
    let level = workspace
        .get("workspace")
        .and_then(|table| table.get("lints")?.get("rust")?.get("unsafe_code")?.as_str());
    assert_eq!(level, Some("deny"), "[workspace.lints.rust] in Cargo.toml must say unsafe_code = \"deny\"");
    Ok(())
}

#[test]
fn wrong_arrows_are_found() {
    let cases = [
        ("portolan", "portolan-proxy", true),
        ("portolan", "portolan-core", true),
        ("portolan-changelog", "portolan-core", true),
        ("portolan-changelog", "portolan-foundation", false),
        ("portolan-core", "portolan-foundation", false),
        ("portolan-foundation", "portolan-policy", false),
        ("portolan-policy", "portolan-foundation", true),
        ("portolan-proxy", "portolan", false),
        ("portolan-proxy", "portolan-policy", false),
        ("portolan-proxy", "portolan-tests", false),
        ("portolan-tests", "portolan-policy", true),
        ("xtask", "portolan-core", true),
        ("xtask", "portolan-policy", false),
    ];
    for (from, to, allowed) in cases {
        let problems = wrong_arrows(&BTreeMap::from([(from.to_owned(), vec![to.to_owned()])]));
        assert_eq!(problems.is_empty(), allowed, "{from} -> {to}: {problems:?}");
    }
    let two = ["portolan-policy", "portolan-proxy"].map(str::to_owned).to_vec();
    assert_eq!(wrong_arrows(&BTreeMap::from([("portolan-tests".to_owned(), two.clone())])).len(), 1);
    assert_eq!(wrong_arrows(&BTreeMap::from([("portolan".to_owned(), two)])), [""; 0]);
}

#[test]
fn forbidden_dependencies_are_found() {
    assert_eq!(impure(&["serde".to_owned(), "tokio".to_owned()]).len(), 1);
    let uses = |name: &str, used: &str| BTreeMap::from([(name.to_owned(), vec![used.to_owned()])]);
    assert_eq!(over_the_fence(&uses("portolan-proxy", "wasmtime")).len(), 1);
    assert_eq!(over_the_fence(&uses("portolan-policy", "wasmtime")), [""; 0]);
}

#[test]
fn loose_manifests_are_found() -> anyhow::Result<()> {
    let cases = [
        ("[package]\nlints.workspace = true\n", 1),
        ("[package]\n[lints]\nworkspace = true\n", 0),
        ("[package]\n[lints.rust]\nunsafe_code = \"allow\"\n", 1),
        (
            "[package]\n[lints]\nworkspace = true\n[dev-dependencies]\nserde = \"1\"\ntoml.workspace = true\n",
            1,
        ),
        ("[workspace]\nmembers = []\n", 0),
    ];
    for (text, expected) in cases {
        let problems = loose("host/new/Cargo.toml", &text.parse()?);
        assert_eq!(problems.len(), expected, "{text}{problems:?}");
    }
    Ok(())
}
