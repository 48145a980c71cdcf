//! What must hold when all is healed and at rest.

use portolan_changelog::RowId;
use portolan_changelog::model::lineage::Verdict;
use portolan_core::log::Version;
use portolan_foundation::clock;

use super::database::{Database, change};
use super::node::Region;
use super::world::{History, World};
use crate::report::State;

/// Why the world is not at rest yet.
pub(super) fn restless(world: &World<'_>) -> Vec<String> {
    let mut why = Vec::new();
    let Some(primary) = world.primary() else { return vec!["the shard has no primary".to_owned()] };
    let wanted = primary.store.with(|database| live(database));
    for region in &world.regions {
        let name = &region.name;
        region.store.with(|database| {
            if database.copy.is_some() || !database.stale.is_empty() || !database.parked.is_empty() {
                let (stale, parked) = (database.stale.len(), database.parked.len());
                why.push(format!(
                    "`{name}` copies: {}, has {stale} stale rows, and {parked} wait",
                    database.copy.is_some()
                ));
            }
            let own = live(database);
            if own != wanted {
                let mut odd: Vec<String> = Vec::new();
                odd.extend(
                    wanted.iter().filter(|row| !own.contains(row)).map(|row| format!("lacks {row:?}")),
                );
                odd.extend(own.iter().filter(|row| !wanted.contains(row)).map(|row| format!("has {row:?}")));
                why.push(format!("`{name}` has other rows than `{}`: {odd:?}", primary.name));
            }
        });
        let cells = region.cells.lock().unwrap();
        for other in &region.others {
            let Some(cell) = cells.get(other) else {
                why.push(format!("`{name}` does not follow `{other}`"));
                continue;
            };
            let report = cell.report(clock::now());
            if report.state != State::Following || report.problem.is_some() {
                why.push(format!("`{name}` from `{other}`: {:?} {:?}", report.state, report.problem));
            }
        }
    }
    why
}

/// What holds at any time, whatever befalls.
pub(super) fn look(world: &World<'_>) {
    let mut history = world.shared.history.lock().unwrap();
    let mut odd = Vec::new();
    for region in &world.regions {
        let name = &region.name;
        region.store.with(|database| {
            for (id, row) in &database.rows {
                let named = (id.clone(), row.state.version.clone());
                let image = history.images.entry(named).or_insert_with(|| row.image.clone());
                if *image != row.image {
                    odd.push(format!("{} at {} is two rows", id.key, row.state.version.v));
                }
                let swept = history.swept.get(id);
                let settled = database.copy.is_none() && database.cut.is_none();
                if settled && !row.state.deleted && swept.is_some_and(|swept| *swept > row.state.version) {
                    odd.push(format!("`{name}` has {} again, which was deleted", id.key));
                }
            }
        });
        for other in world.regions.iter().filter(|other| other.name != *name) {
            odd.extend(passed_over(region, other, &history));
        }
    }
    drop(history);
    for what in odd {
        world.shared.violated(what);
    }
}

/// Records of a log that a copy has come past without having them.
fn passed_over(copy: &Region, source: &Region, history: &History) -> Option<String> {
    let (log, identity) = source.store.with(|database| (database.log.clone(), database.identity().ok()));
    let identity = identity?;
    copy.store.with(|database| {
        let whole = database.copy.is_none() && database.cut.is_none();
        let progress = database.progress.get(&source.name).filter(|_| whole)?;
        if progress.identity != identity {
            return None;
        }
        let (lineage, fence) = database.sieve(true);
        let missing = log.range(..=progress.applied).find(|(_, record)| {
            let Some(change) = change(record) else { return false };
            let named = (change.id.clone(), change.version.clone());
            let here = database.rows.get(&change.id).is_some_and(|row| row.state.version >= change.version);
            let swept = history.swept.get(&change.id).is_some_and(|swept| *swept >= change.version);
            let counts = lineage.judge((&source.name, &identity), record, fence) == Verdict::Counts;
            counts
                && !here
                && !swept
                && !database.stale.contains_key(&change.id)
                && !database.parked.contains_key(&named)
        });
        missing.map(|(at, _)| format!("`{}` has come past {at} of `{}` without it", copy.name, source.name))
    })
}

/// Rows that are there.
fn live(database: &Database) -> Vec<(RowId, Version, String)> {
    let there = database.rows.iter().filter(|(_, row)| !row.state.deleted);
    there
        .map(|(id, row)| (id.clone(), row.state.version.clone(), row.image.clone().unwrap_or_default()))
        .collect()
}

/// What must hold at the end, beside that all have the same rows.
pub(super) fn end(world: &World<'_>) {
    for region in &world.regions {
        let name = &region.name;
        region.store.with(|database| {
            if let Some(echo) =
                database.log.values().filter_map(change).find(|change| change.version.origin != *name)
            {
                world.shared.violated(format!("`{name}` tells what `{}` wrote", echo.version.origin));
            }
        });
    }
    let Some(primary) = world.primary() else { return };
    let history = world.shared.history.lock().unwrap();
    let mut lost = Vec::new();
    for write in &history.writes {
        let here = primary.store.with(|database| {
            database.rows.get(&write.id).is_some_and(|row| row.state.version >= write.version)
        });
        let swept = history.swept.get(&write.id).is_some_and(|swept| *swept >= write.version);
        let kept = || {
            world.regions.iter().any(|region| {
                region.store.with(|database| {
                    database.ledger.keys().any(|(id, version)| *id == write.id && *version >= write.version)
                        || database.vanished.get(&write.id).is_some_and(|deleted| *deleted >= write.version)
                })
            })
        };
        if !here && !swept && !write.taken_back && !kept() {
            lost.push(format!("{} of {} from `{}`", write.version.v, write.id.key, write.region));
        }
    }
    drop(history);
    if !lost.is_empty() {
        world
            .shared
            .violated(format!("clients were told that these are written, and nobody has them: {lost:?}"));
    }
}
