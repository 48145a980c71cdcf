//! `portolan doctor`: looks at this machine and this folder for what portolan needs, and offers the command that mends each
//! finding.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::Args;
use portolan_foundation::clock;
use serde::Serialize;
use serde_json::json;

use crate::cli::ConfigFile;
use crate::plugin::tool;
use crate::{bundled, config, print};

/// A clock before this is wrong: milliseconds of 2026-01-01. Certificates and tokens would be refused.
const EARLIEST_MS: u64 = 1_767_225_600_000;
/// Descriptors that a gateway with some thousand clients and upstreams needs.
const FILES_MIN: u64 = 4_096;

/// What `doctor` is told.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    /// Run the commands that mend what is found, after asking about each.
    #[arg(long)]
    fix: bool,
    /// Do not ask, and mend failures alone: what is missing for a language is installed only when somebody agrees.
    #[arg(short, long, requires = "fix")]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    /// All is well.
    Ok,
    /// Something is missing that not everybody needs.
    Warn,
    /// A gateway would not start here.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    what: String,
    level: Level,
    told: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// A command that tells more, or mends it only for the shell that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    see: Option<String>,
}

/// Looks, and mends when asked to.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn run(options: &Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = look(&options.file.config);
    if options.fix {
        for finding in &findings {
            mend(finding, options.yes)?;
        }
        findings = look(&options.file.config);
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if options.json {
        print(&serde_json::to_string_pretty(&json!({ "ok": worst < Level::Fail, "findings": findings }))?)?;
    } else {
        for finding in &findings {
            let word = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            print(&format!("{word}  {:18} {}", finding.what, finding.told))?;
            if let Some(fix) = &finding.fix {
                print(&format!("      {:18} fix: {fix}", ""))?;
            }
            if let Some(see) = &finding.see {
                print(&format!("      {:18} see: {see}", ""))?;
            }
        }
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        print(&format!("{} warnings, {} failures", count(Level::Warn), count(Level::Fail)))?;
    }
    Ok(if worst < Level::Fail { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    system(&mut findings);
    configuration(path, &mut findings);
    tools(&mut findings);
    findings
}

fn finding(what: &str, level: Level, told: impl Into<String>, fix: Option<&str>) -> Finding {
    Finding { what: what.to_owned(), level, told: told.into(), fix: fix.map(str::to_owned), see: None }
}

impl Finding {
    fn see(self, command: String) -> Self {
        Self { see: Some(command), ..self }
    }
}

/// A path as one word of a shell's command.
fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        text.into_owned()
    } else {
        let text = if text.starts_with('-') { format!("./{text}") } else { text.into_owned() };
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What every gateway needs of its machine.
fn system(findings: &mut Vec<Finding>) {
    let now = clock::unix_ms();
    findings.push(if now < EARLIEST_MS {
        finding(
            "time",
            Level::Fail,
            "the clock is before 2026: certificates will be refused",
            Some("timedatectl set-ntp true"),
        )
    } else {
        finding("time", Level::Ok, format!("{now} ms since 1970"), None)
    });
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    findings.push(if files < FILES_MIN {
        let told = format!("{files} open files are allowed; each connection takes one");
        finding("open files", Level::Warn, told, None).see(format!("ulimit -n {}", FILES_MIN * 16))
    } else {
        finding("open files", Level::Ok, format!("{files} are allowed"), None)
    });
    findings.push(if bundled::ALL.is_empty() {
        finding(
            "bundled policies",
            Level::Warn,
            "this binary has none",
            Some("cargo xtask setup && cargo build --bin portolan"),
        )
    } else {
        finding("bundled policies", Level::Ok, format!("{} are in this binary", bundled::ALL.len()), None)
    });
}

/// The configuration of this folder, the folder of its state, and its addresses.
fn configuration(path: &Path, findings: &mut Vec<Finding>) {
    let shown = path.display();
    if !path.is_file() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let fix = format!("portolan init {}", word(folder.unwrap_or_else(|| Path::new("."))));
        return findings.push(finding(
            "configuration",
            Level::Warn,
            format!("there is no {shown}"),
            Some(&fix),
        ));
    }
    let loaded = match crate::load(path) {
        Ok(Ok((loaded, _))) => loaded,
        Ok(Err(rejected)) => {
            let count = rejected.problems.len();
            let first =
                rejected.problems.first().map(|problem| problem.line(&rejected.sources)).unwrap_or_default();
            let told = format!("{shown} has {count} problems; the first: {first}");
            let see = format!("portolan validate --config {}", word(path));
            return findings.push(finding("configuration", Level::Fail, told, None).see(see));
        }
        Err(error) => {
            return findings.push(finding("configuration", Level::Fail, format!("{shown}: {error:#}"), None));
        }
    };
    findings.push(finding("configuration", Level::Ok, format!("{shown} is good"), None));
    state(&loaded.config.state, findings);
    if loaded.config.state.join(crate::node::SOCKET).exists() {
        // A node that runs here has its addresses itself.
        return;
    }
    for address in addresses(&loaded.config) {
        findings.push(port(address));
    }
}

fn state(folder: &Path, findings: &mut Vec<Finding>) {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = folder.display();
    let Ok(metadata) = std::fs::metadata(folder) else {
        return findings.push(finding("state", Level::Ok, format!("{shown} will be made"), None));
    };
    let probe = tempfile::Builder::new().prefix(".doctor").tempfile_in(folder);
    findings.push(match probe {
        Err(error) => {
            let fix = format!("chown -R \"$(id -un)\" {}", word(folder));
            finding("state", Level::Fail, format!("{shown} cannot be written: {error}"), Some(&fix))
        }
        Ok(_) if metadata.permissions().mode() & 0o002 != 0 => {
            let fix = format!("chmod o-w {}", word(folder));
            finding(
                "state",
                Level::Fail,
                format!("everybody may write to {shown}, compiled code included"),
                Some(&fix),
            )
        }
        Ok(_) => finding("state", Level::Ok, format!("{shown} can be written"), None),
    });
}

fn addresses(config: &config::Config) -> Vec<SocketAddr> {
    let listen = &config.listen;
    listen.public.iter().chain(&listen.public_tls).chain(&listen.peer).copied().collect()
}

fn port(address: SocketAddr) -> Finding {
    let what = format!("address {address}");
    match TcpListener::bind(address) {
        Ok(_) => finding(&what, Level::Ok, "is free", None),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let fix = "setcap cap_net_bind_service=+ep \"$(command -v portolan)\"";
            finding(&what, Level::Fail, "needs a right that this user does not have", Some(fix))
        }
        Err(error) => {
            let see = format!("ss -ltnp 'sport = :{}'", address.port());
            finding(&what, Level::Fail, format!("cannot be taken: {error}"), None).see(see)
        }
    }
}

