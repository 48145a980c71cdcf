//! Conflict rules over real databases: triggers keep what the model says, regions end alike, what is lost can be read and put back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portolan_core::balance::splitmix;
use portolan_core::ids::{PolicyName, RegionName, TenantName};
use portolan_core::log::{Epoch, Placement, Position, Version};
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Identifier, Rest, Tables, TenantTable, Writers};
use portolan_core::time::Moment;

use super::capture::{all, changes};
use super::place::{Place, Shard, table};
use crate::model::history::History;
use crate::model::marks::{Columns, Marks};
use crate::model::tests::writer::{self, Write};
use crate::{Change, Closed, ConflictKind, Conflicts, Error, Lease, Record, RowChange, RowId};

fn counting(rest: Rest) -> ConflictRule {
    let rules = [
        ("most", ColumnRule::Max),
        ("least", ColumnRule::Min),
        ("stock", ColumnRule::Counter),
        ("tags", ColumnRule::SetUnion),
    ];
    let rules = rules.map(|(name, rule)| (Identifier::new(name).unwrap(), rule)).into();
    ConflictRule::Columns { rules, rest }
}

fn items(conflict: ConflictRule) -> TenantTable {
    TenantTable { conflict, ..table("items", Some("tenant"), &["tenant", "id"], Writers::Members) }
}

fn schema(place: &Place) -> String {
    let json = if place.is_sqlite() { "text" } else { "jsonb" };
    format!(
        "CREATE TABLE items (tenant text NOT NULL, id bigint NOT NULL, name text, color text, stock bigint NOT NULL, \
         tags {json} NOT NULL, most bigint, least bigint, PRIMARY KEY (tenant, id))"
    )
}

/// A member; `eu` holds the lease.
async fn member(place: &Place, region: &str, conflict: &ConflictRule) -> Shard {
    let tables = [items(conflict.clone())];
    let shard = match region {
        "eu" => place.shard(region, &schema(place), &tables).await,
        _ => place.replica(region, &schema(place), &tables).await,
    };
    shard.store.set_member(1).await.unwrap();
    shard
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = splitmix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.0 % bound
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.below(at as u64 + 1)).unwrap());
        }
    }

    /// A statement of an application; numbers rise, so that `most` may take them.
    fn statement(&mut self, place: &Place, n: u64) -> String {
        let id = self.below(3);
        let (add, drop) = if place.is_sqlite() {
            (format!("json_insert(tags, '$[#]', 't{n}')"), "json_remove(tags, '$[0]')".to_owned())
        } else {
            (format!("'[\"t{n}\"]' || tags"), "tags - 0".to_owned())
        };
        let set = match self.below(12) {
            0..=2 => {
                return format!(
                    "INSERT INTO items VALUES ('acme', {id}, 'n{n}', 'c{n}', {}, '[\"t{n}\"]', {n}, -{n}) \
                     ON CONFLICT (tenant, id) DO UPDATE SET stock = items.stock + 1",
                    self.below(9)
                );
            }
            3 => return format!("DELETE FROM items WHERE id = {id}"),
            4 => {
                return format!(
                    "UPDATE items SET id = 7 WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM items i WHERE i.id = 7)"
                );
            }
            5 => format!("name = 'n{n}'"),
            6 => format!("color = 'c{n}', stock = stock - 1"),
            7 => format!("tags = {add}"),
            8 => format!("tags = {drop}"),
            9 => format!("most = {n}, least = -{n}"),
            _ => format!("stock = stock + {}", self.below(9)),
        };
        format!("UPDATE items SET {set} WHERE id = {id}")
    }
}

fn columns(row: Option<&String>) -> Option<Columns> {
    row.map(|row| serde_json::from_str(row).unwrap())
}

/// Marks in one form.
fn form(rule: &ConflictRule, marks: Option<&str>, version: &Version) -> String {
    match rule {
        ConflictRule::Columns { .. } => format!("{:?}", marks.map(|marks| Marks::parse(marks).unwrap())),
        // The highest number that it has seen is each region's own business.
        _ => format!("{:?}", History { top: None, ..History::parse(marks, version).unwrap() }),
    }
}

