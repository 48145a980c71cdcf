//! Conflicts of tables whose rule is a policy: what of the ledger waits for it, and what it says as a new version.
//!
//! The last writer's row stays meanwhile, everywhere. Only the shard's primary asks, so that each dispute ends once, and what is merged
//! travels as any other version. An entry leads to nothing any more once the row was written after the entry was there: whoever wrote that
//! saw what had stayed. Of one region's versions the last is asked about: it was written over those before it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::Version;
use portolan_core::tenant_table::Identifier;
use portolan_core::time::Moment;
use serde_json::Value as Json;

use crate::database::{Dialect, Value};
use crate::error::Error;
use crate::ledger::{LOST, Lost, lost};
use crate::model::fence::Lease;
use crate::model::marks::Columns;
use crate::model::record::RowId;
use crate::read::{tenant_of, version};
use crate::store::{Role, Store};

/// Entries that may still be asked about; the index of them has the same words.
const OPEN: &str = "c.rule = 'policy' AND (c.resolution IS NULL OR c.resolution LIKE 'refused:%')";
/// Entries of one row that are looked at in one go, the latest first: the others have their turn once these lead to nothing.
const ENTRIES_MAX: usize = 64;
/// How long one statement waits for whoever else writes a row: that one knows what it was.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many columns [`LOST`] has.
const LOST_COLUMNS: usize = 19;

/// A row of which versions were lost that a policy is to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// Which row.
    pub id: RowId,
    /// What lost, the lowest version first.
    pub losers: Vec<Lost>,
    /// The row as it is, in canonical form.
    pub row: String,
    /// Whose it is.
    pub tenant: TenantName,
    columns: BTreeSet<String>,
    /// Columns that say which row it is, and whose.
    fixed: BTreeSet<String>,
}

/// What the entries about one row are good for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    losers: Vec<Lost>,
    superseded: Vec<Lost>,
    unasked: Vec<Lost>,
}

/// The row that is there.
#[derive(Clone, Debug)]
struct Present {
    tenant: Option<TenantName>,
    version: Version,
}

impl Sorted {
    fn of(mut entries: Vec<Lost>, present: Option<&Present>) -> Self {
        let mut sorted = Self::default();
        let Some(Present { tenant, version }) = present else {
            sorted.superseded = entries;
            return sorted;
        };
        // What lost to the row, and to what lost to it: its writer may have known none of it.
        let mut won = BTreeSet::from([version.clone()]);
        let mut open = Vec::new();
        loop {
            let (of_these, others): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| won.contains(&entry.winner));
            entries = others;
            if of_these.is_empty() {
                break;
            }
            won.extend(of_these.iter().map(|entry| entry.version.clone()));
            open.extend(of_these);
        }
        let (late, known): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.at_us >= version.v);
        sorted.superseded = known;
        open.extend(late);
        open.sort_by(|one, other| one.version.cmp(&other.version));
        let mut last: BTreeMap<RegionName, Lost> = BTreeMap::new();
        for entry in open {
            let asked = entry.row.is_some() && entry.tenant.is_some() && entry.tenant == *tenant;
            if asked {
                sorted.superseded.extend(last.insert(entry.version.origin.clone(), entry));
            } else {
                sorted.unasked.push(entry);
            }
        }
        sorted.losers = last.into_values().collect();
        sorted.losers.sort_by(|one, other| one.version.cmp(&other.version));
        sorted
    }
}

impl Dispute {
    /// A row with what a policy made of it: columns that it leaves out stay.
    ///
    /// # Errors
    /// Why this is no such row.
    pub fn with(&self, row: &str, merged: &[u8]) -> Result<String, String> {
        // What is not the policy's is not read, so that no number is another one afterwards.
        let object = |bytes: &[u8]| serde_json::from_slice::<Columns>(bytes);
        let mut whole = object(row.as_bytes()).map_err(|error| format!("the row is damaged: {error}"))?;
        let merged = object(merged).map_err(|error| format!("its answer is no JSON object: {error}"))?;
        for (column, value) in merged {
            if !self.columns.contains(&column) {
                return Err(format!("its answer has `{column}`, which is no column that can be written"));
            }
            if !self.fixed.contains(&column) {
                whole.insert(column, value);
                continue;
            }
            let read = |text: &str| serde_json::from_str::<Json>(text).ok();
            if whole.get(&column).and_then(|own| read(own.get())) != read(value.get()) {
                return Err(format!("its answer changes `{column}`, which says which row it is or whose"));
            }
        }
        serde_json::to_string(&whole).map_err(|error| error.to_string())
    }
}

