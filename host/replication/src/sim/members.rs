//! Clients of the tables that all regions write: they write in every region whose gateway is up, whether it reaches another or not, and
//! remember what they were told is done, what they knew when they wrote it, and what they added.

use std::collections::BTreeMap;

use portolan_changelog::RowId;
use portolan_changelog::model::marks::{Marks, ROW};
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::Version;
use serde_json::{Value, json};

use super::clients::TENANTS;
use super::database::{Database, change};
use super::world::World;
use super::writing::{DRAFTS, STOCK, Seen};

/// Rows of each tenant in each table: few, so that regions meet in them.
const ROWS: u64 = 2;
/// Rows that one transaction writes at most.
const WRITES_MAX: u64 = 3;
/// Transactions that are open at once, at most.
const OPEN_MAX: usize = 4;
/// Of so many steps, in how many a transaction begins.
const BEGINS_PERCENT: u64 = 15;
/// Of so many steps, in how many one that is open ends.
const ENDS_PERCENT: u64 = 35;
/// Of so many writes, how many delete.
const DELETES_PERCENT: u64 = 25;
/// Of so many updates of merged rows, how many change nothing but what is merged.
const MERGES_PERCENT: u64 = 60;
/// The most that is added to a counter at once.
const ADDS_MAX: u64 = 9;

/// A write of a member.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// What it added to a counter, and its life, of a row that is merged.
    pub(super) added: Option<(u64, i64)>,
    pub(super) deletes: bool,
    pub(super) id: RowId,
    /// The text that it replaced with open eyes.
    pub(super) over: Option<String>,
    /// The text that it brought.
    pub(super) says: Option<String>,
    /// The element that it put into a set, and its life.
    pub(super) tag: Option<(u64, String)>,
    /// The database that had it was put back to before it.
    pub(super) taken_back: bool,
    pub(super) version: Version,
}

#[derive(Debug)]
struct Transaction {
    number: u64,
    region: RegionName,
    written: Vec<Written>,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    open: Vec<Transaction>,
    /// Each write says something else.
    said: u64,
}

/// A row's next state, and what is new in it.
struct Next {
    adds: i64,
    row: Option<String>,
    says: Option<String>,
    tag: Option<String>,
}

impl Members {
    pub(super) fn act(&mut self, world: &mut World<'_>) {
        if !world.shared.kind.members {
            return;
        }
        if self.open.len() < OPEN_MAX && world.random.percent(BEGINS_PERCENT) {
            self.begin(world);
        }
        if !self.open.is_empty() && world.random.percent(ENDS_PERCENT) {
            let at = usize::try_from(world.random.below(self.open.len() as u64)).unwrap();
            commit(self.open.remove(at), world);
        }
    }

    pub(super) fn end(&mut self, world: &World<'_>) {
        for transaction in std::mem::take(&mut self.open) {
            commit(transaction, world);
        }
    }

    fn begin(&mut self, world: &mut World<'_>) {
        let region = world.random.pick(&world.regions).clone();
        if !world.sim.is_host_running(region.name.as_str()) {
            return;
        }
        let Ok(number) = region.store.with(Database::begin_as_member) else { return };
        let mut written = Vec::new();
        for _ in 0..world.random.between(1, WRITES_MAX) {
            let tenant = TenantName::new(world.random.pick::<&str>(&TENANTS)).unwrap();
            let key = format!("[\"{tenant}\",{}]", world.random.below(ROWS));
            let table = (*world.random.pick(&[DRAFTS, STOCK])).to_owned();
            let id = RowId { table, key };
            let seen = region.store.with(|database| database.see(number, &id));
            let next = self.next(world, &id, seen.as_ref());
            let now_us = region.store.now_us();
            let record = region
                .store
                .with(|database| database.write(number, &id, (&tenant, next.row.clone()), now_us));
            if let Some(change) = record.as_ref().and_then(change) {
                let over = seen.as_ref().and_then(|seen| says(seen.row.as_deref()?));
                written.push(note(next, (id, over), change.marks.as_deref(), &change.version));
            }
        }
        self.open.push(Transaction { number, region: region.name.clone(), written });
    }

    fn next(&mut self, world: &mut World<'_>, id: &RowId, seen: Option<&Seen>) -> Next {
        self.said += 1;
        let text = format!("w{}", self.said);
        let was = seen.and_then(|seen| seen.row.as_deref());
        let key: Value = serde_json::from_str(&id.key).unwrap();
        if was.is_some() && world.random.percent(DELETES_PERCENT) {
            return Next { adds: 0, row: None, says: None, tag: None };
        }
        if id.table == DRAFTS {
            let row = json!({ "key": key, "says": text }).to_string();
            return Next { adds: 0, row: Some(row), says: Some(text), tag: None };
        }
        let mut row: BTreeMap<String, Value> = was.map_or_else(
            || BTreeMap::from([("key".to_owned(), key), ("says".to_owned(), text.clone().into())]),
            |was| serde_json::from_str(was).unwrap(),
        );
        let mut says = was.is_none().then(|| text.clone());
        if was.is_some() && !world.random.percent(MERGES_PERCENT) {
            row.insert("says".to_owned(), text.clone().into());
            says = Some(text.clone());
        }
        let adds = i64::try_from(world.random.between(1, ADDS_MAX)).unwrap();
        let count = row.get("count").and_then(Value::as_i64).unwrap_or_default();
        row.insert("count".to_owned(), (count + adds).into());
        let mut tags = row.get("tags").and_then(|tags| tags.as_array().cloned()).unwrap_or_default();
        let tag = (was.is_none() || world.random.percent(50)).then(|| text.clone());
        tags.extend(tag.clone().map(Value::from));
        row.insert("tags".to_owned(), tags.into());
        Next { adds, row: Some(serde_json::to_string(&row).unwrap()), says, tag }
    }
}

/// What a row says.
pub(super) fn says(row: &str) -> Option<String> {
    let row: Value = serde_json::from_str(row).unwrap();
    row.get("says").and_then(Value::as_str).map(str::to_owned)
}

fn note(next: Next, (id, over): (RowId, Option<String>), marks: Option<&str>, version: &Version) -> Written {
    let life = marks.and_then(|marks| Some(Marks::parse(marks).unwrap().at.get(ROW)?.0));
    let deletes = next.row.is_none();
    Written {
        added: life.map(|life| (life, next.adds)),
        deletes,
        id,
        over: over.filter(|_| deletes || next.says.is_some()),
        says: next.says,
        tag: life.zip(next.tag),
        taken_back: false,
        version: version.clone(),
    }
}

fn commit(transaction: Transaction, world: &World<'_>) {
    let Transaction { number, region, written } = transaction;
    let store = world.region(&region).store.clone();
    let now_us = store.now_us();
    let Some(records) = store.with(|database| database.commit(number, now_us)) else { return };
    let Some(last) = records.last() else { return };
    world.shared.trace(|| {
        let what = written.iter().map(|write| {
            let Written { id, version, says, over, .. } = write;
            format!("{} {} {} {says:?} over {over:?}", id.table, id.key, version.v)
        });
        format!("{region}: as a member, to {}: {}", last.position, what.collect::<Vec<_>>().join(", "))
    });
    world.shared.history.lock().unwrap().members.extend(written);
}
