//! Conflicts of tables whose rule is a policy: what of the ledger waits for it, and what it says as a new version.
//!
//! The last writer's row stays meanwhile, everywhere. Only the shard's primary asks, so that each dispute ends once, and what is merged
//! travels as any other version. An entry leads to nothing any more once the row is of a version that did not win over it, be it through
//! others: whoever wrote that knew the winner.

use std::collections::BTreeSet;

use portolan_core::ids::TenantName;
use portolan_core::log::Version;
use portolan_core::tenant_table::Identifier;
use portolan_core::time::Moment;
use serde_json::{Map, Value as Json};

use crate::database::{Dialect, Value};
use crate::error::Error;
use crate::ledger::{LOST, Lost, lost};
use crate::model::fence::Lease;
use crate::model::record::RowId;
use crate::read::version;
use crate::store::{Role, Store};

/// Entries that may still be asked about; the index of them has the same words.
const OPEN: &str = "c.rule = 'policy' AND (c.resolution IS NULL OR c.resolution LIKE 'refused:%')";
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

impl Sorted {
    /// `present` is the version of the row that is there; none of one that is not.
    fn of(mut entries: Vec<Lost>, present: Option<&Version>) -> Self {
        let mut sorted = Self::default();
        let Some(present) = present else {
            sorted.superseded = entries;
            return sorted;
        };
        let mut won = BTreeSet::from([present.clone()]);
        loop {
            let (of_these, others): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| won.contains(&entry.winner));
            entries = others;
            if of_these.is_empty() {
                break;
            }
            won.extend(of_these.iter().map(|entry| entry.version.clone()));
            for entry in of_these {
                let asked = entry.row.is_some() && entry.tenant.is_some();
                if asked { sorted.losers.push(entry) } else { sorted.unasked.push(entry) }
            }
        }
        sorted.superseded = entries;
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
        let object = |bytes: &[u8]| serde_json::from_slice::<Map<String, Json>>(bytes);
        let mut whole = object(row.as_bytes()).map_err(|error| format!("the row is damaged: {error}"))?;
        let merged = object(merged).map_err(|error| format!("its answer is no JSON object: {error}"))?;
        for (column, value) in merged {
            if !self.columns.contains(&column) {
                return Err(format!("its answer has `{column}`, which is no column that can be written"));
            }
            if self.fixed.contains(&column) && whole.get(&column) != Some(&value) {
                return Err(format!("its answer changes `{column}`, which says which row it is or whose"));
            }
            whole.insert(column, value);
        }
        serde_json::to_string(&whole).map_err(|error| error.to_string())
    }
}

impl Store {
    /// Rows of a table that `resolver` was not asked about yet, up to so many. Entries that lead to nothing any more are marked so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn disputes(
        &self,
        table: &Identifier,
        resolver: &str,
        max: usize,
    ) -> Result<Vec<Dispute>, Error> {
        let declared = self.declared();
        let Some(own) = declared.iter().find(|own| own.table.name == *table) else { return Ok(Vec::new()) };
        let mut session = self.begin(Role::Applier).await?;
        let keys = format!(
            "SELECT DISTINCT c.key FROM portolan_conflict c WHERE {OPEN} AND c.table_name = $1 \
             AND coalesce(c.resolver, '') <> $2 ORDER BY c.key LIMIT $3"
        );
        let args = [table.as_str().into(), resolver.into(), (max as u64).into()];
        let keys = session.query(&keys, &args).await?;
        let id = |row: &crate::Row| Ok(RowId { table: table.to_string(), key: row.text(0)? });
        let ids: Vec<RowId> = keys.iter().map(id).collect::<Result<_, Error>>()?;
        // Before the versions: an image that is older than its version is found out when it is written.
        let images = self.images(&mut session, &ids).await?;
        let entries = format!(
            "SELECT {LOST}, r.epoch, r.v, r.origin FROM portolan_conflict c \
             LEFT JOIN portolan_row r ON r.table_name = c.table_name AND r.key = c.key \
             WHERE {OPEN} AND c.table_name = $1 AND c.key = $2"
        );
        let mut disputes = Vec::new();
        for id in ids {
            let rows = session.query(&entries, &[id.table.as_str().into(), id.key.as_str().into()]).await?;
            let present = rows.first().map(|row| version(row, LOST_COLUMNS)).transpose()?.flatten();
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
        Ok(disputes)
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
        let mut transaction = self.write(&dispute.tenant, lease, clock()).await?;
        let lock = if self.dialect() == Dialect::Postgres { " FOR UPDATE OF own" } else { "" };
        let look = table.images(self.dialect()) + lock;
        let written = async {
            let key = Value::Text(format!("[{}]", dispute.id.key));
            let there = transaction.fetch(&look, &[key]).await?;
            let there = there.first().map(|row| row.text(1)).transpose()?;
            if there.as_ref() != Some(&dispute.row) {
                return Ok(false);
            }
            let columns = &dispute.columns;
            let put = table.put_over(self.dialect(), columns, columns);
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

#[cfg(test)]
mod tests {
    use portolan_core::ids::RegionName;
    use portolan_core::log::{Epoch, Placement};

    use super::*;
    use crate::model::kind::ConflictKind;

    fn at(v: u64) -> Version {
        Version { epoch: Epoch(1), v, origin: RegionName::new("eu").unwrap() }
    }

    fn entry(lost: u64, won: u64) -> Lost {
        Lost {
            at_us: 1,
            conflict: format!("{lost}<{won}"),
            id: RowId { table: "notes".to_owned(), key: "[1]".to_owned() },
            kind: ConflictKind::of_word("insert_exists").unwrap(),
            placement: Placement(0),
            resolution: None,
            resolver: None,
            row: Some("{}".to_owned()),
            rule: "policy".to_owned(),
            tenant: Some(TenantName::new("acme").unwrap()),
            transaction: None,
            version: at(lost),
            winner: at(won),
            winner_row: Some("{}".to_owned()),
        }
    }

    fn names(entries: &[Lost]) -> Vec<&str> {
        entries.iter().map(|entry| entry.conflict.as_str()).collect()
    }

    #[test]
    fn what_lost_to_a_loser_is_asked_about_and_what_was_known_is_not() {
        let deletion = Lost { row: None, ..entry(4, 9) };
        let entries = vec![entry(5, 9), entry(2, 5), entry(1, 2), entry(3, 7), deletion];
        let sorted = Sorted::of(entries.clone(), Some(&at(9)));
        assert_eq!(names(&sorted.losers), ["1<2", "2<5", "5<9"]);
        assert_eq!(names(&sorted.unasked), ["4<9"]);
        assert_eq!(names(&sorted.superseded), ["3<7"]);
        assert_eq!(Sorted::of(entries.clone(), Some(&at(10))).superseded.len(), 5);
        assert_eq!(Sorted::of(entries, None).superseded.len(), 5);
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
