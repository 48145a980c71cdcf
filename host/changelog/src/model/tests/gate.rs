//! Replicas that are fed changes in any order, any number of times, in any batches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Identity, Placement, Position, Version};
use portolan_core::tenant_table::ConflictRule;

use super::super::gate::*;
use super::super::progress::{Admission, Progress};
use super::super::record::*;
use super::{Dice, broken, hold};

/// Later than all that happens here.
const NOW: u64 = 1_000_000;

type Rows = BTreeMap<RowId, (RowState, Option<String>)>;

/// A database as far as the gate can see it.
#[derive(Clone, Debug, Default)]
struct Replica {
    rows: Rows,
    forgotten: HashMap<TenantName, Placement>,
    ledger: BTreeSet<(RowId, Version)>,
    parked: Vec<Record>,
}

impl Replica {
    fn apply(&mut self, records: &[Record]) {
        let mut ground = Ground { forgotten: self.forgotten.clone(), ..Ground::default() };
        for record in records {
            if let Change::Row(change) = &record.change
                && let Some((state, _)) = self.rows.get(&change.id)
            {
                ground.rows.insert(change.id.clone(), state.clone());
            }
        }
        let plan = Plan::make(&mut ground, records, NOW);
        for (tenant, placement) in plan.forgets {
            self.rows.retain(|_, (state, _)| {
                state.tenant.as_ref() != Some(&tenant) || state.placement >= placement
            });
            self.forgotten.insert(tenant, placement);
        }
        self.ledger.extend(plan.conflicts.into_iter().map(|conflict| (conflict.id, conflict.lost)));
        self.parked.extend(plan.parked.into_iter().map(|(record, _)| record));
        self.rows.extend(plan.writes.into_iter().map(|(id, write)| (id, (write.state, write.row))));
    }

    /// Until nothing that waits gets on any more.
    fn retry(&mut self) {
        loop {
            let waiting = std::mem::take(&mut self.parked);
            let before = waiting.len();
            for record in waiting {
                self.apply(&[record]);
            }
            if self.parked.len() == before {
                return;
            }
        }
    }
}

/// The history of a few rows: what regions wrote, each knowing some of what others did.
struct History {
    records: Vec<Record>,
}

impl History {
    /// `leases`: under leases that follow each other, each writer knowing all that came before, but now and then a write of the
    /// old lease that the new one never saw. Otherwise: all regions write, each knowing some.
    fn draw(dice: &mut Dice, leases: bool) -> Self {
        let regions = ["eu", "us", "ap"].map(|name| RegionName::new(name).unwrap());
        let mut heads: HashMap<(usize, usize), RowState> = HashMap::new();
        let (mut records, mut epoch, mut holder, mut sequence) = (Vec::new(), 1, 0, 10);
        let mut placements = [0_u64; 2];
        for _ in 0..dice.below(24) + 2 {
            if leases && dice.one_in(6) {
                let next = usize::try_from(dice.below(3)).unwrap();
                // The new holder knows what the old one shipped, which is not always all.
                for row in 0..4 {
                    if dice.one_in(4) {
                        continue;
                    }
                    if let Some(known) = heads.get(&(holder, row)).cloned() {
                        heads.insert((next, row), known);
                    }
                }
                (epoch, holder) = (epoch + 1, next);
            }
            let writer = if leases { holder } else { usize::try_from(dice.below(3)).unwrap() };
            if !leases && dice.one_in(3) {
                let (from, row) =
                    (usize::try_from(dice.below(3)).unwrap(), usize::try_from(dice.below(4)).unwrap());
                let (theirs, mine) = (heads.get(&(from, row)).cloned(), heads.get(&(writer, row)));
                if let Some(theirs) = theirs
                    && mine.is_none_or(|mine| mine.version < theirs.version)
                {
                    heads.insert((writer, row), theirs);
                }
            }
            let row = usize::try_from(dice.below(4)).unwrap();
            let tenant_at = row % 2;
            let tenant = TenantName::new(["acme", "bolt"][tenant_at]).unwrap();
            sequence += 1;
            let position = Position::new(epoch, sequence, sequence);
            let stay = Placement(placements[tenant_at]);
            let record = |change| Record {
                position,
                at_us: sequence,
                tenant: Some(tenant.clone()),
                placement: stay,
                schema: 1,
                change,
            };
            if leases && dice.one_in(14) {
                placements[tenant_at] += 1;
                heads.retain(|(_, row), _| row % 2 != tenant_at);
                records
                    .push(Record { placement: Placement(placements[tenant_at]), ..record(Change::Forget) });
                // It comes back later, under the next placement.
                placements[tenant_at] += dice.below(2);
                continue;
            }
            let head = heads.get(&(writer, row));
            let replaces = head.map(|head| head.version.clone());
            let written_under = Epoch(if leases { epoch } else { 0 });
            // Clocks differ and stand still.
            let clock = sequence.saturating_sub(dice.below(8));
            let version = Version::after(replaces.as_ref(), written_under, clock, regions[writer].clone());
            let deleted = head.is_some_and(|head| !head.deleted) && dice.one_in(4);
            let id = RowId { table: "notes".into(), key: format!("[{row}]") };
            let body = (!deleted).then(|| format!("{{\"n\":{sequence}}}"));
            records.push(record(Change::Row(RowChange {
                id,
                row: body,
                version: version.clone(),
                replaces: replaces.clone(),
                marks: None,
            })));
            let state = RowState {
                tenant: Some(tenant.clone()),
                placement: Placement(placements[tenant_at]),
                version,
                replaces,
                deleted,
                marks: None,
            };
            heads.insert((writer, row), state);
        }
        Self { records }
    }
}