pub(super) async fn triggers_keep_the_marks_of_the_model(place: Place) {
    for rule in
        [counting(Rest::Each), counting(Rest::Together), ConflictRule::FirstWins, ConflictRule::HomeWins]
    {
        let shard = member(&place, "eu", &ConflictRule::LastWriterWins).await;
        let mut direct = place.direct(&shard, "acme").await;
        let mut dice = Dice(7);
        // Some rows are there before the rule is.
        direct.ok("INSERT INTO items VALUES ('acme', 0, 'a', 'b', 5, '[\"old\"]', 0, 0)").await;
        direct.ok("INSERT INTO items VALUES ('acme', 1, 'a', 'b', 5, '[]', NULL, NULL)").await;
        direct.ok("UPDATE items SET name = 'c'").await;
        let before = changes(&shard.store).await.len();
        shard.store.declare(&Tables::new(vec![items(rule.clone())]).unwrap(), 2).await.unwrap();
        for n in 1..40 {
            direct.ok(&dice.statement(&place, n)).await;
        }
        // More than a path holds.
        let many: String = (0..40).map(|n| format!("UPDATE items SET name = 'm{n}' WHERE id = 1;")).collect();
        direct.ok(&format!("BEGIN; {many} COMMIT")).await;
        let mut rows: HashMap<RowId, RowChange> = HashMap::new();
        for (at, change) in changes(&shard.store).await.into_iter().enumerate() {
            let there = rows.get(&change.id);
            if at >= before {
                let was = columns(there.and_then(|there| there.row.as_ref()));
                let expected = writer::marks(
                    &rule,
                    Write {
                        home: Some(1),
                        image: columns(change.row.as_ref()).as_ref(),
                        old: there.and_then(|there| there.marks.as_deref()),
                        replaces: there.map(|there| &there.version),
                        version: &change.version,
                        was: was.as_ref(),
                    },
                );
                assert_eq!(
                    form(&rule, change.marks.as_deref(), &change.version),
                    form(&rule, expected.as_deref(), &change.version),
                    "{rule:?}\n{there:?}\n{change:?}"
                );
            }
            rows.insert(change.id.clone(), change);
        }
    }
}

/// All rows with their versions and marks, in one form.
async fn state(shard: &Shard, rule: &ConflictRule) -> Vec<String> {
    let rows = shard.store.rows(None, None, 99).await.unwrap();
    let told = |record: &Record| match &record.change {
        Change::Row(change) => {
            let row: Option<BTreeMap<String, serde_json::Value>> =
                change.row.as_deref().map(|row| serde_json::from_str(row).unwrap());
            let marks = form(rule, change.marks.as_deref(), &change.version);
            format!("{:?} {:?} {row:?} {marks}", change.id, change.version)
        }
        Change::Forget => String::new(),
    };
    rows.iter().map(told).collect()
}

async fn records(shard: &Shard) -> Vec<Record> {
    all(&shard.store).await.into_iter().flat_map(|batch| batch.records).collect()
}

pub(super) async fn regions_end_alike_by_each_rule(place: Place) {
    let rules = [counting(Rest::Each), ConflictRule::FirstWins, ConflictRule::HomeWins];
    for (seed, rule) in (1..).zip(rules) {
        let mut dice = Dice(seed);
        let mut shards = Vec::new();
        for region in ["eu", "us", "ap"] {
            shards.push(member(&place, region, &rule).await);
        }
        let mut n = 0;
        for _ in 0..3 {
            let mut logs = Vec::new();
            for shard in &shards {
                let mut direct = place.direct(shard, "acme").await;
                for _ in 0..8 {
                    n += 1;
                    direct.ok(&dice.statement(&place, n)).await;
                }
                logs.push(records(shard).await);
            }
            for (at, shard) in shards.iter().enumerate() {
                let others = logs.iter().enumerate().filter(|(of, _)| *of != at);
                let mut some: Vec<Record> = others.flat_map(|(_, log)| log.clone()).collect();
                dice.shuffle(&mut some);
                some.truncate(usize::try_from(dice.below(some.len() as u64 + 1)).unwrap());
                shard.store.merge(&some).await.unwrap();
            }
        }
        let mut everything = Vec::new();
        for shard in &shards {
            everything.extend(records(shard).await);
        }
        let mut told = Vec::new();
        for shard in &shards {
            let own = records(shard).await.len();
            for _ in 0..2 {
                dice.shuffle(&mut everything);
                shard.store.merge(&everything).await.unwrap();
            }
            assert_eq!(records(shard).await.len(), own, "what is merged is no record");
            assert_eq!(shard.store.parked(9).await.unwrap(), []);
            told.push(state(shard, &rule).await);
        }
        assert!(told[0] == told[1] && told[1] == told[2], "seed {seed} {rule:?}: {told:#?}");
    }
}

