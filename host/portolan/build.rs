//! Embeds the SDK's sources, and the bundled policies that `cargo xtask setup` built. In a fresh clone there are none: then the binary embeds none,
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
    write("bundled.rs", code);
    write("sdk.rs", sdk(Path::new(&root)));
}

fn write(name: &str, code: String) {
    let out = std::env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::write(Path::new(&out).join(name), code) {
        println!("cargo::error=write {name}: {error}");
    }
}

/// The sources of the SDK for Rust and of the crate that it stands on, without their tests.
fn sdk(root: &Path) -> String {
    let mut code = String::from("&[\n");
    for (name, folder) in [("portolan-core", "../core"), ("portolan-plugin", "../../plugins/sdk/rust")] {
        let folder = root.join(folder);
        println!("cargo:rerun-if-changed={}", folder.display());
        let mut folders = vec![folder.clone()];
        let mut files = vec![folder.join("Cargo.toml")];
        while let Some(below) = folders.pop() {
            for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
                let path = entry.path();
                let tests = path.file_stem().is_some_and(|stem| stem == "tests");
                match path.extension().and_then(|extension| extension.to_str()) {
                    _ if tests => {}
                    Some("rs") => files.push(path),
                    None if path.is_dir() => folders.push(path),
                    _ => {}
                }
            }
        }
        files.sort();
        for file in files {
            let Ok(inside) = file.strip_prefix(&folder) else { continue };
            let inside = format!("{name}/{}", inside.display());
            // Writing to a string cannot fail.
            writeln!(code, "({inside:?}, include_str!({:?})),", file.display().to_string()).ok();
        }
    }
    code.push_str("]\n");
    code
}
