//! Contents that are on their way.

use super::Content;
use crate::database::{Row, Value};
use crate::error::Error;

/// A content that is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// How many chunks of it are here.
    pub chunks: u64,
    /// Until when it is kept, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Its media type.
    pub media: String,
    /// The name of the item that it is to be a version of.
    pub name: String,
    /// How many bytes have come.
    pub received: u64,
    /// The site of the item.
    pub site: String,
    /// The bytes since the last cut, sealed.
    pub tail: Vec<u8>,
    /// How many bytes it is to have.
    pub total: u64,
    /// Its name.
    pub upload: String,
    /// What the item is to be, in its maker's form.
    pub wanted: String,
}

impl Content {
    /// Keeps an upload that begins.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn put_upload(&mut self, upload: &Upload) -> Result<(), Error> {
        let sql = "INSERT INTO portolan_content_upload \
            (tenant, upload, site, name, media, wanted, total, received, chunks, tail, expires_ms) \
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let args = [
            upload.upload.as_str().into(),
            upload.site.as_str().into(),
            upload.name.as_str().into(),
            upload.media.as_str().into(),
            upload.wanted.as_str().into(),
            upload.total.into(),
            upload.received.into(),
            upload.chunks.into(),
            Value::Blob(upload.tail.clone()),
            upload.expires_ms.into(),
        ];
        self.run(sql, &args).await.map(drop)
    }

    /// An upload by its name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn upload(&mut self, upload: &str) -> Result<Option<Upload>, Error> {
        let sql = "SELECT upload, site, name, media, wanted, total, received, chunks, tail, expires_ms \
            FROM portolan_content_upload WHERE tenant = $1 AND upload = $2";
        self.query(sql, &[upload.into()]).await?.first().map(read).transpose()
    }

    /// How many uploads are on their way.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn uploads(&mut self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM portolan_content_upload WHERE tenant = $1";
        self.query(sql, &[]).await?.first().map_or(Ok(0), |row| row.number(0))
    }

    /// More of an upload has come: from the bytes that were there on, chunks, whose list is given, and a tail. Returns whether it was
    /// still where the caller had it.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn grow_upload(&mut self, was: &Upload, now: &Upload, entries: &[u8]) -> Result<bool, Error> {
        let sql = "UPDATE portolan_content_upload SET received = $4, chunks = $5, tail = $6, expires_ms = $7 \
            WHERE tenant = $1 AND upload = $2 AND received = $3";
        let args = [
            was.upload.as_str().into(),
            was.received.into(),
            now.received.into(),
            now.chunks.into(),
            Value::Blob(now.tail.clone()),
            now.expires_ms.into(),
        ];
        if self.run(sql, &args).await? != 1 {
            return Ok(false);
        }
        if now.chunks > was.chunks {
            let sql = "INSERT INTO portolan_content_upload_part (tenant, upload, first, entries) VALUES ($1, $2, $3, $4)";
            let args = [was.upload.as_str().into(), was.chunks.into(), Value::Blob(entries.to_vec())];
            self.run(sql, &args).await?;
        }
        Ok(true)
    }

    /// The lists of an upload's chunks, in order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn upload_entries(&mut self, upload: &str) -> Result<Vec<Vec<u8>>, Error> {
        let sql = "SELECT entries FROM portolan_content_upload_part WHERE tenant = $1 AND upload = $2 ORDER BY first";
        self.query(sql, &[upload.into()]).await?.iter().map(|row| row.blob(0)).collect()
    }

    /// An upload is over. Returns whether it was there.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn end_upload(&mut self, upload: &str) -> Result<bool, Error> {
        let sql = "DELETE FROM portolan_content_upload WHERE tenant = $1 AND upload = $2";
        Ok(self.run(sql, &[upload.into()]).await? == 1)
    }

    /// Uploads that nobody went on with go.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn expire_uploads(&mut self, now_ms: u64) -> Result<u64, Error> {
        let sql = "DELETE FROM portolan_content_upload WHERE tenant = $1 AND expires_ms <= $2";
        self.run(sql, &[now_ms.into()]).await
    }
}

fn read(row: &Row) -> Result<Upload, Error> {
    Ok(Upload {
        upload: row.text(0)?,
        site: row.text(1)?,
        name: row.text(2)?,
        media: row.text(3)?,
        wanted: row.text(4)?,
        total: row.number(5)?,
        received: row.number(6)?,
        chunks: row.number(7)?,
        tail: row.blob(8)?,
        expires_ms: row.number(9)?,
    })
}
