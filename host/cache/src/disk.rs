//! Resources on disk: a file each, written aside and renamed, with its hash before it, so that a crash leaves the former file, the new one,
//! or none, and never a mixture. A file whose hash is not its content's is as good as none.
//!
//! Which files there are, and how large, is kept in memory and read from the folder at the start. The folder is bounded: the file that
//! came first goes first, unless it was asked for since; so a scan pushes out itself.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::locked;
use crate::stored::{Key, Resource};

/// What files begin with: the form that they have.
const MAGIC: &[u8; 8] = b"portcac1";
/// Form and hash.
const HEAD_BYTES: usize = 8 + 32;
/// Resources that may wait for the disk; what finds no place stays in memory alone.
const QUEUE_MAX: usize = 256;

/// A folder of resources.
#[derive(Debug)]
pub(crate) struct Disk {
    dropped: AtomicU64,
    queue: SyncSender<(Key, Arc<Resource>, u64)>,
    shelf: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    bytes_max: u64,
    folder: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    bytes: u64,
    files: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    /// The last order to write or to remove each resource that waits.
    waiting: HashMap<Key, u64>,
    ticket: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    used: bool,
}

impl Disk {
    /// Opens a folder, makes it where there is none, and starts its writer, which ends with the last hold of the disk. `keep` says whether
    /// what lies there may still be given.
    pub(crate) fn open(folder: &Path, bytes_max: u64, keep: bool) -> io::Result<Self> {
        if !keep && folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let shelf = Arc::new(Shelf { bytes_max, folder: folder.to_owned(), index: Mutex::default() });
        shelf.look()?;
        shelf.make_room();
        let (queue, orders) = sync_channel(QUEUE_MAX);
        let writer = Arc::clone(&shelf);
        std::thread::Builder::new().name("cache-disk".into()).spawn(move || writer.write_all(&orders))?;
        Ok(Self { dropped: AtomicU64::default(), queue, shelf })
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        locked(self.shelf.index.lock()).bytes
    }

    /// Resources that found no place in the queue.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Is there a file? Costs no I/O.
    pub(crate) fn has(&self, key: Key) -> bool {
        locked(self.shelf.index.lock()).files.contains_key(&key)
    }

    /// Has a resource written soon, or not at all where too many wait: then the file that may be there goes, so that nothing older than
    /// what is in memory comes back.
    pub(crate) fn write(&self, key: Key, resource: Arc<Resource>) {
        let ticket = locked(self.shelf.index.lock()).await_order(key);
        if self.queue.try_send((key, resource, ticket)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.remove(key);
        }
    }

    /// Takes a resource away, and what waits of it.
    pub(crate) fn remove(&self, key: Key) {
        let mut index = locked(self.shelf.index.lock());
        index.waiting.remove(&key);
        if index.forget(key) {
            // Under the lock, so that no file that is written after this is met.
            _ = fs::remove_file(self.shelf.path(key));
        }
    }

    /// Reads a resource. Blocks.
    pub(crate) fn read(&self, key: Key) -> Option<Resource> {
        match read(&self.shelf.path(key)) {
            Some(resource) => {
                let mut index = locked(self.shelf.index.lock());
                index.files.get_mut(&key).into_iter().for_each(|entry| entry.used = true);
                drop(index);
                Some(resource)
            }
            None => {
                self.remove(key);
                None
            }
        }
    }
}

impl Index {
    fn await_order(&mut self, key: Key) -> u64 {
        self.ticket += 1;
        self.waiting.insert(key, self.ticket);
        self.ticket
    }

    fn put(&mut self, key: Key, bytes: u64) {
        match self.files.insert(key, Entry { bytes, used: false }) {
            Some(former) => self.bytes = self.bytes.saturating_sub(former.bytes),
            None => self.order.push_back(key),
        }
        self.bytes += bytes;
    }

    fn forget(&mut self, key: Key) -> bool {
        let Some(entry) = self.files.remove(&key) else { return false };
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        // Its place in the order goes when its turn comes, or with all that have none, before they are as many as the files.
        if self.order.len() > 64 + 2 * self.files.len() {
            let files = &self.files;
            self.order.retain(|key| files.contains_key(key));
        }
        true
    }

    /// The file whose turn it is to go.
    fn oldest_unused(&mut self) -> Option<Key> {
        loop {
            let key = self.order.pop_front()?;
            match self.files.get_mut(&key) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(key);
                }
                Some(_) => return Some(key),
                None => {}
            }
        }
    }
}

