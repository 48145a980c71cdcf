//! `portolan plugin dev`: builds a policy after each save, and shows which of its answers changed.
//!
//! What wakes it: a change in a folder of the project. What it reads: the sources, by their bytes, so that what a build leaves
//! behind wakes it for nothing; the golden vectors, and a recording if one is named. What it writes: the component. On failure
//! it shows the compiler's messages and waits for the next save.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use portolan_foundation::watch::Folders;
use portolan_policy::vectors::Decided;
use portolan_policy::{Engine, Log, Tried};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use super::build::Built;
use super::{ask, build, check};
use crate::{node, print, replay};

/// Folders of other tools' output, whose names are the same in all languages' projects.
const OUTPUTS: [&str; 12] = [
    "target",
    "node_modules",
    "dist",
    "build",
    "gen",
    "zig-out",
    ".zig-cache",
    ".venv",
    "__pycache__",
    ".git",
    "sdk",
    ".portolan",
];
/// Files and folders of a project; more are not looked at.
const FILES_MAX: usize = 2_000;
/// Bytes of one file that are looked at.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What `plugin dev` is told.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The project.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// A folder or file of recorded decisions: what the policy would change of them is shown after each build.
    #[arg(long)]
    recording: Option<PathBuf>,
    /// The name under which they were recorded; the component's when absent.
    #[arg(long = "as")]
    name: Option<String>,
    /// End after so many builds.
    #[arg(long, hide = true)]
    builds: Option<u32>,
}

/// What the last good build said.
struct Said {
    answers: BTreeMap<String, Option<Decided>>,
}

struct Loop {
    engine: Engine,
    log: Arc<Log>,
    name: Option<String>,
    path: PathBuf,
    recording: Option<PathBuf>,
    said: Option<Said>,
}