/// Feeds it all in some order, some of it twice, in batches of any size.
fn feed(dice: &mut Dice, records: &[Record], apply: impl Fn(&mut Replica, &[Record])) -> Replica {
    let mut records = records.to_vec();
    let again: Vec<_> = records.iter().filter(|_| dice.one_in(3)).cloned().collect();
    records.extend(again);
    dice.shuffle(&mut records);
    let mut replica = Replica::default();
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(usize::try_from(dice.below(rest.len() as u64) + 1).unwrap());
        apply(&mut replica, batch);
        rest = more;
    }
    replica.retry();
    replica
}

/// Two replicas end the same, no lower epoch is over a higher, and nothing is lost without being in the ledger.
fn walk(seed: u64, leases: bool, apply: impl Fn(&mut Replica, &[Record])) -> Result<(), String> {
    let mut dice = Dice(seed);
    let history = History::draw(&mut dice, leases);
    let (one, other) = (feed(&mut dice, &history.records, &apply), feed(&mut dice, &history.records, &apply));
    if (&one.rows, &one.forgotten) != (&other.rows, &other.forgotten) {
        return Err(format!("{:?}\ndiffer from\n{:?}\nof\n{:?}", one.rows, other.rows, history.records));
    }
    if !one.parked.is_empty() {
        return Err(format!("still waiting: {:?}", one.parked));
    }
    let mut again = one.clone();
    apply(&mut again, &history.records);
    if again.rows != one.rows {
        return Err("the whole once more is not the same".into());
    }
    let changes = || {
        history.records.iter().filter_map(|record| match &record.change {
            Change::Row(change) => Some((record, change)),
            Change::Forget => None,
        })
    };
    for (record, change) in changes() {
        let gone =
            record.tenant.as_ref().and_then(|tenant| one.forgotten.get(tenant)).copied().unwrap_or_default();
        if record.placement < gone {
            continue;
        }
        let Some((state, _)) = one.rows.get(&change.id) else {
            return Err(format!("{:?} is nowhere", change.id));
        };
        if (record.placement, &change.version) > (state.placement, &state.version) {
            return Err(format!("{:?} is above {state:?}", change.version));
        }
        // Known to a version that stays or is in the ledger, or itself there.
        let known = state.version == change.version
            || one.ledger.contains(&(change.id.clone(), change.version.clone()))
            || record.placement != state.placement
            || changes()
                .any(|(_, later)| later.id == change.id && later.replaces.as_ref() == Some(&change.version));
        if !known {
            return Err(format!("{:?} of {:?} was lost silently", change.version, change.id));
        }
    }
    Ok(())
}

#[test]
fn order_and_repetition_do_not_matter_under_leases() {
    hold(5_000, |seed| walk(seed, true, Replica::apply));
}

#[test]
fn order_and_repetition_do_not_matter_where_all_write() {
    hold(5_000, |seed| walk(seed, false, Replica::apply));
}

