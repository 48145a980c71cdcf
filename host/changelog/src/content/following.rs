//! A copy's side of the log of content: how much of which epoch it has, what it takes of the region that writes, and how it goes back to where
//! both histories are one.
//!
//! An epoch has one writer, so that a change's epoch and number name all that came before it, too. What a copy has beyond the region that writes the
//! shard's last epoch was lost with the region that wrote it: it is *stranded*, told, and shown by nobody.

use portolan_core::ids::TenantName;
use portolan_core::log::Epoch;

use super::{Change, Content, Item, NewVersion};
use crate::database::Row;
use crate::error::Error;
use crate::model::fence::Closed;
use crate::store::{self, FENCE, Role, Store, enter_log, tenant_state};

/// Epochs of a tenant's log that a copy compares: more have not been since it was asked last.
const SPANS_MAX: usize = 64;

/// How far a tenant's log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The epoch of its last change; 0 where there is none.
    pub epoch: u64,
    /// The number of its last change.
    pub seq: u64,
    /// The tenant.
    pub tenant: String,
}

/// What of an epoch is in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// The epoch.
    pub epoch: u64,
    /// The number of its last change.
    pub last: u64,
}

impl Store {
    /// How far the logs of tenants go, by their names, after a name, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn content_known(&self, after: &str, max: u64) -> Result<Vec<Known>, Error> {
        let sql = "SELECT a.tenant, a.seq, COALESCE(l.epoch, 0) FROM portolan_content_account a \
            LEFT JOIN portolan_content_log l ON l.tenant = a.tenant AND l.seq = a.seq \
            WHERE a.tenant > $1 ORDER BY a.tenant LIMIT $2";
        let rows = self.acquire(Role::Applier).await?.query(sql, &[after.into(), max.into()]).await?;
        let known =
            |row: &Row| Ok(Known { tenant: row.text(0)?, seq: row.number(1)?, epoch: row.number(2)? });
        rows.iter().map(known).collect()
    }

    /// Changes that are stranded here, of all tenants.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn content_stranded(&self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM portolan_content_stranded";
        self.acquire(Role::Applier).await?.one(sql, &[]).await?.number(0)
    }

    /// Begins a transaction that takes what the region of an epoch wrote, into a copy. It holds the tenant's account, and no epoch begins and none
    /// is sealed until it ends.
    ///
    /// # Errors
    /// [`Error::Closed`] when a later epoch is known here, when this region writes itself, or when the tenant is elsewhere or erased.
    pub async fn take_content(&self, tenant: &TenantName, epoch: Epoch) -> Result<Content, Error> {
        let mut session = self.begin(Role::Applier).await?;
        enter_log(&mut session).await?;
        let now_us = session.one("SELECT {now}", &[]).await?.number(0)?;
        let fence = store::fence(&session.one(FENCE, &[]).await?)?;
        if fence.epoch > epoch || fence.deadline_us > now_us {
            return Err(Closed::Moved.into());
        }
        tenant_state(&mut session, tenant).await?.check(now_us)?;
        let mut content = Content { lease: None, session, tenant: tenant.as_str().to_owned() };
        content.query("SELECT seq FROM portolan_content_account WHERE tenant = $1 {lock}", &[]).await?;
        Ok(content)
    }
}

