//! Compilation in a process of its own, which can be killed and can do nothing but compile.
//!
//! The child gets the component on its standard input and answers with one frame on its standard output. It has an
//! empty environment, no file and no socket beyond its three pipes and no way to open one (RLIMIT_NOFILE is 0), and
//! bounded memory and time; what else holds it is `confine`'s. Its code goes from the pipe into memory that is sealed before
//! anybody looks at it, and is never a file that could change after its check.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::artefact::Artefact;
use crate::config::Limits;
use crate::confine::{Confinement, confine};
use crate::error::{Refused, Stage, printable};
use crate::machine;

/// What a frame begins with.
const MAGIC: &[u8; 16] = b"portolan-code-2\n";
/// Magic, what held the child, length, BLAKE3 of the code.
const HEAD_BYTES: usize = 16 + 1 + 8 + 32;
/// Of what the child complains, only the end is kept.
const COMPLAINT_BYTES_MAX: usize = 1_024;
/// How long a child that has said everything may take to end.
const END_GRACE: Duration = Duration::from_secs(2);

/// Compiles in this process.
pub(crate) fn in_process(component: &[u8]) -> Result<Artefact, Refused> {
    let engine = machine::compiler().map_err(|error| setup(&error))?;
    let cannot = |reason: String| {
        let fix = "look at the message: the component is valid, but the compiler cannot take it";
        Refused::new(Stage::Compile, reason, fix)
    };
    // The compiler panics over some components that it should refuse.
    match std::panic::catch_unwind(AssertUnwindSafe(|| Artefact::compile(&engine, component))) {
        Ok(compiled) => compiled.map_err(|error| cannot(format!("{error:#}"))),
        Err(_) => Err(cannot("the compiler panicked".to_owned())),
    }
}

fn setup(error: &wasmtime::Error) -> Refused {
    Refused::passing(Stage::Compile, format!("start the compiler: {error:#}"), "give it more memory")
}

/// Compiles in a child.
pub(crate) fn in_child(
    program: &Path,
    args: &[OsString],
    component: &[u8],
    limits: &Limits,
) -> Result<(Artefact, Confinement), Refused> {
    let mut child = Command::new(program)
        .args(args)
        .arg(format!("--memory-bytes={}", limits.compile_memory_bytes_max))
        .arg(format!("--cpu-seconds={}", limits.compile_cpu_seconds_max))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Refused::passing(
                Stage::Compile,
                format!("start `{}` to compile: {error}", program.display()),
                "check that the program is there and that the limit of processes allows another",
            )
        })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        unreachable!("all three were just piped")
    };
    std::thread::scope(|scope| {
        let guard = Guard::new(child, limits.compile_wall_max);
        let (frames, frame) = mpsc::sync_channel(1);
        let (complaints, complaint) = mpsc::sync_channel(1);
        let bytes_max = limits.artefact_bytes_max;
        // A write fails when the child has ended early; its status tells more than the broken pipe.
        scope.spawn(move || drop(stdin.write_all(component)));
        scope.spawn(move || drop(frames.send(read_frame(stdout, bytes_max))));
        scope.spawn(move || drop(complaints.send(read_end(stderr))));
        let code = frame.recv_timeout(guard.left());
        if let Ok(Ok(code)) = code {
            return Ok(code);
        }
        let timed_out = matches!(code, Err(RecvTimeoutError::Timeout));
        let status = guard.end(if timed_out { Duration::ZERO } else { END_GRACE });
        let said = complaint.recv_timeout(END_GRACE).unwrap_or_default();
        Err(explain(timed_out, status, code.ok().and_then(Result::err), &said, limits))
    })
}

/// What became of a child that gave no code.
fn explain(
    timed_out: bool,
    status: Option<ExitStatus>,
    frame: Option<io::Error>,
    said: &str,
    limits: &Limits,
) -> Refused {
    use std::os::unix::process::ExitStatusExt as _;
    if let Some(refused) = said.strip_prefix("refused: ") {
        let fix = "look at the message: the component is valid, but the compiler cannot take it";
        return Refused::new(Stage::Compile, refused.trim_end(), fix);
    }
    let fix = "make the component smaller, or raise policies.compile_seconds";
    let (wall, cpu) = (limits.compile_wall_max, limits.compile_cpu_seconds_max);
    let memory = limits.compile_memory_bytes_max;
    let signal = status.and_then(|status| status.signal());
    let reason = if timed_out {
        format!("compiling took longer than {wall:?}")
    } else if signal == Some(Signal::XCPU.as_raw()) {
        format!("compiling took more than {cpu} s of processor time")
    } else if let Some(signal) = signal {
        format!("the compiler was ended by signal {signal}; it may have passed its {memory} bytes of memory")
    } else if let Some(code) = status.and_then(|status| status.code()).filter(|code| *code != 0) {
        format!("the compiler ended with status {code}")
    } else {
        let error = frame.map_or_else(|| "nothing".to_owned(), |error| error.to_string());
        format!("the compiler gave no code: {error}")
    };
    let said = if said.is_empty() { String::new() } else { format!("; it said: {}", said.trim_end()) };
    // A machine that is busy now may be idle later.
    Refused::passing(Stage::Compile, reason + &said, fix)
}

