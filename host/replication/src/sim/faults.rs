//! What befalls a world: links that are cut, held or slow, gateways that crash, databases that are put back, regions that do not reach the control
//! store, promotions; and what keepers do every so often.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_changelog::{Member, Retention, Sweep};
use portolan_core::ids::RegionName;

use super::Variant;
use super::database::Database;
use super::node::Region;
use super::world::World;

/// Of so many steps, in how many something befalls.
const BEFALLS_PERMILLE: u64 = 25;
/// From one time that databases are saved to the next, in steps.
const SAVE_STEPS: u64 = 300;
/// From one trim to the next.
const TRIM_STEPS: u64 = 150;
/// From one look at sweeps to the next.
const SWEEP_STEPS: u64 = 50;
/// How long the shard may be without a primary before somebody helps, in steps.
const HELP_STEPS: u64 = 1_500;
/// How much of a log is kept: little, so that peers lose their places.
const RETENTION: Retention =
    Retention { age_min: Duration::from_millis(500), age_max: Duration::from_secs(8), bytes_max: 9_000 };
/// What ends by itself, by the step in which it does.
#[derive(Clone, Debug)]
enum End {
    Bounce(RegionName),
    Heard(RegionName),
    Release(RegionName, RegionName),
    Repair(RegionName, RegionName),
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    ends: BTreeMap<(u64, u64), End>,
    helped: u64,
    /// How often nobody could be promoted in a row.
    helpless: u32,
    number: u64,
    /// Databases as they were, with how many writes had been told to be done.
    saved: BTreeMap<RegionName, (Database, usize)>,
    sweeps: BTreeMap<RegionName, Sweep>,
}

impl Faults {
    /// Something may go wrong in this step, and something that has goes right again.
    pub(super) fn befall(&mut self, world: &mut World<'_>) {
        while let Some(due) = self.ends.first_entry().filter(|due| due.key().0 <= world.step) {
            ends(due.remove(), world);
        }
        self.keep_house(world);
        if world.step.is_multiple_of(SAVE_STEPS) {
            self.save(world);
        }
        if world.random.below(1_000) >= BEFALLS_PERMILLE {
            return;
        }
        let names: Vec<RegionName> = world.names().into_iter().collect();
        let one = world.random.pick(&names).clone();
        let other = world.random.pick(&names).clone();
        match world.random.below(100) {
            0..25 if one != other => {
                world.shared.trace(|| format!("`{one}` and `{other}` are cut off"));
                world.sim.partition(one.as_str(), other.as_str());
                self.until(world, (50, 500), End::Repair(one, other));
            }
            25..37 if one != other => {
                world.shared.trace(|| format!("`{one}` and `{other}` are held"));
                world.sim.hold(one.as_str(), other.as_str());
                self.until(world, (20, 300), End::Release(one, other));
            }
            37..45 => {
                world.shared.trace(|| format!("`{one}` is alone"));
                let lasts = world.random.between(100, 600);
                for other in names.iter().filter(|other| **other != one) {
                    world.sim.partition(one.as_str(), other.as_str());
                    self.until(world, (lasts, lasts), End::Repair(one.clone(), other.clone()));
                }
            }
            45..60 if world.sim.is_host_running(one.as_str()) => {
                world.shared.trace(|| format!("`{one}` crashes"));
                self.crash(world, &one);
                self.until(world, (10, 400), End::Bounce(one));
            }
            60..68 => {
                world.shared.trace(|| format!("`{one}` does not reach the control store"));
                world.shared.control.lock().unwrap().away.insert(one.clone());
                self.until(world, (50, 500), End::Heard(one));
            }
            68..78 if one != other => {
                let slow = Duration::from_millis(world.random.between(1, 400));
                world.sim.set_link_latency(one.as_str(), other.as_str(), slow);
            }
            78..86 => self.put_back(world, &one),
            86..100 => promote(world, &one),
            _ => {}
        }
    }

