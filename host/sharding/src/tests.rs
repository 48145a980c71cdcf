//! Shards as their requests and their operators see them: through [`Service`](crate::Service) and [`Shards`](crate::Shards),
//! over both engines, with databases that fail and tenants that take all that they can get.

mod durability;
mod failing;
mod freshness;
mod leases;
mod shares;
mod space;
mod world;
