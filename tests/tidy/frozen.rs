//! What was released never changes: contracts and migrations are held by their digests in `frozen.toml`.
//!
//! A component that a user built against a released contract must load for ever, and a migration that ran somewhere must
//! be the same everywhere. Changes go into a new folder or file beside the old one.

use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::{files, folders, read, root, verdict};

/// Where the contract's versions lie, one folder each: `v0.1`, `v0.2` ...
const CONTRACT: &str = "wit/policy";

/// The digest of a file or of a folder with all it holds, in hexadecimal: names, lengths and bytes, sorted by name.
fn digest(root: &Path, path: &str) -> anyhow::Result<String> {
    let all = if root.join(path).is_file() { vec![Path::new(path).to_owned()] } else { files(root, path)? };
    anyhow::ensure!(!all.is_empty(), "{path} is frozen but is not there: restore it from the last release");
    let mut hash = Sha256::new();
    for file in all {
        let bytes = std::fs::read(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        hash.update(file.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Frozen paths of `list` that are gone or differ.
fn thawed(root: &Path, list: &toml::Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, kept) in list {
        match digest(root, path) {
            Err(error) => problems.push(format!("{error:#}")),
            Ok(now) if kept.as_str() == Some(&now) => {}
            Ok(_) => problems.push(format!(
                "{path} was released and has changed: restore it (`git checkout` of the last release) and put the change \
                 into a new version beside it"
            )),
        }
    }
    problems
}

/// Contract versions that must be frozen but are not: all that are not the newest, and the newest once the changelog
/// dates a release of its number (`## 0.1.0 - 2026-03-01`; until then the heading says `unreleased`).
fn unfrozen(root: &Path, list: &toml::Table, changelog: &str) -> anyhow::Result<Vec<String>> {
    let mut versions = folders(root, CONTRACT)?;
    versions.sort_by_key(|name| -> Vec<u32> {
        name.trim_start_matches('v').split('.').filter_map(|number| number.parse().ok()).collect()
    });
    let newest = versions.last().cloned();
    let mut problems = Vec::new();
    for version in versions {
        let path = format!("{CONTRACT}/{version}");
        let number = format!("{}.0", version.trim_start_matches('v'));
        let released = changelog.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            let is_it = line.split([' ', '[', ']']).any(|word| word.trim_start_matches('v') == number);
            line.starts_with("## ") && is_it && !line.contains("unreleased")
        });
        let open = newest.as_ref() == Some(&version) && !released;
        if !open && !list.contains_key(&path) {
            problems.push(format!(
                "{path} is released: add `\"{path}\" = \"{}\"` to tests/tidy/frozen.toml",
                digest(root, &path)?
            ));
        }
    }
    Ok(problems)
}

#[test]
fn what_was_released_stays_as_it_is() -> anyhow::Result<()> {
    let list: toml::Table = read(root(), "tests/tidy/frozen.toml")?.parse()?;
    let list = list.get("frozen").and_then(toml::Value::as_table).context("frozen.toml needs [frozen]")?;
    let changelog =
        if root().join("CHANGELOG.md").exists() { read(root(), "CHANGELOG.md")? } else { String::new() };
    let mut problems = thawed(root(), list);
    problems.extend(unfrozen(root(), list, &changelog)?);
    verdict("What was released is frozen", &problems);
    Ok(())
}

/// Something that must not happen to a frozen folder.
type Change = fn(&Path) -> std::io::Result<()>;

/// A copy of the newest contract, as a tree of its own.
fn copy() -> anyhow::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    for file in files(root(), "wit/policy/v0.1")? {
        let to = copy.path().join(&file);
        std::fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        std::fs::copy(root().join(&file), to)?;
    }
    Ok(copy)
}

#[test]
fn every_kind_of_change_is_found() -> anyhow::Result<()> {
    let changes: [(&str, Change); 4] = [
        ("one byte", |folder| {
            let file = folder.join("types.wit");
            let text = std::fs::read_to_string(&file)?;
            std::fs::write(&file, text + "\n")
        }),
        ("new file", |folder| std::fs::write(folder.join("more.wit"), "")),
        ("other name", |folder| std::fs::rename(folder.join("types.wit"), folder.join("kinds.wit"))),
        ("all gone", |folder| std::fs::remove_dir_all(folder)),
    ];
    for (name, change) in changes {
        let copy = copy()?;
        let path = "wit/policy/v0.1";
        let list = toml::Table::from_iter([(path.to_owned(), digest(copy.path(), path)?.into())]);
        assert_eq!(thawed(copy.path(), &list), [""; 0], "{name}");
        change(&copy.path().join(path))?;
        assert_eq!(thawed(copy.path(), &list).len(), 1, "{name}");
    }
    Ok(())
}

#[test]
fn a_release_must_be_frozen() -> anyhow::Result<()> {
    let copy = copy()?;
    let none = toml::Table::new();
    let list = toml::Table::from_iter([("wit/policy/v0.1".to_owned(), "digest".into())]);
    for (changelog, problems) in [
        ("", 0),
        ("## 0.1.0 (unreleased)", 0),
        ("## [Unreleased]\nthe contract 0.1.0", 0),
        ("## 0.1.0 - 2026-03-01", 1),
        ("## [0.1.0] 2026-03-01", 1),
        ("## 0.1.01", 0),
    ] {
        assert_eq!(unfrozen(copy.path(), &none, changelog)?.len(), problems, "{changelog}");
        assert_eq!(unfrozen(copy.path(), &list, changelog)?, [""; 0], "{changelog}");
    }
    // Ten is newer than nine, and only the newest may be open.
    std::fs::create_dir(copy.path().join("wit/policy/v0.10"))?;
    let problems = unfrozen(copy.path(), &none, "")?;
    assert!(matches!(problems.as_slice(), [one] if one.starts_with("wit/policy/v0.1 ")), "{problems:?}");
    Ok(())
}
