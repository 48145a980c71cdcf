//! `cargo xtask setup`: what demo and tests share. Finds a standard library for wasm32 and builds the bundled policies into
//! `target/policies`, from where the binary embeds them. From a warm tree it takes about a second.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::{guests, tools};

/// What guests are built for.
const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's packages of a Rust compiler with sources, beside which come the library's and LLVM's versioned ones.
const DEBIAN: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "rust-web-src"];

/// How components in Rust are built.
#[derive(Clone, Debug)]
pub(crate) enum Toolchain {
    /// Debian's compiler, unpacked here, which builds the library from its sources.
    Debian {
        /// Where it was unpacked.
        prefix: PathBuf,
        /// rustup's own linker.
        linker: PathBuf,
    },
    /// The usual one, with the target's library.
    Usual,
}

/// Sets up.
///
/// # Errors
/// With the command that installs what is missing.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    tools::protoc(root)?;
    let toolchain = toolchain(root)?;
    toolchain.note(root)?;
    guests::build(root, &toolchain)
}

/// The folder of what is built.
pub(crate) fn target(root: &Path) -> PathBuf {
    root.join("target")
}

/// All files below a folder.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            if kind.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

impl Toolchain {
    /// A cargo command that builds for wasm32 in release mode.
    pub(crate) fn cargo_build(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--target", TARGET]).envs(self.environment());
        cargo
    }

    /// What makes any `cargo build` for wasm32 use it.
    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        match self {
            Self::Usual => Vec::new(),
            Self::Debian { prefix, linker } => vec![
                ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.clone()),
                ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort".into()),
                ("LD_LIBRARY_PATH", library_path(prefix)),
                ("RUSTC", prefix.join("usr/bin/rustc")),
                ("RUSTC_BOOTSTRAP", "1".into()),
            ],
        }
    }

    /// Leaves the environment for tests that build policies as their writers do.
    fn note(&self, root: &Path) -> anyhow::Result<()> {
        let place = target(root).join("wasm-toolchain.env");
        let lines =
            self.environment().into_iter().map(|(name, value)| format!("{name}={}\n", value.display()));
        std::fs::create_dir_all(target(root)).context("create target/")?;
        std::fs::write(&place, lines.collect::<String>())
            .with_context(|| format!("write {}", place.display()))
    }
}

/// The environment that [`run`] left.
///
/// # Errors
/// When there was no set-up yet.
pub(crate) fn toolchain_note(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let place = target(root).join("wasm-toolchain.env");
    let text = std::fs::read_to_string(&place).with_context(|| format!("read {}", place.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

fn library_path(prefix: &Path) -> PathBuf {
    prefix.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
}

/// The first that works: the target is there; rustup fetches it; Debian's packages.
fn toolchain(root: &Path) -> anyhow::Result<Toolchain> {
    if has_target() {
        return Ok(Toolchain::Usual);
    }
    let prefix = target(root).join("rust-web");
    if let Some(toolchain) = unpacked(&prefix) {
        return Ok(toolchain);
    }
    eprintln!("== fetch the standard library for {TARGET}: rustup target add {TARGET}");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).stdin(Stdio::null()).stdout(std::io::stderr());
    if rustup.status().is_ok_and(|status| status.success()) && has_target() {
        return Ok(Toolchain::Usual);
    }
    eprintln!("== rustup cannot fetch it here; unpack Debian's Rust for the web under {}", prefix.display());
    unpack(&prefix).with_context(|| {
        format!(
            "no standard library for {TARGET}: run `rustup target add {TARGET}`, or on Debian 12 \
             `apt-get update` as root and then this command again"
        )
    })?;
    unpacked(&prefix)
        .with_context(|| format!("find a compiler in {}: remove the folder and try again", prefix.display()))
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn has_target() -> bool {
    let folder = output("rustc", &["--print", "target-libdir", "--target", TARGET]);
    folder.is_some_and(|folder| files(Path::new(&folder)).is_ok_and(|files| !files.is_empty()))
}

fn unpacked(prefix: &Path) -> Option<Toolchain> {
    let sysroot = output("rustc", &["--print", "sysroot"])?;
    let host = output("rustc", &["--print", "host-tuple"])?;
    let linker = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    let whole = prefix.join("complete").is_file() && linker.is_file();
    whole.then(|| Toolchain::Debian { prefix: prefix.to_owned(), linker })
}

fn unpack(prefix: &Path) -> anyhow::Result<()> {
    drop(std::fs::remove_dir_all(prefix));
    let mut packages = packages();
    if packages.is_none() {
        update_packages()?;
        packages = self::packages();
    }
    let packages = packages.context("find rustc-web among Debian's packages")?;
    unpack_packages(prefix, &packages)?;
    link_sources(prefix)?;
    std::fs::write(prefix.join("complete"), packages.join("\n")).context("mark the compiler as complete")
}

/// Asks Debian anew which packages there are.
///
/// # Errors
/// When apt cannot; it needs root.
pub(crate) fn update_packages() -> anyhow::Result<()> {
    eprintln!("== apt-get update");
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]).stdout(std::io::stderr());
    anyhow::ensure!(
        update.status().context("start apt-get")?.success(),
        "`apt-get update` failed; it needs root"
    );
    Ok(())
}

/// Downloads Debian's packages and unpacks them below a folder, which needs no root.
///
/// # Errors
/// When apt or dpkg cannot.
pub(crate) fn unpack_packages(prefix: &Path, packages: &[String]) -> anyhow::Result<()> {
    let downloads = prefix.join("downloads");
    std::fs::create_dir_all(&downloads).with_context(|| format!("create {}", downloads.display()))?;
    let mut download = Command::new("apt-get");
    download.current_dir(&downloads).args(["download", "-qq"]).args(packages).stdout(std::io::stderr());
    anyhow::ensure!(download.status().context("start apt-get")?.success(), "`apt-get download` failed");
    for package in files(&downloads)? {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-x").arg(&package).arg(prefix).stdout(std::io::stderr());
        anyhow::ensure!(dpkg.status().context("start dpkg")?.success(), "unpack {}", package.display());
    }
    drop(std::fs::remove_dir_all(&downloads));
    Ok(())
}

/// The packages to unpack: ours, and those of the library and of LLVM that they ask for by version.
fn packages() -> Option<Vec<String>> {
    let mut packages: Vec<String> = DEBIAN.iter().map(|name| (*name).to_owned()).collect();
    let mut next = 0;
    while let Some(name) = packages.get(next).cloned() {
        let listing = output("apt-cache", &["depends", "--no-recommends", "--no-suggests", &name])?;
        for line in listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")) {
            let wanted = line.starts_with("libstd-rust-web-") || line.starts_with("libllvm");
            if wanted && !packages.iter().any(|known| known == line) {
                packages.push(line.to_owned());
            }
        }
        next += 1;
    }
    (packages.len() > DEBIAN.len()).then_some(packages)
}

/// Puts the library's sources where cargo looks for them.
fn link_sources(prefix: &Path) -> anyhow::Result<()> {
    let sources = std::fs::read_dir(prefix.join("usr/src")).context("list the unpacked sources")?;
    let sources = sources.flatten().map(|entry| entry.path()).find(|path| path.join("library/std").is_dir());
    let Some(sources) = sources else { bail!("rust-web-src holds no standard library") };
    let place = prefix.join("usr/lib/rustlib/src");
    std::fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    let link = place.join("rust");
    drop(std::fs::remove_file(&link));
    std::os::unix::fs::symlink(&sources, &link).with_context(|| format!("link {}", link.display()))
}
