//! What decisions rested on, on this node's own disk: a bundle for each, in files of one start of the node, of which the oldest go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use portolan_failover::evidence::Bundle;
use tokio::sync::mpsc;

/// Bundles that wait to be written; what is decided does not wait for a disk.
const WAITING: usize = 256;
/// Files that are kept, one for each start, and one for each that was full.
const FILES_MAX: usize = 16;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The name of the folder in the node's own.
pub(super) const FOLDER: &str = "failover";

/// Where bundles go to.
#[derive(Clone, Debug)]
pub(super) struct Keep(mpsc::Sender<Bundle>);

impl Keep {
    /// Writes bundles into a folder from now on, on a thread of its own.
    pub(super) fn start(state: &Path) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Bundle>(WAITING);
        let folder = state.join(FOLDER);
        tokio::task::spawn_blocking(move || {
            let mut file = None;
            while let Some(bundle) = receiver.blocking_recv() {
                if let Err(error) = write(&folder, &mut file, &bundle) {
                    file = None;
                    let (number, folder) = (bundle.number, folder.display());
                    tracing::error!("the evidence of decision {number} is not kept in {folder}: {error}");
                }
            }
        });
        Self(sender)
    }

    /// Keeps one.
    pub(super) fn put(&self, bundle: Bundle) {
        let number = bundle.number;
        if self.0.try_send(bundle).is_err() {
            tracing::error!("the evidence of decision {number} is not kept: the disk is too slow");
        }
    }
}

fn write(folder: &Path, open: &mut Option<(File, u64)>, bundle: &Bundle) -> io::Result<()> {
    let mut line = serde_json::to_vec(bundle)?;
    line.push(b'\n');
    let bytes = line.len() as u64;
    if open.as_ref().is_some_and(|(_, used)| used.saturating_add(bytes) > FILE_BYTES_MAX) {
        *open = None;
    }
    let (file, used) = match open {
        Some(open) => open,
        None => {
            fs::create_dir_all(folder)?;
            let kept = files(folder)?;
            let surplus = kept.len().saturating_sub(FILES_MAX - 1);
            for old in kept.iter().take(surplus) {
                fs::remove_file(old)?;
            }
            let name = format!("decisions-{:020}.jsonl", portolan_foundation::clock::unix_ms());
            let file = OpenOptions::new().create(true).append(true).open(folder.join(name))?;
            open.insert((file, 0))
        }
    };
    file.write_all(&line)?;
    file.sync_data()?;
    *used = used.saturating_add(bytes);
    Ok(())
}

/// The files, from the oldest on.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    Ok(files)
}
