//! `cargo xtask chaos [--minutes N] [--seed S]`: regions with real gateways, databases and voters, of which one after the other is hurt for some minutes.
//!
//! The storm is an end-to-end test, which says what it does. It ends with the first thing that is wrong, and how to repeat its faults.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{setup, tools};

/// How long it goes on unless somebody says so.
const MINUTES: u64 = 10;

/// How it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    minutes: u64,
    seed: Option<u64>,
}

impl Options {
    /// From the command's words; none when they are not understood.
    pub(crate) fn parse(mut words: &[&str]) -> Option<Self> {
        let mut options = Self { minutes: MINUTES, seed: None };
        loop {
            words = match words {
                [] => return Some(options),
                ["--minutes", minutes, rest @ ..] => {
                    options.minutes = minutes.parse().ok()?;
                    rest
                }
                ["--seed", seed, rest @ ..] => {
                    options.seed = Some(seed.parse().ok()?);
                    rest
                }
                _ => return None,
            };
        }
    }
}

/// Hurts regions.
///
/// # Errors
/// When something is wrong after it.
pub(crate) fn run(root: &Path, options: Options) -> anyhow::Result<()> {
    setup::run(root)?;
    tools::etcd(root)?;
    tools::postgresql()?;
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root);
        command
    };
    if !cargo().args(["build", "--package", "portolan"]).status().context("start cargo")?.success() {
        bail!("the gateway is not built: what is wrong is above");
    }
    let mut storm = cargo();
    storm
        .args(["test", "--quiet", "--package", "portolan-tests", "--test", "e2e"])
        .args(["failover::storm::one_region_after_the_other_is_hurt", "--", "--exact", "--nocapture"])
        .env("PORTOLAN_CHAOS_SECONDS", options.minutes.saturating_mul(60).to_string());
    if let Some(seed) = options.seed {
        storm.env("PORTOLAN_CHAOS_SEED", seed.to_string());
    }
    if !storm.status().context("start the storm")?.success() {
        bail!("something did not hold: it is above, with the seed of the faults");
    }
    Ok(())
}