fn read_frame(mut stdout: ChildStdout, bytes_max: usize) -> io::Result<(Artefact, Confinement)> {
    let mut head = [0; HEAD_BYTES];
    stdout.read_exact(&mut head)?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (confinement, rest) = rest.split_at(1);
    let (length, hash) = rest.split_at(8);
    let length = length.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
    if magic != MAGIC || length > bytes_max as u64 {
        return Err(io::Error::other(format!("no code, or more than {bytes_max} bytes of it")));
    }
    let artefact = Artefact::from_own_child(&mut stdout, length)?;
    if artefact.hash()?.as_bytes() != hash {
        return Err(io::Error::other("the code is not whole"));
    }
    let confinement = confinement.first().copied().map_or_else(Confinement::default, Confinement::from_byte);
    Ok((artefact, confinement))
}

fn read_end(mut stderr: ChildStderr) -> String {
    let mut end = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(count @ 1..) = stderr.read(&mut piece) {
        end.extend(piece.iter().take(count));
        let over = end.len().saturating_sub(COMPLAINT_BYTES_MAX);
        end.drain(..over);
    }
    printable(&String::from_utf8_lossy(&end), COMPLAINT_BYTES_MAX)
}

/// A child that does not outlive its time, nor this.
struct Guard {
    pid: Option<std::os::fd::OwnedFd>,
    status: mpsc::Receiver<Option<ExitStatus>>,
    deadline: Instant,
}

impl Guard {
    fn new(mut child: Child, wall: Duration) -> Self {
        // A descriptor of the process, and not its number, because numbers are used again.
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if pid.is_none() {
            drop(child.kill());
        }
        let (sender, status) = mpsc::sync_channel(1);
        let wait = std::thread::Builder::new().name("policy-compile-wait".to_owned());
        let waiting = wait.spawn(move || sender.send(child.wait().ok()).unwrap_or(()));
        if waiting.is_err() {
            tracing::warn!("start a thread to wait for the policy compiler: raise `ulimit -u`");
        }
        Self { pid, status, deadline: Instant::now() + wall }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for its end, or brings it about.
    fn end(&self, grace: Duration) -> Option<ExitStatus> {
        if let Ok(status) = self.status.recv_timeout(grace) {
            return status;
        }
        self.kill();
        self.status.recv_timeout(END_GRACE).ok().flatten()
    }

    fn kill(&self) {
        if let Some(pid) = &self.pid {
            pidfd_send_signal(pid, Signal::KILL).ok();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body of the compiling child: gives up everything but compiling, reads a component, writes one frame. `args` are
/// those that the parent added behind the configured ones. The result is the process's exit status; the reason of a
/// failure has then been written to `complaints`.
pub fn compile_child(
    args: &[OsString],
    input: &mut dyn Read,
    output: &mut dyn Write,
    complaints: &mut dyn Write,
) -> u8 {
    match child(args, input, output) {
        Ok(()) => 0,
        Err(reason) => {
            // Nobody is left to hear of a failure to complain.
            drop(writeln!(complaints, "{reason}"));
            1
        }
    }
}

fn child(args: &[OsString], input: &mut dyn Read, output: &mut dyn Write) -> Result<(), String> {
    let confinement = confine(args)?;
    let mut component = Vec::new();
    input.read_to_end(&mut component).map_err(|error| format!("read the component: {error}"))?;
    let artefact = in_process(&component).map_err(|refused| format!("refused: {}", refused.reason))?;
    let mut write = || -> io::Result<()> {
        let code = &*artefact.bytes()?;
        output.write_all(MAGIC)?;
        output.write_all(&[confinement.to_byte()])?;
        output.write_all(&(code.len() as u64).to_le_bytes())?;
        output.write_all(blake3::hash(code).as_bytes())?;
        output.write_all(code)?;
        output.flush()
    };
    write().map_err(|error| format!("write the code: {error}"))
}
