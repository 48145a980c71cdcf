//! Who shares what with whom.

use super::{Content, bit};
use crate::database::{Row, Value};
use crate::error::Error;
use crate::store::{Role, Store};

/// A share: a site lets another have some of its content. Lists are JSON, as their maker wrote them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Share {
    /// A list of regions, or `null` for all.
    pub allowed_regions: String,
    /// What the target may: read, update, share on, take out.
    pub can: [bool; 4],
    /// A list of regions; it wins over `allowed_regions`.
    pub denied_regions: String,
    /// `push`, `pull` or `both`.
    pub direction: String,
    /// Is it moved before anybody asks?
    pub eager: bool,
    /// When it ends, in milliseconds since 1970; 0 for never.
    pub expires_ms: u64,
    /// Members of JSON contents that the target does not see; they win over `fields`.
    pub field_mask: String,
    /// Members of JSON contents that the target sees, or `null` for all.
    pub fields: String,
    /// The largest content that it lets through; 0 for any.
    pub max_bytes: u64,
    /// `mirror`, `fork_follow`, `copy_once` or `co_edit`.
    pub mode: String,
    /// When it begins, in milliseconds since 1970.
    pub not_before_ms: u64,
    /// Rises with each change of it.
    pub policy_epoch: u64,
    /// `item`, `collection`, `content_type` or `all`.
    pub scope_kind: String,
    /// Which.
    pub scope_ref: String,
    /// Its name.
    pub share: String,
    /// The site whose content it is.
    pub source_site: String,
    /// Whose content it is; '' when it is the tenant's own.
    pub source_tenant: String,
    /// `offered`, `accepted`, `suspended` or `revoked`.
    pub status: String,
    /// The site that gets it; '' where another tenant gets it, which says that itself.
    pub target_site: String,
    /// Who gets it; '' when it is the tenant itself.
    pub target_tenant: String,
}

/// Which item of a share's target follows which of its source.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mapping {
    /// The target's version that came of the last one of the source.
    pub base_version: String,
    /// The source's version that was taken last.
    pub last_synced_version: String,
    /// The share.
    pub share: String,
    /// The source's item.
    pub source_item: String,
    /// `synced`, or `forked` when the target had edits of its own.
    pub state: String,
    /// The target's item.
    pub target_item: String,
    /// The target.
    pub target_site: String,
}

const MAPPING: &str =
    "share, source_item, target_site, target_item, base_version, last_synced_version, state";

const COLUMNS: &str = "share, source_site, target_site, scope_kind, scope_ref, mode, direction, can_read, can_update, \
    can_reshare, can_export, allowed_regions, denied_regions, eager, max_bytes, field_mask, status, not_before_ms, expires_ms, \
    policy_epoch, source_tenant, target_tenant, fields";

impl Share {
    /// Are its source and its target two tenants?
    #[must_use]
    pub fn is_between_tenants(&self) -> bool {
        !self.source_tenant.is_empty() || !self.target_tenant.is_empty()
    }
}

impl Store {
    /// Shares of all tenants here that are to be looked after without being asked: eager ones, and those of which another tenant's row decides.
    /// By tenant and name, after one of them, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn content_tended(
        &self,
        (tenant, share): (&str, &str),
        max: u64,
    ) -> Result<Vec<(String, String)>, Error> {
        let sql = "SELECT tenant, share FROM portolan_content_share \
            WHERE status = 'accepted' AND (eager = 1 OR source_tenant <> '') AND (tenant, share) > ($1, $2) \
            ORDER BY tenant, share LIMIT $3";
        let args = [tenant.into(), share.into(), max.into()];
        let rows = self.acquire(Role::Applier).await?.query(sql, &args).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }
}

impl Content {
    /// Keeps a share that is offered. Returns false when there is one of the same sites and scope.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_share(&mut self, share: &Share) -> Result<bool, Error> {
        self.keep_share(share, "DO NOTHING").await
    }

    /// Keeps a share as another region has it, whatever it is here.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn take_share(&mut self, share: &Share) -> Result<(), Error> {
        let now =
            "(tenant, share) DO UPDATE SET status = excluded.status, policy_epoch = excluded.policy_epoch";
        self.keep_share(share, now).await.map(drop)
    }

    async fn keep_share(&mut self, share: &Share, conflict: &str) -> Result<bool, Error> {
        let text = |text: &String| Value::from(text.as_str());
        let numbers = (2..=24).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "INSERT INTO portolan_content_share (tenant, {COLUMNS}) VALUES ($1, {numbers}) ON CONFLICT {conflict}"
        );
        let [read, update, reshare, export] = share.can;
        let args = [
            text(&share.share),
            text(&share.source_site),
            text(&share.target_site),
            text(&share.scope_kind),
            text(&share.scope_ref),
            text(&share.mode),
            text(&share.direction),
            bit(read),
            bit(update),
            bit(reshare),
            bit(export),
            text(&share.allowed_regions),
            text(&share.denied_regions),
            bit(share.eager),
            share.max_bytes.into(),
            text(&share.field_mask),
            text(&share.status),
            share.not_before_ms.into(),
            share.expires_ms.into(),
            share.policy_epoch.into(),
            text(&share.source_tenant),
            text(&share.target_tenant),
            text(&share.fields),
        ];
        Ok(self.run(&sql, &args).await? == 1)
    }

    /// A share by its name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn share(&mut self, share: &str) -> Result<Option<Share>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM portolan_content_share WHERE tenant = $1 AND share = $2");
        self.query(&sql, &[share.into()]).await?.first().map(read).transpose()
    }

    /// The tenant's shares, by name, after a name, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn shares(&mut self, after: &str, max: u64) -> Result<Vec<Share>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM portolan_content_share WHERE tenant = $1 AND share > $2 ORDER BY share LIMIT $3"
        );
        self.query(&sql, &[after.into(), max.into()]).await?.iter().map(read).collect()
    }

    /// A share has another status from now on, and its decisions another epoch.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn turn_share(&mut self, share: &str, status: &str) -> Result<(), Error> {
        let sql = "UPDATE portolan_content_share SET status = $3, policy_epoch = policy_epoch + 1 \
            WHERE tenant = $1 AND share = $2";
        self.run(sql, &[share.into(), status.into()]).await.map(drop)
    }
}