impl Store {
    /// Rows of a table that `resolver` was not asked about yet, of up to so many keys after one. Entries that lead to nothing any more are
    /// marked so. Gives the key after which more may be, as well.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn disputes(
        &self,
        table: &Identifier,
        resolver: &str,
        after: &str,
        max: usize,
    ) -> Result<(Vec<Dispute>, Option<String>), Error> {
        let declared = self.declared();
        let Some(own) = declared.iter().find(|own| own.table.name == *table) else {
            return Ok((Vec::new(), None));
        };
        let mut session = self.begin(Role::Applier).await?;
        let keys = format!(
            "SELECT DISTINCT c.key FROM portolan_conflict c WHERE {OPEN} AND c.table_name = $1 \
             AND coalesce(c.resolver, '') <> $2 AND c.key > $3 ORDER BY c.key LIMIT $4"
        );
        let args = [table.as_str().into(), resolver.into(), after.into(), (max as u64).into()];
        let keys = session.query(&keys, &args).await?;
        let id = |row: &crate::Row| Ok(RowId { table: table.to_string(), key: row.text(0)? });
        let ids: Vec<RowId> = keys.iter().map(id).collect::<Result<_, Error>>()?;
        let more = ids.last().filter(|_| ids.len() >= max).map(|id| id.key.clone());
        // Before the versions: an image that is older than its version is found out when it is written.
        let images = self.images(&mut session, &ids).await?;
        let entries = format!(
            "SELECT {LOST}, r.epoch, r.v, r.origin, r.tenant FROM portolan_conflict c \
             LEFT JOIN portolan_row r ON r.table_name = c.table_name AND r.key = c.key \
             WHERE {OPEN} AND c.table_name = $1 AND c.key = $2 \
             ORDER BY c.lost_epoch DESC, c.lost_v DESC, c.lost_origin DESC LIMIT {ENTRIES_MAX}"
        );
        let mut disputes = Vec::new();
        for id in ids {
            let rows = session.query(&entries, &[id.table.as_str().into(), id.key.as_str().into()]).await?;
            let present = rows.first().map(present).transpose()?.flatten();
            let row = images.get(&id);
            let found = rows.iter().map(lost).collect::<Result<Vec<_>, Error>>()?;
            let sorted = Sorted::of(found, present.as_ref().filter(|_| row.is_some()));
            for (entries, what) in [(&sorted.superseded, "superseded"), (&sorted.unasked, "unasked")] {
                for entry in entries {
                    let sql = "UPDATE portolan_conflict SET resolution = $2 WHERE id = $1";
                    session.run(sql, &[entry.conflict.as_str().into(), what.into()]).await?;
                }
            }
            let tenant = sorted.losers.first().and_then(|loser| loser.tenant.clone());
            let (Some(row), Some(tenant)) = (row, tenant) else { continue };
            let fixed = own.table.key.iter().chain(&own.table.tenant).map(ToString::to_string);
            disputes.push(Dispute {
                columns: own.columns.iter().cloned().collect(),
                fixed: fixed.collect(),
                id,
                losers: sorted.losers,
                row: row.clone(),
                tenant,
            });
        }
        session.commit().await?;
        Ok((disputes, more))
    }

    /// Writes what was made of a dispute as a new version, in an ordinary transaction of its tenant: fenced, captured, and told to all.
    /// `false` when the row is not any more what the dispute was about: then nothing is written.
    ///
    /// # Errors
    /// [`Error::Closed`] when the tenant has moved, is held, or the shard is written elsewhere; [`Error::Rejected`] when the row breaks a
    /// rule of its table; otherwise as [`crate::Transaction::commit`].
    ///
    /// # Cancel safety
    /// Not cancel-safe, as all that commits; it may be repeated.
    pub async fn resolve(
        &self,
        dispute: &Dispute,
        row: &str,
        lease: &Lease,
        clock: impl Fn() -> Moment,
    ) -> Result<bool, Error> {
        let declared = self.declared();
        let table = declared.iter().find(|table| table.table.name.as_str() == dispute.id.table);
        let Some(table) = table else { return Ok(false) };
        let mut transaction = self.write_within(PATIENCE, &dispute.tenant, lease, clock()).await?;
        let lock = if self.dialect() == Dialect::Postgres { " FOR UPDATE OF own" } else { "" };
        let look = table.images(self.dialect()) + lock;
        let written = async {
            let key = Value::Text(format!("[{}]", dispute.id.key));
            let there = transaction.fetch(&look, &[key]).await?;
            let there = there.first().map(|row| row.text(1)).transpose()?;
            if there.as_ref() != Some(&dispute.row) {
                return Ok(false);
            }
            let put = table.put_over(self.dialect(), &dispute.columns, &changed(&dispute.row, row)?);
            transaction.execute(&put, &[Value::Text(format!("[{row}]"))]).await.map(|_| true)
        };
        match written.await {
            Ok(true) => transaction.commit(lease, clock).await.map(|_| true),
            other => {
                transaction.rollback().await?;
                other
            }
        }
    }

    /// Notes who was asked about these losers, and what came of it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note_resolution(&self, losers: &[Lost], resolver: &str, what: &str) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        for entry in losers {
            let sql = "UPDATE portolan_conflict SET resolver = $2, resolution = $3 WHERE id = $1";
            session.run(sql, &[entry.conflict.as_str().into(), resolver.into(), what.into()]).await?;
        }
        session.commit().await
    }
}