impl Content {
    /// What of each epoch is in the log, the newest epoch first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spans(&mut self) -> Result<Vec<Span>, Error> {
        let (mut spans, mut before) = (Vec::new(), i64::MAX as u64);
        while spans.len() < SPANS_MAX {
            let sql = "SELECT epoch, seq FROM portolan_content_log WHERE tenant = $1 AND epoch < $2 \
                ORDER BY epoch DESC, seq DESC LIMIT 1";
            let rows = self.query(sql, &[before.into()]).await?;
            let Some(row) = rows.first() else { break };
            before = row.number(0)?;
            spans.push(Span { epoch: before, last: row.number(1)? });
        }
        Ok(spans)
    }

    /// Takes a change of another region's log, which follows the last that is here.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it follows another history than is here; or when the database does not take it.
    pub async fn take_change(&mut self, change: &Change) -> Result<(), Error> {
        if !change.digest.is_empty() && change.digest != self.digest(change).await? {
            let why = format!(
                "change {} of content does not follow those before it: one of both logs was changed",
                change.seq
            );
            return Err(Error::Damaged(why));
        }
        self.log(change).await?;
        let sql = "UPDATE portolan_content_account SET seq = $2 WHERE tenant = $1";
        self.run(sql, &[change.seq.into()]).await.map(drop)
    }

    /// Takes a version of another region's, and what the item's heads are with it.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn take_version(
        &mut self,
        item: &Item,
        version: &NewVersion,
        seq: u64,
        heads: &[(String, bool)],
    ) -> Result<(), Error> {
        self.keep_version(item, version, seq, heads).await
    }

    /// What came after a change is stranded, and is taken out of the history. What it changed is to be told again, so that the log may end
    /// before that change. Gives the items that lost versions: their heads are to be put anew.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn turn_back(&mut self, to: u64) -> Result<Vec<String>, Error> {
        self.strand(to).await?;
        let sql = "SELECT DISTINCT item FROM portolan_content_version WHERE tenant = $1 AND seq > $2";
        let rows = self.query(sql, &[to.into()]).await?;
        let items = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
        let again = "SELECT min(last) FROM (SELECT max(l.seq) AS last FROM portolan_content_log l \
            WHERE l.tenant = $1 AND l.seq <= $2 AND EXISTS (SELECT 1 FROM portolan_content_log t \
            WHERE t.tenant = l.tenant AND t.seq > $2 AND t.kind = l.kind AND t.site = l.site AND t.subject = l.subject) \
            GROUP BY l.kind, l.site, l.subject) told";
        let again =
            self.query(again, &[to.into()]).await?.first().map_or(Ok(None), |row| row.number_or_null(0))?;
        let at = again.map_or(to, |last| last.saturating_sub(1));
        for item in &items {
            let sql = "DELETE FROM portolan_content_sync_mapping WHERE tenant = $1 AND target_item = $2";
            self.run(sql, &[item.as_str().into()]).await?;
            self.run(
                "DELETE FROM portolan_content_head WHERE tenant = $1 AND item = $2",
                &[item.as_str().into()],
            )
            .await?;
        }
        self.run("DELETE FROM portolan_content_version WHERE tenant = $1 AND seq > $2", &[to.into()]).await?;
        // An item of which nothing is left stands in nobody's way. No tenant's name has a control character.
        let aside = "UPDATE portolan_content_item SET name = $2 || item WHERE tenant = $1 AND NOT EXISTS \
            (SELECT 1 FROM portolan_content_version v WHERE v.tenant = portolan_content_item.tenant \
            AND v.item = portolan_content_item.item)";
        self.run(aside, &["\u{1}".into()]).await?;
        self.forget_shares(to).await?;
        self.run("DELETE FROM portolan_content_log WHERE tenant = $1 AND seq > $2", &[at.into()]).await?;
        self.run("UPDATE portolan_content_account SET seq = $2 WHERE tenant = $1", &[at.into()]).await?;
        Ok(items)
    }

    /// The tenant begins anew with these secrets, because the region that writes has others than are here: nothing here has a name that it knows.
    /// For tenants without a change of their own here: what there is goes, and its bytes with the next collection.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn begin_content_anew(&mut self, secret: &[u8]) -> Result<(), Error> {
        self.strand(0).await?;
        for table in [
            "log",
            "sync_mapping",
            "share",
            "upload_part",
            "upload",
            "use",
            "chunk",
            "part",
            "head",
            "version",
            "item",
        ] {
            self.run(&format!("DELETE FROM portolan_content_{table} WHERE tenant = $1"), &[]).await?;
        }
        self.run("UPDATE portolan_content_pack SET state = 'doomed' WHERE tenant = $1", &[]).await?;
        let sql = "UPDATE portolan_content_account SET secret = $2, seq = 0, clock_ms = 0, clock_count = 0 WHERE tenant = $1";
        self.run(sql, &[crate::database::Value::Blob(secret.to_vec())]).await.map(drop)
    }

    /// Commits what was taken into a copy.
    ///
    /// # Errors
    /// When the database does not take it, or its answer was lost: what was taken twice is there once.
    pub async fn taken(self) -> Result<(), Error> {
        self.session.commit().await
    }

    /// Notes what came after a change as stranded.
    async fn strand(&mut self, after: u64) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_stranded (tenant, epoch, seq, kind, site, subject, detail, root, bytes, at_ms) \
            SELECT l.tenant, l.epoch, l.seq, l.kind, l.site, l.subject, l.detail, COALESCE(v.root, ''), COALESCE(v.bytes, 0), l.at_ms \
            FROM portolan_content_log l LEFT JOIN portolan_content_version v ON v.tenant = l.tenant AND v.seq = l.seq \
            WHERE l.tenant = $1 AND l.seq > $2 ON CONFLICT (tenant, epoch, seq) DO NOTHING";
        self.run(sql, &[after.into()]).await.map(drop)
    }

    /// Shares that were offered after a change are gone.
    async fn forget_shares(&mut self, after: u64) -> Result<(), Error> {
        let late = "tenant = $1 AND share IN (SELECT subject FROM portolan_content_log l WHERE l.tenant = $1 AND l.kind = 'share' \
            GROUP BY subject HAVING min(l.seq) > $2)";
        for table in ["sync_mapping", "share"] {
            self.run(&format!("DELETE FROM portolan_content_{table} WHERE {late}"), &[after.into()]).await?;
        }
        Ok(())
    }
}
