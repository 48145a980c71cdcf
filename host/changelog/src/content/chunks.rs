//! Where bytes are: lists of contents, packs and chunks, what uses them, and what may go.
//!
//! A pack goes in three steps. Nothing uses a chunk of it and nobody was promised any: it is in *quarantine*, where reads and commits still find
//! it, and a use takes it out. After a while it is *doomed*: its chunks are found by nobody any more, in the transaction that says so. Then its
//! object is deleted, and then its row. A crash between two of them leaves what the next round goes on with.

use super::{Content, bit};
use crate::database::{Row, Value};
use crate::error::Error;

/// A part of a content's sealed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it has of the content, in bytes.
    pub bytes: u64,
    /// Its number, from 0.
    pub part: u64,
    /// The list, or of a small content its bytes; empty where only the lengths were asked for.
    pub sealed: Vec<u8>,
    /// Is it the content itself?
    pub small: bool,
    /// Which of the item's data keys seals it.
    pub term: u64,
}

/// A chunk and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where its sealed bytes begin in the pack.
    pub at: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Its name.
    pub chunk: String,
    /// `raw` or `zstd`.
    pub coding: String,
    /// Its key, sealed.
    pub key: Vec<u8>,
    /// The pack.
    pub pack: String,
    /// How many bytes it has sealed.
    pub sealed_bytes: u64,
}

/// Of a chunk `c`: it is promised at the time of the second value, or used.
const WANTED: &str = "(c.leased_until_ms > $2 OR EXISTS (SELECT 1 FROM portolan_content_use u \
    WHERE u.tenant = c.tenant AND u.chunk = c.chunk))";

