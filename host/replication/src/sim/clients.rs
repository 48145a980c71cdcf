//! Clients: they write wherever a database lets them, remember what they were told is done, and read what they wrote with its token elsewhere.

use portolan_changelog::model::lineage::Reached;
use portolan_changelog::{Outcome, Record, RowId};
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::Variant;
use super::database::change;
use super::node::lease;
use super::world::{World, Write};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Rows of each tenant.
const ROWS: u64 = 6;
/// Rows that one transaction writes at most.
const WRITES_MAX: u64 = 6;
/// Transactions that are open at once, at most.
const OPEN_MAX: usize = 3;
/// Of so many steps, in how many a transaction begins.
const BEGINS_PERCENT: u64 = 12;
/// Of so many steps, in how many one that is open ends.
const ENDS_PERCENT: u64 = 30;
/// Of so many steps, in how many somebody reads.
const READS_PERCENT: u64 = 15;
/// Of so many writes, how many delete.
const DELETES_PERCENT: u64 = 25;

/// A client's transaction.
#[derive(Debug)]
struct Transaction {
    epoch: Epoch,
    number: u64,
    region: RegionName,
    until_us: u64,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Vec<Transaction>,
    /// Each write says something else.
    said: u64,
}

impl Clients {
    pub(super) fn act(&mut self, world: &mut World<'_>) {
        if self.open.len() < OPEN_MAX && world.random.percent(BEGINS_PERCENT) {
            self.begin(world);
        }
        if !self.open.is_empty() && world.random.percent(ENDS_PERCENT) {
            let at = usize::try_from(world.random.below(self.open.len() as u64)).unwrap();
            let transaction = self.open.remove(at);
            commit(transaction, world);
        }
        if world.random.percent(READS_PERCENT) {
            read(world);
            look(world);
        }
    }

    pub(super) fn end(&mut self, world: &mut World<'_>) {
        for transaction in std::mem::take(&mut self.open) {
            commit(transaction, world);
        }
    }

    /// Begins where a gateway is up and believes that it holds the lease, as clients do that know nothing else.
    fn begin(&mut self, world: &mut World<'_>) {
        let regions = world.regions.clone();
        let open = regions.iter().filter(|region| world.sim.is_host_running(region.name.as_str()));
        for region in open {
            let now_us = region.store.now_us();
            let begun = region.store.with(|database| {
                Some((database.begin(now_us).ok()?, database.fence.epoch, database.fence.deadline_us))
            });
            let Some((number, epoch, until_us)) = begun else { continue };
            for _ in 0..world.random.between(1, WRITES_MAX) {
                let tenant = TenantName::new(world.random.pick::<&str>(&TENANTS)).unwrap();
                let key = format!("[\"{tenant}\",{}]", world.random.below(ROWS));
                let deletes = world.random.percent(DELETES_PERCENT);
                self.said += 1;
                let row = (!deletes).then(|| format!("{{\"key\":{key},\"says\":{}}}", self.said));
                let id = RowId { table: "notes".to_owned(), key };
                region.store.with(|database| database.write(number, &id, (&tenant, row), now_us));
            }
            self.open.push(Transaction { epoch, number, region: region.name.clone(), until_us });
        }
    }
}

fn commit(transaction: Transaction, world: &mut World<'_>) {
    let Transaction { epoch, number, region, until_us } = transaction;
    let store = world.region(&region).store.clone();
    let now_us = store.now_us();
    let Some(records) = store.with(|database| database.commit(number, now_us)) else { return };
    // The lease is looked at again after the commit.
    if lease(epoch, until_us.max(now_us)).outcome(Moment(now_us.saturating_sub(1))) != Outcome::Done {
        return;
    }
    let Some(token) = records.last().map(|last| last.position) else { return };
    world.shared.trace(|| format!("{region}: {} records are written to {token}", records.len()));
    let mut newest: std::collections::BTreeMap<RowId, &Record> = std::collections::BTreeMap::new();
    for record in &records {
        if let Some(change) = change(record) {
            newest.insert(change.id.clone(), record);
        }
    }
    let mut history = world.shared.history.lock().unwrap();
    for (id, record) in newest {
        let version = change(record).unwrap().version.clone();
        let (lost, taken_back) = (false, false);
        let told = portolan_foundation::clock::now();
        history.writes.push(Write { lost, id, region: region.clone(), taken_back, token, version, told });
    }
}

/// Looks at a copy that says how old it is at most: whatever was done before that, and is not lost, is there.
fn look(world: &mut World<'_>) {
    let region = world.random.pick(&world.regions).clone();
    let now = portolan_foundation::clock::now();
    let reports: Vec<_> = region.cells.lock().unwrap().values().map(|cell| cell.report(now)).collect();
    let Some(behind_ms) = reports.iter().find(|report| report.primary).and_then(|report| report.behind_ms)
    else {
        return;
    };
    let until = Moment(now.0.saturating_sub(behind_ms * 1_000 + 1_000));
    let history = world.shared.history.lock().unwrap();
    let missing = region.store.with(|database| {
        if !database.is_whole() || !database.stale.is_empty() || database.cut.is_some() {
            return None;
        }
        let mut due =
            history.writes.iter().filter(|write| write.told <= until && !write.lost && !write.taken_back);
        let here = |write: &&Write| {
            let row = database.rows.get(&write.id).is_some_and(|row| row.state.version >= write.version);
            row || history.swept.get(&write.id).is_some_and(|swept| *swept >= write.version)
                || database.parked.keys().any(|(id, _)| *id == write.id)
        };
        due.rfind(|write| !here(write)).cloned()
    });
    drop(history);
    if let Some(write) = missing {
        world.shared.violated(format!(
            "`{}` says that it is at most {behind_ms} ms old, and lacks {} at {} of `{}`, told {} ms before",
            region.name,
            write.id.key,
            write.token,
            write.region,
            now.since(write.told).as_millis()
        ));
    }
}

/// Reads with the token of a write in another region. What is served has it.
fn read(world: &mut World<'_>) {
    let recent = {
        let history = world.shared.history.lock().unwrap();
        let from = history.writes.len().saturating_sub(20);
        history.writes[from..].to_vec()
    };
    if recent.is_empty() {
        return;
    }
    let write = world.random.pick(&recent).clone();
    let region = world.random.pick(&world.regions).clone();
    if region.name == write.region {
        return;
    }
    let (fit, reached, here) = region.store.with(|database| {
        let fit = database.is_whole() && database.stale.is_empty() && database.cut.is_none();
        let here = database.rows.get(&write.id).map(|row| row.state.version.clone());
        (fit, database.reached(write.token), here)
    });
    let served = match world.shared.variant {
        Variant::TokenIgnored => true,
        _ => reached == Some(Reached::Here),
    };
    if !fit || !served {
        return;
    }
    let swept = world.shared.history.lock().unwrap().swept.get(&write.id).cloned();
    if here.is_none_or(|here| here < write.version) && swept.is_none_or(|swept| swept < write.version) {
        let Write { id, token, .. } = write;
        world.shared.violated(format!(
            "`{}` serves {} with the token {token}, and does not have it",
            region.name, id.key
        ));
    }
}
