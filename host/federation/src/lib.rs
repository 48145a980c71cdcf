//! Content between regions: what an item's versions are, how a change travels, and how it is kept.
//!
//! A reader's path: [`id`] names things, [`cut`] divides content into chunks, [`manifest`] lists them under one root,
//! [`patch`] says what leads from one manifest to another, [`version`] who had seen what, and [`merge`] what becomes of versions that did
//! not know each other. [`seal`] and [`keys`] say who reads, [`pack`] and [`store`] where sealed chunks are, [`catalog`] when they go,
//! and [`wire`] what regions say to each other about it.
//!
//! The core takes bytes and gives bytes: who reads files, buckets and streams is its caller. It must not read a clock, draw random
//! numbers, know SQL, HTTP or components, or compare anything of two tenants.

pub mod catalog;
pub mod cut;
pub mod defaults;
mod error;
pub mod id;
pub mod keys;
pub mod manifest;
pub mod merge;
pub mod pack;
pub mod patch;
pub mod seal;
pub mod store;
pub mod version;
pub mod wire;

pub use error::Error;

#[cfg(test)]
mod tests;
