//! Items, their versions and their heads.

use super::Content;
use crate::database::{Row, Value};
use crate::error::Error;

/// An item: a piece of content through all its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name among all.
    pub item: String,
    /// Its data keys, wrapped.
    pub keys: Vec<u8>,
    /// How it may be merged: `binary`, `json` or `text`.
    pub kind: String,
    /// Its media type.
    pub media: String,
    /// Its name within its site.
    pub name: String,
    /// Its site.
    pub site: String,
}

/// A version that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many bytes its content has.
    pub bytes: u64,
    /// Has no other seen it?
    pub head: bool,
    /// As its maker wrote it.
    pub record: Vec<u8>,
    /// Its content; empty for a deletion.
    pub root: String,
    /// The change that brought it.
    pub seq: u64,
    /// Is it the head that is shown?
    pub shown: bool,
    /// Its name.
    pub version: String,
}

/// An item in a list, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// When its shown version was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many bytes that has.
    pub bytes: u64,
    /// How many heads it has.
    pub heads: u64,
    /// Its media type.
    pub media: String,
    /// Its name.
    pub name: String,
    /// The content; empty for a deletion.
    pub root: String,
    /// The version.
    pub version: String,
}

/// A version that is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVersion {
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many bytes its content has.
    pub bytes: u64,
    /// The hybrid clock after it.
    pub clock: (u64, u32),
    /// As its maker wrote it.
    pub record: Vec<u8>,
    /// Its content; empty for a deletion.
    pub root: String,
    /// Its name.
    pub version: String,
}

const STORED: &str = "SELECT v.version, v.seq, v.record, v.root, v.bytes, v.at_ms, h.shown FROM portolan_content_version v \
    LEFT JOIN portolan_content_head h ON h.tenant = v.tenant AND h.item = v.item AND h.version = v.version \
    WHERE v.tenant = $1 AND v.item = $2";

