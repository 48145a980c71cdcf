//! What a shard keeps of its tenants' content: items, versions and heads, where bytes are, uploads, shares, and a log of all changes.
//!
//! Names of bytes, records and sealed lists are their maker's business: here they are text and bytes. Nothing of it is captured, so that
//! no replica gets it with rows. Every statement names its tenant, and whoever writes locks the tenant's account first: a tenant's
//! changes come one after another, and their numbers in the order in which they are seen.

mod chunks;
mod following;
mod items;
mod shares;
mod uploads;

use portolan_core::ids::TenantName;
use portolan_core::log::Epoch;
use portolan_core::time::Moment;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub use self::chunks::{Chunk, Part};
pub use self::following::{Known, Span};
pub use self::items::{Item, Listed, NewVersion, Stored};
pub use self::shares::{Mapping, Share};
pub use self::uploads::Upload;
use crate::database::{Dialect, Row, Session, Value};
use crate::error::Error;
use crate::model::fence::{Closed, Lease, Outcome};
use crate::store::{self, FENCE, FENCE_LOCK, Role, Store, TENANT_LOCK};

/// The tables, those that refer to others first.
pub(crate) const TABLES: [&str; 14] = [
    "content_stranded",
    "content_log",
    "content_sync_mapping",
    "content_share",
    "content_upload_part",
    "content_upload",
    "content_use",
    "content_chunk",
    "content_pack",
    "content_part",
    "content_head",
    "content_version",
    "content_item",
    "content_account",
];

/// A transaction over one tenant's content. One that is dropped was never there.
#[derive(Debug)]
pub struct Content {
    /// Under which lease it writes; none when it reads, or takes what another region wrote.
    lease: Option<Epoch>,
    session: Session,
    tenant: String,
}

/// A tenant that has content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The hybrid clock of the last version: milliseconds since 1970, and what tells apart what happened within one.
    pub clock: (u64, u32),
    /// Its secrets, wrapped.
    pub secret: Vec<u8>,
    /// The number of the last change.
    pub seq: u64,
}

/// One change of a tenant's content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The version, or the share's status.
    pub detail: String,
    /// The SHA-256 of it and of the digest before it, so that nobody changes what was decided unseen; '' from before digests were noted.
    pub digest: String,
    /// The lease under which it was written; 0 from before leases were noted.
    pub epoch: u64,
    /// `version` or `share`.
    pub kind: String,
    /// Its number; a tenant's only rise.
    pub seq: u64,
    /// Of which site.
    pub site: String,
    /// The item's name, or the share.
    pub subject: String,
}

impl Store {
    /// Begins a transaction that reads one state of a tenant's content. For a strong read, ask [`Lease::allows`] after it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn content(&self, tenant: &TenantName) -> Result<Content, Error> {
        let session = self.pool(Role::Applier).snapshot().await?;
        Ok(Content { lease: None, session, tenant: tenant.as_str().to_owned() })
    }

    /// Tenants that have content here, by name, after a name, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn content_tenants(&self, after: &str, max: u64) -> Result<Vec<String>, Error> {
        let sql = "SELECT tenant FROM portolan_content_account WHERE tenant > $1 ORDER BY tenant LIMIT $2";
        let rows = self.acquire(Role::Applier).await?.query(sql, &[after.into(), max.into()]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Has a tenant content here that is not deleted?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_content(&self, tenant: &TenantName) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM portolan_content_head h JOIN portolan_content_version v \
            ON v.tenant = h.tenant AND v.item = h.item AND v.version = h.version \
            WHERE h.tenant = $1 AND v.root <> '' LIMIT 1";
        let rows = self.acquire(Role::Applier).await?.query(sql, &[tenant.as_str().into()]).await?;
        Ok(!rows.is_empty())
    }

    /// Begins a transaction that writes a tenant's content under the gateway's lease. It is inside the fence, and holds the tenant's account.
    ///
    /// # Errors
    /// [`Error::Closed`] when the lease has run out, or the tenant moves or is elsewhere.
    pub async fn write_content(
        &self,
        tenant: &TenantName,
        lease: &Lease,
        now: Moment,
    ) -> Result<Content, Error> {
        if !lease.allows(now) {
            return Err(Closed::Expired.into());
        }
        let mut session = self.begin(Role::Applier).await?;
        if session.dialect() == Dialect::Postgres {
            let sql = format!(
                "SELECT pg_advisory_xact_lock_shared({FENCE_LOCK}), pg_advisory_xact_lock_shared({TENANT_LOCK}, hashtext($1))"
            );
            session.execute(&sql, &[tenant.as_str().into()]).await?;
        }
        let mut content = Content { lease: Some(lease.epoch), session, tenant: tenant.as_str().to_owned() };
        content.is_open(lease.epoch).await?;
        let now_us = content.session.one("SELECT {now}", &[]).await?.number(0)?;
        store::tenant_state(&mut content.session, tenant).await?.check(now_us)?;
        let lock = "SELECT seq FROM portolan_content_account WHERE tenant = $1 {lock}";
        content.query(lock, &[]).await?;
        Ok(content)
    }
}

