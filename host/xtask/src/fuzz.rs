//! `cargo xtask fuzz [TARGET] [--seconds N]`: coverage-guided fuzzing of every parser of outside bytes.
//!
//! The targets live in `tests/fuzz`, a workspace of its own. cargo-fuzz builds them with the ordinary toolchain: the
//! coverage instrumentation needs no nightly compiler, only the leave to use its flags.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::tools;

/// Runs one target, or all, each for so many seconds. Corpora grow under `target/fuzz-corpus`; seeds come from
/// `tests/fuzz/seeds/TARGET`.
///
/// # Errors
/// When a target does not build, or finds a crash: the message names the input's file and how to run it again.
pub(crate) fn run(root: &Path, target: Option<&str>, seconds: u32) -> anyhow::Result<()> {
    match target {
        Some(target) => one(root, target, seconds),
        None => run_all(root, seconds).map(|_| ()),
    }
}

/// Runs every target; gives their number.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_all(root: &Path, seconds: u32) -> anyhow::Result<u64> {
    let targets = targets(root)?;
    for target in &targets {
        one(root, target, seconds)?;
    }
    Ok(targets.len() as u64)
}

fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list the fuzz targets")?.path();
        if path.extension().is_some_and(|ending| ending == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn one(root: &Path, target: &str, seconds: u32) -> anyhow::Result<()> {
    let corpus = root.join("target/fuzz-corpus").join(target);
    let artifacts = root.join("target/fuzz-artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let seeds = root.join("tests/fuzz/seeds").join(target);
    eprintln!("fuzz {target} for {seconds} s");
    let mut command = Command::new(tools::cargo_fuzz(root)?);
    command
        .current_dir(root.join("tests/fuzz"))
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["run", "--fuzz-dir", ".", "--sanitizer", "none", "--release", target])
        .arg("--target-dir")
        .arg(root.join("target/fuzz"))
        .arg(&corpus);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command
        .args([
            "--",
            "-rss_limit_mb=2048",
            "-timeout=10",
            "-max_len=8192",
            "-print_final_stats=0",
            "-verbosity=0",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let good = command.status().with_context(|| format!("start the fuzz target {target}"))?.success();
    if good {
        return Ok(());
    }
    bail!(
        "fuzz target {target} failed; its input is in {}; run it again with `cargo fuzz run --fuzz-dir tests/fuzz {target} FILE`",
        artifacts.display()
    )
}
