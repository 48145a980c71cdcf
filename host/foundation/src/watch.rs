//! Watching folders: told once things have come to rest.
//!
//! Folders are watched, never files, so that atomic renames, editors' saves and swapped links (as Kubernetes does with
//! `..data`) are seen alike. What wakes the watcher: any event in a folder. What it does: wait until nothing has happened
//! for a moment, then wake its readers. On failure it polls, and says so.

use std::path::PathBuf;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, timeout_at};

use crate::task;

/// Quiet for this long counts as rest: longer than an editor's write and rename, shorter than patience.
const QUIET: Duration = Duration::from_millis(30);
/// Where events never stop, readers are woken after this long.
const PATIENCE: Duration = Duration::from_millis(500);
/// Where the system has no watches left, readers are woken this often to look for themselves.
const POLL: Duration = Duration::from_secs(2);

/// Watches folders that exist; the others are looked for at each change of their parents.
#[derive(Debug)]
pub struct Folders {
    changes: watch::Receiver<u64>,
}

impl Folders {
    /// Starts watching on the current runtime.
    #[must_use]
    pub fn watch(folders: Vec<PathBuf>) -> Self {
        let (sender, changes) = watch::channel(0);
        // Here and not in the task: what happens after this call is seen, however late the task begins.
        let (events, watcher) = begin(&folders);
        task::spawn("watch-folders", run(events, watcher, sender));
        Self { changes }
    }

    /// Waits for the next change. Changes that came before the call, since the last one, count.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The watcher's task ended with its runtime: there will be no more changes.
            std::future::pending::<()>().await;
        }
    }
}

fn begin(folders: &[PathBuf]) -> (mpsc::Receiver<()>, notify::Result<notify::RecommendedWatcher>) {
    let (sender, events) = mpsc::channel(64);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let interesting = event.map_or(true, |event| !event.kind.is_access());
        if interesting {
            // A full queue already means that something changed.
            let _full = sender.try_send(());
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        let parents = folders.iter().filter_map(|folder| folder.parent()).filter(|parent| parent.is_dir());
        for folder in folders.iter().map(PathBuf::as_path).filter(|folder| folder.is_dir()).chain(parents) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    (events, watching)
}

async fn run(
    mut events: mpsc::Receiver<()>,
    watching: notify::Result<notify::RecommendedWatcher>,
    changes: watch::Sender<u64>,
) {
    let _watcher = match watching {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "cannot watch folders for changes; looking every {POLL:?} instead");
            return poll(&changes).await;
        }
    };
    while events.recv().await.is_some() {
        let patience = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(patience);
            match timeout_at(quiet, events.recv()).await {
                Ok(Some(())) if Instant::now() < patience => {}
                _ => break,
            }
        }
        changes.send_modify(|count| *count += 1);
        if changes.is_closed() {
            return;
        }
    }
}

async fn poll(changes: &watch::Sender<u64>) {
    let mut ticks = interval(POLL);
    while !changes.is_closed() {
        ticks.tick().await;
        changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    async fn sees(folders: &mut Folders, act: impl Fn()) {
        // The watch is set up by its own task: repeat the change until it is seen, within the limit.
        let seen = async {
            loop {
                act();
                if tokio::time::timeout(Duration::from_millis(200), folders.changed()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the change was never seen");
    }

    #[tokio::test]
    async fn writes_renames_and_swapped_links_are_seen() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("policies");
        fs::create_dir(&folder).unwrap();
        let mut folders = Folders::watch(vec![folder.clone()]);
        sees(&mut folders, || fs::write(folder.join("a"), "1").unwrap()).await;
        sees(&mut folders, || {
            fs::write(base.path().join("new"), "2").unwrap();
            fs::rename(base.path().join("new"), folder.join("a")).unwrap();
        })
        .await;
        sees(&mut folders, || {
            let link = folder.join("next");
            drop(fs::remove_file(&link));
            std::os::unix::fs::symlink("a", &link).unwrap();
            fs::rename(&link, folder.join("..data")).unwrap();
        })
        .await;
    }
}