/// Builds until it is interrupted.
///
/// # Errors
/// When the folder is no project, or cannot be watched.
pub(crate) fn run(options: &Dev) -> anyhow::Result<ExitCode> {
    let path = options.path.canonicalize().with_context(|| format!("find {}", options.path.display()))?;
    super::language::Language::of(&path)?;
    let runtime = node::control_runtime()?;
    let mut dev = Loop {
        engine: check::engine(|_| {})?,
        log: check::log()?,
        name: options.name.clone(),
        path,
        recording: options.recording.clone(),
        said: None,
    };
    let builds_max = options.builds.unwrap_or(u32::MAX);
    runtime.block_on(async {
        let mut interrupts = signal(SignalKind::interrupt()).context("wait for Ctrl-C")?;
        let mut seen = Vec::new();
        let mut builds = 0;
        loop {
            // Watched before it is looked at, so that no save falls between.
            let mut changes = Folders::watch(folders(&dev.path)?);
            let mut now = sources(&dev.path)?;
            while now == seen {
                tokio::select! {
                    () = changes.changed() => now = sources(&dev.path)?,
                    _ = interrupts.recv() => {
                        print("stopped")?;
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
            // A tool that is running gets Ctrl-C from the terminal too, and ends; it is looked at after the build.
            let building = tokio::task::spawn_blocking(move || {
                let built = dev.build();
                (dev, built)
            });
            let (back, built) = building.await.context("the build was lost; please report this")?;
            dev = back;
            built?;
            seen = now;
            builds += 1;
            if builds == builds_max {
                return Ok(ExitCode::SUCCESS);
            }
            print("waiting for the next save; Ctrl-C ends")?;
        }
    })
}

impl Loop {
    /// One round; a build that fails is told and survived.
    fn build(&mut self) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        let built = match build::component(&self.path) {
            Ok(built) => built,
            Err(error) => {
                eprintln!("error: {error:#}");
                return print("the build failed; the last good component stays");
            }
        };
        let place = built.write(None)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        print(&format!(
            "built {name}: {} bytes in {:.1} s",
            built.bytes.len(),
            begun.elapsed().as_secs_f64()
        ))?;
        let asked = self.ask(&built);
        let replayed =
            self.recording.as_ref().map(|recording| replay::changes(recording, &place, self.name.as_deref()));
        for told in std::iter::once(asked).chain(replayed) {
            match told {
                Ok(text) => print(&text)?,
                Err(error) => eprintln!("error: {error:#}"),
            }
        }
        Ok(())
    }

    /// Asks the golden vectors, and tells what is wrong and what changed.
    fn ask(&mut self, built: &Built) -> anyhow::Result<String> {
        let version = check::load(&self.engine, built)?;
        let (vectors, _) = ask::find(built, None)?;
        let tried = self.engine.try_vectors(&version, &vectors, &self.log)?;
        let failed = tried.iter().filter(|one| !one.passed).count();
        let mut text = String::new();
        if failed > 0 {
            let bad: Vec<Tried> = tried.iter().filter(|one| !one.passed).cloned().collect();
            text.push_str(&ask::table(&bad));
            text.push('\n');
        }
        text.push_str(&format!("vectors: {} passed, {failed} failed", tried.len() - failed));
        let said = Said { answers: tried.into_iter().map(|one| (one.name, one.decided)).collect() };
        if let Some(before) = &self.said {
            text.push_str(&said.changes(before));
        }
        self.said = Some(said);
        Ok(text)
    }
}

impl Said {
    /// Answers that differ from those of the build before, a line each.
    fn changes(&self, before: &Self) -> String {
        let word = |decided: &Option<Decided>| match decided {
            Some(decided) if decided.answers.is_empty() => "nothing".to_owned(),
            Some(decided) => decided.answers.join(", "),
            None => "no plan".to_owned(),
        };
        let changed: Vec<String> = self
            .answers
            .iter()
            .filter_map(|(name, now)| {
                let was = before.answers.get(name)?;
                (was != now).then(|| format!("\n  {name}: {} => {}", word(was), word(now)))
            })
            .collect();
        match changed.len() {
            0 => "\nanswers: none changed since the build before".to_owned(),
            count => format!("\nanswers: {count} changed since the build before{}", changed.concat()),
        }
    }
}

/// The folders of a project that hold sources.
fn folders(project: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = vec![project.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        next += 1;
        let entries = match std::fs::read_dir(&folder) {
            // A folder may go while it is looked for, but not the project's own.
            Err(_) if next > 1 => continue,
            entries => entries.with_context(|| format!("list {}", folder.display()))?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !OUTPUTS.contains(&name.as_str()) && !name.starts_with("portolan_policy_") {
                all.push(entry.path());
            }
        }
        if all.len() > FILES_MAX {
            break;
        }
    }
    Ok(all)
}

/// The hash of all sources: a build is due when it changes.
fn sources(project: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut files = Vec::new();
    for folder in folders(project)? {
        // A folder that has just gone has no files.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let made = path.extension().is_some_and(|extension| extension == "wasm" || extension == "tmp")
                || ["wit_exports.go", "component-type.bin", "Cargo.lock", "package-lock.json"]
                    .iter()
                    .any(|name| path.file_name().is_some_and(|known| known == *name));
            if path.is_file() && !made {
                files.push(path);
            }
        }
    }
    files.sort();
    files.truncate(FILES_MAX);
    let mut hasher = Sha256::new();
    for path in files {
        let mut bytes = Vec::new();
        if let Ok(file) = std::fs::File::open(&path) {
            file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok();
        }
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    Ok(hasher.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_count_and_what_builds_leave_does_not() {
        let project = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = project.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("src/policy.js", "one");
        let before = sources(project.path()).unwrap();
        write("dist/policy.js", "made");
        write("node_modules/x/index.js", "fetched");
        write("mine.wasm", "made");
        write("mine.wasm.tmp", "made");
        assert_eq!(sources(project.path()).unwrap(), before);
        write("src/policy.js", "two");
        assert_ne!(sources(project.path()).unwrap(), before);
    }
}
