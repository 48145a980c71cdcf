//! The second wall around tenants that may not be everywhere: a source sends no row of theirs to a region that may not have it, and a
//! follower there takes none.
//!
//! The first is that a shard's copies lie within its residency class, and its tenants are of that class. This one holds when a rule, a configuration
//! or a gateway is wrong.

use std::fmt;

use portolan_changelog::Record;
use portolan_core::ids::{RegionName, TenantName};

/// Who may be where.
pub trait Wall: fmt::Debug + Send + Sync {
    /// May rows of a tenant be in a region?
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool;
}

/// Nobody is confined.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWall;

impl Wall for NoWall {
    fn admits(&self, _: &TenantName, _: &RegionName) -> bool {
        true
    }
}

/// Why records may not be in a region; none when they may.
#[must_use]
pub fn refusal<W: Wall + ?Sized>(wall: &W, region: &RegionName, records: &[Record]) -> Option<String> {
    let mut tenants = records.iter().filter_map(|record| record.tenant.as_ref());
    let tenant = tenants.find(|tenant| !wall.admits(tenant, region))?;
    Some(format!(
        "rows of tenant `{tenant}` are in this shard, which may not be in `{region}`: move the tenant to a shard of its residency class, \
         or take the copy away (`portolan replica remove`)"
    ))
}
