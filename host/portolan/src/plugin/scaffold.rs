//! `portolan plugin new`: a project in the language's own shape, with a small policy that works, its golden vectors, and the
//! contract beside it, so that the first build needs no network beyond the language's tools.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use portolan_core::ids::PolicyName;

use super::language::Language;
use super::{contract, pack};
use crate::cli::Bindings;
use crate::print;

/// What `plugin new` is told.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Its name, and the folder's.
    name: String,
    /// The language.
    #[arg(short, long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// What the policy answers. `routing-plan` has no decider, and is all that most need.
    #[arg(short, long, value_enum, default_value_t = World::Routing)]
    world: World,
    /// The SDK for Rust: a checkout's `plugins/sdk/rust`, or the folder `rust` that `plugin pack-sdk` wrote. It is put into the
    /// project when absent.
    #[arg(long)]
    sdk: Option<PathBuf>,
}

/// A world of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// Joins two sides of an item.
    Federation,
    /// Moves shards when a region fails.
    Failover,
    /// Makes one row of two that were written apart.
    Resolving,
    /// Plans, and decides request by request.
    Routing,
    /// Only plans.
    RoutingPlan,
    /// Places tenants.
    Sharding,
}

impl World {
    const fn name(self) -> &'static str {
        match self {
            Self::Federation => "federation",
            Self::Failover => "failover",
            Self::Resolving => "resolving",
            Self::Routing => "routing",
            Self::RoutingPlan => "routing-plan",
            Self::Sharding => "sharding",
        }
    }
}

type Files = &'static [(&'static str, &'static str)];

