//! Tenants' data: which shards this region keeps, under which leases they are written, how requests reach their rows, and
//! how the tenants' schema changes.
//!
//! This crate must not know where the configuration comes from, how requests arrive, or how shards are shipped to other regions.

pub mod adopt;
pub mod defaults;
pub mod schema;
