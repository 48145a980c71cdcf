//! Changes that a database does not take: each waits on its own, with the kind of conflict, and the rest goes on.
//!
//! One is tried again when somebody asks for it, and whenever another version of its row comes, which may have made it void.

use std::collections::BTreeSet;

use portolan_core::ids::TenantName;
use serde_json::json;
use serde_json::value::RawValue;

use crate::apply::{Counts, columns, leave_applying, names, parse, print};
use crate::database::{Row, Session};
use crate::defaults::RETRY_MAX;
use crate::error::Error;
use crate::ledger::kind_of;
use crate::model::gate::Write;
use crate::model::kind::ConflictKind;
use crate::model::record::{Change, Record, RowChange};
use crate::rejection::{Rejection, Rule};
use crate::store::{Role, Store};
use crate::table::Declared;

/// A change that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// What kind of conflict it is.
    pub kind: ConflictKind,
    /// The change.
    pub record: Record,
    /// Why the database did not take it.
    pub why: String,
}

/// Why a change waits.
#[derive(Clone, Debug)]
pub(crate) struct Obstacle {
    pub(crate) kind: ConflictKind,
    pub(crate) why: String,
}

impl Store {
    /// Tries parked changes again, the oldest first. Returns how many still wait of those that were tried.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub async fn retry_parked(&self) -> Result<u64, Error> {
        let mut session = self.begin(Role::Applier).await?;
        self.enter_applying(&mut session).await?;
        let mut counts = Counts::default();
        self.retry(&mut session, None, &mut counts).await?;
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts.parked)
    }

    /// Tries parked changes of a tenant again, which this log tells, or of all, which it does not.
    pub(crate) async fn retry(
        &self,
        session: &mut Session,
        tenant: Option<&TenantName>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let sql = "SELECT record FROM portolan_parked WHERE $2 = '' OR tenant = $2 ORDER BY at_us, epoch, v LIMIT $1";
        let args = [(RETRY_MAX as u64).into(), tenant.map_or("", TenantName::as_str).into()];
        let rows = session.query(sql, &args).await?;
        let records = rows.iter().map(|row| parse(&row.text(0)?)).collect::<Result<Vec<Record>, _>>()?;
        unpark(session, &records).await?;
        self.absorb(session, &records, counts, tenant.is_some()).await
    }

    /// Changes that wait, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parked(&self, max: usize) -> Result<Vec<Parked>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "SELECT record, why, kind FROM portolan_parked ORDER BY at_us, epoch, v LIMIT $1";
        let rows = session.query(sql, &[(max as u64).into()]).await?;
        let parked = |row: &Row| {
            let kind = kind_of(&row.text(2)?)?;
            Ok(Parked { kind, record: parse(&row.text(0)?)?, why: row.text(1)? })
        };
        rows.iter().map(parked).collect()
    }
}

/// Is a change of a table and columns that are here, and does it say the same of itself everywhere?
pub(crate) fn fits(declared: &[Declared], record: &Record) -> Result<(), Obstacle> {
    let Change::Row(change) = &record.change else { return Ok(()) };
    let table = declared.iter().find(|table| table.table.name.as_str() == change.id.table);
    let odd = |why: &str| Err(Obstacle { kind: ConflictKind::ApplyError, why: why.to_owned() });
    let Some(table) = table else {
        let why = format!("the table `{}` is not declared here", change.id.table);
        return Err(Obstacle { kind: ConflictKind::TargetTableMissing, why });
    };
    let Ok(key) = serde_json::from_str::<Vec<Box<RawValue>>>(&change.id.key) else {
        return odd("its key is no array of JSON");
    };
    if key.len() != table.table.key.len() {
        return odd("its key has another number of columns");
    }
    if table.table.tenant.is_some() != record.tenant.is_some() {
        return odd("it is of a tenant, and its table is not, or the other way round");
    }
    let Some(row) = &change.row else { return Ok(()) };
    let Ok(row) = columns(row) else { return odd("its row is no object of JSON") };
    let own = |name: &&String| !table.columns.contains(name) && !table.generated.contains(name);
    if let Some(unknown) = row.keys().find(own) {
        let why = format!("`{}` has no column `{unknown}` here yet", change.id.table);
        return Err(Obstacle { kind: ConflictKind::TargetColumnMissing, why });
    }
    let same = table
        .table
        .key
        .iter()
        .zip(&key)
        .all(|(column, value)| row.get(column.as_str()).is_some_and(|there| there.get() == value.get()));
    if !same {
        return odd("its row is of another key");
    }
    if let (Some(column), Some(tenant)) = (&table.table.tenant, &record.tenant) {
        let there = row.get(column.as_str()).map(|value| value.get().trim_matches('"'));
        if there != Some(tenant.as_str()) {
            return odd("its row is of another tenant");
        }
    }
    Ok(())
}