/// What every project has.
const COMMON: Files = &[
    ("README.md", include_str!("scaffolds/common/README.md.txt")),
    ("config.schema.json", include_str!("scaffolds/common/config.schema.json")),
    ("vectors.json", include_str!("scaffolds/common/vectors.json")),
];
const RUST: Files = &[
    ("Cargo.toml", include_str!("scaffolds/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("scaffolds/rust/lib.rs")),
    (".gitignore", "/target\n/*.wasm\n"),
];
/// All of a project for the world `failover`.
const RUST_FAILOVER: Files = &[
    ("README.md", include_str!("scaffolds/failover/README.md.txt")),
    ("config.schema.json", include_str!("scaffolds/failover/config.schema.json")),
    ("vectors.json", include_str!("scaffolds/failover/vectors.json")),
    ("Cargo.toml", include_str!("scaffolds/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("scaffolds/failover/lib.rs")),
    (".gitignore", "/target\n/*.wasm\n"),
];
/// All of a project for the world `resolving`.
const RUST_RESOLVING: Files = &[
    ("README.md", include_str!("scaffolds/resolving/README.md.txt")),
    ("Cargo.toml", include_str!("scaffolds/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("scaffolds/resolving/lib.rs")),
    (".gitignore", "/target\n/*.wasm\n"),
];
/// All of a project for the world `sharding`.
const RUST_SHARDING: Files = &[
    ("README.md", include_str!("scaffolds/sharding/README.md.txt")),
    ("config.schema.json", include_str!("scaffolds/sharding/config.schema.json")),
    ("Cargo.toml", include_str!("scaffolds/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("scaffolds/sharding/lib.rs")),
    (".gitignore", "/target\n/*.wasm\n"),
];
const JAVASCRIPT: Files = &[
    ("package.json", include_str!("scaffolds/js/package.json")),
    ("src/policy.js", include_str!("scaffolds/js/policy.js")),
    (".gitignore", "/dist\n/node_modules\n/*.wasm\n"),
];
const TYPESCRIPT: Files = &[
    ("package.json", include_str!("scaffolds/ts/package.json")),
    ("tsconfig.json", include_str!("scaffolds/ts/tsconfig.json")),
    ("src/policy.ts", include_str!("scaffolds/ts/policy.ts")),
    (".gitignore", "/dist\n/node_modules\n/*.wasm\n"),
];
const PYTHON: Files = &[
    ("pyproject.toml", include_str!("scaffolds/python/pyproject.toml.txt")),
    ("requirements.txt", include_str!("scaffolds/python/requirements.txt")),
    ("src/policy.py", include_str!("scaffolds/python/policy.py")),
    (".gitignore", "/.venv\n/dist\n__pycache__\n/*.wasm\n"),
];
const C: Files = &[
    ("Makefile", include_str!("scaffolds/c/Makefile.txt")),
    ("policy.c", include_str!("scaffolds/c/policy.c")),
    (".gitignore", "/build\n/gen\n/*.wasm\n"),
];
const ZIG: Files = &[
    ("build.zig", include_str!("scaffolds/zig/build.zig")),
    ("src/contract.zig", include_str!("scaffolds/zig/contract.zig")),
    ("src/policy.zig", include_str!("scaffolds/zig/policy.zig")),
    (".gitignore", "/.zig-cache\n/zig-out\n/*.wasm\n"),
];
const GO: Files = &[
    ("go.mod", include_str!("scaffolds/go/go.mod.txt")),
    ("generate.go", include_str!("scaffolds/go/generate.go")),
    ("export_portolan_policy_planner/policy.go", include_str!("scaffolds/go/planner.go")),
    ("wit-support/go.mod", "module go.bytecodealliance.org/pkg\n\ngo 1.25\n"),
    ("wit-support/wit/runtime/runtime.go", include_str!("scaffolds/go/runtime.go")),
    ("wit-support/wit/types/types.go", include_str!("scaffolds/go/types.go")),
    (".gitignore", "/build\n/portolan_policy_*\n/wit_exports.go\n/component-type.bin\n/*.wasm\n"),
];
/// What of Go's there is only with a decider.
const GO_DECIDER: Files =
    &[("export_portolan_policy_decider/policy.go", include_str!("scaffolds/go/decider.go"))];

/// Writes a project.
///
/// # Errors
/// When its name is none, it is there already, or its world does not run yet.
pub(crate) fn run(options: &New) -> anyhow::Result<()> {
    let New { name, lang, world, sdk } = options;
    PolicyName::new(name)?;
    if name.contains('.') || name.starts_with(|first: char| first.is_ascii_digit()) {
        bail!(
            "`{name}` cannot be a package's name everywhere: begin with a letter, and use letters, digits and `-`"
        );
    }
    match (world, lang) {
        (World::Routing | World::RoutingPlan, _)
        | (World::Failover | World::Resolving | World::Sharding, Language::Rust) => {}
        (World::Failover | World::Resolving | World::Sharding, _) => bail!(
            "a project for the world `{}` is made in Rust alone: write `--lang rust`, or begin with what `portolan plugin wit` and \
             `portolan plugin bindings` write",
            world.name()
        ),
        (World::Federation, _) => bail!(
            "policies of the world `federation` do not run yet: this portolan has no slot for them; `routing`, `routing-plan`, `sharding`, \
             `failover` and `resolving` run"
        ),
    }
    if sdk.is_some() && *lang != Language::Rust {
        bail!("--sdk is for Rust; other languages need only the contract, which every project has in wit/");
    }
    let folder = PathBuf::from(name);
    if folder.exists() {
        bail!("{name} is there already: choose another name");
    }
    let template = Template { name, world: *world, sdk: sdk_path(sdk.as_deref())?, language: *lang };
    for (path, text) in files(*lang, *world) {
        contract::write_if_new(&folder.join(path), template.fill(text).as_bytes())?;
    }
    contract::write(&folder.join("wit"))?;
    match lang {
        Language::Ts => {
            contract::bindings(Bindings::Ts, &folder.join("types"), &folder.join("wit"), world.name())?;
        }
        Language::Rust => match sdk {
            None => pack::rust_sdk(&folder.join("sdk"))?,
            Some(sdk) => pack::use_vendored(sdk, &folder)?,
        },
        _ => {}
    }
    let tools = template.tools().trim_end();
    let tools = if tools.is_empty() { String::new() } else { format!("\n  {tools}") };
    let test = if matches!(world, World::Resolving | World::Sharding) {
        "cargo test"
    } else {
        "portolan plugin test"
    };
    print(&format!(
        "wrote {name}/, a policy in {}\n  cd {name}{tools}\n  portolan plugin build\n  {test}",
        lang.name()
    ))
}

fn files(language: Language, world: World) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let common =
        if matches!(world, World::Failover | World::Resolving | World::Sharding) { &[][..] } else { COMMON };
    let (own, decider) = match language {
        Language::Rust if world == World::Failover => (RUST_FAILOVER, &[][..]),
        Language::Rust if world == World::Resolving => (RUST_RESOLVING, &[][..]),
        Language::Rust if world == World::Sharding => (RUST_SHARDING, &[][..]),
        Language::C => (C, &[][..]),
        Language::Go => (GO, GO_DECIDER),
        Language::Js => (JAVASCRIPT, &[][..]),
        Language::Python => (PYTHON, &[][..]),
        Language::Rust => (RUST, &[][..]),
        Language::Ts => (TYPESCRIPT, &[][..]),
        Language::Zig => (ZIG, &[][..]),
    };
    let decider = if world == World::Routing { decider } else { &[] };
    common.iter().chain(own).chain(decider)
}

/// Where the manifest finds the SDK.
fn sdk_path(sdk: Option<&Path>) -> anyhow::Result<String> {
    let Some(sdk) = sdk else { return Ok("sdk/portolan-plugin".to_owned()) };
    let sdk = sdk.canonicalize().with_context(|| format!("find the SDK at {}", sdk.display()))?;
    let packed = sdk.join("portolan-plugin");
    let sdk = if packed.is_dir() { packed } else { sdk };
    Ok(sdk.display().to_string())
}

struct Template<'a> {
    name: &'a str,
    world: World,
    sdk: String,
    language: Language,
}

impl Template<'_> {
    /// Fills in names, and leaves out what the world does not have: from `%%decider` or `%%plan-only` to `%%end`.
    fn fill(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut wanted = true;
        for line in text.lines() {
            match line.trim() {
                "%%decider" => wanted = self.world == World::Routing,
                "%%plan-only" => wanted = self.world == World::RoutingPlan,
                "%%end" => wanted = true,
                _ if wanted => {
                    filled.push_str(line);
                    filled.push('\n');
                }
                _ => {}
            }
        }
        let snake = self.world.name().replace('-', "_");
        for (mark, value) in [
            ("{{name}}", self.name),
            ("{{world}}", self.world.name()),
            ("{{snake}}", &snake),
            ("{{sdk}}", &self.sdk),
            ("{{tools}}", self.tools()),
            ("{{source}}", self.source()),
            ("{{more}}", self.more()),
        ] {
            filled = filled.replace(mark, value);
        }
        filled
    }

    /// What installs the project's own tools.
    const fn tools(&self) -> &'static str {
        match self.language {
            Language::Js | Language::Ts => "npm install\n",
            Language::Python => "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n",
            Language::C | Language::Go | Language::Rust | Language::Zig => "",
        }
    }

    const fn source(&self) -> &'static str {
        match self.language {
            Language::C => "policy.c",
            Language::Go => "export_portolan_policy_*/policy.go",
            Language::Js => "src/policy.js",
            Language::Python => "src/policy.py",
            Language::Rust => "src/lib.rs",
            Language::Ts => "src/policy.ts",
            Language::Zig => "src/policy.zig",
        }
    }

    const fn more(&self) -> &'static str {
        match self.language {
            Language::C => {
                "- `gen/`: bindings, made by the build from `wit/`; `WASM_CC` names another compiler\n"
            }
            Language::Go => {
                "- `wit-support/`: what the generated bindings stand on\n\nGo's runtime asks for a system: the component answers it itself, with a \
                 clock that only counts, no files and no\noutput. `time.Now` and `os` are of no use.\n"
            }
            Language::Js | Language::Ts => {
                "\nThe engine is QuickJS: no `console`, `URL`, `TextEncoder`, `fetch` or timers. `Date.now()` traps: the time is in `nowMs`.\n"
            }
            Language::Python => {
                "\nThe component has 18 MB, and the gateway takes it where `[policies]` says `component_bytes = 33554432`. `print()`,\n\
                 `time.time()` and every exception that is not caught trap; `json`, `re` and `hashlib` work.\n"
            }
            Language::Rust => "- `sdk/`: the SDK; `cargo test` runs the policy natively\n",
            Language::Zig => "- `src/contract.zig`: the part of the contract that the policy uses\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_filled_in_for_every_language_and_world() {
        for language in Language::ALL {
            for world in [World::Failover, World::Routing, World::RoutingPlan, World::Sharding] {
                let is_rust_alone = matches!(world, World::Failover | World::Sharding);
                if is_rust_alone && language != Language::Rust {
                    continue;
                }
                let template =
                    Template { name: "mine", world, sdk: "sdk/portolan-plugin".to_owned(), language };
                for (path, text) in files(language, world) {
                    let filled = template.fill(text);
                    assert!(!filled.contains("{{") && !filled.contains("%%"), "{path}:\n{filled}");
                    assert!(!filled.contains("\n\n\n\n") && !filled.is_empty(), "{path}:\n{filled}");
                    if path.ends_with(".json") {
                        serde_json::from_str::<serde_json::Value>(&filled).unwrap();
                    }
                }
            }
        }
    }
}
