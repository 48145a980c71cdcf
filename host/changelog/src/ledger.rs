//! The ledger: what lost in a conflict, kept with what stayed, so that an operator can look at it and put it back.
//!
//! An entry is about one version of a row that was lost to another without having been known to it. It has a short name that is
//! the same in every region and every copy. An image of a version is kept once, however often it comes.

use portolan_core::balance::stable_hash;
use portolan_core::ids::TenantName;
use portolan_core::log::{Placement, Position, Version};
use portolan_core::tenant_table::Identifier;
use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

use crate::database::{Row, Session, Value};
use crate::defaults::CONFLICTS_MAX;
use crate::error::Error;
use crate::model::fence::Lease;
use crate::model::gate::{Conflict, Image, Plan};
use crate::model::kind::ConflictKind;
use crate::model::record::RowId;
use crate::read::{tenant_of, version};
use crate::store::{Role, Store};

/// A version that lost without having been known to the winner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// When it was found here, in microseconds of the database's clock.
    pub at_us: u64,
    /// Its name: 16 hexadecimal digits, the same wherever it is known.
    pub conflict: String,
    /// Of which row.
    pub id: RowId,
    /// What met what.
    pub kind: ConflictKind,
    /// The tenant's placement when it was written.
    pub placement: Placement,
    /// The row as it was, in canonical form; none when it was a deletion.
    pub row: Option<String>,
    /// What became of it where a policy merges: `merged`, `superseded` by a version that knew more, `unasked` because one of both is no
    /// row, or `refused: WHY`; none while nobody was asked, and of other rules. Only the shard's primary knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
    /// The policy that was asked last, as `NAME@DIGEST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<String>,
    /// The rule by which it lost: `lww`, `first_wins`, `home_wins`, `column_lww` or `policy`; `epoch` past a cut, `source` when a
    /// copy began anew.
    pub rule: String,
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// Of a record past its epoch's cut, the transaction that wrote it: `region/epoch.number`. What it wrote was lost together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// The version that lost.
    pub version: Version,
    /// The version that won; of a row that was merged, the higher of both.
    pub winner: Version,
    /// The row that stayed; none when it was a deletion.
    pub winner_row: Option<String>,
}

/// Which entries of the ledger are wanted. They come by the time at which they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts {
    /// Those after this one.
    pub after: Option<Cursor>,
    /// At most so many; there is a limit above.
    pub max: usize,
    /// Those found then or later, in microseconds of the database's clock.
    pub since_us: u64,
    /// Those of this table.
    pub table: Option<Identifier>,
    /// Those of this tenant.
    pub tenant: Option<TenantName>,
}

/// Where a page of the ledger ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// When the last entry was found.
    pub at_us: u64,
    /// Its name.
    pub conflict: String,
}

impl Conflicts {
    /// All, up to so many.
    #[must_use]
    pub const fn all(max: usize) -> Self {
        Self { after: None, max, since_us: 0, table: None, tenant: None }
    }

    /// Those of a tenant, up to so many.
    #[must_use]
    pub fn of(tenant: TenantName, max: usize) -> Self {
        Self { tenant: Some(tenant), ..Self::all(max) }
    }
}

impl Lost {
    /// The place of this entry, to ask for those after it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { at_us: self.at_us, conflict: self.conflict.clone() }
    }
}

/// The columns of [`lost`].
pub(crate) const LOST: &str = "c.table_name, c.key, c.tenant, c.row, c.winner, c.lost_epoch, c.lost_v, c.lost_origin, \
    c.won_epoch, c.won_v, c.won_origin, c.rule, c.kind, c.id, c.at_us, c.placement, c.written_by, c.resolver, c.resolution";