impl Content {
    /// The tenant's account; none before its first content.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn account(&mut self) -> Result<Option<Account>, Error> {
        let sql = "SELECT secret, seq, clock_ms, clock_count FROM portolan_content_account WHERE tenant = $1";
        let rows = self.query(sql, &[]).await?;
        let account = |row: &Row| {
            let count = u32::try_from(row.number(3)?).unwrap_or(u32::MAX);
            Ok(Account { secret: row.blob(0)?, seq: row.number(1)?, clock: (row.number(2)?, count) })
        };
        rows.first().map(account).transpose()
    }

    /// Makes the tenant's account, unless it has one; whose secrets it has then is told by [`Self::account`].
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn open_account(&mut self, secret: &[u8]) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_account (tenant, secret, seq, clock_ms, clock_count) \
            VALUES ($1, $2, 0, 0, 0) ON CONFLICT (tenant) DO NOTHING";
        self.run(sql, &[Value::Blob(secret.to_vec())]).await.map(drop)
    }

    /// Writes a change, and gives its number.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn note(
        &mut self,
        kind: &str,
        (site, subject): (&str, &str),
        detail: &str,
        at_ms: u64,
    ) -> Result<u64, Error> {
        let next = "UPDATE portolan_content_account SET seq = seq + 1 WHERE tenant = $1 RETURNING seq";
        let rows = self.query(next, &[]).await?;
        let seq = rows.first().ok_or_else(|| Error::Damaged("the tenant has no account".to_owned()))?;
        let seq = seq.number(0)?;
        let epoch = self.lease.map_or(0, |epoch| epoch.0);
        let (kind, site, subject) = (kind.to_owned(), site.to_owned(), subject.to_owned());
        let (detail, digest) = (detail.to_owned(), String::new());
        let change = Change { at_ms, detail, digest, epoch, kind, seq, site, subject };
        let digest = self.digest(&change).await?;
        self.log(&Change { digest, ..change }).await?;
        Ok(seq)
    }

    /// Changes after a number, in order, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn changes(&mut self, after: u64, max: u64) -> Result<Vec<Change>, Error> {
        let sql = "SELECT seq, kind, site, subject, detail, at_ms, epoch, digest FROM portolan_content_log \
            WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let rows = self.query(sql, &[after.into(), max.into()]).await?;
        let change = |row: &Row| {
            Ok(Change {
                seq: row.number(0)?,
                kind: row.text(1)?,
                site: row.text(2)?,
                subject: row.text(3)?,
                detail: row.text(4)?,
                at_ms: row.number(5)?,
                epoch: row.number(6)?,
                digest: row.text(7)?,
            })
        };
        rows.iter().map(change).collect()
    }

    /// What names an entry and all before it.
    async fn digest(&mut self, change: &Change) -> Result<String, Error> {
        let sql = "SELECT digest FROM portolan_content_log WHERE tenant = $1 AND seq = $2";
        let before = self.query(sql, &[change.seq.saturating_sub(1).into()]).await?;
        let before = before.first().map_or_else(|| Ok(String::new()), |row| row.text(0))?;
        let Change { at_ms, detail, epoch, kind, seq, site, subject, .. } = change;
        let text = json!([before, self.tenant, seq, epoch, kind, site, subject, detail, at_ms]).to_string();
        Ok(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Writes an entry of the log as it is.
    async fn log(&mut self, change: &Change) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_log (tenant, seq, kind, site, subject, detail, at_ms, epoch, digest) \
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let args = [
            change.seq.into(),
            change.kind.as_str().into(),
            change.site.as_str().into(),
            change.subject.as_str().into(),
            change.detail.as_str().into(),
            Value::from(change.at_ms),
            change.epoch.into(),
            change.digest.as_str().into(),
        ];
        self.run(sql, &args).await.map(drop)
    }

    /// Commits, after another look at the fence.
    ///
    /// # Errors
    /// [`Error::Closed`] when the fence has closed meanwhile: nothing is written. [`Error::Unknown`] when the answer was lost, or the
    /// lease has run out during the commit.
    ///
    /// # Cancel safety
    /// Not cancel-safe: when it is dropped, nobody knows whether the transaction is written.
    pub async fn commit(mut self, lease: &Lease, clock: impl Fn() -> Moment) -> Result<(), Error> {
        if let Some(epoch) = self.lease {
            self.is_open(epoch).await?;
        }
        self.session.commit().await?;
        match lease.outcome(clock()) {
            Outcome::Done => Ok(()),
            Outcome::Unknown => {
                Err(Error::Unknown("the lease ran out while the transaction was committed".to_owned()))
            }
        }
    }

    /// Ends it without a trace. One that is dropped leaves none either, but costs its connection.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end(self) -> Result<(), Error> {
        self.session.rollback().await
    }

    /// Is the fence open, under this lease?
    async fn is_open(&mut self, epoch: Epoch) -> Result<(), Error> {
        let now_us = self.session.one("SELECT {now}", &[]).await?.number(0)?;
        let row = self.session.one(FENCE, &[]).await?;
        if row.number(3)? == 1 {
            return Err(Closed::Cut.into());
        }
        store::fence(&row)?.check(epoch, now_us)?;
        Ok(())
    }

    /// Runs a statement whose first value is the tenant.
    async fn run(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        let all = self.with_tenant(args);
        self.session.run(sql, &all).await
    }

    /// Runs a query whose first value is the tenant.
    async fn query(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        let all = self.with_tenant(args);
        self.session.query(sql, &all).await
    }

    fn with_tenant(&self, args: &[Value]) -> Vec<Value> {
        std::iter::once(Value::from(self.tenant.as_str())).chain(args.iter().cloned()).collect()
    }
}

/// As both engines keep truth.
fn bit(value: bool) -> Value {
    Value::Int(i64::from(value))
}
