//! The workloads: contents that a seed decides, and a database that SQLite made.

use std::path::Path;
use std::process::Command;

/// An old content and a new one.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    /// More than this may not be sent, in bytes.
    pub(crate) most_bytes: Option<usize>,
}

/// All workloads, one at a time.
pub(crate) fn all(
    folder: &Path,
    size: usize,
) -> Result<impl Iterator<Item = Work> + use<>, Box<dyn std::error::Error>> {
    let sqlite = sqlite(folder)?;
    let makers: [fn(usize) -> Work; 5] = [one_byte, insert, inserts, moved, zeros];
    Ok(makers.into_iter().map(move |make| make(size)).chain(sqlite))
}

fn one_byte(size: usize) -> Work {
    let old = mixed(size);
    let mut new = old.clone();
    if let Some(byte) = new.get_mut(size / 2) {
        *byte ^= 0xff;
    }
    Work { name: "1 byte", old, new, most_bytes: Some(2_000) }
}

fn insert(size: usize) -> Work {
    let old = mixed(size);
    let mut new = old.clone();
    new.splice(1_000..1_000, *b"thirteen more");
    Work { name: "insert 13", old, new, most_bytes: Some(2_000) }
}

fn inserts(size: usize) -> Work {
    let old = mixed(size);
    let mut places: Vec<usize> = noise(5, 800)
        .chunks_exact(8)
        .map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) % size)
        .collect();
    places.sort_unstable();
    let (mut new, mut at) = (Vec::with_capacity(size + 1_600), 0);
    for (place, more) in places.iter().zip(noise(6, 1_600).chunks_exact(16)) {
        new.extend_from_slice(old.get(at..*place).unwrap_or_default());
        new.extend_from_slice(more);
        at = *place;
    }
    new.extend_from_slice(old.get(at..).unwrap_or_default());
    Work { name: "100 inserts", old, new, most_bytes: Some(12_000) }
}

fn moved(size: usize) -> Work {
    let old = mixed(size);
    let mut new = old.clone();
    new.rotate_left(size / 3);
    Work { name: "a third moved", old, new, most_bytes: None }
}

fn zeros(size: usize) -> Work {
    let old = vec![0; size];
    let mut new = old.clone();
    new.splice(size / 2..size / 2, noise(7, 64));
    Work { name: "zeros", old, new, most_bytes: Some(2_000) }
}

/// Half of it text, half of it what nothing compresses, in pieces of 256 KB.
fn mixed(size: usize) -> Vec<u8> {
    let mut bytes = noise(1, size);
    for (number, piece) in bytes.chunks_mut(256_000).enumerate().filter(|(number, _)| number % 2 == 0) {
        for byte in piece.iter_mut() {
            // Letters drawn from sixteen: four bits in each byte.
            *byte = b'a' + (*byte & 0xf);
        }
        let line = format!("\npiece {number}\n");
        piece.iter_mut().zip(line.bytes()).for_each(|(byte, letter)| *byte = letter);
    }
    bytes
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// 500,000 rows with an index, and 1,000 of them updated; nothing where `sqlite3` is not installed.
fn sqlite(folder: &Path) -> Result<Option<Work>, Box<dyn std::error::Error>> {
    let file = folder.join("rows.db");
    let run = |script: &str| Command::new("sqlite3").arg(&file).arg(script).output();
    let rows = "PRAGMA page_size=4096; CREATE TABLE page(id INTEGER PRIMARY KEY, slug TEXT, body TEXT);
        INSERT INTO page WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500000)
        SELECT i, printf('%08x', (i*2654435761)%4294967296), printf('%0128d', (i*40503)%1000003) FROM n;
        CREATE INDEX slugs ON page(slug);";
    match run(rows) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        made => made?,
    };
    let old = std::fs::read(&file)?;
    run("UPDATE page SET body = printf('%0128d', id*7919) WHERE id % 500 = (id / 500 * 7919) % 500;")?;
    let new = std::fs::read(&file)?;
    Ok(Some(Work { name: "sqlite", old, new, most_bytes: Some(350_000) }))
}