fn lease() -> Lease {
    Lease { epoch: Epoch(1), until: Moment(0).plus(Duration::from_secs(60)) }
}

/// Two regions that both insert a row, then hear of each other: the later stays.
async fn rivals(place: &Place, rule: &ConflictRule) -> [Shard; 2] {
    let shards = [member(place, "eu", rule).await, member(place, "us", rule).await];
    for (shard, name) in shards.iter().zip(["mine", "theirs"]) {
        let mut direct = place.direct(shard, "acme").await;
        direct.ok(&format!("INSERT INTO items VALUES ('acme', 1, '{name}', 'c', 5, '[]', 1, 1)")).await;
    }
    meet(&shards).await;
    shards
}

async fn meet(shards: &[Shard; 2]) {
    let [eu, us] = shards;
    let (of_eu, of_us) = (records(eu).await, records(us).await);
    eu.store.merge(&of_us).await.unwrap();
    us.store.merge(&of_eu).await.unwrap();
}

/// As [`meet`], of what was not told before.
async fn meet_again(shards: &[Shard; 2], told: &mut [usize; 2]) {
    let [eu, us] = shards;
    let (of_eu, of_us) = (records(eu).await, records(us).await);
    eu.store.merge(&of_us[told[1]..]).await.unwrap();
    us.store.merge(&of_eu[told[0]..]).await.unwrap();
    *told = [of_eu.len(), of_us.len()];
}

async fn names(place: &Place, shard: &Shard) -> Vec<String> {
    let sql = "SELECT name || '/' || CAST(stock AS text) FROM items ORDER BY id";
    place.admin(shard).await.texts(sql).await
}

pub(super) async fn what_lost_is_put_back(place: Place) {
    let shards = rivals(&place, &counting(Rest::Together)).await;
    let [eu, us] = &shards;
    assert_eq!(names(&place, eu).await, ["theirs/10"]);
    let kept = eu.store.conflicts(&Conflicts::all(9)).await.unwrap();
    let [lost] = &kept[..] else { panic!("{kept:?}") };
    let theirs = us.store.conflicts(&Conflicts::all(9)).await.unwrap();
    assert_eq!(theirs[0].conflict, lost.conflict, "one name everywhere");
    assert_eq!((lost.kind, lost.rule.as_str()), (ConflictKind::InsertExists, "lww"));
    assert!(lost.row.as_deref().unwrap().contains("mine"), "{lost:?}");
    assert!(lost.winner_row.as_deref().unwrap().contains("theirs") && lost.winner > lost.version, "{lost:?}");
    assert_eq!(lost.conflict.len(), 16);
    assert_eq!(eu.store.conflict(&lost.conflict).await.unwrap().as_ref(), Some(lost));
    // Its name comes back; what was merged stays. It is a write as any other.
    let clock = || Moment(0);
    let before = records(eu).await.len();
    let position = eu.store.restore(&lost.conflict, &lease(), clock).await.unwrap();
    let log = records(eu).await;
    assert_eq!((log.len(), position), (before + 1, log.last().map(|record| record.position)));
    assert_eq!(names(&place, eu).await, ["mine/10"]);
    assert_eq!(eu.store.restore(&lost.conflict, &lease(), clock).await.unwrap(), None);
    meet(&shards).await;
    assert_eq!(names(&place, us).await, ["mine/10"]);
    assert_eq!(
        us.store.conflicts(&Conflicts::all(9)).await.unwrap().len(),
        1,
        "who restores knows what stood there"
    );
    // A row that is gone comes back whole.
    place.direct(eu, "acme").await.ok("DELETE FROM items").await;
    eu.store.restore(&lost.conflict, &lease(), clock).await.unwrap();
    assert_eq!(names(&place, eu).await, ["mine/5"]);
    place.direct(eu, "acme").await.ok("UPDATE items SET name = 'other'").await;
    // Nobody restores what is not there, or where the tenant or the lease is not.
    let error = eu.store.restore("0000000000000000", &lease(), clock).await.unwrap_err();
    assert!(matches!(error, Error::Restore { .. }), "{error}");
    let late = || Moment(0).plus(Duration::from_secs(61));
    let error = eu.store.restore(&lost.conflict, &lease(), late).await.unwrap_err();
    assert!(matches!(error, Error::Closed(Closed::Expired)), "{error}");
    eu.store.place(&TenantName::new("acme").unwrap(), Placement(1), true).await.unwrap();
    let error = eu.store.restore(&lost.conflict, &lease(), clock).await.unwrap_err();
    assert!(matches!(error, Error::Closed(Closed::Away)), "{error}");
}

