//! `cargo xtask test`: everything that must pass, from a clean clone, in order of what fails fastest.
//!
//! Each step says what it does and how long it took. Runners that count tests are added up, and the last line gives the
//! sum. A step that fails does not stop the others, so that one run shows all that is wrong; the exit code is 1.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{languages, setup, tools};

/// How long each fuzz target runs with `--all`, in seconds. Without it, tests try the same readers with bytes by chance.
const FUZZ_SECONDS: u32 = 300;

/// Tests counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    passed: u64,
    failed: u64,
}

struct Run<'a> {
    root: &'a Path,
    count: Count,
    broken: Vec<&'static str>,
    /// How long each step took, in order.
    took: Vec<(&'static str, Duration)>,
    /// What is built is built with lints.
    lints: bool,
}

/// Clippy in the compiler's place, for this repository's own crates: it compiles as well as it lints, so that one build does both. These are the
/// variables by which `cargo clippy -- -D warnings` says the same.
const LINTS: [(&str, &str); 2] = [
    ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"),
    ("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"),
];

/// Installs what tests need beside what everybody does.
///
/// # Errors
/// When something cannot be had.
pub(crate) fn set_up(root: &Path) -> anyhow::Result<()> {
    tools::nextest(root)?;
    tools::cargo_deny(root)?;
    tools::etcd(root)?;
    tools::schemathesis(root)?;
    tools::http_cache_tests(root)?;
    tools::docker_registry(root)?;
    tools::moto(root)?;
    tools::postgresql()?;
    tools::dns()?;
    Ok(())
}