/// What kind of conflict it is that a database refuses a row.
pub(crate) fn refusal(declared: &[Declared], write: &Write, why: &Rejection) -> ConflictKind {
    let Change::Row(change) = &write.record.change else { return ConflictKind::ApplyError };
    let table = declared.iter().find(|table| table.table.name.as_str() == change.id.table);
    let known = table.map_or_else(BTreeSet::new, |table| names(table, write));
    match why.rule {
        Rule::Unique => ConflictKind::MultipleUniqueConflicts,
        Rule::NotNull if !why.columns.iter().any(|column| known.contains(column)) => {
            ConflictKind::SourceColumnMissing
        }
        Rule::Missing => ConflictKind::TargetColumnMissing,
        _ => ConflictKind::ApplyError,
    }
}

pub(crate) async fn park(session: &mut Session, parked: &[(Record, Obstacle)]) -> Result<(), Error> {
    for (record, Obstacle { kind, why }) in parked {
        let Change::Row(RowChange { id, version, .. }) = &record.change else { continue };
        session
            .run(
                "INSERT INTO portolan_parked (table_name, key, epoch, v, origin, tenant, placement, record, kind, why, at_us) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, {now}) \
                 ON CONFLICT (table_name, key, epoch, v, origin) DO UPDATE SET why = excluded.why, kind = excluded.kind, \
                 tenant = excluded.tenant, placement = excluded.placement, record = excluded.record",
                &[
                    id.table.as_str().into(),
                    id.key.as_str().into(),
                    version.epoch.0.into(),
                    version.v.into(),
                    version.origin.as_str().into(),
                    record.tenant.as_ref().map(TenantName::as_str).into(),
                    record.placement.0.into(),
                    print(record)?.into(),
                    kind.word().into(),
                    why.as_str().into(),
                ],
            )
            .await?;
    }
    Ok(())
}

/// Changes that wait for rows which records name, and are not among these.
pub(crate) async fn waiting(session: &mut Session, records: &[Record]) -> Result<Vec<Record>, Error> {
    if session.query("SELECT 1 FROM portolan_parked LIMIT 1", &[]).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids = BTreeSet::new();
    for record in records {
        if let Change::Row(change) = &record.change {
            ids.insert(&change.id);
        }
    }
    let ids: Vec<_> = ids.into_iter().map(|id| json!({ "t": id.table, "k": id.key })).collect();
    let rows = session
        .query(
            &format!(
                "SELECT p.record FROM {{each}} JOIN portolan_parked p \
                 ON p.table_name = each.value ->> 't' AND p.key = each.value ->> 'k' LIMIT {RETRY_MAX}"
            ),
            &[serde_json::Value::from(ids).to_string().into()],
        )
        .await?;
    rows.iter().map(|row| parse(&row.text(0)?)).collect()
}

/// Changes wait no longer.
pub(crate) async fn unpark(session: &mut Session, records: &[Record]) -> Result<(), Error> {
    for record in records {
        let Change::Row(change) = &record.change else { continue };
        let version = &change.version;
        session
            .run(
                "DELETE FROM portolan_parked \
                 WHERE table_name = $1 AND key = $2 AND epoch = $3 AND v = $4 AND origin = $5",
                &[
                    change.id.table.as_str().into(),
                    change.id.key.as_str().into(),
                    version.epoch.0.into(),
                    version.v.into(),
                    version.origin.as_str().into(),
                ],
            )
            .await?;
    }
    Ok(())
}
