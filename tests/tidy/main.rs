//! The architecture as tests: the direction of the crates' arrows, the purity of `core`, inherited lints, a head in every
//! file, frozen contracts, and the shape of the tree.
//!
//! Each check is a function from what it looks at to a list of problems, and each problem says what to do about it. So a
//! check runs twice: on this tree, where it must find nothing, and on a planted fault, which it must find. Style belongs to
//! clippy and to reviews; only what protects the architecture belongs here.

mod crates;
mod frozen;
mod sources;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Folders that hold what tools made, at any depth.
const MADE: &[&str] = &["target", "node_modules"];

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Fails with all problems at once.
#[track_caller]
fn verdict(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n- {}", problems.join("\n- "));
}

/// The paths of all files under `root/folder`, relative to `root` and sorted; hidden folders and what tools made are
/// left out. A folder that does not exist holds no files.
fn files(root: &Path, folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && !MADE.contains(&&*name) {
                    folders.push(entry.path());
                }
            } else {
                found.push(entry.path().strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The names of the folders directly in `root/folder`, sorted. A folder that does not exist holds none.
fn folders(root: &Path, folder: &str) -> anyhow::Result<Vec<String>> {
    let folder = root.join(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn read(root: &Path, file: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = root.join(file);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
