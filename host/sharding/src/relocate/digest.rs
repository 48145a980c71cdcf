//! A digest of all of a tenant's rows, in the order of tables and keys, each in its engine's one text.

use portolan_changelog::{Change, Error, Store};
use portolan_core::ids::TenantName;
use sha2::{Digest as _, Sha256};

use crate::defaults::MOVE_CHUNK_ROWS;

/// What a tenant has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) sha256: [u8; 32],
}

/// Reads all of a tenant's rows.
pub(super) async fn digest(store: &Store, tenant: &TenantName) -> Result<Digest, Error> {
    let (mut bytes, mut rows, mut sha256) = (0, 0, Sha256::new());
    let mut after = None;
    loop {
        let page = store.tenant_rows(tenant, after.as_ref(), MOVE_CHUNK_ROWS).await?;
        if page.is_empty() {
            return Ok(Digest { bytes, rows, sha256: sha256.finalize().into() });
        }
        for record in page {
            let Change::Row(change) = record.change else { continue };
            let row = change.row.unwrap_or_default();
            // Lengths keep what one text ends with apart from what the next begins with.
            for text in [&change.id.table, &change.id.key, &row] {
                sha256.update((text.len() as u64).to_le_bytes());
                sha256.update(text.as_bytes());
            }
            (bytes, rows) = (bytes + row.len() as u64, rows + 1);
            after = Some(change.id);
        }
    }
}
