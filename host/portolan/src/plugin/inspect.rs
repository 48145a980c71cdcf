//! `portolan plugin inspect`: what a component says about itself, without running any of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use portolan_policy::{SCHEMA_SECTION, VECTORS_SECTION, vectors};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wasmparser::{Parser, Payload};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

use super::{build, check};
use crate::print;

/// What `plugin inspect` is told.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The component.
    component: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that can be read off a component.
#[derive(Debug, serde::Serialize)]
struct Seen {
    sha256: String,
    size_bytes: usize,
    /// The world that it fits, by its exports.
    world: String,
    contract: Option<String>,
    /// What it asks of the host: its permissions.
    imports: Vec<String>,
    exports: Vec<String>,
    /// Names of vectors.
    vectors: Vec<String>,
    schema: Option<Value>,
    /// The tools that made it.
    producers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Looks at it.
///
/// # Errors
/// When it is no component.
pub(crate) fn run(options: &Inspect) -> anyhow::Result<ExitCode> {
    let seen = look(&options.component)?;
    if options.json {
        print(&serde_json::to_string_pretty(&json!(seen))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let list = |all: &[String]| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    print(&format!("{}", options.component.display()))?;
    print(&format!("  sha256     {}", seen.sha256))?;
    print(&format!("  size       {} bytes", seen.size_bytes))?;
    print(&format!("  world      {}", seen.world))?;
    print(&format!("  contract   {}", seen.contract.as_deref().unwrap_or("none")))?;
    print(&format!("  imports    {}", list(&seen.imports)))?;
    print(&format!("  exports    {}", list(&seen.exports)))?;
    let schema = seen.schema.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
    print(&format!("  schema     {schema}"))?;
    print(&format!("  vectors    {}", list(&seen.vectors)))?;
    print(&format!("  made by    {}", list(&seen.producers)))?;
    if let Some(note) = &seen.note {
        print(&format!("  note       {note}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn look(path: &Path) -> anyhow::Result<Seen> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(
        build::is_component(&bytes),
        "{} is no component: `portolan plugin build {0}` makes one of a core module",
        path.display()
    );
    let decoded = wit_component::decode(&bytes).with_context(|| format!("read {}", path.display()))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        anyhow::bail!("{} holds only WIT: build the policy", path.display())
    };
    let (imports, exports) = (names(&resolve, world, true), names(&resolve, world, false));
    let version = imports.iter().chain(&exports).filter_map(|name| name.strip_prefix("portolan:policy/"));
    let contract =
        version.filter_map(|name| name.split_once('@')).map(|(_, version)| version.to_owned()).max();
    let text = |name: &str| build::section(&bytes, name).and_then(|data| std::str::from_utf8(data).ok());
    let vectors = text(VECTORS_SECTION).map(vectors::read).transpose()?.unwrap_or_default();
    Ok(Seen {
        sha256: Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
        size_bytes: bytes.len(),
        world: fits(&imports, &exports).to_owned(),
        contract,
        vectors: vectors.into_iter().map(|vector| vector.name).collect(),
        schema: text(SCHEMA_SECTION).and_then(|text| serde_json::from_str(text).ok()),
        producers: producers(&bytes),
        note: check::size_note(bytes.len()),
        imports,
        exports,
    })
}

fn names(resolve: &Resolve, world: WorldId, imports: bool) -> Vec<String> {
    let Some(world) = resolve.worlds.get(world) else { return Vec::new() };
    let items = if imports { &world.imports } else { &world.exports };
    let name = |(key, item): (&WorldKey, &WorldItem)| match (key, item) {
        (WorldKey::Interface(id), _) => resolve.id_of(*id).unwrap_or_else(|| "unnamed".to_owned()),
        (WorldKey::Name(name), WorldItem::Function(_)) => format!("{name}()"),
        (WorldKey::Name(name), _) => name.clone(),
    };
    items.iter().map(name).collect()
}

/// The world that a component's imports and exports make.
fn fits(imports: &[String], exports: &[String]) -> &'static str {
    let has = |all: &[String], name: &str| {
        all.iter().any(|full| {
            full.strip_prefix("portolan:policy/").and_then(|rest| rest.split('@').next()) == Some(name)
        })
    };
    for (answers, world) in [
        ("sharding-answers", "sharding"),
        ("failover-answers", "failover"),
        ("federation-answers", "federation"),
    ] {
        if has(imports, answers) {
            return world;
        }
    }
    for (export, world) in [("placer", "sharding"), ("proposer", "failover"), ("resolver", "resolving")] {
        if has(exports, export) {
            return world;
        }
    }
    match (has(exports, "planner"), has(exports, "packed-decider"), has(exports, "decider")) {
        (true, true, _) => "routing-packed",
        (true, false, true) => "routing",
        (true, false, false) => "routing-plan",
        (false, true, _) | (false, _, true) => "routing, without a planner: all is decided",
        (false, false, false) => "none of portolan's",
    }
}

/// The tools that left their names: `language Rust 1.95`, `processed-by wit-component 0.262`.
fn producers(bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for payload in Parser::new(0).parse_all(bytes).filter_map(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        let wasmparser::KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields.into_iter().filter_map(Result::ok) {
            for value in field.values.into_iter().filter_map(Result::ok) {
                let told = format!("{} {}", value.name, value.version).trim().to_owned();
                if !all.contains(&told) {
                    all.push(told);
                }
            }
        }
    }
    all
}