    /// A gateway's machine stops at once: nobody hears of it. What it would say while it is taken apart would come in no order that a seed
    /// decides.
    fn crash(&self, world: &mut World<'_>, name: &RegionName) {
        let others: Vec<RegionName> = world.region(name).others.clone();
        for other in &others {
            world.sim.partition(name.as_str(), other.as_str());
        }
        world.sim.crash(name.as_str());
        world.region(name).store.with(Database::end_writers);
        for other in &others {
            let is = |one: &RegionName, two: &RegionName| {
                (one, two) == (name, other) || (one, two) == (other, name)
            };
            let cut = self.ends.values().any(|end| matches!(end, End::Repair(one, two) if is(one, two)));
            let held = self.ends.values().any(|end| matches!(end, End::Release(one, two) if is(one, two)));
            if !cut {
                world.sim.repair(name.as_str(), other.as_str());
            }
            if held && !cut {
                world.sim.hold(name.as_str(), other.as_str());
            }
        }
    }

    fn until(&mut self, world: &mut World<'_>, (from, to): (u64, u64), end: End) {
        self.number += 1;
        self.ends.insert((world.step + world.random.between(from, to), self.number), end);
    }

    /// All is well from here on.
    pub(super) fn heal(&mut self, world: &mut World<'_>) {
        world.shared.trace(|| "all is healed".to_owned());
        for end in std::mem::take(&mut self.ends).into_values() {
            ends(end, world);
        }
        let names: Vec<RegionName> = world.names().into_iter().collect();
        for one in &names {
            for other in names.iter().filter(|other| *other > one) {
                world.sim.set_link_latency(one.as_str(), other.as_str(), Duration::from_millis(20));
            }
        }
        self.helped = world.step;
    }

    /// An operator makes another region the primary when the one that is meant cannot be, or has no rows and others have some.
    pub(super) fn help(&mut self, world: &mut World<'_>) {
        let barred = world.primary().is_some_and(|primary| is_emptied(world, primary));
        if world.primary().is_some() && !barred {
            self.helped = world.step;
        } else if world.step - self.helped > HELP_STEPS {
            self.helped = world.step;
            let whole = world.regions.iter().find(|region| !barred && may_lead(world, &region.name));
            if let Some(name) = whole.map(|region| region.name.clone()) {
                world.shared.trace(|| format!("an operator promotes `{name}`"));
                world.shared.control.lock().unwrap().wanted = Some(name);
                self.helpless = 0;
            } else {
                // Nobody has all rows, and nobody will: after a while the operator says whose count.
                self.helpless += 1;
                let fullest = world.regions.iter().max_by_key(|region| {
                    (region.store.with(|database| database.rows.len()), region.name.clone())
                });
                if let Some(region) = fullest.filter(|_| self.helpless > 1) {
                    let name = region.name.clone();
                    world.shared.trace(|| format!("an operator promotes `{name}` with what it has"));
                    let mut control = world.shared.control.lock().unwrap();
                    (control.wanted, control.wanted_partial) = (Some(name), true);
                    self.helpless = 0;
                }
            }
        }
    }

    /// What keepers do.
    pub(super) fn keep_house(&mut self, world: &mut World<'_>) {
        if world.step.is_multiple_of(TRIM_STEPS) {
            for region in &world.regions {
                let now_us = region.store.now_us();
                // One whose history was cut trims nothing.
                region.store.with(|database| database.trim(&RETENTION, now_us)).ok();
            }
        }
        if world.step.is_multiple_of(SWEEP_STEPS) {
            self.sweep(world);
        }
    }

