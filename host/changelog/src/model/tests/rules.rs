//! Regions that write beside each other and hear of each other late, under a table's rule: what all of these walks are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Placement, Position, Version};
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Identifier, Rest};

use super::super::gate::{Conflict, Ground, Image, Plan, RowState};
use super::super::history::History as Past;
use super::super::marks::{Columns, Marks, ROW};
use super::super::record::{Change, Record, RowChange, RowId};
use super::Dice;
use super::writer::{self, Write};

/// Later than all that happens here.
const NOW: u64 = 1_000_000;

/// A row as a replica has it.
pub(super) type Row = (RowState, Option<String>);

/// A database as far as the gate can see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub(super) ledger: Vec<(Version, String)>,
    pub(super) parked: usize,
    pub(super) rows: BTreeMap<RowId, Row>,
}

/// How a replica takes a batch.
pub(super) type Apply = fn(&ConflictRule, &mut Replica, &[Record]);

/// As the gate says.
pub(super) fn apply(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    let mut ground = Ground::default();
    ground.rules.insert("notes".into(), rule.clone());
    for record in records {
        if let Change::Row(change) = &record.change
            && let Some((state, row)) = replica.rows.get(&change.id)
        {
            ground.rows.insert(change.id.clone(), state.clone());
            ground.images.extend(row.clone().map(|row| (change.id.clone(), row)));
        }
    }
    let plan = Plan::make(&mut ground, records, NOW);
    for Conflict { id, lost, loser, .. } in &plan.conflicts {
        let row = match loser {
            Image::Is(row) => row.clone(),
            Image::There => replica.rows[id].1.clone(),
        };
        replica.ledger.push((lost.clone(), row.unwrap_or_default()));
    }
    replica.parked += plan.parked.len();
    replica.rows.extend(plan.writes.into_iter().map(|(id, write)| (id, (write.state, write.row))));
}

/// What regions wrote.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Of each version, all those that its writer knew.
    pub(super) ancestors: HashMap<(RowId, Version), BTreeSet<Version>>,
    /// Deletions: the row, and when.
    pub(super) deletions: Vec<(RowId, u64)>,
    /// What was written with open eyes over something: texts that were there.
    pub(super) known: BTreeSet<String>,
    pub(super) records: Vec<Record>,
    /// What merging must not lose.
    pub(super) added: Vec<Added>,
    /// Elements that were taken out.
    pub(super) removed: BTreeSet<String>,
    /// The ledgers of all that took part.
    pub(super) ledger: Vec<(Version, String)>,
    /// Writes of the home, by row.
    pub(super) home: Vec<(RowId, Version)>,
}

/// What one write brought.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) id: RowId,
    /// To which life of the row.
    pub(super) life: u64,
    /// What `most` was set to.
    pub(super) most: Option<u64>,
    /// What was added to `stock`.
    pub(super) stock: i64,
    /// What was put into `tags`.
    pub(super) tags: Vec<String>,
}

pub(super) fn counting(rest: Rest) -> ConflictRule {
    let rules = [
        ("most", ColumnRule::Max),
        ("least", ColumnRule::Min),
        ("stock", ColumnRule::Counter),
        ("tags", ColumnRule::SetUnion),
    ];
    let rules = rules.map(|(name, rule)| (Identifier::new(name).unwrap(), rule)).into();
    ConflictRule::Columns { rules, rest }
}

/// A row's columns, which all rules find something in.
fn columns(text: &str) -> Columns {
    serde_json::from_str(text).unwrap()
}