impl Content {
    /// An item by its site and name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn item(&mut self, site: &str, name: &str) -> Result<Option<Item>, Error> {
        let sql = "SELECT item, site, name, media, kind, keys FROM portolan_content_item \
            WHERE tenant = $1 AND site = $2 AND name = $3";
        self.query(sql, &[site.into(), name.into()]).await?.first().map(item).transpose()
    }

    /// An item by its name among all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn item_named(&mut self, name: &str) -> Result<Option<Item>, Error> {
        let sql = "SELECT item, site, name, media, kind, keys FROM portolan_content_item WHERE tenant = $1 AND item = $2";
        self.query(sql, &[name.into()]).await?.first().map(item).transpose()
    }

    /// Items that have this content, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn items_with(&mut self, root: &str, max: u64) -> Result<Vec<Item>, Error> {
        let sql = "SELECT i.item, i.site, i.name, i.media, i.kind, i.keys FROM portolan_content_item i \
            WHERE i.tenant = $1 AND i.item IN (SELECT p.item FROM portolan_content_part p \
            WHERE p.tenant = $1 AND p.root = $2 AND p.part = 0) ORDER BY i.item LIMIT $3";
        self.query(sql, &[root.into(), max.into()]).await?.iter().map(item).collect()
    }

    /// All contents of an item go: its lists, its uses of chunks, and the keys that opened them, for these. Its versions are known still.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn purge_item(&mut self, item: &str, keys: &[u8]) -> Result<(), Error> {
        for table in ["part", "use"] {
            let sql = format!("DELETE FROM portolan_content_{table} WHERE tenant = $1 AND item = $2");
            self.run(&sql, &[item.into()]).await?;
        }
        let sql = "UPDATE portolan_content_item SET keys = $3 WHERE tenant = $1 AND item = $2";
        self.run(sql, &[item.into(), Value::Blob(keys.to_vec())]).await.map(drop)
    }

    /// Makes an item, or changes the media type and the keys of one.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_item(&mut self, item: &Item) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_item (tenant, item, site, name, media, kind, keys) \
            VALUES ($1, $2, $3, $4, $5, $6, $7) \
            ON CONFLICT (tenant, item) DO UPDATE SET media = excluded.media, kind = excluded.kind, keys = excluded.keys";
        let args = [
            item.item.as_str().into(),
            item.site.as_str().into(),
            item.name.as_str().into(),
            item.media.as_str().into(),
            item.kind.as_str().into(),
            Value::Blob(item.keys.clone()),
        ];
        self.run(sql, &args).await.map(drop)
    }

    /// Items of a site that are not deleted, by name, after a name, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn items(&mut self, site: &str, after: &str, max: u64) -> Result<Vec<Listed>, Error> {
        let sql = "SELECT i.name, i.media, v.version, v.root, v.bytes, v.at_ms, \
            (SELECT count(*) FROM portolan_content_head a WHERE a.tenant = i.tenant AND a.item = i.item) \
            FROM portolan_content_item i \
            JOIN portolan_content_head h ON h.tenant = i.tenant AND h.item = i.item AND h.shown = 1 \
            JOIN portolan_content_version v ON v.tenant = h.tenant AND v.item = h.item AND v.version = h.version \
            WHERE i.tenant = $1 AND i.site = $2 AND i.name > $3 AND v.root <> '' ORDER BY i.name LIMIT $4";
        let rows = self.query(sql, &[site.into(), after.into(), max.into()]).await?;
        let listed = |row: &Row| {
            Ok(Listed {
                name: row.text(0)?,
                media: row.text(1)?,
                version: row.text(2)?,
                root: row.text(3)?,
                bytes: row.number(4)?,
                at_ms: row.number(5)?,
                heads: row.number(6)?,
            })
        };
        rows.iter().map(listed).collect()
    }

    /// Versions of an item, newest first, those before a change's number, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn versions(&mut self, item: &str, before: u64, max: u64) -> Result<Vec<Stored>, Error> {
        let sql = format!("{STORED} AND v.seq < $3 ORDER BY v.seq DESC LIMIT $4");
        let rows = self.query(&sql, &[item.into(), before.into(), max.into()]).await?;
        rows.iter().map(stored).collect()
    }

    /// The versions of an item that no other has seen.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heads(&mut self, item: &str) -> Result<Vec<Stored>, Error> {
        let sql = format!("{STORED} AND h.version IS NOT NULL ORDER BY v.version");
        self.query(&sql, &[item.into()]).await?.iter().map(stored).collect()
    }

    /// A version of an item.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn version(&mut self, item: &str, version: &str) -> Result<Option<Stored>, Error> {
        let sql = format!("{STORED} AND v.version = $3");
        self.query(&sql, &[item.into(), version.into()]).await?.first().map(stored).transpose()
    }

    /// Keeps a version, and what the item's heads are with it: those versions, of which one is shown. Gives the change's number.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_version(
        &mut self,
        item: &Item,
        version: &NewVersion,
        heads: &[(String, bool)],
    ) -> Result<u64, Error> {
        let seq = self.note("version", (&item.site, &item.name), &version.version, version.at_ms).await?;
        self.keep_version(item, version, seq, heads).await?;
        Ok(seq)
    }

    /// Keeps a version that a change brought, and what the item's heads are with it. One that is there stays.
    pub(super) async fn keep_version(
        &mut self,
        item: &Item,
        version: &NewVersion,
        seq: u64,
        heads: &[(String, bool)],
    ) -> Result<(), Error> {
        let clock = "UPDATE portolan_content_account SET clock_ms = $2, clock_count = $3 WHERE tenant = $1";
        self.run(clock, &[version.clock.0.into(), u64::from(version.clock.1).into()]).await?;
        let sql = "INSERT INTO portolan_content_version (tenant, item, version, seq, record, root, bytes, at_ms) \
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, item, version) DO UPDATE SET seq = excluded.seq";
        let args = [
            item.item.as_str().into(),
            version.version.as_str().into(),
            seq.into(),
            Value::Blob(version.record.clone()),
            version.root.as_str().into(),
            version.bytes.into(),
            version.at_ms.into(),
        ];
        self.run(sql, &args).await?;
        self.put_heads(&item.item, heads).await
    }

    /// What an item's heads are: those versions, of which one is shown.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_heads(&mut self, item: &str, heads: &[(String, bool)]) -> Result<(), Error> {
        let gone = "DELETE FROM portolan_content_head WHERE tenant = $1 AND item = $2";
        self.run(gone, &[item.into()]).await?;
        for (head, shown) in heads {
            let sql =
                "INSERT INTO portolan_content_head (tenant, item, version, shown) VALUES ($1, $2, $3, $4)";
            self.run(sql, &[item.into(), head.as_str().into(), super::bit(*shown)]).await?;
        }
        Ok(())
    }
}

fn item(row: &Row) -> Result<Item, Error> {
    Ok(Item {
        item: row.text(0)?,
        site: row.text(1)?,
        name: row.text(2)?,
        media: row.text(3)?,
        kind: row.text(4)?,
        keys: row.blob(5)?,
    })
}

fn stored(row: &Row) -> Result<Stored, Error> {
    let shown = row.number_or_null(6)?;
    Ok(Stored {
        version: row.text(0)?,
        seq: row.number(1)?,
        record: row.blob(2)?,
        root: row.text(3)?,
        bytes: row.number(4)?,
        at_ms: row.number(5)?,
        head: shown.is_some(),
        shown: shown == Some(1),
    })
}
