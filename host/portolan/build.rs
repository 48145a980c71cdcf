//! Embeds the bundled policies that `cargo xtask setup` built. In a fresh clone there are none: then the binary embeds none,
//! and says how to get them when one is asked for.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let policies = Path::new(&root).join("../../target/policies");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", policies.join("index.json").display());
    let text = std::fs::read_to_string(policies.join("index.json")).unwrap_or_default();
    let index: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let mut code = String::from("&[\n");
    for entry in &index {
        let field = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let Ok(file) = policies.join(field("file")).canonicalize() else { continue };
        println!("cargo:rerun-if-changed={}", file.display());
        let (name, description) = (field("name"), field("description"));
        // Writing to a string cannot fail.
        writeln!(
            code,
            "Bundled {{ name: {name:?}, description: {description:?}, component: include_bytes!({file:?}) }},"
        )
        .ok();
    }
    code.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::write(Path::new(&out).join("bundled.rs"), code) {
        println!("cargo::error=write the list of bundled policies: {error}");
    }
}
