//! Looking at backups without a database: are they as they were written, and would putting them back be complete?

use portolan_changelog::{Batch, Change, Record};
use portolan_core::ids::ShardName;
use portolan_core::log::Position;

use super::{Error, Opened, ShardPart, rows_file, shard_file};
use crate::schema::Migrations;

/// What was found good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files that are as they were written.
    pub files: u64,
    /// Records of logs.
    pub records: u64,
    /// Rows, with tombstones.
    pub rows: u64,
}

/// Looks at a backup and those that go on from it, in their order.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn verify(backups: &[Opened]) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    let mut before: Option<&Opened> = None;
    for backup in backups {
        follows(before, backup)?;
        backup.check_files()?;
        let manifest = backup.manifest();
        verified.files += manifest.files.len() as u64;
        verified.bytes += manifest.files.values().map(|file| file.bytes).sum::<u64>();
        for (shard, part) in &manifest.shards {
            schema(backup, shard, part)?;
            if manifest.since.is_none() {
                verified.rows += rows(backup, shard, part)?;
            }
            let begins =
                before.and_then(|before| before.manifest().shards.get(shard)).map(|part| part.through);
            verified.records += log(backup, shard, part, begins.unwrap_or(part.head.position))?;
        }
        before = Some(backup);
    }
    Ok(verified)
}

fn bad(backup: &Opened, file: &str, why: impl Into<String>) -> Error {
    Error::Bad { place: backup.path(file).display().to_string(), why: why.into() }
}

/// Is a backup the first, or does it go on from the one before it?
pub(super) fn follows(before: Option<&Opened>, backup: &Opened) -> Result<(), Error> {
    let since = backup.manifest().since.as_deref();
    match (before.map(Opened::manifest), since) {
        (None, None) => Ok(()),
        (Some(before), Some(since)) if before.id == since => Ok(()),
        (None, Some(since)) => {
            Err(bad(backup, super::MANIFEST, format!("goes on from backup {since}: name that one first")))
        }
        (Some(before), _) => Err(bad(
            backup,
            super::MANIFEST,
            format!("does not go on from backup {}, which is named before it", before.id),
        )),
    }
}

fn schema(backup: &Opened, shard: &ShardName, part: &ShardPart) -> Result<(), Error> {
    if backup.manifest().tenant.is_some() {
        return Ok(());
    }
    let migrations = Migrations::load(&backup.path("migrations"));
    let migrations = migrations.map_err(|problems| {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        bad(backup, "migrations", first)
    })?;
    if migrations.last() < part.schema {
        let why = format!("end at {:04}, and shard `{shard}` has {:04}", migrations.last(), part.schema);
        return Err(bad(backup, "migrations", why));
    }
    Ok(())
}

fn rows(backup: &Opened, shard: &ShardName, part: &ShardPart) -> Result<u64, Error> {
    let tenant = backup.manifest().tenant.as_ref();
    let mut count = 0;
    for table in &part.tables {
        let file = rows_file(shard, table);
        let Some(mut lines) = backup.lines(&file)? else {
            // A tenant alone has nothing of everybody's tables.
            if tenant.is_some() {
                continue;
            }
            return Err(bad(backup, &file, "is missing"));
        };
        while let Some(record) = lines.read::<Record>()? {
            let Change::Row(change) = &record.change else {
                return Err(bad(backup, &file, "has what is no row"));
            };
            if change.id.table != *table
                || tenant.is_some_and(|tenant| record.tenant.as_ref() != Some(tenant))
            {
                return Err(bad(backup, &file, "has a row of another table or tenant"));
            }
            count += 1;
        }
    }
    for what in ["losers", "parked", "placements"] {
        if backup.lines(&shard_file(shard, what))?.is_none() {
            return Err(bad(backup, &shard_file(shard, what), "is missing"));
        }
    }
    Ok(count)
}

fn log(backup: &Opened, shard: &ShardName, part: &ShardPart, begins: Position) -> Result<u64, Error> {
    let file = shard_file(shard, "log");
    let Some(mut lines) = backup.lines(&file)? else {
        return if backup.manifest().tenant.is_some() {
            Ok(0)
        } else {
            Err(bad(backup, &file, "is missing"))
        };
    };
    let (mut after, mut count) = (begins, 0);
    while let Some(batch) = lines.read::<Batch>()? {
        batch.check(usize::MAX).map_err(|error| bad(backup, &file, error.to_string()))?;
        if batch.identity != part.head.identity || batch.after != after {
            return Err(bad(backup, &file, format!("a part of the log is missing after {after}")));
        }
        after = batch.through;
        count += batch.records.len() as u64;
    }
    if after != part.through {
        return Err(bad(backup, &file, format!("ends at {after}, not at {}", part.through)));
    }
    Ok(count)
}
