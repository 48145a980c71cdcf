//! The change log of a shard.
