//! The access log: one JSON object a line, written by a thread of its own.
//!
//! A data thread puts a line into a bounded queue and goes on; a line that finds no place is dropped and counted, because
//! a slow disk must not slow requests.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use portolan_core::lane::Side;
use serde::Serialize;

/// Lines that may wait for the disk.
const QUEUE_LINES_MAX: usize = 16 * 1024;

/// Bytes that are written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Where to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Appended to.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What is known of one request when it has ended.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Line {
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) request_id: String,
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) tenant: Option<String>,
    pub(crate) status: u16,
    pub(crate) sent_bytes: u64,
    pub(crate) duration_us: u64,
    pub(crate) generation: u64,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    /// On which side of a rollout the policy stands, while one lasts in its slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) side: Option<Side>,
    pub(crate) region: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) attempts: u32,
    /// Why the request went first where it was not decided to go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steered: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'static str>,
}

/// The data threads' end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the log and starts its thread, which ends when the last clone of the writer is gone. `dropped` counts the
    /// lines that find no place.
    pub(crate) fn start(log: &AccessLog, dropped: &Arc<AtomicU64>) -> io::Result<Self> {
        let output: Box<dyn Output> = match log {
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => Box::new(Rotated::open(path.clone())?),
        };
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&lines, output))?;
        Ok(Self { queue, dropped: Arc::clone(dropped) })
    }

    pub(crate) fn write(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Wakes with a line, writes all that wait, then flushes. A line that cannot be written is lost; the next one tries again.
fn write_all(lines: &Receiver<Line>, mut output: Box<dyn Output>) {
    let mut text = Vec::with_capacity(BATCH_BYTES);
    while let Ok(first) = lines.recv() {
        output.freshen();
        for line in std::iter::once(first).chain(lines.try_iter()) {
            let whole = text.len();
            match serde_json::to_writer(&mut text, &line) {
                Ok(()) => text.push(b'\n'),
                Err(_) => text.truncate(whole),
            }
            if text.len() >= BATCH_BYTES {
                _ = output.write_all(&text);
                text.clear();
            }
        }
        _ = output.write_all(&text).and_then(|()| output.flush());
        text.clear();
    }
}

/// Where lines end.
trait Output: Write + Send {
    /// Before lines are written that came after a pause: is it still the right place?
    fn freshen(&mut self) {}
}

impl Output for io::Stdout {}

/// A file that follows its name: when another program has moved or removed it, as log rotation does, a new one is made.
struct Rotated {
    file: File,
    path: PathBuf,
}

impl Rotated {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("open the access log {}: {error}", path.display()))
        })?;
        Ok(Self { file, path })
    }

    fn moved(&self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) != (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl Output for Rotated {
    fn freshen(&mut self) {
        // On failure the lines go where they went before: better than nowhere.
        if let Ok(true) = self.moved()
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
        }
    }
}

impl Write for Rotated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