impl Content {
    /// Keeps the list of a content; one that is there stays as it is.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_parts(&mut self, item: &str, root: &str, parts: &[Part]) -> Result<(), Error> {
        for part in parts {
            let sql = "INSERT INTO portolan_content_part (tenant, item, root, part, term, bytes, small, sealed) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, item, root, part) DO NOTHING";
            let args = [
                item.into(),
                root.into(),
                part.part.into(),
                part.term.into(),
                part.bytes.into(),
                bit(part.small),
                Value::Blob(part.sealed.clone()),
            ];
            self.run(sql, &args).await?;
        }
        Ok(())
    }

    /// The parts of a content's list without what they hold.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parts(&mut self, item: &str, root: &str) -> Result<Vec<Part>, Error> {
        let sql = "SELECT part, term, bytes, small FROM portolan_content_part \
            WHERE tenant = $1 AND item = $2 AND root = $3 ORDER BY part";
        self.query(sql, &[item.into(), root.into()]).await?.iter().map(part).collect()
    }

    /// A part of a content's list.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn part(&mut self, item: &str, root: &str, number: u64) -> Result<Option<Part>, Error> {
        let sql = "SELECT part, term, bytes, small, sealed FROM portolan_content_part \
            WHERE tenant = $1 AND item = $2 AND root = $3 AND part = $4";
        let rows = self.query(sql, &[item.into(), root.into(), number.into()]).await?;
        let whole = |row: &Row| Ok(Part { sealed: row.blob(4)?, ..part(row)? });
        rows.first().map(whole).transpose()
    }

    /// Where a chunk is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn chunk(&mut self, chunk: &str) -> Result<Option<Chunk>, Error> {
        let sql = "SELECT chunk, pack, at, sealed_bytes, bytes, coding, key FROM portolan_content_chunk \
            WHERE tenant = $1 AND chunk = $2";
        self.query(sql, &[chunk.into()]).await?.first().map(place).transpose()
    }

    /// Promises a chunk until a time, in milliseconds since 1970, if it is here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lease_chunk(&mut self, chunk: &str, until_ms: u64) -> Result<bool, Error> {
        let sql = "UPDATE portolan_content_chunk SET leased_until_ms = \
            CASE WHEN leased_until_ms < $3 THEN $3 ELSE leased_until_ms END WHERE tenant = $1 AND chunk = $2";
        Ok(self.run(sql, &[chunk.into(), until_ms.into()]).await? == 1)
    }

    /// Notes a pack that is about to be written. What is not filled is collected, as what nothing uses.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn note_pack(&mut self, pack: &str, bytes: u64, now_ms: u64) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_pack (tenant, pack, bytes, state, since_ms) VALUES ($1, $2, $3, 'live', $4)";
        self.run(sql, &[pack.into(), bytes.into(), now_ms.into()]).await.map(drop)
    }

    /// Enters what is in a pack that has been written, promised until a time. A chunk that came with another pack meanwhile stays where it is.
    /// Returns false when the pack is doomed by now.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn fill_pack(&mut self, pack: &str, chunks: &[Chunk], until_ms: u64) -> Result<bool, Error> {
        if !self.wake_pack(pack).await? {
            return Ok(false);
        }
        for chunk in chunks {
            let sql = "INSERT INTO portolan_content_chunk \
                (tenant, chunk, pack, at, sealed_bytes, bytes, coding, key, leased_until_ms) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, chunk) DO UPDATE \
                SET leased_until_ms = excluded.leased_until_ms";
            let args = [
                chunk.chunk.as_str().into(),
                pack.into(),
                chunk.at.into(),
                chunk.sealed_bytes.into(),
                chunk.bytes.into(),
                chunk.coding.as_str().into(),
                Value::Blob(chunk.key.clone()),
                until_ms.into(),
            ];
            self.run(sql, &args).await?;
        }
        Ok(true)
    }

    /// Chunks that were copied out of a pack are found in another from now on. Returns false when that is doomed by now.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn move_chunks(
        &mut self,
        from: &str,
        to: &str,
        chunks: &[(String, u64)],
    ) -> Result<bool, Error> {
        if !self.wake_pack(to).await? {
            return Ok(false);
        }
        for (chunk, at) in chunks {
            let sql = "UPDATE portolan_content_chunk SET pack = $4, at = $5 WHERE tenant = $1 AND chunk = $2 AND pack = $3";
            self.run(sql, &[chunk.as_str().into(), from.into(), to.into(), Value::from(*at)]).await?;
        }
        Ok(true)
    }

    /// Is a pack not doomed? Then it is not in quarantine any more either.
    async fn wake_pack(&mut self, pack: &str) -> Result<bool, Error> {
        let sql = "UPDATE portolan_content_pack SET state = 'live' WHERE tenant = $1 AND pack = $2 AND state <> 'doomed'";
        Ok(self.run(sql, &[pack.into()]).await? == 1)
    }

    /// A chunk is found in another pack from now on, as it is sealed there. Returns false when that pack is doomed by now.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn replace_chunk(&mut self, chunk: &Chunk) -> Result<bool, Error> {
        if !self.wake_pack(&chunk.pack).await? {
            return Ok(false);
        }
        let sql = "UPDATE portolan_content_chunk SET pack = $3, at = $4, sealed_bytes = $5, coding = $6, key = $7 \
            WHERE tenant = $1 AND chunk = $2";
        let args = [
            chunk.chunk.as_str().into(),
            chunk.pack.as_str().into(),
            chunk.at.into(),
            chunk.sealed_bytes.into(),
            chunk.coding.as_str().into(),
            Value::Blob(chunk.key.clone()),
        ];
        self.run(sql, &args).await.map(|_| true)
    }

    /// Items that use a chunk, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn users_of(&mut self, chunk: &str, max: u64) -> Result<Vec<String>, Error> {
        let sql =
            "SELECT item FROM portolan_content_use WHERE tenant = $1 AND chunk = $2 ORDER BY item LIMIT $3";
        let rows = self.query(sql, &[chunk.into(), max.into()]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// The parts of all lists of an item: contents and numbers.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parts_of(&mut self, item: &str) -> Result<Vec<(String, u64)>, Error> {
        let sql = "SELECT root, part FROM portolan_content_part WHERE tenant = $1 AND item = $2 AND small = 0 ORDER BY root, part";
        let rows = self.query(sql, &[item.into()]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.number(1)?))).collect()
    }

    /// A part of a list is sealed anew: it names other keys.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn reseal_part(&mut self, item: &str, root: &str, part: &Part) -> Result<(), Error> {
        let sql = "UPDATE portolan_content_part SET sealed = $5, term = $6 \
            WHERE tenant = $1 AND item = $2 AND root = $3 AND part = $4";
        let args =
            [item.into(), root.into(), part.part.into(), Value::Blob(part.sealed.clone()), part.term.into()];
        self.run(sql, &args).await.map(drop)
    }

    /// Live packs by name, after a name, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn packs(&mut self, after: &str, max: u64) -> Result<Vec<String>, Error> {
        let sql = "SELECT pack FROM portolan_content_pack WHERE tenant = $1 AND pack > $2 AND state = 'live' \
            ORDER BY pack LIMIT $3";
        let rows = self.query(sql, &[after.into(), max.into()]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Packs of which something is used, but less than so many percent, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worn(&mut self, percent: u64, now_ms: u64, max: u64) -> Result<Vec<String>, Error> {
        let sql = format!(
            "SELECT pack FROM (SELECT p.pack AS pack, p.bytes AS bytes, (SELECT sum(c.sealed_bytes) FROM portolan_content_chunk c \
             WHERE c.tenant = p.tenant AND c.pack = p.pack AND {WANTED}) AS used FROM portolan_content_pack p \
             WHERE p.tenant = $1 AND p.state = 'live') worn WHERE used * 100 < bytes * $3 ORDER BY pack LIMIT $4"
        );
        let rows = self.query(&sql, &[now_ms.into(), percent.into(), max.into()]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// What is used of a pack.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn used_of(&mut self, pack: &str, now_ms: u64) -> Result<Vec<Chunk>, Error> {
        let sql = format!(
            "SELECT c.chunk, c.pack, c.at, c.sealed_bytes, c.bytes, c.coding, c.key FROM portolan_content_chunk c \
             WHERE c.tenant = $1 AND c.pack = $3 AND {WANTED} ORDER BY c.at"
        );
        self.query(&sql, &[now_ms.into(), pack.into()]).await?.iter().map(place).collect()
    }

    /// An item uses a chunk from now on, if it is here.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn use_chunk(&mut self, item: &str, chunk: &str) -> Result<bool, Error> {
        let sql = "INSERT INTO portolan_content_use (tenant, chunk, item) \
            SELECT tenant, chunk, $3 FROM portolan_content_chunk WHERE tenant = $1 AND chunk = $2 \
            ON CONFLICT (tenant, chunk, item) DO UPDATE SET item = excluded.item";
        Ok(self.run(sql, &[chunk.into(), item.into()]).await? == 1)
    }

    /// Packs without a use go into quarantine, and those that have one again come out of it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn quarantine(&mut self, now_ms: u64) -> Result<(), Error> {
        let wanted = format!(
            "EXISTS (SELECT 1 FROM portolan_content_chunk c WHERE c.tenant = portolan_content_pack.tenant \
             AND c.pack = portolan_content_pack.pack AND {WANTED})"
        );
        let out = format!(
            "UPDATE portolan_content_pack SET state = 'live', since_ms = $2 \
             WHERE tenant = $1 AND state = 'quarantined' AND {wanted}"
        );
        self.run(&out, &[now_ms.into()]).await?;
        let into = format!(
            "UPDATE portolan_content_pack SET state = 'quarantined', since_ms = $2 \
             WHERE tenant = $1 AND state = 'live' AND NOT {wanted}"
        );
        self.run(&into, &[now_ms.into()]).await.map(drop)
    }

    /// Packs that have been in quarantine since a time are doomed: nobody finds their chunks any more. Call [`Self::quarantine`] before it, in the
    /// same transaction.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn doom(&mut self, since_ms: u64) -> Result<(), Error> {
        let old = "tenant = $1 AND state = 'quarantined' AND since_ms <= $2";
        let forget = format!(
            "DELETE FROM portolan_content_chunk WHERE tenant = $1 AND pack IN (SELECT pack FROM portolan_content_pack WHERE {old})"
        );
        self.run(&forget, &[since_ms.into()]).await?;
        let doom = format!("UPDATE portolan_content_pack SET state = 'doomed' WHERE {old}");
        self.run(&doom, &[since_ms.into()]).await.map(drop)
    }

    /// Packs whose objects are to be deleted, at most so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn doomed(&mut self, max: u64) -> Result<Vec<String>, Error> {
        let sql = "SELECT pack FROM portolan_content_pack WHERE tenant = $1 AND state = 'doomed' ORDER BY pack LIMIT $2";
        self.query(sql, &[max.into()]).await?.iter().map(|row| row.text(0)).collect()
    }

    /// A pack's object is gone.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn deleted(&mut self, pack: &str) -> Result<(), Error> {
        let sql = "DELETE FROM portolan_content_pack WHERE tenant = $1 AND pack = $2 AND state = 'doomed'";
        self.run(sql, &[pack.into()]).await.map(drop)
    }
}

fn part(row: &Row) -> Result<Part, Error> {
    Ok(Part {
        part: row.number(0)?,
        term: row.number(1)?,
        bytes: row.number(2)?,
        small: row.number(3)? == 1,
        sealed: Vec::new(),
    })
}

fn place(row: &Row) -> Result<Chunk, Error> {
    Ok(Chunk {
        chunk: row.text(0)?,
        pack: row.text(1)?,
        at: row.number(2)?,
        sealed_bytes: row.number(3)?,
        bytes: row.number(4)?,
        coding: row.text(5)?,
        key: row.blob(6)?,
    })
}