/// The row beside an entry.
fn present(row: &crate::Row) -> Result<Option<Present>, Error> {
    let tenant = tenant_of(row, LOST_COLUMNS + 3)?;
    Ok(version(row, LOST_COLUMNS)?.map(|version| Present { tenant, version }))
}

/// Columns that two images of a row have otherwise.
fn changed(one: &str, other: &str) -> Result<BTreeSet<String>, Error> {
    let read = |row: &str| {
        serde_json::from_str::<Columns>(row)
            .map_err(|error| Error::Damaged(format!("a row is none: {error}")))
    };
    let before = read(one)?;
    let after = read(other)?.into_iter();
    let differs = |name: &str, value: &str| before.get(name).is_none_or(|before| before.get() != value);
    Ok(after.filter(|(name, value)| differs(name, value.get())).map(|(name, _)| name).collect())
}

#[cfg(test)]
mod tests {
    use portolan_core::ids::RegionName;
    use portolan_core::log::{Epoch, Placement};

    use super::*;
    use crate::model::kind::ConflictKind;

    fn at(v: u64, origin: &str) -> Version {
        Version { epoch: Epoch(1), v, origin: RegionName::new(origin).unwrap() }
    }

    fn acme() -> Option<TenantName> {
        TenantName::new("acme").ok()
    }

    /// Found at `at_us`: what was lost by whom, to what.
    fn entry(at_us: u64, lost: (u64, &str), won: (u64, &str)) -> Lost {
        Lost {
            at_us,
            conflict: format!("{}<{}", lost.0, won.0),
            id: RowId { table: "notes".to_owned(), key: "[1]".to_owned() },
            kind: ConflictKind::of_word("insert_exists").unwrap(),
            placement: Placement(0),
            resolution: None,
            resolver: None,
            row: Some("{}".to_owned()),
            rule: "policy".to_owned(),
            tenant: acme(),
            transaction: None,
            version: at(lost.0, lost.1),
            winner: at(won.0, won.1),
            winner_row: Some("{}".to_owned()),
        }
    }