impl Store {
    /// Losers that are kept.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn conflicts(&self, wanted: &Conflicts) -> Result<Vec<Lost>, Error> {
        let sql = format!(
            "SELECT {LOST} FROM portolan_conflict c WHERE ($1 = '' OR c.tenant = $1) AND ($2 = '' OR c.table_name = $2) \
             AND c.at_us >= $3 AND (c.at_us, c.id) > ($4, $5) ORDER BY c.at_us, c.id LIMIT $6"
        );
        let after = wanted.after.clone().unwrap_or_else(|| Cursor { at_us: 0, conflict: String::new() });
        let args = [
            wanted.tenant.as_ref().map_or("", TenantName::as_str).into(),
            wanted.table.as_ref().map_or("", Identifier::as_str).into(),
            wanted.since_us.into(),
            after.at_us.into(),
            after.conflict.into(),
            (wanted.max.min(CONFLICTS_MAX) as u64).into(),
        ];
        let rows = self.acquire(Role::Applier).await?.query(&sql, &args).await?;
        rows.iter().map(lost).collect()
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn conflict(&self, conflict: &str) -> Result<Option<Lost>, Error> {
        let sql = format!("SELECT {LOST} FROM portolan_conflict c WHERE c.id = $1 ORDER BY c.at_us LIMIT 1");
        let rows = self.acquire(Role::Applier).await?.query(&sql, &[conflict.into()]).await?;
        rows.first().map(lost).transpose()
    }

    /// Writes what lost back, as a new version, in an ordinary transaction of its tenant: fenced, captured, and told to all. Columns that
    /// are merged by themselves stay as they are when the row is there, because nothing of them was lost. Returns where the record of
    /// it lies; none when the row is so already.
    ///
    /// # Errors
    /// [`Error::Restore`] when there is no such entry, or it is of no tenant; [`Error::Closed`] when the tenant has moved, is held, or
    /// the shard is written elsewhere; [`Error::Rejected`] when the row breaks a rule of its table now; otherwise as
    /// [`crate::Transaction::commit`].
    ///
    /// # Cancel safety
    /// Not cancel-safe, as all that commits; it may be repeated.
    pub async fn restore(
        &self,
        conflict: &str,
        lease: &Lease,
        clock: impl Fn() -> Moment,
    ) -> Result<Option<Position>, Error> {
        let none = |why: &str| Error::Restore { conflict: conflict.to_owned(), why: why.to_owned() };
        let lost = self.conflict(conflict).await?;
        let lost = lost.ok_or_else(|| none("is not kept here: look for it with its tenant's others"))?;
        let tenant = lost.tenant.as_ref();
        let tenant =
            tenant.ok_or_else(|| none("is of a reference table: write it where those are written"))?;
        let declared = self.declared();
        let table = declared.iter().find(|table| table.table.name.as_str() == lost.id.table);
        let table = table.ok_or_else(|| none("is of a table that is not declared any more"))?;
        let (sql, rows) = match &lost.row {
            None => (table.delete(self.dialect()), format!("[{}]", lost.id.key)),
            Some(row) => {
                let columns: crate::model::marks::Columns = serde_json::from_str(row)
                    .map_err(|error| Error::Damaged(format!("a loser is no row: {error}")))?;
                let here = |name: &String| table.columns.contains(name);
                let all = columns.into_keys().filter(here).collect();
                let over = std::collections::BTreeSet::clone(&all);
                let over = over.into_iter().filter(|name| !table.merges(name)).collect();
                (table.put_over(self.dialect(), &all, &over), format!("[{row}]"))
            }
        };
        let mut transaction = self.write(tenant, lease, clock()).await?;
        match transaction.execute(&sql, &[Value::Text(rows)]).await {
            Ok(_) => transaction.commit(lease, clock).await,
            Err(error) => {
                transaction.rollback().await?;
                Err(error)
            }
        }
    }

