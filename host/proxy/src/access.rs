//! The access log: one JSON object a line, written by a thread of its own.
//!
//! A data thread puts a line into a bounded queue and goes on; a line that finds no place is dropped and counted, because
//! a slow disk must not slow requests.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Serialize;

/// Lines that may wait for the disk.
const QUEUE_LINES_MAX: usize = 16 * 1024;

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
    pub(crate) region: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) attempts: u32,
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
    /// Opens the log and starts its thread, which ends when the last clone of the writer is gone.
    pub(crate) fn start(log: &AccessLog) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match log {
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                Box::new(file.map_err(|error| {
                    io::Error::new(error.kind(), format!("open {}: {error}", path.display()))
                })?)
            }
        };
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&lines, output))?;
        Ok(Self { queue, dropped: Arc::default() })
    }

    pub(crate) fn write(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Wakes with a line, writes all that wait, then flushes. A line that cannot be written is lost; the next one tries again.
fn write_all(lines: &Receiver<Line>, output: Box<dyn Write + Send>) {
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(lines.try_iter()) {
            if serde_json::to_writer(&mut output, &line).is_ok() {
                _ = output.write_all(b"\n");
            }
        }
        _ = output.flush();
    }
}