/// Another row than before: one or two columns of it.
fn edit(dice: &mut Dice, was: Option<&Columns>, number: u64) -> String {
    let mut row: BTreeMap<String, serde_json::Value> = was.map_or_else(
        || serde_json::from_str(&format!(r#"{{"name":"n{number}","color":"c{number}","stock":{},"tags":["t{number}"],"most":{number},"least":-{number}}}"#, dice.below(9))).unwrap(),
        |was| serde_json::from_str(&serde_json::to_string(was).unwrap()).unwrap(),
    );
    for _ in 0..u64::from(was.is_some()) * (1 + dice.below(2)) {
        match dice.below(7) {
            0 => row.insert("name".into(), format!("n{number}").into()),
            1 => row.insert("color".into(), format!("c{number}").into()),
            2 => row.insert("most".into(), number.into()),
            3 => row.insert("least".into(), (-number.cast_signed()).into()),
            4 => {
                let mut tags = row.get("tags").and_then(|tags| tags.as_array().cloned()).unwrap_or_default();
                if !tags.is_empty() && dice.one_in(2) {
                    tags.remove(usize::try_from(dice.below(tags.len() as u64)).unwrap());
                } else {
                    tags.insert(0, format!("t{number}").into());
                }
                row.insert("tags".into(), tags.into())
            }
            _ => {
                let stock = row.get("stock").and_then(serde_json::Value::as_i64).unwrap_or_default()
                    + dice.below(9).cast_signed()
                    - 3;
                row.insert("stock".into(), stock.into())
            }
        };
    }
    serde_json::to_string(&row).unwrap()
}

/// The highest number that a region has seen of a row, if it is not the row's.
fn top(rule: &ConflictRule, state: &RowState) -> Option<u64> {
    let by_history = matches!(rule, ConflictRule::FirstWins | ConflictRule::HomeWins);
    by_history.then(|| Past::parse(state.marks.as_deref(), &state.version).unwrap().top).flatten()
}

/// Rows without what is each region's own business.
pub(super) fn told(rule: &ConflictRule, replica: &Replica) -> BTreeMap<RowId, Row> {
    let mut rows = replica.rows.clone();
    for (state, _) in rows.values_mut() {
        if top(rule, state).is_some() {
            let past = Past::parse(state.marks.as_deref(), &state.version).unwrap();
            state.marks = serde_json::to_string(&Past { top: None, ..past }).ok();
        } else if !matches!(rule, ConflictRule::Columns { .. }) {
            let past = Past::parse(state.marks.as_deref(), &state.version).unwrap();
            state.marks = serde_json::to_string(&past).ok();
        }
    }
    rows
}

impl History {
    /// Some regions write some rows; each hears of what others wrote now and then, in parts, and some of it twice. The first
    /// holds the lease.
    pub(super) fn draw(dice: &mut Dice, rule: &ConflictRule, deletes: bool, take: Apply) -> Self {
        let regions: Vec<RegionName> = ["eu", "us", "ap", "sa", "af"]
            .iter()
            .take(usize::try_from(dice.below(3) + 3).unwrap())
            .map(|name| RegionName::new(name).unwrap())
            .collect();
        let mut replicas = vec![Replica::default(); regions.len()];
        let mut heard = vec![vec![0; regions.len()]; regions.len()];
        let mut logs: Vec<Vec<Record>> = vec![Vec::new(); regions.len()];
        let mut history = Self::default();
        let (rows, few) = (dice.below(2) + 1, dice.below(20) + 2);
        // Now and then more than a path holds.
        let writes = if dice.one_in(20) { few + 60 } else { few };
        for number in 1..=writes {
            let writer = usize::try_from(dice.below(regions.len() as u64)).unwrap();
            while dice.one_in(2) {
                let from = usize::try_from(dice.below(regions.len() as u64)).unwrap();
                let more = &logs[from][heard[writer][from]..];
                let some = usize::try_from(dice.below(more.len() as u64 + 1)).unwrap();
                let again = if dice.one_in(3) { 0 } else { heard[writer][from] };
                if from != writer {
                    let through = heard[writer][from] + some;
                    take(rule, &mut replicas[writer], &logs[from][again..through]);
                    heard[writer][from] = through;
                }
            }
            let id = RowId { table: "notes".into(), key: format!("[{}]", dice.below(rows)) };
            let record = history.write(
                dice,
                rule,
                (&mut replicas[writer], &regions[writer]),
                id,
                (number, deletes, writer == 0),
            );
            logs[writer].push(record);
        }
        for replica in replicas {
            history.ledger.extend(replica.ledger);
        }
        history.records = logs.into_iter().flatten().collect();
        history
    }

    fn write(
        &mut self,
        dice: &mut Dice,
        rule: &ConflictRule,
        (replica, region): (&mut Replica, &RegionName),
        id: RowId,
        (number, deletes, home): (u64, bool, bool),
    ) -> Record {
        let there = replica.rows.get(&id).cloned();
        let was = there.as_ref().and_then(|(_, row)| row.clone());
        let before = was.as_deref().map(columns);
        let deleted = deletes && was.is_some() && dice.one_in(4);
        let image = (!deleted).then(|| {
            loop {
                let next = edit(dice, before.as_ref(), number);
                if Some(&next) != was.as_ref() {
                    break next;
                }
            }
        });
        // Clocks differ and stand still.
        let clock = (number * 10).saturating_sub(dice.below(40));
        let replaces = there.as_ref().map(|(state, _)| state.version.clone());
        let top = there.as_ref().and_then(|(state, _)| top(rule, state)).unwrap_or_default();
        let version = Version::after(replaces.as_ref(), Epoch(0), (clock + 1).max(top + 1), region.clone());
        let after = image.as_deref().map(columns);
        let marks = writer::marks(
            rule,
            Write {
                home: home.then_some(1),
                image: after.as_ref(),
                old: there.as_ref().and_then(|(state, _)| state.marks.as_deref()),
                replaces: replaces.as_ref(),
                version: &version,
                was: before.as_ref(),
            },
        );
        if let (ConflictRule::Columns { .. }, Some(marks), Some(after)) = (rule, &marks, &after) {
            let life = Marks::parse(marks).unwrap().at[ROW].0;
            self.note(&id, life, before.as_ref(), after);
        }
        let mut ancestors: BTreeSet<Version> = BTreeSet::new();
        if let Some(replaces) = &replaces {
            let known = self.ancestors.get(&(id.clone(), replaces.clone()));
            ancestors.extend(known.into_iter().flatten().cloned());
            ancestors.insert(replaces.clone());
        }
        self.ancestors.insert((id.clone(), version.clone()), ancestors);
        if deleted {
            self.deletions.push((id.clone(), version.v));
        }
        if home {
            self.home.push((id.clone(), version.clone()));
        }
        for (name, value) in before.iter().flatten() {
            if after.as_ref().and_then(|after| after.get(name)).map(|text| text.get()) != Some(value.get()) {
                self.known.insert(value.get().to_owned());
            }
        }
        let tenant = TenantName::new("acme").ok();
        let state = RowState {
            tenant: tenant.clone(),
            placement: Placement(0),
            version: version.clone(),
            replaces: replaces.clone(),
            deleted,
            marks: marks.clone(),
        };
        replica.rows.insert(id.clone(), (state, image.clone()));
        let change = RowChange { id, row: image, version, replaces, marks };
        Record {
            position: Position::new(1, number, number),
            at_us: number,
            tenant,
            placement: Placement(0),
            schema: 1,
            change: Change::Row(change),
        }
    }

    fn note(&mut self, id: &RowId, life: u64, before: Option<&Columns>, after: &Columns) {
        let stock = |row: &Columns| row["stock"].get().parse::<i64>().unwrap_or_default();
        let tags = |row: &Columns| writer::elements(row["tags"].get());
        let old = before.map(tags).unwrap_or_default();
        let put = tags(after).difference(&old).cloned().collect();
        self.removed.extend(old.difference(&tags(after)).cloned());
        let most = |row: &Columns| row["most"].get().parse::<u64>().unwrap_or_default();
        let most = Some(most(after)).filter(|now| before.is_none_or(|before| most(before) != *now));
        self.added.push(Added {
            id: id.clone(),
            life,
            most,
            stock: stock(after) - before.map_or(0, stock),
            tags: put,
        });
    }

    /// Feeds it all in some order, some of it twice, in batches of any size.
    pub(super) fn feed(&self, dice: &mut Dice, rule: &ConflictRule, take: Apply) -> Replica {
        let mut records = self.records.clone();
        let again: Vec<_> = records.iter().filter(|_| dice.one_in(3)).cloned().collect();
        records.extend(again);
        dice.shuffle(&mut records);
        let mut replica = Replica::default();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (batch, more) = rest.split_at(usize::try_from(dice.below(rest.len() as u64) + 1).unwrap());
            take(rule, &mut replica, batch);
            rest = more;
        }
        replica
    }

    /// Each change of a row.
    pub(super) fn changes(&self) -> impl Iterator<Item = &RowChange> {
        self.records.iter().filter_map(|record| match &record.change {
            Change::Row(change) => Some(change),
            Change::Forget => None,
        })
    }
}