    /// Puts losers back that were kept elsewhere; those that are there are left alone.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn keep_losers(&self, losers: &[Lost]) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        for lost in losers {
            keep(&mut session, lost).await?;
        }
        session.commit().await
    }

    /// Keeps what a plan says has lost. The rows are still as they were before it.
    pub(crate) async fn keep_conflicts(&self, session: &mut Session, plan: &Plan) -> Result<(), Error> {
        let looks = |conflict: &&Conflict| [&conflict.loser, &conflict.winner].contains(&&Image::There);
        let there: Vec<RowId> = plan.conflicts.iter().filter(looks).map(|found| found.id.clone()).collect();
        if plan.conflicts.is_empty() {
            return Ok(());
        }
        let images = self.images(session, &there).await?;
        let at_us = session.one("SELECT {now}", &[]).await?.number(0)?;
        for found in &plan.conflicts {
            let image = |image: &Image| match image {
                Image::Is(row) => row.clone(),
                Image::There => images.get(&found.id).cloned(),
            };
            let lost = Lost {
                at_us,
                conflict: name(&found.id, &found.lost, &found.won),
                id: found.id.clone(),
                kind: found.kind,
                placement: found.placement,
                row: image(&found.loser),
                resolution: None,
                resolver: None,
                rule: found.rule.to_owned(),
                tenant: found.tenant.clone(),
                transaction: None,
                version: found.lost.clone(),
                winner: found.won.clone(),
                winner_row: image(&found.winner),
            };
            keep(session, &lost).await?;
        }
        Ok(())
    }
}

/// The name of a conflict.
pub(crate) fn name(id: &RowId, lost: &Version, won: &Version) -> String {
    let version = |version: &Version| format!("{}.{}.{}", version.epoch, version.v, version.origin);
    let text = format!("{}\0{}\0{}\0{}", id.table, id.key, version(lost), version(won));
    format!("{:016x}", stable_hash(text.as_bytes()))
}

/// Keeps one, unless it is there.
pub(crate) async fn keep(session: &mut Session, kept: &Lost) -> Result<(), Error> {
    let (lost, won) = (&kept.version, &kept.winner);
    let args: [Value; 17] = [
        kept.id.table.as_str().into(),
        kept.id.key.as_str().into(),
        lost.epoch.0.into(),
        lost.v.into(),
        lost.origin.as_str().into(),
        won.epoch.0.into(),
        won.v.into(),
        won.origin.as_str().into(),
        kept.conflict.as_str().into(),
        kept.rule.as_str().into(),
        kept.kind.word().into(),
        kept.tenant.as_ref().map(TenantName::as_str).into(),
        kept.placement.0.into(),
        kept.row.clone().into(),
        kept.winner_row.clone().into(),
        kept.at_us.into(),
        kept.transaction.clone().into(),
    ];
    // One image of a version is kept once, whatever it lost to.
    let sql = "INSERT INTO portolan_conflict (table_name, key, lost_epoch, lost_v, lost_origin, won_epoch, won_v, won_origin, \
        id, rule, kind, tenant, placement, row, winner, at_us, written_by) \
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17 \
        WHERE NOT EXISTS (SELECT 1 FROM portolan_conflict c WHERE c.table_name = $1 AND c.key = $2 AND c.lost_epoch = $3 \
        AND c.lost_v = $4 AND c.lost_origin = $5 AND coalesce(c.row, '') = coalesce($14, '')) ON CONFLICT DO NOTHING";
    session.run(sql, &args).await.map(drop)
}

/// A row of [`LOST`].
pub(crate) fn lost(row: &Row) -> Result<Lost, Error> {
    let none = || Error::Damaged("a conflict without versions".to_owned());
    Ok(Lost {
        at_us: row.number(14)?,
        conflict: row.text(13)?,
        id: RowId { table: row.text(0)?, key: row.text(1)? },
        kind: kind_of(&row.text(12)?)?,
        placement: Placement(row.number(15)?),
        row: row.text_or_null(3)?,
        resolution: row.text_or_null(18)?,
        resolver: row.text_or_null(17)?,
        rule: row.text(11)?,
        tenant: tenant_of(row, 2)?,
        transaction: row.text_or_null(16)?,
        version: version(row, 5)?.ok_or_else(none)?,
        winner: version(row, 8)?.ok_or_else(none)?,
        winner_row: row.text_or_null(4)?,
    })
}

/// The kind that a database names.
pub(crate) fn kind_of(word: &str) -> Result<ConflictKind, Error> {
    ConflictKind::of_word(word).ok_or_else(|| Error::Damaged(format!("`{word}` is no kind of conflict")))
}
