//! `cargo xtask demo`: set up, build, and hand over to `portolan demo`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::setup;

/// Runs the demo; its exit status is ours. Standard output is the demo's alone.
///
/// # Errors
/// When the set-up or the build fails.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    setup::run(root)?;
    build(root)?;
    let program = setup::target(root).join("debug/portolan");
    let status = Command::new(&program)
        .arg("demo")
        .args(arguments)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the binary in the profile that tests share.
///
/// # Errors
/// When it does not build.
pub(crate) fn build(root: &Path) -> anyhow::Result<()> {
    eprintln!("== build portolan (the first time takes some minutes)");
    let mut build = Command::new("cargo");
    build.current_dir(root).args(["build", "--package", "portolan", "--bin", "portolan"]);
    anyhow::ensure!(
        build.stdout(std::io::stderr()).status().context("start cargo")?.success(),
        "portolan does not build; the compiler's messages are above"
    );
    Ok(())
}
