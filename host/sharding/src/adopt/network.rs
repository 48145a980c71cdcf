//! Whether a file lies on another machine's disk, as far as the kernel tells.

use std::path::{Path, PathBuf};

/// File systems whose locks and mapped memory cannot be relied on, as Linux names them.
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
];

/// The network's file system on which a file lies, if it does.
pub(super) fn network(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = kind(&mounts, &path)?;
    NETWORK.contains(&kind.as_str()).then_some(kind)
}

/// The file system of a path: of the deepest mount above it, and of the last of several on one another.
fn kind(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let place = PathBuf::from(unescape(place.split(' ').nth(4)?));
        path.starts_with(&place)
            .then(|| (place.components().count(), kind.split(' ').next().unwrap_or_default().to_owned()))
    };
    mounts.lines().filter_map(mount).max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// The kernel writes blanks in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 21 0:40 / /data rw - nfs4 server:/x rw\n\
            31 30 8:2 / /data/my\\040disk rw shared:2 master:1 - xfs /dev/sdb rw\n";
        for (path, expected) in [
            ("/x", "ext4"),
            ("/data/a.db", "nfs4"),
            ("/data/my disk/a.db", "xfs"),
            ("/database/a.db", "ext4"),
        ] {
            assert_eq!(kind(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
    }
}