/// Runs everything. `all` adds a clone without set-up, the long simulation and fuzzing, which need builds of their own.
///
/// # Errors
/// When anything failed, after everything ran.
pub(crate) fn run(root: &Path, all: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    setup::run(root)?;
    set_up(root)?;
    let (nextest, deny) = (tools::nextest(root)?, tools::cargo_deny(root)?);
    let mut run = Run { root, count: Count::default(), broken: Vec::new(), took: Vec::new(), lints: true };

    // For all systems, because licences are checked for all; and with the versions of the lock file.
    run.check("dependencies", &["fetch", "--locked"]);
    run.check("format", &["fmt", "--all", "--check"]);
    run.command(
        "format of the plugins",
        cargo(root).args(["fmt", "--all", "--check"]).current_dir(root.join("plugins")),
    );
    run.command(
        "licences, bans and sources",
        Command::new(deny).current_dir(root).args([
            "--offline",
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
    );
    advisories(root);
    run.build();
    run.step("example policies in other languages", || languages::build(root));
    let memory = Memory::with_room();
    run.counted(
        "tests",
        Command::new(&nextest)
            .current_dir(root)
            .args(["nextest", "run", "--workspace"])
            .env("INSTA_UPDATE", "no")
            .envs(memory.as_ref().map(|memory| ("TMPDIR", &memory.0)))
            .envs(run.lints()),
    );
    drop(memory);
    run.counted("documentation tests", cargo(root).args(["test", "--workspace", "--doc"]).envs(run.lints()));
    run.counted(
        "plugins, natively, with lints",
        cargo(root)
            .args(["test", "--workspace", "--manifest-path", "plugins/Cargo.toml"])
            .env("CARGO_TARGET_DIR", root.join("target/plugins-native"))
            .envs(LINTS),
    );
    if all {
        run.fresh_clone();
        run.step("long simulation", || crate::sim::run(root, crate::sim::Options::LONG));
        run.fuzz(FUZZ_SECONDS);
    }

    let Count { passed, failed } = run.count;
    eprintln!();
    for (step, took) in &run.took {
        eprintln!("{:>7.1} s  {step}", took.as_secs_f64());
    }
    let seconds = begun.elapsed().as_secs();
    eprintln!("finished in {} min {:02} s", seconds / 60, seconds % 60);
    for step in &run.broken {
        eprintln!("failed: {step}");
    }
    // A broken step without counted failures (a lint, a build) still counts as one.
    let failed = failed.max(run.broken.len() as u64);
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{} of the steps failed: {}", run.broken.len(), run.broken.join(", "))
    } else {
        Ok(())
    }
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command
}

/// The advisory database is fetched from a git host; where that is out of reach the check cannot be made.
fn advisories(root: &Path) {
    let database = root.join("target/advisory-db");
    if database.is_dir() {
        return;
    }
    eprintln!(
        "note: advisories are not checked, because their database is a git repository that is not here; \
         where it can be reached, run `cargo deny check advisories`"
    );
}

/// A folder in memory for what tests write: some hundred databases, each of which waits for its disk at every commit. Tests kill processes,
/// never the machine, so what is in memory outlives as much. It goes with its owner.
struct Memory(PathBuf);

impl Memory {
    /// Where systems have such a file system.
    const PLACE: &str = "/dev/shm";
    /// What four tests at once may fill, with as much again for who else uses it.
    const BYTES: u64 = 8 << 30;

    /// None where there is no such file system, or too little room in it.
    fn with_room() -> Option<Self> {
        let room = rustix::fs::statvfs(Self::PLACE).ok()?;
        if room.f_bavail.saturating_mul(room.f_frsize) < Self::BYTES {
            return None;
        }
        let folder = Path::new(Self::PLACE).join(format!("portolan-test-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        // Servers that never run as root get in, too.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).ok()?;
        Some(Self(folder))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Run<'_> {
    /// Builds all that is run, with lints; if those fail, once more without, so that tests run all the same.
    fn build(&mut self) {
        let build = ["build", "--workspace", "--all-targets"];
        self.command("build, with lints", cargo(self.root).args(build).envs(LINTS));
        self.lints = self.broken.last() != Some(&"build, with lints");
        if !self.lints {
            self.check("build, without lints", &build);
        }
    }

    fn lints(&self) -> Vec<(&'static str, &'static str)> {
        if self.lints { LINTS.to_vec() } else { Vec::new() }
    }

    fn check(&mut self, step: &'static str, arguments: &[&str]) {
        let mut command = cargo(self.root);
        command.args(arguments);
        self.command(step, &mut command);
    }

    fn command(&mut self, step: &'static str, command: &mut Command) {
        let begun = Instant::now();
        eprintln!("\n== {step}");
        let good = command.stdin(Stdio::null()).status().is_ok_and(|status| status.success());
        self.finish(step, good, begun);
    }

    fn step(&mut self, step: &'static str, work: impl FnOnce() -> anyhow::Result<()>) {
        let begun = Instant::now();
        eprintln!("\n== {step}");
        let result = work();
        if let Err(error) = &result {
            eprintln!("{error:#}");
        }
        self.finish(step, result.is_ok(), begun);
    }

    fn counted(&mut self, step: &'static str, command: &mut Command) {
        let begun = Instant::now();
        eprintln!("\n== {step}");
        match echo(command) {
            Ok((good, text)) => {
                let count = count(&text);
                self.count.passed += count.passed;
                self.count.failed += count.failed;
                self.finish(step, good && count.failed == 0, begun);
            }
            Err(error) => {
                eprintln!("{error:#}");
                self.finish(step, false, begun);
            }
        }
    }

    fn finish(&mut self, step: &'static str, good: bool, begun: Instant) {
        let (word, took) = (if good { "ok" } else { "FAILED" }, begun.elapsed());
        eprintln!("-- {step}: {word} ({:.1} s)", took.as_secs_f64());
        self.took.push((step, took));
        if !good {
            self.broken.push(step);
        }
    }

    /// A clone without any set-up must check, and its core must pass its tests: that is what a newcomer and an editor do
    /// first. Dependencies are shared with this tree's target folder.
    fn fresh_clone(&mut self) {
        let clone = self.root.join("target/fresh-clone");
        drop(std::fs::remove_dir_all(&clone));
        let begun = Instant::now();
        eprintln!("\n== fresh clone, before any set-up");
        let cloned = Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .args([self.root, &clone])
            .status()
            .is_ok_and(|status| status.success());
        if !cloned {
            return self.finish("fresh clone, before any set-up", false, begun);
        }
        let target = self.root.join("target");
        // protoc is the one tool that a clone may ask for by name.
        let protoc = self.root.join(".cargo/protoc");
        let mut check = cargo(&clone);
        check.args(["check", "--workspace"]).env("CARGO_TARGET_DIR", &target).env("PROTOC", &protoc);
        self.command("fresh clone: cargo check", &mut check);
        let mut test = cargo(&clone);
        test.args(["test", "-p", "portolan-core"]).env("CARGO_TARGET_DIR", &target).env("PROTOC", &protoc);
        self.counted("fresh clone: cargo test -p portolan-core", &mut test);
        self.told("fresh clone: a binary without policies says how to get them", &clone);
        drop(std::fs::remove_dir_all(&clone));
        // The clone's binary has taken the place of this tree's in the target folder.
        self.check("build again", &["build", "--workspace", "--bins"]);
    }

    /// The binary of a clone without set-up embeds no policies; it must say so, and what to do.
    fn told(&mut self, step: &'static str, clone: &Path) {
        let begun = Instant::now();
        eprintln!("\n== {step}");
        let mut run = cargo(clone);
        run.args(["run", "--quiet", "--package", "portolan", "--", "policies"]);
        run.env("CARGO_TARGET_DIR", self.root.join("target")).env("PROTOC", self.root.join(".cargo/protoc"));
        let told = run.stdin(Stdio::null()).output().is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stderr);
            eprint!("{text}");
            !output.status.success() && text.contains("cargo xtask setup")
        });
        if told {
            self.count.passed += 1;
        } else {
            self.count.failed += 1;
        }
        self.finish(step, told, begun);
    }

    fn fuzz(&mut self, seconds: u32) {
        let begun = Instant::now();
        eprintln!("\n== fuzzing, {seconds} s for each target");
        match crate::fuzz::run_all(self.root, seconds) {
            Ok(targets) => {
                self.count.passed += targets;
                self.finish("fuzzing", true, begun);
            }
            Err(error) => {
                eprintln!("{error:#}");
                self.count.failed += 1;
                self.finish("fuzzing", false, begun);
            }
        }
    }
}

/// Runs a command, shows its output as it comes and keeps it.
fn echo(command: &mut Command) -> anyhow::Result<(bool, String)> {
    use std::io::{BufRead as _, BufReader};
    // nextest reports on standard error, libtest on standard output; one pipe keeps their order.
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let second = writer.try_clone().context("share the pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    // The command holds copies of the pipe's end, which would keep it open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line.context("read the runner's output")?;
        eprintln!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    Ok((child.wait().context("wait for the runner")?.success(), text))
}

/// Adds up the closing lines of libtest (`test result: ok. 3 passed; 0 failed; ...`) and nextest
/// (`Summary [ 1.2s] 40 tests run: 39 passed, 1 failed, 0 skipped`).
pub(crate) fn count(text: &str) -> Count {
    let mut total = Count::default();
    for line in text.lines() {
        // nextest shows what a failed test printed, indented: those closing lines are not counted a second time.
        let summary = line.trim_start();
        let closing = line.starts_with("test result:")
            || (summary.starts_with("Summary [") && summary.contains("run:"));
        if !closing {
            continue;
        }
        let words: Vec<&str> =
            line.split([' ', ';', ',', ':', '(', ')']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let [number, word] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match *word {
                "passed" => total.passed += number,
                "failed" | "timed" => total.failed += number,
                _ => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_runners_are_added_up() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    running 5 tests\n\
                    \x20   test result: FAILED. 0 passed; 1 failed; 0 ignored; as a failed test printed it\n\
                    \x20    Summary [   1.205s] 40 tests run: 38 passed (2 slow), 1 failed, 1 timed out, 0 skipped\n";
        assert_eq!(count(text), Count { passed: 41, failed: 2 });
    }
}
