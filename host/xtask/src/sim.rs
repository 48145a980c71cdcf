//! `cargo xtask sim [--hard] [--seeds N] [--from S] [--seed S]`: the simulation of replication, over many seeds or over one.
//!
//! The simulation is a test of `portolan-replication`, which says how far it has come. The first seed that fails ends it, with its trace and
//! how to run it again.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// Seeds that are run unless somebody says how many: some minutes.
const SEEDS: u64 = 5_000;
/// Lines of the trace of a seed that is run alone: all.
const LINES: u64 = 1_000_000;

/// Which seeds are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    from: u64,
    /// All that can befall does.
    hard: bool,
    lines: Option<u64>,
    seeds: u64,
}

impl Options {
    /// As many seeds as some minutes have time for.
    pub(crate) const LONG: Self = Self { from: 1, hard: false, lines: None, seeds: SEEDS };

    /// From the command's words; none when they are not understood.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let mut options = Self::LONG;
        let mut words = words;
        loop {
            words = match words {
                [] => return Some(options),
                ["--hard", rest @ ..] => {
                    options.hard = true;
                    rest
                }
                ["--seeds", count, rest @ ..] => {
                    options.seeds = count.parse().ok()?;
                    rest
                }
                ["--from", seed, rest @ ..] => {
                    options.from = seed.parse().ok()?;
                    rest
                }
                ["--seed", seed, rest @ ..] => {
                    options = Self { from: seed.parse().ok()?, lines: Some(LINES), seeds: 1, ..options };
                    rest
                }
                _ => return None,
            };
        }
    }
}

/// Runs seeds.
///
/// # Errors
/// When one of them fails: its trace has been printed.
pub(crate) fn run(root: &Path, options: Options) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .args(["test", "--quiet", "--package", "portolan-replication", "--lib", "sim::seeds"])
        .args(["--", "--exact", "--nocapture"])
        .env("PORTOLAN_SIM_HARD", u8::from(options.hard).to_string())
        .env("PORTOLAN_SIM_FROM", options.from.to_string())
        .env("PORTOLAN_SIM_SEEDS", options.seeds.to_string());
    if let Some(lines) = options.lines {
        command.env("PORTOLAN_SIM_LINES", lines.to_string());
    }
    if !command.status().context("start the simulation")?.success() {
        bail!("a seed failed: its trace is above");
    }
    eprintln!("{} seeds from {} on hold what they must", options.seeds, options.from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_told_in_full() {
        let one = Options { from: 7, hard: true, lines: Some(LINES), seeds: 1 };
        assert_eq!(Options::parse(&["--hard", "--seed", "7"]), Some(one));
        assert_eq!(
            Options::parse(&["--from", "5", "--seeds", "9"]),
            Some(Options { from: 5, hard: false, lines: None, seeds: 9 })
        );
        assert_eq!(Options::parse(&["--seeds", "many"]), None);
    }
}
