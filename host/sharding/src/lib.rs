//! Tenants' data: which shards this region keeps, under which leases they are written, how requests reach their rows, and
//! how the tenants' schema changes, how a tenant moves from one shard to another, and how shards are kept on a disk and put back.
//!
//! [`keeper`] holds a shard's lease. [`Shards`] is what others see of it. [`Service`] is what requests go through, and [`data`]
//! what becomes of them. This crate must not know where the configuration comes from, how requests arrive, or how shards are
//! shipped to other regions.

pub mod adopt;
pub mod backup;
mod breaker;
mod config;
mod copies;
pub mod data;
pub mod defaults;
mod durable;
pub mod export;
mod exposure;
mod keeper;
mod newest;
mod refuse;
pub mod relocate;
mod room;
mod route;
pub mod schema;
mod service;
mod shards;
mod shipping;
mod space;
pub mod vacancy;

pub use portolan_changelog::{
    Access as StoreAccess, Capture, Engine, External, Passwords, PostgresConfig, Store, Tls,
};

pub use config::{Intent, Kept, Limits, Watermarks};
pub use copies::{Copies, Freshness};
pub use data::PREFIX as DATA_PATH;
pub use keeper::{Alone, Asking, Intended, Leave, Others, Sealing};
pub use room::Memory;
pub use service::{Access, Authenticate, Service, Unauthentic};
pub use shards::{Role, ShardReport, Shards};
pub use space::{Disks, Space};

#[cfg(test)]
mod tests;