    fn sweep(&mut self, world: &mut World<'_>) {
        for region in world.regions.clone() {
            let others =
                || region.others.iter().map(|other| Member { region: other.clone(), incarnation: 1 });
            let busy = region.store.with(|database| database.copy.is_some() || database.cut.is_some());
            if busy {
                self.sweeps.remove(&region.name);
                continue;
            }
            let begin = || {
                region.store.with(|database| {
                    database.round += 1;
                    let mark =
                        portolan_changelog::Mark { round: database.round, known: database.known().ok()? };
                    Some(Sweep::begin(mark, others()))
                })
            };
            if !self.sweeps.contains_key(&region.name)
                && let Some(begun) = begin()
            {
                self.sweeps.insert(region.name.clone(), begun);
            }
            let Some(sweep) = self.sweeps.get_mut(&region.name) else { continue };
            for other in &region.others {
                // A member that copies rows says nothing of what it has.
                let report = world
                    .region(other)
                    .store
                    .with(|database| if database.copy.is_some() { None } else { database.report(1).ok() });
                if let Some(report) = report
                    && world.random.percent(50)
                {
                    sweep.hear(&report);
                }
            }
            let early = world.shared.variant == Variant::EarlyTombstone;
            // Whoever writes the row next here is above it by this clock; whoever does elsewhere has the tombstone, or a later epoch.
            let before_us = region.store.now_us();
            let gone = region.store.with(|database| {
                let may = early || database.known().is_ok_and(|known| sweep.may_go(&known));
                may.then(|| database.sweep(sweep, before_us))
            });
            let Some(gone) = gone else { continue };
            self.sweeps.remove(&region.name);
            if gone.is_empty() {
                continue;
            }
            world.shared.trace(|| format!("`{}` forgets {} tombstones", region.name, gone.len()));
            let mut history = world.shared.history.lock().unwrap();
            for (id, version) in gone {
                let known = history.swept.entry(id).or_insert_with(|| version.clone());
                *known = version.max(known.clone());
            }
        }
    }

    fn save(&mut self, world: &World<'_>) {
        for region in &world.regions {
            let saved = region.store.with(|database| database.cut.is_none().then(|| database.clone()));
            let writes = world.shared.history.lock().unwrap().writes.len();
            if let Some(saved) = saved {
                self.saved.insert(region.name.clone(), (saved, writes));
            }
        }
    }

    /// A database goes on from an earlier state of it.
    fn put_back(&mut self, world: &mut World<'_>, name: &RegionName) {
        let Some((saved, writes)) = self.saved.get(name).filter(|_| world.shared.hard).cloned() else {
            return;
        };
        world.shared.trace(|| format!("`{name}` is put back"));
        let epoch = world.shared.control.lock().unwrap().meant.epoch;
        if world.sim.is_host_running(name.as_str()) {
            self.crash(world, name);
            self.until(world, (10, 100), End::Bounce(name.clone()));
        }
        self.sweeps.clear();
        let region = world.region(name);
        let mut history = world.shared.history.lock().unwrap();
        history.put_back = true;
        region.store.with(|database| {
            // What had lost stays known: who looks for it has the ledgers of before as well.
            let ledger = std::mem::take(&mut database.ledger);
            *database = saved;
            database.ledger.extend(ledger);
            database.cut = Some(epoch);
            database.end_writers();
        });
        let gone = history.writes.iter_mut().skip(writes);
        gone.filter(|write| write.region == *name).for_each(|write| write.taken_back = true);
    }
}

fn ends(end: End, world: &mut World<'_>) {
    match end {
        End::Bounce(name) => {
            if !world.sim.is_host_running(name.as_str()) {
                world.sim.bounce(name.as_str());
            }
        }
        End::Heard(name) => drop(world.shared.control.lock().unwrap().away.remove(&name)),
        End::Release(one, other) => world.sim.release(one.as_str(), other.as_str()),
        End::Repair(one, other) => world.sim.repair(one.as_str(), other.as_str()),
    }
}

/// Is a region's copy whole as far as is known, and does it hold its place in all logs? A primary that lost one is an open fault.
fn may_lead(world: &World<'_>, name: &RegionName) -> bool {
    world.region(name).store.with(|database| database.is_whole() && database.stale.is_empty())
}

/// Does a primary have no rows, of which others have some? They do not give theirs up for that.
fn is_emptied(world: &World<'_>, primary: &Region) -> bool {
    let has_rows =
        |region: &Region| region.store.with(|database| database.rows.values().any(|row| !row.state.deleted));
    !has_rows(primary)
        && world
            .regions
            .iter()
            .any(|region| has_rows(region) && region.store.with(|database| database.copy.is_some()))
}

/// An operator makes a region the primary, whose copy is whole as far as is known.
fn promote(world: &mut World<'_>, name: &RegionName) {
    let fit = may_lead(world, name) && world.region(name).store.with(|database| database.cut.is_none());
    let mut control = world.shared.control.lock().unwrap();
    if fit && control.meant.primary != *name {
        control.wanted = Some(name.clone());
        drop(control);
        world.shared.trace(|| format!("an operator promotes `{name}`"));
    }
}
