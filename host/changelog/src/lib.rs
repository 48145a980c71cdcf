//! The change log of a shard.

pub mod model;