impl Content {
    /// Which item follows an item by a share.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mapping(&mut self, share: &str, source_item: &str) -> Result<Option<Mapping>, Error> {
        let sql = format!(
            "SELECT {MAPPING} FROM portolan_content_sync_mapping WHERE tenant = $1 AND share = $2 AND source_item = $3"
        );
        self.query(&sql, &[share.into(), source_item.into()]).await?.first().map(mapping).transpose()
    }

    /// A share's mappings, by the source's items, after one of them, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mappings(&mut self, share: &str, after: &str, max: u64) -> Result<Vec<Mapping>, Error> {
        let sql = format!(
            "SELECT {MAPPING} FROM portolan_content_sync_mapping WHERE tenant = $1 AND share = $2 AND source_item > $3 \
             ORDER BY source_item LIMIT $4"
        );
        let rows = self.query(&sql, &[share.into(), after.into(), max.into()]).await?;
        rows.iter().map(mapping).collect()
    }

    /// Which items an item follows, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn mappings_to(&mut self, target_item: &str, max: u64) -> Result<Vec<Mapping>, Error> {
        let sql = format!(
            "SELECT {MAPPING} FROM portolan_content_sync_mapping WHERE tenant = $1 AND target_item = $2 ORDER BY share LIMIT $3"
        );
        self.query(&sql, &[target_item.into(), max.into()]).await?.iter().map(mapping).collect()
    }

    /// No item follows another by a share any more.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn forget_mappings(&mut self, share: &str) -> Result<(), Error> {
        let sql = "DELETE FROM portolan_content_sync_mapping WHERE tenant = $1 AND share = $2";
        self.run(sql, &[share.into()]).await.map(drop)
    }

    /// Keeps which item follows which, and how far.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_mapping(&mut self, mapping: &Mapping) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO portolan_content_sync_mapping (tenant, {MAPPING}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (tenant, share, source_item) DO UPDATE SET target_item = excluded.target_item, \
             base_version = excluded.base_version, last_synced_version = excluded.last_synced_version, \
             state = excluded.state"
        );
        let text = |text: &String| Value::from(text.as_str());
        let args = [
            text(&mapping.share),
            text(&mapping.source_item),
            text(&mapping.target_site),
            text(&mapping.target_item),
            text(&mapping.base_version),
            text(&mapping.last_synced_version),
            text(&mapping.state),
        ];
        self.run(&sql, &args).await.map(drop)
    }
}

fn mapping(row: &Row) -> Result<Mapping, Error> {
    Ok(Mapping {
        share: row.text(0)?,
        source_item: row.text(1)?,
        target_site: row.text(2)?,
        target_item: row.text(3)?,
        base_version: row.text(4)?,
        last_synced_version: row.text(5)?,
        state: row.text(6)?,
    })
}

fn read(row: &Row) -> Result<Share, Error> {
    let truth = |at: usize| row.number(at).map(|number| number == 1);
    Ok(Share {
        share: row.text(0)?,
        source_site: row.text(1)?,
        target_site: row.text(2)?,
        scope_kind: row.text(3)?,
        scope_ref: row.text(4)?,
        mode: row.text(5)?,
        direction: row.text(6)?,
        can: [truth(7)?, truth(8)?, truth(9)?, truth(10)?],
        allowed_regions: row.text(11)?,
        denied_regions: row.text(12)?,
        eager: truth(13)?,
        max_bytes: row.number(14)?,
        field_mask: row.text(15)?,
        status: row.text(16)?,
        not_before_ms: row.number(17)?,
        expires_ms: row.number(18)?,
        policy_epoch: row.number(19)?,
        source_tenant: row.text(20)?,
        target_tenant: row.text(21)?,
        fields: row.text(22)?,
    })
}
