//! The tree: its fixed top level, its examples, the reasons of its bans, and its map.

use std::path::Path;

use anyhow::Context as _;

use crate::{files, folders, read, root, verdict};

/// The folders at the top. New things find their place inside one of them.
const FOLDERS: &[&str] = &["examples", "host", "migrations", "plugins", "tests", "wit"];

/// The files at the top. Files and folders that begin with a dot belong to tools, and `target` to cargo.
const FILES: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "rust-toolchain.toml",
];

fn strangers(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = if entry.file_type()?.is_dir() { FOLDERS } else { FILES };
        if !name.starts_with('.') && name != "target" && !known.contains(&name.as_str()) {
            problems.push(format!(
                "{name} is not one of the fixed names at the top: move it into one of its folders"
            ));
        }
    }
    problems.sort();
    Ok(problems)
}

/// Examples without a README, and examples that no test starts.
fn untold(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut tests = String::new();
    for file in files(root, "tests")? {
        if file.extension().is_some_and(|extension| extension == "rs") && !file.starts_with("tests/tidy") {
            tests.push_str(&read(root, file)?);
        }
    }
    let mut problems = Vec::new();
    for name in folders(root, "examples")? {
        if !root.join("examples").join(&name).join("README.md").is_file() {
            problems.push(format!("examples/{name} has no README.md: say what it shows and how to start it"));
        }
        // A path is written in one string or joined from pieces.
        let named =
            [format!("examples/{name}"), format!("\"{name}\"")].iter().any(|text| tests.contains(text));
        if !named {
            problems.push(format!(
                "no test names examples/{name}: start it in tests/e2e, so that it keeps working"
            ));
        }
    }
    Ok(problems)
}

/// Bans of clippy or cargo-deny that do not say why.
fn unexplained(file: &str, bans: &[&toml::Value]) -> Vec<String> {
    let without = bans.iter().filter(|ban| {
        ban.get("reason").and_then(toml::Value::as_str).is_none_or(|reason| reason.trim().is_empty())
    });
    without.map(|ban| format!("{file}: {ban} needs a `reason` that says what to use instead")).collect()
}

fn list<'a>(table: &'a toml::Value, keys: &[&str]) -> Vec<&'a toml::Value> {
    let found = keys.iter().try_fold(table, |table, key| table.get(key));
    found.and_then(toml::Value::as_array).into_iter().flatten().collect()
}

#[test]
fn the_top_level_is_fixed() -> anyhow::Result<()> {
    verdict("The top level is fixed", &strangers(root())?);
    Ok(())
}

#[test]
fn every_example_is_told_and_tested() -> anyhow::Result<()> {
    verdict("Every example has a README and a test", &untold(root())?);
    Ok(())
}

#[test]
fn every_ban_has_a_reason() -> anyhow::Result<()> {
    let clippy = toml::Value::Table(read(root(), ".clippy.toml")?.parse()?);
    let deny = toml::Value::Table(read(root(), ".deny.toml")?.parse()?);
    let keys = ["disallowed-methods", "disallowed-types", "disallowed-macros"];
    let mut problems: Vec<String> =
        keys.iter().flat_map(|key| unexplained(".clippy.toml", &list(&clippy, &[key]))).collect();
    problems.extend(unexplained(".deny.toml", &list(&deny, &["bans", "deny"])));
    anyhow::ensure!(
        !list(&clippy, &["disallowed-methods"]).is_empty(),
        ".clippy.toml lost its bans: restore them"
    );
    verdict("Every ban has a reason", &problems);
    Ok(())
}

#[test]
fn the_map_shows_every_crate() -> anyhow::Result<()> {
    let map = read(root(), "ARCHITECTURE.md")?;
    let missing =
        folders(root(), "host")?.into_iter().filter(|name| !map.contains(&format!("`host/{name}`")));
    let tell = |name| format!("ARCHITECTURE.md does not show host/{name}: add its line to the code map");
    verdict("The code map is whole", &missing.map(tell).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn strangers_and_untold_examples_are_found() -> anyhow::Result<()> {
    let tree = tempfile::tempdir()?;
    for folder in
        ["host", "target", ".ci", "scripts", "tests/e2e", "examples/one", "examples/two", "examples/three"]
    {
        std::fs::create_dir_all(tree.path().join(folder))?;
    }
    for (file, text) in [
        ("Cargo.toml", ""),
        ("todo.txt", ""),
        ("examples/one/README.md", "One.\n"),
        ("examples/two/README.md", "Two.\n"),
        ("tests/e2e/main.rs", "start(\"examples/one\"); start(root.join(\"examples\").join(\"three\"));"),
    ] {
        std::fs::write(tree.path().join(file), text)?;
    }
    let strangers = strangers(tree.path())?;
    assert!(matches!(strangers.as_slice(), [a, b] if a.starts_with("scripts") && b.starts_with("todo.txt")));
    let untold = untold(tree.path())?.join("\n");
    assert!(untold.contains("examples/three has no README") && untold.contains("no test names examples/two"));
    assert_eq!(untold.lines().count(), 2, "{untold}");
    Ok(())
}

#[test]
fn bans_without_a_reason_are_found() -> anyhow::Result<()> {
    let text = "bans = [{ path = \"a\", reason = \"use b\" }, { path = \"c\" }, \"d\", { path = \"e\", reason = \" \" }]";
    let table = toml::Value::Table(text.parse().context("parse the bans")?);
    assert_eq!(unexplained("x", &list(&table, &["bans"])).len(), 3);
    Ok(())
}
