//! Other tools on the same workload, as far as they are installed. They have both contents at hand, except rsync, which counts what
//! both ends say.

use std::path::Path;
use std::process::Command;

use crate::work::Work;

/// The tools that are here, with the bytes that each would send.
pub(crate) fn all(folder: &Path, work: &Work) -> std::io::Result<Vec<(&'static str, u64)>> {
    let (old, new, out) = (folder.join("old"), folder.join("new"), folder.join("out"));
    std::fs::write(&old, &work.old)?;
    std::fs::write(&new, &work.new)?;
    let mut found = Vec::new();
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-f", "-3", "--long=30", "--patch-from"]).arg(&old).arg(&new).arg("-o").arg(&out);
    found.extend(size(zstd, &out)?.map(|bytes| ("zstd -3 --patch-from --long=30", bytes)));
    let mut xdelta = Command::new("xdelta3");
    xdelta.args(["-q", "-f", "-1", "-e", "-s"]).arg(&old).arg(&new).arg(&out);
    found.extend(size(xdelta, &out)?.map(|bytes| ("xdelta3 -1", bytes)));
    found.extend(rsync(&old, &new)?.map(|bytes| ("rsync -z, both directions", bytes)));
    Ok(found)
}

fn size(mut command: Command, out: &Path) -> std::io::Result<Option<u64>> {
    match command.output() {
        Ok(done) if done.status.success() => Ok(Some(std::fs::metadata(out)?.len())),
        Ok(done) => Err(std::io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn rsync(old: &Path, new: &Path) -> std::io::Result<Option<u64>> {
    let mut command = Command::new("rsync");
    command.args(["-z", "--no-whole-file", "--ignore-times", "--stats"]).arg(new).arg(old);
    let done = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        done => done?,
    };
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
    };
    Ok(count("Total bytes sent:").zip(count("Total bytes received:")).map(|(sent, received)| sent + received))
}
