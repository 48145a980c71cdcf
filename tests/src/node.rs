//! A node as its operator has it: a process, a folder with `portolan.toml`, an admin socket, a log. The process ends with
//! the value.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use portolan_foundation::task;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::client::Answer;
use crate::{LOOK, PATIENCE, until};

/// Of each node, when its test fails.
const WARNINGS_SHOWN: usize = 20;

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Child,
    folder: Home,
    listeners: Vec<SocketAddr>,
}

/// Its folder. A test that fails tells what its nodes warned of last.
#[derive(Debug)]
struct Home(TempDir);

impl Home {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let told = log.lines().filter(|line| !line.contains(" INFO "));
            let from = told.clone().count().saturating_sub(WARNINGS_SHOWN);
            told.skip(from).for_each(|line| eprintln!("{}: {line}", self.path().display()));
        }
    }
}

/// The program under test: `cargo xtask test` has built it; cargo puts tests beside it.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own file");
    let program = test.ancestors().nth(2).expect("a target folder").join("portolan");
    assert!(program.is_file(), "{} is missing: run `cargo build --bin portolan`", program.display());
    program
}

/// Runs a command of the program to its end.
///
/// # Panics
/// When it cannot be started.
pub async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.expect("the program starts")
}

/// The same with other variables in its environment.
///
/// # Panics
/// When it cannot be started.
pub async fn run_with(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.current_dir(folder).args(arguments).envs(variables.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("the program starts")
}

/// The same; gives its exit code and all that it said.
///
/// # Panics
/// When it cannot be started, or is ended by a signal.
pub async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("an exit code"), text.into_owned())
}

/// The same of a command that is to succeed; gives all that it said.
///
/// # Panics
/// When it does not.
pub async fn good(folder: &Path, arguments: &[&str]) -> String {
    let (code, text) = says(folder, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

/// Makes a folder with a configuration. `public = ["127.0.0.1:0"]` and the like are the text's affair.
///
/// # Panics
/// When the disk is full.
#[must_use]
pub fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir_all(folder.path().join("conf.d")).expect("a folder");
    std::fs::create_dir_all(folder.path().join("policies")).expect("a folder");
    std::fs::write(folder.path().join("portolan.toml"), text).expect("a file");
    folder
}

impl Node {
    /// Starts a node with this configuration, and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up; the message has its log.
    pub async fn start(text: &str) -> Self {
        Self::start_in(folder(text)).await
    }

    /// The same in a folder that is prepared.
    ///
    /// # Panics
    /// When it does not come up; the message has its log.
    pub async fn start_in(folder: TempDir) -> Self {
        Self::start_with(folder, &[], PATIENCE).await
    }

    /// The same with arguments for `serve`, and another patience.
    ///
    /// # Panics
    /// When it does not come up; the message has its log.
    pub async fn start_within(folder: TempDir, arguments: &[&str], patience: Duration) -> Self {
        Self::start_with(folder, arguments, patience).await
    }

    /// Ends it with SIGKILL, and starts it anew in its folder with these arguments for `serve`.
    ///
    /// # Panics
    /// When it does not come up; the message has its log.
    pub async fn restarted(self, arguments: &[&str]) -> Self {
        let Self { mut child, folder, .. } = self;
        child.kill().await.expect("it is ours");
        std::fs::remove_file(folder.path().join(".portolan/admin.sock")).ok();
        Self::spawn(Command::new(program()), folder, arguments, PATIENCE).await
    }

    /// The same by a command that runs what is added to it in its own process, such as `unshare`.
    ///
    /// # Panics
    /// When it does not come up; the message has its log.
    pub async fn start_by(folder: TempDir, command: &[&str]) -> Self {
        let (first, rest) = command.split_first().expect("a command");
        let mut command = Command::new(first);
        command.args(rest).arg(program());
        Self::spawn(command, Home(folder), &[], PATIENCE).await
    }

    async fn start_with(folder: TempDir, arguments: &[&str], patience: Duration) -> Self {
        Self::spawn(Command::new(program()), Home(folder), arguments, patience).await
    }

    async fn spawn(mut command: Command, folder: Home, arguments: &[&str], patience: Duration) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let access = std::fs::File::create(folder.path().join("stdout")).expect("a file");
        command
            .current_dir(folder.path())
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(access)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().expect("the program starts");
        let mut node = Self { child, folder, listeners: Vec::new() };
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(status) = node.ask("GET", "/api/v1/status", Value::Null).await {
                let texts = status["listeners"].as_array().cloned().unwrap_or_default();
                node.listeners = texts.iter().filter_map(|text| text.as_str()?.parse().ok()).collect();
                return node;
            }
            let ended = node.child.try_wait().expect("the process's state");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the node did not come up: {ended:?}\n{}",
                node.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The address of its first listener.
    #[must_use]
    pub fn public(&self) -> SocketAddr {
        self.listener(0)
    }

    /// The address of a listener, in the order public, TLS, peer, replication.
    ///
    /// # Panics
    /// When there is no such listener.
    #[must_use]
    pub fn listener(&self, number: usize) -> SocketAddr {
        *self.listeners.get(number).expect("a listener")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.log()
    }

    /// Its standard output so far: the access log, if it goes there.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    /// Puts a file of its folder into place as a whole.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, bytes).expect("a file");
        std::fs::rename(&partial, &path).expect("a file");
    }

    /// What it tells of itself.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn status(&self) -> Value {
        self.ask("GET", "/api/v1/status", Value::Null).await.expect("the node's status")
    }

    /// The generation that it runs.
    pub async fn generation(&self) -> u64 {
        self.status().await["generation"].as_u64().unwrap_or_default()
    }

    /// Waits for a generation after this one, and gives its number.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn after(&self, generation: u64) -> u64 {
        until("a new generation", async || self.generation().await > generation).await;
        self.generation().await
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// When the kernel does not tell.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process's state");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Its process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a running process")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("a running process"), signal).expect("the signal arrives");
    }

    /// Waits for its end; gives its exit code, or the number of the signal that ended it with a minus.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> i32 {
        let waited = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = waited.expect("the process ends").expect("the process's status");
        status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())
    }

    /// Asks its admin socket.
    ///
    /// # Errors
    /// When it does not answer with a success.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let answer = self.ask_plain(method, path, body).await?;
        if !answer.status.is_success() {
            bail!("{}: {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).context("read the answer")
    }

    /// The same, for answers of any kind.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask_plain(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Answer> {
        self.ask_with(method, path, &[], body).await
    }

    /// The same, with header fields.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> anyhow::Result<Answer> {
        let socket = self.folder.path().join(".portolan/admin.sock");
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        task::spawn("admin-client", async move { connection.await.ok() });
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        Answer::read(sender.send_request(request).await?).await
    }
}
