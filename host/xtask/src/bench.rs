//! `cargo xtask bench NAME [--json FILE] [--check]`: measures the release binary, prints a table and writes JSON.
//! `--check` holds figures against `tests/bench/targets.toml`, names each miss and ends with 1.

mod proxy;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{demo, languages, setup, tools};

/// What a benchmark found: figures by name, units at the end of the name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    bench: String,
    figures: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
struct Targets {
    target: Vec<Target>,
}

/// A bound on one figure.
#[derive(Debug, Deserialize)]
struct Target {
    bench: String,
    figure: String,
    at_most: f64,
    reason: String,
}

/// Runs one benchmark, with an argument if it takes one.
///
/// # Errors
/// When it cannot be run, or, with `check`, when a target is missed.
pub(crate) fn run(
    root: &Path,
    name: &str,
    argument: Option<&str>,
    json: Option<&Path>,
    check: bool,
) -> anyhow::Result<()> {
    setup::run(root)?;
    let report = match name {
        "failover" => {
            tools::etcd(root)?;
            tools::postgresql()?;
            release(root)?;
            target(root, "portolan-tests", name, argument)?
        }
        "dns" => {
            tools::dns()?;
            target(root, "portolan-dns", name, None)?
        }
        "platform" => {
            tools::etcd(root)?;
            languages::build(root)?;
            release(root)?;
            target(root, "portolan-tests", name, None)?
        }
        "policy" => {
            demo::build(root)?;
            languages::build(root)?;
            target(root, "portolan-tests", name, None)?
        }
        "proxy" => {
            release(root)?;
            proxy::run(root)?
        }
        "replication" | "shards" => {
            tools::postgresql()?;
            release(root)?;
            target(root, "portolan-tests", name, None)?
        }
        _ => bail!(
            "there is no benchmark `{name}`: there are dns, failover, platform, policy, proxy, replication, shards"
        ),
    };
    for (name, value) in &report.figures {
        println!("{name:48} {value:>14.2}");
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).context("write the report")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if check { hold(root, &report) } else { Ok(()) }
}

/// The program and what measures it are built together, so that both have the same dependencies with the same features.
const PROGRAM: [&str; 4] = ["--package", "portolan", "--package", "portolan-tests"];

/// Builds the program as it is measured.
fn release(root: &Path) -> anyhow::Result<()> {
    eprintln!("== build the release binary (takes some minutes the first time)");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args(["build", "--release", "--bin", "portolan"]).args(PROGRAM);
    let built = cargo.stdout(std::io::stderr()).status().context("start cargo")?;
    anyhow::ensure!(built.success(), "portolan does not build");
    Ok(())
}

/// Runs a benchmark that is a target of cargo, in a package that may depend on what it measures.
fn target(root: &Path, package: &str, name: &str, argument: Option<&str>) -> anyhow::Result<Report> {
    eprintln!("== build and run the benchmark (the release build takes some minutes)");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args(["bench", "--bench", name]);
    match package {
        "portolan-tests" => cargo.args(PROGRAM),
        _ => cargo.args(["--package", package]),
    };
    cargo.args(argument.map(|argument| ["--", argument]).into_iter().flatten());
    let output = cargo.stderr(std::process::Stdio::inherit()).output().context("start cargo")?;
    anyhow::ensure!(output.status.success(), "the benchmark failed; its messages are above");
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().rev().find(|line| line.starts_with('{')).context("find the benchmark's report")?;
    serde_json::from_str(line).context("read the benchmark's report")
}

fn hold(root: &Path, report: &Report) -> anyhow::Result<()> {
    let path = root.join("tests/bench/targets.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let targets: Targets = toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let mut missed = 0;
    for target in targets.target.iter().filter(|target| target.bench == report.bench) {
        let Some(&found) = report.figures.get(&target.figure) else {
            println!("miss       {}: not measured", target.figure);
            missed += 1;
            continue;
        };
        // Where the run gives an interval, a target inside it is not decided by this run.
        let bound =
            |end: &str| report.figures.get(&format!("{}.{end}", target.figure)).copied().unwrap_or(found);
        let word = match (bound("low"), bound("high")) {
            (_, high) if high <= target.at_most => "pass",
            (low, _) if low > target.at_most => "miss",
            _ => "undecided",
        };
        println!("{word:10} {} = {found:.2}, at most {} ({})", target.figure, target.at_most, target.reason);
        missed += usize::from(word == "miss");
    }
    if missed > 0 {
        bail!("{missed} targets were missed");
    }
    Ok(())
}