    fn sorted(entries: &[Lost], v: u64) -> [Vec<String>; 3] {
        let present = Present { tenant: acme(), version: at(v, "us") };
        let sorted = Sorted::of(entries.to_vec(), Some(&present));
        [sorted.losers, sorted.unasked, sorted.superseded]
            .map(|entries| entries.into_iter().map(|entry| entry.conflict).collect())
    }

    #[test]
    fn what_lost_to_a_loser_is_asked_about() {
        let entries =
            [entry(3, (2, "ap"), (5, "eu")), entry(3, (1, "sa"), (2, "ap")), entry(8, (5, "eu"), (9, "us"))];
        assert_eq!(sorted(&entries, 9), [vec!["1<2", "2<5", "5<9"], vec![], vec![]]);
    }

    #[test]
    fn what_was_there_when_the_row_was_written_was_known() {
        let entries = [entry(30, (5, "eu"), (9, "us"))];
        // Found after the row was written, and before.
        assert_eq!(sorted(&entries, 20), [vec!["5<9"], vec![], vec![]]);
        assert_eq!(sorted(&entries, 40), [vec![], vec![], vec!["5<9"]]);
        assert_eq!(Sorted::of(entries.to_vec(), None).superseded.len(), 1, "the row is gone");
    }

    #[test]
    fn of_one_region_the_last_version_is_asked_about() {
        let entries = [entry(30, (4, "eu"), (9, "us")), entry(30, (5, "eu"), (9, "us"))];
        assert_eq!(sorted(&entries, 9), [vec!["5<9"], vec![], vec!["4<9"]]);
    }

    #[test]
    fn nobody_is_asked_about_a_deletion_or_another_tenants_row() {
        let deletion = Lost { row: None, ..entry(30, (4, "eu"), (9, "us")) };
        let others = Lost { tenant: TenantName::new("other").ok(), ..entry(30, (5, "eu"), (9, "us")) };
        assert_eq!(sorted(&[deletion, others], 9), [vec![], vec!["4<9", "5<9"], vec![]]);
    }

    #[test]
    fn what_the_policy_leaves_out_stays_to_the_last_digit() {
        let row = r#"{"amount":12345678901234567.89,"huge":9e999,"id":1,"tenant":"acme","text":"a"}"#;
        let dispute = Dispute {
            columns: ["amount", "huge", "id", "tenant", "text"].map(str::to_owned).into(),
            fixed: ["id", "tenant"].map(str::to_owned).into(),
            id: RowId { table: "notes".to_owned(), key: "[1]".to_owned() },
            losers: Vec::new(),
            row: row.to_owned(),
            tenant: acme().unwrap(),
        };
        let merged = dispute.with(row, br#"{"text": "c"}"#).unwrap();
        assert_eq!(merged, row.replace(r#""text":"a""#, r#""text":"c""#));
        assert_eq!(changed(row, &merged).unwrap(), ["text".to_owned()].into());
    }

    #[test]
    fn an_answer_is_a_row_of_the_same_key() {
        let dispute = Dispute {
            columns: ["id", "tenant", "text", "title"].map(str::to_owned).into(),
            fixed: ["id", "tenant"].map(str::to_owned).into(),
            id: RowId { table: "notes".to_owned(), key: "[1]".to_owned() },
            losers: Vec::new(),
            row: r#"{"id":1,"tenant":"acme","text":"a","title":"b"}"#.to_owned(),
            tenant: TenantName::new("acme").unwrap(),
        };
        let with = |merged: &str| dispute.with(&dispute.row, merged.as_bytes());
        assert_eq!(
            with(r#"{"text":"c","id":1}"#).unwrap(),
            r#"{"id":1,"tenant":"acme","text":"c","title":"b"}"#
        );
        for (merged, why) in [
            ("nonsense", "no JSON object"),
            ("[1]", "no JSON object"),
            (r#"{"id":2}"#, "changes `id`"),
            (r#"{"tenant":"other"}"#, "changes `tenant`"),
            (r#"{"more":2}"#, "no column"),
        ] {
            assert!(with(merged).unwrap_err().contains(why), "{merged}");
        }
    }
}
