//! What must hold of tables that all regions write, when all is at rest: nothing that a client was told is done is lost without a trace,
//! nothing that was replaced with open eyes comes back, and what is merged is what was added, to the last increment.

use std::collections::{BTreeMap, BTreeSet};

use portolan_changelog::RowId;
use portolan_core::log::Version;
use serde_json::Value;

use super::members::{Written, says};
use super::world::World;
use super::writing::{NOTES, STOCK};

/// What the regions' ledgers hold of these tables.
struct Kept {
    texts: BTreeSet<String>,
    versions: BTreeSet<(RowId, Version)>,
}

impl Kept {
    fn of(world: &World<'_>) -> Self {
        let mut kept = Self { texts: BTreeSet::new(), versions: BTreeSet::new() };
        for region in &world.regions {
            region.store.with(|database| {
                let of = database.ledger.iter().filter(|((id, _), _)| id.table != NOTES);
                for (named, images) in of {
                    kept.versions.insert(named.clone());
                    kept.texts.extend(images.iter().flatten().filter_map(|image| says(image)));
                }
            });
        }
        kept
    }

    fn has(&self, write: &Written) -> bool {
        let text = write.says.as_ref().is_some_and(|says| self.texts.contains(says));
        text || self.versions.contains(&(write.id.clone(), write.version.clone()))
    }
}

pub(super) fn end(world: &World<'_>) {
    if !world.shared.kind.members {
        return;
    }
    let Some(primary) = world.primary() else { return };
    let rows: BTreeMap<RowId, String> = primary.store.with(|database| {
        let rows = database.rows.iter().filter(|(id, _)| id.table != NOTES);
        rows.filter_map(|(id, row)| Some((id.clone(), row.image.clone()?))).collect()
    });
    let kept = Kept::of(world);
    let history = world.shared.history.lock().unwrap();
    let (writes, untold) = (history.members.clone(), history.untold.clone());
    drop(history);
    let mut odd = lost(&rows, &writes, &kept);
    odd.extend(back(&rows, &writes, &kept));
    // Where databases are put back, or begin with what is there, some of what was added is gone.
    if !world.shared.kind.hard {
        odd.extend(miscounted(&rows, &writes, &untold));
    }
    for what in odd {
        world.shared.violated(what);
    }
}

/// Texts that are neither there, nor were replaced by somebody who knew them, nor are in a ledger.
fn lost(rows: &BTreeMap<RowId, String>, writes: &[Written], kept: &Kept) -> Vec<String> {
    let known: BTreeSet<&String> = writes.iter().filter_map(|write| write.over.as_ref()).collect();
    let there: BTreeSet<String> = rows.values().filter_map(|row| says(row)).collect();
    let silent = writes.iter().filter(|write| !write.taken_back).filter_map(|write| {
        let text = write.says.as_ref()?;
        let safe = there.contains(text) || known.contains(text) || kept.has(write);
        (!safe).then(|| {
            let Written { id, version, .. } = write;
            format!("{text} of {} {} of `{}` was lost silently", id.table, id.key, version.origin)
        })
    });
    silent.collect()
}

/// Texts that are there again, although somebody who knew them replaced or deleted them, and that write was not lost itself.
fn back(rows: &BTreeMap<RowId, String>, writes: &[Written], kept: &Kept) -> Vec<String> {
    let again = rows.iter().filter_map(|(id, row)| {
        let text = says(row)?;
        let over = |write: &&Written| write.over.as_ref() == Some(&text) && !write.taken_back;
        let write = writes.iter().filter(over).find(|write| !kept.has(write))?;
        let Version { v, origin, .. } = &write.version;
        let deleted = if write.deletes { "deleted" } else { "replaced" };
        Some(format!("{} {} says {text} again, which `{origin}` {deleted} at {v}", id.table, id.key))
    });
    again.collect()
}

/// Merged rows that are not what was added to their lives that are not over.
fn miscounted(rows: &BTreeMap<RowId, String>, writes: &[Written], untold: &BTreeSet<RowId>) -> Vec<String> {
    let mut odd = Vec::new();
    let ids: BTreeSet<&RowId> = writes.iter().map(|write| &write.id).filter(|id| id.table == STOCK).collect();
    for id in ids.into_iter().filter(|id| !untold.contains(id)) {
        let of = || writes.iter().filter(|write| write.id == *id);
        let dead = of().filter(|write| write.deletes).map(|write| write.version.v).max();
        let lives = |life: u64| Some(life) > dead;
        let added = || of().filter_map(|write| write.added).filter(|(life, _)| lives(*life));
        let Some(row) = rows.get(id) else {
            if added().next().is_some() {
                odd.push(format!("{} {} is gone, and nobody deleted its last life", id.table, id.key));
            }
            continue;
        };
        let row: Value = serde_json::from_str(row).unwrap();
        let (count, sum) = (row["count"].as_i64(), added().map(|(_, added)| added).sum::<i64>());
        if count != Some(sum) {
            odd.push(format!("{} {} counts {count:?}, and {sum} was added", id.table, id.key));
        }
        let put: BTreeSet<&str> = of()
            .filter_map(|write| write.tag.as_ref())
            .filter(|(life, _)| lives(*life))
            .map(|(_, tag)| tag.as_str())
            .collect();
        let tags: BTreeSet<&str> =
            row["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if tags != put {
            odd.push(format!("{} {} has {tags:?}, and {put:?} were put in", id.table, id.key));
        }
    }
    odd
}