pub(super) async fn a_policy_makes_one_row_of_two(place: Place) {
    let rule = ConflictRule::Policy { policy: PolicyName::new("join").unwrap(), version: None };
    let shards = rivals(&place, &rule).await;
    let [eu, us] = &shards;
    let mut told = [records(eu).await.len(), records(us).await.len()];
    let (items, clock) = (Identifier::new("items").unwrap(), || Moment(0));
    // Until it is asked the later row stays, everywhere.
    assert_eq!(names(&place, eu).await, ["theirs/5"]);
    assert_eq!(names(&place, us).await, ["theirs/5"]);
    let disputes = eu.store.disputes(&items, "join@1", "", 9).await.unwrap().0;
    let [dispute] = &disputes[..] else { panic!("{disputes:?}") };
    assert!(dispute.row.contains("theirs") && dispute.losers[0].row.as_deref().unwrap().contains("mine"));
    let row = dispute.with(&dispute.row, br#"{"name": "both", "stock": 7}"#).unwrap();

    // Nobody writes over a row that has changed since.
    place.direct(eu, "acme").await.ok("UPDATE items SET color = 'new'").await;
    assert!(!eu.store.resolve(dispute, &row, &lease(), clock).await.unwrap());
    assert_eq!(names(&place, eu).await, ["theirs/5"]);
    assert_eq!(
        eu.store.disputes(&items, "join@1", "", 9).await.unwrap().0,
        [],
        "who wrote it knew what it was"
    );
    let kept = eu.store.conflicts(&Conflicts::all(9)).await.unwrap();
    assert_eq!(kept[0].resolution.as_deref(), Some("superseded"));

    // Another one: refused once, merged by the next version, and told to all.
    meet_again(&shards, &mut told).await;
    for (shard, name) in shards.iter().zip(["one", "two"]) {
        place.direct(shard, "acme").await.ok(&format!("UPDATE items SET name = '{name}'")).await;
    }
    meet_again(&shards, &mut told).await;
    let dispute = eu.store.disputes(&items, "join@1", "", 9).await.unwrap().0.remove(0);
    eu.store.note_resolution(&dispute.losers, "join@1", "refused: not yet").await.unwrap();
    assert_eq!(eu.store.disputes(&items, "join@1", "", 9).await.unwrap().0, [], "it said no");
    let dispute = eu.store.disputes(&items, "join@2", "", 9).await.unwrap().0.remove(0);
    let row = dispute.with(&dispute.row, br#"{"name": "both", "stock": 7}"#).unwrap();
    assert!(eu.store.resolve(&dispute, &row, &lease(), clock).await.unwrap());
    eu.store.note_resolution(&dispute.losers, "join@2", "merged").await.unwrap();
    assert_eq!(eu.store.disputes(&items, "join@3", "", 9).await.unwrap().0, []);
    meet_again(&shards, &mut told).await;
    assert_eq!(
        (names(&place, eu).await, names(&place, us).await),
        (vec!["both/7".to_owned()], vec!["both/7".to_owned()])
    );
    let kept = eu.store.conflicts(&Conflicts::all(9)).await.unwrap();
    let merged: Vec<_> =
        kept.iter().map(|lost| (lost.resolver.as_deref(), lost.resolution.as_deref())).collect();
    assert_eq!(merged, [(None, Some("superseded")), (Some("join@2"), Some("merged"))]);

    // Who deletes is not asked whether it meant it.
    place.direct(eu, "acme").await.ok("UPDATE items SET name = 'kept'").await;
    place.direct(us, "acme").await.ok("DELETE FROM items").await;
    meet_again(&shards, &mut told).await;
    assert_eq!(eu.store.disputes(&items, "join@3", "", 9).await.unwrap().0, []);
    let late = || Moment(0).plus(Duration::from_secs(61));
    let error = eu.store.resolve(&dispute, &row, &lease(), late).await.unwrap_err();
    assert!(matches!(error, Error::Closed(Closed::Expired)), "{error}");
}

pub(super) async fn losers_are_read_by_page(place: Place) {
    let shard = member(&place, "us", &ConflictRule::LastWriterWins).await;
    let blank = if place.is_sqlite() { "" } else { " " };
    let change = |id: u32, v: u64, origin: &str, deleted: bool| {
        let row = format!(
            r#"{{"tenant":"acme","id":{id},"name":"{v}","color":"c","stock":1,"tags":{},"most":1,"least":1}}"#,
            if place.is_sqlite() { r#""[]""# } else { "[]" }
        );
        let version = Version { epoch: Epoch(0), v, origin: RegionName::new(origin).unwrap() };
        Record {
            position: Position::new(1, 1, v),
            at_us: 1,
            tenant: TenantName::new("acme").ok(),
            placement: Placement(0),
            schema: 1,
            change: Change::Row(RowChange {
                id: RowId { table: "items".into(), key: format!("[\"acme\",{blank}{id}]") },
                row: (!deleted).then_some(row),
                version,
                replaces: None,
                marks: None,
            }),
        }
    };
    for id in 0..5 {
        shard.store.merge(&[change(id, 10, "eu", false), change(id, 20, "ap", id == 4)]).await.unwrap();
        shard.store.merge(&[change(id, 5, "sa", false)]).await.unwrap();
    }
    let all = shard.store.conflicts(&Conflicts::all(99)).await.unwrap();
    assert_eq!(all.len(), 10);
    let (mut paged, mut wanted) = (Vec::new(), Conflicts::all(3));
    loop {
        let page = shard.store.conflicts(&wanted).await.unwrap();
        let Some(last) = page.last() else { break };
        wanted.after = Some(last.cursor());
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let of = |wanted: Conflicts| {
        let store = shard.store.clone();
        async move { store.conflicts(&wanted).await.unwrap().len() }
    };
    let table = |name| Identifier::new(name).ok();
    assert_eq!(of(Conflicts { table: table("items"), ..Conflicts::all(99) }).await, 10);
    assert_eq!(of(Conflicts { table: table("other"), ..Conflicts::all(99) }).await, 0);
    assert_eq!(of(Conflicts::of(TenantName::new("bolt").unwrap(), 99)).await, 0);
    assert_eq!(of(Conflicts { since_us: all[9].at_us + 1, ..Conflicts::all(99) }).await, 0);
    let kinds = |kind| all.iter().filter(|lost| lost.kind == kind).count();
    assert_eq!(kinds(ConflictKind::InsertExists), 8);
    assert_eq!(kinds(ConflictKind::DeleteRecentlyUpdated), 1);
    assert_eq!(kinds(ConflictKind::UpdateRecentlyDeleted), 1);
}

pub(super) async fn what_waits_says_why_and_is_discarded(place: Place) {
    let source = member(&place, "eu", &ConflictRule::LastWriterWins).await;
    let other = "CREATE TABLE items (tenant text NOT NULL, id bigint NOT NULL, name text, extra text NOT NULL, PRIMARY KEY (tenant, id))";
    let narrow = place.replica("us", other, &[items(ConflictRule::LastWriterWins)]).await;
    let bare = place.replica("ap", "", &[]).await;
    let mut direct = place.direct(&source, "acme").await;
    direct.ok("INSERT INTO items VALUES ('acme', 1, 'a', 'b', 1, '[]', 1, 1)").await;
    let log = records(&source).await;
    for (follower, kind) in
        [(&narrow, ConflictKind::TargetColumnMissing), (&bare, ConflictKind::TargetTableMissing)]
    {
        follower.store.merge(&log).await.unwrap();
        let parked = follower.store.parked(9).await.unwrap();
        assert!(parked.len() == 1 && parked[0].kind == kind, "{parked:?}");
    }
    let mut fewer = log.clone();
    if let Change::Row(change) = &mut fewer[0].change {
        change.row = Some(r#"{"tenant":"acme","id":1,"name":"a"}"#.to_owned());
        change.version.v += 1;
    }
    narrow.store.merge(&fewer).await.unwrap();
    let parked = narrow.store.parked(9).await.unwrap();
    assert!(parked.iter().any(|parked| parked.kind == ConflictKind::SourceColumnMissing), "{parked:?}");
    // A newer version of the row that is taken makes both void, without anybody's retrying.
    place.admin(&narrow).await.ok("ALTER TABLE items ADD COLUMN color text").await;
    if let Change::Row(change) = &mut fewer[0].change {
        change.row = Some(r#"{"tenant":"acme","id":1,"name":"a","extra":"x"}"#.to_owned());
        change.replaces = Some(change.version.clone());
        change.version.v += 1;
    }
    narrow.store.merge(&fewer).await.unwrap();
    let parked = narrow.store.parked(9).await.unwrap();
    assert!(parked.iter().all(|parked| parked.kind == ConflictKind::TargetColumnMissing), "{parked:?}");
    let schema =
        ["stock", "tags", "most", "least"].map(|name| format!("ALTER TABLE items ADD COLUMN {name} text"));
    for statement in schema {
        place.admin(&narrow).await.ok(&statement).await;
    }
    let tables = Tables::new(vec![items(ConflictRule::LastWriterWins)]).unwrap();
    narrow.store.declare(&tables, 2).await.unwrap();
    if let Change::Row(change) = &mut fewer[0].change {
        change.replaces = Some(change.version.clone());
        change.version.v += 1;
    }
    narrow.store.merge(&fewer).await.unwrap();
    assert_eq!(narrow.store.parked(9).await.unwrap(), []);
}

pub(super) async fn tables_and_writes_must_fit_their_rule(place: Place) {
    let rule = |name: &str, rule| {
        let rules = [(Identifier::new(name).unwrap(), rule)].into();
        items(ConflictRule::Columns { rules, rest: Rest::Together })
    };
    let shard = place.replica("eu", &schema(&place), &[]).await;
    for (table, why) in [
        (rule("name", ColumnRule::Counter), "a whole number and NOT NULL"),
        (rule("most", ColumnRule::Counter), "a whole number and NOT NULL"),
        (rule("stock", ColumnRule::SetUnion), "jsonb"),
        (rule("absent", ColumnRule::Max), "a whole number, a text or a time"),
    ] {
        let error = shard.store.declare(&Tables::new(vec![table]).unwrap(), 1).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let shard = member(&place, "eu", &counting(Rest::Together)).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO items VALUES ('acme', 1, 'a', 'b', 1, '[]', 5, 5)").await;
    for (sql, why) in [
        ("UPDATE items SET most = 4", "most only rises"),
        ("UPDATE items SET most = NULL", "most only rises"),
        ("UPDATE items SET least = 6", "least only falls"),
        ("UPDATE items SET tags = '{}'", "must hold an array of JSON"),
    ] {
        let error = direct.refused(sql).await;
        assert!(error.to_string().contains(why), "{sql}: {error}");
    }
    if place.is_sqlite() {
        let error = direct.refused("UPDATE items SET stock = 0.5").await;
        assert!(error.to_string().contains("must hold a whole number"), "{error}");
    }
    // A new life begins where it wants.
    direct.ok("DELETE FROM items; INSERT INTO items VALUES ('acme', 1, 'a', 'b', 1, '[]', 1, 9)").await;
}
