//! Purges on disk, so that what lies there from before is not given again after a restart.
//!
//! The file is a list of records, each with its length and the head of its hash. A record that the last crash cut off was told nobody; one
//! that is wrong elsewhere makes all that is stored unknown, and the journal begins anew with nothing valid.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::epochs::{Epochs, Record};

/// A journal larger than this is written anew, with what still counts.
const BYTES_MAX: u64 = 8 << 20;
/// Bytes of a record at most.
const RECORD_BYTES_MAX: usize = 255;
/// Length, and head of the hash.
const HEAD_BYTES: usize = 1 + 8;

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    bytes: u64,
    file: Arc<File>,
    path: PathBuf,
}

impl Journal {
    /// Reads what is there into the table and goes on behind it. Also says whether everything is known that was taken back: where there
    /// is no journal, or a broken one, nothing that was stored before may be given any more.
    pub(crate) fn open(path: &Path, epochs: &Epochs) -> io::Result<(Self, bool)> {
        let known = match read(path) {
            Ok(records) => records,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_known = known.is_some();
        known.into_iter().flatten().for_each(|record| epochs.apply(record));
        Ok((Self::begin(path, epochs)?, is_known))
    }

    /// Writes a record down. The file is given back for whoever wants to wait until it is on the disk itself.
    pub(crate) fn append(&mut self, record: Record, epochs: &Epochs) -> io::Result<Arc<File>> {
        if self.bytes > BYTES_MAX {
            *self = Self::begin(&self.path, epochs)?;
        }
        let bytes = encode(&[record]);
        (&*self.file).write_all(&bytes)?;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Arc::clone(&self.file))
    }

    fn begin(path: &Path, epochs: &Epochs) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        let bytes = encode(&epochs.records());
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self {
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            file: Arc::new(file),
            path: path.to_owned(),
        })
    }
}

fn encode(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let Ok(record) = postcard::to_allocvec(record) else { continue };
        debug_assert!(record.len() <= RECORD_BYTES_MAX);
        let Ok(length) = u8::try_from(record.len()) else { continue };
        bytes.push(length);
        bytes.extend_from_slice(&head_of_hash(&record));
        bytes.extend_from_slice(&record);
    }
    bytes
}

fn head_of_hash(record: &[u8]) -> [u8; 8] {
    let mut head = [0; 8];
    let mut hasher = blake3::Hasher::new();
    hasher.update(record).finalize_xof().fill(&mut head);
    head
}

/// The records; `None` where one is wrong.
fn read(path: &Path) -> io::Result<Option<Vec<Record>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(4 * BYTES_MAX).read_to_end(&mut bytes)?;
    let (mut rest, mut records) = (bytes.as_slice(), Vec::new());
    while let Some((&length, _)) = rest.split_first() {
        let whole = HEAD_BYTES + usize::from(length);
        let Some((piece, next)) = rest.split_at_checked(whole) else { break };
        let (head, record) = piece.split_at(HEAD_BYTES);
        let is_right = head.get(1..) == Some(&head_of_hash(record));
        let Some(record) = postcard::from_bytes(record).ok().filter(|_| is_right) else { return Ok(None) };
        records.push(record);
        rest = next;
    }
    Ok(Some(records))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epochs::{Epoch, Scope, Standing, Strength, What};
    use crate::tags::Tag;

    const WHOSE: Scope = Scope(7);

    fn purge(journal: &mut Journal, epochs: &Epochs, tag: u64) {
        let what = What::Purged { scope: WHOSE, tag: Some(Tag(tag)), strength: Strength::Hard };
        let record = epochs.next(what);
        journal.append(record, epochs).unwrap();
        epochs.apply(record);
    }

    fn standing(epochs: &Epochs, tag: u64, born: Epoch) -> Standing {
        epochs.standing(WHOSE, Tag(0), &[Tag(tag)], born)
    }

    #[test]
    fn purges_outlive_the_process_and_a_cut_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purges");
        let epochs = Epochs::default();
        let (mut journal, known) = Journal::open(&path, &epochs).unwrap();
        assert!(!known, "there was none");
        let born = epochs.latest();
        purge(&mut journal, &epochs, 1);
        let whole = fs::read(&path).unwrap().len();
        purge(&mut journal, &epochs, 2);
        let length = fs::read(&path).unwrap().len();
        for cut in whole..=length {
            let bytes = fs::read(&path).unwrap();
            let other = folder.path().join(format!("cut-{cut}"));
            fs::write(&other, &bytes[..cut]).unwrap();
            let again = Epochs::default();
            assert!(Journal::open(&other, &again).unwrap().1);
            assert_eq!(standing(&again, 1, born), Standing::Gone);
            let second = if cut == length { Standing::Gone } else { Standing::Valid };
            assert_eq!(standing(&again, 2, born), second, "cut at {cut}");
            assert_eq!(standing(&again, 3, born), Standing::Valid);
        }
    }

    #[test]
    fn a_broken_journal_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("purges");
        let epochs = Epochs::default();
        let (mut journal, _) = Journal::open(&path, &epochs).unwrap();
        purge(&mut journal, &epochs, 1);
        let whole = fs::read(&path).unwrap();
        for place in 1..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            fs::write(&path, bytes).unwrap();
            let (_, known) = Journal::open(&path, &Epochs::default()).unwrap();
            assert!(!known || bytes_cut(&whole, place), "byte {place}");
        }
    }

    /// A larger length looks like a record that was cut off.
    fn bytes_cut(whole: &[u8], place: usize) -> bool {
        let mut start = 0;
        while start < place {
            start += HEAD_BYTES + usize::from(whole[start]);
        }
        start == place
    }
}