/// Puts whatever arrives.
fn last_arrival(replica: &mut Replica, records: &[Record]) {
    for record in records {
        if let Change::Row(change) = &record.change {
            replica.rows.remove(&change.id);
        }
        replica.apply(std::slice::from_ref(record));
    }
}

/// Compares clocks, and forgets what lost.
fn without_ledger(replica: &mut Replica, records: &[Record]) {
    replica.apply(records);
    replica.ledger.clear();
}

/// Deletes without a tombstone.
fn without_tombstones(replica: &mut Replica, records: &[Record]) {
    replica.apply(records);
    replica.rows.retain(|_, (state, _)| !state.deleted);
}

/// Forgets without remembering that it did.
fn forgets_forgetting(replica: &mut Replica, records: &[Record]) {
    replica.apply(records);
    replica.forgotten.clear();
}

#[test]
fn gates_that_diverge_or_lose_are_found() {
    for (name, leases, apply) in [
        ("the last arrival wins", true, last_arrival as fn(&mut Replica, &[Record])),
        ("no ledger", false, without_ledger),
        ("no tombstones", true, without_tombstones),
        ("forgetting is forgotten", true, forgets_forgetting),
    ] {
        assert!(broken(300, |seed| walk(seed, leases, apply)) > 0, "{name} was not found");
    }
}

fn change(version: (u64, u64, &str), replaces: Option<(u64, u64, &str)>) -> RowChange {
    let version_of = |(epoch, v, origin): (u64, u64, &str)| Version {
        epoch: Epoch(epoch),
        v,
        origin: RegionName::new(origin).unwrap(),
    };
    RowChange {
        id: RowId { table: "notes".into(), key: "[1]".into() },
        row: Some("{}".into()),
        version: version_of(version),
        replaces: replaces.map(version_of),
        marks: None,
    }
}

fn record(tenant: &str, placement: u64, change: RowChange) -> Record {
    Record {
        position: Position::new(1, 1, 1),
        at_us: 0,
        tenant: Some(TenantName::new(tenant).unwrap()),
        placement: Placement(placement),
        schema: 1,
        change: Change::Row(change),
    }
}

#[test]
fn verdicts() {
    let there = |version, replaces, deleted| {
        let change = change(version, replaces);
        RowState {
            tenant: TenantName::new("acme").ok(),
            placement: Placement(1),
            version: change.version,
            replaces: change.replaces,
            deleted,
            marks: None,
        }
    };
    let cases = [
        ("nothing is there", None, (0, 5, "a"), None, "acme", 1, Verdict::Wins { conflict: false }),
        (
            "fast forward",
            Some(there((0, 5, "a"), None, false)),
            (0, 6, "b"),
            Some((0, 5, "a")),
            "acme",
            1,
            Verdict::Wins { conflict: false },
        ),
        (
            "unknown to each other",
            Some(there((0, 5, "a"), None, false)),
            (0, 6, "b"),
            None,
            "acme",
            1,
            Verdict::Wins { conflict: true },
        ),
        (
            "the same again",
            Some(there((0, 5, "a"), None, false)),
            (0, 5, "a"),
            None,
            "acme",
            1,
            Verdict::Duplicate,
        ),
        (
            "the higher origin wins among equals",
            Some(there((0, 5, "a"), None, false)),
            (0, 5, "b"),
            None,
            "acme",
            1,
            Verdict::Wins { conflict: true },
        ),
        (
            "an ancestor comes late",
            Some(there((0, 6, "b"), Some((0, 5, "a")), false)),
            (0, 5, "a"),
            None,
            "acme",
            1,
            Verdict::Loses { conflict: false },
        ),
        (
            "one lease, one history",
            Some(there((3, 9, "a"), Some((3, 8, "a")), false)),
            (3, 5, "a"),
            None,
            "acme",
            1,
            Verdict::Loses { conflict: false },
        ),
        (
            "a lower epoch with a later clock",
            Some(there((3, 5, "a"), None, false)),
            (2, 900, "b"),
            None,
            "acme",
            1,
            Verdict::Loses { conflict: true },
        ),
        (
            "a stranded write is replaced",
            Some(there((2, 10, "a"), Some((2, 8, "a")), false)),
            (3, 12, "b"),
            Some((2, 8, "a")),
            "acme",
            1,
            Verdict::Wins { conflict: true },
        ),
        (
            "below a tombstone",
            Some(there((3, 9, "a"), None, true)),
            (3, 8, "a"),
            None,
            "acme",
            1,
            Verdict::Loses { conflict: false },
        ),
        (
            "an earlier stay",
            Some(there((3, 9, "a"), None, false)),
            (9, 99, "a"),
            None,
            "acme",
            0,
            Verdict::Loses { conflict: false },
        ),
        ("forgotten", None, (9, 99, "a"), None, "gone", 1, Verdict::Forgotten),
        (
            "another's row",
            Some(there((3, 9, "a"), None, false)),
            (3, 10, "a"),
            None,
            "bolt",
            1,
            Verdict::Park(Why::Tenant),
        ),
        (
            "after another's deletion",
            Some(there((3, 9, "a"), None, true)),
            (3, 10, "a"),
            Some((3, 9, "a")),
            "bolt",
            1,
            Verdict::Wins { conflict: false },
        ),
        ("from the future", None, (0, NOW + 61_000_000, "a"), None, "acme", 1, Verdict::Park(Why::Ahead)),
        (
            "by a lease whose clock is wrong",
            None,
            (1, NOW + 61_000_000, "a"),
            None,
            "acme",
            1,
            Verdict::Wins { conflict: false },
        ),
    ];
    for (name, there, version, replaces, tenant, placement, expected) in cases {
        let change = change(version, replaces);
        let record = record(tenant, placement, change.clone());
        let forgotten = Placement(if tenant == "gone" { 2 } else { 0 });
        assert_eq!(
            judge(there.as_ref(), forgotten, &ConflictRule::LastWriterWins, &record, &change, NOW),
            expected,
            "{name}"
        );
    }
}