/// What building policies needs, language by language. None of it is needed to serve.
fn tools(findings: &mut Vec<Finding>) {
    let mut tool = |what: &str, version: Option<String>, install: &str| {
        findings.push(match version {
            Some(version) => finding(what, Level::Ok, version, None),
            None => finding(what, Level::Warn, "is not here", Some(install)),
        });
    };
    tool("Rust", tool::version(&["cargo", "--version"]), tool::INSTALL_RUST);
    let sysroot = tool::version(&["rustc", "--print", "sysroot"]);
    let library = sysroot.map(|sysroot| Path::new(&sysroot).join("lib/rustlib/wasm32-unknown-unknown/lib"));
    let library = library.filter(|library| library.is_dir()).map(|library| library.display().to_string());
    tool("Rust for wasm32", library, tool::INSTALL_RUST_TARGET);
    tool("Node.js", tool::version(&["node", "--version"]), tool::INSTALL_NODE);
    tool("npm", tool::version(&["npm", "--version"]), tool::INSTALL_NODE);
    tool("Python", tool::version(&["python3", "--version"]), "apt-get install -y python3 python3-venv");
    tool("componentize-py", tool::version(&["componentize-py", "--version"]), tool::INSTALL_COMPONENTIZE_PY);
    let zig = tool::zig().and_then(|words| tool::version(&[&words[..], &["version"]].concat()));
    tool("zig", zig, tool::INSTALL_ZIG);
    tool("C for wasm32", tool::c_compiler(), tool::INSTALL_ZIG);
    tool("make", tool::version(&["make", "--version"]), tool::INSTALL_MAKE);
    tool("Go", tool::version(&["go", "version"]), tool::INSTALL_GO);
    tool("protoc", tool::version(&["protoc", "--version"]), "apt-get install -y protobuf-compiler");
}

/// Runs a finding's command, once somebody agrees.
fn mend(finding: &Finding, yes: bool) -> anyhow::Result<()> {
    let Some(fix) = finding.fix.as_deref().filter(|_| finding.level > Level::Ok) else { return Ok(()) };
    let agreed = if yes { finding.level == Level::Fail } else { agrees(&finding.what, &finding.told, fix)? };
    if !agreed {
        return Ok(());
    }
    eprintln!("== {fix}");
    let status = Command::new("sh").args(["-c", fix]).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status.context("start sh")? {
        status if status.success() => {}
        status => eprintln!("`{fix}` ended with {status}"),
    }
    Ok(())
}

/// Asks at the terminal. Where there is none, nobody agrees.
fn agrees(what: &str, told: &str, fix: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        eprintln!(
            "{what}: {told}; not mended, because there is no terminal to ask at: add --yes, or run `{fix}`"
        );
        return Ok(false);
    }
    eprint!("{what}: {told}\n  run `{fix}`? [y/N] ");
    std::io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_the_shell() {
        for (path, text) in [
            ("/srv/state", "/srv/state"),
            ("/srv/my state", "'/srv/my state'"),
            ("/a;rm -r b", "'/a;rm -r b'"),
            ("it's", r"'it'\''s'"),
            ("-R", "'./-R'"),
            ("", "''"),
        ] {
            assert_eq!(word(Path::new(path)), text);
        }
    }
}