impl Shelf {
    fn path(&self, key: Key) -> PathBuf {
        let name: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, rest) = name.split_at_checked(2).unwrap_or_default();
        self.folder.join(head).join(rest)
    }

    /// Finds the files, oldest first, and removes what is none of them.
    fn look(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?.path();
            let Ok(files) = fs::read_dir(&folder) else {
                fs::remove_file(&folder)?;
                continue;
            };
            for file in files {
                let file = file?;
                let (path, facts) = (file.path(), file.metadata()?);
                match key_of(&path) {
                    Some(key) => found.push((facts.mtime(), facts.mtime_nsec(), key, facts.len())),
                    None => fs::remove_file(&path)?,
                }
            }
        }
        found.sort_unstable_by_key(|(seconds, rest, ..)| (*seconds, *rest));
        let mut index = locked(self.index.lock());
        found.into_iter().for_each(|(.., key, bytes)| index.put(key, bytes));
        Ok(())
    }

    /// Wakes with an order, writes the resource, and makes room. An order that came to nothing leaves no file.
    fn write_all(&self, orders: &Receiver<(Key, Arc<Resource>, u64)>) {
        while let Ok((key, resource, ticket)) = orders.recv() {
            if locked(self.index.lock()).waiting.get(&key) != Some(&ticket) {
                continue;
            }
            let written = self.write(key, &resource, ticket);
            if let Err(error) = written {
                tracing::warn!(folder = %self.folder.display(), %error, "a cached response was not written to disk");
                let mut index = locked(self.index.lock());
                index.waiting.remove(&key);
                if index.forget(key) {
                    _ = fs::remove_file(self.path(key));
                }
            }
            self.make_room();
        }
    }

    fn write(&self, key: Key, resource: &Resource, ticket: u64) -> io::Result<()> {
        let payload = resource.encode().ok_or(io::ErrorKind::InvalidData)?;
        let path = self.path(key);
        let aside = path.with_extension("new");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&aside)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::hash(&payload).as_bytes())?;
        file.write_all(&payload)?;
        drop(file);
        let mut index = locked(self.index.lock());
        if index.waiting.get(&key) != Some(&ticket) {
            return fs::remove_file(&aside);
        }
        index.waiting.remove(&key);
        fs::rename(&aside, &path)?;
        index.put(key, u64::try_from(HEAD_BYTES + payload.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn make_room(&self) {
        let mut index = locked(self.index.lock());
        while index.bytes > self.bytes_max {
            let Some(key) = index.oldest_unused() else { break };
            index.forget(key);
            _ = fs::remove_file(self.path(key));
        }
    }
}

fn key_of(path: &Path) -> Option<Key> {
    let text = |part: Option<&std::ffi::OsStr>| part?.to_str().map(str::to_owned);
    let name = text(path.parent()?.file_name())? + &text(path.file_name())?;
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(Key(key))
}

fn read(path: &Path) -> Option<Resource> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    let (head, payload) = bytes.split_at_checked(HEAD_BYTES)?;
    let (magic, hash) = head.split_at_checked(MAGIC.len())?;
    let is_whole = magic == MAGIC && hash == blake3::hash(payload).as_bytes();
    is_whole.then(|| Resource::decode(payload))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::variant;

    fn key(number: u8) -> Key {
        Key([number; 32])
    }

    fn resource(content: &'static str) -> Arc<Resource> {
        Arc::new(Resource::default().with(variant("1", content)))
    }

    /// Waits until the writer has done what it was told, by ending it.
    fn settle(disk: Disk) -> Arc<Shelf> {
        let Disk { queue, shelf, .. } = disk;
        drop(queue);
        while Arc::strong_count(&shelf) > 1 {
            std::thread::yield_now();
        }
        shelf
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        disk.write(key(1), resource("one"));
        disk.write(key(2), resource("two"));
        settle(disk);
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        assert_eq!(disk.read(key(1)).as_ref(), Some(&*resource("one")));
        disk.remove(key(2));
        assert!(!disk.has(key(2)) && disk.read(key(2)).is_none());
        settle(disk);
        let disk = Disk::open(folder.path(), 1 << 20, false).unwrap();
        assert!(!disk.has(key(1)), "what may not be given is not kept");
    }

    #[test]
    fn a_file_is_whole_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        disk.write(key(1), resource("one"));
        let shelf = settle(disk);
        let path = shelf.path(key(1));
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(read(&path), None, "cut at {cut}");
        }
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 0x40;
            fs::write(&path, other).unwrap();
            assert_eq!(read(&path), None, "byte {place}");
        }
        fs::write(path.with_extension("new"), b"half").unwrap();
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        assert!(!path.with_extension("new").exists(), "what a crash left is removed");
        assert!(disk.read(key(1)).is_none() && !disk.has(key(1)));
    }

    #[test]
    fn the_folder_is_bounded_and_a_scan_pushes_out_itself() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        disk.write(key(0), resource("loved"));
        let shelf = settle(disk);
        let size = locked(shelf.index.lock()).bytes;
        let disk = Disk::open(folder.path(), 4 * size + 8, true).unwrap();
        for number in 1..100 {
            disk.write(key(number), resource("scan!"));
            while !disk.has(key(number)) {
                std::thread::yield_now();
            }
            assert!(disk.read(key(0)).is_some(), "what is asked for stays");
        }
        let shelf = settle(disk);
        assert!(locked(shelf.index.lock()).bytes <= 4 * size + 8);
    }

    #[test]
    fn what_is_removed_while_it_waits_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), 1 << 20, true).unwrap();
        for _ in 0..50 {
            disk.write(key(1), resource("old"));
            disk.remove(key(1));
        }
        let shelf = settle(disk);
        assert!(!locked(shelf.index.lock()).files.contains_key(&key(1)) && !shelf.path(key(1)).exists());
    }
}
