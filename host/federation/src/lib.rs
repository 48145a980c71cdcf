//! Content between regions: what an item's versions are, how a change travels, and how it is kept.
//!
//! A reader's path: [`id`] names things, [`cut`] divides content into chunks, [`manifest`] lists them under one root,
//! [`patch`] says what leads from one manifest to another, [`version`] who had seen what, and [`merge`] what becomes of versions that did
//! not know each other. [`seal`] and [`keys`] say who reads, [`pack`] and [`store`] where sealed chunks are,
//! [`wire`] what regions say to each other about it, and [`history`] where two regions' logs part. [`Service`] is what tenants ask, below `/-/content`.
//!
//! The core takes bytes and gives bytes: who reads files, buckets and streams is its caller. It must not read a clock, draw random
//! numbers, know HTTP or components, or compare anything of two tenants. The service around it (`service`) keeps what it knows in the tables of
//! the tenant's shard (`portolan_changelog::content`), so that nothing here knows SQL.

pub mod cut;
pub mod defaults;
mod error;
#[cfg(any(test, feature = "exercise"))]
pub mod exercise;
pub mod history;
pub mod id;
pub mod keys;
pub mod manifest;
pub mod merge;
pub mod pack;
pub mod patch;
pub mod seal;
mod service;
pub mod store;
pub mod version;
pub mod wire;

pub use error::Error;
pub use service::{
    Access, Asking, Authenticate, CONTENT_PATH, CopyReport, Damage, Followed, Homes, Placed, Places, Regions,
    Service, Unauthentic,
};

#[cfg(test)]
mod tests;
