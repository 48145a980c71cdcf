//! Reads recordings: a folder of segments, or one file. Bounded in memory whatever their size.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_core::recording::{DecisionId, Recorded};
use serde::Serialize;

use crate::defaults::ENTRY_BYTES_MAX;
use crate::entry::{Begin, Book, Item, Pen, Read as EntryRead};
use crate::error::Error;
use crate::frame::{Frames, HEAD};
use crate::spill::{Segment, segments};

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1024 * 1024;
/// A segment may hold decisions that began so long before it: their requests took their time.
const SLACK_MS: u64 = 10 * 60 * 1_000;

/// A recording on disk.
#[derive(Clone, Debug)]
pub struct Recording {
    path: PathBuf,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentInfo {
    /// Its file's name.
    pub name: String,
    /// When it began, in milliseconds since 1970-01-01T00:00:00Z.
    pub begun_ms: u64,
    /// Its size.
    pub bytes: u64,
}

/// What was found while reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Decisions.
    pub decisions: u64,
    /// Bytes that were passed over because they are damaged.
    pub damaged_bytes: u64,
    /// Segments whose last entry was torn off.
    pub torn: u64,
    /// Entries of a newer program.
    pub unknown: u64,
}

impl Recording {
    /// A folder of segments or one file; what is there is found out when it is read.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The segments, the oldest first; none for a file.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: Segment| {
            let name = segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            SegmentInfo { name, begun_ms: segment.begun_ms, bytes: segment.bytes }
        };
        segments(&self.path).into_iter().map(info).collect()
    }

    /// Gives each item of a span of time, in milliseconds since 1970, with the book of what it refers to, until told to stop.
    /// What ran before the span and lasted into it is given too.
    ///
    /// # Errors
    /// When files cannot be read. Damage is no error: it is passed over and counted.
    pub fn each(
        &self,
        span: Range<u64>,
        mut take: impl FnMut(&Book, Item) -> ControlFlow<()>,
    ) -> Result<Summary, Error> {
        let mut summary = Summary::default();
        let mut inside = |book: &Book, item: Item| {
            let at_ms = match &item {
                Item::Decision(recorded) => recorded.picture.at_ms,
                Item::Ran(ran) => ran.at_ms.max(span.start),
            };
            if span.contains(&at_ms) { take(book, item) } else { ControlFlow::Continue(()) }
        };
        for path in self.files(&span)? {
            if read_file(&path, &mut summary, &mut inside)?.is_break() {
                break;
            }
        }
        Ok(summary)
    }

    /// A decision by its id, with its book.
    ///
    /// # Errors
    /// As [`Recording::each`].
    pub fn find(&self, id: DecisionId) -> Result<Option<(Recorded, Book)>, Error> {
        let mut found = None;
        let around = id.at_ms.saturating_sub(1_000)..id.at_ms.saturating_add(SLACK_MS);
        self.each(around, |book, item| match item {
            Item::Decision(recorded) if recorded.id == id => {
                found = Some((*recorded, book.clone()));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        Ok(found)
    }

    /// The files that may hold something of the span.
    fn files(&self, span: &Range<u64>) -> Result<Vec<PathBuf>, Error> {
        let meta = std::fs::metadata(&self.path).map_err(|source| Error::Io {
            doing: "read the recording",
            path: self.path.clone(),
            source,
        })?;
        if !meta.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let all = segments(&self.path);
        let ends = all.iter().skip(1).map(|next| next.begun_ms).chain([u64::MAX]);
        let wanted = all.iter().zip(ends).filter(|(segment, end)| {
            segment.begun_ms < span.end.saturating_add(SLACK_MS) && *end >= span.start
        });
        Ok(wanted.map(|(segment, _)| segment.path.clone()).collect())
    }
}

fn read_file(
    path: &Path,
    summary: &mut Summary,
    take: &mut impl FnMut(&Book, Item) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let failed = |source| Error::Io { doing: "read the recording", path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Segments leave while others are read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
        Err(error) => return Err(failed(error)),
    };
    let mut head = vec![0; HEAD.len()];
    if file.read_exact(&mut head).is_err() {
        // Killed before it wrote anything.
        summary.torn += 1;
        return Ok(ControlFlow::Continue(()));
    }
    if head != HEAD {
        return Err(Error::NoRecording(path.to_owned()));
    }
    let mut reader = Reader::default();
    loop {
        let read = reader.fill(&mut file).map_err(failed)?;
        let flow = reader.drain(read == 0, summary, take);
        if flow.is_break() || read == 0 {
            return Ok(flow);
        }
    }
}

/// Entries out of blocks of bytes.
#[derive(Debug, Default)]
struct Reader {
    book: Book,
    waiting: Vec<u8>,
}

impl Reader {
    fn fill(&mut self, file: &mut File) -> io::Result<usize> {
        file.take(BLOCK_BYTES as u64).read_to_end(&mut self.waiting)
    }

    /// Reads the whole frames that are there, and at the end what is left.
    fn drain(
        &mut self,
        last: bool,
        summary: &mut Summary,
        take: &mut impl FnMut(&Book, Item) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut frames = if last { Frames::last(&self.waiting) } else { Frames::more(&self.waiting) };
        let mut flow = ControlFlow::Continue(());
        for entry in frames.by_ref() {
            match self.book.read(entry) {
                EntryRead::Item(item) => {
                    summary.decisions += u64::from(matches!(item, Item::Decision(_)));
                    flow = take(&self.book, item);
                }
                EntryRead::Unknown => summary.unknown += 1,
                EntryRead::Begin | EntryRead::Noted => {}
            }
            if flow.is_break() {
                break;
            }
        }
        summary.damaged_bytes += frames.damaged;
        summary.torn += u64::from(frames.torn);
        let rest = frames.rest().len();
        self.waiting.drain(..self.waiting.len() - rest);
        debug_assert!(last || self.waiting.len() <= ENTRY_BYTES_MAX + BLOCK_BYTES);
        flow
    }
}

/// Reads entries from memory, for whoever has no file; damage is passed over.
#[must_use]
pub fn read_bytes(bytes: &[u8]) -> (Vec<Item>, Summary) {
    let (mut items, mut summary) = (Vec::new(), Summary::default());
    if let Some(rest) = bytes.strip_prefix(HEAD) {
        let mut reader = Reader { waiting: rest.to_vec(), ..Reader::default() };
        let mut take = |_: &Book, item: Item| {
            items.push(item);
            ControlFlow::Continue(())
        };
        _ = reader.drain(true, &mut summary, &mut take);
    }
    (items, summary)
}

/// A segment of arbitrary entries, with right checksums.
#[cfg(any(test, feature = "exercise"))]
#[must_use]
pub fn framed(entries: &[&[u8]]) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for entry in entries {
        crate::frame::write(&mut bytes, entry);
    }
    bytes
}

/// Any bytes, as a segment and as entries with right checksums, are read or passed over, and what was read can be written and read again.
///
/// # Panics
/// When that does not hold.
#[cfg(any(test, feature = "exercise"))]
pub fn exercise(bytes: &[u8]) {
    let (_, summary) = read_bytes(bytes);
    assert!(summary.damaged_bytes <= bytes.len() as u64);
    let entries: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let (items, summary) = read_bytes(&framed(&entries));
    assert!(summary.torn == 0 || bytes.contains(&0xf7), "whole frames are no torn end: {summary:?}");
    for item in items {
        let Item::Decision(recorded) = item else { continue };
        let Ok(written) = serde_json::to_string(&recorded) else { unreachable!("it was read") };
        let entry = format!("{{\"decision\":{written}}}");
        let (again, _) = read_bytes(&framed(&[entry.as_bytes()]));
        assert_eq!(again, [Item::Decision(recorded.clone())], "written and read again");
        drop((recorded.picture.segment(), recorded.picture.tenant(), recorded.picture.view().missing()));
    }
}

/// A recording in one file, made of decisions from elsewhere.
#[derive(Debug)]
pub struct Export {
    file: BufWriter<File>,
    path: PathBuf,
    pen: Pen,
}

impl Export {
    /// Begins a file; one that is there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, node: &str, at_ms: u64) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file =
            file.map_err(|source| Error::Io { doing: "write the recording", path: path.to_owned(), source })?;
        let mut pen = Pen::default();
        pen.begin(&Begin { node: node.into(), at_ms, version: env!("CARGO_PKG_VERSION").into() });
        Ok(Self { file: BufWriter::new(file), path: path.to_owned(), pen })
    }

    /// Adds a decision, with what it refers to.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn decision(&mut self, recorded: &Recorded, book: &Book) -> Result<(), Error> {
        let bindings = recorded.slots.iter().filter_map(|slot| book.binding(&slot.binding));
        self.pen.decision(recorded, bindings);
        self.write()
    }

    /// The same, with bindings that are in no book.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn decision_of(
        &mut self,
        recorded: &Recorded,
        bindings: &[Arc<portolan_core::recording::Binding>],
    ) -> Result<(), Error> {
        self.pen.decision(recorded, bindings);
        self.write()
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.write()?;
        let flushed = self.file.flush();
        flushed.map_err(|source| self.failed(source))
    }

    fn write(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.pen.out);
        self.pen.out.clear();
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { doing: "write the recording", path: self.path.clone(), source }
    }
}