#[test]
fn batches_are_taken_once_and_without_gaps() {
    let identity = Identity { system: "7".into(), timeline: 1, incarnation: "a".into() };
    let at = |transaction, sequence| Position::new(1, transaction, sequence);
    let batch = |after, through, ends| Batch {
        identity: identity.clone(),
        after,
        through,
        at_us: 0,
        ends,
        records: Vec::new(),
    };
    let progress = Progress::start(identity.clone(), at(5, 5));
    assert_eq!(progress.admit(&batch(at(5, 5), at(6, 7), true)), Admission::Apply);
    assert_eq!(progress.admit(&batch(at(4, 4), at(5, 5), true)), Admission::Duplicate);
    assert_eq!(progress.admit(&batch(at(6, 6), at(7, 7), true)), Admission::Gap(at(5, 5)));
    assert_eq!(progress.admit(&batch(at(4, 4), at(6, 6), true)), Admission::Gap(at(5, 5)));
    let part = batch(at(5, 5), at(6, 7), false);
    assert_eq!(progress.admit(&part), Admission::Stage);
    let staged = progress.with(&part);
    assert_eq!((staged.applied, staged.received()), (at(5, 5), at(6, 7)));
    assert_eq!(staged.admit(&part), Admission::Duplicate);
    let rest = batch(at(6, 7), at(6, 9), true);
    assert_eq!(staged.admit(&rest), Admission::Finish);
    assert_eq!(staged.with(&rest), Progress::start(identity.clone(), at(6, 9)));
    let promoted = Batch { identity: Identity { timeline: 2, ..identity }, ..rest };
    assert_eq!(staged.admit(&promoted), Admission::Other);
}

#[test]
fn a_batch_keeps_its_form() {
    let identity = Identity { system: "7".into(), timeline: 1, incarnation: "a".into() };
    let at = |sequence| Position::new(1, 1, sequence);
    let with = |sequences: &[u64], through| Batch {
        identity: identity.clone(),
        after: at(1),
        through: at(through),
        at_us: 0,
        ends: true,
        records: sequences
            .iter()
            .map(|sequence| Record {
                position: at(*sequence),
                ..record("acme", 0, change((1, 1, "a"), None))
            })
            .collect(),
    };
    assert_eq!(with(&[2, 3], 3).check(2), Ok(()));
    assert_eq!(with(&[], 1).check(2), Ok(()), "nothing new is worth telling: the link is alive");
    for (bad, sequences, through) in
        [("order", [3, 2].as_slice(), 2), ("through", &[2], 3), ("after", &[1], 1), ("many", &[2, 3, 4], 4)]
    {
        assert!(with(sequences, through).check(2).is_err(), "{bad}");
    }
}
